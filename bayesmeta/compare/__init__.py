"""Learners compared on the same new tasks, by number of shots: Bayesian ones, gradient steps, baselines, an optimum."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from bayesmeta.compare.book import Book
from bayesmeta.compare.held import Held, held_of
from bayesmeta.compare.measure import identity, measured, predictor, train_seconds
from bayesmeta.diagnose.classes import ClassScore
from bayesmeta.diagnose.comparison import Cell, Comparison
from bayesmeta.errors import BayesmetaError, BayesmetaWarning, DataError, OptionError
from bayesmeta.infer.options import check_whole
from bayesmeta.posterior import Posterior
from bayesmeta.track import bar

__all__ = ["compare"]


def compare(
    learners: Mapping[str, Any],
    tasks: Any,
    *,
    shots: Sequence[int] = (1, 5, 10),
    count: int = 200,
    ways: int = 5,
    query: int | None = None,
    by_class: bool | None = None,
    level: float = 0.9,
    draws: int = 1000,
    seed: int = 0,
    path: str | PathLike[str] | None = None,
    progress: bool = True,
) -> Comparison:
    """Adapt learners to the same new tasks, predict the same observations of them, and put the scores side by side.

    Each task shows its first observation, or its first of each class, then some more, and is judged at all numbers of
    shots by the same query. What was observed there is hidden from the learners.

    Args:
        learners: By name: posteriors (`bm.fit`), learners of `bm.meta`, or functions of support and query that give a
            prediction, such as ``env.optimal``, the best that can be done.
        tasks: Tasks that no learner was trained on, whose observations are split at random; a pair (support, query) of
            tasks, whose support is shown from the first row on; or an environment or image set that new tasks are drawn
            from.
        shots: Observations to adapt on; of each class where `by_class`. 0 is prediction before anything is seen.
        count: How many tasks to draw from an environment or image set.
        ways: Classes of each task that is drawn from an image set.
        query: Observations to predict, of each class where `by_class`: by default 15 where tasks are drawn, and all
            that are not shown where they are split.
        by_class: Whether shots and query are counted by class, as in N-way K-shot; by default so for image sets, and
            where a learner was trained so.
        level: Probability of the intervals whose coverage is looked at.
        draws: Draws of φ that posteriors adapt with, at most.
        seed: Seeds everything random. Tasks that are drawn are others than those that ``tasks(..., seed=seed)`` gives.
        path: A file to keep what was found in, after each learner and number of shots. Where it exists, and is of the
            same tasks, what it has is not made again, unless the learner of a name has changed.
        progress: Show a progress bar.

    Returns:
        The scores; after Ctrl-C those found until then. A learner that fails is left out, with the reason.

    Raises:
        OptionError: Nothing to compare, or a setting out of range.
        DataError: Tasks have too few observations for so many shots, or some learners predict classes and some numbers.
        FileFormatError: `path` holds something else, or a comparison on other tasks.
        BayesmetaError: All of it failed.

    Example:
        >>> import bayesmeta as bm
        >>> env = bm.data.DKTSines()
        >>> net = bm.meta.Pooled(steps=1)
        >>> from torch import nn
        >>> learner = bm.meta.fit(nn.Linear(1, 1), env.tasks(20, shots=10), net, progress=False)
        >>> found = bm.compare({"optimal": env.optimal, "pooled": learner}, env, shots=[1, 5], count=20, progress=False)
        >>> found.table["rmse"].round(0).unstack("learner").columns.tolist()
        ['optimal', 'pooled']
    """
    counts = _checked(learners, shots, level, draws)
    check_whole("seed", seed, 0)
    predictors = {name: predictor(name, learner, draws=draws, seed=seed) for name, learner in learners.items()}
    held = held_of(
        tasks, counts[-1], count=count, ways=ways, query=query, by_class=_by_class(learners, by_class), seed=seed
    )
    _check_new(learners, held)
    classes = _classes(learners, held)
    book = Book(
        {name: identity(learner) for name, learner in learners.items()},
        {k: held.at(k).fingerprint() for k in counts},
        {"query": held.query.fingerprint(), "level": level, "draws": draws, "seed": seed, "classes": classes},
        {name: train_seconds(learner) for name, learner in learners.items()},
        path,
    )
    _fill(book, predictors, held, progress, {"classes": classes, "level": level, "seed": seed})
    return book.comparison()


def _fill(book: Book, predictors: Mapping[str, Any], held: Held, progress: bool, settings: dict[str, Any]) -> None:
    """Make what is missing, one learner after the other."""
    missing = book.missing()
    try:
        with bar("comparing", len(missing), progress) as step:
            for name, shots in missing:
                step(0, f"{name}, {shots} shots")
                try:
                    cell, said = measured(predictors[name], held, shots, **settings)
                except BayesmetaError as error:
                    book.fail(name, shots, str(error))
                except Exception as error:  # of whatever the learner is made of: the others stand
                    book.fail(name, shots, f"{type(error).__name__}: {error}")
                else:
                    _check_kind(book, name, cell)
                    book.enter(name, shots, cell, said)
                step(1)
    except KeyboardInterrupt:
        if not book.cells:
            raise
        made = f"{len(missing) - len(book.missing())} of {len(missing)} were made"
        warnings.warn(f"interrupted: {made}; what there is can be looked at", BayesmetaWarning, stacklevel=3)
    _check_found(book)


def _check_found(book: Book) -> None:
    """Raise where nothing was found, or what cannot stand side by side."""
    if not book.cells:
        (name, shots), reason = next(iter(book.failed.items()))
        raise BayesmetaError(f"no learner could be compared; the first, {name!r} at {shots} shots: {reason}")


def _check_kind(book: Book, name: str, cell: Cell) -> None:
    """Raise where what is found cannot stand beside what there is."""
    kinds = {isinstance(known.score, ClassScore): other for (other, _), known in book.cells.items()}
    kinds[isinstance(cell.score, ClassScore)] = name
    if len(kinds) > 1:
        raise DataError(f"{kinds[True]!r} predicts classes and {kinds[False]!r} numbers: compare them apart")


def _check_new(learners: Mapping[str, Any], held: Held) -> None:
    """Raise where a posterior would take new tasks for those that it was fitted to."""
    for name, learner in learners.items():
        known = [one for one in held.query.names if isinstance(learner, Posterior) and one in learner.tasks]
        if known:
            raise DataError(
                f"tasks: {len(known)} of them have names of tasks that {name!r} was fitted to, {known[:3]}, and would "
                "go on from their observations; wanted tasks that no learner was trained on. If they are new, name "
                "them: tasks.with_names([f'new {name}' for name in tasks.names])"
            )


def _checked(learners: Mapping[str, Any], shots: Sequence[int], level: float, draws: int) -> tuple[int, ...]:
    """The numbers of shots in order, if all is as it should be."""
    if not isinstance(learners, Mapping) or not learners:
        raise OptionError(f"learners: got {type(learners).__name__}; wanted a learner by each name, and one at least")
    check_whole("draws", draws, 1)
    counts = tuple(sorted(set(shots)))
    if not counts:
        raise OptionError("shots is empty: wanted numbers of observations to adapt on, such as [1, 5, 10]")
    for count in counts:
        check_whole("shots", count, 0)
    if not 0 < level < 1:
        raise OptionError(f"level must lie between 0 and 1, got {level!r}")
    return counts


def _classes(learners: Mapping[str, Any], held: Held) -> int | None:
    """How many classes a task has, None where numbers are predicted."""
    losses = [getattr(getattr(one, "algorithm", None), "loss", None) for one in learners.values()]
    if held.ways is None and "cross_entropy" in losses:
        return 1 + int(held.query.y.max())
    return held.ways


def _by_class(learners: Mapping[str, Any], by_class: bool | None) -> bool | None:
    """Whether shots are counted by class, None where it is not said."""
    trained_so = any(getattr(getattr(one, "algorithm", None), "by_class", False) for one in learners.values())
    return True if by_class is None and trained_so else by_class
