"""MAML: an initialisation from which a few gradient steps on a task's support do well on its query.

    min over w of  E_t [ L_query( w - α ∇L_support(w) - ... ) ]

Finn, Abbeel and Levine (2017), Model-agnostic meta-learning for fast adaptation of deep networks, ICML.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.episodes import Rows
from bayesmeta.meta.inner import descend
from bayesmeta.meta.module import Functional, Weights

__all__ = ["MAML"]


@dataclass(frozen=True)
class MAML(Algorithm):
    """Settings of MAML: those of every algorithm, and one more.

    Args:
        first_order: Leave out the second derivatives of the inner steps (FOMAML): cheaper, and often as good.
    """

    first_order: bool = False

    def adapted(self, net: Functional, meta: Weights, support: Rows, steps: int) -> Weights:
        """The weights of one task after so many steps on its support."""

        def risk(weights: Weights) -> Tensor:
            return self.risk(net, weights, support)

        return descend(risk, meta, self.inner_learning_rate, steps, first_order=self.first_order)
