"""What observations say of θ without a population, for tasks of any kind: the peak of their likelihood.

    alone      argmax_θ log p(y_t | θ, φ)       no pooling, task by task
    together   argmax_θ Σ_t log p(y_t | θ, φ)   complete pooling: one θ for all tasks

at one φ, by Newton's method in unconstrained coordinates, in units of how far θ spreads. A peak may be nowhere: where
nothing was ever counted, the log rate falls without end; the search is then left far out, where it came to. Where
observations leave an element of θ open, their curvature says so, and there is no estimate of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesmeta.evidence.newton import LADDER, best
from bayesmeta.program import Program, Row
from bayesmeta.sites import quiet_pyro
from bayesmeta.tasks import Tasks
from bayesmeta.threads import one_thread

__all__ = ["Frame", "alone", "solved", "together"]

Likelihood: TypeAlias = Callable[[Tensor], Tensor]  # log p(y | θ, φ) (K,) at coordinates (K, p)

STEPS = 60
ARRIVED = 1e-4  # where the last step starts, in standard deviations of the likelihood: it ends far nearer
NEAR = 0.5  # where steps are taken whole without a look at the likelihood
LONGEST = 2.0  # units of a step
SINGULAR = 1e-10  # eigenvalues so much smaller than the largest curve in no direction
OPEN = 1e-6  # the share of an element that may lie in such a direction
PIECE_CELLS = 500_000


class Frame(NamedTuple):
    """Where searches start, centred coordinates (T, p), and the unit of each coordinate (p,)."""

    start: Tensor
    unit: Tensor


@one_thread()
def alone(program: Program, tasks: Tasks, phi: Tensor, frame: Frame) -> Tensor:
    """Centred coordinates (T, p) of the peaks, at coordinates of φ (q,); NaN where it is left open."""
    out = torch.full_like(frame.start, torch.nan)
    seen = torch.nonzero(tasks.sizes > 0).squeeze(-1)
    if not len(seen):
        return out
    some = tasks[seen.tolist()]
    with quiet_pyro():
        returned = program.returned(phi)
        for index, row in _pieces(program, some):
            at = seen[index]
            likelihood = _likelihood(program, returned, row, frame.start[at], frame.unit)
            out[at] = frame.start[at] + frame.unit * _climb([likelihood], torch.zeros_like(frame.start[at]))
    return out


@one_thread()
def together(program: Program, tasks: Tasks, phi: Tensor, frame: Frame) -> Tensor:
    """Centred coordinates (p,) of the one peak of all tasks; NaN where it is left open."""
    seen = torch.nonzero(tasks.sizes > 0).squeeze(-1)
    start = frame.start.mean(0, keepdim=True)
    if not len(seen):
        return torch.full_like(start[0], torch.nan)
    with quiet_pyro():
        returned = program.returned(phi)
        parts = [
            _summed(_likelihood(program, returned, row, start.expand(len(index), -1), frame.unit), len(index))
            for index, row in _pieces(program, tasks[seen.tolist()])
        ]
        return (start + frame.unit * _climb(parts, torch.zeros_like(start)))[0]


def _pieces(program: Program, tasks: Tasks) -> list[tuple[Tensor, Row]]:
    """Positions and rows of tasks of similar size, some at a time, so that memory stays bounded."""
    found = []
    for batch in tasks.padded(exact_sizes=not program.structure.maskable):
        count = max(1, PIECE_CELLS // max(1, batch.mask.shape[1] * program.structure.theta.size))
        leaves, spec = pytree.tree_flatten((batch.index, Row.of(batch)))
        for piece in zip(*(leaf.split(count) for leaf in leaves), strict=True):
            found.append(pytree.tree_unflatten(list(piece), spec))
    return found


def _likelihood(program: Program, returned: object, row: Row, start: Tensor, unit: Tensor) -> Likelihood:
    def values(z: Tensor) -> Tensor:
        found: Tensor = program.over_tasks(lambda v, row: program.terms(returned, v, row)[1])(start + unit * z, row)
        return found

    return values


def _summed(likelihood: Likelihood, count: int) -> Likelihood:
    return lambda z: likelihood(z.expand(count, -1)).sum().unsqueeze(0)


def _climb(parts: Sequence[Likelihood], z: Tensor) -> Tensor:
    """Peaks (K, p) of the sum of the parts, from z (K, p); NaN in elements that are left open."""
    precision = torch.zeros(*z.shape, z.shape[-1], dtype=z.dtype)
    for _ in range(STEPS):
        g, precision = (sum(column) for column in zip(*(_derivatives(part, z) for part in parts), strict=True))
        step, decrement, concave = _step(g, precision)
        near = (decrement < NEAR) & concave
        moved = z + (step if bool(near.all()) else _length(parts, z, step).unsqueeze(-1) * step)
        done = ((decrement < ARRIVED) & concave) | (moved == z).all(-1)
        z = moved
        if bool(done.all()):
            break
    finite = torch.isfinite(precision).all(-1).all(-1)[:, None, None]
    values, vectors = torch.linalg.eigh(torch.where(finite, precision, 0.0))
    return z.masked_fill(_left_open(values, vectors), torch.nan)


def _step(g: Tensor, precision: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A Newton step (K, p) of bounded length, what it was in sds of the likelihood (K,), whether that is concave."""
    sound = torch.isfinite(g).all(-1) & torch.isfinite(precision).all(-1).all(-1)
    values, vectors = torch.linalg.eigh(torch.where(sound[:, None, None], precision, 0.0))
    largest = values.abs().amax(-1, keepdim=True)
    size = torch.where(values > SINGULAR * largest, values, values.abs().maximum(1e-3 * (1 + largest)))
    white = (vectors.mT @ torch.where(sound[:, None], g, 0.0).unsqueeze(-1)).squeeze(-1)
    step = (vectors @ (white / size).unsqueeze(-1)).squeeze(-1)
    longest = step.abs().amax(-1, keepdim=True).clamp(min=1e-300)
    decrement = (white.square() / size).sum(-1).sqrt()
    return step * (LONGEST / longest).clamp(max=1.0), decrement, (values >= -SINGULAR * largest).all(-1)


def solved(precision: Tensor, b: Tensor) -> Tensor:
    """P⁻¹b (T, p); NaN in elements that P (T, p, p) leaves open."""
    values, vectors = torch.linalg.eigh(precision)
    some = values > SINGULAR * values[:, -1:]
    white = (vectors.mT @ b.unsqueeze(-1)).squeeze(-1)
    solution: Tensor = (vectors @ torch.where(some, white / values, 0.0).unsqueeze(-1)).squeeze(-1)
    return solution.masked_fill(_left_open(values, vectors), torch.nan)


def _left_open(values: Tensor, vectors: Tensor) -> Tensor:
    """Which elements (K, p) have a part in a direction that is flat, by eigenvalues and eigenvectors."""
    flat = values <= SINGULAR * values[:, -1:].clamp(min=torch.finfo(values.dtype).tiny)
    part: Tensor = (vectors.square() * flat.unsqueeze(-2)).sum(-1)
    return part > OPEN


def _length(parts: Sequence[Likelihood], z: Tensor, step: Tensor) -> Tensor:
    """How much of the step to take (K,)."""
    with torch.no_grad():
        return best(torch.stack([_total(parts, z + length * step) for length in (0.0, *LADDER)]))


def _total(parts: Sequence[Likelihood], z: Tensor) -> Tensor:
    return torch.stack([part(z) for part in parts]).sum(0)


def _derivatives(likelihood: Likelihood, z: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (K, p) and minus Hessians (K, p, p): no likelihood of the K knows another's θ."""
    with torch.enable_grad():
        leaf = z.detach().requires_grad_(True)
        value = likelihood(leaf).sum()
        if not value.requires_grad:
            return torch.zeros_like(z), torch.zeros(*z.shape, z.shape[-1], dtype=z.dtype)
        (g,) = torch.autograd.grad(value, leaf, create_graph=True, materialize_grads=True)
        columns = [_gradient(g[..., i].sum(), leaf) for i in range(z.shape[-1])]
    hessian = torch.stack(columns, -1)
    return g.detach(), -0.5 * (hessian + hessian.mT)


def _gradient(value: Tensor, leaf: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (found,) = torch.autograd.grad(value, leaf, retain_graph=True, materialize_grads=True)
    return found
