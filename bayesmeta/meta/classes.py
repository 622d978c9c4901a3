"""N-way K-shot: what tasks whose observations are classes have to be, so that K rows of each class can be support.

The classes of a task are numbered 0 to N-1, in every task alike; which class has which number may differ from task to
task, and in few-shot learning does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bayesmeta.errors import DataError
from bayesmeta.tasks import Tasks

__all__ = ["check_classes", "ways_of", "within_class"]


def ways_of(tasks: Tasks) -> int:
    """N, the number of classes that every task has.

    Raises:
        DataError: Observations that are no classes, or tasks that do not have the same ones.
    """
    counts = _counts(tasks)
    empty = (tasks.sizes == 0).nonzero().squeeze(1)
    if len(empty) or not len(tasks):
        which = f"task {tasks.names[int(empty[0])]!r} has no observations" if len(empty) else "there are no tasks"
        raise DataError(f"{which}: classes are told by observations; leave such tasks out")
    last = _last(counts)
    some = int(last.max()) + 1
    different = (last + 1 != some).nonzero().squeeze(1)
    if len(different):
        first, other = int(different[0]), int(last.argmax())
        raise DataError(
            f"task {tasks.names[first]!r} has classes up to {int(last[first])} and task {tasks.names[other]!r} up to "
            f"{some - 1} ({len(different)} of {len(tasks)} tasks differ): all tasks must have the same number of "
            "classes, numbered from 0"
        )
    missing = (counts == 0).nonzero()
    if len(missing):
        task, label = missing[0].tolist()
        raise DataError(
            f"task {tasks.names[task]!r} has no observation of class {label}, though of class {some - 1}: number the "
            f"classes of a task from 0 to {some - 1} without gaps"
        )
    return some


def check_classes(tasks: Tasks, shots: int) -> int:
    """N, where each of the N classes of each task has more than `shots` rows.

    Raises:
        DataError: A class has too few, observations are no classes, or tasks do not have the same ones.
    """
    ways = ways_of(tasks)
    counts = _counts(tasks)
    short = (counts <= shots).nonzero()
    if len(short):
        task, label = short[0].tolist()
        few = int((counts <= shots).any(1).sum())
        raise DataError(
            f"task {tasks.names[task]!r} has {int(counts[task, label])} observations of class {label}, and {few} of "
            f"{len(tasks)} tasks have a class of no more than shots={shots}: with that many of each class as support "
            "nothing of it is left as query; use fewer shots, or leave such classes out"
        )
    return ways


def within_class(y: Tensor, mask: Tensor, keys: Tensor) -> Tensor:
    """The place of each row among those of its class, in the order of their keys: 0, 1, 2, ...; all (B, n).

    Rows that are not real come after all others, in a class of their own.
    """
    label = torch.where(mask, y.long(), int(y.max()) + 1)
    order = torch.argsort(label.double() + keys.double().clamp(max=1 - 1e-9), 1)
    ordered = label.gather(1, order)
    first = torch.searchsorted(ordered, ordered)  # where the class of each begins
    place = torch.arange(label.shape[1]) - first
    return torch.empty_like(place).scatter_(1, order, place)


def _counts(tasks: Tasks) -> Tensor:
    """Rows of each class of each task (T, N)."""
    y = tasks.y
    if y.dim() != 1:
        raise DataError(
            f"observations have shape (n, {', '.join(map(str, y.shape[1:]))}): shots of each class need one class a "
            "row, (n,), numbered from 0"
        )
    bad = ((y < 0) | (y != y.round())).nonzero().squeeze(1)
    if len(bad):
        task = tasks.names[int(tasks.task_index[bad[0]])]
        raise DataError(
            f"task {task!r} has an observation {float(y[bad[0]]):g}: shots of each class need classes as observations, "
            "whole numbers from 0; for other observations leave by_class=False"
        )
    ways = int(y.max()) + 1 if len(y) else 0
    if ways > max(len(y), 1):
        task = tasks.names[int(tasks.task_index[y.argmax()])]
        raise DataError(f"task {task!r} has a class {ways - 1}, with {len(y)} observations in all: number them from 0")
    flat = torch.bincount(tasks.task_index * ways + y.long(), minlength=len(tasks) * ways)
    return flat.reshape(len(tasks), ways)


def _last(counts: Tensor) -> Tensor:
    """The highest class that each task has (T,)."""
    return torch.where(counts > 0, torch.arange(counts.shape[1]), -1).amax(1)
