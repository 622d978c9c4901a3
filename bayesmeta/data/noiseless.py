"""Waves without noise, y = A sin(x - b): what one observation leaves open, and what two settle.

One observation leaves a curve in (A, b), on which b has the density 1 / |sin(x - b)|: uniform in
t = log tan((x - b) / 2), so that a Gauss-Legendre rule in t on each of its arcs is exact to rounding. Two
observations give A sin b and A cos b by two linear equations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bayesmeta.data.panels import legendre
from bayesmeta.errors import DataError, NotAvailableError
from bayesmeta.normals import Normals
from bayesmeta.tasks import Task, Tasks

__all__ = ["Noiseless"]

Range = tuple[float, float]
ARC_NODES, PRIOR_NODES = 48, 64
SPREAD = 1e-9  # in place of no noise at all, so that quantiles and distribution functions are defined
PARALLEL = 1e-9


class Noiseless:
    """The posterior predictive of noise-free waves."""

    def __init__(self, support: Tasks, amplitude: Range, phase: Range) -> None:
        self._amplitude, self._phase = amplitude, phase
        self._waves = [self._wave(task) for task in support]
        self.error = torch.zeros(len(support), dtype=torch.float64)

    def mixture(self, task: int, x: Tensor) -> Normals:
        """The distribution of each observation at x (m,): a point for each wave that is possible."""
        waves, weight = self._waves[task]
        loc = waves[:, :1] * torch.sin(x) + waves[:, 1:] * torch.cos(x)
        return Normals(loc, torch.full_like(loc, SPREAD), weight.log())

    def log_prob(self, query: Tasks, mixture: object = None) -> Tensor:
        """Raises a NotAvailableError: without noise there is no density."""
        raise NotAvailableError(
            "observations without noise have no joint density: take mean, sd and quantiles, or an environment with "
            "noise, such as DKTSines"
        )

    pointwise = log_prob

    def draws(self, task: int, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Joint draws (n, m)."""
        at = self.mixture(task, x)
        return at.loc[torch.multinomial(at.log_weight.exp(), n, replacement=True, generator=generator)]

    def _wave(self, task: Task) -> tuple[Tensor, Tensor]:
        """The waves u sin x + v cos x that are possible (K, 2), and their weights (K,)."""
        design = torch.stack([torch.sin(task.x), torch.cos(task.x)], 1)
        if task.n == 0:
            return self._any()
        if task.n > 1 and float(torch.linalg.svdvals(design)[-1]) > PARALLEL:
            return torch.linalg.lstsq(design, task.y[:, None]).solution.T, torch.ones(1, dtype=torch.float64)
        return self._through(float(task.x[0]), float(task.y[0]))

    def _any(self) -> tuple[Tensor, Tensor]:
        unit, weights = legendre(PRIOR_NODES)
        a, b = (low + (high - low) * unit for low, high in (self._amplitude, self._phase))
        a, b = (grid.reshape(-1) for grid in torch.meshgrid(a, b, indexing="ij"))
        return _as_waves(a, b), torch.outer(weights, weights).reshape(-1)

    def _through(self, x: float, y: float) -> tuple[Tensor, Tensor]:
        """Waves through one point."""
        unit, weights = legendre(ARC_NODES)
        height = max(abs(y), 1e-300)
        waves, shares = [], []
        for first, last, turn in self._arcs(x, height, y < 0):
            ends = [math.log(math.tan(angle / 2)) for angle in (first, last)]
            angle = 2 * torch.atan(torch.exp(ends[0] + (ends[1] - ends[0]) * unit))
            waves.append(_as_waves(height / torch.sin(angle), x - angle - turn))
            shares.append(weights * (ends[1] - ends[0]))
        if not shares:
            raise DataError(f"no wave of these amplitudes and phases passes through ({x:g}, {y:g})")
        weight = torch.cat(shares)
        return torch.cat(waves), weight / weight.sum()

    def _arcs(self, x: float, height: float, negative: bool) -> list[tuple[float, float, float]]:
        """Where x - b may lie: first and last angle in (0, π), and what to add to them."""
        low, high = (height / a if a > 0 else math.inf for a in reversed(self._amplitude))
        inner, outer = math.asin(min(low, 1.0)), math.asin(min(high, 1.0))
        half = math.pi if negative else 0.0
        least, most = (x - half - end for end in reversed(self._phase))
        arcs = []
        for k in range(math.floor((least - math.pi) / (2 * math.pi)), math.ceil(most / (2 * math.pi)) + 1):
            turn = 2 * math.pi * k + half
            bounds = x - self._phase[1] - turn, x - self._phase[0] - turn
            for first, last in ((inner, outer), (math.pi - outer, math.pi - inner)):
                first, last = max(first, bounds[0]), min(last, bounds[1])
                if first < last:
                    arcs.append((first, last, turn))
        return arcs


def _as_waves(a: Tensor, b: Tensor) -> Tensor:
    """A sin(x - b) as u sin x + v cos x, (K, 2)."""
    return torch.stack([a * torch.cos(b), -a * torch.sin(b)], 1)
