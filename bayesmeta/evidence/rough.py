"""A rough mode of log p(φ | D), and those of θ there, for hierarchies whose evidence has no closed form.

Each log Z_t(φ) is had by Laplace's method in standardised coordinates of θ. Newton steps from the last modes give
those of θ; the gradient in φ is by Fisher's identity the mean of that of log p(y, θ | φ) under the Gaussian at the
mode, on 2p points that have its mean and covariance. It is good enough to look around from, not to sample by. A
joint mode of φ and θ would not do: it has no scale of θ at all, or far too wide a one. Nothing is recorded or
compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bayesmeta.program import Program, Row
from bayesmeta.tasks import Tasks

__all__ = ["LEAST_PRECISION", "AtModes", "climb", "decrement", "eigen", "modes_of_theta", "one_batch", "rough_mode"]

PRIOR_DRAWS = 25
CLIMBS = 60
# A step goes no farther than this, and is tried at these lengths.
LONGEST = 2.0
LENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.001)
NEWTON_STEPS = 15
# No posterior of a standardised θ is taken to be wider than by this precision.
LEAST_PRECISION = 1e-2

ValueAndGradient = Callable[[Tensor], tuple[float, Tensor]]


class AtModes(NamedTuple):
    """log p(y, θ | φ) of tasks at points v (T, p): values (T,), gradients (T, p), minus Hessians (T, p, p)."""

    v: Tensor
    value: Tensor
    gradient: Tensor
    precision: Tensor


def rough_mode(program: Program, tasks: Tasks) -> Tensor | None:
    """Coordinates (q,) of a rough mode of p(φ | D); None where none is found."""
    rows = one_batch(program, tasks)
    modes = [torch.zeros(len(row.mask), program.structure.theta.size) for row in rows]
    centre, spread = _prior(program)

    def log_posterior(z: Tensor) -> tuple[float, Tensor]:
        """At prior spreads z from the centre of the prior: one unit is as far for every coordinate."""
        u = centre + spread * z
        phi = program.phi(u)
        found = [modes_of_theta(program, phi.returned, row, v) for row, v in zip(rows, modes, strict=True)]
        value = float(phi.log_prior + sum((_log_z(one).sum() for one in found), torch.zeros(())))
        if not math.isfinite(value):
            return -math.inf, torch.zeros_like(z)
        modes[:] = [one.v for one in found]
        return value, spread * _gradient(program, u, rows, found)

    top = climb(log_posterior, torch.zeros_like(centre))
    return None if top is None else centre + spread * top


def one_batch(program: Program, tasks: Tasks) -> list[Row]:
    """The tasks in one batch; in one for each size where they cannot be padded."""
    exact = not program.structure.maskable
    return [Row.of(batch) for batch in tasks.padded(max_buckets=1, exact_sizes=exact)]


def modes_of_theta(program: Program, phi: object, row: Row, v: Tensor, steps: int = NEWTON_STEPS) -> AtModes:
    """The modes of log p(y_t, θ_t | φ) over standardised θ, by Newton steps from v (T, p), shortened where need be."""

    def look(v: Tensor, row: Row) -> tuple[Tensor, Tensor, Tensor]:
        def gradient(v: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            grad, value = torch.func.grad_and_value(lambda v: program.log_joint(phi, v, row))(v)
            return grad, (grad, value)

        hessian, (grad, value) = torch.func.jacrev(gradient, has_aux=True)(v)
        return value, grad, -0.5 * (hessian + hessian.mT)

    over_tasks = program.over_tasks(look)
    found = AtModes(v, *over_tasks(v, row))
    length = torch.ones(len(v), 1)
    for _ in range(steps):
        if bool((decrement(found) < 1e-4).all()):
            break
        moved = found.v + length * _newton_step(found)
        other = AtModes(moved, *over_tasks(moved, row))
        better = other.value >= found.value - 1e-9
        found = AtModes(*(_where(better, new, old) for new, old in zip(other, found, strict=True)))
        length = torch.where(better.unsqueeze(-1), 1.0, 0.25 * length)
    return found


def eigen(precision: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (T, p) and eigenvectors (T, p, p); of the identity for a matrix that is not finite."""
    broken = ~precision.isfinite().all(-1).all(-1)
    values, vectors = torch.linalg.eigh(_where(broken, torch.eye(precision.shape[-1]).expand_as(precision), precision))
    return values, vectors


def _where(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(rows.reshape(rows.shape + (1,) * (new.dim() - 1)), new, old)


def _newton_step(at: AtModes) -> Tensor:
    """P⁻¹g, P with the sizes of its eigenvalues in their place: uphill also where P is not positive definite."""
    eigenvalues, vectors = eigen(at.precision)
    along = (vectors * at.gradient.unsqueeze(-1)).sum(-2) / eigenvalues.abs().clamp(min=LEAST_PRECISION)
    step: Tensor = (vectors * along.unsqueeze(-2)).sum(-1)
    return step


def decrement(at: AtModes) -> Tensor:
    """How many nats a Newton step promises, doubled (T,)."""
    return (at.gradient * _newton_step(at)).sum(-1)


def _log_z(at: AtModes) -> Tensor:
    """Laplace's log Z_t (T,), up to a constant."""
    eigenvalues, _ = eigen(at.precision)
    return at.value - 0.5 * eigenvalues.clamp(min=LEAST_PRECISION).log().sum(-1)


def _gradient(program: Program, u: Tensor, rows: list[Row], modes: list[AtModes]) -> Tensor:
    """∇ log p(φ, D) by Fisher's identity, with the Gaussians at the modes for p(θ | φ, D)."""

    def expected(u: Tensor) -> Tensor:
        phi = program.phi(u)
        total = phi.log_prior
        for row, at in zip(rows, modes, strict=True):

            def at_point(v: Tensor, row: Row = row) -> Tensor:
                terms: Tensor = program.over_tasks(lambda v, row: program.log_joint(phi.returned, v, row))(v, row)
                return terms.sum()

            total = total + program.over_tasks(at_point)(_sigma_points(at)).mean()
        return total

    gradient: Tensor = torch.func.grad(expected)(u)
    return gradient


def _sigma_points(at: AtModes) -> Tensor:
    """2p points (2p, T, p) with the mode as their mean and the inverse of P as their covariance."""
    eigenvalues, vectors = eigen(at.precision)
    spread = vectors / eigenvalues.clamp(min=LEAST_PRECISION).sqrt().unsqueeze(-2) * math.sqrt(vectors.shape[-1])
    columns = spread.movedim(-1, 0)
    points: Tensor = torch.cat([at.v + columns, at.v - columns])
    return points


def _prior(program: Program) -> tuple[Tensor, Tensor]:
    """The median and half the distance of the quartiles of the coordinates of some draws of φ, each (q,)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draws = torch.stack([program.drawn_phi() for _ in range(PRIOR_DRAWS)]).nan_to_num(0.0, 0.0, 0.0)
    lower, centre, upper = draws.quantile(torch.tensor([0.25, 0.5, 0.75]), 0)
    spread = 0.5 * (upper - lower)
    return centre, torch.where(spread > 0, spread, 1.0)


def climb(fn: ValueAndGradient, u: Tensor, steps: int = CLIMBS, enough: float = 0.01) -> Tensor | None:
    """A point near a maximum of fn by BFGS, to where the next step promises less than `enough`.

    Args:
        fn: Value and gradient at a point; -inf where it has none. One unit is to be about as far as the maximum is
            wide in its widest direction: what is narrower is learnt on the way.
        u: Where to start (q,).
        steps: How many steps at most.
        enough: When to stop, in the units of fn.

    Returns:
        The point, or None where fn has no value at the start.
    """
    value, gradient = fn(u)
    if not math.isfinite(value) or not bool(gradient.isfinite().all()):
        return None
    inverse = torch.eye(len(u))
    for _ in range(steps):
        direction = inverse @ gradient
        if float(gradient @ direction) < enough:
            break
        direction = direction * (LONGEST / direction.norm()).clamp(max=1.0)
        moved = _shortened(fn, u, value, direction, float(gradient @ direction))
        if moved is None:
            break
        length, value, new = moved
        step, change = length * direction, gradient - new
        u, gradient = u + step, new
        inverse = _updated(inverse, step, change)
    return u


def _shortened(
    fn: ValueAndGradient, u: Tensor, value: float, direction: Tensor, promise: float
) -> tuple[float, float, Tensor] | None:
    """The first of ever shorter steps that climbs: its length, and value and gradient there."""
    for length in LENGTHS:
        new, gradient = fn(u + length * direction)
        if new >= value + 1e-4 * length * promise and bool(gradient.isfinite().all()):
            return length, new, gradient
    return None


def _updated(inverse: Tensor, step: Tensor, change: Tensor) -> Tensor:
    """The inverse of minus the Hessian after a step, by BFGS; as it was where the curvature is of the wrong sign."""
    curvature = step @ change
    if curvature <= 1e-10:
        return inverse
    shrink = torch.eye(len(step)) - torch.outer(step, change) / curvature
    return shrink @ inverse @ shrink.mT + torch.outer(step, step) / curvature
