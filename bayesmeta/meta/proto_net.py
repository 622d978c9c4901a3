"""Prototypical networks: a class is the mean of its support images' features, and the nearest class is predicted.

    c_k = mean of f(x) over the support of class k        p(y = k | x) ∝ exp(-|f(x) - c_k|²)

Nothing is adapted by steps: a task costs one pass through the network. Snell, Swersky and Zemel (2017), Prototypical
networks for few-shot learning, NeurIPS, equations 1 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bayesmeta.errors import DataError, OptionError
from bayesmeta.infer.options import check_whole
from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.classes import ways_of
from bayesmeta.meta.episodes import Rows
from bayesmeta.meta.losses import Loss
from bayesmeta.meta.module import Functional, Weights
from bayesmeta.tasks import Tasks

__all__ = ["ProtoNet", "by_classes", "features_of", "membership", "prototypes_of", "ways_at", "ways_in"]

PROTOTYPES = "prototypes"


@dataclass(frozen=True)
class ProtoNet(Algorithm):
    """Settings of prototypical networks: those of every algorithm, and one more.

    The network gives features (n, d), such as `Conv4` without `ways`. Settings of inner steps have no effect. New tasks
    may have other numbers of classes and shots than the tasks of training had.

    Args:
        ways: Classes of a task; found from the tasks by default.
    """

    loss: str | Loss = "cross_entropy"
    shots: int = 1
    by_class: bool = True
    inner_steps: int = 0
    ways: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        by_classes(self, self.ways)

    def for_tasks(self, tasks: Tasks) -> ProtoNet:
        """The algorithm for tasks of as many classes as these."""
        return replace(self, ways=ways_in(tasks, self.ways))

    def adapted(self, net: Functional, meta: Weights, support: Rows, steps: int) -> Weights:
        """The network's weights as they are, and the prototypes of one task."""
        ways = ways_at(support, self.ways, self.shots)
        return meta | {PROTOTYPES: prototypes_of(features_of(net, meta, support.x), support, ways)}

    def common(self, net: Functional) -> tuple[str, ...]:
        """All weights of the network: a task has prototypes of its own alone."""
        return tuple(net.weights)

    def forward(self, net: Functional, weights: Weights, x: Tensor) -> Tensor:
        """Minus the squared distances from the features of rows x (n, ...) to the prototypes (n, ways)."""
        features, centres = features_of(net, weights, x), weights[PROTOTYPES]
        squares = features.square().sum(1, keepdim=True) + centres.square().sum(1)
        return 2 * features @ centres.T - squares


def by_classes(algorithm: Algorithm, ways: int | None) -> None:
    """Raise an OptionError unless the settings are for classes."""
    name = type(algorithm).__name__
    if not algorithm.by_class or algorithm.loss == "mse":
        raise OptionError(
            f"{name} predicts classes: it wants by_class=True and a loss of classes, such as 'cross_entropy'; got "
            f"by_class={algorithm.by_class!r}, loss={algorithm.loss!r}"
        )
    check_whole("shots", algorithm.shots, 1)
    if ways is not None:
        check_whole("ways", ways, 2)


def ways_in(tasks: Tasks, wanted: int | None) -> int:
    """How many classes each task has.

    Raises:
        DataError: Tasks differ in it, have observations that are no classes, or not as many as are wanted.
    """
    ways = ways_of(tasks)
    if wanted is not None and ways != wanted:
        raise DataError(f"tasks have {ways} classes each and the setting is ways={wanted}: leave it out, or correct it")
    return ways


def ways_at(support: Rows, ways: int | None, shots: int) -> int:
    """Classes of one task: as found from the tasks it is of, or as many as have `shots` rows each, as in training.

    So a stream may have batches of different numbers of classes, and the tasks that are watched others again.
    """
    return len(support.y) // shots if ways is None else ways


def features_of(net: Functional, weights: Weights, x: Tensor) -> Tensor:
    """What the network itself gives for rows x (n, ...), as (n, d)."""
    return net({name: weights[name] for name in net.weights}, x).flatten(1)


def prototypes_of(features: Tensor, rows: Rows, ways: int) -> Tensor:
    """The mean of the features (n, d) over the real rows of each class (ways, d)."""
    share = membership(rows, ways, features.dtype)
    return share.T @ features / share.sum(0).clamp(min=1).unsqueeze(-1)


def membership(rows: Rows, ways: int, dtype: torch.dtype) -> Tensor:
    """Which class each row is of, as a row of zeros with a single one (n, ways); all zeros where it is not real."""
    member = (rows.y.unsqueeze(-1) == torch.arange(ways)) & rows.mask.unsqueeze(-1)
    return member.to(dtype)
