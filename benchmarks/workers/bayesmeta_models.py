"""The hierarchies as a user of bayesmeta writes them: one task, without batch dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch

import bayesmeta as bm
from benchmarks.workers.common import Arrays

__all__ = ["hierarchy", "tasks"]


def hierarchy(kind: str) -> bm.Hierarchy:
    """The radon hierarchy or the linear one."""
    pairs = {"radon": (radon_hyperprior, radon_task), "linear": (linear_hyperprior, linear_task)}
    return bm.Hierarchy(*pairs[kind])


def tasks(data: Arrays) -> bm.Tasks:
    """The rows as tasks: lists for radon's ragged counties, arrays where all tasks are of one size."""
    if data.kind == "linear":
        return bm.Tasks.from_arrays(*data.by_task)
    bounds = np.flatnonzero(np.diff(data.task)) + 1
    return bm.Tasks.from_lists(np.split(data.x, bounds), np.split(data.y, bounds))


def radon_hyperprior() -> Any:
    sigma_y = pyro.sample("sigma_y", dist.HalfNormal(1.0))
    sigma_alpha = pyro.sample("sigma_alpha", dist.HalfNormal(1.0))
    mu_alpha = pyro.sample("mu_alpha", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 10.0))
    return sigma_y, sigma_alpha, mu_alpha, beta


def radon_task(phi: Any, x: Any, y: Any = None) -> Any:
    sigma_y, sigma_alpha, mu_alpha, beta = phi
    alpha = pyro.sample("alpha", dist.Normal(mu_alpha, sigma_alpha))
    return pyro.sample("y", dist.Normal(alpha + beta * x, sigma_y).to_event(1), obs=y)


def linear_hyperprior() -> Any:
    mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 5.0).to_event(1))
    tau = pyro.sample("tau", dist.HalfNormal(torch.ones(2)).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    return mu, tau, sigma


def linear_task(phi: Any, x: Any, y: Any = None) -> Any:
    mu, tau, sigma = phi
    theta = pyro.sample("theta", dist.Normal(mu, tau).to_event(1))
    return pyro.sample("y", dist.Normal(theta[0] + theta[1] * x, sigma).to_event(1), obs=y)
