"""Stein variational gradient descent of the weights of one task: particles that share gradients and push each other.

    Δw_j = 1/M Σ_m [ k(w_m, w_j) s_m + r ∇_{w_m} k(w_m, w_j) ],    k(a, b) = exp(-|a - b|² / h)

with s the descent direction of the loss, h the median of the squared distances over log M, and r how much loss a nat of
the whole task is, so that particles come to be spread like the posterior. Plain operations alone, so that it can be
differentiated and go through `torch.func.vmap`. A single particle descends as in MAML.

Liu and Wang (2016), Stein variational gradient descent: a general purpose Bayesian inference algorithm, NeurIPS.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["stein_direction"]

TINY = 1e-12


def stein_direction(particles: Tensor, descent: Tensor, push: Tensor | float) -> Tensor:
    """Where each particle goes (M, p).

    Args:
        particles: Where they are (M, p).
        descent: Minus the gradient of the loss at each (M, p).
        push: r, (): 1 where the loss is a negative log posterior.
    """
    count = len(particles)
    if count == 1:
        return descent
    square = _squared_distances(particles)
    width = (_median_of_pairs(square) / math.log(count)).clamp(min=TINY)
    kernel = torch.exp(-square / width)
    away = (particles * kernel.sum(1, keepdim=True) - kernel @ particles) * (2 / width)
    return (kernel @ descent + push * away) / count


def _squared_distances(particles: Tensor) -> Tensor:
    """|w_i - w_j|² (M, M), exactly zero on the diagonal."""
    products = particles @ particles.T
    square = products.diagonal()
    found = (square.unsqueeze(0) + square.unsqueeze(1) - 2 * products).clamp(min=0)
    return found * (1 - torch.eye(len(particles), dtype=particles.dtype))


def _median_of_pairs(square: Tensor) -> Tensor:
    """The median of the distances of different particles, the lower one of two."""
    first, second = torch.triu_indices(len(square), len(square), 1)
    pairs = square[first, second].sort().values
    return pairs[(len(pairs) - 1) // 2]
