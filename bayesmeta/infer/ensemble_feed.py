"""What an ensemble is trained on, step after step: some tasks of many, or the next batch of a stream.

Which tasks belong to a step depends on the number of the step and the seed alone: training that goes on from a
checkpoint needs no more than the number. Tasks of a `Tasks` come once an epoch, in a new order each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from bayesmeta.evidence import Collapsed, Exact, Gram, Own
from bayesmeta.program import Row
from bayesmeta.streams import Stream, seed_of
from bayesmeta.tasks import Tasks

__all__ = ["Feed", "FromStream", "FromTasks", "Part", "held_out"]


class Part(NamedTuple):
    """The tasks of one step: an evidence, the data that its `total` takes, and the number of tasks."""

    evidence: Collapsed
    data: Any
    tasks: int


class Feed(Protocol):
    """Where the tasks of a step come from.

    Attributes:
        total: The number of tasks that the prior of φ is weighed against.
        described: The same in a few words.
    """

    total: int

    @property
    def described(self) -> str:
        """What a step is taken over, in words."""

    def part(self, step: int) -> Part:
        """The tasks of a step, from 0."""


class FromTasks:
    """Batches of the tasks at some positions of an evidence's tasks.

    Args:
        evidence: The evidence of all tasks.
        positions: Positions of those to train on (N,).
        size: Tasks of a batch; all of them where there are no more.
        seed: Seeds the order.
    """

    def __init__(self, evidence: Collapsed, positions: Tensor, size: int, seed: int) -> None:
        self.total = len(positions)
        self._evidence, self._positions, self._seed = evidence, positions, seed
        self._size = min(size, self.total)
        self._all: Part | None = None
        self._epoch, self._order = -1, positions

    @property
    def described(self) -> str:
        """What a step is taken over, in words."""
        return f"all {self.total:,} tasks" if self._size == self.total else f"{self._size} of {self.total:,} tasks"

    def part(self, step: int) -> Part:
        """The tasks of a step, from 0."""
        if self._size < self.total:
            return self._of(self._batch(step))
        if self._all is None:
            self._all = self._of(self._positions)
        return self._all

    def _batch(self, step: int) -> Tensor:
        """Positions of the tasks of a step; a rest too small for a batch is left out of its epoch."""
        epoch, place = divmod(step, self.total // self._size)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(seed_of(self._seed, epoch))
            self._epoch = epoch
            self._order = self._positions[torch.randperm(self.total, generator=generator)]
        return self._order[place * self._size : (place + 1) * self._size]

    def _of(self, index: Tensor) -> Part:
        evidence = self._evidence
        if isinstance(evidence, Gram):
            return Part(evidence, evidence.take(index), len(index))
        return _part(evidence, evidence.tasks[index])


class FromStream:
    """The batches of a stream.

    Args:
        evidence: The evidence of its first batch.
        stream: The stream.
        steps: How many batches training takes.
        seed: The seed of the run.
    """

    def __init__(self, evidence: Collapsed, stream: Stream, steps: int, seed: int) -> None:
        self._evidence, self._stream, self._seed = evidence, stream, seed
        self._first = len(evidence.tasks)
        self.total = stream.count or steps * self._first
        self._last: tuple[int, Part] | None = None

    @property
    def described(self) -> str:
        """What a step is taken over, in words."""
        return f"a batch of the stream, the first of {self._first} tasks"

    def part(self, step: int) -> Part:
        """The tasks of a step, from 0."""
        if self._last is None or self._last[0] != step:  # a source may not go back but by beginning anew
            self._last = step, _part(self._evidence, self._stream.batch(step, self._seed))
        return self._last[1]


def held_out(count: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Positions to train on and positions to watch, a share of them, at least one where it is not zero."""
    watched = 0 if share == 0 else min(count - 1, max(1, round(share * count)))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[watched:].sort().values, order[:watched].sort().values


def _part(evidence: Collapsed, tasks: Tasks) -> Part:
    """Tasks as they are, not looked at again: that their evidence is of this kind was found before."""
    moved = Exact(evidence.program, tasks) if isinstance(evidence, Exact) else evidence.on(tasks)
    return Part(moved, _longer(moved.data, moved), len(tasks))


def _longer(data: Any, evidence: Collapsed) -> Any:
    """Rows of tasks padded to one of few lengths, so that few graphs serve tasks of all sizes."""
    maskable = isinstance(evidence, Own) or evidence.program.structure.maskable
    if not maskable or not isinstance(data, Sequence):
        return data
    if not all(isinstance(rows, Row) for rows in data):
        return data
    return [_padded(rows) for rows in data]


def _padded(rows: Row) -> Row:
    n = rows.mask.shape[1]
    missing = _length(n) - n
    if not missing:
        return rows
    at = torch.cat([torch.arange(n), torch.zeros(missing, dtype=torch.long)])
    mask = torch.cat([rows.mask, torch.zeros(len(rows.mask), missing, dtype=torch.bool)], 1)
    return rows._replace(x=rows.x[:, at], y=rows.y[:, at], mask=mask)


def _length(n: int) -> int:
    """The least of 1, 2, ..., 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, ... that is at least n."""
    step = 1
    while 8 * step < n:
        step *= 2
    return -(-n // step) * step
