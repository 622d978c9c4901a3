"""What all algorithms share: their settings, and the meta-objective that training goes down.

An algorithm says what its meta-parameters are (`begin`), how a task adapts them (`adapted`), what a task then makes of
an input (`forward`) and what it adds to the meta-objective (`objective`: by default the query loss after adaptation).
Where the gradient of that objective is not what an algorithm follows, it has a `value_and_grad` of its own.

A task may be adapted into several sets of weights, its `members`, draws of a posterior or particles; they predict as a
mixture. What is random about them is made of the standard normal numbers that each task is handed, `randoms` of them,
so that an algorithm is a plain function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bayesmeta.errors import OptionError, unknown
from bayesmeta.infer.options import check_number, check_whole
from bayesmeta.infer.svi_train import SCHEDULES
from bayesmeta.meta.distribution.members import over_members
from bayesmeta.meta.episodes import Episodes, Rows
from bayesmeta.meta.losses import Loss, loss_of, masked_mean, mixture_loss
from bayesmeta.meta.module import Functional, Weights
from bayesmeta.meta.training.inner import descend
from bayesmeta.tasks import Tasks

__all__ = ["Algorithm"]


@dataclass(frozen=True)
class Algorithm:
    """Settings that all algorithms have.

    Args:
        loss: ``"mse"``, ``"cross_entropy"``, or a function of output and y that gives a number for each row (n,).
        shots: Observations of a task that are its support in training, drawn anew at every step; the others are query.
        by_class: Observations are classes, 0 to N-1 in every task, and `shots` is counted for each of them.
        inner_steps: Gradient steps on the support, in training.
        inner_learning_rate: Their learning rate.
        adapt_steps: Gradient steps on a new task; by default as many as in training.
        steps: Steps of training at most.
        batch_size: Tasks per step; all of them where there are fewer. A stream brings its own batches.
        learning_rate: Of Adam at its highest.
        schedule: How it goes down: ``"cosine"``, ``"exponential"`` or ``"constant"``.
        clip: Longest meta-gradient.
        validation: Share of the tasks that is left out of training and watched; a stream brings its own.
        every: Steps between two looks at them.
        patience: Looks without a gain after which training ends; the weights then are those of the best look.
        checkpoint: A file to go on from where it exists, and to write to; None for none.
        chunk: Tasks that go through one call; by default as many as fit into half a gigabyte. Gradients are the same.
        compile: Compile a step: worth it from some ten thousand steps on.
    """

    loss: str | Loss = "mse"
    shots: int = 5
    by_class: bool = False
    inner_steps: int = 5
    inner_learning_rate: float = 0.01
    adapt_steps: int | None = None
    steps: int = 10_000
    batch_size: int = 25
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    clip: float = 10.0
    validation: float = 0.0
    every: int = 100
    patience: int = 20
    checkpoint: str | None = None
    chunk: int | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        loss_of(self.loss)
        for name in ("shots", "inner_steps"):
            check_whole(name, getattr(self, name), 0)
        for name in ("steps", "batch_size", "every", "patience"):
            check_whole(name, getattr(self, name), 1)
        for name, least in (("adapt_steps", 0), ("chunk", 1)):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), least)
        for name in ("inner_learning_rate", "learning_rate", "clip"):
            check_number(name, getattr(self, name))
        check_number("validation", self.validation, 1.0, zero=True)
        if self.schedule not in SCHEDULES:
            raise OptionError(unknown("schedule", self.schedule, tuple(SCHEDULES)))

    def begin(self, net: Functional) -> Weights:
        """The meta-parameters before training: the module's own weights."""
        return dict(net.weights)

    def for_tasks(self, tasks: Tasks) -> Algorithm:
        """The algorithm for tasks such as these: what it has to know of them (how many classes) comes in here."""
        return self

    def at(self, done: float) -> Algorithm:
        """The algorithm when that share of the steps is done: what changes in the course of training says so here."""
        return self

    def forward(self, net: Functional, weights: Weights, x: Tensor) -> Tensor:
        """What a task with these weights makes of its rows x (n, ...)."""
        return net(weights, x)

    def adapted(self, net: Functional, meta: Weights, support: Rows, steps: int) -> Weights:
        """The weights of one task after so many steps on its support."""
        return descend(lambda weights: self.risk(net, weights, support), meta, self.inner_learning_rate, steps)

    def common(self, net: Functional) -> tuple[str, ...]:
        """Names of the weights that no task changes: adapted tasks have them in common instead of a copy each."""
        return ()

    def randoms(self, net: Functional) -> int:
        """How many standard normal numbers an episode of one task needs, in training and in adapting."""
        return 0

    def members(self, net: Functional, meta: Weights, support: Rows, steps: int, noise: Tensor) -> Weights:
        """All weights that a task is adapted to, with an axis of members (M, ...) in front; by default one, `adapted`.

        What members have in common may have an axis of one.

        Args:
            net: The network.
            meta: The meta-parameters.
            support: Rows of the task; none may be real.
            steps: Gradient steps.
            noise: Standard normal numbers (randoms,).
        """
        return {name: value.unsqueeze(0) for name, value in self.adapted(net, meta, support, steps).items()}

    def spread(self, net: Functional, weights: Weights, x: Tensor) -> Tensor | None:
        """Standard deviations (n,) of observations of rows x (n, ...) under one member's weights, where it knows them.

        Where it does not, None, predictions have the error left on training tasks as theirs (`Learner.noise`).
        """
        return None

    def outputs(self, net: Functional, members: Weights, x: Tensor) -> tuple[Tensor, ...]:
        """What the members of one task say of rows x (M, n, ...), and behind it their `spread` (M, n), if known."""

        def one(weights: Weights) -> tuple[Tensor, ...]:
            out, sd = self.forward(net, weights, x), self.spread(net, weights, x)
            return (out,) if sd is None else (out, sd)

        return over_members(one, members)

    def judged(self, net: Functional, meta: Weights, members: Weights, rows: Rows) -> Tensor:
        """The mean loss of what the members of one task (M, ...) say together of its rows, (): what is watched."""
        outs = self.outputs(net, members, rows.x)[0]
        return masked_mean(mixture_loss(self.loss, outs, rows.y), rows.mask)

    def objective(self, net: Functional, meta: Weights, episode: Episodes) -> Tensor:
        """What one task adds to the meta-objective: its query loss after adaptation, ()."""
        return self.risk(net, self.adapted(net, meta, episode.support, self.inner_steps), episode.query)

    def value_and_grad(
        self, net: Functional, meta: Weights, episodes: Episodes, weight: Tensor
    ) -> tuple[Tensor, Weights]:
        """The meta-objective of many tasks, and the direction that training goes down.

        Args:
            net: The network.
            meta: The meta-parameters.
            episodes: Support and query of the tasks.
            weight: How much each counts (B,), 1 on the average over all tasks of training.
        """

        def total(meta: Weights) -> Tensor:
            each = torch.func.vmap(lambda *episode: self.objective(net, meta, Episodes(*episode)))(*episodes)
            return (weight * each).mean()

        grad, value = torch.func.grad_and_value(total)(meta)
        return value, grad

    def risk(self, net: Functional, weights: Weights, rows: Rows) -> Tensor:
        """The mean loss of one task's rows, ()."""
        return masked_mean(loss_of(self.loss)(self.forward(net, weights, rows.x), rows.y), rows.mask)
