"""Which observations of a task are new, and which the fit has seen."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch

from bayesmeta.errors import BayesmetaWarning, DataError
from bayesmeta.tasks import Task, Tasks, check_columns

__all__ = ["check_like", "observations"]


def check_like(fit: Tasks, tasks: Tasks) -> None:
    """Raise a DataError unless tasks have inputs, observations and contexts shaped as those of the fit."""
    if not isinstance(tasks, Tasks):
        raise DataError(f"tasks must be a Tasks, got {type(tasks).__name__}")
    if tasks.x.shape[1:] != fit.x.shape[1:]:
        like = "" if tasks.n_observations else "; Tasks.without_observations(names, like=posterior.tasks) does"
        raise DataError(
            f"x has shape {tuple(tasks.x.shape[1:])} per observation, in the fit it had {tuple(fit.x.shape[1:])}{like}"
        )
    if tasks.n_observations and tasks.y.shape[1:] != fit.y.shape[1:]:
        raise DataError(
            f"y has shape {tuple(tasks.y.shape[1:])} per observation, in the fit it had {tuple(fit.y.shape[1:])}"
        )
    check_columns(fit, tasks, "the fit")
    if set(tasks.context) != set(fit.context):
        raise DataError(f"context must be {sorted(fit.context)} as in the fit, got {sorted(tasks.context)}")


def observations(fit: Tasks, tasks: Tasks) -> tuple[Tasks, Tasks]:
    """All that is known of each task, and the part of it that the fit has seen.

    Observations of a task of the fit go on from those it has, unless these are among them: at their beginning, or in
    any order where they are no whole numbers, of which equal ones come again.
    """
    nothing = Tasks.without_observations(tasks.names, like=tasks, context=tasks.context or None)
    seen = [name for name in tasks.names if name in fit]
    if not seen:
        return tasks, nothing
    numbered = _numbered(fit) and _numbered(tasks)
    continued: list[str] = []
    xs, ys, old_xs, old_ys = [], [], [], []
    for task in tasks:
        old = fit[task.name] if task.name in seen else None
        if old is not None and not all(_equal(task.context[key], old.context[key]) for key in old.context):
            raise DataError(
                f"the context of task {task.name!r} is not that of the fit, which has seen a task of this name: pass "
                "the same context, or give another task another name"
            )
        x, y = task.x, task.y
        if old is not None and (order := _old_first(task, old)) is not None:
            x, y = task.x[order], task.y[order]
        elif old is not None:
            x, y = torch.cat([old.x, task.x]), torch.cat([old.y, task.y])
            continued += [task.name] * bool(task.n)
        xs.append(x)
        ys.append(y)
        old_xs.append(x[:0] if old is None else old.x)
        old_ys.append(y[:0] if old is None else old.y)
    if numbered and continued:
        _warn_numbered(continued)
    context = tasks.context or None
    known = Tasks.from_lists(xs, ys, names=tasks.names, context=context, allow_empty=True)
    before = Tasks.from_lists(old_xs, old_ys, names=tasks.names, context=context, allow_empty=True)
    return replace(known, columns=tasks.columns or fit.columns), before


def _old_first(task: Task, old: Task) -> torch.Tensor | None:
    """The order of the observations that has those of the fit in front, all of them; None where they are not there."""
    if _equal(task.x[: old.n], old.x) and _equal(task.y[: old.n], old.y):
        return torch.arange(task.n)
    if not 0 < old.n <= task.n or bool((old.y == old.y.round()).all()) or task.x.shape[1:] != old.x.shape[1:]:
        return None
    places: dict[tuple[float, ...], list[int]] = {}
    for place, row in reversed(list(enumerate(_cells(task)))):
        places.setdefault(row, []).append(place)
    found = [places[row].pop() if places.get(row) else -1 for row in _cells(old)]
    if min(found) < 0:
        return None
    return torch.tensor(found + sorted(set(range(task.n)) - set(found)))


def _cells(task: Task) -> list[tuple[float, ...]]:
    rows = torch.cat([part.unsqueeze(-1).flatten(1) for part in (task.x, task.y)], 1)
    return [tuple(row) for row in rows.tolist()]


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _numbered(tasks: Tasks) -> bool:
    """Whether names are those that tasks get where none are given."""
    return tasks.columns is None and tasks.names == tuple(map(str, range(len(tasks))))


def _warn_numbered(names: list[str]) -> None:
    warnings.warn(
        f"task(s) {names[:5]} are taken for those of the fit that have the same number for a name, and go on from what "
        "it has seen of them: if they are new, name them, as in tasks.with_names(['new 0', 'new 1'])",
        BayesmetaWarning,
        stacklevel=5,
    )
