"""Gaussian processes with a known mean and kernel: draws of functions, and the exact posterior predictive.

Formulas as in Rasmussen and Williams (2006), Gaussian processes for machine learning, section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bayesmeta.data.environment import Dice
from bayesmeta.normals import Normals
from bayesmeta.tasks import Tasks
from bayesmeta.threads import one_thread

__all__ = ["GaussianFunctions", "Kernel", "drawn"]

Kernel = Callable[[Tensor, Tensor], Tensor]
JITTER = 1e-9  # of the variance of a function, so that close inputs can be told apart


def drawn(kernel: Kernel, x: Tensor, dice: Dice) -> Tensor:
    """Values (rows, count) of independent functions at inputs x (rows, count, ...), one function for each column."""
    inputs = x.transpose(0, 1)
    covariance = kernel(inputs, inputs)
    with one_thread():
        root = torch.linalg.cholesky(_steadied(covariance))
    values: Tensor = (root @ dice.normal(x.shape[0], x.shape[1]).T[..., None])[..., 0]
    return values.T


class GaussianFunctions:
    """The posterior predictive of tasks that are functions of one Gaussian process, observed with noise."""

    def __init__(self, support: Tasks, mean: Callable[[Tensor], Tensor], kernel: Kernel, noise: float) -> None:
        self._support, self._mean, self._kernel, self._noise = support, mean, kernel, noise
        self.error = torch.zeros(len(support), dtype=torch.float64)

    def mixture(self, task: int, x: Tensor) -> Normals:
        """The distribution of each observation at x (m, ...): one normal."""
        mean, root = self._given(task, x)
        return Normals.equal(mean[None], root.square().sum(-1).sqrt()[None])

    def log_prob(self, query: Tasks) -> Tensor:
        """The joint log density of the query observations of each task (T,)."""
        values = [normal_log_density(y.y, *self._given(t, y.x)) for t, y in enumerate(query)]
        return torch.stack(values)

    def pointwise(self, query: Tasks, mixture: Callable[[int], Normals]) -> Tensor:
        """The log density of each query observation (N,)."""
        return torch.cat([mixture(t).log_prob(task.y) for t, task in enumerate(query)])

    def draws(self, task: int, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Joint draws (n, m)."""
        mean, root = self._given(task, x)
        return mean + torch.randn(n, len(x), generator=generator, dtype=torch.float64) @ root.T

    def _given(self, task: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (m,) of the observations at x, and the Cholesky factor of their covariance (m, m)."""
        seen = self._support[task]
        return conditioned(seen.x, seen.y, x, self._mean, self._kernel, self._noise)


def conditioned(
    x: Tensor, y: Tensor, at: Tensor, mean: Callable[[Tensor], Tensor], kernel: Kernel, noise: float
) -> tuple[Tensor, Tensor]:
    """Mean (m,) and Cholesky factor of the covariance (m, m) of new observations, given y at x."""
    eye = torch.eye(len(at), dtype=torch.float64)
    prior = kernel(at, at) + noise**2 * eye
    if not len(x):
        return mean(at), torch.linalg.cholesky(prior)
    root = torch.linalg.cholesky(kernel(x, x) + noise**2 * torch.eye(len(x), dtype=torch.float64))
    cross = torch.linalg.solve_triangular(root, kernel(x, at), upper=False)
    rest = torch.linalg.solve_triangular(root, (y - mean(x))[:, None], upper=False)
    return mean(at) + (cross.T @ rest)[:, 0], torch.linalg.cholesky(prior - cross.T @ cross)


def normal_log_density(y: Tensor, mean: Tensor, root: Tensor) -> Tensor:
    """log N(y; mean, root rootᵀ) of vectors (m,)."""
    rest = torch.linalg.solve_triangular(root, (y - mean)[:, None], upper=False)
    log_norm: Tensor = root.diagonal().log().sum() + 0.5 * len(y) * math.log(2 * math.pi)
    density: Tensor = -log_norm - 0.5 * rest.square().sum()
    return density


def _steadied(covariance: Tensor) -> Tensor:
    scale = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    return covariance + JITTER * scale * torch.eye(covariance.shape[-1], dtype=covariance.dtype)
