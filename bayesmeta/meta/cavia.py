"""CAVIA: a task adapts a context vector alone, which the network takes as further inputs.

Zintgraf, Shiarlis, Kurin, Hofmann and Whiteson (2019), Fast context adaptation via meta-learning, ICML.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayesmeta.errors import DataError
from bayesmeta.infer.options import check_whole
from bayesmeta.meta.episodes import Rows
from bayesmeta.meta.maml import MAML
from bayesmeta.meta.module import Functional, Weights

__all__ = ["CAVIA"]

CONTEXT = "context"


@dataclass(frozen=True)
class CAVIA(MAML):
    """Settings of CAVIA: those of MAML, and one more. The network takes inputs of d + `size` numbers a row.

    Args:
        size: Length of the context vector, which begins at zero for every task.
    """

    inner_learning_rate: float = 1.0
    size: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("size", self.size, 1)

    def common(self, net: Functional) -> tuple[str, ...]:
        """All weights of the network: a task has a context of its own alone."""
        return tuple(net.weights)

    def forward(self, net: Functional, weights: Weights, x: Tensor) -> Tensor:
        """The network at x (n, d) with the context behind each row."""
        x = x.unsqueeze(-1) if x.dim() == 1 else x
        if x.dim() != 2:
            raise DataError(f"CAVIA puts the context behind inputs (n, d), got inputs {tuple(x.shape)}")
        context = weights.get(CONTEXT, x.new_zeros(self.size))
        plain = {name: value for name, value in weights.items() if name != CONTEXT}
        return net(plain, torch.cat([x, context.expand(len(x), -1)], 1))

    def adapted(self, net: Functional, meta: Weights, support: Rows, steps: int) -> Weights:
        """The network's weights as they are, and the context of one task after so many steps on its support."""

        def risk(fast: Weights, meta: Weights, support: Rows) -> Tensor:
            return self.risk(net, meta | fast, support)

        begin = {CONTEXT: torch.zeros(self.size, dtype=net.dtype)}
        return meta | self._descend(risk, begin, self.inner_learning_rate, steps, meta, support)
