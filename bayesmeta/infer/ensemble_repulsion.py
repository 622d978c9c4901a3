"""Stein variational gradient descent: members that share their gradients and push each other apart.

    Δφ_i = 1/M Σ_j [ k(φ_j, φ_i) ∇ log p(φ_j | D) + ∇_{φ_j} k(φ_j, φ_i) ],    k(a, b) = exp(-|a - b|² / h)

with h the median of the squared distances over log M (Liu, Wang 2016, "Stein variational gradient descent"). With
many members of few dimensions they come to be spread like p(φ | D); in many dimensions they are too close together
(Ba et al. 2022, "Understanding the variance collapse of SVGD in high dimensions"). A single member goes to the mode.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["repelled"]


def repelled(w: Tensor, grad: Tensor, weight: float) -> Tensor:
    """The direction of each member (M, d).

    Args:
        w: Members (M, d), in units in which distances mean something.
        grad: Gradients (M, d) of `weight` times the log posterior.
        weight: What the log posterior was scaled by: the push is scaled alike.
    """
    count = len(w)
    if count == 1:
        return grad
    grad = torch.where(torch.isfinite(grad).all(1, keepdim=True), grad, 0.0)  # one that fails shall fail alone
    square = torch.cdist(w, w).square()
    apart = square[~torch.eye(count, dtype=torch.bool)]
    width = (apart.median() / math.log(count + 1)).clamp(min=1e-12)
    kernel = torch.exp(-square / width)
    push = (w * kernel.sum(1, keepdim=True) - kernel @ w) * (2 / width)
    return (kernel @ grad + weight * push) / count
