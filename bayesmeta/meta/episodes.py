"""Episodes: tasks with some rows as support and others as query, padded so that all go through one call."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bayesmeta.errors import DataError
from bayesmeta.tasks import Tasks

__all__ = ["Episodes", "Rows", "episodes", "rows_of"]


class Rows(NamedTuple):
    """Observations of B tasks, padded; of one task, without the first axis."""

    x: Tensor  # (B, n, ...)
    y: Tensor  # (B, n, ...)
    mask: Tensor  # (B, n): which rows are real


class Episodes(NamedTuple):
    """What tasks adapt on, and what they are judged by."""

    support: Rows
    query: Rows


def rows_of(tasks: Tasks, dtype: torch.dtype) -> Rows:
    """All observations of tasks, inputs and real responses as `dtype`."""
    (batch,) = tasks.padded(max_buckets=1)
    order = torch.argsort(batch.index)
    return Rows(batch.x[order].to(dtype), batch.y[order].to(dtype), batch.mask[order])


def episodes(tasks: Tasks, shots: int, seed: int, dtype: torch.dtype) -> Episodes:
    """`shots` rows of each task at random as support, the others as query.

    Raises:
        DataError: A task has no more rows than `shots`: nothing is left to judge it by.
    """
    short = (tasks.sizes <= shots).nonzero().squeeze(1)
    if len(short):
        first = int(short[0])
        raise DataError(
            f"task {tasks.names[first]!r} has {int(tasks.sizes[first])} observations, and {len(short)} of {len(tasks)} "
            f"tasks have no more than shots={shots}: with that many as support nothing is left as query; use fewer "
            "shots, or leave such tasks out"
        )
    rows = rows_of(tasks, dtype)
    keys = torch.rand(rows.mask.shape, generator=torch.Generator().manual_seed(seed))
    order = torch.where(rows.mask, keys, 2.0).argsort(1)
    task = torch.arange(len(order)).unsqueeze(1)
    shuffled = Rows(*(part[task, order] for part in rows))
    return Episodes(Rows(*(part[:, :shots] for part in shuffled)), Rows(*(part[:, shots:] for part in shuffled)))
