"""What observations say about the amplitude and phase of a wave, as sums over observations.

`Even` is for noise that is the same everywhere. With g(x, b) = sin(ω (x ± b)) = α(b) sin ωx + β(b) cos ωx, the
observations enter only through a Gram matrix of sin ωx, cos ωx, y and the trend's features, whose coefficients are
normal and integrated out: no evaluation touches the observations again. `Growing` is for noise in proportion to
|x + b|.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bayesmeta.data.waves import Quadratic
from bayesmeta.tasks import Tasks

__all__ = ["Even", "Growing", "Trend"]

Trend = tuple[tuple[float, float], ...]
"""Mean and standard deviation of each coefficient of a polynomial in x, from the constant up."""


class Even:
    """Statistics under y = trend(x) + A sin(ω (x ± b)) + N(0, noise²)."""

    def __init__(self, tasks: Tasks, noise: float, frequency: float, sign: int, trend: Trend = ()) -> None:
        self.noise, self._frequency, self._sign = noise, frequency, sign
        self._mean = torch.tensor([mean for mean, _ in trend], dtype=torch.float64)
        spread = torch.tensor([sd for _, sd in trend], dtype=torch.float64)
        powers = self._powers(tasks.x)
        wave = torch.stack([*self._wave(tasks.x), tasks.y - powers @ self._mean], 1)
        gram = self._gram(torch.cat([wave, powers], 1) / noise, tasks)
        precision = gram[:, 3:, 3:] + torch.diag(spread.pow(-2))
        self._covariance = torch.linalg.inv(precision) if trend else precision
        self._slopes = self._covariance @ gram[:, 3:, :3]
        self._reduced = gram[:, :3, :3] - gram[:, :3, 3:] @ self._slopes
        self._log_norm = tasks.sizes * math.log(2 * math.pi * noise**2) + 2 * spread.log().sum()
        if trend:
            self._log_norm = self._log_norm + torch.logdet(precision)

    def at(self, task: Tensor, b: Tensor) -> Quadratic:
        """For tasks (K,) at phases (K, P)."""
        alpha, beta = self._turned(b)
        r = self._reduced[task][..., None]
        precision = alpha.square() * r[:, 0, 0] + 2 * alpha * beta * r[:, 0, 1] + beta.square() * r[:, 1, 1]
        linear = alpha * r[:, 0, 2] + beta * r[:, 1, 2]
        constant = -0.5 * (r[:, 2, 2] + self._log_norm[task][:, None])
        return Quadratic(precision, linear, constant.expand_as(linear))

    def predicted(self, task: int, a: Tensor, b: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations (K, m) of observations at x (m,) given amplitudes and phases (K,)."""
        loc, powers = self._centre(task, a, b, x), self._powers(x)
        variance = self.noise**2 + ((powers @ self._covariance[task]) * powers).sum(1)
        return loc, variance.sqrt().expand_as(loc)

    def drawn(self, task: int, a: Tensor, b: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
        """Joint draws (K, m) of observations at x (m,), one for each amplitude and phase (K,)."""
        powers, root = self._powers(x), torch.linalg.cholesky(self._covariance[task])
        normal = torch.randn(len(a), len(root) + len(x), generator=generator, dtype=torch.float64)
        trend: Tensor = normal[:, : len(root)] @ root.T @ powers.T
        return self._centre(task, a, b, x) + trend + self.noise * normal[:, len(root) :]

    def _centre(self, task: int, a: Tensor, b: Tensor, x: Tensor) -> Tensor:
        """Means (K, m) of observations, the trend at its conditional mean."""
        alpha, beta = self._turned(b)
        sine, cosine = self._wave(x)
        along = torch.stack([-a * alpha, -a * beta, torch.ones_like(a)], 1)
        coefficients = self._mean + along @ self._slopes[task].T
        return (a * alpha)[:, None] * sine + (a * beta)[:, None] * cosine + coefficients @ self._powers(x).T

    def _turned(self, b: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cos(self._frequency * b), self._sign * torch.sin(self._frequency * b)

    def _wave(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sin(self._frequency * x), torch.cos(self._frequency * x)

    def _powers(self, x: Tensor) -> Tensor:
        return x[:, None] ** torch.arange(len(self._mean))

    @staticmethod
    def _gram(columns: Tensor, tasks: Tasks) -> Tensor:
        """Σ over each task's rows of the outer product, (T, k, k)."""
        k = columns.shape[1]
        total = torch.zeros(len(tasks), k, k, dtype=torch.float64)
        return total.index_add_(0, tasks.task_index, columns[:, :, None] * columns[:, None, :])


class Growing:
    """Statistics under y = A sin(x + b) + N(0, (noise |x + b|)²)."""

    def __init__(self, tasks: Tasks, noise: float) -> None:
        self.noise = noise
        most = int(tasks.sizes.max())
        self._x, self._y = (torch.zeros(len(tasks), most, dtype=torch.float64) for _ in range(2))
        self._present = torch.arange(most) < tasks.sizes[:, None]
        self._x[self._present], self._y[self._present] = tasks.x, tasks.y

    def at(self, task: Tensor, b: Tensor) -> Quadratic:
        """For tasks (K,) at phases (K, P)."""
        shifted = self._x[task][:, None, :] + b[..., None]
        variance = (self.noise * shifted).square().clamp(min=1e-100)
        weight = self._present[task][:, None, :] / variance
        curve, y = torch.sin(shifted), self._y[task][:, None, :]
        norm = torch.where(self._present[task][:, None, :], (2 * math.pi * variance).log(), 0.0)
        precision = (weight * curve.square()).sum(-1)
        return Quadratic(precision, (weight * curve * y).sum(-1), -0.5 * (weight * y.square() + norm).sum(-1))

    def predicted(self, task: int, a: Tensor, b: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations (K, m) of observations at x (m,) given amplitudes and phases (K,)."""
        shifted = x + b[:, None]
        return a[:, None] * torch.sin(shifted), (self.noise * shifted.abs()).clamp(min=1e-50)

    def drawn(self, task: int, a: Tensor, b: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
        """Joint draws (K, m) of observations at x (m,), one for each amplitude and phase (K,)."""
        loc, scale = self.predicted(task, a, b, x)
        return loc + scale * torch.randn(loc.shape, generator=generator, dtype=torch.float64)
