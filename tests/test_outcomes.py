"""Observations that no parameter can give are refused, though torch has a density for them."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.errors import DataError

KINDS: dict[str, Any] = {
    "Bernoulli": lambda level: dist.Bernoulli(logits=level),
    "Binomial": lambda level: dist.Binomial(4, logits=level),
    "Poisson": lambda level: dist.Poisson(level.exp()),
    "GammaPoisson": lambda level: dist.GammaPoisson(2.0, 2.0 / level.exp()),
    "Exponential": lambda level: dist.Exponential(level.exp()),
    "Categorical": lambda level: dist.Categorical(logits=torch.stack([level, 0 * level, -level], -1)),
}


def hierarchy(kind: str) -> bm.Hierarchy:
    def hyperprior() -> Tensor:
        return pyro.sample("mu", dist.Normal(0.0, 1.0))

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi, 1.0))
        return pyro.sample("y", KINDS[kind](theta + torch.zeros(len(x))).to_event(1), obs=y)

    return bm.Hierarchy(hyperprior, task)


def tasks(*last: float) -> bm.Tasks:
    """Three tasks that every kind can give, and one more."""
    return bm.Tasks.from_lists(None, [[0.0, 1.0], [1.0], [0.0, 0.0, 1.0], list(last)], names=["a", "b", "c", "odd"])


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("Bernoulli", 2.0),
        ("Bernoulli", -1.0),
        ("Bernoulli", 0.5),
        ("Binomial", 2.5),
        ("Binomial", 5.0),
        ("Poisson", -0.5),
        ("GammaPoisson", 1.5),
        ("Exponential", -1.0),
        ("Categorical", 3.0),
        ("Categorical", 1.5),
    ],
)
def test_what_cannot_be_is_refused_by_fit_adapt_and_update(kind: str, value: float) -> None:
    wrong = rf"y of task 'odd'.*{kind}, cannot give \(among"

    with pytest.raises(DataError, match=wrong):
        bm.fit(hierarchy(kind), tasks(1.0, value), bm.Laplace(draws=20), progress=False)
    posterior = bm.fit(hierarchy(kind), tasks(1.0)[:3], bm.Laplace(draws=20), progress=False)
    for ask in (posterior.adapt, posterior.update):
        with pytest.raises(DataError, match=wrong):
            ask(tasks(1.0, value)[3:])


@pytest.mark.parametrize("kind", KINDS)
def test_what_can_be_is_taken(kind: str) -> None:
    posterior = bm.fit(hierarchy(kind), tasks(1.0, 0.0), bm.Laplace(draws=20), progress=False)

    assert posterior.collapsed.program.structure.bounded
    assert posterior.adapt(tasks(1.0, 0.0).with_names(["1", "2", "3", "4"])).theta["theta"].shape == (20, 4)
