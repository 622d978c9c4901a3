"""One transition of Hamiltonian Monte Carlo for many chains at once, one row of each tensor per chain.

With q = u / s for a scale s per coordinate and momenta p ~ N(0, I), the leapfrog of n steps of size ε

    p ← p + ε/2 s∇log p(u),     u ← u + ε s p,     p ← p + ε/2 s∇log p(u)

is reversible and keeps volume, so that accepting its end with probability min(1, exp(-ΔH)), H = -log p(u) + p'p/2,
leaves p(u) as it is, whatever s, ε and n, as long as they do not depend on where the chains are
(Duane, Kennedy, Pendleton, Roweth 1987; Neal 2011, "MCMC using Hamiltonian dynamics").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["MAX_ENERGY_ERROR", "Gradient", "Move", "Point", "leapfrog", "point_at", "transition"]

MAX_ENERGY_ERROR = 1000.0
"""An energy error beyond this many nats is a divergence, as in Stan."""

Gradient = Callable[[Tensor], tuple[Tensor, Tensor]]


class Point(NamedTuple):
    """Where the chains are: u (chains, dim), log p(u) (chains,), and its gradient (chains, dim)."""

    u: Tensor
    lp: Tensor
    grad: Tensor


class Move(NamedTuple):
    """What one transition did.

    Attributes:
        point: Where the chains are now.
        end: Where the trajectories ended, accepted or not.
        momentum: The momenta there (chains, dim).
        accept: Acceptance probabilities (chains,); zero where the trajectory left the support.
        diverging: Where the energy error was infinite, undefined or beyond `MAX_ENERGY_ERROR` (chains,).
        energy: H of the points where the chains are now, with the momenta that brought them there (chains,).
    """

    point: Point
    end: Point
    momentum: Tensor
    accept: Tensor
    diverging: Tensor
    energy: Tensor


def point_at(gradient: Gradient, u: Tensor) -> Point:
    """The point at u (chains, dim)."""
    return Point(u, *gradient(u))


def leapfrog(
    gradient: Gradient, point: Point, momentum: Tensor, step: float, scale: Tensor, count: int
) -> tuple[Point, Tensor]:
    """`count` leapfrog steps of size `step` from a point with momenta (chains, dim), in units of `scale` (dim,)."""
    stride = step * scale
    u, lp, grad = point
    momentum = torch.addcmul(momentum, grad, stride, value=0.5)
    for k in range(count):
        u = torch.addcmul(u, momentum, stride)
        lp, grad = gradient(u)
        momentum = torch.addcmul(momentum, grad, stride, value=1.0 if k < count - 1 else 0.5)
    return Point(u, lp, grad), momentum


def transition(
    gradient: Gradient, point: Point, step: float, scale: Tensor, count: int, generator: torch.Generator
) -> Move:
    """Fresh momenta, one trajectory, and the Metropolis test, for each chain."""
    momentum, uniform = _random(point, generator)
    end, last = leapfrog(gradient, point, momentum, step, scale, count)
    before = 0.5 * momentum.square().sum(-1) - point.lp
    after = 0.5 * last.square().sum(-1) - end.lp
    accept, diverging = metropolis(before, after)
    taken = uniform < accept
    rows = taken.unsqueeze(-1)
    now = Point(
        torch.where(rows, end.u, point.u),
        torch.where(taken, end.lp, point.lp),
        torch.where(rows, end.grad, point.grad),
    )
    return Move(now, end, last, accept, diverging, torch.where(taken, after, before))


def metropolis(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Acceptance probabilities from energies (chains,), and where the trajectory diverged."""
    gain = before - after
    diverging = ~(gain > -MAX_ENERGY_ERROR)  # a NaN is not larger than anything
    accept = gain.clamp(max=0.0).exp()
    return torch.where(diverging, 0.0, accept), diverging


def _random(point: Point, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Standard normal momenta (chains, dim) and uniform numbers (chains,)."""
    dtype, device = point.u.dtype, point.u.device
    momentum = torch.randn(point.u.shape, generator=generator, dtype=dtype, device=device)
    return momentum, torch.rand(point.lp.shape, generator=generator, dtype=dtype, device=device)
