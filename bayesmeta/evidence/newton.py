"""Newton steps for many tasks at once: their direction where the density is not concave, and how far to go.

Where -∇² of the log density, P, is not positive definite, it is moved until it is. A careful step takes the
eigenvalues of P without their signs in its place, and is no longer than a few prior standard deviations.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bayesmeta.evidence.gaussian import Gaussian, is_definite

__all__ = ["LADDER", "Step", "best", "newton_step", "shortened"]

LADDER = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 1e-3)
LONGEST = 2.0  # of a careful step, in prior standard deviations


class Step(NamedTuple):
    """A Newton step of each task (..., T, p), the root of P⁻¹ (..., T, p, p), the decrement and whether P was definite.

    The root is L⁻ᵀ, L the Cholesky factor of P: upper triangular.
    """

    step: Tensor
    root: Tensor
    decrement: Tensor
    definite: Tensor


def newton_step(g: Tensor, precision: Tensor, *, careful: bool = False) -> Step:
    """The step from gradients (..., T, p) and minus Hessians (..., T, p, p)."""
    definite = is_definite(precision)
    made = _absolute(precision) if careful else _made_definite(precision)
    gaussian = Gaussian.of(torch.where(definite[..., None, None], precision, made), g)
    root = torch.stack([torch.stack(column, -1) for column in gaussian.columns()], -1)
    decrement = torch.stack([w * w for w in gaussian.white]).sum(0).sqrt()
    return Step(torch.stack(gaussian.mean(), -1), root, decrement, definite)


def _made_definite(precision: Tensor) -> Tensor:
    """P with so much added to its diagonal that it is diagonally dominant: -P for a negative number P."""
    diagonal = precision.diagonal(dim1=-2, dim2=-1)
    least = (2 * diagonal - precision.abs().sum(-1)).amin(-1)
    shift = 2 * (-least).clamp(min=0) + 1e-3
    return precision + shift[..., None, None] * torch.eye(precision.shape[-1], dtype=precision.dtype)


def shortened(found: Step) -> Step:
    """The step, no longer than `LONGEST` in any coordinate: where P is all but singular it would go nowhere."""
    longest = found.step.abs().amax(-1, keepdim=True).clamp(min=1e-300)
    return found._replace(step=found.step * (LONGEST / longest).clamp(max=1.0))


def _absolute(precision: Tensor) -> Tensor:
    """P with its eigenvalues taken without their signs (Dauphin and others 2014, "saddle-free Newton")."""
    values, vectors = torch.linalg.eigh(torch.where(torch.isfinite(precision), precision, 0.0))
    size = values.abs()
    size = torch.maximum(size, 1e-3 * (1 + size.amax(-1, keepdim=True)))
    made: Tensor = (vectors * size.unsqueeze(-2)) @ vectors.mT
    return made


def best(seen: Tensor) -> Tensor:
    """The multiple of the step (...) after which the density is largest, from `_ahead` (1 + ladder, ...)."""
    seen = torch.where(torch.isfinite(seen), seen, -math.inf)
    slack = 1e-13 * (1 + seen[0].abs())  # a whole step that is worse by rounding alone is taken
    whole = seen[1] >= seen.amax(0) - slack
    ladder = torch.tensor([0.0, *LADDER], dtype=torch.float64)
    return ladder[torch.where(whole, 1, seen.argmax(0))]
