"""Posteriors for pictures: fits of small tasks, one for each size that pictures must bear, made once in a process."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.posterior import Posterior

__all__ = ["COUNTS", "counts", "levels", "lines", "networks", "outcomes"]

COUNTS = (1, 3, 85, 10_000)
"""Numbers of tasks that every picture must bear."""


@cache
def lines(tasks: int = 85, draws: int = 100) -> Posterior:
    """Lines over one input of many values, θ an intercept and a slope, 2 to 6 observations a task.

    Of more than 85 tasks, φ is that of a fit of 85: what is drawn then is right in kind, and costs no fit.
    """

    def hyperprior() -> dict[str, Tensor]:
        return {
            "mu": pyro.sample("mu", dist.Normal(torch.zeros(2), 3.0).to_event(1)),
            "tau": pyro.sample("tau", dist.HalfNormal(torch.ones(2)).to_event(1)),
            "sigma": pyro.sample("sigma", dist.HalfCauchy(1.0)),
        }

    def task(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi["mu"], phi["tau"]).to_event(1))
        return pyro.sample("y", dist.Normal(theta[0] + theta[1] * x, phi["sigma"]).to_event(1), obs=y)

    rng = np.random.default_rng(0)
    sizes = 2 + np.arange(tasks) % 5
    theta = rng.normal([1.0, -1.0], [0.7, 0.3], size=(tasks, 2))
    xs = [np.sort(rng.uniform(0, 10, size)) for size in sizes]
    ys = [a + b * x + rng.normal(0, 0.5, len(x)) for (a, b), x in zip(theta, xs, strict=True)]
    return _fitted(bm.Hierarchy(hyperprior, task), bm.Tasks.from_lists(xs, ys), draws, lambda: lines(85, draws))


@cache
def levels(tasks: int = 85, draws: int = 100) -> Posterior:
    """A level for each task, no inputs, one context that shifts the population; 1 to 4 observations a task."""

    def hyperprior() -> tuple[Tensor, Tensor]:
        return pyro.sample("mu", dist.Normal(0.0, 2.0)), pyro.sample("tau", dist.HalfNormal(1.0))

    def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None, *, dose: Tensor) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi[0] + dose, phi[1]))
        return pyro.sample("y", dist.Normal(theta, 1.0).expand([len(x)]).to_event(1), obs=y)

    rng = np.random.default_rng(1)
    dose = rng.uniform(0, 1, tasks)
    ys = [rng.normal(d + rng.normal(), 1.0, 1 + k % 4) for k, d in enumerate(dose)]
    made = bm.Tasks.from_lists(None, ys, context={"dose": dose})
    return _fitted(bm.Hierarchy(hyperprior, task), made, draws, lambda: levels(85, draws))


@cache
def outcomes() -> Posterior:
    """Yes or no over one input: θ a level; the slope is in φ."""
    return _generalised(
        lambda logits: dist.Bernoulli(logits=logits), lambda rng, eta: rng.random(len(eta)) < 1 / (1 + np.exp(-eta))
    )


@cache
def counts() -> Posterior:
    """Counts over one input."""
    return _generalised(lambda log_rate: dist.Poisson(log_rate.exp()), lambda rng, eta: rng.poisson(np.exp(eta)))


def _generalised(family: Any, sample: Any) -> Posterior:
    def hyperprior() -> tuple[Tensor, Tensor]:
        return pyro.sample("mu", dist.Normal(0.0, 1.0)), pyro.sample("slope", dist.Normal(0.0, 1.0))

    def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi[0], 1.0))
        return pyro.sample("y", family(theta + phi[1] * x).to_event(1), obs=y)

    rng = np.random.default_rng(2)
    xs = [rng.uniform(-2, 2, 12) for _ in range(5)]
    ys = [sample(rng, 0.5 + rng.normal() + x).astype(np.float64) for x in xs]
    return _fitted(bm.Hierarchy(hyperprior, task), bm.Tasks.from_lists(xs, ys), 60, None)


@cache
def networks() -> Posterior:
    """A posterior that is an ensemble of points, of an exact family."""

    def hyperprior() -> tuple[Tensor, Tensor]:
        return pyro.sample("mu", dist.Normal(0.0, 2.0)), pyro.sample("w", dist.Normal(torch.zeros(40), 1.0).to_event(1))

    def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi[0], 1.0))
        return pyro.sample("y", dist.Normal(theta + phi[1].mean() * x, 1.0).to_event(1), obs=y)

    rng = np.random.default_rng(3)
    xs = [rng.uniform(0, 1, 8) for _ in range(3)]
    tasks = bm.Tasks.from_lists(xs, [rng.normal(size=8) for _ in xs])
    return bm.fit(
        bm.Hierarchy(hyperprior, task), tasks, bm.Ensemble(members=4, steps=15, compile=False), progress=False
    )


def _fitted(hierarchy: bm.Hierarchy, tasks: bm.Tasks, draws: int, smaller: Any) -> Posterior:
    if len(tasks) <= 85:
        return bm.fit(hierarchy, tasks, bm.Laplace(draws=draws), progress=False)
    from bayesmeta.evidence import choose

    fit = smaller()
    evidence = choose(hierarchy.program(tasks), tasks, "auto")
    return Posterior(hierarchy, tasks, evidence, fit.draws, replace(fit.info))
