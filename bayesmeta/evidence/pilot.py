"""A short look at the tasks before they are sampled jointly: which degree of centring does each of them want?

Given φ, the data of a task take the share

    κ = 1 - var(θ | y, φ) / var(θ | φ)

of the prior variance of an element of θ away. At degree κ neither the posterior location of its coordinate moves
with the prior mean, nor its posterior width with the prior scale, to first order; of an element that is correlated
with others under the posterior this is true of its marginal variance. (`bayesmeta.centring` has the coordinates
and their sources.)

κ is taken at a rough mode of log p(φ | D), each log Z_t(φ) by Laplace's method in standardised coordinates, where
the prior variance is one. Newton steps from the last modes give those of θ; the gradient in φ is by Fisher's
identity the mean of that of log p(y, θ | φ) under the Gaussian at the mode, on 2p points that have its mean and
covariance. A joint mode of φ and θ would not do: it has no scale of θ at all, or far too wide a one. A hundred
tasks of all sizes are enough for the mode; κ is then found for every task. Nothing is recorded or compiled.

Where no mode is found the coordinates are standardised, which is safe for the funnel.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import biject_to

from bayesmeta.centring import CENTRED, Degree, base_of
from bayesmeta.errors import BayesmetaError
from bayesmeta.program import Program, Row
from bayesmeta.sites import Values, quiet_pyro
from bayesmeta.tasks import Tasks
from bayesmeta.threads import one_thread

__all__ = ["Pilot", "normal_sites", "pilot"]

MOST_TASKS = 100
MOST_COORDINATES = 64
TASKS_AT_ONCE = 2_000
PRIOR_DRAWS = 25
CLIMBS = 40
NEWTON_STEPS = 15
# A coordinate this close to an end for every task and element is at it: the density is then simpler.
NEAR_AN_END = 0.05
LEAST_PRECISION = 1e-2

Climb = Callable[[Tensor], tuple[float, Tensor]]


class Pilot(NamedTuple):
    """Degrees by normal site of θ, each (T, ...), and what is to be said about how they were found."""

    degrees: dict[str, Degree]
    why: str


class Modes(NamedTuple):
    """log p(y, θ | φ) of tasks at points v (T, p): values (T,), gradients (T, p), minus Hessians (T, p, p)."""

    v: Tensor
    value: Tensor
    gradient: Tensor
    precision: Tensor


def normal_sites(program: Program, tasks: Tasks) -> list[str]:
    """Names of the θ sites whose coordinates need not be centred."""
    program = program.with_centring(False)
    batch = _batches(program, tasks[[0]])[0]
    row = Row(batch.x[0], batch.y[0], batch.mask[0], {name: value[0] for name, value in batch.context.items()})
    phi = program.returned(torch.zeros(program.structure.phi.size))
    met = program.meet(phi, torch.zeros(program.structure.theta.size), row)
    placed = {name: met[name].placed for name in program.structure.theta.names}
    return [name for name, one in placed.items() if one is not None and one.centring != CENTRED]


@one_thread()
def pilot(program: Program, tasks: Tasks) -> Pilot:
    """The degrees of centring of the normal sites of θ, by task and element."""
    program = program.with_centring(False)
    with quiet_pyro(), torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        names = normal_sites(program, tasks)
        if not names:
            return Pilot({}, "")
        try:
            found, why = _degrees(program, tasks, names)
        except RuntimeError as error:
            if isinstance(error, BayesmetaError):
                raise
            found, why = None, f"its second derivatives in θ failed ({str(error).strip().splitlines()[0]})"
    if found is None:
        found = {name: _standardised(program, tasks, name) for name in names}
        return Pilot(found, f"; how much each task says was not found out: {why}")
    return Pilot(found, ", by how much the data of each task say")


def _standardised(program: Program, tasks: Tasks, name: str) -> Degree:
    zero = torch.zeros(len(tasks), *_shape(program, name), dtype=torch.float64)
    return Degree(zero, zero)


def _shape(program: Program, name: str) -> tuple[int, ...]:
    return next(site.shape for site in program.structure.theta if site.name == name)


def _degrees(program: Program, tasks: Tasks, names: list[str]) -> tuple[dict[str, Degree] | None, str]:
    if program.structure.theta.size > MOST_COORDINATES:
        return None, f"θ has {program.structure.theta.size} coordinates, {MOST_COORDINATES} at most are looked at"
    u = _mode_of_phi(program, _some(tasks))
    if u is None:
        return None, "no mode of φ was found"
    phi = program.returned(u)
    parts = [
        _learnt(program, phi, tasks[part.tolist()], names) for part in torch.arange(len(tasks)).split(TASKS_AT_ONCE)
    ]
    return {name: _degree(*(torch.cat([part[name][k] for part in parts]) for k in range(2))) for name in names}, ""


def _degree(share: Tensor, scale: Tensor) -> Degree:
    """The degree of elements whose data take away this share of the variance, of prior scale near `scale`."""
    degree = (100 * share.clamp(0, 1)).round() / 100
    if bool((degree <= NEAR_AN_END).all()):
        degree = torch.zeros_like(degree)
    elif bool((degree >= 1 - NEAR_AN_END).all()):
        degree = torch.ones_like(degree)
    return Degree(degree, degree * scale ** (degree - 1))


def _some(tasks: Tasks) -> Tasks:
    """At most `MOST_TASKS` of the tasks, of all sizes alike."""
    if len(tasks) <= MOST_TASKS:
        return tasks
    order = torch.argsort(tasks.sizes, stable=True)
    return tasks[order[torch.linspace(0, len(tasks) - 1, MOST_TASKS).round().long()].tolist()]


def _batches(program: Program, tasks: Tasks) -> list[Row]:
    exact = not program.structure.maskable
    return [Row.of(batch) for batch in tasks.padded(max_buckets=1, exact_sizes=exact)]


# ---------------------------------------------------------------------------------------------------------
# What the data of each task say about its θ


def _learnt(program: Program, phi: object, tasks: Tasks, names: list[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """By site: the share of prior variance that is taken away, and the prior scale, each (T, ...)."""
    share: dict[str, Tensor] = {name: torch.zeros(len(tasks), *_shape(program, name)) for name in names}
    scale = {name: torch.ones_like(value) for name, value in share.items()}
    for batch in tasks.padded(exact_sizes=not program.structure.maskable):
        row = Row.of(batch)
        modes = _modes(program, phi, row, torch.zeros(len(batch.index), program.structure.theta.size))
        eigenvalues, vectors = torch.linalg.eigh(modes.precision)
        variance = (vectors.square() / eigenvalues.clamp(min=LEAST_PRECISION).unsqueeze(-2)).sum(-1)
        variance[_decrement(modes) > 1] = 1.0  # the mode was not found
        scales = program.over_tasks(lambda v, row: _scales(program, phi, v, row, names))(modes.v, row)
        for name, part in _split(program, 1 - variance).items():
            if name in share:
                share[name][batch.index], scale[name][batch.index] = part, scales[name]
    return {name: (share[name], scale[name]) for name in names}


def _split(program: Program, flat: Tensor) -> dict[str, Tensor]:
    """Numbers by coordinate (T, p), by site (T, ...)."""
    sites = program.structure.theta
    parts = flat.split([site.size for site in sites], -1)
    return {
        site.name: part.reshape(len(flat), *site.unconstrained_shape) for site, part in zip(sites, parts, strict=True)
    }


def _scales(program: Program, phi: object, v: Tensor, row: Row, names: list[str]) -> dict[str, Tensor]:
    """The prior scale of each element of the normal sites of one task."""
    met = program.meet(phi, v, row)
    found = {}
    for name in names:
        base = base_of(met[name].fn)
        tril = getattr(base, "scale_tril", None)
        scale = base.scale if tril is None else torch.diagonal(tril, dim1=-2, dim2=-1)
        found[name] = scale.expand(_shape(program, name)).clone()
    return found


def _modes(program: Program, phi: object, row: Row, v: Tensor, steps: int = NEWTON_STEPS) -> Modes:
    """The modes of log p(y_t, θ_t | φ) over standardised θ, by Newton steps from v (T, p), shortened where need be."""

    def look(v: Tensor, row: Row) -> tuple[Tensor, Tensor, Tensor]:
        def gradient(v: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            grad, value = torch.func.grad_and_value(lambda v: program.log_joint(phi, v, row))(v)
            return grad, (grad, value)

        hessian, (grad, value) = torch.func.jacrev(gradient, has_aux=True)(v)
        return value, grad, -0.5 * (hessian + hessian.mT)

    over_tasks = program.over_tasks(look)
    found = Modes(v, *over_tasks(v, row))
    length = torch.ones(len(v), 1)
    for _ in range(steps):
        if bool((_decrement(found) < 1e-4).all()):
            break
        moved = found.v + length * _newton_step(found)
        other = Modes(moved, *over_tasks(moved, row))
        better = other.value >= found.value - 1e-9
        found = Modes(*(_where(better, new, old) for new, old in zip(other, found, strict=True)))
        length = torch.where(better.unsqueeze(-1), 1.0, 0.25 * length)
    return found


def _where(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(rows.reshape(rows.shape + (1,) * (new.dim() - 1)), new, old)


def _newton_step(at: Modes) -> Tensor:
    """P⁻¹g, P with the sizes of its eigenvalues in their place: uphill also where P is not positive definite."""
    eigenvalues, vectors = torch.linalg.eigh(at.precision)
    along = (vectors * at.gradient.unsqueeze(-1)).sum(-2) / eigenvalues.abs().clamp(min=LEAST_PRECISION)
    step: Tensor = (vectors * along.unsqueeze(-2)).sum(-1)
    return step


def _decrement(at: Modes) -> Tensor:
    """How many nats a Newton step promises, doubled (T,)."""
    return (at.gradient * _newton_step(at)).sum(-1)


# ---------------------------------------------------------------------------------------------------------
# A rough mode of φ


def _mode_of_phi(program: Program, tasks: Tasks) -> Tensor | None:
    """Coordinates (q,) of a rough mode of p(φ | D); None where none is found."""
    rows = _batches(program, tasks)
    modes = [torch.zeros(len(row.mask), program.structure.theta.size) for row in rows]

    def log_posterior(u: Tensor) -> tuple[float, Tensor]:
        phi = program.phi(u)
        found = [_modes(program, phi.returned, row, v) for row, v in zip(rows, modes, strict=True)]
        value = float(phi.log_prior + sum((_log_z(one).sum() for one in found), torch.zeros(())))
        if not math.isfinite(value):
            return -math.inf, torch.zeros_like(u)
        modes[:] = [one.v for one in found]
        return value, _gradient(program, u, rows, found)

    return climb(log_posterior, _centre_of_prior(program))


def _log_z(at: Modes) -> Tensor:
    """Laplace's log Z_t (T,), up to a constant."""
    eigenvalues: Tensor = torch.linalg.eigvalsh(at.precision)
    return at.value - 0.5 * eigenvalues.clamp(min=LEAST_PRECISION).log().sum(-1)


def _gradient(program: Program, u: Tensor, rows: list[Row], modes: list[Modes]) -> Tensor:
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


def _sigma_points(at: Modes) -> Tensor:
    """2p points (2p, T, p) with the mode as their mean and the inverse of P as their covariance."""
    eigenvalues, vectors = torch.linalg.eigh(at.precision)
    spread = vectors / eigenvalues.clamp(min=LEAST_PRECISION).sqrt().unsqueeze(-2) * math.sqrt(vectors.shape[-1])
    columns = spread.movedim(-1, 0)
    points: Tensor = torch.cat([at.v + columns, at.v - columns])
    return points


def _centre_of_prior(program: Program) -> Tensor:
    """The median of the coordinates of some draws of φ (q,)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draws = []
        for _ in range(PRIOR_DRAWS):
            handler = Values()
            program._phi(handler)
            sites = [handler.met[name] for name in program.structure.phi.names]
            draws.append(torch.cat([biject_to(site.fn.support).inv(site.value).reshape(-1) for site in sites]))
    return torch.stack(draws).nan_to_num(0.0, 0.0, 0.0).median(0).values


def climb(fn: Climb, u: Tensor, steps: int = CLIMBS, enough: float = 0.01) -> Tensor | None:
    """A point near a maximum of fn by BFGS, to where the next step promises less than `enough`.

    Args:
        fn: Value and gradient at a point; -inf where it has none.
        u: Where to start (q,).
        steps: How many steps at most.
        enough: When to stop, in the units of fn.

    Returns:
        The point, or None where fn has no value at the start.
    """
    value, gradient = fn(u)
    if not math.isfinite(value) or not bool(gradient.isfinite().all()):
        return None
    inverse = torch.eye(len(u)) / gradient.norm().clamp(min=1.0)
    for count in range(steps):
        direction = inverse @ gradient
        promise = float(gradient @ direction)
        if count and promise < enough:
            break
        moved = _shortened(fn, u, value, direction, promise)
        if moved is None:
            break
        length, value, new = moved
        step, change = length * direction, gradient - new
        u, gradient = u + step, new
        inverse = _updated(inverse, step, change, first=count == 0)
    return u


def _shortened(
    fn: Climb, u: Tensor, value: float, direction: Tensor, promise: float
) -> tuple[float, float, Tensor] | None:
    """The first of ever shorter steps that climbs: its length, and value and gradient there."""
    for length in (1.0, 0.3, 0.1, 0.03, 0.01, 0.001):
        new, gradient = fn(u + length * direction)
        if new >= value + 1e-4 * length * promise and bool(gradient.isfinite().all()):
            return length, new, gradient
    return None


def _updated(inverse: Tensor, step: Tensor, change: Tensor, *, first: bool) -> Tensor:
    """The inverse of minus the Hessian after a step, by BFGS; as it was where the curvature is of the wrong sign."""
    curvature = step @ change
    if curvature <= 1e-10:
        return inverse
    if first:
        inverse = torch.eye(len(step)) * (curvature / (change @ change))
    shrink = torch.eye(len(step)) - torch.outer(step, change) / curvature
    return shrink @ inverse @ shrink.mT + torch.outer(step, step) / curvature
