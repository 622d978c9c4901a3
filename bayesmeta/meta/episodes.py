"""Episodes: tasks with some rows as support and others as query, padded so that all go through one call."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bayesmeta.errors import DataError
from bayesmeta.meta.classes import check_classes, within_class
from bayesmeta.meta.module import Functional
from bayesmeta.streams import own_generator
from bayesmeta.tasks import Tasks

__all__ = ["Episodes", "Rows", "check_rows", "episodes", "rows_of"]


class Rows(NamedTuple):
    """Observations of B tasks, padded; of one task, without the first axis."""

    x: Tensor  # (B, n, ...)
    y: Tensor  # (B, n, ...)
    mask: Tensor  # (B, n): which rows are real


class Episodes(NamedTuple):
    """What tasks adapt on, and what they are judged by."""

    support: Rows
    query: Rows
    noise: Tensor  # (B, r): standard normal numbers of each task, where the algorithm needs some


def rows_of(tasks: Tasks, dtype: torch.dtype) -> Rows:
    """All observations of tasks, inputs and real responses as `dtype`."""
    count = int(tasks.sizes.max()) if len(tasks) else 0
    if count and bool((tasks.sizes == count).all()):  # many images: nothing is copied but to another type
        x, y = (part.reshape(len(tasks), count, *part.shape[1:]).to(dtype) for part in (tasks.x, tasks.y))
        return Rows(x, y, torch.ones(len(tasks), count, dtype=torch.bool))
    (batch,) = tasks.padded(max_buckets=1)
    return Rows(batch.x.to(dtype), batch.y.to(dtype), batch.mask)


def episodes(
    tasks: Tasks, shots: int, seed: int, dtype: torch.dtype, *, by_class: bool = False, randoms: int = 0
) -> Episodes:
    """`shots` rows of each task at random as support, the others as query.

    Args:
        tasks: The tasks.
        shots: Rows of a task that are support; of each of its classes where `by_class`.
        seed: Which rows.
        dtype: What inputs and responses are brought to.
        by_class: Observations are classes, 0 to N-1 in every task, and each gives as many rows to the support.
        randoms: How many standard normal numbers each task gets.

    Raises:
        DataError: A task, or a class of it, has no more rows than `shots`: nothing is left to judge it by. Classes
            are not numbered alike.
    """
    count = shots * check_classes(tasks, shots) if by_class else _checked(tasks, shots)
    rows = rows_of(tasks, dtype)
    generator = own_generator(seed)
    keys = torch.rand(rows.mask.shape, generator=generator)
    if by_class:
        keys = keys + (within_class(rows.y, rows.mask, keys) >= shots)
    order = torch.where(rows.mask, keys, 2.0).argsort(1)
    task = torch.arange(len(order)).unsqueeze(1)
    shuffled = Rows(*(part[task, order] for part in rows))
    noise = torch.randn(len(order), randoms, generator=generator, dtype=dtype)
    support, query = (Rows(*(part[:, cut] for part in shuffled)) for cut in (slice(count), slice(count, None)))
    return Episodes(support, query, noise)


def check_rows(net: Functional, rows: Rows) -> None:
    """Raise where a network that normalises by the rows it is given would meet rows that are not real.

    Raises:
        DataError: Tasks have different numbers of observations, and the network has batch normalisation.
    """
    if net.by_rows and bool((rows.mask.any(1) & ~rows.mask.all(1)).any()):
        sizes = rows.mask.sum(1)
        raise DataError(
            f"tasks have {int(sizes.min())} to {int(sizes.max())} observations, and batch normalisation would count "
            "the rows that short ones are padded with: take as many of each task, or GroupNorm or LayerNorm instead"
        )


def _checked(tasks: Tasks, shots: int) -> int:
    """`shots`, if every task has more rows."""
    short = (tasks.sizes <= shots).nonzero().squeeze(1)
    if len(short):
        first = int(short[0])
        raise DataError(
            f"task {tasks.names[first]!r} has {int(tasks.sizes[first])} observations, and {len(short)} of {len(tasks)} "
            f"tasks have no more than shots={shots}: with that many as support nothing is left as query; use fewer "
            "shots, or leave such tasks out"
        )
    return shots
