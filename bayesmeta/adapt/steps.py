"""Gradient steps on log p(y, θ | φ), for every task and draw of φ at once, each on its own way; the path is kept.

Three ways to step: plain gradient steps ("sgd", though nothing about them is random), Adam (Kingma, Ba 2015), and
L-BFGS. A learning rate of None is found: for gradient steps each path has its own, doubled after a step that climbs
and cut where one does not (Armijo's rule); for Adam `best_rate` tries a few.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from bayesmeta.infer.climb import climb

__all__ = ["OPTIMISERS", "Optimiser", "ValueAndGrad", "ascend", "best_rate"]

Optimiser: TypeAlias = Literal["lbfgs", "adam", "sgd"]
OPTIMISERS = ("lbfgs", "adam", "sgd")

# Values (S, T) and gradients (S, T, p) at points (S, T, p).
ValueAndGrad = Callable[[Tensor], tuple[Tensor, Tensor]]

RATES = (0.3, 0.1, 0.03, 0.01)
ENOUGH = 1e-4  # of the rise that the gradient promises
HALVINGS = 20
BETAS, EPSILON = (0.9, 0.999), 1e-8


def ascend(
    fn: ValueAndGrad, start: Tensor, steps: int, optimiser: Optimiser, rate: float | None, *, keep: bool = True
) -> Tensor:
    """The path (steps + 1, S, T, p) uphill from a start (S, T, p); one that has arrived repeats its last point.

    Without `keep` it is the last point alone, (1, S, T, p).
    """
    if optimiser == "lbfgs":
        return _by_lbfgs(fn, start, steps, keep)
    if optimiser == "adam":
        points = _by_adam(fn, start, steps, best_rate(fn, start, steps) if rate is None else rate)
    else:
        points = _by_search(fn, start, steps) if rate is None else _by_rate(fn, start, steps, rate)
    if keep:
        return torch.stack(list(points))
    return deque(points, maxlen=1).pop().unsqueeze(0)


def _by_lbfgs(fn: ValueAndGrad, start: Tensor, steps: int, keep: bool) -> Tensor:
    def flat(v: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = fn(v.reshape(start.shape))
        return value.reshape(-1), grad.reshape(len(v), -1)

    points = climb(flat, start.reshape(-1, start.shape[-1]), steps=steps, keep=keep).u
    missing = (steps + 1 if keep else 1) - len(points)
    return torch.cat([points, points[-1:].expand(missing, -1, -1)]).reshape(-1, *start.shape)


def _by_rate(fn: ValueAndGrad, v: Tensor, steps: int, rate: float) -> Iterator[Tensor]:
    yield v
    for _ in range(steps):
        v = v + rate * _usable(fn(v)[1])
        yield v


def _by_search(fn: ValueAndGrad, v: Tensor, steps: int) -> Iterator[Tensor]:
    """Gradient steps of a length that each path finds for itself."""
    value, grad = fn(v)
    length = 1 / (1 + grad.norm(dim=-1))
    yield v
    for _ in range(steps):
        promise = grad.square().sum(-1)
        for _ in range(HALVINGS):
            tried = v + length.unsqueeze(-1) * grad
            there, slope = fn(tried)
            good = (there >= value + ENOUGH * length * promise) & torch.isfinite(slope).all(-1)
            if bool(good.all()):
                break
            length = torch.where(good, length, 0.4 * length)
        row = good.unsqueeze(-1)
        v, grad = torch.where(row, tried, v), torch.where(row, slope, grad)
        value, length = torch.where(good, there, value), torch.where(good, 2 * length, length)
        yield v


def _by_adam(fn: ValueAndGrad, v: Tensor, steps: int, rate: float) -> Iterator[Tensor]:
    mean, square = torch.zeros_like(v), torch.zeros_like(v)
    yield v
    for k in range(1, steps + 1):
        grad = _usable(fn(v)[1])
        mean = BETAS[0] * mean + (1 - BETAS[0]) * grad
        square = BETAS[1] * square + (1 - BETAS[1]) * grad.square()
        scale = (square / (1 - BETAS[1] ** k)).sqrt() + EPSILON
        v = v + rate * mean / (1 - BETAS[0] ** k) / scale
        yield v


def best_rate(fn: ValueAndGrad, start: Tensor, steps: int) -> float:
    """The learning rate of Adam at whose end the density of the middle path is highest."""
    ends = [ascend(fn, start, steps, "adam", rate, keep=False)[0] for rate in RATES]
    heights = [float(_finite(fn(end)[0]).median()) for end in ends]
    return RATES[max(range(len(RATES)), key=lambda k: heights[k])]


def _usable(grad: Tensor) -> Tensor:
    return torch.where(torch.isfinite(grad), grad, 0.0)


def _finite(value: Tensor) -> Tensor:
    return torch.where(torch.isfinite(value), value, -torch.inf)
