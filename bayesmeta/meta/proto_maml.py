"""ProtoMAML: MAML whose last layer begins, in every task, where a prototypical network would be.

Squared distances to prototypes c_k are linear in the features, up to what is the same for all classes:

    -|f - c_k|² = 2 c_k·f - |c_k|² - |f|²

so that a last layer with weights 2 c_k and biases -|c_k|² predicts as the prototypes do, and gradient steps on the
support go on from there, in all weights. Tasks may have any number of classes, and no class has a place of its own in
the initialisation. Triantafillou et al. (2020), Meta-Dataset: a dataset of datasets for learning to learn from few
examples, ICLR.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from bayesmeta.meta.episodes import Rows
from bayesmeta.meta.losses import Loss
from bayesmeta.meta.maml import MAML
from bayesmeta.meta.module import Functional, Weights
from bayesmeta.meta.proto_net import by_classes, features_of, prototypes_of, ways_at, ways_in
from bayesmeta.tasks import Tasks

__all__ = ["ProtoMAML"]

WEIGHT, BIAS = "prototypes.weight", "prototypes.bias"


@dataclass(frozen=True)
class ProtoMAML(MAML):
    """Settings of ProtoMAML: those of MAML, and one more.

    The network gives features (n, d), such as `Conv4` without `ways`; the last layer is made of each task's support.
    The meta-gradient goes through that, by `first_order` too.

    Args:
        ways: Classes of a task; found from the tasks by default.
    """

    loss: str | Loss = "cross_entropy"
    shots: int = 1
    by_class: bool = True
    ways: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        by_classes(self, self.ways)

    def for_tasks(self, tasks: Tasks) -> ProtoMAML:
        """The algorithm for tasks of as many classes as these."""
        return replace(self, ways=ways_in(tasks, self.ways))

    def adapted(self, net: Functional, meta: Weights, support: Rows, steps: int) -> Weights:
        """The weights of one task, last layer included, after so many steps on its support."""
        ways = ways_at(support, self.ways, self.shots)
        centres = prototypes_of(features_of(net, meta, support.x), support, ways)
        begin = meta | {WEIGHT: 2 * centres, BIAS: -centres.square().sum(1)}

        def risk(weights: Weights, support: Rows) -> Tensor:
            return self.risk(net, weights, support)

        return self._descend(risk, begin, self.inner_learning_rate, steps, support)

    def forward(self, net: Functional, weights: Weights, x: Tensor) -> Tensor:
        """Logits of the classes for rows x (n, ...): (n, ways)."""
        return features_of(net, weights, x) @ weights[WEIGHT].T + weights[BIAS]
