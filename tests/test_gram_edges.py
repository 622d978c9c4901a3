"""The evidence from Gram matrices where θ hardly varies or is perfectly correlated: against the marginal of y."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

import bayesmeta as bm
from bayesmeta.evidence import Exact, Gram, choose
from bayesmeta.evidence.gram import NARROW, WIDE
from bayesmeta.sites import quiet_pyro
from tests.evidences import gallery, value_and_gradient
from tests.truth import Array


def found(model: str) -> tuple[Gram, bm.Tasks]:
    module = gallery(model)
    tasks = module.load()
    evidence = Gram.find(module.hierarchy.program(tasks), tasks)
    assert evidence is not None
    return evidence, tasks


def by_hand(task: bm.Task, tau: Array, corner: Array, mean: Array, sigma: float, design: Array) -> float:
    """log N(y; A m, A V A' + σ²), V of rank one or less being no trouble here."""
    root = tau[:, None] * corner
    covariance = design @ root @ root.T @ design.T + sigma**2 * np.eye(task.n)
    return float(stats.multivariate_normal(design @ mean, covariance).logpdf(task.y.numpy()))


@pytest.mark.parametrize("log_tau", [0.0, -5.0, -40.0, -162.0])
@pytest.mark.parametrize("corner", [0.0, 3.0, -12.0, -45.0])
def test_orthodont_at_the_edges(log_tau: float, corner: float) -> None:
    evidence, tasks = found("orthodont")
    program = evidence.program
    names = {site.name: k for k, site in enumerate(program.structure.phi)}
    assert list(names) == ["tau", "L", "girls", "boys", "sigma"]
    u = torch.tensor([0.6, log_tau, corner, 22.0, 0.5, 25.0, 0.8, 0.3], dtype=torch.float64)
    with quiet_pyro():
        phi = program.phi(u)
        mine = evidence.per_task(phi, evidence.data)
        total = evidence.total(phi, evidence.data)
    values = {name: value.numpy() for name, value in phi.values.items()}
    expected = []
    for task in tasks:
        mean = values["boys"] if float(task.context["boy"]) == 1 else values["girls"]
        design = np.column_stack([np.ones(task.n), task.x.reshape(task.n).numpy() - 11.0])
        expected.append(by_hand(task, values["tau"], values["L"], mean, float(values["sigma"]), design))

    np.testing.assert_allclose(mine.numpy(), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(float(total), sum(expected), rtol=1e-9)


@pytest.mark.parametrize("model", ["orthodont", "sleepstudy"])
def test_multivariate_normals_are_read_off_and_agree_with_the_generic_road(model: str) -> None:
    evidence, tasks = found(model)
    generic = Exact(evidence.program, tasks)
    generator = torch.Generator().manual_seed(0)

    assert evidence.linear.prior == "normal"
    for _ in range(3):
        u = torch.randn(evidence.program.structure.phi.size, generator=generator, dtype=torch.float64)
        mine: tuple[Tensor, Tensor] = value_and_gradient(evidence, u)
        theirs: tuple[Tensor, Tensor] = value_and_gradient(generic, u)
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------------------------------------------
# Three points that lie nearly on a line: the likelihood is highest where σ is small, and there rounding is large


def nearly_a_line() -> bm.Tasks:
    return bm.Tasks.from_arrays(np.array([[-3.5, 0.5, 4.5]]), np.array([[194.3322, 220.4579, 247.5153]]))


def fractions(values: Tensor) -> Any:
    """The same numbers, exactly."""
    return np.array([Fraction(value) for value in values.reshape(-1).tolist()]).reshape(values.shape)


def marginal(task: bm.Task, values: dict[str, Tensor]) -> float:
    """log N(y; A m, A S S' A' + σ²) of a level and a slope by fractions, in which nothing is rounded."""
    m, tau, corner, sigma = (fractions(values[name]) for name in ("mu", "tau", "L", "sigma"))
    x = fractions(task.x).reshape(-1)
    design, root = np.column_stack([x**0, x]), tau[:, None] * corner
    rest = fractions(task.y) - design @ m
    matrix = design @ root @ root.T @ design.T + sigma.item() ** 2 * np.diag([Fraction(1)] * task.n)
    log_det, quadratic = 0.0, Fraction(0)
    for k in range(task.n):  # by Gauss, the pivots being those of the Cholesky factor
        pivot = matrix[k, k]
        log_det += math.log(pivot.numerator) - math.log(pivot.denominator)
        quadratic += rest[k] ** 2 / pivot
        factor = matrix[k + 1 :, k] / pivot
        matrix[k + 1 :] -= factor[:, None] * matrix[k]
        rest[k + 1 :] -= factor * rest[k]
    return -0.5 * (float(quadratic) + log_det + task.n * math.log(2 * math.pi))


@pytest.mark.parametrize("road", ["narrow", "wide", "exact"])
def test_where_rounding_takes_over_log_z_is_too_small_and_never_too_large(road: str) -> None:
    """An enormous density that is not there would draw all weight and every chain to it."""
    tasks = nearly_a_line()
    program = bm.families.linear(tasks, correlated=True, origin="zero").program(tasks)
    evidence = Exact(program, tasks) if road == "exact" else Gram.find(program, tasks)
    assert evidence is not None
    if isinstance(evidence, Gram):
        evidence._algebra = WIDE if road == "wide" else NARROW
    generator = torch.Generator().manual_seed(0)
    low, high = torch.tensor([[210.0, 3.0, 0.0, 0.0, -4.0, -25.0], [220.0, 9.0, 15.0, 30.0, 4.0, 0.0]]).double()
    near = 0
    for share in torch.rand(80, 6, generator=generator, dtype=torch.float64):
        with quiet_pyro():
            phi = program.phi(low + (high - low) * share)
            found = [float(evidence.per_task(phi, evidence.data)), float(evidence.total(phi, evidence.data))]
        truth = marginal(tasks[0], phi.values)
        assert not any(value > truth + 1e-5 * (1 + abs(truth)) for value in found)  # NaN where no factor is to be had
        if float(phi.values["sigma"]) > 1e-3 and float(phi.values["tau"].max()) < 1e6:
            near += 1
            assert found == pytest.approx([truth, truth], rel=1e-6, abs=1e-6)
    assert near > 5


@pytest.mark.parametrize(("offset", "gram"), [(0.0, True), (1e3, True), (2_458_000.0, False)])
def test_observations_far_from_zero_are_left_to_the_generic_road(offset: float, gram: bool) -> None:
    """Levels about an offset with a noise of .01: log Z is that of the same data without the offset."""

    def evidence(offset: float) -> tuple[Gram | Exact, Tensor]:
        def hyperprior() -> tuple[Tensor, Tensor]:
            return pyro.sample("mu", dist.Normal(offset, 10.0)), pyro.sample("sigma", dist.HalfNormal(0.1))

        def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Any:
            theta = pyro.sample("theta", dist.Normal(phi[0], 0.05))
            return pyro.sample("y", dist.Normal(theta, phi[1]).expand([len(x)]).to_event(1), obs=y)

        generator = torch.Generator().manual_seed(1)
        level = 0.05 * torch.randn(10, 1, generator=generator, dtype=torch.float64)
        noise = 0.01 * torch.randn(10, 8, generator=generator, dtype=torch.float64)
        tasks = bm.Tasks.from_arrays(torch.zeros(10, 8, 1), offset + level + noise)
        program = bm.Hierarchy(hyperprior, task).program(tasks)
        with quiet_pyro():
            found: Any = choose(program, tasks)
            phi = program.phi(torch.tensor([offset, math.log(0.01)], dtype=torch.float64))
            return found, found.total(phi, found.data)

    found, value = evidence(offset)
    assert isinstance(found, Gram) is gram
    assert float((value - evidence(0.0)[1]).abs()) < 1e-3


def _observing(of_y: Any) -> bm.Hierarchy:
    """A level with noise, where the task makes something of y before it observes it."""

    def hyperprior() -> tuple[Tensor, Tensor]:
        return pyro.sample("mu", dist.Normal(0.0, 3.0)), pyro.sample("sigma", dist.HalfNormal(1.0))

    def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi[0], 1.0))
        obs = None if y is None else of_y(y, theta)
        return pyro.sample("y", dist.Normal(theta + torch.zeros(len(x)), phi[1]).to_event(1), obs=obs)

    return bm.Hierarchy(hyperprior, task)


def test_what_is_observed_counts_and_not_y() -> None:
    y = torch.randn(60, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y[3, 0], y[40, 2] = 50.0, -40.0  # in tasks that no look at a few of them meets
    tasks = bm.Tasks.from_arrays(None, y)
    clipped = Gram.find(_observing(lambda y, theta: y.clamp(-3.0, 3.0)).program(tasks), tasks)
    column = bm.Tasks.from_arrays(None, y.unsqueeze(-1))
    picked = Gram.find(_observing(lambda y, theta: y[:, 0]).program(column), column)
    by_hand = bm.Tasks.from_arrays(None, y.clamp(-3.0, 3.0))
    assert clipped is not None
    assert picked is not None

    for gram, same in ((clipped, by_hand), (picked, tasks)):
        plain = Exact(_observing(lambda y, theta: y).program(same), same)
        with quiet_pyro():
            phi = plain.program.phi(torch.tensor([0.3, -0.2]))
            torch.testing.assert_close(gram.per_task(phi, gram.data), plain.per_task(phi, plain.data))


def test_observations_that_depend_on_theta_have_no_gram_matrix() -> None:
    tasks = bm.Tasks.from_arrays(None, torch.randn(6, 4, generator=torch.Generator().manual_seed(1)))

    assert Gram.find(_observing(lambda y, theta: y - theta).program(tasks), tasks) is None
