"""One learner at one number of shots: adapt, predict, score, and look at the clock."""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bayesmeta.arrays import digest
from bayesmeta.compare.held import Held
from bayesmeta.diagnose.classes import judged, probabilities_of
from bayesmeta.diagnose.comparison import Cell, Scores
from bayesmeta.diagnose.metrics import score
from bayesmeta.diagnose.over_tasks import names_of
from bayesmeta.errors import BayesmetaWarning, DataError, OptionError
from bayesmeta.meta.learner import Learner
from bayesmeta.posterior import Posterior
from bayesmeta.tasks import Tasks

__all__ = ["Predictor", "identity", "measured", "predictor", "train_seconds"]

AT_ONCE = 30_000_000  # numbers of the inputs of tasks whose classes are predicted together
RUNS, PATIENCE = 5, 2.0  # runs of one task, while they take no longer than so many seconds together
Predictor = Callable[[Tasks, Tasks], Any]


def predictor(name: str, learner: Any, *, draws: int, seed: int) -> Predictor:
    """What predicts a query from a support.

    Args:
        name: What the learner is called.
        learner: A posterior, a learner or a function.
        draws: Draws of φ that a posterior adapts with, at most.
        seed: Seeds what is random.

    Raises:
        OptionError: The learner cannot.
    """
    if isinstance(learner, Posterior):
        options: dict[str, Any] = {"draws": min(draws, len(learner.phi_coordinates)), "strangers": "ignore"}
        return lambda support, query: learner.adapt(support, **options, seed=seed).predict(query)
    if isinstance(learner, Learner):
        return lambda support, query: learner.adapt(support, seed=seed).predict(query)
    if hasattr(learner, "adapt"):
        return lambda support, query: learner.adapt(support).predict(query)
    if callable(learner):
        found: Predictor = learner
        return found
    raise OptionError(
        f"learners: {name!r} is of type {type(learner).__name__}; wanted a posterior, a learner of bm.meta, or a "
        "function of support and query that gives a prediction, such as the `optimal` of an environment"
    )


def train_seconds(learner: Any) -> float:
    """What learning took, NaN where it is not known."""
    if isinstance(learner, Posterior):
        return float(learner.info.seconds.get("total", float("nan")))
    return float(getattr(learner, "seconds", float("nan")))


def identity(learner: Any) -> str | None:
    """What a learner is known by again: its weights or draws, or the owner of a method; None where it is not.

    An owner is believed to be what it shows itself as if it is a frozen dataclass, as environments are.
    """
    if isinstance(learner, Posterior):
        return digest([repr(learner.info.inference)], {"phi": learner.phi_coordinates})
    if isinstance(learner, Learner):
        net = learner.net
        return digest([repr(learner.algorithm), repr(learner.noise), net.described], {**learner.weights, **net.buffers})
    owner = getattr(learner, "__self__", None)
    frozen = getattr(getattr(type(owner), "__dataclass_params__", None), "frozen", False)
    return f"{learner.__qualname__} of {owner!r}" if frozen else None


def measured(
    predict: Predictor, held: Held, shots: int, *, classes: int | None, level: float, seed: int
) -> tuple[Cell, list[str]]:
    """The cell of one learner, and what was warned of on the way.

    Args:
        predict: What predicts a query from a support.
        held: The tasks.
        shots: How many observations it adapts to.
        classes: How many classes a task has, where classes are compared; else None.
        level: Probability of intervals.
        seed: Seeds what the score draws.
    """
    support, asked = held.at(shots), held.asked
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", BayesmetaWarning)
        begin = time.perf_counter()
        predicted = _predicted(predict, support, asked, classes)
        _made(predicted)
        seconds = time.perf_counter() - begin
        found = scored(predicted, held.query, classes, level, seed)
        alone = _alone(predict, support, asked)
    said = [str(one.message) for one in caught if issubclass(one.category, BayesmetaWarning)]
    return Cell(found, 1000 * alone, seconds), list(dict.fromkeys(said))


def _predicted(predict: Predictor, support: Tasks, asked: Tasks, classes: int | None) -> Any:
    """The prediction of a query; classes of large inputs some tasks at a time, so that memory stays bounded."""
    numbers = (support.x.numel() + asked.x.numel()) / len(asked)
    step = max(1, int(AT_ONCE / max(numbers, 1)))
    if classes is None or step >= len(asked):
        return predict(support, asked)
    parts = []
    for start in range(0, len(asked), step):
        some = slice(start, start + step)
        found = predict(support[some], asked[some])
        p = probabilities_of(found)
        parts.append(_two_classes(found, classes) if p is None else p)
    out = torch.full((len(asked), max(len(p[0]) for p in parts), classes), math.nan, dtype=torch.float64)
    for start, p in zip(range(0, len(asked), step), parts, strict=True):
        out[start : start + len(p), : p.shape[1]] = p
    return out


def scored(predicted: Any, query: Tasks, classes: int | None, level: float, seed: int) -> Scores:
    """The score of a prediction of a query; where classes are compared, one of yes or no counts as of two classes."""
    p = probabilities_of(predicted)
    if p is None and classes is not None:
        p = _two_classes(predicted, classes)
    if p is not None:
        names = list(query.names) if isinstance(predicted, Tensor) else names_of(predicted, len(p))
        return judged(p, names, query, seed)
    found: Scores = score(predicted, query, level=level, seed=seed)
    return found


def _two_classes(predicted: Any, classes: int) -> Tensor:
    """Probabilities (T, m, 2) of a prediction of outcomes 0 and 1, whose mean is the probability of a one."""
    mean = predicted.mean.double()
    inside = bool(((mean >= 0) & (mean <= 1) | torch.isnan(mean)).all())
    if classes != 2 or mean.dim() != 2 or not inside:
        raise DataError(f"it gives no probabilities of {classes} classes: {type(predicted).__name__} predicts numbers")
    return torch.stack([1 - mean, mean], -1)


def _made(predicted: Any) -> None:
    """Have the prediction worked out, where it waits until it is asked for."""
    if probabilities_of(predicted) is None:
        _ = predicted.mean


def _alone(predict: Predictor, support: Tasks, asked: Tasks) -> float:
    """Seconds from the observations of one task to its prediction, the median of a few runs after a first one."""
    one, query, taken = support[:1], asked[:1], []
    for _ in range(1 + RUNS):
        begin = time.perf_counter()
        _made(predict(one, query))
        taken.append(time.perf_counter() - begin)
        if sum(taken) > PATIENCE:
            break
    return statistics.median(taken[1:] or taken)
