"""Densities with known answers that are no hierarchies: what back-ends infer, by one function."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from bayesmeta.density import Density

__all__ = ["Toy", "banana", "bent", "funnel", "normal", "two_modes"]


class Toy:
    """A density over u (dim,) with the face of a `Target`."""

    def __init__(self, fn: Callable[[Tensor], Tensor], dim: int) -> None:
        self.fn, self.dim, self.q = fn, dim, dim
        self.leaves: list[Tensor] = []
        self.cells = dim
        self.is_joint = False
        self.program = SimpleNamespace(structure=SimpleNamespace(vectorised=True))
        self.calls = 0

    def log_prob(self, u: Tensor) -> Tensor:
        """Values (S,) at points (S, dim)."""
        values: Tensor = torch.func.vmap(self.fn)(u)
        return values

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Values (S,) and gradients (S, dim)."""
        self.calls += len(u)
        grad, value = torch.func.vmap(torch.func.grad_and_value(self.fn))(u)
        return value, grad

    def density(self, compile: bool = True) -> Density:
        """One point at a time; never compiled."""
        return Density(self.fn, self.dim, compile=False)


def normal(mean: Tensor, covariance: Tensor) -> Any:
    """A Gaussian."""
    precision = torch.linalg.inv(covariance)
    return Toy(lambda u: -0.5 * (u - mean) @ precision @ (u - mean), len(mean))


def banana(bend: float = 0.5) -> Any:
    """u0 standard normal, u1 normal about bend · u0²: mean 0 and bend, variances 1 and 0.09 + 2 bend²."""
    return Toy(lambda u: -0.5 * u[0] ** 2 - 0.5 * ((u[1] - bend * u[0] ** 2) / 0.3) ** 2, 2)


def bent(dim: int) -> Any:
    """u0 standard normal, every other one unit normal about u0²: far from any Gaussian where they are many."""
    return Toy(lambda u: -0.5 * u[0] ** 2 - 0.5 * (u[1:] - u[0] ** 2).square().sum(), dim)


def funnel(dim: int = 10) -> Any:
    """Neal's: u0 ~ Normal(0, 3), the others Normal(0, exp(u0 / 2))."""

    def fn(u: Tensor) -> Tensor:
        rest: Tensor = -0.5 * (u[1:] ** 2).sum() * torch.exp(-u[0]) - 0.5 * (dim - 1) * u[0]
        return rest - 0.5 * (u[0] / 3) ** 2

    return Toy(fn, dim)


def two_modes(apart: float = 8.0, share: float = 0.3) -> Any:
    """Two unit normals in the plane, `apart` from each other; the right one has `share` of the mass."""
    centres = torch.tensor([[-apart / 2, 0.0], [apart / 2, 0.0]], dtype=torch.float64)
    masses = torch.tensor([math.log(1 - share), math.log(share)], dtype=torch.float64)
    return Toy(lambda u: torch.logsumexp(masses - 0.5 * (u - centres).square().sum(-1), 0), 2)
