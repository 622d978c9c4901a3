"""log Z against algebra done by hand in numpy, and its gradient against finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.errors import HierarchyError, OptionError
from bayesmeta.evidence import METHODS, Exact, Gram, Joint, choose
from bayesmeta.evidence.conditional import theta_values
from bayesmeta.sites import quiet_pyro
from tests.evidences import (
    HARD,
    NORMAL,
    NOT_EXACT,
    Evidence,
    close,
    coordinates,
    differences,
    gallery,
    hierarchy_of,
    hyperprior,
    per_task,
    phi_at,
    ragged,
    roads,
    value_and_gradient,
)
from tests.scenarios import SCENARIOS, Scenario, evidence_of, moments_of, normal_normal, quadrature

LINEAR = sorted(name for name, make in SCENARIOS.items() if make().linear is not None)


@pytest.fixture(params=LINEAR)
def scenario(request: pytest.FixtureRequest) -> Scenario:
    return SCENARIOS[request.param]()


# ---------------------------------------------------------------------------------------------------------
# The exact answers themselves


def test_the_quadrature_gives_the_published_moments_of_eight_schools() -> None:
    model = gallery("eight_schools")
    schools = model.load()
    halfcauchy = Scenario(
        "eight_schools",
        model.hierarchy,
        schools,
        "gram",
        (),
        normal_normal().log_z,
        normal_normal().moments,
        None,
        lambda phi: -0.5 * (phi["mu"] / 5) ** 2 - np.log1p((phi["tau"] / 5) ** 2),
        (("mu", False, -30.0, 30.0), ("tau", True, -45.0, 45.0)),
    )
    exact = quadrature(halfcauchy)

    assert exact.mean == pytest.approx({"mu": 4.3968, "tau": 3.5977}, abs=1e-4)
    assert exact.sd == pytest.approx({"mu": 3.3177, "tau": 3.2200}, abs=1e-4)
    assert exact.mean_log["tau"] == pytest.approx(0.8021, abs=1e-4)
    theta = [6.2119, 4.9402, 3.9270, 4.7571, 3.6155, 4.0426, 6.2967, 4.8543]
    spread = [5.593, 4.674, 5.263, 4.780, 4.658, 4.827, 5.078, 5.291]
    np.testing.assert_allclose(exact.theta_mean[:, 0], theta, atol=1e-4)
    np.testing.assert_allclose(exact.theta_sd[:, 0], spread, atol=1e-3)


def test_the_formula_over_many_phi_is_scipys_at_each() -> None:
    scenario = normal_normal()
    many = {"mu": np.array([2.0, -4.0, 11.0]), "tau": np.array([3.0, 0.05, 40.0])}
    assert scenario.linear is not None
    for task in scenario.tasks:
        by_formula = evidence_of(scenario.linear(many, task))
        by_scipy = [scenario.log_z({"mu": m, "tau": t}, task) for m, t in zip(*many.values(), strict=True)]
        np.testing.assert_allclose(by_formula, by_scipy, rtol=1e-12)


# ---------------------------------------------------------------------------------------------------------
# Values, gradients, conditionals


def test_log_z_of_each_task_is_that_of_the_marginal_density(scenario: Scenario) -> None:
    found = roads(scenario.hierarchy.program(scenario.tasks), scenario.tasks)
    assert len(found) == (2 if scenario.road == "gram" else 1)
    for evidence in found:
        for values in scenario.points:
            exact = torch.tensor([float(scenario.log_z(values, t)) for t in scenario.tasks], dtype=torch.float64)
            got = per_task(evidence, values)
            torch.testing.assert_close(got, exact, rtol=1e-9, atol=1e-9)
            # the check can fail: the evidence of other tasks is another
            assert not close(got.roll(1), exact, 1e-3)


def test_the_total_is_the_sum_and_its_gradient_that_of_finite_differences(scenario: Scenario) -> None:
    program = scenario.hierarchy.program(scenario.tasks)

    def exact(u: Tensor) -> float:
        with quiet_pyro():
            values = {site: value.numpy() for site, value in program.phi(u).values.items()}
        return float(sum(scenario.log_z(values, task) for task in scenario.tasks))

    for u in coordinates(program, 3):
        expected = differences(exact, u)
        for evidence in roads(program, scenario.tasks):
            value, gradient = value_and_gradient(evidence, u)
            assert float(value) == pytest.approx(exact(u), rel=1e-9)
            assert close(gradient, expected, 1e-9)
            with quiet_pyro():
                terms = evidence.per_task(program.phi(u), evidence.data)
            torch.testing.assert_close(terms.sum(), value, rtol=1e-12, atol=0)
        # the check can fail: with one task left out, the gradient is another
        _, without = value_and_gradient(Exact(program, scenario.tasks[1:]), u)
        assert not close(without, expected, 1e-3)


def test_the_gradient_per_task_is_right_too(scenario: Scenario) -> None:
    """`total` may take another way to its gradient than `per_task`."""
    program = scenario.hierarchy.program(scenario.tasks)
    (u,) = coordinates(program, 1, seed=5)
    for evidence in roads(program, scenario.tasks):

        def summed(u: Tensor, evidence: Evidence = evidence) -> Tensor:
            return evidence.per_task(evidence.program.phi(u), evidence.data).sum()

        with quiet_pyro():
            gradient = torch.func.grad(summed)(u)
        torch.testing.assert_close(gradient, value_and_gradient(evidence, u)[1], rtol=1e-9, atol=1e-9)


def test_the_conditional_of_theta_is_that_of_the_joint_gaussian(scenario: Scenario) -> None:
    program = scenario.hierarchy.program(scenario.tasks)
    assert scenario.linear is not None
    for evidence in roads(program, scenario.tasks):
        for values in scenario.points:
            phi = phi_at(program, values)
            with quiet_pyro():
                precision, b = evidence.conditional(phi, evidence.data)
            covariance = torch.linalg.inv(precision)
            mean = (covariance @ b.unsqueeze(-1)).squeeze(-1)
            for t, task in enumerate(scenario.tasks):
                exact_mean, exact_covariance = moments_of(scenario.linear(values, task))
                scale = np.sqrt(np.diagonal(exact_covariance))
                np.testing.assert_allclose(mean[t], exact_mean, rtol=1e-9, atol=1e-8 * scale.max())
                np.testing.assert_allclose(covariance[t], exact_covariance, rtol=1e-7, atol=1e-7 * scale.max() ** 2)


def test_evidence_moves_to_other_tasks() -> None:
    scenario = SCENARIOS["correlated"]()
    program = scenario.hierarchy.program(scenario.tasks)
    values = scenario.points[0]
    some = scenario.tasks[["D", "B"]]
    for evidence in roads(program, scenario.tasks):
        moved = evidence.on(some)
        expected = [float(scenario.log_z(values, task)) for task in some]
        np.testing.assert_allclose(per_task(moved, values), expected, rtol=1e-9)


def test_a_task_without_observations_has_evidence_one() -> None:
    scenario = SCENARIOS["correlated"]()
    program = scenario.hierarchy.program(scenario.tasks)
    context = {key: value[:1] for key, value in scenario.tasks.context.items()}
    mixed = scenario.tasks + bm.Tasks.without_observations(["new"], like=scenario.tasks, context=context)
    for evidence in roads(program, scenario.tasks):
        for values in scenario.points:
            log_z = per_task(evidence.on(mixed), values)
            assert abs(float(log_z[-1])) < 1e-9
            torch.testing.assert_close(log_z[:-1], per_task(evidence, values), rtol=1e-12, atol=1e-12)


def test_non_gram_roads_give_the_right_numbers() -> None:
    """A known scale per row, and θ standardised by φ, against the formula."""
    tasks = ragged()
    values = {"mu": 0.4, "tau": 1.3, "sigma": 0.7}
    for name, noise, design, shift in (
        ("known-scale-per-row", lambda x: np.exp(2 * x), 1.0, 0.0),
        ("non-centred", lambda x: np.full(len(x), 0.49), 1.3, 0.4),
    ):
        evidence = choose(hierarchy_of(HARD[name]).program(tasks), tasks)
        assert isinstance(evidence, Exact)
        expected = []
        for task in tasks:
            mean = np.full(task.n, 0.4 * design + shift)
            covariance = (1.3 * design) ** 2 * np.ones((task.n, task.n)) + np.diag(noise(task.x.numpy()))
            residual = task.y.numpy() - mean
            distance = residual @ np.linalg.solve(covariance, residual)
            expected.append(-0.5 * (distance + np.linalg.slogdet(2 * np.pi * covariance)[1]))
        np.testing.assert_allclose(per_task(evidence, values), expected, rtol=1e-9)


# ---------------------------------------------------------------------------------------------------------
# Padding


def standardising() -> bm.Hierarchy:
    """A task that centres its inputs itself: padding must not move their mean."""

    def observe(theta: Tensor, x: Tensor, phi: tuple[Tensor, Tensor, Tensor]) -> Any:
        return dist.Normal(phi[0] + theta * (x - x.mean()), phi[2]).to_event(1)

    return hierarchy_of(observe)


@pytest.mark.parametrize("sizes", [(4, 2, 5, 3), (1,) * 30 + (5, 6)], ids=["all-sizes", "most-tasks-of-one-row"])
def test_a_task_that_looks_at_all_its_rows_is_not_padded_and_still_right(sizes: tuple[int, ...]) -> None:
    tasks = ragged(sizes=sizes)
    program = standardising().program(tasks)
    assert not program.structure.maskable
    evidence = choose(program, tasks)
    assert isinstance(evidence, Exact)
    values = {"mu": 0.4, "tau": 1.3, "sigma": 0.7}
    expected = []
    for task in tasks:
        x = task.x.numpy() - task.x.numpy().mean()
        covariance = 1.69 * np.outer(x, x) + 0.49 * np.eye(task.n)
        residual = task.y.numpy() - 0.4 - 0.4 * x
        distance = residual @ np.linalg.solve(covariance, residual)
        expected.append(-0.5 * (distance + np.linalg.slogdet(2 * np.pi * covariance)[1]))
    np.testing.assert_allclose(per_task(evidence, values), expected, rtol=1e-9)


def test_a_task_whose_rows_stand_alone_is_padded() -> None:
    tasks = ragged()
    assert hierarchy_of(NORMAL["phi-coefficient"]).program(tasks).structure.maskable
    assert not hierarchy_of(HARD["correlated-errors"]).program(tasks).structure.maskable


@pytest.mark.parametrize("name", sorted(NORMAL | HARD))
def test_a_task_has_the_same_evidence_alone_and_among_longer_ones(name: str) -> None:
    """Alone it is not padded."""
    tasks = ragged(sizes=(1, 3, 9, 2))
    program = hierarchy_of((NORMAL | HARD)[name]).program(tasks)
    values = {"mu": 0.4, "tau": 1.3, "sigma": 0.7}
    for evidence in roads(program, tasks):
        together = per_task(evidence, values)
        alone = torch.cat([per_task(evidence.on(tasks[[t]]), values) for t in range(len(tasks))])
        torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)


def of_the_mean_input(phi: Any, x: Tensor, y: Tensor | None = None) -> Tensor:
    """θ is centred on a line in the mean of the task's inputs, as where effects within and between are told apart."""
    mu, tau, sigma = phi
    theta = pyro.sample("theta", dist.Normal(mu * x.mean(), tau))
    return pyro.sample("y", dist.StudentT(4.0, theta + 0 * x, sigma).to_event(1), obs=y)


def test_a_prior_that_looks_at_all_inputs_of_its_task_is_given_them_all() -> None:
    tasks = ragged()
    program = bm.Hierarchy(hyperprior, of_the_mean_input).program(tasks)
    evidence = Joint(program, tasks, centring=0)
    assert not program.structure.maskable
    u = coordinates(program, 5)
    v = torch.randn(5, 4, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theta = theta_values(evidence, u, v)["theta"]
    mu, tau = u[:, :1], u[:, 1:2].exp()
    means = torch.stack([task.x.mean() for task in tasks])

    torch.testing.assert_close(theta, mu * means + tau * v.squeeze(-1))


def test_going_on_from_such_a_fit_without_anything_new_changes_no_theta() -> None:
    tasks = ragged()
    few = bm.NUTS(draws=30, tune=50, chains=1, compile=False, evidence="joint")
    posterior = bm.fit(bm.Hierarchy(hyperprior, of_the_mean_input), tasks, few, progress=False)
    again = posterior.adapt(tasks).theta["theta"]

    torch.testing.assert_close(again.sort(0).values, posterior.theta["theta"].sort(0).values)
    assert float((again.sort(0).values - posterior.theta_coordinates.squeeze(-1).sort(0).values).abs().max()) > 0.1


# ---------------------------------------------------------------------------------------------------------
# Choosing by name


def test_evidence_by_name() -> None:
    scenario = normal_normal()
    program = scenario.hierarchy.program(scenario.tasks)
    assert METHODS == ("auto", "exact", "quadrature", "laplace", "joint")
    assert isinstance(choose(program, scenario.tasks, "joint"), Joint)
    assert isinstance(choose(program, scenario.tasks, "exact"), Gram)


def test_exact_evidence_that_does_not_exist_is_refused() -> None:
    tasks = ragged()
    program = hierarchy_of(NOT_EXACT["tanh"]).program(tasks)
    with pytest.raises(HierarchyError, match=r"quadratic in θ.*use evidence='auto', 'quadrature' or 'joint'"):
        choose(program, tasks, "exact")


def test_an_unknown_evidence_is_refused() -> None:
    scenario = normal_normal()
    program = scenario.hierarchy.program(scenario.tasks)
    with pytest.raises(OptionError, match=r"unknown evidence 'exakt'; valid: .*did you mean 'exact'"):
        choose(program, scenario.tasks, "exakt")
