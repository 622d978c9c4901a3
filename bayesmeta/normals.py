"""Weighted mixtures of normals: density, distribution function, quantiles, and the CRPS.

    p(y) = Σ_k w_k N(y; μ_k, σ_k²)

The components lie along the leading axis of `loc` and `scale`, (K, ...), each with a log weight (K,).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesmeta.errors import NotAvailableError

__all__ = ["Normals"]

NEWTON_STEPS = 80
PROBABILITY_ERROR = 1e-10
CRPS_REACH, CRPS_STEP, CRPS_NODES = 8.0, 0.7, 1_000
TINY = 1e-300


@dataclass(frozen=True)
class Normals:
    """A mixture of normals at each of a number of cells.

    Attributes:
        loc: means (K, ...).
        scale: standard deviations (K, ...).
        log_weight: logarithms of the weights, which sum to one over K, (K,) or as `loc`.

    Examples:
        >>> two = Normals(torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1), torch.tensor([0.5, 0.5]).log())
        >>> two.mean, two.cdf(torch.tensor([0.0]))
        (tensor([0.]), tensor([0.5000]))
    """

    loc: Tensor
    scale: Tensor
    log_weight: Tensor

    @staticmethod
    def equal(loc: Tensor, scale: Tensor) -> Normals:
        """Components of equal weight."""
        return Normals(loc, scale, torch.full((len(loc),), -math.log(len(loc)), dtype=loc.dtype))

    @staticmethod
    def nested(loc: Tensor, scale: Tensor, weights: Tensor) -> Normals:
        """S mixtures of equal weight, each of K components along the last axis, (S, ..., K)."""
        loc, scale, log_weight = (part.movedim(-1, 0).flatten(0, 1) for part in (loc, scale, weights.log()))
        return Normals(loc, scale, log_weight - torch.logsumexp(log_weight, 0))

    @property
    def mean(self) -> Tensor:
        """The mean of each cell (...)."""
        return self._average(self.loc)

    @property
    def sd(self) -> Tensor:
        """The standard deviation of each cell (...), by the law of total variance."""
        return self._average(self.scale.square() + (self.loc - self.mean).square()).sqrt()

    def log_prob(self, y: Tensor) -> Tensor:
        """The log density at y (...)."""
        z = (y - self.loc) / self.scale
        each = -0.5 * z.square() - self.scale.log() - 0.5 * math.log(2 * math.pi)
        return torch.logsumexp(each + self._along(self.log_weight), 0)

    def cdf(self, y: Tensor) -> Tensor:
        """The probability of at most y (...)."""
        return self._average(torch.special.ndtr((y - self.loc) / self.scale))

    def quantile(self, level: float) -> Tensor:
        """The quantile of that level in (0, 1) of each cell (...), by Newton steps kept inside a shrinking bracket."""
        z = float(torch.special.ndtri(torch.tensor(level, dtype=torch.float64)))
        each = self.loc + self.scale * z
        lower, upper = each.min(0).values, each.max(0).values
        y = (self.mean + z * self.sd).clamp(lower, upper)
        for _ in range(NEWTON_STEPS):
            excess = self.cdf(y) - level
            if bool((excess.abs() <= PROBABILITY_ERROR).all()):
                break
            lower, upper = torch.where(excess < 0, y, lower), torch.where(excess > 0, y, upper)
            step = y - excess / self.log_prob(y).exp()
            y = torch.where((step >= lower) & (step <= upper), step, (lower + upper) / 2)
        return y

    def crps(self, y: Tensor) -> Tensor:
        """The continuous ranked probability score of the observations y (...), in their units; 0 is best.

        CRPS = E|Y - y| - ½ E|Y - Y'|. The first term is in closed form (Grimit, Gneiting, Berrocal and Johnson
        2006, The continuous ranked probability score for circular variables); the second, ∫ F (1 - F), is
        taken by the trapezoid rule, which for a smooth integrand that dies out at both ends is exact to eight
        digits, and needs no pairs of components.

        Raises:
            NotAvailableError: The smallest scale is a thousandth of the whole.
        """
        z = (y - self.loc) / self.scale
        density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
        distance = self.scale * (2 * density + z * (2 * torch.special.ndtr(z) - 1))
        return self._average(distance) - self._half_difference()

    def merged(self, step: float = 0.2) -> Normals:
        """The same mixture with fewer components, where they are many and all of one scale.

        Those whose means lie in one interval of `step` scales become one, of their mean and variance. What is lost
        is their third moment: some 1e-5 of the density.
        """
        if bool((self.scale != self.scale[:1]).any()):
            return self
        lower, width = self.loc.min(0).values, step * self.scale[0]
        place = ((self.loc - lower) / width).long()
        count = int(place.max()) + 1
        if count >= len(self.loc):
            return self
        away = self.loc - lower - (place + 0.5) * width
        weight = self._along(self.log_weight.exp()).expand_as(self.loc)
        total, first, second = (
            torch.zeros(count, *self.loc.shape[1:], dtype=self.loc.dtype).scatter_add_(0, place, weight * part)
            for part in (torch.ones_like(away), away, away.square())
        )
        shift, square = first / total.clamp(min=TINY), second / total.clamp(min=TINY)
        at = (torch.arange(count) + 0.5).reshape(-1, *(1,) * (self.loc.dim() - 1))
        variance = self.scale[0].square() + (square - shift.square()).clamp(min=0)
        return Normals(lower + at * width + shift, variance.sqrt(), total.log())

    def _half_difference(self) -> Tensor:
        """½ E|Y - Y'| of each cell."""
        lower = (self.loc - CRPS_REACH * self.scale).min(0).values
        upper = (self.loc + CRPS_REACH * self.scale).max(0).values
        wanted = (upper - lower) / (CRPS_STEP * self.scale.min(0).values)
        count = math.ceil(float(wanted.max())) + 1 if wanted.numel() else 1
        if count > CRPS_NODES:
            raise NotAvailableError(
                f"the CRPS of components whose scales differ so much takes {count:,} nodes: take draws, by `sample`"
            )
        step = (upper - lower) / count
        total = torch.zeros_like(step)
        for k in range(count + 1):
            below = self.cdf(lower + k * step)
            total += below * (1 - below)
        return total * step

    def _average(self, values: Tensor) -> Tensor:
        return (values * self._along(self.log_weight.exp())).sum(0)

    def _along(self, weight: Tensor) -> Tensor:
        return weight.reshape(-1, *(1,) * (self.loc.dim() - 1)) if weight.dim() == 1 else weight
