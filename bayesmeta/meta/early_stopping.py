"""The prior that early stopping stands for: gradient descent on a quadratic loss ends where a posterior has its mode.

With H the Hessian of the loss L and K steps of learning rate α from w₀,

    w_K = argmin over w of  L(w) + ½ (w - w₀)' Q (w - w₀),      Q = H [ (I - αH)⁻ᴷ - I ]⁻¹

so that, where L is a negative log likelihood, w_K is the mode of p(w | D) under the prior Normal(w₀, Q⁻¹). In a
direction of curvature h the precision is h / ((1 - αh)⁻ᴷ - 1): it goes to 1/(αK) as h goes to 0, and to nothing as αh
goes to 1. Few small steps are a strong prior, many a weak one.

Exact where the loss is quadratic, as that of a linear model; elsewhere it is what a quadratic fit to the loss says.

Santos (1996), Equivalence of regularization and truncated iteration for general ill-posed problems, Linear Algebra and
its Applications 236; Grant, Finn, Levine, Darrell and Griffiths (2018), Recasting gradient-based meta-learning as
hierarchical Bayes, ICLR.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bayesmeta.errors import OptionError
from bayesmeta.infer.options import check_whole

__all__ = ["implicit_prior"]

ROUNDING = 1e-9  # of the largest eigenvalue


def implicit_prior(hessian: Any, learning_rate: float, steps: int, *, nats: float = 1.0) -> Tensor:
    """The precision of the normal prior, centred on the start, whose mode K gradient steps find.

    Args:
        hessian: H, of the loss that the steps go down (p, p), in any form that torch reads; symmetric, no negative
            eigenvalue.
        learning_rate: α, below 1/h for the largest eigenvalue h.
        steps: K, at least 1.
        nats: How many nats one unit of the loss is: n where it is the mean negative log likelihood of n rows,
            n / (2σ²) where it is the mean squared error of n rows whose noise has the sd σ.

    Returns:
        Q (p, p), float64, in nats.

    Raises:
        OptionError: H is no such matrix; or the steps overshoot, so that no prior stands for them.

    Example:
        >>> implicit_prior([[2.0, 0.0], [0.0, 0.0]], learning_rate=0.25, steps=1).tolist()
        [[2.0, 0.0], [0.0, 4.0]]
    """
    check_whole("steps", steps, 1)
    for name, value in (("learning_rate", learning_rate), ("nats", nats)):
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise OptionError(f"{name} must be a number above 0, got {value!r}")
    curvature, directions = _eigen(hessian)
    largest = float(curvature.max())
    if largest * learning_rate >= 1:
        raise OptionError(
            f"learning_rate is {learning_rate:g}, and the largest curvature {largest:g}: steps go as far as the bottom "
            f"or beyond, and no prior stands for that; wanted one below {1 / largest:g}"
        )
    shrunk = steps * torch.log1p(-learning_rate * curvature)  # log (1 - αh)ᴷ
    flat = curvature * (learning_rate * steps) < ROUNDING
    grown = torch.where(flat, 1.0, torch.expm1(-shrunk))
    precision = torch.where(flat, 1 / (learning_rate * steps), curvature / grown)
    found: Tensor = nats * (directions * precision) @ directions.mT
    return 0.5 * (found + found.mT)


def _eigen(hessian: Any) -> tuple[Tensor, Tensor]:
    """Eigenvalues (p,) of at least zero, and eigenvectors (p, p)."""
    matrix = torch.as_tensor(hessian, dtype=torch.float64)
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise OptionError(f"hessian must be a square matrix (p, p), got shape {tuple(matrix.shape)}")
    if not bool(torch.isfinite(matrix).all()):
        raise OptionError("hessian must be finite; there are NaN or infinite elements in it")
    size = max(float(matrix.abs().max()), 1e-300)
    if float((matrix - matrix.mT).abs().max()) > 1e-6 * size:
        raise OptionError("hessian must be symmetric: H[i, j] and H[j, i] differ")
    values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.mT))
    if float(values.min()) < -1e-6 * size:
        raise OptionError(
            f"hessian has the negative eigenvalue {float(values.min()):g}: the loss is no bowl there, and no prior "
            "stands for steps down a slope without a bottom"
        )
    return values.clamp(min=0.0), vectors
