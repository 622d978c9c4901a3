"""New tasks to compare learners on: a query that stays the same, and a support of which more and more is shown."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bayesmeta.arrays import offsets_of
from bayesmeta.errors import DataError, OptionError
from bayesmeta.meta.classes import check_classes, ways_of
from bayesmeta.query import query_tasks
from bayesmeta.streams import own_generator, own_seed
from bayesmeta.tasks import Tasks

__all__ = ["Held", "held_of"]

QUERY = 15  # rows to predict, of each class where there are classes


@dataclass(frozen=True)
class Held:
    """New tasks, each with rows to adapt on in the order in which they are shown, and rows to predict.

    Attributes:
        support: The rows to adapt on, as many as the largest number of shots asks for.
        query: The rows to predict.
        place: The place of each row of the support in its task, or in its class of its task, from 0 (N,).
        ways: Classes of each task, where shots are counted by class; None where by task.
    """

    support: Tasks
    query: Tasks
    place: Tensor
    ways: int | None

    @cached_property
    def asked(self) -> Tasks:
        """The query without what was observed there: what learners get to see."""
        return query_tasks(self.query, self.query)

    def at(self, shots: int) -> Tasks:
        """The first so many rows of each task, or of each of its classes."""
        if not shots:
            context = dict(self.support.context) or None
            return Tasks.without_observations(self.support.names, like=self.support, context=context)
        return _some(self.support, self.place < shots)


def held_of(
    tasks: Any, most: int, *, count: int, ways: int, query: int | None, by_class: bool | None, seed: int
) -> Held:
    """What there is to compare on.

    Args:
        tasks: `Tasks`, which are split at random; a support and a query; or an environment or image set to draw from.
        most: The largest number of shots.
        count: Tasks to draw.
        ways: Classes of each task that is drawn.
        query: Rows to predict, of each class where shots are counted by class; by default 15 where tasks are drawn, and
            all that are left where they are split.
        by_class: Whether shots are counted by class; None for what the tasks are by themselves: by class where they are
            drawn from an image set.
        seed: Seeds what is random.

    Raises:
        OptionError: `tasks` is nothing of the kind, or a number is out of range.
        DataError: Tasks have too few rows, or support and query are of different tasks.
    """
    if query is not None and query < 1:
        raise OptionError(f"query must be at least 1, got {query}")
    if isinstance(tasks, Tasks):
        return _split(tasks, most, query, bool(by_class), seed)
    if isinstance(tasks, tuple) and len(tasks) == 2 and all(isinstance(part, Tasks) for part in tasks):
        return _given(*tasks, most=most, by_class=bool(by_class))
    draw = getattr(tasks, "tasks", None)
    if not callable(draw):
        raise OptionError(
            f"tasks: got {type(tasks).__name__}; wanted Tasks that no learner was trained on, a pair (support, query) "
            "of Tasks, or an environment or image set to draw new tasks from"
        )
    images = "ways" in inspect.signature(draw).parameters
    more = {"ways": ways} if images else {}
    support, asked = draw(count, shots=most, query=query or QUERY, seed=own_seed(seed), **more)
    return _given(support, asked, most=most, by_class=images if by_class is None else by_class)


def _split(tasks: Tasks, most: int, query: int | None, by_class: bool, seed: int) -> Held:
    """Rows in a random order, the first to adapt on and the rest to predict."""
    _check_size(tasks, most, by_class, spare=1)
    keys = torch.rand(tasks.n_observations, generator=own_generator(seed), dtype=torch.float64)
    place = _places(tasks, keys, by_class)
    asked = place >= most
    if query is not None:
        asked &= place < most + query
    shown = place < most
    return Held(_some(tasks, shown), _some(tasks, asked), place[shown], ways_of(tasks) if by_class else None)


def _given(support: Tasks, query: Tasks, *, most: int, by_class: bool) -> Held:
    """Rows in the order in which they stand."""
    if support.names != query.names:
        raise DataError(
            f"tasks: support and query are of different tasks, {support.names[:3]} and {query.names[:3]}: wanted the "
            "same names in the same order"
        )
    if bool((query.sizes == 0).any()):
        name = query.names[int(query.sizes.argmin())]
        raise DataError(f"tasks: the query of task {name!r} is empty: there is nothing to predict")
    keys = torch.arange(support.n_observations, dtype=torch.float64) / max(support.n_observations, 1)
    if most:
        _check_size(support, most, by_class, spare=0)
    ways = ways_of(query) if by_class else None
    if by_class and most and ways_of(support) != ways:
        raise DataError(f"tasks: the support has {ways_of(support)} classes and the query {ways}")
    place = _places(support, keys, by_class)
    return Held(_some(support, place < most), query, place[place < most], ways)


def _places(tasks: Tasks, keys: Tensor, by_class: bool) -> Tensor:
    """The place of each row in its task, or in its class of its task, in the order of keys in [0, 1), from 0 (N,)."""
    group = tasks.task_index
    if by_class:
        group = group * (int(tasks.y.max()) + 1 if len(tasks.y) else 1) + tasks.y.long()
    order = torch.argsort(keys)
    order = order[torch.argsort(group[order], stable=True)]
    ordered = group[order]
    first = torch.searchsorted(ordered, ordered)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order)) - first
    return place


def _check_size(tasks: Tasks, most: int, by_class: bool, *, spare: int) -> None:
    """Raise unless each task, or each class of it, has so many rows to show and some to spare."""
    if by_class:
        check_classes(tasks, most + spare - 1)
        return
    short = (tasks.sizes < most + spare).nonzero().squeeze(1)
    if not len(short):
        return
    first = int(short[0])
    raise DataError(
        f"tasks: {tasks.names[first]!r} has {int(tasks.sizes[first])} observations, and {len(short)} of {len(tasks)} "
        f"tasks have fewer than the {most + spare} that {most} shots{' and one to predict' if spare else ''} ask for: "
        "take fewer shots, or leave such tasks out"
    )


def _some(tasks: Tasks, chosen: Tensor) -> Tasks:
    """All tasks with the chosen rows (N,)."""
    sizes = torch.bincount(tasks.task_index[chosen], minlength=len(tasks))
    return Tasks(tasks.x[chosen], tasks.y[chosen], offsets_of(sizes), tasks.names, tasks.context, tasks.columns)
