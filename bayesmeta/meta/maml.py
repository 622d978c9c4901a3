"""MAML: an initialisation from which a few gradient steps on a task's support do well on its query.

    min over w of  E_t [ L_query( w - α ∇L_support(w) - ... ) ]

Finn, Abbeel and Levine (2017), Model-agnostic meta-learning for fast adaptation of deep networks, ICML.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bayesmeta.errors import OptionError
from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.episodes import Rows
from bayesmeta.meta.module import Functional, Weights
from bayesmeta.meta.training.inner import Rates, descend

__all__ = ["MAML"]


@dataclass(frozen=True)
class MAML(Algorithm):
    """Settings of MAML: those of every algorithm, and two more.

    Args:
        first_order: Leave out the second derivatives of the inner steps (FOMAML): cheaper, and often as good.
        recompute: Keep the weights between inner steps alone, and compute a step again when the meta-gradient passes
            it: for long inner loops and large networks, whose memory then hardly grows with `inner_steps`, for a third
            more time or so. The gradient is the same. Steps are then neither recorded nor compiled.
    """

    first_order: bool = False
    recompute: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recompute and self.compile:
            raise OptionError("recompute and compile do not go together: choose memory (recompute) or time (compile)")

    def adapted(self, net: Functional, meta: Weights, support: Rows, steps: int) -> Weights:
        """The weights of one task after so many steps on its support."""

        def risk(weights: Weights, support: Rows) -> Tensor:
            return self.risk(net, weights, support)

        return self._descend(risk, meta, self.inner_learning_rate, steps, support)

    def _descend(self, risk: Callable[..., Tensor], weights: Weights, rates: Rates, steps: int, *given: Any) -> Weights:
        """Weights after so many steps down a loss of them and of what is given, as the settings have it."""
        second = not self.first_order
        return descend(
            risk, weights, rates, steps, first_order=not second, given=given, recompute=self.recompute and second
        )
