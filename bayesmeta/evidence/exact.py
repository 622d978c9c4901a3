"""The evidence of a linear-Gaussian task, exact: log Z_t(φ) = log ∫ p(y_t | x_t, θ, φ) p(θ | φ) dθ.

Where log p(y_t, θ | φ) is quadratic in θ, one Newton step from any point lands on the mode, and the Laplace
formula there is the integral itself:

    log Z = f(0) + g'P⁻¹g / 2 + (p log 2π - log det P) / 2,      g = ∇f(0),  P = -∇²f(0)

Whether it is quadratic is found out by evaluating it, never declared: the second-order expansion about one
point must give the value at points near and far. The Hessian alone would not do: a Laplace likelihood has the
same Hessian nearly everywhere and is no quadratic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bayesmeta.evidence.gaussian import Gaussian, log_integral
from bayesmeta.program import Phi, Program, Row
from bayesmeta.sites import quiet_pyro
from bayesmeta.tasks import Task, Tasks

__all__ = ["Exact", "expansion", "is_quadratic", "probe_rows", "row_of"]

DISTANCES = (0.3, 3.0, 30.0, 300.0)
TOLERANCE = 1e-9
# Farther out, exp(v) of a positive θ leaves the range of float64, and a log-normal hierarchy would look curved.
FARTHEST = 300.0


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
        self._order = torch.argsort(torch.cat([batch.index for batch in batches]))
        self.cells = sum(batch.mask.numel() for batch in batches)

    def on(self, tasks: Tasks) -> Exact:
        """The same evidence of other tasks."""
        return Exact(self.program, tasks)

    def total(self, phi: Phi, data: Any) -> Tensor:
        """Σ_t log Z_t(φ)."""
        return torch.stack([self._expand(phi, row)[0].sum() for row in data]).sum()

    def per_task(self, phi: Phi, data: Any) -> Tensor:
        """log Z_t(φ) in nats, (T,)."""
        return torch.cat([self._expand(phi, row)[0] for row in data])[self._order]

    def conditional(self, phi: Phi, data: Any) -> tuple[Tensor, Tensor]:
        """p(θ_t | φ, D_t) as precision P (T, p, p) and P·mean (T, p), in coordinates of θ."""
        parts = [self._expand(phi, row)[1:] for row in data]
        precision, b = (torch.cat(column)[self._order] for column in zip(*parts, strict=True))
        return precision, b

    def _expand(self, phi: Phi, rows: Row) -> tuple[Tensor, Tensor, Tensor]:
        p = self.program.structure.theta.size

        def one(row: Row) -> tuple[Tensor, Tensor, Tensor]:
            value, b, precision = expansion(lambda v: self.program.log_joint(phi.returned, v, row), p)
            return log_integral(value, Gaussian.of(precision, b)), precision, b

        evidence, precision, b = self.program.over_tasks(one)(rows)
        return evidence, precision, b


def expansion(f: Callable[[Tensor], Tensor], p: int) -> tuple[Tensor, Tensor, Tensor]:
    """Value, gradient b and negative Hessian P of f at the origin of its p coordinates.

    Reverse over reverse: forward over reverse fails under `make_fx`.
    """
    origin = torch.zeros(p)
    gradient, value = torch.func.grad_and_value(f)(origin)
    hessian = torch.func.jacrev(torch.func.grad(f))(origin)
    return value, gradient, -0.5 * (hessian + hessian.mT)


def is_quadratic(program: Program, tasks: Tasks, seed: int = 0) -> bool:
    """Whether log p(y, θ | φ) is quadratic in θ with a finite integral, seen on a few tasks and φ."""
    generator = torch.Generator().manual_seed(seed)
    with quiet_pyro():
        return all(
            _quadratic_at(program, program.phi(_uniform(program, generator)).returned, row, generator)
            for row in probe_rows(tasks)
            for _ in range(2)
        )


def _quadratic_at(program: Program, phi: Any, row: Row, generator: torch.Generator) -> bool:
    p = program.structure.theta.size
    start = torch.randn(p, generator=generator)

    def f(v: Tensor) -> Tensor:
        return program.log_joint(phi, v, row)

    value, b, precision = expansion(lambda step: f(start + step), p)
    if not torch.isfinite(value) or not bool((torch.linalg.eigvalsh(precision) > 0).all()):
        return False
    for distance in DISTANCES:
        for _ in range(2):
            step = (distance * torch.randn(p, generator=generator)).clamp(-FARTHEST, FARTHEST)
            linear, square = (b * step).sum(), (precision @ step * step).sum() / 2
            size = value.abs() + linear.abs() + square.abs() + 1
            if not (f(start + step) - (value + linear - square)).abs() <= TOLERANCE * size:
                return False
    return True


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
