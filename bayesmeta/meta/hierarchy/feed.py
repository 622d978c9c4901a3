"""What MAML on a hierarchy is trained on: batches of tasks whose rows are in a random order, the first as support.

Tasks may be of any size: one with few rows gives fewer of them as support, so that one at least is left as query, and
one with a single row has no support at all: it speaks of the initialisation alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayesmeta.infer.ensemble_feed import held_out
from bayesmeta.program import Row
from bayesmeta.streams import Stream, own_generator, seed_of
from bayesmeta.tasks import Tasks

__all__ = ["Feed", "Shuffled", "shuffled"]

WATCHED = 1  # added to the seed: which rows of watched tasks are support is drawn once
MOST_PROBED = 200


class Shuffled(NamedTuple):
    """Tasks (B,) with their rows in a random order, real ones first; the first `taken` (B,) are support."""

    rows: Row
    taken: Tensor

    def support(self, shots: int) -> Row:
        """The support, `shots` rows a task, fewer of them real where a task has few."""
        rows, width = self.rows, max(1, min(shots, self.rows.mask.shape[1]))
        mask = torch.arange(width) < self.taken.unsqueeze(1)
        return rows._replace(x=rows.x[:, :width], y=rows.y[:, :width], mask=mask)

    def query(self) -> Row:
        """What is left; its rows of the support are masked."""
        later = torch.arange(self.rows.mask.shape[1]) >= self.taken.unsqueeze(1)
        return self.rows._replace(mask=self.rows.mask & later)


def shuffled(tasks: Tasks, shots: int, seed: int) -> Shuffled:
    """Tasks with their rows in an order that depends on the seed alone, padded to a power of two of rows."""
    (batch,) = tasks.padded(max_buckets=1)
    order = torch.argsort(batch.index)
    row = Row(batch.x[order], batch.y[order], batch.mask[order], dict(tasks.context))
    width = 1 << (row.mask.shape[1] - 1).bit_length()
    keys = torch.rand(row.mask.shape, generator=own_generator(seed))
    first = torch.where(row.mask, keys, 2.0).argsort(1)
    place = torch.cat([first, first[:, :1].expand(-1, width - first.shape[1])], 1)
    task = torch.arange(len(place)).unsqueeze(1)
    mask = torch.arange(width) < tasks.sizes.unsqueeze(1)
    taken = (tasks.sizes - 1).clamp(min=0, max=shots)
    return Shuffled(row._replace(x=row.x[task, place], y=row.y[task, place], mask=mask), taken)


@dataclass
class Feed:
    """Batches by step.

    Attributes:
        tasks: What to train on: tasks that are held, or a stream.
        shots: Rows of a task that are support, at most.
        size: Tasks of a batch.
        seed: Seeds the order of tasks, and which rows are support.
        total: The number of tasks that the prior of φ is weighed against.
    """

    tasks: Tasks | Stream
    shots: int
    size: int
    seed: int
    total: int

    @staticmethod
    def of(
        tasks: Tasks | Stream, *, shots: int, size: int, steps: int, validation: float, seed: int
    ) -> tuple[Feed, Shuffled | None]:
        """What is trained on, and what is watched."""
        train: Tasks | Stream = tasks
        if isinstance(tasks, Stream):
            watched, total = tasks.validation, tasks.count or steps * len(tasks.first(seed))
        else:
            kept, watch = held_out(len(tasks), validation, seed)
            train, watched, total = tasks[kept], tasks[watch] if len(watch) else None, len(kept)
        seen = None if watched is None else shuffled(watched, shots, seed + WATCHED)
        return Feed(train, shots, size, seed, total), seen

    @property
    def described(self) -> str:
        """What a step is taken over, in words."""
        if isinstance(self.tasks, Stream):
            return "a batch of the stream"
        count = len(self.tasks)
        return f"all {count:,} tasks" if self.size >= count else f"{self.size} of {count:,} tasks"

    def part(self, step: int) -> Shuffled:
        """The tasks of a step, from 0."""
        return shuffled(self._batch(step), self.shots, seed_of(self.seed, step))

    def probe(self) -> Shuffled:
        """Some tasks from everywhere: all of them where they are not very many."""
        if isinstance(self.tasks, Stream):
            return self.part(0)
        count = len(self.tasks)
        pick = torch.linspace(0, count - 1, min(count, MOST_PROBED)).round().long()
        return shuffled(self.tasks[pick], self.shots, self.seed)

    def _batch(self, step: int) -> Tasks:
        if isinstance(self.tasks, Stream):
            return self.tasks.batch(step, self.seed)
        size = min(self.size, len(self.tasks))
        epoch, place = divmod(step, len(self.tasks) // size)
        generator = own_generator(seed_of(self.seed, epoch))
        return self.tasks[torch.randperm(len(self.tasks), generator=generator)[place * size : (place + 1) * size]]
