"""Climbing to modes by L-BFGS, several starts at once, each path kept.

All starts move together: one vectorised call gives the value and gradient of every path, so that eight paths
cost hardly more than one. The pairs (s, y) of steps and gradient changes along a path are what Pathfinder makes
its Gaussians of. Nocedal, Wright 2006, chapter 7; steps are halved until the value has risen enough (Armijo).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesmeta.errors import BayesmetaError

__all__ = ["Climb", "climb", "finite_starts"]

ValueAndGrad = Callable[[Tensor], tuple[Tensor, Tensor]]
ENOUGH = 1e-4  # of the rise that the gradient promises
HALVINGS = 25
LONGEST = 100.0  # no step goes farther than this many units


@dataclass(frozen=True)
class Climb:
    """The paths of P starts; a path that has arrived repeats its last point.

    Attributes:
        u: Points (steps, P, dim).
        value: log density at them (steps, P).
        grad: Gradients at them (steps, P, dim).
        converged: Whether a path arrived (P,).
        evaluations: Gradients taken, counting each path.
    """

    u: Tensor
    value: Tensor
    grad: Tensor
    converged: Tensor
    evaluations: int

    @property
    def mode(self) -> Tensor:
        """The highest point of each path (P, dim)."""
        best = self.value.argmax(0)
        return self.u[best, torch.arange(self.u.shape[1])]

    @property
    def height(self) -> Tensor:
        """log density at the modes (P,)."""
        return self.value.max(0).values


def finite_starts(
    log_density: ValueAndGrad, count: int, dim: int, generator: torch.Generator, tries: int = 40
) -> Tensor:
    """Starting points (count, dim) of finite density and gradient, uniform in [-2, 2], nearer to zero if need be.

    Raises:
        BayesmetaError: None was found.
    """
    found = torch.empty(0, dim, dtype=torch.float64)
    for attempt in range(tries):
        width = 2.0 * 0.9**attempt
        u = width * (2 * torch.rand(count, dim, generator=generator, dtype=torch.float64) - 1)
        value, grad = log_density(u)
        found = torch.cat([found, u[torch.isfinite(value) & torch.isfinite(grad).all(-1)]])
        if len(found) >= count:
            return found[:count]
    if len(found):
        return found[torch.arange(count) % len(found)]
    raise BayesmetaError(
        f"no starting point of finite log density was found in {tries * count} tries: look for observations that are "
        "impossible under the task (counts above their maximum, negative values under a positive distribution)"
    )


def climb(
    log_density: ValueAndGrad,
    start: Tensor,
    *,
    steps: int = 200,
    history: int = 10,
    tolerance: float = 1e-8,
    watch: Callable[[int, Tensor], None] | None = None,
    keep: bool = True,
) -> Climb:
    """Follow L-BFGS upwards from every start.

    Args:
        log_density: Values (P,) and gradients (P, dim) at points (P, dim).
        start: Starting points (P, dim), of finite density.
        steps: The most steps.
        history: Pairs kept for the next direction.
        tolerance: A path has arrived where a step, or the rise that the gradient still promises, is below this
            share of the value's size.
        watch: Called after each step with its number and the values (P,).
        keep: Keep all points of the paths, rather than the last alone.
    """
    u, (value, grad) = start, log_density(start)
    points, values, grads = [u], [value], [grad]
    arrived = torch.zeros(len(u), dtype=torch.bool)
    evaluations = len(u)
    pairs: list[tuple[Tensor, Tensor]] = []
    for step in range(steps):
        direction = _direction(grad, pairs)
        slope = (direction * grad).sum(-1)
        uphill = slope > 0
        direction = torch.where(uphill.unsqueeze(-1), direction, grad)
        slope = torch.where(uphill, slope, grad.square().sum(-1))
        arrived = arrived | (slope <= tolerance * (1 + value.abs()))
        if bool(arrived.all()):
            break
        if not pairs:
            direction = direction / direction.norm(dim=-1, keepdim=True).clamp(min=1.0)
            slope = (direction * grad).sum(-1)
        next_u, next_value, next_grad, calls = _rise(log_density, u, value, direction, slope, arrived)
        evaluations += calls * len(u)
        moved, change = next_u - u, grad - next_grad
        curved = (moved * change).sum(-1) > 1e-10 * change.square().sum(-1)
        pairs = [*pairs, (_where(curved, moved), _where(curved, change))][-history:]
        arrived = arrived | ((next_value - value) <= tolerance * (1 + value.abs()))
        u, value, grad = next_u, next_value, next_grad
        if not keep:
            points, values, grads = [], [], []
        points.append(u)
        values.append(value)
        grads.append(grad)
        if watch is not None:
            watch(step, value)
    return Climb(torch.stack(points), torch.stack(values), torch.stack(grads), arrived, evaluations)


def _where(keep: Tensor, values: Tensor) -> Tensor:
    return torch.where(keep.unsqueeze(-1), values, 0.0)


def _direction(grad: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The inverse Hessian of the last pairs times the gradient, by the two-loop recursion, path by path."""
    q = grad
    alphas = []
    for s, y in reversed(pairs):
        rho = _inverse((s * y).sum(-1))
        alpha = rho * (s * q).sum(-1)
        q = q - alpha.unsqueeze(-1) * y
        alphas.append(alpha)
    if pairs:
        scale = torch.ones(len(grad), dtype=torch.float64)
        for s, y in pairs:
            curvature = y.square().sum(-1)
            scale = torch.where(curvature > 0, (s * y).sum(-1) * _inverse(curvature), scale)
        q = q * scale.unsqueeze(-1)
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        beta = _inverse((s * y).sum(-1)) * (y * q).sum(-1)
        q = q + (alpha - beta).unsqueeze(-1) * s
    return q


def _inverse(x: Tensor) -> Tensor:
    """1/x, and 0 where x is 0: a pair that was left out."""
    return torch.where(x == 0, 0.0, 1 / torch.where(x == 0, 1.0, x))


def _rise(
    log_density: ValueAndGrad, u: Tensor, value: Tensor, direction: Tensor, slope: Tensor, arrived: Tensor
) -> tuple[Tensor, Tensor, Tensor, int]:
    """The next point of each path: a full step, halved until the value has risen enough; calls made."""
    length = (LONGEST / direction.norm(dim=-1).clamp(min=1e-300)).clamp(max=1.0)
    length = torch.where(arrived, 0.0, length)
    for calls in range(1, HALVINGS + 1):
        trial = u + length.unsqueeze(-1) * direction
        there, grad = log_density(trial)
        good = torch.isfinite(there) & torch.isfinite(grad).all(-1) & (there >= value + ENOUGH * length * slope)
        good = good | arrived
        if bool(good.all()):
            return trial, there, grad, calls
        length = torch.where(good, length, 0.5 * length)
    length = torch.where(good, length, 0.0)
    trial = u + length.unsqueeze(-1) * direction
    there, grad = log_density(trial)
    return trial, there, grad, HALVINGS + 1
