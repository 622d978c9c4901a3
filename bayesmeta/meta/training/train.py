"""Training: Adam down the meta-objective, over batches of episodes, by the loop that trains ensembles."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bayesmeta.errors import BayesmetaError, BayesmetaWarning, HierarchyError
from bayesmeta.infer import ensemble_checkpoint
from bayesmeta.infer.ensemble_train import History, State, Trainer, first_state
from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.episodes import Rows
from bayesmeta.meta.flat import Flat
from bayesmeta.meta.learner import Learner
from bayesmeta.meta.module import Functional, Weights
from bayesmeta.meta.residual import error_left
from bayesmeta.meta.training.chunks import in_chunks
from bayesmeta.meta.training.climb import Climb
from bayesmeta.meta.training.feed import Feed, Part, feed_of
from bayesmeta.meta.training.loop import plan_of, words_of
from bayesmeta.meta.training.runaway import Guarded
from bayesmeta.streams import Stream
from bayesmeta.tasks import Tasks
from bayesmeta.threads import one_thread
from bayesmeta.track import bar, steps_to

__all__ = ["fit"]

LAST = 20  # steps whose tasks say how large errors are where none are watched


def fit(
    net: nn.Module,
    tasks: Tasks | Stream,
    algorithm: Algorithm,
    *,
    weights: Tensor | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Learner:
    """Learn the meta-parameters of a network from tasks.

    Args:
        net: The network; its weights are where training starts from, and are not changed.
        tasks: What to learn from: tasks that are held, or a stream of batches.
        algorithm: `MAML`, `Reptile`, ... with its settings.
        weights: How much each task counts in the meta-objective (T,); all the same by default.
        seed: Seeds the order of tasks, and which rows are support.
        progress: Show a progress bar.

    Raises:
        HierarchyError: The network is not a function of weights and rows, or it or the loss look at values.
        DataError: A task has too few observations for support and query.
        FileFormatError: The checkpoint is of another run.
        BayesmetaError: The meta-objective is not finite where training starts, or again and again later on.

    Warns:
        BayesmetaWarning: Training was interrupted, or predictions will be too sure, because their error is known only
            of tasks that a large network was trained on.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import bayesmeta as bm
        >>> tasks = bm.Tasks.from_arrays([[0.0, 1.0, 2.0]] * 2, [[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
        >>> settings = bm.meta.MAML(shots=1, inner_steps=1, steps=20)
        >>> learner = bm.meta.fit(nn.Linear(1, 1), tasks, settings, progress=False)
        >>> learner.adapt(tasks).predict(torch.tensor([3.0])).mean.shape
        torch.Size([2, 1])
    """
    begin = time.perf_counter()
    function = Functional(net)
    algorithm.for_tasks(tasks.first(seed) if isinstance(tasks, Stream) else tasks)  # raises where they will not do
    feed, watched = feed_of(
        tasks,
        weights,
        shots=algorithm.shots,
        by_class=algorithm.by_class,
        randoms=algorithm.randoms(function),
        size=algorithm.batch_size,
        validation=algorithm.validation,
        seed=seed,
        dtype=function.dtype,
        kept=LAST if algorithm.loss == "mse" else 1,
    )
    meta = algorithm.begin(function)
    flat = Flat(meta)
    climb, history = Climb(algorithm, function, flat), History()
    path = None if algorithm.checkpoint is None else Path(algorithm.checkpoint)
    run = {} if path is None else _run(algorithm, function, tasks, weights, seed)
    with one_thread(), bar("meta-learning", algorithm.steps, progress) as step:
        u = flat.vector(meta).unsqueeze(0)
        _check_start(algorithm, function, meta, feed.part(0))
        found = None if path is None else ensemble_checkpoint.read(path, run)
        state, history = (first_state(u), History()) if found is None else found

        def keep(state: State, history: History) -> None:
            if path is not None:
                ensemble_checkpoint.write(path, state, history, run)

        look = None if watched is None else lambda u: -_loss(algorithm, function, flat.named(u[0]), watched)
        moves = torch.ones_like(u[0])
        guarded = Guarded(climb, algorithm)
        trainer = Trainer(plan_of(algorithm), guarded, feed, moves, look, keep, steps_to(step), words_of)
        state = trainer.run(state, history)
        keep(state, history)
        settled = trainer.settled(state)[0]
        found_at = flat.named(settled)
        noise = _noise(algorithm, function, found_at, feed, watched, state.step)
    count = sum(value.numel() for value in function.weights.values())
    if noise is not None and watched is None and isinstance(tasks, Tasks) and count > tasks.n_observations:
        warnings.warn(
            f"{count:,} weights were learnt from {tasks.n_observations:,} observations, none of them left "
            f"out: {noise:.3g}, the error there, is less than new tasks will have, and predictions are too sure; take "
            "validation=0.2",
            BayesmetaWarning,
            stacklevel=2,
        )
    if history.interrupted:
        what = f"training was interrupted after {state.step:,} of {algorithm.steps:,} steps"
        warnings.warn(f"{what}: the learner is as it was then", BayesmetaWarning, stacklevel=2)
    seconds = time.perf_counter() - begin
    return Learner(
        function,
        algorithm,
        found_at,
        _curves(history),
        state.step,
        seconds,
        noise=noise,
        chunk=climb.chunk,
        interrupted=history.interrupted,
    )


def _loss(algorithm: Algorithm, net: Functional, meta: Weights, watched: Part) -> Tensor:
    """The mean query loss of watched tasks after adaptation, as new tasks adapt (1,)."""

    def one(support: Rows, query: Rows, noise: Tensor) -> Tensor:
        members = algorithm.members(net, meta, support, _steps(algorithm), noise)
        return algorithm.judged(net, meta, members, query)

    found: Tensor = in_chunks(net, one, watched.episodes, "watched", chunk=algorithm.chunk)
    return found.mean().unsqueeze(0)


def _steps(algorithm: Algorithm) -> int:
    """Gradient steps on a new task."""
    return algorithm.inner_steps if algorithm.adapt_steps is None else algorithm.adapt_steps


def _noise(
    algorithm: Algorithm, net: Functional, meta: Weights, feed: Feed, watched: Part | None, steps: int
) -> float | None:
    """The error left after adaptation where the loss is a squared one: of watched tasks, or of the last steps."""
    if algorithm.loss != "mse":
        return None
    parts = [feed.part(step) for step in range(max(0, steps - LAST), max(1, steps))] if watched is None else [watched]
    return error_left(algorithm, net, meta, parts, _steps(algorithm))


def _run(
    algorithm: Algorithm, net: Functional, tasks: Tasks | Stream, weights: Tensor | None, seed: int
) -> dict[str, Any]:
    """What a checkpoint of this run belongs to: with more steps it is still the same run."""
    settings = dataclasses.asdict(algorithm) | {"seed": seed, "algorithm": type(algorithm).__name__}
    settings["loss"] = algorithm.loss if isinstance(algorithm.loss, str) else _name(algorithm.loss)
    settings["weights"] = None if weights is None else torch.as_tensor(weights).tolist()
    for name in ("steps", "checkpoint", "chunk", "compile", "recompute"):
        settings.pop(name, None)
    first = tasks.first(seed) if isinstance(tasks, Stream) else tasks
    shapes = {name: list(value.shape) for name, value in net.weights.items()}
    settings |= {"network": shapes, "layers": " ".join(net.described.split())}
    if isinstance(tasks, Stream):
        settings["stream"] = tasks.beside
    return {"settings": settings, "tasks": first.fingerprint()}


def _name(loss: Any) -> str:
    """What a loss function is called, the same in every process."""
    named = loss if hasattr(loss, "__qualname__") else type(loss)
    code = getattr(loss, "__code__", None)
    return f"{named.__module__}.{named.__qualname__}" + (f" {crc32(code.co_code):x}" if code else "")


def _check_start(algorithm: Algorithm, net: Functional, meta: Weights, part: Part) -> None:
    """Raise unless the meta-objective of the first episodes is a number."""
    try:
        first = float(_loss(algorithm, net, meta, part))
    except BayesmetaError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        said = str(error).splitlines()[0]
        if "vmap" in str(error):
            raise HierarchyError(
                "net or loss look at values (an if, .item(), a loop whose length depends on data), so that tasks "
                f"cannot go through them together: write it with torch.where ({said})"
            ) from error
        raise HierarchyError(f"{_failed(algorithm, part)} ({type(error).__name__}: {said})") from error
    if not math.isfinite(first):
        raise BayesmetaError(
            f"the meta-objective is {first:g} before the first step: the inner loop runs away from where the "
            f"network starts; take an inner_learning_rate below {algorithm.inner_learning_rate:g} or fewer "
            "inner_steps, and bring inputs and responses to the size of one"
        )


def _failed(algorithm: Algorithm, part: Part) -> str:
    """What was tried where the network or the loss did not take it, and what they should take."""
    support, query = part.episodes.support, part.episodes.query
    y = query.y[query.mask]
    classes = f", classes {int(y.min())} to {int(y.max())}" if algorithm.loss == "cross_entropy" else ""
    return (
        f"the network or the loss failed on a task of {support.x.shape[1]} support and {query.x.shape[1]} query rows "
        f"with x of shape {tuple(query.x.shape[2:])} and y of shape {tuple(query.y.shape[2:])}{classes}: the network "
        "takes rows (n, ...) of such an x and gives one output for each, (n, 1) or (n, outputs), of classes as many as "
        "there are; batch normalisation needs two rows at least"
    )


def _curves(history: History) -> dict[str, npt.NDArray[Any]]:
    def stacked(values: list[Tensor]) -> npt.NDArray[Any]:
        return -torch.cat(values).numpy() if values else np.zeros(0)

    return {
        "loss": stacked(history.evidence),
        "validation": stacked(history.validation),
        "looks": np.array(history.looks, dtype=np.int64),
    }
