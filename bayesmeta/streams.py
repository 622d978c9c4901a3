"""Streams: batches of tasks without end, for training that never sees the same task twice or does not hold them all.

A stream is made from a function of a seed (a simulator, a generator of benchmark tasks), or from anything that can
be gone through again and again (a `torch.utils.data.DataLoader`, a list of batches). Batch number k of a run depends
on k and on the seed of the run alone, so that training that goes on from a checkpoint sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from bayesmeta.errors import DataError, OptionError
from bayesmeta.tasks import Tasks

__all__ = ["Source", "Stream", "as_tasks", "own_generator", "own_seed", "seed_of"]

OWN = 0x62617965
"""What stands beside a seed where the library chooses."""

Source: TypeAlias = Callable[[int], Any] | Iterable[Any]


class Stream:
    """Batches of tasks without end.

    Args:
        source: ``make(seed)``, a function that gives one batch; or batches to go through again and again, such as a
            `DataLoader`. A batch is a `Tasks`; or inputs and observations, ``(x, y)``, of shapes (B, n, ...) and
            (B, n, ...), as a loader stacks them; or a mapping with ``x``, ``y`` and contexts; or a list with one
            such pair for each task, of any sizes.
        validation: Tasks that are not trained on, by whose evidence training is watched and ended.
        count: How many tasks the prior of φ is weighed against, N in log p(φ) + N E[log Z]. By default as many as
            training takes out of the stream.

    Raises:
        OptionError: A source that is neither a function nor to be gone through, or a count below one.

    Example:
        >>> stream = Stream(lambda seed: Tasks.from_arrays([[0.0, 1.0]], [[float(seed % 7), 2.0]]))
        >>> stream.batch(0).sizes.tolist(), bool((stream.batch(0).y == stream.batch(0).y).all())
        ([2], True)
    """

    def __init__(self, source: Source, *, validation: Tasks | None = None, count: int | None = None) -> None:
        if not callable(source) and (isinstance(source, Iterator) or not isinstance(source, Iterable)):
            raise OptionError(
                f"source: got {type(source).__name__}; wanted a function of a seed, or something that can be gone "
                "through again and again, such as a DataLoader or a list (an iterator ends)"
            )
        if validation is not None and not isinstance(validation, Tasks):
            raise OptionError(f"validation: got {type(validation).__name__}; wanted a Tasks")
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise OptionError(f"count: got {count!r}; wanted a whole number of tasks, at least 1")
        self.source = source
        self.validation = validation
        self.count = count
        self._reader = None if callable(source) else _Reader(source)

    def batch(self, number: int, seed: int = 0) -> Tasks:
        """Batch `number`, from 0, of the run with that seed.

        Raises:
            DataError: What the source gave is no batch of tasks, or a task in it has no observations.
        """
        if self._reader is not None:
            found = self._reader.batch(number, seed)
        else:
            found = _called(self.source, seed_of(seed, number))  # type: ignore[arg-type]
        tasks = as_tasks(found)
        if bool((tasks.sizes == 0).any()):
            raise DataError(f"batch {number} of the stream has a task without observations: leave such tasks out of it")
        return tasks

    def first(self, seed: int = 0) -> Tasks:
        """Batch 0, its tasks under names of their own: a new task called ``"0"`` is not the first one of the batch."""
        tasks = self.batch(0, seed)
        return tasks.with_names([f"stream {name}" for name in tasks.names])

    @property
    def beside(self) -> dict[str, Any]:
        """What there is of it beside its batches, plain data: what a checkpoint has to agree with."""
        watched = None if self.validation is None else self.validation.fingerprint()
        return {"count": self.count, "validation": watched}

    def __repr__(self) -> str:
        name = getattr(self.source, "__name__", type(self.source).__name__)
        watched = "" if self.validation is None else f", validation on {len(self.validation):,} tasks"
        return f"Stream({name}{watched})"


def seed_of(seed: int, number: int) -> int:
    """The seed, below 2³², of batch `number` of the run with that seed."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def own_seed(seed: int) -> int:
    """A seed for choices of the library's own, such as which rows of a task are support, or which tasks are new.

    Data may have been drawn by a generator of the same seed: what is drawn by this one has nothing to do with them.
    """
    return seed_of(seed, OWN)


def own_generator(seed: int) -> torch.Generator:
    """A generator of `own_seed`."""
    return torch.Generator().manual_seed(own_seed(seed))


def _called(source: Callable[[int], Any], seed: int) -> Any:
    """What a function of a seed gives; global random numbers follow the seed too, and are put back."""
    state = np.random.get_state()  # noqa: NPY002  (that of others)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            return source(seed)
        finally:
            np.random.set_state(state)  # noqa: NPY002


class _Reader:
    """Reads batches from what can be gone through again and again; global random numbers are left alone."""

    def __init__(self, source: Iterable[Any]) -> None:
        self._source = source
        self._next: tuple[int, int] | None = None  # seed and number of the batch that comes next
        self._iterator: Iterator[Any] = iter(())
        self._epoch, self._state = 0, torch.get_rng_state()

    def batch(self, number: int, seed: int) -> Any:
        with torch.random.fork_rng(devices=[]):
            if self._next is None or self._next[0] != seed or self._next[1] > number:
                self._epoch, self._next = 0, (seed, 0)
                self._open(seed)
            torch.set_rng_state(self._state)
            for _ in range(number - self._next[1]):
                self._advance(seed)
            found = self._advance(seed)
            self._next, self._state = (seed, number + 1), torch.get_rng_state()
        return found

    def _open(self, seed: int) -> None:
        number = seed_of(seed, self._epoch)
        torch.manual_seed(number)
        batches = getattr(self._source, "batch_sampler", None)
        samplers = (getattr(self._source, "sampler", None), batches, getattr(batches, "sampler", None))
        for owner in (self._source, *samplers):
            if isinstance(own := getattr(owner, "generator", None), torch.Generator):
                own.manual_seed(number)
        self._iterator, self._state = iter(self._source), torch.get_rng_state()

    def _advance(self, seed: int) -> Any:
        try:
            return next(self._iterator)
        except StopIteration:
            self._epoch += 1
            self._open(seed)
        try:
            return next(self._iterator)
        except StopIteration:
            raise DataError("the source of the stream has no batches") from None


def as_tasks(batch: Any) -> Tasks:
    """A batch, in any of the forms that `Stream` takes, as tasks.

    >>> as_tasks([([0.0, 1.0], [2.0, 3.0]), ([0.5], [1.0])]).sizes.tolist()
    [2, 1]

    Raises:
        DataError: It is none of them.
    """
    if isinstance(batch, Tasks):
        return batch
    if isinstance(batch, Mapping) and {"x", "y"} <= set(batch):
        context = {name: values for name, values in batch.items() if name not in ("x", "y")}
        return Tasks.from_arrays(batch["x"], batch["y"], context=context or None)
    if isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch):
        arrays = all(isinstance(part, (Tensor, np.ndarray)) for part in batch)
        lists = isinstance(batch, tuple) and all(isinstance(part, list) for part in batch)
        if len(batch) == 2 and (arrays or lists):
            return Tasks.from_arrays(batch[0], batch[1])
        if all(isinstance(pair, Sequence) and len(pair) == 2 for pair in batch):
            return Tasks.from_lists([pair[0] for pair in batch], [pair[1] for pair in batch])
    raise DataError(
        f"a batch of the stream is a {type(batch).__name__}; wanted a Tasks, a pair (x, y) of arrays (B, n, ...), a "
        "mapping with x and y, or a list with one pair for each task"
    )
