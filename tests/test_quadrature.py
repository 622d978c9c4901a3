"""Evidence of tasks that are not Gaussian in θ, by quadrature and by Laplace: against formulas and brute force."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize
from scipy.special import log_expit, logsumexp
from torch import Tensor

import bayesmeta as bm
from bayesmeta.errors import HierarchyError
from bayesmeta.evidence import Joint, Laplace, Own, Quadrature, choose, evidence_error, kind
from bayesmeta.evidence.accuracy import doubling, importance
from bayesmeta.evidence.conditional import log_evidence, theta_coordinates
from bayesmeta.sites import quiet_pyro
from bayesmeta.target import Target
from tests.evidences import (
    COUNTS,
    NOT_EXACT,
    close,
    coordinates,
    differences,
    hierarchy_of,
    per_task,
    ragged,
    value_and_gradient,
)
from tests.scenarios import CURVED, SCENARIOS, Scenario
from tests.truth import Array, PhiValues

FEW, MANY = 3, 41  # nodes that do not serve, and that do


@pytest.fixture(params=sorted(CURVED))
def scenario(request: pytest.FixtureRequest) -> Scenario:
    return CURVED[request.param]()


def exact(scenario: Scenario, values: PhiValues) -> Array:
    return np.array([float(scenario.log_z(values, task)) for task in scenario.tasks])


# --- values and gradients -----------------------------------------------------------------------------------


def test_log_z_of_each_task_is_the_exact_one(scenario: Scenario) -> None:
    program = scenario.hierarchy.program(scenario.tasks)
    many, few = Quadrature(program, scenario.tasks, MANY), Quadrature(program, scenario.tasks, FEW)
    for values in scenario.points[:1] + scenario.points[2:]:
        expected = exact(scenario, values)
        np.testing.assert_allclose(per_task(many, values), expected, atol=2e-4)
        # the check can fail: the evidence of other tasks is another
        assert not close(per_task(many, values).roll(1), torch.from_numpy(expected), 1e-3)
    # and so can the number of nodes
    errors = [np.abs(per_task(few, values).numpy() - exact(scenario, values)).max() for values in scenario.points]
    assert max(errors) > 1e-3


def test_the_total_is_the_sum_and_its_gradient_that_of_finite_differences(scenario: Scenario) -> None:
    program = scenario.hierarchy.program(scenario.tasks)

    def log_z(u: Tensor) -> float:
        with quiet_pyro():
            values = {site: value.numpy() for site, value in program.phi(u).values.items()}
        return float(exact(scenario, values).sum())

    evidence = Quadrature(program, scenario.tasks, MANY)
    for u in 0.3 + 0.4 * coordinates(program, 2):
        value, gradient = value_and_gradient(evidence, u)
        expected = differences(log_z, u)
        assert float(value) == pytest.approx(log_z(u), abs=1e-2)
        assert close(gradient, expected, 2e-3)
        _, without = value_and_gradient(Quadrature(program, scenario.tasks[1:], MANY), u)
        assert not close(without, expected, 2e-2)


def test_laplaces_gradient_is_that_of_finite_differences_of_itself(scenario: Scenario) -> None:
    """The mode moves with φ, and the Hessian with both: the one differentiable step must carry all of that."""
    program = scenario.hierarchy.program(scenario.tasks)
    evidence = Laplace(program, scenario.tasks)

    def total(u: Tensor) -> float:
        with quiet_pyro():
            return float(evidence.total(program.phi(u), evidence.data))

    for u in coordinates(program, 2, seed=3):
        assert close(value_and_gradient(evidence, u)[1], differences(total, u), 1e-7)


def test_laplace_and_quadrature_are_exact_where_tasks_are_gaussian() -> None:
    for name in ("correlated", "log_normal"):
        scenario = SCENARIOS[name]()
        program = scenario.hierarchy.program(scenario.tasks)
        for values in scenario.points:
            for evidence in (Laplace(program, scenario.tasks), Quadrature(program, scenario.tasks, FEW)):
                np.testing.assert_allclose(per_task(evidence, values), exact(scenario, values), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("log_tau", [0.0, -5.0, -15.0, -60.0])
def test_log_z_holds_where_tasks_hardly_differ(log_tau: float) -> None:
    """At a vanishing spread every θ is mu, and log Z the likelihood there."""
    scenario = CURVED["skewed"]()
    program = scenario.hierarchy.program(scenario.tasks)
    u = torch.tensor([0.3, log_tau], dtype=torch.float64)
    for evidence in (Quadrature(program, scenario.tasks, 11), Laplace(program, scenario.tasks)):
        value, gradient = value_and_gradient(evidence, u)
        assert bool(torch.isfinite(gradient).all())
        if log_tau < -10:
            rate = np.exp(0.3)
            y = [task.y.numpy() for task in scenario.tasks]
            assert float(value) == pytest.approx(sum(stats.expon(scale=1 / rate).logpdf(t).sum() for t in y), rel=1e-10)
            slope = sum(len(t) - rate * t.sum() for t in y)
            assert gradient.tolist() == pytest.approx([slope, 0.0], abs=1e-7)


# --- two and three coordinates ------------------------------------------------------------------------------


def regression(p: int) -> tuple[bm.Hierarchy, bm.Tasks]:
    """Logistic regressions with correlated (p = 2) or independent coefficients, few observations each."""

    def hyperprior() -> tuple[Tensor, Tensor]:
        mu = pyro.sample("mu", dist.Normal(torch.zeros(p), 1.0).to_event(1))
        return mu, pyro.sample("tau", dist.LogNormal(torch.zeros(p), 0.5).to_event(1))

    def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        mu, tau = phi
        mix = torch.eye(p) + 0.5 * torch.ones(p, p).tril(-1)
        theta = pyro.sample("theta", dist.MultivariateNormal(mu, scale_tril=tau.unsqueeze(-1) * mix))
        return pyro.sample("y", dist.Bernoulli(logits=x @ theta).to_event(1), obs=y)

    rng = np.random.default_rng(p)
    sizes = (9, 4, 6)
    xs = [np.concatenate([np.ones((n, 1)), rng.normal(size=(n, p - 1))], 1) for n in sizes]
    return bm.Hierarchy(hyperprior, task), bm.Tasks.from_lists(xs, [rng.integers(0, 2, n) for n in sizes])


def brute_force(p: int, mu: Array, tau: Array, task: bm.Task) -> tuple[float, Array]:
    """log Z and the mean of θ by the trapezoidal rule over standardised θ."""
    axis = np.linspace(-7.5, 7.5, {2: 161, 3: 61}[p])
    z = np.stack(np.meshgrid(*[axis] * p, indexing="ij"), -1).reshape(-1, p)
    theta = mu + z @ (tau[:, None] * (np.eye(p) + 0.5 * np.tril(np.ones((p, p)), -1))).T
    signs = 2 * task.y.numpy() - 1
    terms = stats.norm.logpdf(z).sum(1) + log_expit(signs * (theta @ task.x.numpy().T)).sum(1)
    log_z = float(logsumexp(terms)) + p * float(np.log(axis[1] - axis[0]))
    weights = np.exp(terms - logsumexp(terms))
    return log_z, weights @ theta


@pytest.mark.parametrize("p", [2, 3])
def test_logistic_regressions_with_more_than_one_coefficient(p: int) -> None:
    hierarchy, tasks = regression(p)
    program = hierarchy.program(tasks)
    evidence = choose(program, tasks)
    assert isinstance(evidence, Quadrature)
    mu, tau = np.array([0.4, -0.6, 0.2])[:p], np.array([1.2, 0.5, 1.5])[:p]
    truth = [brute_force(p, mu, tau, task) for task in tasks]
    errors = np.abs(per_task(evidence, {"mu": mu, "tau": tau}).numpy() - [log_z for log_z, _ in truth])
    assert errors.max() < 1e-3
    assert np.abs(per_task(evidence.with_nodes(2), {"mu": mu, "tau": tau}).numpy() - [z for z, _ in truth]).max() > 1e-3
    u = torch.from_numpy(np.concatenate([mu, np.log(tau)])).expand(4000, -1)
    draws = theta_coordinates(evidence, u, seed=1)
    for t, (_, mean) in enumerate(truth):
        z = (draws[:, t].mean(0).numpy() - mean) / (draws[:, t].std(0).numpy() / np.sqrt(len(u)))
        assert np.abs(z).max() < 4
        assert np.abs(z + 0.15 * np.sqrt(len(u))).max() > 4  # a shift of .15 sd would be seen


def test_four_coordinates_are_too_many_for_quadrature() -> None:
    hierarchy, tasks = regression(4)
    program = hierarchy.program(tasks)
    with pytest.raises(
        HierarchyError, match=r"at most 3 coordinates, this one has 4: use evidence='laplace' or 'joint'"
    ):
        choose(program, tasks, "quadrature")
    assert isinstance(choose(program, tasks), Joint)
    assert isinstance(choose(program, tasks, "laplace"), Laplace)


# --- one point, many points ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [lambda program, tasks: Quadrature(program, tasks, 15), Laplace], ids=["quadrature", "laplace"]
)
def test_one_point_recorded_and_many_points_at_once_agree(make: Callable[..., Any]) -> None:
    scenario = CURVED["poisson_gamma"]()
    program = scenario.hierarchy.program(scenario.tasks)
    target = Target(make(program, scenario.tasks))
    points = 0.3 + 0.5 * coordinates(program, 8)
    values, gradients = target.value_and_grad(points)
    density = target.density(compile=False)
    assert density.mode == "traced"
    for point, value, gradient in zip(points, values, gradients, strict=True):
        again, slope = density.value_and_grad(point)
        assert float(again) == pytest.approx(float(value), abs=1e-4)
        assert close(slope, gradient, 1e-4)


def test_a_search_that_was_lost_far_out_finds_back() -> None:
    scenario = CURVED["beta_binomial"]()
    program = scenario.hierarchy.program(scenario.tasks)
    density = Target(Quadrature(program, scenario.tasks, 15)).density(compile=False)
    near = torch.tensor([0.6, 1.1], dtype=torch.float64)
    before = float(density.value_and_grad(near)[0])
    density.value_and_grad(torch.tensor([-15.6, 19.3], dtype=torch.float64))
    assert float(density.value_and_grad(near)[0]) == pytest.approx(before, abs=1e-4)


def test_chains_do_not_share_where_they_were() -> None:
    scenario = CURVED["beta_binomial"]()
    program = scenario.hierarchy.program(scenario.tasks)
    density = Target(Quadrature(program, scenario.tasks, 7)).density(compile=False)
    points = coordinates(program, 5)
    alone, other = density.fork(), density.fork()
    first = [float(alone.value_and_grad(u)[0]) for u in points]
    second = []
    for u in points:
        density.value_and_grad(3 * u)
        second.append(float(other.value_and_grad(u)[0]))
    assert first == second


# --- what auto takes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bernoulli", "poisson", "student-t", "scale-with-theta", "weakly-curved"])
def test_smooth_tasks_with_one_mode_take_quadrature(name: str) -> None:
    tasks = ragged("count" if name in COUNTS else "real")
    assert kind(choose(hierarchy_of((NOT_EXACT | COUNTS)[name]).program(tasks), tasks)) == "quadrature"


def two_peaks(theta: Tensor, x: Tensor, phi: Any) -> Any:
    return dist.Normal(theta.abs() + 0 * x, 0.3).to_event(1)


def mixture(theta: Tensor, x: Tensor, phi: Any) -> Any:
    parts = dist.Normal(torch.stack([theta + 4 + 0 * x, theta - 4 + 0 * x], -1), 0.5)
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(2) / 2), parts).to_event(1)


@pytest.mark.parametrize("observe", [NOT_EXACT["laplace"], NOT_EXACT["relu"], two_peaks, mixture])
def test_kinks_and_several_peaks_fall_through_to_joint(observe: Any) -> None:
    tasks = ragged()
    assert kind(choose(hierarchy_of(observe).program(tasks), tasks)) == "joint"


# --- hard to find -------------------------------------------------------------------------------------------


def test_a_mode_behind_a_singular_hessian_is_found() -> None:
    """Three points on a decaying curve: the first Newton step would go thousands of prior sds."""
    x, y = [1.17388127, 2.46641148, 2.556157], [1.22137955, 0.35171971, 0.41729205]
    at = {"a": 1.06836673, "k": 0.27903329, "sa": 0.39364500, "sk": 0.36339116, "s": 0.11450302}
    scale = {"sa": 1.0, "sk": 0.5, "s": 0.5}

    def hyperprior() -> dict[str, Tensor]:
        level = {name: pyro.sample(name, dist.Normal(0.0, 2.0)) for name in ("a", "k")}
        return level | {name: pyro.sample(name, dist.HalfNormal(width)) for name, width in scale.items()}

    def decay(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        amplitude = pyro.sample("amplitude", dist.LogNormal(phi["a"], phi["sa"]))
        rate = pyro.sample("rate", dist.LogNormal(phi["k"], phi["sk"]))
        drawn: Tensor = pyro.sample("y", dist.Normal(amplitude * torch.exp(-rate * x), phi["s"]).to_event(1), obs=y)
        return drawn

    def minus_log_joint(v: Array) -> float:
        level, rate = np.exp(at["a"] + at["sa"] * v[0]), np.exp(at["k"] + at["sk"] * v[1])
        return float(v @ v / 2 + ((y - level * np.exp(-rate * np.array(x))) ** 2).sum() / (2 * at["s"] ** 2))

    tasks = bm.Tasks.from_lists([x], [y])
    program = bm.Hierarchy(hyperprior, decay).program(tasks)
    u = torch.tensor([at["a"], at["k"], *(math.log(at[name]) for name in scale)], dtype=torch.float64)
    evidence = Quadrature(program, tasks)
    expected = min((minimize(minus_log_joint, [i, j]) for i in (-1, 1) for j in (-1, 1)), key=lambda found: found.fun).x

    mode, _ = evidence.modes.many(u.unsqueeze(0), evidence.data)
    np.testing.assert_allclose(mode[0, 0].numpy(), expected, atol=1e-4)
    with quiet_pyro():
        alone, _ = evidence.modes.at(program.phi(u), evidence.data)
    np.testing.assert_allclose(alone[0].numpy(), expected, atol=1e-4)


# --- no mode ------------------------------------------------------------------------------------------------


def test_separated_tasks_are_held_by_the_prior() -> None:
    """All ones: the likelihood alone has no finite mode."""
    tasks = bm.Tasks.from_lists([np.zeros(6), np.zeros(3)], [np.ones(6), np.zeros(3)])
    program = hierarchy_of(lambda theta, x, phi: dist.Bernoulli(logits=theta + x).to_event(1)).program(tasks)
    values = {"mu": 0.5, "tau": 3.0, "sigma": 1.0}
    z = np.linspace(-9, 9, 4001)
    step = z[1] - z[0]
    for evidence, tolerance in ((choose(program, tasks), 5e-3), (choose(program, tasks, "laplace"), 0.5)):
        assert not isinstance(evidence, Joint | Own)
        expected = [
            logsumexp(stats.norm.logpdf(z) + n * log_expit(sign * (0.5 + 3 * z))) + np.log(step)
            for n, sign in ((6, 1), (3, -1))
        ]
        np.testing.assert_allclose(per_task(evidence, values), expected, atol=tolerance)


@pytest.mark.parametrize(
    ("observe", "why"),
    [
        (
            lambda theta, x, phi: dist.Laplace(theta + 0 * x, 0.1).to_event(1),
            "the density has a kink or no finite mode|not positive definite",
        ),
        (lambda theta, x, phi: dist.Exponential(1 + 0 * x).mask(False).to_event(1), ""),
    ],
    ids=["kink", "flat"],
)
def test_a_task_without_a_mode_is_named(observe: Any, why: str) -> None:
    tasks = ragged("positive")
    if not why:  # a likelihood that says nothing leaves the prior, which has a mode
        assert isinstance(choose(hierarchy_of(observe).program(tasks), tasks, "laplace"), Laplace)
        return
    with pytest.raises(HierarchyError, match=rf"no mode of [^?]* was found for task '\d' at mu = .*({why}).*'joint'"):
        choose(hierarchy_of(observe).program(tasks), tasks, "laplace")


# --- measured errors ----------------------------------------------------------------------------------------


def test_doubling_the_nodes_tells_bad_quadrature_from_good(scenario: Scenario) -> None:
    program = scenario.hierarchy.program(scenario.tasks)
    u = 0.5 * coordinates(program, 3)
    good, bad = choose(program, scenario.tasks), Quadrature(program, scenario.tasks, 2)
    assert isinstance(good, Quadrature)
    truth = log_evidence(good.with_nodes(61), u)
    for evidence in (good, bad):
        measured, true = doubling(evidence, u).abs().max(), (log_evidence(evidence, u) - truth).abs().max()
        assert float(measured) > 0.3 * float(true)
    assert evidence_error(good, u)["doubling"] < 0.1 < 3 * evidence_error(bad, u)["doubling"]
    assert evidence_error(bad, u)["doubling_task"] > 4 * evidence_error(good, u)["doubling_task"]


def test_tasks_are_looked_at_some_at_a_time(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    coarse = Quadrature(scenario.hierarchy.program(scenario.tasks), scenario.tasks, 3)
    phi = torch.zeros(2, coarse.program.structure.phi.size, dtype=torch.float64)
    with quiet_pyro():
        together = doubling(coarse, phi)
        monkeypatch.setattr("bayesmeta.evidence.accuracy.CELLS", 1)
        torch.testing.assert_close(doubling(coarse, phi), together, rtol=0, atol=1e-5)  # modes are found to that


def test_importance_sampling_finds_laplaces_bias(scenario: Scenario) -> None:
    program = scenario.hierarchy.program(scenario.tasks)
    u = 0.5 * coordinates(program, 2)
    evidence = Laplace(program, scenario.tasks)
    correction, k_hat = importance(evidence, u, draws=4000)
    true = log_evidence(Quadrature(program, scenario.tasks, 61), u) - log_evidence(evidence, u)
    assert float(k_hat.max()) < 0.7
    assert float(true.abs().max()) > 0.005
    assert float((correction - true).abs().max()) < 0.02 + 0.1 * float(true.abs().max())
    measured = evidence_error(evidence, u)
    assert measured["bias_task"] == pytest.approx(float(true.abs().max()), rel=0.3, abs=0.03)
    assert set(measured) == {"bias", "bias_spread", "bias_task", "k_hat"}


def test_exact_evidence_has_no_error_to_measure() -> None:
    scenario = SCENARIOS["normal_normal"]()
    evidence = choose(scenario.hierarchy.program(scenario.tasks), scenario.tasks)
    assert evidence_error(evidence, torch.zeros(2, 2, dtype=torch.float64)) == {}


# --- θ, and new tasks ---------------------------------------------------------------------------------------


def test_draws_of_theta_have_the_exact_moments(scenario: Scenario) -> None:
    program = scenario.hierarchy.program(scenario.tasks)
    evidence = choose(program, scenario.tasks)
    assert not isinstance(evidence, Joint)
    values = scenario.points[0]
    (site,) = program.structure.theta.names
    with quiet_pyro():
        flat = torch.tensor(list(values.values()), dtype=torch.float64)
    positive = torch.tensor([row[1] for row in scenario.box])
    u = torch.where(positive, flat.abs().log(), flat).expand(6000, -1)
    from bayesmeta.evidence.conditional import theta_values

    theta = theta_values(evidence, u, theta_coordinates(evidence, u, seed=0))[site].numpy()
    for t, task in enumerate(scenario.tasks):
        mean, variance = (float(np.squeeze(m)) for m in scenario.moments(values, task))
        column = theta[:, t]
        error = (column.mean() - mean) / np.sqrt(variance / len(column))
        assert abs(error) < 4
        fourth = ((column - column.mean()) ** 4).mean()
        assert abs(column.var() - variance) < 4 * np.sqrt((fourth - variance**2) / len(column))


@cache
def fitted(evidence: str = "auto") -> bm.Posterior:
    scenario = CURVED["poisson_gamma"]()
    settings = bm.Pathfinder(evidence=evidence)  # type: ignore[arg-type]
    return bm.fit(scenario.hierarchy, scenario.tasks, settings, progress=False)


@pytest.mark.filterwarnings("ignore:the draws are")
@pytest.mark.parametrize("evidence", ["auto", "laplace"])
def test_new_tasks_are_adapted_to_with_the_weights_of_their_evidence(evidence: str) -> None:
    """Against the formula on the same draws of φ: weights Z_new(φ_s), and θ given each."""
    scenario, posterior = CURVED["poisson_gamma"](), fitted(evidence)
    new = bm.Tasks.from_lists([[1.0, 2.0], [5.0]], [[12, 20], [0]], names=["many", "none"])
    adapted = posterior.adapt(new)
    assert adapted.method == posterior.info.evidence == ("quadrature" if evidence == "auto" else "laplace")
    phi = {site: value.numpy() for site, value in posterior.phi.items()}
    for t, task in enumerate(new):
        log_w = scenario.log_z(phi, task)
        np.testing.assert_allclose(posterior.evidence(new)[:, t], log_w, atol=1e-2 if evidence == "auto" else 0.3)
        w = np.exp(log_w - logsumexp(log_w))
        mean, variance = (np.squeeze(m, -1) for m in scenario.moments(phi, task))
        centre = float(w @ mean)
        spread = float(np.sqrt(w @ (variance + (mean - centre) ** 2)))
        theta = adapted.theta["theta"][:, t].numpy()
        tolerance = 4 * spread / np.sqrt(float(adapted.effective_size[t]))
        assert abs(theta.mean() - centre) < tolerance + (0.02 if evidence == "laplace" else 0)
        assert abs(theta.mean() - float(mean.mean())) > tolerance  # unweighted draws would not do
    assert adapted.predict(torch.tensor([1.0])).mean.shape[0] == 2


@pytest.mark.filterwarnings("ignore:the draws are")
def test_tasks_of_the_fit_go_on_and_empty_ones_are_drawn_from_the_population() -> None:
    scenario, posterior = CURVED["poisson_gamma"](), fitted()
    empty = bm.Tasks.without_observations(["new"], like=scenario.tasks)
    again = posterior.adapt(scenario.tasks[[3]] + empty)
    assert again.k_hat.tolist() == [-torch.inf, -torch.inf]
    phi = {site: value.numpy() for site, value in posterior.phi.items()}
    size = len(posterior.phi_coordinates)
    for t, mean in enumerate((scenario.moments(phi, scenario.tasks[3])[0], phi["a"] / phi["b"])):
        theta = again.theta["theta"][:, t].numpy()
        assert abs(theta.mean() - mean.mean()) < 4 * theta.std() / np.sqrt(size)
    more = posterior.adapt(bm.Tasks.from_lists([[10.0]], [[0]], names=[scenario.tasks.names[3]]))
    assert float(more.theta["theta"].mean()) < 0.5 * float(again.theta["theta"][:, 0].mean())


@pytest.mark.filterwarnings("ignore:the draws are")
def test_a_saved_fit_opens_with_its_evidence(tmp_path: Any) -> None:
    posterior = fitted()
    assert isinstance(posterior.collapsed, Quadrature)
    assert posterior.info.evidence_error["doubling"] < 0.1
    posterior.save(tmp_path / "fit.nc")
    loaded = bm.load(tmp_path / "fit.nc", posterior.hierarchy)
    assert isinstance(loaded.collapsed, Quadrature)
    assert loaded.collapsed.nodes == posterior.collapsed.nodes
    torch.testing.assert_close(loaded.theta["theta"], posterior.theta["theta"])
