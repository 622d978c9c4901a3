"""Where the tasks of a training step come from, as episodes: batches of tasks that are held, or of a stream."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bayesmeta.errors import DataError, OptionError
from bayesmeta.infer.ensemble_feed import held_out
from bayesmeta.meta.episodes import Episodes, episodes
from bayesmeta.streams import Stream, own_generator, seed_of
from bayesmeta.tasks import Tasks

__all__ = ["Feed", "Part", "feed_of"]

WATCHED = 1  # added to the seed: which rows of watched tasks are support is drawn once


@dataclass(frozen=True)
class Part:
    """The episodes of a step, the weight of each task (B,), and the number of the step."""

    episodes: Episodes
    weight: Tensor
    step: int


@dataclass
class Feed:
    """Episodes by step.

    Args:
        tasks: What to train on: tasks that are held, or a stream.
        weights: The weight of each held task in the meta-objective (T,), 1 on the average.
        shots: Observations of a task that are support; of each of its classes where `by_class`.
        size: Tasks of a batch.
        seed: Seeds the order of tasks, and which rows are support.
        dtype: What inputs are brought to.
        by_class: Whether `shots` is counted for each class of a task.
        randoms: Standard normal numbers that each task of a step gets.
        kept: How many of the last steps are remembered: a source may not go back but by beginning anew.
    """

    tasks: Tasks | Stream
    weights: Tensor | None
    shots: int
    size: int
    seed: int
    dtype: torch.dtype
    by_class: bool = False
    randoms: int = 0
    kept: int = 1
    total: int = 1
    _known: dict[int, Part] = field(default_factory=dict, repr=False)

    def part(self, step: int) -> Part:
        """The episodes of a step, from 0."""
        if step not in self._known:
            self._known = {known: part for known, part in self._known.items() if step - self.kept < known < step}
            self._known[step] = self._made(step)
        return self._known[step]

    def _made(self, step: int) -> Part:
        tasks, weight = self._batch(step)
        seed = seed_of(self.seed, step)
        found = episodes(tasks, self.shots, seed, self.dtype, by_class=self.by_class, randoms=self.randoms)
        return Part(found, weight.to(self.dtype), step)

    def _batch(self, step: int) -> tuple[Tasks, Tensor]:
        if isinstance(self.tasks, Stream):
            batch = self.tasks.batch(step, self.seed)
            return batch, torch.ones(len(batch))
        size = min(self.size, len(self.tasks))
        epoch, place = divmod(step, len(self.tasks) // size)
        generator = own_generator(seed_of(self.seed, epoch))
        pick = torch.randperm(len(self.tasks), generator=generator)[place * size : (place + 1) * size]
        return self.tasks[pick], torch.ones(size) if self.weights is None else self.weights[pick]


def feed_of(
    tasks: Tasks | Stream,
    weights: Tensor | None,
    *,
    shots: int,
    size: int,
    validation: float,
    seed: int,
    dtype: torch.dtype,
    by_class: bool = False,
    randoms: int = 0,
    kept: int = 1,
) -> tuple[Feed, Part | None]:
    """What is trained on, and what is watched.

    Raises:
        OptionError: A share of a stream to watch, weights of one, or weights that are not one for each task.
        DataError: Too few tasks, or observations in one.
    """
    if isinstance(tasks, Stream):
        if validation:
            raise OptionError(
                f"validation is {validation:g}, a share of tasks that are held; a stream has none: give it some, "
                "Stream(..., validation=tasks)"
            )
        if weights is not None:
            raise OptionError("weights are one for each task that is held; of a stream, let batches have tasks oftener")
        watched = tasks.validation
        feed = Feed(tasks, None, shots, size, seed, dtype, by_class, randoms, kept)
    else:
        weights = _checked(tasks, weights)
        if validation and len(tasks) < 2:
            raise DataError("validation needs two tasks at least, one of them to train on: leave it out")
        train, watch = held_out(len(tasks), validation, seed)
        watched = tasks[watch] if len(watch) else None
        feed = Feed(tasks[train], _levelled(weights, train), shots, size, seed, dtype, by_class, randoms, kept)
        feed.part(0)
    if watched is None:
        return feed, None
    found = episodes(watched, shots, seed + WATCHED, dtype, by_class=by_class, randoms=randoms)
    return feed, Part(found, torch.ones(len(watched), dtype=dtype), 0)


def _checked(tasks: Tasks, weights: Tensor | None) -> Tensor | None:
    if weights is None:
        return None
    weights = torch.as_tensor(weights, dtype=torch.float64)
    if tuple(weights.shape) != (len(tasks),) or bool((~torch.isfinite(weights) | (weights < 0)).any()):
        raise OptionError(f"weights must be one number of at least 0 for each of {len(tasks)} tasks, got {weights}")
    return weights


def _levelled(weights: Tensor | None, train: Tensor) -> Tensor | None:
    """Weights of the tasks that are trained on, 1 on the average."""
    if weights is None:
        return None
    mean = weights[train].mean()
    if float(mean) == 0:
        raise OptionError("weights of the tasks that are trained on are all zero: none would be learnt from")
    return weights[train] / mean
