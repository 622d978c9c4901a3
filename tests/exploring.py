"""Posteriors that the tests of the interactive view look at: one for each kind of input and outcome, all small."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import bayesmeta as bm

__all__ = ["KINDS", "at_levels", "columns_and_context", "curve", "nothing", "yes_or_no"]

NAMES = [f"clinic {t}" for t in range(12)]
QUICK = bm.Laplace(draws=400)  # which is doubtful here and there


def _lines() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    mu, slope = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("slope", dist.Normal(0.0, 5.0))
    return mu, slope, pyro.sample("tau", dist.HalfNormal(1.0)), pyro.sample("sigma", dist.HalfNormal(1.0))


def _line(phi: tuple[Tensor, ...], x: Tensor, y: Tensor | None = None) -> Tensor:
    mu, slope, tau, sigma = phi
    with pyro.plate("coefficient", 2):
        beta = pyro.sample("beta", dist.Normal(torch.stack([mu, slope]), tau))
    return pyro.sample("y", dist.Normal(beta[0] + beta[1] * x, sigma).to_event(1), obs=y)


@cache
def curve() -> bm.Posterior:
    """Any number in, any number out; θ of two elements; names of columns."""
    return bm.fit(bm.Hierarchy(_lines, _line), clinics(12), QUICK, progress=False)


def clinics(count: int, seed: int = 0, name: str = "clinic") -> bm.Tasks:
    """Clinics with six patients each: intercepts about 1, slopes about 2, noise of .3."""
    rng = np.random.default_rng(seed)
    rows = []
    for t in range(count):
        level, slope = rng.normal(1.0, 0.4), rng.normal(2.0, 0.4)
        rows += [(f"{name} {t}", x, level + slope * x + 0.3 * rng.normal()) for x in rng.uniform(-1, 1, 6)]
    frame = pd.DataFrame(rows, columns=["clinic", "dose", "response"])
    return bm.Tasks.from_frame(frame, task="clinic", x="dose", y="response")


@cache
def at_levels() -> bm.Posterior:
    """A factor in, any number out."""
    rng = np.random.default_rng(1)
    xs = [rng.integers(0, 2, 5).astype(float) for _ in NAMES]
    ys = [rng.normal(1.0, 0.5) + 2 * x + 0.3 * rng.normal(size=5) for x in xs]
    return bm.fit(bm.Hierarchy(_lines, _line), bm.Tasks.from_lists(xs, ys, names=NAMES), QUICK, progress=False)


@cache
def nothing() -> bm.Posterior:
    """No input: scores about a level."""

    def hyperprior() -> tuple[Tensor, Tensor]:
        return pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfNormal(2.0))

    def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(*phi))
        return pyro.sample("y", dist.Normal(theta, 0.5).expand([len(x)]).to_event(1), obs=y)

    rng = np.random.default_rng(2)
    ys = [rng.normal(3.0, 1.0) + 0.5 * rng.normal(size=n) for n in (1, 2, 4, 4, 8)]
    return bm.fit(bm.Hierarchy(hyperprior, task), bm.Tasks.from_lists(None, ys), QUICK, progress=False)


@cache
def columns_and_context() -> bm.Posterior:
    """Two columns in, one of whole numbers, and a context; counts that are Normal out."""

    def task(phi: tuple[Tensor, ...], x: Tensor, y: Tensor | None = None, *, size: Tensor) -> Tensor:
        mu, slope, tau, sigma = phi
        level = pyro.sample("level", dist.Normal(mu + size, tau))
        return pyro.sample("y", dist.Normal(level + slope * x[:, 0] + x[:, 1], sigma).to_event(1), obs=y)

    rng = np.random.default_rng(3)
    xs = [np.stack([rng.uniform(0, 1, 6), rng.integers(0, 9, 6)], 1) for _ in NAMES]
    sizes = rng.normal(size=len(NAMES))
    levels = 10 + sizes + rng.normal(size=len(NAMES))
    ys = [np.round(level + x.sum(1) + rng.normal(size=6)) for x, level in zip(xs, levels, strict=True)]
    tasks = bm.Tasks.from_lists(xs, ys, names=NAMES, context={"size": sizes})
    return bm.fit(bm.Hierarchy(_lines, task), tasks, QUICK, progress=False)


@cache
def yes_or_no() -> bm.Posterior:
    """Yes or no out, by quadrature."""

    def task(mu: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        level = pyro.sample("level", dist.Normal(mu, 1.0))
        return pyro.sample("y", dist.Bernoulli(logits=level + x).to_event(1), obs=y)

    rng = np.random.default_rng(4)
    xs = [rng.uniform(-2, 2, 8) for _ in range(6)]
    ys = [(rng.uniform(size=8) < 1 / (1 + np.exp(-x))).astype(float) for x in xs]
    hierarchy = bm.Hierarchy(lambda: pyro.sample("mu", dist.Normal(0.0, 2.0)), task)
    return bm.fit(hierarchy, bm.Tasks.from_lists(xs, ys), QUICK, progress=False)


KINDS: dict[str, Any] = {
    "curve": curve,
    "levels": at_levels,
    "nothing": nothing,
    "columns": columns_and_context,
    "yes_or_no": yes_or_no,
}
