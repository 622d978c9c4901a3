"""Adaptation by gradient steps: where they begin, how they go, when they stop; and the curvature of many θ."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.adapt.curvature import DENSE, LowRank, Root, curvature_at
from bayesmeta.adapt.density import TaskDensity
from bayesmeta.adapt.laplace import laplace_at, top_of
from bayesmeta.adapt.steps import Optimiser, ascend, best_rate
from bayesmeta.errors import NotAvailableError
from bayesmeta.evidence import Joint, collapse
from bayesmeta.evidence.conditional import log_evidence
from tests.adapting import counts, lines, new_counts, new_lines

WIDTH = DENSE + 20
STILL = {"spread": "none", "path": True}


# --- steps ----------------------------------------------------------------------------------------------------


def quadratic(v: Tensor) -> tuple[Tensor, Tensor]:
    """A density of two tasks under three draws of φ, one of them four times as sharp."""
    precision = torch.tensor([1.0, 4.0], dtype=torch.float64)[:, None]
    away = v - 1.0
    return -0.5 * (precision * away.square()).sum(-1), -precision * away


def test_gradient_steps_at_a_rate_are_those_by_hand() -> None:
    path = ascend(quadratic, torch.zeros(3, 2, 2), 5, "sgd", 0.1)
    wanted = torch.stack([1 - 0.9 ** torch.arange(6.0), 1 - 0.6 ** torch.arange(6.0)], 1)

    assert path.shape == (6, 3, 2, 2)
    torch.testing.assert_close(path[:, 0, :, 0], wanted.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("optimiser", "steps"), [("sgd", 60), ("adam", 150), ("lbfgs", 20)])
def test_every_optimiser_arrives(optimiser: Optimiser, steps: int) -> None:
    path = ascend(quadratic, torch.full((3, 2, 2), -2.0, dtype=torch.float64), steps, optimiser, None)

    assert path.shape == (steps + 1, 3, 2, 2)
    assert float((path[-1] - 1).abs().max()) < 0.02
    assert float((path[0] - 1).abs().max()) > 0.02


def test_the_rate_of_adam_is_found() -> None:
    far = torch.full((3, 2, 2), -5.0, dtype=torch.float64)

    def narrow(v: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = quadratic(1 + 100 * (v - 1))
        return value, 100 * grad

    assert best_rate(quadratic, far, 20) == 0.3
    assert best_rate(narrow, torch.full((3, 2, 2), 0.8, dtype=torch.float64), 20) < 0.3


# --- beginning, path and end ----------------------------------------------------------------------------------


def test_the_path_begins_at_the_prior_mean_and_ends_at_the_mode() -> None:
    fit, new = lines(), new_lines(2)
    adapted = fit.adapt(new, method="gradient", options=STILL)
    mean = adapted.phi["mean"]

    assert adapted.path.shape == (51, 1000, 2, 2)
    torch.testing.assert_close(adapted.path[0], mean)
    torch.testing.assert_close(adapted.path[-1], adapted.theta["theta"])
    x, y = new[0].x, new[0].y
    design = torch.stack([torch.ones_like(x), x], 1)
    noise, spread = adapted.phi["noise"][7, 0], adapted.phi["spread"][7, 0]
    precision = design.mT @ design / noise**2 + torch.diag(spread**-2)
    mode = torch.linalg.solve(precision, design.mT @ y / noise**2 + mean[7, 0] / spread**2)
    torch.testing.assert_close(adapted.path[-1, 7, 0], mode, rtol=1e-3, atol=1e-3)


def test_without_a_path_it_is_said_how_to_keep_one() -> None:
    with pytest.raises(NotAvailableError, match=r"no path was kept by method 'exact'.*options=\{'path': True\}"):
        _ = lines().adapt(new_lines(1)).path


def test_starts() -> None:
    fit, new = lines(), new_lines(1)
    drawn = fit.adapt(new, method="gradient", options={**STILL, "start": "draw", "steps": 0, "weights": "equal"})
    away = (drawn.path[0, :, 0] - drawn.phi["mean"][:, 0]) / drawn.phi["spread"][:, 0]

    assert float((away.mean(0)).abs().max()) < 4 / 1000**0.5
    assert float((away.std(0) - 1).abs().max()) < 4 / 2000**0.5
    zero = fit.adapt(new, method="gradient", options={**STILL, "start": "zero", "steps": 0, "weights": "equal"})
    torch.testing.assert_close(zero.path[0], zero.phi["mean"])


def gamma_rates(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
    theta = pyro.sample("theta", dist.Gamma(4.0, 4.0 / phi))
    value: Tensor = pyro.sample("y", dist.Poisson(theta).expand([len(x)]).to_event(1), obs=y)
    return value


def test_a_prior_that_is_not_normal_is_begun_at_its_mode() -> None:
    hierarchy = bm.Hierarchy(lambda: pyro.sample("mean", dist.Gamma(2.0, 1.0)), gamma_rates)
    tasks = bm.Tasks.from_lists(None, [[1.0, 3.0], [2.0, 2.0], [0.0, 1.0], [4.0, 2.0]])
    fit = bm.fit(hierarchy, tasks, bm.Laplace(draws=300), progress=False)
    new = bm.Tasks.from_lists(None, [[3.0]], names=["new"])
    adapted = fit.adapt(new, method="gradient", options=STILL)
    exact = fit.adapt(new, method="gradient")
    mean = fit.phi["mean"]

    # in log θ the mode of a gamma is its mean, shape over rate, and so is that of the posterior
    torch.testing.assert_close(adapted.path[0, :, 0, 0].exp(), adapted.phi["mean"][:, 0], rtol=1e-3, atol=1e-3)
    weights = torch.distributions.NegativeBinomial(4.0, probs=1 / (1 + 4 / mean)).log_prob(torch.tensor(3.0)).exp()
    wanted = (weights * 7 / (4 / mean + 1)).sum() / weights.sum()
    theta = exact.theta["theta"][:, 0]
    assert abs(float(theta.mean() - wanted)) < 4 * float(theta.std()) / 150**0.5


def test_held_out_observations_stop_what_would_go_too_far() -> None:
    fit = lines()
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, 12)
    tasks = bm.Tasks.from_lists([x, [0.3]], [1 - 0.5 * x + 0.5 * rng.normal(size=12), [1.0]], names=["many", "one"])
    options = {**STILL, "optimiser": "sgd", "learning_rate": 1e-3, "steps": 30, "held_out": 0.3, "members": 100}
    slow = fit.adapt(tasks, method="gradient", options=options)
    wild = fit.adapt(tasks, method="gradient", options={**options, "learning_rate": 1.0, "weights": "equal"})

    assert "stopped after" in slow.reason
    assert wild.reason.endswith("stopped after 0 to 30 steps, by what was held out")
    torch.testing.assert_close(wild.path[-1, :, 0], wild.path[0, :, 0])
    assert slow.path.shape == wild.path.shape == (31, 100, 2, 2)


# --- curvature of many θ --------------------------------------------------------------------------------------


@cache
def wide() -> tuple[bm.Hierarchy, bm.Tasks]:
    """Linear-Gaussian with more θ than a dense Hessian is made for, and few observations."""

    def hyperprior() -> Tensor:
        value: Tensor = pyro.sample("tau", dist.HalfNormal(1.0))
        return value

    def task(tau: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(0.0, tau).expand([WIDTH]).to_event(1))
        value: Tensor = pyro.sample("y", dist.Normal(x @ theta, 0.5).to_event(1), obs=y)
        return value

    rng = np.random.default_rng(1)
    xs = [rng.normal(size=(n, WIDTH)) / 4 for n in (5, 3)]
    return bm.Hierarchy(hyperprior, task), bm.Tasks.from_lists(xs, [rng.normal(size=len(x)) for x in xs])


def test_a_few_observations_curve_few_directions() -> None:
    hierarchy, tasks = wide()
    program = hierarchy.program(tasks)
    phi = torch.tensor([[0.0], [-0.5]], dtype=torch.float64)
    density = TaskDensity(program, tasks, phi)
    evidence = collapse(program, tasks)
    mode = top_of(density.value_and_grad, torch.zeros(density.shape, dtype=torch.float64))
    found = laplace_at(density, mode, seed=0)

    assert evidence is not None
    assert isinstance(found.spread, LowRank)
    torch.testing.assert_close(found.log_z, log_evidence(evidence, phi), rtol=1e-6, atol=1e-4)
    z = torch.randn(density.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    white = density.terms(mode + found.spread.times(z))
    # the density falls by z'z/2 along every direction, wide or narrow
    fallen = sum(density.terms(mode)) - sum(white)
    torch.testing.assert_close(fallen, 0.5 * z.square().sum(-1), rtol=1e-4, atol=1e-3)
    # the check can fail: as wide as the prior everywhere
    assert float((sum(density.terms(mode)) - sum(density.terms(mode + z)) - 0.5 * z.square().sum(-1)).max()) > 1


@pytest.mark.parametrize("method", ["gradient", "laplace", "auto"])
def test_many_coordinates_are_adapted(method: str) -> None:
    """Against the mean and sd of the function by algebra, under the same draws of φ."""
    hierarchy, tasks = wide()
    log_tau = 0.2 * torch.randn(1, 60, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    evidence = Joint(hierarchy.program(tasks), tasks, centring=True)
    u = torch.cat([log_tau, torch.zeros(1, 60, 2 * WIDTH, dtype=torch.float64)], -1)
    fit = bm.Posterior(hierarchy, tasks, evidence, replace(lines().draws, u=u), lines().info)
    new = tasks.with_names(["a", "b"])
    adapted = fit.adapt(new, method=method)
    x, tau = new[0].x, adapted.phi["tau"][:, 0]
    gain = torch.stack([x.mT @ torch.linalg.inv(x @ x.mT + 0.25 / t**2 * torch.eye(5)) for t in tau])
    gram = x @ x.mT
    seen, wanted = adapted.theta["theta"][:, 0] @ x.mT, (gain @ new[0].y) @ x.mT
    variance = tau[:, None] ** 2 * (gram - x @ gain @ gram).diagonal(dim1=-2, dim2=-1)

    assert adapted.method == ("gradient" if method == "auto" else method)
    assert adapted.theta["theta"].shape == (60, 2, WIDTH)
    assert adapted.k_hat_theta.max() < 0.7
    away = (seen - wanted) / variance.sqrt()
    assert float(away.mean(0).abs().max()) < 4 / 60**0.5
    assert float((away.std(0) - 1).abs().max()) < 4 / 120**0.5


def test_where_the_density_is_no_peak_the_curvature_is_made_one() -> None:
    """Between two modes the second derivative has the wrong sign."""

    def task(tau: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(0.0, tau))
        value: Tensor = pyro.sample("y", dist.Normal(theta.square() + 0 * x, 0.3).to_event(1), obs=y)
        return value

    hierarchy = bm.Hierarchy(lambda: pyro.sample("tau", dist.HalfNormal(1.0)), task)
    tasks = bm.Tasks.from_lists([[0.0]], [[2.0]])
    density = TaskDensity(hierarchy.program(tasks), tasks, torch.zeros(1, 1, dtype=torch.float64))
    _, _, spread = curvature_at(density, torch.zeros(1, 1, 1, dtype=torch.float64))

    assert isinstance(spread, Root)
    assert float(spread.root) == pytest.approx(0.1**-0.5)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_few_plain_steps_on_counts_come_near(optimiser: str) -> None:
    fit, new = counts(), new_counts()
    steps = fit.adapt(new, method="gradient", options={"optimiser": optimiser, "steps": 40, "members": 200})
    best = fit.adapt(new, method="quadrature")
    gap = (steps.theta["theta"].mean(0) - best.theta["theta"].mean(0)).abs() / best.theta["theta"].std(0)

    assert float(gap.max()) < 4 * (1 / 100 + 1 / 500) ** 0.5
    assert steps.k_hat_theta.max() < 0.7
