"""Which road the evidence takes, found from the model; Gram matrices equal to the generic route."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.evidence import Exact, Gram, Joint, Own, choose
from bayesmeta.evidence.exact import is_quadratic
from bayesmeta.sites import quiet_pyro
from tests.evidences import (
    COUNTS,
    HARD,
    NORMAL,
    NOT_EXACT,
    close,
    coordinates,
    gallery,
    hierarchy_of,
    hyperprior,
    per_task,
    ragged,
    road,
    roads,
    value_and_gradient,
)
from tests.scenarios import SCENARIOS


@pytest.mark.parametrize("name", ["radon", "sleepstudy", "eight_schools"])
def test_gram_matrices_give_what_the_generic_route_gives_on_real_data(name: str) -> None:
    model = gallery(name)
    tasks = model.load()
    program = model.hierarchy.program(tasks)
    exact, gram = Exact(program, tasks), Gram.find(program, tasks)
    assert gram is not None
    for u in coordinates(program, 3, seed=1):
        (value, gradient), (expected, slope) = value_and_gradient(gram, u), value_and_gradient(exact, u)
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
        assert close(gradient, slope, 1e-9)
        with quiet_pyro():
            phi = program.phi(u)
            torch.testing.assert_close(
                gram.per_task(phi, gram.data), exact.per_task(phi, exact.data), rtol=1e-9, atol=1e-9
            )
            for mine, theirs in zip(gram.conditional(phi, gram.data), exact.conditional(phi, exact.data), strict=True):
                assert close(mine, theirs, 1e-9)


# ---------------------------------------------------------------------------------------------------------
# Which road is taken


@pytest.mark.parametrize("name", NORMAL)
def test_a_linear_mixed_model_takes_gram_matrices(name: str) -> None:
    assert road(hierarchy_of(NORMAL[name]), ragged()) == "gram"


@pytest.mark.parametrize("name", HARD)
def test_linear_gaussian_tasks_that_are_no_mixed_model_are_exact_without_gram_matrices(name: str) -> None:
    assert road(hierarchy_of(HARD[name]), ragged()) == "exact"


@pytest.mark.parametrize("name", NOT_EXACT)
def test_what_is_not_quadratic_in_theta_is_not_exact(name: str) -> None:
    assert road(hierarchy_of(NOT_EXACT[name]), ragged()) not in ("gram", "exact")


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_not_exact(name: str) -> None:
    assert road(hierarchy_of(COUNTS[name]), ragged("count")) == "quadrature"


@pytest.mark.parametrize(
    "prior",
    [
        lambda mu, tau: dist.Laplace(mu, tau),
        lambda mu, tau: dist.HalfNormal(tau),
        lambda mu, tau: dist.StudentT(30.0, mu, tau),
        lambda mu, tau: dist.LogNormal(mu, tau),
        lambda mu, tau: dist.Uniform(mu - tau, mu + tau),
    ],
    ids=["laplace", "half-normal", "student-t", "log-normal", "uniform"],
)
def test_a_prior_of_theta_that_is_not_normal_is_not_exact(prior: Callable[[Tensor, Tensor], Any]) -> None:
    assert road(hierarchy_of(NORMAL["expanded-scalar"], prior), ragged()) not in ("gram", "exact")


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_each_scenario_takes_its_road(name: str) -> None:
    assert road(SCENARIOS[name]().hierarchy, SCENARIOS[name]().tasks) == SCENARIOS[name]().road


@pytest.mark.parametrize(
    ("name", "expected"),
    [("radon", "gram"), ("sleepstudy", "gram"), ("eight_schools", "gram"), ("baseball", "quadrature")],
)
def test_each_gallery_model_takes_its_road(name: str, expected: str) -> None:
    model = gallery(name)
    assert road(model.hierarchy, model.load()) == expected


@pytest.mark.changes_rng
@pytest.mark.parametrize("name", ["log_normal", "nested", "beta_binomial"])
def test_the_road_depends_on_no_seed(name: str) -> None:
    scenario = SCENARIOS[name]()
    program = scenario.hierarchy.program(scenario.tasks)
    for seed in range(20):
        assert is_quadratic(program, scenario.tasks, seed) == (scenario.linear is not None)
    for seed in range(3):
        torch.manual_seed(seed)
        assert road(scenario.hierarchy, scenario.tasks) == scenario.road


@pytest.mark.parametrize("scale", [1e-3, 1e3, 1e6])
def test_the_road_does_not_depend_on_the_units_of_y(scale: float) -> None:
    tasks = ragged()
    scaled = bm.Tasks.from_lists([task.x for task in tasks], [scale * task.y for task in tasks])
    assert road(hierarchy_of(NORMAL["phi-coefficient"]), scaled) == "gram"
    assert road(hierarchy_of(HARD["known-scale-per-row"]), scaled) == "exact"
    assert road(hierarchy_of(NOT_EXACT["student-t"]), scaled) not in ("gram", "exact")


# ---------------------------------------------------------------------------------------------------------
# What only a few tasks or rows show


def flagged(rows: int = 4, count: int = 60) -> bm.Tasks:
    """Many tasks whose second input is a flag, which is set in one row of one task."""
    rng = np.random.default_rng(0)
    xs = [np.stack([rng.normal(size=rows), np.zeros(rows)], 1) for _ in range(count)]
    xs[37][2, 1] = 1.0
    return bm.Tasks.from_lists(xs, [rng.normal(size=rows) for _ in range(count)])


def test_a_scale_that_differs_in_one_row_of_one_task_is_seen() -> None:
    def observe(theta: Tensor, x: Tensor, phi: tuple[Tensor, Tensor, Tensor]) -> Any:
        return dist.Normal(theta + 0 * x[:, 0], phi[2] * (1 + x[:, 1])).to_event(1)

    assert road(hierarchy_of(observe), flagged()) == "exact"


def test_a_mean_that_is_not_linear_in_one_row_of_one_task_is_seen() -> None:
    def observe(theta: Tensor, x: Tensor, phi: tuple[Tensor, Tensor, Tensor]) -> Any:
        mean = torch.where(x[:, 1] > 0, theta.tanh(), theta)
        return dist.Normal(mean + x[:, 0], phi[2]).to_event(1)

    assert road(hierarchy_of(observe), flagged()) not in ("gram", "exact")


def equal_to_the_generic_route(hierarchy: bm.Hierarchy, tasks: bm.Tasks, expected: str) -> None:
    """Takes the expected road, and has value, gradient and conditional of the generic route."""
    program = hierarchy.program(tasks)
    evidence, exact = choose(program, tasks), Exact(program, tasks)
    assert not isinstance(evidence, Joint | Own)
    assert ("gram" if evidence.gram else "exact") == expected
    for u in coordinates(program, 2):
        for mine, theirs in zip(value_and_gradient(evidence, u), value_and_gradient(exact, u), strict=True):
            assert close(mine, theirs, 1e-9)
        with quiet_pyro():
            phi = program.phi(u)
            torch.testing.assert_close(
                evidence.per_task(phi, evidence.data), exact.per_task(phi, exact.data), rtol=1e-9, atol=1e-9
            )


def test_a_coefficient_that_enters_in_one_row_of_one_task_is_seen() -> None:
    def observe(theta: Tensor, x: Tensor, phi: tuple[Tensor, Tensor, Tensor]) -> Any:
        return dist.Normal(theta + x[:, 0] + phi[0] * x[:, 1], phi[2]).to_event(1)

    equal_to_the_generic_route(hierarchy_of(observe), flagged(), "gram")


def test_a_noise_that_differs_in_one_task_is_followed() -> None:
    """One scale per task, read from an input that is constant within it: still Gram matrices, not one for all."""

    def observe(theta: Tensor, x: Tensor, phi: tuple[Tensor, Tensor, Tensor]) -> Any:
        return dist.Normal(theta + x[:, 0], phi[2] * (1 + x[:, 1])).to_event(1)

    tasks = flagged()
    xs = [task.x.clone() for task in tasks]
    xs[37][:, 1], xs[11][:, 1] = 1.0, 0.0
    tasks = bm.Tasks.from_lists(xs, [task.y for task in tasks])
    equal_to_the_generic_route(hierarchy_of(observe), tasks, "gram")


def test_theta_of_two_sites_is_not_taken_for_independent() -> None:
    """The second θ is centred on the first, and only in one task."""

    def task(phi: tuple[Tensor, Tensor, Tensor], x: Tensor, y: Tensor | None = None, *, link: Tensor) -> Tensor:
        mu, tau, sigma = phi
        level = pyro.sample("level", dist.Normal(mu, tau))
        slope = pyro.sample("slope", dist.Normal(link * level, 1.0))
        return pyro.sample("y", dist.Normal(level + slope * x, sigma).to_event(1), obs=y)

    rng = np.random.default_rng(0)
    xs, ys = rng.normal(size=(60, 4)), rng.normal(size=(60, 4))
    link = np.zeros(60)
    link[37] = 1.0
    tasks = bm.Tasks.from_arrays(xs, ys, context={"link": link})
    equal_to_the_generic_route(bm.Hierarchy(hyperprior, task), tasks, "gram")


def test_a_prior_that_looks_at_later_rows_is_seen() -> None:
    """Repeated rows do not change a maximum, so the tasks are padded; one task alone has the flag in a later row."""

    def task(phi: tuple[Tensor, Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        mu, tau, sigma = phi
        theta = pyro.sample("theta", dist.Normal(mu + x[:, 1].max(), tau))
        return pyro.sample("y", dist.Normal(theta + x[:, 0], sigma).to_event(1), obs=y)

    equal_to_the_generic_route(bm.Hierarchy(hyperprior, task), flagged(), "exact")


def test_a_mean_that_bends_far_away_in_phi_is_seen() -> None:
    def observe(theta: Tensor, x: Tensor, phi: tuple[Tensor, Tensor, Tensor]) -> Any:
        return dist.Normal(theta + (phi[0] + 20).relu() * x, phi[2]).to_event(1)

    equal_to_the_generic_route(hierarchy_of(observe), ragged(), "exact")


def test_new_tasks_that_the_reduction_does_not_describe_take_the_generic_route() -> None:
    """φ enters the mean of the new tasks only, where a flag is set that no task of the fit has."""

    def observe(theta: Tensor, x: Tensor, phi: tuple[Tensor, Tensor, Tensor]) -> Any:
        return dist.Normal(theta + x[:, 0] + phi[0] * x[:, 1], phi[2]).to_event(1)

    tasks = flagged()
    program = hierarchy_of(observe).program(tasks[:20])
    evidence = Gram.find(program, tasks[:20])
    assert evidence is not None
    assert len(evidence.linear.entering) == 0
    assert isinstance(evidence.on(tasks[20:30]), Gram)
    moved = evidence.on(tasks[30:])
    values = {"mu": 2.0, "tau": 1.0, "sigma": 0.7}
    torch.testing.assert_close(
        per_task(moved, values), per_task(Exact(program, tasks[30:]), values), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("tau", [1e-3, 1e-6])
def test_a_narrow_population_far_from_zero_loses_no_digits(tau: float) -> None:
    """Counted from zero, terms of the size (250 / tau)^2 would cancel."""
    tasks = ragged()
    shifted = bm.Tasks.from_lists([task.x for task in tasks], [250 + task.y for task in tasks])
    program = hierarchy_of(NORMAL["expanded-scalar"]).program(shifted)
    values = {"mu": 250.0, "tau": tau, "sigma": 0.7}
    expected = []
    for task in shifted:
        covariance = tau**2 * np.ones((task.n, task.n)) + 0.49 * np.eye(task.n)
        residual = task.y.numpy() - 250.0
        distance = residual @ np.linalg.solve(covariance, residual)
        expected.append(-0.5 * (distance + np.linalg.slogdet(2 * np.pi * covariance)[1]))
    for evidence in roads(program, shifted):
        np.testing.assert_allclose(per_task(evidence, values), expected, rtol=1e-9)
