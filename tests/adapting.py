"""Hierarchies to adapt, and what is exactly true of new tasks under the draws of φ that a fit has."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import stats
from scipy.special import logsumexp
from torch import Tensor

import bayesmeta as bm
from bayesmeta.evidence import Joint
from bayesmeta.evidence.conditional import theta_coordinates
from tests.truth import Array

__all__ = ["LINES", "Mixture", "close", "counts", "counts_of", "line_of", "lines", "new_counts", "new_lines"]


class Mixture(NamedTuple):
    """p(θ | D_new, D) over the draws of φ: weights (S,), and mean and variance of θ under each (S, p)."""

    weights: Array
    mean: Array
    variance: Array

    def moments(self) -> tuple[Array, Array]:
        """Mean and sd of θ (p,)."""
        w = self.weights[:, None]
        mean = (w * self.mean).sum(0)
        return mean, np.sqrt((w * (self.variance + self.mean**2)).sum(0) - mean**2)


def close(draws: Tensor, truth: Mixture, size: float) -> bool:
    """Whether mean and sd of draws (S, p) are within 4 standard errors of so many effective draws."""
    mean, sd = truth.moments()
    values = draws.reshape(len(draws), -1).numpy()
    off, stretch = np.abs(values.mean(0) - mean) / sd, np.abs(values.std(0) / sd - 1)
    return bool((off < 4 / math.sqrt(size)).all() and (stretch < 4 / math.sqrt(size)).all())


# --- lines: linear-Gaussian, two θ ---------------------------------------------------------------------------


def _population_of_lines() -> tuple[Tensor, Tensor, Tensor]:
    mean = pyro.sample("mean", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    spread = pyro.sample("spread", dist.HalfNormal(2.0).expand([2]).to_event(1))
    return mean, spread, pyro.sample("noise", dist.HalfNormal(1.0))


def _line(phi: tuple[Tensor, Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
    mean, spread, noise = phi
    theta = pyro.sample("theta", dist.Normal(mean, spread).to_event(1))
    value: Tensor = pyro.sample("y", dist.Normal(theta[0] + theta[1] * x, noise).to_event(1), obs=y)
    return value


LINES = bm.Hierarchy(_population_of_lines, _line)


def _simulated_lines(count: int, sizes: tuple[int, ...], seed: int, name: str) -> bm.Tasks:
    rng = np.random.default_rng(seed)
    xs, ys = [], []
    for k in range(count):
        x = rng.uniform(-2, 2, sizes[k % len(sizes)])
        a, b = rng.normal([1.0, -0.5], [1.2, 0.7])
        xs.append(x)
        ys.append(a + b * x + 0.5 * rng.normal(size=len(x)))
    return bm.Tasks.from_lists(xs, ys, names=[f"{name}{k}" for k in range(count)])


def new_lines(count: int = 3, seed: int = 1) -> bm.Tasks:
    """New tasks of 1 to 4 points."""
    return _simulated_lines(count, (3, 1, 4), seed, "new")


@cache
def lines(evidence: str = "auto") -> bm.Posterior:
    """A fit to 15 lines; a joint one has the same draws of φ, and draws of θ beside them."""
    tasks = _simulated_lines(15, (4, 6, 3), 0, "")
    if evidence == "joint":
        return jointly(lines())
    return bm.fit(LINES, tasks, bm.Laplace(draws=1000), progress=False)


def jointly(fit: bm.Posterior) -> bm.Posterior:
    """The same draws as a fit of φ and θ together would give them."""
    program = fit.collapsed.program.with_centring(True)
    theta = theta_coordinates(fit.collapsed, fit.phi_coordinates, 0).flatten(1)  # type: ignore[arg-type]
    draws = replace(fit.draws, u=torch.cat([fit.phi_coordinates, theta], 1).unsqueeze(0))
    evidence = Joint(program, fit.tasks, centring=True)
    return bm.Posterior(fit.hierarchy, fit.tasks, evidence, draws, replace(fit.info, evidence="joint"))


def line_of(fit: bm.Posterior, task: bm.Task) -> Mixture:
    """θ of a new line, by algebra in numpy."""
    mean, spread, noise = (fit.phi[name].numpy() for name in ("mean", "spread", "noise"))
    x, y = task.x.numpy().reshape(-1), task.y.numpy()
    a = np.stack([np.ones_like(x), x], 1)
    precision = np.einsum("ni,nj->ij", a, a) / noise[:, None, None] ** 2
    precision = precision + np.stack([np.diag(1 / s**2) for s in spread])
    covariance = np.linalg.inv(precision)
    theta = np.einsum("sij,sj->si", covariance, (y @ a) / noise[:, None] ** 2 + mean / spread**2)
    whole = np.einsum("ni,si,mi->snm", a, spread**2, a) + noise[:, None, None] ** 2 * np.eye(len(y))
    residual = y - mean @ a.T
    log_z = -0.5 * (residual * np.linalg.solve(whole, residual[..., None])[..., 0]).sum(-1)
    log_z = log_z - 0.5 * np.linalg.slogdet(whole)[1]
    return Mixture(np.exp(log_z - logsumexp(log_z)), theta, covariance.diagonal(axis1=1, axis2=2))


# --- counts: Poisson, one θ, skewed ---------------------------------------------------------------------------


def _population_of_rates() -> tuple[Tensor, Tensor]:
    return pyro.sample("mu", dist.Normal(0.0, 2.0)), pyro.sample("tau", dist.HalfNormal(1.5))


def _count(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
    mu, tau = phi
    theta = pyro.sample("theta", dist.Normal(mu, tau))
    value: Tensor = pyro.sample("y", dist.Poisson(theta.exp()).expand([len(x)]).to_event(1), obs=y)
    return value


@cache
def counts(evidence: str = "auto") -> bm.Posterior:
    """A fit to 15 tasks of counts; a joint one has the same draws of φ, and draws of θ beside them."""
    if evidence == "joint":
        return jointly(counts())
    rng = np.random.default_rng(3)
    rates = np.exp(rng.normal(0.0, 1.2, 15))
    ys: list[Any] = [rng.poisson(rate, n).astype(float) for rate, n in zip(rates, [3, 5] * 8, strict=False)]
    tasks = bm.Tasks.from_lists(None, ys)
    return bm.fit(bm.Hierarchy(_population_of_rates, _count), tasks, bm.Laplace(draws=1000), progress=False)


def new_counts() -> bm.Tasks:
    """New tasks: nothing counted, which leaves θ skewed; and a little."""
    return bm.Tasks.from_lists(None, [[0.0], [2.0, 1.0]], names=["none", "some"])


def counts_of(fit: bm.Posterior, task: bm.Task) -> Mixture:
    """θ of a new task of counts, by the trapezoidal rule."""
    mu, tau = (fit.phi[name].numpy() for name in ("mu", "tau"))
    z = np.linspace(-9, 9, 1201)
    theta = mu[:, None] + tau[:, None] * z
    log_p = stats.norm.logpdf(z) + stats.poisson.logpmf(task.y.numpy()[:, None, None], np.exp(theta)).sum(0)
    log_z = logsumexp(log_p, 1)
    p = np.exp(log_p - log_z[:, None])
    mean = (p * theta).sum(1)
    variance = (p * (theta - mean[:, None]) ** 2).sum(1)
    return Mixture(np.exp(log_z - logsumexp(log_z)), mean[:, None], variance[:, None])
