"""A learner: what training left, with the verbs of every learner: adapt to new tasks, predict."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from bayesmeta.errors import DataError, NotAvailableError
from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.distribution.members import count_of, over_members
from bayesmeta.meta.episodes import Rows, check_rows, rows_of
from bayesmeta.meta.module import Functional, Weights
from bayesmeta.meta.predicting import Outputs
from bayesmeta.meta.training.chunks import in_chunks
from bayesmeta.query import query_tasks
from bayesmeta.tasks import Tasks

__all__ = ["Adapted", "Learner"]


class Learner:
    """Meta-parameters of a network, and how a task adapts them.

    Attributes:
        algorithm: The algorithm and its settings.
        weights: The meta-parameters by name.
        curves: ``loss`` by step; ``validation`` at the steps ``looks``.
        steps: Steps that were taken.
        seconds: What they took.
        noise: The error that adaptation leaves on the query of watched tasks, or else of those of the last steps of
            training, which predictions have as their standard deviation. Of tasks that are held, and none of them
            watched, it is too small where they are few. The root of the mean squared error of one network a task; of
            several see `bayesmeta.meta.residual`. None where the loss is not a squared one, or the algorithm knows it
            by input.
        chunk: How many tasks of a training step went through one call at most, as the settings or memory had it.
        interrupted: Whether training was stopped by hand.
    """

    def __init__(
        self,
        net: Functional,
        algorithm: Algorithm,
        weights: Mapping[str, Tensor],
        curves: Mapping[str, npt.NDArray[Any]],
        steps: int,
        seconds: float,
        *,
        noise: float | None = None,
        chunk: int | None = None,
        interrupted: bool = False,
    ) -> None:
        self.net = net
        self.algorithm = algorithm
        self.weights = dict(weights)
        self.curves = dict(curves)
        self.steps = steps
        self.seconds = seconds
        self.noise = noise
        self.chunk = chunk
        self.interrupted = interrupted

    def adapt(self, tasks: Tasks, *, steps: int | None = None, seed: int = 0) -> Adapted:
        """Weights of new tasks, by gradient steps on all of their observations.

        Args:
            tasks: The new tasks; one without observations keeps the initialisation.
            steps: How many steps, the algorithm's `adapt_steps` by default.
            seed: Seeds what is random about them, where the algorithm draws weights.

        Raises:
            DataError: A task ends where its loss is not finite.
        """
        algorithm = self.algorithm.for_tasks(tasks)
        if steps is None:
            steps = algorithm.inner_steps if algorithm.adapt_steps is None else algorithm.adapt_steps
        rows = rows_of(tasks, self.net.dtype)
        check_rows(self.net, rows)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(tasks), algorithm.randoms(self.net), generator=generator, dtype=self.net.dtype)
        common = algorithm.common(self.net)

        def one(support: Rows, noise: Tensor) -> tuple[Weights, Tensor]:
            members = algorithm.members(self.net, self.weights, support, steps, noise)
            risk = over_members(lambda weights: algorithm.risk(self.net, weights, support), members)
            return {name: value for name, value in members.items() if name not in common}, risk.mean()

        members, risk = in_chunks(self.net, one, (rows, noise), ("adapt", steps), chunk=algorithm.chunk)
        bad = (~torch.isfinite(risk)).nonzero().squeeze(1)
        if len(bad):
            name = tasks.names[int(bad[0])]
            raise DataError(
                f"adapting {name!r} ended at a loss of {float(risk[bad[0]]):g} ({len(bad)} of {len(tasks)} tasks): the "
                "steps run away; take fewer, or look at the size of its inputs and responses"
            )
        shared = {name: self.weights[name] for name in common}
        return Adapted(self, tasks, {name: value.detach() for name, value in members.items()}, shared)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the learner to one file without pickle, which `bayesmeta.meta.load` opens.

        Raises:
            NotAvailableError: The file cannot be written.
        """
        from bayesmeta.meta.files import save

        save(self, path)

    def __repr__(self) -> str:
        count = sum(value.numel() for value in self.weights.values())
        losses = self.curves["loss"]
        last = f", loss {losses[-max(1, len(losses) // 10) :].mean():.4g} in the last tenth" if len(losses) else ""
        name = type(self.algorithm).__name__
        return f"Learner by {name}: {count:,} meta-parameters, {self.steps:,} steps{last}"


class Adapted:
    """Networks of new tasks.

    Args:
        learner: Whose they are.
        tasks: What they were adapted on.
        own: What differs between tasks, by name (T, M, ...), or (T, 1, ...) what its networks have in common.
        common: The weights that are the same in all tasks, by name.
    """

    def __init__(self, learner: Learner, tasks: Tasks, own: Weights, common: Weights) -> None:
        self.learner = learner
        self.tasks = tasks
        self._own = own
        self._common = common
        self._count = count_of(own, 1)

    @property
    def members(self) -> Weights:
        """The weights of each task's networks by name, (T, M, ...): it has M of them, one for most algorithms."""
        shape = len(self.tasks), self._count
        own = {name: value.expand(*shape, *value.shape[2:]) for name, value in self._own.items()}
        return {name: value.expand(*shape, *value.shape) for name, value in self._common.items()} | own

    @property
    def weights(self) -> Weights:
        """The weights of each task's network by name, (T, ...), where it has one.

        Raises:
            NotAvailableError: Tasks have several.
        """
        if self._count > 1:
            what = "take the weights of all, `members` (T, M, ...)"
            raise NotAvailableError(f"a task has {self._count} networks here: {what}")
        return {name: value.squeeze(1) for name, value in self.members.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks' names."""
        return self.tasks.names

    def predict(self, x: Any) -> Outputs:
        """What each task's network makes of x.

        Args:
            x: Inputs (m, ...) for all tasks, a list with inputs for each, or `Tasks` with their names.

        Raises:
            DataError: Inputs that are not shaped as those that were adapted on.
        """
        query = query_tasks(self.tasks, x)
        pick = torch.tensor([self.tasks.index(name) for name in query.names])
        rows = rows_of(query, self.learner.net.dtype)
        check_rows(self.learner.net, rows)
        own = {name: value[pick] for name, value in self._own.items()}
        common = {name: value.unsqueeze(0) for name, value in self._common.items()}
        learner, algorithm = self.learner, self.learner.algorithm

        def one(own: Weights, x: Tensor) -> tuple[Tensor, ...]:
            return algorithm.outputs(learner.net, common | own, x)

        found = in_chunks(learner.net, one, (own, rows.x), "predict", chunk=algorithm.chunk, out_dims=1)
        out, *sd = (part.detach() for part in found)
        return Outputs(query, out, rows.mask, algorithm.loss, sd[0] if sd else learner.noise)

    def __repr__(self) -> str:
        return f"Adapted by {type(self.learner.algorithm).__name__}: {len(self.tasks):,} tasks"
