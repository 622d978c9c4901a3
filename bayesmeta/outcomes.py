"""Whether observations are what the task's distribution can give, where torch has a density for what it cannot."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from bayesmeta.classes import base_of
from bayesmeta.errors import DataError
from bayesmeta.program import Program, Row
from bayesmeta.sites import Meeting, quiet_pyro
from bayesmeta.tasks import Tasks

__all__ = ["bounded", "require_possible"]

SHOWN = 5  # values in an error
RANGES = (constraints.positive, constraints.nonnegative, constraints.unit_interval, constraints.simplex)


def bounded(met: Meeting) -> bool:
    """Whether a site observes counts, classes, yes or no, or numbers in a range that no parameter moves."""
    support = getattr(base_of(met.fn), "support", None)
    return bool(getattr(support, "is_discrete", False)) or any(support is one for one in RANGES)


def require_possible(program: Program, tasks: Tasks) -> None:
    """Raise a DataError unless counts are counts, classes classes, and so on.

    Densities of torch go on between whole numbers, beyond 0 and 1 for yes or no, and below zero for times.

    Args:
        program: The hierarchy's functions.
        tasks: Tasks with observations.

    Raises:
        DataError: An observation of a task is impossible whatever the parameters are.
    """
    if not program.structure.bounded:
        return
    with quiet_pyro(), torch.no_grad():
        returned = program.returned(torch.zeros(program.structure.phi.size))
        for batch in tasks.padded(exact_sizes=not program.structure.maskable):
            fits = _fits(program, returned, Row.of(batch))
            if fits is not None and not bool((fits | (batch.mask.sum(1) == 0)).all()):
                task = tasks[int(batch.index[int(fits.long().argmin())])]
                met = program.meet(returned, _zeros(program), _row(task))
                raise DataError(_sentence(task.name, task.y, [met[name] for name in program.structure.observed]))


def _fits(program: Program, returned: Any, rows: Row) -> Tensor | None:
    """Whether the observations of each task can be (T,); None where the distribution cannot say."""

    def one(row: Row) -> Tensor:
        met = program.meet(returned, _zeros(program), row)
        return torch.stack([_possible(met[name], row.mask) for name in program.structure.observed]).all()

    try:
        fits: Tensor = program.over_tasks(one)(rows)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return None
    return fits


def _possible(met: Meeting, mask: Tensor) -> Tensor:
    if not bounded(met):
        return torch.ones((), dtype=torch.bool)
    value, support = met.value, base_of(met.fn).support
    fits: Tensor = support.check(value)
    by_row = fits.unsqueeze(-1).flatten(1).all(1) if fits.dim() else fits
    return (by_row | ~mask).all() if by_row.shape == mask.shape else by_row.all()


def _zeros(program: Program) -> Tensor:
    return torch.zeros(program.structure.theta.size)


def _row(task: Any) -> Row:
    return Row(task.x, task.y, torch.ones(task.n, dtype=torch.bool), dict(task.context))


def _sentence(name: str, y: Tensor, met: list[Meeting]) -> str:
    kinds = [type(base_of(one.fn)).__name__ for one in met]
    values = [f"{value:g}" for value in y.flatten().unique()[:SHOWN].tolist()]
    return (
        f"y of task {name!r} has values that its distribution, {', '.join(kinds)}, cannot give (among "
        f"{', '.join(values)}): counts are whole and not negative, yes and no are 1 and 0, N classes "
        "0 to N-1, times and sizes positive"
    )
