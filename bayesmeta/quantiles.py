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


def normal_mixture_quantile(loc: Tensor, scale: Tensor, level: float) -> Tensor:
    """The quantile of an equal mixture of Normals (S, ...), by Newton steps kept inside a shrinking bracket."""
    z = float(torch.special.ndtri(torch.tensor(level, dtype=torch.float64)))
    each = loc + scale * z
    lower, upper = each.min(0).values, each.max(0).values
    x = torch.clamp(loc.mean(0) + z * (scale.square().mean(0) + loc.var(0, correction=0)).sqrt(), lower, upper)
    inverse = 1 / (scale * math.sqrt(2))
    for _ in range(NEWTON_STEPS):
        t = (x - loc) * inverse
        excess = 0.5 * torch.erf(t).mean(0) + 0.5 - level
        if bool((excess.abs() <= PROBABILITY_ERROR).all()):
            break
        density = (torch.exp(-t * t) * inverse).mean(0) / math.sqrt(math.pi)
        lower, upper = torch.where(excess < 0, x, lower), torch.where(excess > 0, x, upper)
        step = x - excess / density
        x = torch.where((step >= lower) & (step <= upper), step, (lower + upper) / 2)
    return x
