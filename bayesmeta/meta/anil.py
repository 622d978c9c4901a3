"""ANIL and BOIL: only a part of the network adapts to a task, the head or the body.

ANIL: Raghu, Raghu, Bengio and Vinyals (2020), Rapid learning or feature reuse?, ICLR. BOIL: Oh, Yoo, Kim and Yun
(2021), BOIL: Towards representation change for few-shot learning, ICLR.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bayesmeta.meta.episodes import Rows
from bayesmeta.meta.maml import MAML
from bayesmeta.meta.module import Functional, Weights

__all__ = ["ANIL", "BOIL"]


@dataclass(frozen=True)
class ANIL(MAML):
    """Settings of ANIL, almost no inner loop: those of MAML, and one more.

    Args:
        head: What the names of the weights that adapt begin with; those of the last layer by default.
    """

    head: tuple[str, ...] = ()

    def adapted(self, net: Functional, meta: Weights, support: Rows, steps: int) -> Weights:
        """The weights of one task after so many steps of some of them on its support."""
        names = self._adapting(net)
        fixed = {name: value for name, value in meta.items() if name not in names}

        def risk(fast: Weights, fixed: Weights, support: Rows) -> Tensor:
            return self.risk(net, fixed | fast, support)

        begin = {name: meta[name] for name in names}
        fast = self._descend(risk, begin, self.inner_learning_rate, steps, fixed, support)
        return {name: fast.get(name, value) for name, value in meta.items()}

    def common(self, net: Functional) -> tuple[str, ...]:
        """The weights that do not adapt."""
        names = self._adapting(net)
        return tuple(name for name in net.weights if name not in names)

    def _adapting(self, net: Functional) -> tuple[str, ...]:
        return net.named(self.head) if self.head else net.head()


@dataclass(frozen=True)
class BOIL(ANIL):
    """Settings of BOIL: body only in the inner loop; those of ANIL, whose head here is what does not adapt."""

    def _adapting(self, net: Functional) -> tuple[str, ...]:
        head = super()._adapting(net)
        return tuple(name for name in net.weights if name not in head)
