"""Quantiles of draws."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["quantiles_of_draws"]


def quantiles_of_draws(draws: Tensor, levels: list[float]) -> Tensor:
    """Quantiles (levels, ...) of draws (n, ...): the smallest draw with at least that share at or below it."""
    ordered = draws.sort(0).values
    return torch.stack([ordered[max(math.ceil(level * len(draws)) - 1, 0)] for level in levels])
