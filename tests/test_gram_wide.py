"""Gram matrices with many coordinates of θ: dense algebra equal to the written-out one, and to the generic route."""

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
from bayesmeta.evidence import Exact, Gram
from bayesmeta.evidence.gaussian import UNROLL
from bayesmeta.evidence.gram import NARROW, WIDE
from bayesmeta.sites import quiet_pyro
from tests.evidences import NORMAL, close, coordinates, gallery, hierarchy_of, ragged, value_and_gradient
from tests.scenarios import SCENARIOS

LINEAR = sorted(name for name in SCENARIOS if SCENARIOS[name]().road == "gram")
Prior = Callable[[Tensor, Tensor], Any]


def equal(one: Gram | Exact, other: Gram | Exact) -> None:
    """The same total, gradient, evidence per task and conditional p(θ | φ, D), to rounding."""
    program = one.program
    for u in coordinates(program, 2, seed=4):
        for mine, theirs in zip(value_and_gradient(one, u), value_and_gradient(other, u), strict=True):
            assert close(mine, theirs, 1e-9)
        with quiet_pyro():
            phi = program.phi(u)
            assert close(one.per_task(phi, one.data), other.per_task(phi, other.data), 1e-9)
            for mine, theirs in zip(one.conditional(phi, one.data), other.conditional(phi, other.data), strict=True):
                assert close(mine, theirs, 1e-9)


def both_ways(hierarchy: bm.Hierarchy, tasks: bm.Tasks) -> tuple[Gram, Gram]:
    """The reduction with either algebra."""
    program = hierarchy.program(tasks)
    narrow, wide = Gram.find(program, tasks), Gram.find(program, tasks)
    assert narrow is not None
    assert wide is not None
    narrow._algebra, wide._algebra = NARROW, WIDE
    return narrow, wide


@pytest.mark.parametrize("name", sorted(NORMAL))
def test_the_two_algebras_agree(name: str) -> None:
    equal(*both_ways(hierarchy_of(NORMAL[name]), ragged()))


@pytest.mark.parametrize("name", LINEAR)
def test_the_two_algebras_agree_on_the_scenarios(name: str) -> None:
    scenario = SCENARIOS[name]()
    equal(*both_ways(scenario.hierarchy, scenario.tasks))


@pytest.mark.parametrize("name", ["radon", "sleepstudy"])
def test_the_two_algebras_agree_on_real_data(name: str) -> None:
    model = gallery(name)
    equal(*both_ways(model.hierarchy, model.load()))


def test_a_wrong_algebra_is_seen() -> None:
    narrow, wide = both_ways(hierarchy_of(NORMAL["phi-coefficient"]), ragged())
    wide._algebra = WIDE._replace(total=lambda prior, w, blocks, shared: WIDE.total(prior, 1.01 * w, blocks, shared))
    with pytest.raises(AssertionError, match="close"):
        equal(narrow, wide)


# ---------------------------------------------------------------------------------------------------------
# Regressions with many coefficients


def regression(p: int, prior: Prior) -> bm.Hierarchy:
    """y = x'θ + a coefficient of φ, with p coefficients in θ."""

    def hyperprior() -> tuple[Tensor, Tensor, Tensor]:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0).expand([p]).to_event(1))
        tau = pyro.sample("tau", dist.HalfNormal(1.0).expand([p]).to_event(1))
        return mu, tau, pyro.sample("sigma", dist.HalfNormal(1.0))

    def task(phi: tuple[Tensor, Tensor, Tensor], x: Tensor, y: Tensor | None = None, *, arm: Tensor) -> Tensor:
        mu, tau, sigma = phi
        theta = pyro.sample("theta", prior(mu + arm, tau))
        return pyro.sample("y", dist.Normal(x @ theta + mu[0] * x[:, 1], sigma).to_event(1), obs=y)

    return bm.Hierarchy(hyperprior, task)


def regressions(p: int, arms: bool) -> bm.Tasks:
    rng = np.random.default_rng(p)
    sizes = (2 * p, 3, p + 1, 1)
    context = {"arm": rng.integers(0, 2, len(sizes)).astype(float) if arms else np.zeros(len(sizes))}
    xs = [rng.normal(size=(n, p)) for n in sizes]
    return bm.Tasks.from_lists(xs, [x.sum(1) + rng.normal(size=len(x)) for x in xs], context=context)


def correlated(mu: Tensor, tau: Tensor) -> Any:
    p = len(mu)
    root = torch.tril(torch.full((p, p), 0.3, dtype=mu.dtype), -1) + torch.eye(p, dtype=mu.dtype)
    return dist.MultivariateNormal(mu, scale_tril=tau.unsqueeze(-1) * root)


PRIORS: dict[str, Prior] = {
    "independent": lambda mu, tau: dist.Normal(mu, tau).to_event(1),
    "correlated": correlated,
    "by expansion": lambda mu, tau: dist.TransformedDistribution(
        dist.Normal(torch.zeros_like(mu), 1.0).to_event(1),
        [dist.transforms.AffineTransform(mu, tau, event_dim=1)],
    ),
}


@pytest.mark.parametrize("arms", [False, True], ids=["one prior", "a prior for each task"])
@pytest.mark.parametrize("prior", sorted(PRIORS))
def test_many_coefficients_are_what_the_generic_route_makes_of_them(prior: str, arms: bool) -> None:
    p = UNROLL + 3
    hierarchy, tasks = regression(p, PRIORS[prior]), regressions(p, arms)
    program = hierarchy.program(tasks)
    gram = Gram.find(program, tasks)

    assert gram is not None
    assert gram._algebra is WIDE
    equal(gram, Exact(program, tasks))


def test_forty_coefficients_are_fitted_and_adapted() -> None:
    """What is said of a task lies about the textbook's posterior at the mean of φ."""
    p = 40
    tasks = regressions(p, arms=False)
    posterior = bm.fit(regression(p, PRIORS["independent"]), tasks, inference=bm.Laplace(draws=50), progress=False)
    adapted = posterior.adapt(tasks[:1], strangers="ignore")

    phi = {name: values.mean(0) for name, values in posterior.phi.items()}
    x, y = tasks[0].x, tasks[0].y - phi["mu"][0] * tasks[0].x[:, 1]
    precision = torch.diag(phi["tau"] ** -2) + x.mT @ x / phi["sigma"] ** 2
    mean = torch.linalg.solve(precision, phi["mu"] / phi["tau"] ** 2 + x.mT @ y / phi["sigma"] ** 2)
    drawn = adapted.theta["theta"][:, 0]
    assert torch.corrcoef(torch.stack([mean, drawn.mean(0)]))[0, 1] > 0.95
