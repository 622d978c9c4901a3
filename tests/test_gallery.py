"""The gallery's posteriors against what is known of them: brute force, Stan, BUGS, and published estimates."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special, stats

import bayesmeta as bm
from bayesmeta import shelf
from bayesmeta.evidence import Quadrature, choose
from bayesmeta.evidence.conditional import log_evidence
from bayesmeta.infer.auto import Auto
from bayesmeta.presets import with_options
from tests.importance import Weighted, importance
from tests.references import reference_draws
from tests.standard import chains_of, compare, joint_z, limit, over_confident, shifted
from tests.truth import Array

LEAST_ESS = 400
LONG = bm.NUTS(draws=2500, tune=1000, target_accept=0.9)


def model(name: str) -> shelf.ModelFile:
    return shelf.load_model(shelf.path_of("model", name))


def fitted(name: str, inference: Any) -> bm.Posterior:
    found = model(name)
    return bm.fit(found.hierarchy, found.tasks(), inference, progress=False)


# --- brute force --------------------------------------------------------------------------------------------


def kidney_evidence(u: Array, task: bm.Task) -> Array:
    """log Z: a Gamma frailty is conjugate to exponential waiting times, censored or not."""
    log_risk, female, age, log_variance = u.T
    a = np.exp(-log_variance)
    seen, years = task.x.numpy().T
    log_rate = log_risk + female * float(task.context["female"]) + age * (years[:, None] - 45) / 10
    exposure = (np.exp(log_rate) * task.y.numpy()[:, None]).sum(0)
    infections = seen.sum()
    value = special.gammaln(a + infections) - special.gammaln(a) + a * np.log(a)
    return np.asarray(value - (a + infections) * np.log(a + exposure) + (seen[:, None] * log_rate).sum(0))


def kidney_prior(u: Array) -> Array:
    log_risk, female, age, log_variance = u.T
    value = stats.norm(-4, 2).logpdf(log_risk) + stats.norm(0, 2).logpdf(female) + stats.norm(0, 1).logpdf(age)
    return np.asarray(value + stats.halfnorm.logpdf(np.exp(log_variance)) + log_variance)


def seeds_evidence(u: Array, task: bm.Task) -> Array:
    """log Z: the trapezoidal rule over theta, in units of its prior."""
    *alpha, log_sigma = u.T
    strain, cucumber = float(task.context["strain"]), float(task.context["cucumber"])
    mean = alpha[0] + alpha[1] * strain + alpha[2] * cucumber + alpha[3] * strain * cucumber
    z = np.linspace(-7, 7, 141)
    theta = mean[:, None] + np.exp(log_sigma)[:, None] * z
    n, y = float(task.x[0]), float(task.y[0])
    log_likelihood = y * theta - n * np.logaddexp(0, theta) - np.log(n + 1) - special.betaln(y + 1, n - y + 1)
    return np.asarray(special.logsumexp(log_likelihood + stats.norm.logpdf(z) + np.log(0.1), axis=1))


def seeds_prior(u: Array) -> Array:
    value = stats.norm.logpdf(u[:, :4]).sum(1) + stats.halfcauchy.logpdf(np.exp(u[:, 4])) + u[:, 4]
    return np.asarray(value)


EVIDENCE = {"kidney": kidney_evidence, "seeds": seeds_evidence}
PRIOR = {"kidney": kidney_prior, "seeds": seeds_prior}
START = {"kidney": [-4.0, -1.0, 0.0, -1.0], "seeds": [-0.5, 0.0, 1.0, 0.0, -1.0]}
SITES = {
    "kidney": ("log_risk", "female", "age", "variance"),
    "seeds": ("alpha0", "alpha1", "alpha2", "alpha12", "sigma"),
}
DRAWS = {"kidney": 100_000, "seeds": 20_000}


@cache
def exact(name: str) -> Weighted:
    tasks = model(name).tasks()

    def log_density(u: Array) -> Array:
        return PRIOR[name](u) + sum(EVIDENCE[name](u, task) for task in tasks)

    return importance(log_density, START[name], DRAWS[name])


def moments(name: str) -> tuple[dict[str, float], dict[str, float]]:
    """Means and sds of φ; the last is positive, and a logarithm in u."""
    *sites, last = SITES[name]
    pairs = {site: exact(name).moments(lambda u, k=k: u[:, k]) for k, site in enumerate(sites)}  # type: ignore[misc]
    pairs[last] = exact(name).moments(lambda u: np.exp(u[:, -1]))
    return {site: mean for site, (mean, _) in pairs.items()}, {site: sd for site, (_, sd) in pairs.items()}


# What brute force says of itself: draws enough that its own error is below a hundredth of an sd.
@pytest.mark.parametrize("name", ["kidney", "seeds"])
def test_brute_force_has_draws_enough(name: str) -> None:
    assert exact(name).effective > 5_000


@pytest.mark.parametrize("name", ["kidney", "seeds"])
def test_quadrature_is_brute_force(name: str) -> None:
    """By the finest rule; and the coarser one that is chosen errs so evenly that no mean moves by .02 sd."""
    found = model(name)
    tasks = found.tasks()
    evidence = choose(found.hierarchy.program(tasks), tasks, "quadrature")
    assert isinstance(evidence, Quadrature)
    finest, coarsest = (Quadrature(evidence.program, tasks, nodes) for nodes in (25, 1))

    assert np.abs(quadrature_errors(finest, name)).max() < 1e-4
    assert quadrature_errors(evidence, name).sum(1).std() < 0.02
    assert quadrature_errors(coarsest, name).sum(1).std() > 0.02


def quadrature_errors(evidence: Quadrature, name: str) -> Array:
    """Errors of log Z (40, T) in nats at draws from the exact posterior of φ."""
    picked = np.random.default_rng(0).choice(len(exact(name).u), 40, p=exact(name).weights)
    u = exact(name).u[picked]
    truth = np.stack([EVIDENCE[name](u, task) for task in evidence.tasks], 1)
    return np.asarray(log_evidence(evidence, torch.from_numpy(u)).numpy() - truth)


@pytest.mark.parametrize("name", ["kidney", "seeds"])
def test_weighted_draws_are_those_of_brute_force(name: str) -> None:
    """Within four standard errors of a mean, at the effective size that the fit itself claims and that of the truth."""
    posterior = fitted(name, Auto(evidence="quadrature"))
    size = posterior.info.effective_size
    assert posterior.verdict.level == "fine"
    assert size is not None
    assert size > 1_000
    draws, (mean, sd) = chains_of(posterior), moments(name)

    bound = 4 * np.sqrt(1 / size + 1 / exact(name).effective)
    assert off(draws, mean, sd) < bound
    assert off(shifted(draws, 0.2), mean, sd) > bound
    for site, chains in draws.items():
        assert chains.std() == pytest.approx(sd[site], rel=0.1)


def off(draws: dict[str, Array], mean: dict[str, float], sd: dict[str, float]) -> float:
    """The largest error of a mean in exact sds."""
    return max(abs(float(chains.mean()) - mean[site]) / sd[site] for site, chains in draws.items())


@pytest.mark.long
@pytest.mark.parametrize("name", ["kidney", "seeds"])
@pytest.mark.parametrize("evidence", ["quadrature", "joint"])
def test_the_posterior_is_that_of_brute_force(name: str, evidence: str) -> None:
    """Jointly a gamma frailty cannot be decentred: of ten draws of its variance one counts."""
    posterior = fitted(name, with_options(LONG, {"evidence": evidence, "draws": 8000 if evidence == "joint" else 2500}))
    draws, (mean, sd) = chains_of(posterior), moments(name)

    assert compare(draws, mean, sd).failures(2_000, mean=0.06, spread=0.06) == []
    assert compare(shifted(draws, 0.15), mean, sd).failures(2_000, mean=0.06, spread=0.06) != []


@pytest.mark.long
def test_seeds_is_stans_posterior() -> None:
    """φ, and the deviation of every plate, against Stan's draws of posteriordb's `seeds_stanified_model`."""
    theirs = reference_draws("seeds_data-seeds_stanified_model")
    posterior = fitted("seeds", LONG)
    ours = chains_of(posterior) | deviations(posterior)

    assert set(theirs) <= set(ours)
    itself = {site: float(ours[site].mean()) for site in theirs}
    spread = {site: float(ours[site].std(ddof=1)) for site in theirs}
    assert compare({site: ours[site] for site in theirs}, itself, spread).ess > LEAST_ESS
    bound = limit(2 * len(theirs))
    assert joint_z(ours, theirs) < bound
    assert joint_z(shifted(ours, 0.3), theirs) > bound
    assert joint_z(over_confident(ours, 0.8), theirs) > bound


def deviations(posterior: bm.Posterior) -> dict[str, Array]:
    """b of Stan's program: theta less what strain and extract make of it."""
    draws, theta = chains_of(posterior), chains_of(posterior, "theta")
    found = {}
    for k, task in enumerate(posterior.tasks):
        strain, cucumber = float(task.context["strain"]), float(task.context["cucumber"])
        mean = draws["alpha0"] + draws["alpha1"] * strain + draws["alpha2"] * cucumber
        found[f"b[{k + 1}]"] = theta[f"theta[{task.name}]"] - mean - draws["alpha12"] * strain * cucumber
    return found


# --- published estimates ------------------------------------------------------------------------------------


def near(posterior: bm.Posterior, estimates: dict[str, tuple[float, float]], rows: pd.DataFrame | None = None) -> None:
    """Medians within so many posterior sds of the estimates, and twice as far from others: the check can fail."""
    table: Any = (posterior.summary() if rows is None else rows).T.to_dict()
    assert min(table[site]["ess_bulk"] for site in estimates) > LEAST_ESS
    for site, (estimate, tolerance) in estimates.items():
        error = (table[site]["q50"] - estimate) / table[site]["sd"]
        assert abs(error) < tolerance, f"{site}: {error:.2f} sd from {estimate}"
        assert abs(error - 2 * tolerance) > tolerance


@pytest.mark.long
def test_orthodont_is_near_nlmes_estimates() -> None:
    """Restricted maximum likelihood: Pinheiro and Bates (2000), the growth model with sex and age centred at 11.

    The design is balanced, so that the means are those of the children's own least-squares lines, to all digits
    given. The priors say next to nothing: a quarter of a posterior sd for what many measurements determine. The
    sds and the correlation of 27 children have skewed posteriors, and a prior that pulls the correlation
    towards zero: one sd.
    """
    posterior = fitted("orthodont", LONG)

    assert posterior.info.gram
    near(
        posterior,
        {
            "boys[0]": (24.9688, 0.25),
            "boys[1]": (0.7844, 0.25),
            "girls[0]": (22.6477, 0.25),
            "girls[1]": (0.4795, 0.25),
            "tau[0]": (1.8303, 1.0),
            "tau[1]": (0.1803, 1.0),
            "L[1,0]": (0.206, 1.0),
            "sigma": (1.31, 0.5),
        },
    )


@pytest.mark.long
def test_contraception_is_near_maximum_likelihood() -> None:
    """Maximum likelihood, computed by the trapezoidal rule on a 31 x 31 grid over theta in each district.

    Its variances are .389 and .665, their covariance -.405. Sixty districts: half a posterior sd for the
    coefficients; the sds and the correlation are skewed, and a prior pulls the latter towards zero: one.
    """
    posterior = fitted("contraception", LONG)

    near(
        posterior,
        {
            "mu[0]": (-1.7125, 0.5),
            "mu[1]": (0.8159, 0.5),
            "age": (-0.2652, 0.5),
            "child[0]": (1.1259, 0.5),
            "child[1]": (1.3682, 0.5),
            "child[2]": (1.3554, 0.5),
            "tau[0]": (0.6240, 1.0),
            "tau[1]": (0.8155, 1.0),
            "L[1,0]": (-0.7963, 1.0),
        },
    )


@pytest.mark.long
def test_epil_is_bugs_posterior() -> None:
    """Means that the BUGS examples (volume 1, Epil) give for the same model, on their copy of the data.

    They count the baseline as log(base / 4), which moves the effect of the treatment; their priors are flat, and
    1 / sigma on the sds. A quarter of a posterior sd leaves room for that and for their Monte Carlo errors, of
    up to 4 % of an sd.
    """
    found = model("epil")
    tasks = found.tasks()
    y = tasks.y.clone()
    y[4 * tasks.index("8") + 2] = 21
    copy = bm.Tasks(tasks.x, y, tasks.offsets, tasks.names, tasks.context)
    posterior = bm.fit(found.hierarchy, copy, LONG, progress=False)
    base = bm.data.load("epil").drop_duplicates("subject")["base"]
    draws = chains_of(posterior)
    draws["alpha.Trt"] = draws["treated"] - draws["interaction"] * float(np.log(base / 4).mean())
    bugs = {
        "base": (0.875, 0.1393),
        "alpha.Trt": (-0.962, 0.4263),
        "interaction": (0.3551, 0.2175),
        "age": (0.4717, 0.3699),
        "fourth": (-0.1009, 0.0873),
        "tau": (0.4974, 0.07048),
        "sigma": (0.3637, 0.04457),
    }
    ours = {site: draws[site] for site in bugs}
    mean = {site: mean for site, (mean, _) in bugs.items()}
    sd = {site: sd for site, (_, sd) in bugs.items()}

    verdict = compare(ours, mean, sd)
    assert verdict.ess > 1_000
    assert verdict.mean < 0.25
    assert verdict.spread < 0.15
    assert compare(shifted(ours, 0.5), mean, sd).mean > 0.25


@pytest.mark.long
def test_theoph_is_near_nlmes_estimates() -> None:
    """The means of log ka and log cl, and of log v = log cl - log ke, in nlme's fit of the same curve.

    Pinheiro and Bates (2000), section 8.2: .4515, -3.2145 and -3.2145 + 2.4327, with a constant error where
    the model here lets it grow with the concentration: one posterior sd. By weighted draws: the curve with ka and
    cl / v exchanged is nearly the same, and a chain that starts at that mode stays there.
    """
    posterior = fitted("theoph", Auto())

    near(posterior, {"mu[0]": (0.4515, 1.0), "mu[1]": (-3.2145, 1.0), "mu[2]": (-0.7818, 1.0)})
