"""The evidence of a linear-Gaussian task, exact: log Z_t(φ) = log ∫ p(y_t | x_t, θ, φ) p(θ | φ) dθ.

Where log p(y_t, θ | φ) is quadratic in θ, one Newton step from any point lands on the mode, and the Laplace
formula there is the integral itself:

    log Z = f(θ̂) + (p log 2π - log det P) / 2,      θ̂ = P⁻¹g,  g = ∇f(0),  P = -∇²f(0)

f is taken over standardised θ, where normal priors have precision one: over θ itself, P would grow with 1/τ² for a
small sd τ of θ. And f is evaluated at θ̂, though f(0) + g'P⁻¹g / 2 is the same: those two grow with 1/σ² for a small
noise σ and cancel, and what rounding leaves of them can be an enormous density. At a θ̂ that is off it is too small.

Whether it is quadratic is found out by evaluating it, never declared: the second-order expansion about one
point must give the value at points near and far, on a few tasks closely and on every task once. The Hessian alone
would not do: a Laplace likelihood has the same Hessian nearly everywhere and is no quadratic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesmeta.errors import HierarchyError
from bayesmeta.evidence.gaussian import Gaussian, log_volume
from bayesmeta.program import Phi, Program, Row
from bayesmeta.sites import quiet_pyro
from bayesmeta.tasks import Task, Tasks

__all__ = ["Exact", "expansion", "is_quadratic", "is_quadratic_everywhere", "log_z_of", "probe_rows", "row_of"]

Expand: TypeAlias = Callable[[Callable[[Tensor], Tensor], int], tuple[Tensor, Tensor, Tensor]]

DISTANCES = (0.3, 3.0, 30.0, 300.0)
TOLERANCE = 1e-9
# Farther out, exp(v) of a positive θ leaves the range of float64, and a log-normal hierarchy would look curved.
FARTHEST = 300.0
PIECE_CELLS = 500_000


class Exact:
    """Evidence and conditional p(θ | φ, D) of linear-Gaussian tasks, straight from the user's functions.

    Args:
        program: The hierarchy's functions.
        tasks: The tasks, padded into few batches of similar size.
    """

    road = "exact: θ is integrated out in closed form (log p(y, θ | φ) is quadratic in θ)"
    gram = False

    def __init__(self, program: Program, tasks: Tasks) -> None:
        self.program = program
        self.tasks = tasks
        batches = tasks.padded(exact_sizes=not program.structure.maskable)
        self.data: Any = [Row.of(batch) for batch in batches]
        # rows made up for tasks of which nothing is observed may be impossible: only p(θ | φ) is looked at
        self._observed = [bool(batch.mask.any()) for batch in batches]
        self._order = torch.argsort(torch.cat([batch.index for batch in batches]))
        self.cells = sum(batch.mask.numel() for batch in batches)

    @property
    def fixed(self) -> tuple[bool, ...]:
        """What `total` holds besides φ and data: which batches have observations."""
        return tuple(self._observed)

    def on(self, tasks: Tasks) -> Exact:
        """The same evidence of other tasks.

        Raises:
            HierarchyError: One of them is not linear-Gaussian, as those were that it was found on.
        """
        some = tasks.sizes.nonzero().squeeze(-1)
        if len(some) and not is_quadratic_everywhere(self.program, tasks[some.tolist()]):
            raise HierarchyError(
                "log p(y, θ | φ) of these tasks is not quadratic in θ, though it was for the tasks of the fit: fit "
                "again with evidence='joint', or adapt with method='nuts'"
            )
        return Exact(self.program, tasks)

    def total(self, phi: Phi, data: Any) -> Tensor:
        """Σ_t log Z_t(φ)."""
        return torch.stack([log_z.sum() for log_z in self._log_z(phi, data)]).sum()

    def per_task(self, phi: Phi, data: Any) -> Tensor:
        """log Z_t(φ) in nats, (T,)."""
        return torch.cat(self._log_z(phi, data))[self._order]

    def conditional(self, phi: Phi, data: Any) -> tuple[Tensor, Tensor]:
        """p(θ_t | φ, D_t) as precision P (T, p, p) and P·mean (T, p), in coordinates of θ."""
        parts = self._expanded(self.program, phi, data)
        precision, b = (torch.cat([part[k] for part in parts])[self._order] for k in (2, 1))
        return precision, b

    def _log_z(self, phi: Phi, data: Any) -> list[Tensor]:
        program = self.program.with_centring(False)
        parts = zip(self._expanded(program, phi, data), data, self._observed, strict=True)
        return [self._at_mode(program, phi, *part) for part in parts]

    def _at_mode(
        self, program: Program, phi: Phi, expanded: tuple[Tensor, Tensor, Tensor], rows: Row, observed: bool
    ) -> Tensor:
        """log Z of the tasks of a batch (T,)."""
        _, b, precision = expanded
        gaussian = Gaussian.of(precision, b)
        peak = program.over_tasks(lambda row, v: _log_joint(program, phi, row, v, observed))
        log_z: Tensor = peak(rows, torch.stack(gaussian.mean(), -1)) + log_volume(gaussian)
        return log_z

    def _expanded(self, program: Program, phi: Phi, data: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The expansion of log p(y_t, θ | φ) at θ = 0, over the tasks of each batch."""

        def one(row: Row, observed: bool) -> tuple[Tensor, Tensor, Tensor]:
            return expansion(lambda v: _log_joint(program, phi, row, v, observed), program.structure.theta.size)

        return [
            program.over_tasks(lambda row, observed=observed: one(row, observed))(rows)
            for rows, observed in zip(data, self._observed, strict=True)
        ]


def _log_joint(program: Program, phi: Phi, row: Row, v: Tensor, observed: bool) -> Tensor:
    """log p(y, θ | φ) of a task, or log p(θ | φ) where nothing is observed."""
    log_prior, log_likelihood = program.terms(phi.returned, v, row)
    return log_prior + log_likelihood if observed else log_prior


def expansion(f: Callable[[Tensor], Tensor], p: int) -> tuple[Tensor, Tensor, Tensor]:
    """Value, gradient b and negative Hessian P of f at the origin of its p coordinates.

    Reverse over reverse: forward over reverse fails under `make_fx`.
    """
    origin = torch.zeros(p)
    gradient, value = torch.func.grad_and_value(f)(origin)
    hessian = torch.func.jacrev(torch.func.grad(f))(origin)
    return value, gradient, -0.5 * (hessian + hessian.mT)


def _plain_expansion(f: Callable[[Tensor], Tensor], p: int) -> tuple[Tensor, Tensor, Tensor]:
    """`expansion` by torch's plain derivatives, which do not map over tasks.

    Those that do make torch load its compiler, which takes longer than a small posterior needs altogether.
    """
    with torch.enable_grad():
        origin = torch.zeros(p, requires_grad=True)
        value = f(origin)
        gradient, hessian = torch.zeros(p), torch.zeros(p, p)
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, origin, create_graph=True, materialize_grads=True)
        if gradient.requires_grad:
            elements = gradient.unbind()
            rows = [torch.autograd.grad(g, origin, retain_graph=True, materialize_grads=True)[0] for g in elements]
            hessian = torch.stack(rows)
    return value.detach(), gradient.detach(), -0.5 * (hessian + hessian.mT)


def log_z_of(program: Program, phi: Phi, task: Task) -> Tensor:
    """log Z(φ) of one task in nats, (), by the generic formula."""
    standardised, row = program.with_centring(False), row_of(task)

    def log_joint(v: Tensor) -> Tensor:
        return standardised.log_joint(phi.returned, v, row)

    _, b, precision = _plain_expansion(log_joint, program.structure.theta.size)
    gaussian = Gaussian.of(precision, b)
    return log_joint(torch.stack(gaussian.mean(), -1)) + log_volume(gaussian)


def is_quadratic(program: Program, tasks: Tasks, seed: int = 0) -> bool:
    """Whether log p(y, θ | φ) is quadratic in θ with a finite integral, seen on a few tasks and φ, near and far.

    Prior and likelihood are looked at one by one: far out the one would drown what is wrong with the other.
    """
    generator = torch.Generator().manual_seed(seed)
    distances = _distances(tasks)
    with quiet_pyro():
        return all(
            bool(
                _quadratic_at(
                    program, program.phi(u).returned, row, *_steps(program, distances, generator), _plain_expansion
                )
            )
            for row in probe_rows(tasks)
            for u in (_uniform(program, generator), _uniform(program, generator))
        )


def is_quadratic_everywhere(program: Program, tasks: Tasks, seed: int = 0) -> bool:
    """`is_quadratic` on every task, at one φ and few distances: one task or row may be unlike all others."""
    generator = torch.Generator().manual_seed(seed)
    with quiet_pyro():
        start, steps = _steps(program, _distances(tasks)[2:], generator)
        phi = program.phi(_uniform(program, generator)).returned
        over_tasks = program.over_tasks(lambda row: _quadratic_at(program, phi, row, start, steps))
        batches = tasks.padded(exact_sizes=not program.structure.maskable)
        return all(bool(over_tasks(row).all()) for batch in batches for row in _pieces(Row.of(batch)))


def _distances(tasks: Tasks) -> list[float]:
    """How far from a point to look: also at the scale of the data, where |y - θ| has its kink."""
    values = (tasks.x, tasks.y, *tasks.context.values())
    scale = max([1.0, *(float(value.abs().max()) for value in values if value.numel())])
    return sorted({*DISTANCES, *(scale * distance for distance in DISTANCES)})


def _steps(program: Program, distances: Sequence[float], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A point (p,) to expand about, and steps away from it (k, p), two at each distance."""
    sites = program.structure.theta
    farthest = torch.cat([torch.full((site.size,), math.inf if site.is_real else FARTHEST) for site in sites])
    start = torch.randn(sites.size, generator=generator)
    scale = torch.tensor(distances).repeat(2).unsqueeze(-1)
    steps = scale * torch.randn(len(scale), sites.size, generator=generator)
    return start, steps.clamp(-farthest, farthest)


def _quadratic_at(
    program: Program, phi: Any, row: Row, start: Tensor, steps: Tensor, expand: Expand = expansion
) -> Tensor:
    """Whether prior and likelihood of a task are their own expansion about `start`, and their sum is concave; ()."""

    def terms(step: Tensor) -> tuple[Tensor, Tensor]:
        return program.terms(phi, start + step, row)

    there = [torch.stack(terms(step)) for step in steps.unbind()]
    seen, total = [], torch.zeros(())
    for part in range(2):
        value, b, precision = expand(lambda step, part=part: terms(step)[part], steps.shape[1])  # type: ignore[misc]
        total = total + precision
        linear, square = steps @ b, (steps @ precision * steps).sum(-1) / 2
        size = 1 + value.abs() + linear.abs() + square.abs()
        values = torch.stack([both[part] for both in there])
        seen.append(((values - (value + linear - square)).abs() <= TOLERANCE * size).all())
    return torch.stack([*seen, (torch.linalg.eigvalsh(total) > 0).all()]).all()


def _pieces(rows: Row) -> list[Row]:
    """Rows of tasks, some at a time, so that memory stays bounded."""
    count = max(1, PIECE_CELLS // rows.mask.shape[1])
    leaves, spec = pytree.tree_flatten(rows)
    split = zip(*(leaf.split(count) for leaf in leaves), strict=True)
    return [pytree.tree_unflatten(list(piece), spec) for piece in split]


def probe_rows(tasks: Tasks, most: int = 3) -> list[Row]:
    """A few tasks to look at, the smallest, the middle and the largest of those with observations."""
    order = torch.argsort(tasks.sizes, stable=True)
    order = order[tasks.sizes[order] > 0]
    pick = torch.linspace(0, len(order) - 1, min(most, len(order))).round().long().unique()
    return [row_of(tasks[int(i)]) for i in order[pick]]


def row_of(task: Task) -> Row:
    """One task, unpadded, as the program takes it."""
    return Row(task.x, task.y, torch.ones(task.n, dtype=torch.bool), dict(task.context))


def _uniform(program: Program, generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(program.structure.phi.size, generator=generator) - 1
