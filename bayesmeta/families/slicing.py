"""Elliptical slice sampling of standard normal weights under a likelihood, as a pure function of its random numbers.

Through a point v and a draw u of the prior goes an ellipse, v cos t + u sin t, on which the prior is the same
everywhere in distribution. A level below the likelihood of v is drawn, and t shrinks towards zero until the point there
is above it. There is no step size. Murray, Adams and MacKay (2010), Elliptical slice sampling, AISTATS.

A number of times to shrink that is given beforehand lets it be vectorised; a point that is not above the level by then
stays where it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["SHRINKS", "numbers", "sliced"]

SHRINKS = 6


def numbers(size: int, steps: int) -> int:
    """How many standard normal numbers a point of so many coordinates takes on its way."""
    return steps * (size + 1 + SHRINKS)


def sliced(likelihood: Callable[[Tensor], Tensor], v: Tensor, z: Tensor, steps: int) -> Tensor:
    """Where points are after some steps.

    Args:
        likelihood: The log likelihood of points (S, size), (S,).
        v: Where they begin (S, size).
        z: Standard normal numbers (S, `numbers`).
        steps: How many.
    """
    height = likelihood(v)
    for part in z.reshape(len(z), steps, -1).unbind(1):
        u, uniform = part[:, : v.shape[1]], torch.special.ndtr(part[:, v.shape[1] :])
        v, height = _step(likelihood, v, height, u, uniform)
    return v


def _step(
    likelihood: Callable[[Tensor], Tensor], v: Tensor, height: Tensor, u: Tensor, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of all points, with their heights."""
    level = height + uniform[:, 0].log()
    turn = 2 * math.pi * uniform[:, 1]
    low, high = turn - 2 * math.pi, turn
    new, seen, found = v, height, torch.zeros_like(height, dtype=torch.bool)
    for k in range(SHRINKS):
        point = v * turn.cos().unsqueeze(1) + u * turn.sin().unsqueeze(1)
        there = likelihood(point)
        taken = ~found & (there > level)
        new, seen = torch.where(taken.unsqueeze(1), point, new), torch.where(taken, there, seen)
        found = found | taken
        low, high = torch.where(turn < 0, turn, low), torch.where(turn < 0, high, turn)
        if k + 1 < SHRINKS:
            turn = low + (high - low) * uniform[:, k + 2]
    return new, seen
