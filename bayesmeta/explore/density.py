"""A smooth curve for draws of one number: a Gaussian kernel density, mirrored at the ends of the support.

The width of the kernel is Silverman's (1986, Density estimation for statistics and data analysis, eq. 3.31).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["bounds", "density", "window"]

POINTS = 121


def density(
    draws: Float[Tensor, " S"], at: Float[Tensor, " G"], support: tuple[float, float] = (-math.inf, math.inf)
) -> Float[Tensor, " G"]:
    """Density of the draws at these points; of draws that are all the same, a narrow peak.

    Examples:
        >>> at = torch.linspace(-4, 4, 81, dtype=torch.float64)
        >>> draws = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(0.001, 0.999, 999)).double()
        >>> found = density(draws, at)
        >>> round(float(found.max()), 1), round(float(found.sum() * 0.1), 2)
        (0.4, 1.0)
    """
    quartiles = torch.quantile(draws, torch.tensor([0.25, 0.75], dtype=torch.float64))
    spread = min(float(draws.std()) if len(draws) > 1 else 0.0, float(quartiles[1] - quartiles[0]) / 1.34)
    width = max(0.9 * spread * len(draws) ** -0.2, 1e-3 * float(at[-1] - at[0]), 1e-300)
    images = [draws, *(2 * end - draws for end in support if math.isfinite(end))]
    z = (at[:, None] - torch.cat(images)) / width
    found = torch.exp(-0.5 * z.square()).sum(1) / (len(draws) * width * math.sqrt(2 * math.pi))
    return torch.where((at >= support[0]) & (at <= support[1]), found, 0.0)


def window(before: Tensor, after: Tensor, support: tuple[float, float]) -> Tensor:
    """Points over which both are worth looking at: all of `after`, and `before` without its far tails."""
    tail = torch.tensor([0.02, 0.98], dtype=torch.float64)
    wide, narrow = torch.quantile(before, tail), torch.stack([after.min(), after.max()])
    low, high = float(torch.minimum(wide, narrow)[0]), float(torch.maximum(wide, narrow)[1])
    room = 0.08 * (high - low) or max(abs(low), 1.0) * 0.1
    return torch.linspace(max(low - room, support[0]), min(high + room, support[1]), POINTS, dtype=torch.float64)


def bounds(support: Any) -> tuple[float, float]:
    """Ends of a distribution's support, as far as they are plain numbers."""
    support = getattr(support, "base_constraint", support)
    ends = [getattr(support, name, None) for name in ("lower_bound", "upper_bound")]
    low, high = (float(end) if isinstance(end, (int, float)) else math.nan for end in ends)
    return (-math.inf if math.isnan(low) else low), (math.inf if math.isnan(high) else high)
