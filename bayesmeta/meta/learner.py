"""A learner: what training left, with the verbs of every learner: adapt to new tasks, predict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from bayesmeta.errors import DataError
from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.episodes import Rows, rows_of
from bayesmeta.meta.module import Functional, Weights
from bayesmeta.meta.predicting import Outputs
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
        noise: The root of the mean squared error on the query of training tasks, after adaptation, which predictions
            have as their standard deviation; None where the loss is not a squared one.
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
    ) -> None:
        self.net = net
        self.algorithm = algorithm
        self.weights = dict(weights)
        self.curves = dict(curves)
        self.steps = steps
        self.seconds = seconds
        self.noise = noise

    def adapt(self, tasks: Tasks, *, steps: int | None = None) -> Adapted:
        """Weights of new tasks, by gradient steps on all of their observations.

        Args:
            tasks: The new tasks; one without observations keeps the initialisation.
            steps: How many steps, the algorithm's `adapt_steps` by default.

        Raises:
            DataError: A task ends where its loss is not finite.
        """
        algorithm = self.algorithm
        if steps is None:
            steps = algorithm.inner_steps if algorithm.adapt_steps is None else algorithm.adapt_steps
        rows = rows_of(tasks, self.net.dtype)

        def one(*support: Tensor) -> tuple[Weights, Tensor]:
            weights = algorithm.adapted(self.net, self.weights, Rows(*support), steps)
            return weights, algorithm.risk(self.net, weights, Rows(*support))

        weights, risk = torch.func.vmap(one)(*rows)
        bad = (~torch.isfinite(risk)).nonzero().squeeze(1)
        if len(bad):
            name = tasks.names[int(bad[0])]
            raise DataError(
                f"adapting {name!r} ended at a loss of {float(risk[bad[0]]):g} ({len(bad)} of {len(tasks)} tasks): the "
                "steps run away; take fewer, or look at the size of its inputs and responses"
            )
        return Adapted(self, tasks, {name: value.detach() for name, value in weights.items()})

    def __repr__(self) -> str:
        count = sum(value.numel() for value in self.weights.values())
        last = self.curves["loss"][-max(1, len(self.curves["loss"]) // 10) :].mean()
        name = type(self.algorithm).__name__
        return f"Learner by {name}: {count:,} meta-parameters, {self.steps:,} steps, loss {last:.4g} in the last tenth"


class Adapted:
    """Networks of new tasks.

    Attributes:
        tasks: What they were adapted on.
        weights: The weights of each by name, (T, ...).
    """

    def __init__(self, learner: Learner, tasks: Tasks, weights: Weights) -> None:
        self.learner = learner
        self.tasks = tasks
        self.weights = weights

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
        weights = {name: value[pick] for name, value in self.weights.items()}
        learner = self.learner

        def one(weights: Weights, x: Tensor) -> Tensor:
            return learner.algorithm.forward(learner.net, weights, x)

        out = torch.func.vmap(one)(weights, rows.x)
        return Outputs(query, out.detach(), rows.mask, learner.algorithm.loss, learner.noise)

    def __repr__(self) -> str:
        return f"Adapted by {type(self.learner.algorithm).__name__}: {len(self.tasks):,} tasks"
