"""Quantiles of equal mixtures: of draws, and of Normals, whose distribution function is solved for them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["normal_mixture_quantile", "quantiles_of_draws"]

NEWTON_STEPS = 60
PROBABILITY_ERROR = 1e-9


def quantiles_of_draws(draws: Tensor, levels: list[float]) -> Tensor:
    """Quantiles (levels, ...) of draws (n, ...): the smallest draw with at least that share at or below it."""
    ordered = draws.sort(0).values
    return torch.stack([ordered[max(math.ceil(level * len(draws)) - 1, 0)] for level in levels])


def normal_mixture_quantile(loc: Tensor, scale: Tensor, weights: Tensor | None = None, *, level: float) -> Tensor:
    """The quantile of a mixture of Normals (S, ...), by Newton steps kept inside a shrinking bracket.

    With weights, each of the S is itself a mixture of K, (S, ..., K), of weights that sum to one.
    """
    if weights is not None:
        loc, scale, weights = (t.movedim(-1, 0).flatten(0, 1) for t in (loc, scale, weights))
        weights = weights * (len(weights) / weights.sum(0))
    else:
        weights = torch.ones(len(loc), *(1,) * (loc.dim() - 1), dtype=loc.dtype)
    z = float(torch.special.ndtri(torch.tensor(level, dtype=torch.float64)))
    each = loc + scale * z
    lower, upper = each.min(0).values, each.max(0).values
    mean = (weights * loc).mean(0)
    spread = (weights * (scale.square() + (loc - mean).square())).mean(0).sqrt()
    x = torch.clamp(mean + z * spread, lower, upper)
    inverse = 1 / (scale * math.sqrt(2))
    for _ in range(NEWTON_STEPS):
        t = (x - loc) * inverse
        excess = 0.5 * (weights * torch.erf(t)).mean(0) + 0.5 - level
        if bool((excess.abs() <= PROBABILITY_ERROR).all()):
            break
        density = (weights * torch.exp(-t * t) * inverse).mean(0) / math.sqrt(math.pi)
        lower, upper = torch.where(excess < 0, x, lower), torch.where(excess > 0, x, upper)
        step = x - excess / density
        x = torch.where((step >= lower) & (step <= upper), step, (lower + upper) / 2)
    return x
