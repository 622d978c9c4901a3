"""Whether tasks can be padded and taken many at a time, found out by doing it to a few of all sizes."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from bayesmeta.errors import BayesmetaWarning
from bayesmeta.program import Program, Row, stacked
from bayesmeta.sites import elementwise_log_prob
from bayesmeta.tasks import Padded, Task, Tasks

__all__ = ["maskable", "vectorisable"]

PICKED = 4


def maskable(program: Program, phi: Any, tasks: Tasks) -> bool:
    """Whether repeated rows can be masked out: the padded task has the density of the task itself.

    Looked at is the padding that the tasks will have, and one that no bucket has.
    """
    v = torch.linspace(-1.0, 1.0, program.structure.theta.size)
    pairs = [(tasks[int(i)], row) for batch in tasks.padded() for i, row in _picked(batch)]
    if any(task.n for task, _ in pairs):
        pairs.append(_padded_further(max((task for task, _ in pairs), key=lambda task: task.n)))
    for task, padded in pairs:
        if task.n == 0:
            continue
        row = Row(task.x, task.y, torch.ones(task.n, dtype=torch.bool), dict(task.context))
        met = program.meet(phi, v, row)
        for name in program.structure.observed:
            terms = elementwise_log_prob(met[name].fn, met[name].value)
            if terms.dim() == 0 or terms.shape[0] != task.n:
                return False
        try:
            two = program.terms(phi, v, padded)
        except (RuntimeError, ValueError, TypeError, IndexError):
            return False
        if not _equal(program.terms(phi, v, row), two):
            return False
    return True


def _padded_further(task: Task) -> tuple[Task, Row]:
    again = torch.cat([torch.arange(task.n), torch.zeros(3, dtype=torch.long)])
    mask = torch.arange(task.n + 3) < task.n
    return task, Row(task.x[again], task.y[again], mask, dict(task.context))


def _picked(batch: Padded) -> list[tuple[int, Row]]:
    """A few tasks of a batch, of all sizes that it has, by position, with their padded rows."""
    order = torch.argsort(batch.mask.sum(1), stable=True)
    pick = order[torch.linspace(0, len(order) - 1, min(len(order), PICKED)).round().long().unique()]
    rows = Row.of(batch)
    return [
        (int(batch.index[i]), Row(rows.x[i], rows.y[i], rows.mask[i], {k: c[i] for k, c in rows.context.items()}))
        for i in pick.tolist()
    ]


def _equal(one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-10, atol=1e-10, equal_nan=True) for a, b in zip(one, two, strict=True))


def vectorisable(program: Program, tasks: Tasks) -> bool:
    """Whether hyperprior and task run under vmap, over tasks and draws; if not, loops take its place, said once.

    A function that runs, and gives other numbers than one task at a time, is none either.
    """
    batches = tasks.padded(exact_sizes=not program.structure.maskable)
    some = torch.linspace(0, len(batches) - 1, min(len(batches), PICKED)).round().long().unique().tolist()
    try:
        reasons = [_differs_when_batched(program, [row for _, row in _picked(batches[i])]) for i in some]
    except (RuntimeError, ValueError, TypeError) as error:
        reasons = [str(error).strip().splitlines()[0]]
    reason = next((reason for reason in reasons if reason), None)
    if reason is None:
        return True
    warnings.warn(
        "the hierarchy cannot be vectorised: its functions are run one task at a time, uncompiled and much slower "
        f"(usually because they branch on values; use torch.where): {reason}",
        BayesmetaWarning,
        stacklevel=2,
    )
    return False


def _differs_when_batched(program: Program, rows: list[Row]) -> str | None:
    """Runs some tasks under vmap, and under vmap over draws of φ; what is wrong where that gives other numbers."""
    rows = rows * 2 if len(rows) == 1 else rows
    batch: Row = stacked(rows)
    u = torch.linspace(-0.5, 0.5, program.structure.phi.size)
    v = torch.linspace(-1.0, 1.0, program.structure.theta.size)

    def over_tasks(u: Tensor) -> tuple[Tensor, Tensor]:
        phi = program.phi(u).returned
        terms: tuple[Tensor, Tensor] = torch.func.vmap(lambda row: program.terms(phi, v, row))(batch)
        return terms

    together = torch.func.vmap(over_tasks)(u.expand(2, -1))
    phi = program.phi(u).returned
    for k, row in enumerate(rows):
        if not _equal(program.terms(phi, v, row), (together[0][1, k], together[1][1, k])):
            return "they give other numbers for several tasks at once than for one at a time"
    return None
