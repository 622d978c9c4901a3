"""Whole posteriors against what is known of them: exact moments, Stan's draws, lme4's estimates.

The standard of a back-end that claims to be exact: at 10,000 effective draws and more, errors of means and sds
below 4 of their Monte Carlo standard errors, means within .02 sd, sds within 2 %.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import bayesmeta as bm
from bayesmeta import shelf
from bayesmeta.evidence import Exact, Gram
from bayesmeta.fit import log_density
from tests.references import (
    EIGHT_SCHOOLS,
    RADON,
    REFERENCES,
    Moments,
    Problem,
    eight_schools,
    radon_variable_intercept,
    reference_draws,
)
from tests.standard import chains_of, compare, joint_z, limit, over_confident, shifted
from tests.truth import Array

LEAST_ESS = 10_000
# Budgets that give twice that and more: .02 sd is then 3 Monte Carlo standard errors.
SCHOOLS = bm.NUTS(draws=12_500, tune=1000)
SCHOOLS_JOINTLY = bm.NUTS(draws=15_000, tune=1000, evidence="joint", target_accept=0.95)
COUNTIES = bm.NUTS(draws=6_000, tune=1000)
COUNTIES_JOINTLY = bm.NUTS(draws=25_000, tune=1000, evidence="joint")
REFERENCE = bm.NUTS(draws=4_000, tune=1000)
ROUGH = bm.NUTS(draws=4_000, tune=500)  # enough to see that something is wrong
VARIABLE_INTERCEPT = "radon_mn-radon_variable_intercept_noncentered"


def draws_of(problem: Problem, inference: bm.NUTS, seed: int = 0) -> tuple[bm.Posterior, dict[str, Array]]:
    posterior = bm.fit(problem.hierarchy, problem.tasks, inference, seed=seed, progress=False)
    return posterior, chains_of(posterior) | chains_of(posterior, "theta")


@cache
def schools() -> tuple[bm.Posterior, dict[str, Array]]:
    return draws_of(eight_schools(), SCHOOLS)


@cache
def reference(name: str) -> tuple[bm.Posterior, dict[str, Array]]:
    return draws_of(REFERENCES[name](), COUNTIES if name == VARIABLE_INTERCEPT else REFERENCE)


def known(draws: dict[str, Array], exact: Moments) -> dict[str, Array]:
    """The draws of which the exact sd is known."""
    return {name: draws[name] for name in exact.sd}


def failures(draws: dict[str, Array], exact: Moments) -> list[str]:
    return compare(known(draws, exact), exact.mean, exact.sd).failures(LEAST_ESS)


# --- exact moments ------------------------------------------------------------------------------------------


def test_eight_schools_by_the_exact_evidence() -> None:
    posterior, draws = schools()

    assert posterior.info.evidence == "exact"
    assert posterior.info.divergences == 0
    assert failures(draws, EIGHT_SCHOOLS) == []
    log_tau = {"log tau": np.log(draws["tau"])}
    # its own sd stands in for the exact one, which is not known
    spread = {"log tau": float(log_tau["log tau"].std(ddof=1))}
    assert compare(log_tau, EIGHT_SCHOOLS.mean, spread).failures(LEAST_ESS) == []


@pytest.mark.long
def test_eight_schools_jointly() -> None:
    posterior, draws = draws_of(eight_schools(), SCHOOLS_JOINTLY)

    assert posterior.info.evidence == "joint"
    assert failures(draws, EIGHT_SCHOOLS) == []


def test_radon_by_the_exact_evidence() -> None:
    posterior, draws = reference(VARIABLE_INTERCEPT)

    assert posterior.info.gram
    assert posterior.info.divergences == 0
    assert failures(draws, RADON) == []


@pytest.mark.long
def test_radon_jointly() -> None:
    posterior, draws = draws_of(radon_variable_intercept(), COUNTIES_JOINTLY)

    assert posterior.info.evidence == "joint"
    assert failures(draws, RADON) == []


# --- the standard can fail ----------------------------------------------------------------------------------


def test_a_dropped_likelihood_term_is_seen() -> None:
    problem = eight_schools()
    _, draws = draws_of(Problem(problem.hierarchy, problem.tasks.without("8")), ROUGH)
    seven = Moments(EIGHT_SCHOOLS.mean, {n: sd for n, sd in EIGHT_SCHOOLS.sd.items() if n != "theta[8]"})

    assert any("mean off" in failure for failure in failures(draws, seven))


def test_a_biased_prior_is_seen() -> None:
    _, draws = draws_of(eight_schools(prior_mean=0.5), ROUGH)

    assert any("mean off" in failure for failure in failures(draws, EIGHT_SCHOOLS))


def test_biased_and_over_confident_draws_are_seen() -> None:
    _, draws = schools()

    assert any("mean off" in failure for failure in failures(shifted(draws, 0.05), EIGHT_SCHOOLS))
    assert any("sd off" in failure for failure in failures(over_confident(draws, 0.95), EIGHT_SCHOOLS))


def test_too_few_draws_are_seen() -> None:
    _, draws = schools()
    few = {name: chains[:, :500] for name, chains in draws.items()}

    assert any(failure.startswith("ess") for failure in failures(few, EIGHT_SCHOOLS))


# --- Stan's draws -------------------------------------------------------------------------------------------


def in_stans_words(name: str, draws: dict[str, Array]) -> dict[str, Array]:
    """posteriordb counts the elements of a vector from one."""
    if "hierarchical" in name:
        return {{"beta[0]": "beta[1]", "beta[1]": "beta[2]"}.get(site, site): v for site, v in draws.items()}
    return draws


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long) if "rats" in n else n for n in REFERENCES])
def test_the_posteriors_of_posteriordb_are_those_of_stan(name: str) -> None:
    """φ, and θ of every task: the largest of all |z| against its Bonferroni bound at one in a thousand."""
    theirs = {site: chains for site, chains in reference_draws(name).items() if site != "alpha0"}
    posterior, draws = reference(name)
    ours = in_stans_words(name, draws)

    assert set(ours) == set(theirs)
    assert posterior.info.gram
    itself = {site: float(chains.mean()) for site, chains in ours.items()}
    spread = {site: float(chains.std(ddof=1)) for site, chains in ours.items()}
    assert compare(ours, itself, spread).ess > 5_000
    bound = limit(2 * len(theirs))
    assert joint_z(ours, theirs) < bound
    # the check can fail: by a shift of .15 sd, or by sds that are a tenth too small
    assert joint_z(shifted(ours, 0.15), theirs) > bound
    assert joint_z(over_confident(ours, 0.9), theirs) > bound


# --- lme4 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inference", ["auto", pytest.param("nuts", marks=pytest.mark.long)])
def test_sleepstudy_is_near_lme4s_estimates(inference: str) -> None:
    """REML is not a posterior, but under these wide priors it must lie in the middle of it.

    Fixed effects: the priors (sds of 100 and 20) say next to nothing against 18 people, so that the medians may
    differ from the estimates by a quarter of a posterior sd at most. Standard deviations and the correlation
    are estimated from 18 people; their posteriors are skewed, and REML is nearer to a mode than to a median:
    one posterior sd. The noise is known well, from 180 measurements: half a posterior sd.
    """
    model = shelf.load_model(shelf.path_of("model", "sleepstudy"))
    posterior = bm.fit(model.hierarchy, model.tasks(), inference, progress=False)
    table: Any = posterior.summary().T.to_dict()
    estimates = {
        "mu[0]": (251.405, 0.25),
        "mu[1]": (10.467, 0.25),
        "tau[0]": (24.74, 1.0),
        "tau[1]": (5.92, 1.0),
        "L[1,0]": (0.07, 1.0),
        "sigma": (25.59, 0.5),
    }

    assert posterior.info.gram
    assert posterior.verdict.level == "fine"
    assert min(table[site]["ess_bulk"] for site in estimates) > 1000
    for site, (estimate, tolerance) in estimates.items():
        row = table[site]
        assert abs(row["q50"] - estimate) < tolerance * row["sd"], site
        # the check can fail: another estimate is not accepted
        assert abs(row["q50"] - estimate - 2 * tolerance * row["sd"]) > tolerance * row["sd"]


# --- a vanishing spread -------------------------------------------------------------------------------------


def eight_schools_by_hand(mu: float, log_tau: float) -> tuple[float, list[float]]:
    """log p(mu, log tau, D) with θ integrated out, and its gradient, in plain Python."""
    tasks = eight_schools().tasks
    value = -0.5 * (mu / 5) ** 2 - math.log(5 * math.sqrt(2 * math.pi))
    tau = math.exp(log_tau)
    value += math.log(2 / (5 * math.pi)) - math.log1p((tau / 5) ** 2) + log_tau
    slopes = [-mu / 25, 1 - 2 * (tau / 5) ** 2 / (1 + (tau / 5) ** 2)]
    for y, sigma in zip(tasks.y.tolist(), tasks.context["sigma"].tolist(), strict=True):
        variance = sigma**2 + tau**2
        value += -0.5 * (y - mu) ** 2 / variance - 0.5 * math.log(2 * math.pi * variance)
        slopes[0] += (y - mu) / variance
        slopes[1] += ((y - mu) ** 2 / variance - 1) * tau**2 / variance
    return value, slopes


@pytest.mark.parametrize("road", ["gram", "exact"])
@pytest.mark.parametrize("log_tau", [3.0, -5.0, -15.0, -18.0, -25.0, -60.0])
def test_the_density_holds_where_tasks_hardly_differ(road: str, log_tau: float) -> None:
    """Chains pass there in their warm-up. Terms of the size of 1/tau² once left rounding errors alone."""
    problem = eight_schools()
    program = problem.hierarchy.program(problem.tasks)
    evidence = Gram.find(program, problem.tasks) if road == "gram" else Exact(program, problem.tasks)
    assert evidence is not None
    density = log_density(evidence, compile=False)
    value, gradient = density.value_and_grad(torch.tensor([11.0, log_tau], dtype=torch.float64))
    exact, slopes = eight_schools_by_hand(11.0, log_tau)

    assert float(value) == pytest.approx(exact, rel=1e-10)
    assert gradient.tolist() == pytest.approx(slopes, rel=1e-8, abs=1e-8)


def test_no_chain_is_lost_where_tasks_hardly_differ() -> None:
    problem = eight_schools()
    for seed in range(2, 5):
        posterior = bm.fit(problem.hierarchy, problem.tasks, bm.NUTS(draws=300, tune=300), seed=seed, progress=False)
        assert int(posterior.draws.stats["n_steps"].max()) < 128
        assert float(posterior.summary()["r_hat"].max()) < 1.05
