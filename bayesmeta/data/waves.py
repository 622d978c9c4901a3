"""The exact posterior of a wave of unknown amplitude and phase, and what it predicts.

    y | A, b ~ N(m(x) + A g(x, b), Σ_b)      A ~ U(A_min, A_max)      b ~ p(b)

Given b, y is linear in A with normal noise: log p(y | A, b) = c + h A - ½ λ A², A is a truncated normal, and the
integral over A is in closed form. What is left is one integral over b for each task, taken by `panels`. How λ, h
and c come from the observations is the matter of `Statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bayesmeta.data.panels import Nodes, integrate, legendre
from bayesmeta.normals import Normals
from bayesmeta.tasks import Tasks
from bayesmeta.threads import one_thread

__all__ = ["Quadratic", "Statistics", "WavePrior", "Waves", "joined"]

REACH = 8.0  # standard deviations of A to either side that are integrated over
ORDER = 24
PANEL = 15.0  # how many standard deviations of the noise one panel of A may be wide
NEGLIGIBLE = -20.0
LEAST = -1e30


@dataclass(frozen=True)
class Quadratic:
    """log p(y | A, b) = constant + linear A - ½ precision A², tensors of one shape."""

    precision: Tensor
    linear: Tensor
    constant: Tensor


class Statistics(Protocol):
    """What the observations of some tasks say about A and b.

    Attributes:
        noise: a typical standard deviation of the noise.
    """

    noise: float

    def at(self, task: Tensor, b: Tensor) -> Quadratic:
        """For tasks (K,) at phases (K, P)."""

    def predicted(self, task: int, a: Tensor, b: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations (K, m) of observations at x (m,) given amplitudes and phases (K,)."""

    def drawn(self, task: int, a: Tensor, b: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
        """Joint draws (K, m) of observations at x (m,), one for each amplitude and phase (K,)."""


@dataclass(frozen=True)
class WavePrior:
    """The population of amplitudes and phases.

    Attributes:
        amplitude: the ends of the uniform distribution of A.
        log_phase: the log density of b.
        edges: the first panels of each task (T, E), by its observations.
        statistics: of the observations of tasks.
    """

    amplitude: tuple[float, float]
    log_phase: Callable[[Tensor], Tensor]
    edges: Callable[[Tasks], Tensor]
    statistics: Callable[[Tasks], Statistics]

    def log_evidence(self, tasks: Tasks) -> Nodes:
        """log p(y) of each task, with the nodes of b."""
        statistics = self.statistics(tasks)

        def log_f(task: Tensor, b: Tensor) -> Tensor:
            return self._over_amplitudes(statistics.at(task, b)) + self.log_phase(b)

        with one_thread():
            return integrate(log_f, self.edges(tasks))

    def _over_amplitudes(self, parts: Quadratic) -> Tensor:
        low, high = self.amplitude
        precision = parts.precision.clamp(min=1e-10)
        centre, sd = parts.linear / precision, precision.rsqrt()
        peak = parts.constant + 0.5 * parts.linear * centre
        mass = _log_mass((low - centre) / sd, (high - centre) / sd)
        return (peak + mass + sd.log() + 0.5 * math.log(2 * math.pi) - math.log(high - low)).clamp(min=LEAST)


class Waves:
    """The posterior predictive of waves: nodes of (A, b) with their weights, task after task."""

    def __init__(self, prior: WavePrior, support: Tasks) -> None:
        self._prior, self._support = prior, support
        self._statistics = prior.statistics(support)
        phases = prior.log_evidence(support)
        self.log_z, self.error = phases.log_z, phases.error
        task, self._b, self._a, self._log_weight = self._amplitudes(phases)
        self._offsets = torch.searchsorted(task, torch.arange(len(support) + 1)).tolist()

    def mixture(self, task: int, x: Tensor) -> Normals:
        """The distribution of each observation at x (m,): a normal for each node."""
        span = slice(*self._offsets[task : task + 2])
        loc, scale = self._statistics.predicted(task, self._a[span], self._b[span], x)
        return Normals(loc, scale, self._log_weight[span]).merged()

    def log_prob(self, query: Tasks) -> Tensor:
        """Evidence of support and query together, less that of the support (T,)."""
        return self._prior.log_evidence(joined(self._support, query)).log_z - self.log_z

    def pointwise(self, query: Tasks, mixture: Callable[[int], Normals]) -> Tensor:
        """The log density of each query observation (N,)."""
        return torch.cat([mixture(t).log_prob(task.y) for t, task in enumerate(query)])

    def draws(self, task: int, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Joint draws (n, m): nodes by their weights, and observations given each."""
        span = slice(*self._offsets[task : task + 2])
        pick = torch.multinomial(self._log_weight[span].exp(), n, replacement=True, generator=generator)
        return self._statistics.drawn(task, self._a[span][pick], self._b[span][pick], x, generator)

    def _amplitudes(self, phases: Nodes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Nodes of A for each node of b: task, b, A and log weight, (K,) each, task after task."""
        low, high = self._prior.amplitude
        parts = self._statistics.at(phases.task, phases.at[:, None])
        precision = parts.precision[:, 0].clamp(min=1e-10)
        centre = parts.linear[:, 0] / precision
        reach = ((centre.clamp(low, high) - centre).square() + REACH**2 / precision).sqrt()
        lower, upper = (centre - reach).clamp(min=low), (centre + reach).clamp(max=high)
        panels = ((upper - lower) / (PANEL * self._statistics.noise)).ceil().long().clamp(min=1)
        node = torch.arange(len(panels)).repeat_interleave(panels)
        rank = torch.arange(len(node)) - (panels.cumsum(0) - panels)[node]
        width = ((upper - lower) / panels)[node]
        unit, weights = legendre(ORDER)
        a = (lower[node] + rank * width)[:, None] + width[:, None] * unit
        log_density = -0.5 * precision[node][:, None] * (a - centre[node][:, None]).square()
        mass = _log_mass((low - centre) * precision.sqrt(), (high - centre) * precision.sqrt())
        mass = mass - 0.5 * precision.log() + 0.5 * math.log(2 * math.pi)
        share = (phases.log_weight - mass)[node][:, None] + log_density + width.log()[:, None] + weights.log()
        kept = share > NEGLIGIBLE
        node = node[:, None].expand_as(a)[kept]
        share = share[kept]
        task = phases.task[node]
        total = torch.zeros(len(phases.log_z), dtype=torch.float64).index_add_(0, task, share.exp())
        return task, phases.at[node], a[kept], share - total.log()[task]


def _log_mass(lower: Tensor, upper: Tensor) -> Tensor:
    """log(Φ(upper) - Φ(lower)) without cancellation in the tails."""
    flipped = lower > 0
    lower, upper = torch.where(flipped, -upper, lower), torch.where(flipped, -lower, upper)
    top, bottom = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    mass: Tensor = top + torch.log(-torch.expm1((bottom - top).clamp(max=0.0)))
    return mass.clamp(min=LEAST)


def joined(support: Tasks, query: Tasks) -> Tasks:
    """The observations of both, task by task."""
    index = torch.cat([support.task_index, query.task_index])
    order = torch.argsort(index, stable=True)
    offsets = support.offsets + query.offsets
    x, y = torch.cat([support.x, query.x])[order], torch.cat([support.y, query.y])[order]
    return Tasks(x, y, offsets, support.names)
