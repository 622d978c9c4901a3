"""Meta-SGD: learning rates of the inner steps are learnt too, one for each weight, signs included.

Li, Zhou, Chen and Li (2017), Meta-SGD: Learning to learn quickly for few-shot learning, arXiv:1707.09835.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayesmeta.meta.episodes import Rows
from bayesmeta.meta.maml import MAML
from bayesmeta.meta.module import Functional, Weights

__all__ = ["MetaSGD"]

RATE = "rate of "


@dataclass(frozen=True)
class MetaSGD(MAML):
    """Settings of Meta-SGD, those of MAML; `inner_learning_rate` is where all rates begin."""

    def begin(self, net: Functional) -> Weights:
        """Weights, and a learning rate for each of their elements."""
        rates = {RATE + name: torch.full_like(value, self.inner_learning_rate) for name, value in net.weights.items()}
        return dict(net.weights) | rates

    def adapted(self, net: Functional, meta: Weights, support: Rows, steps: int) -> Weights:
        """The weights of one task after so many steps on its support."""
        weights = {name: meta[name] for name in net.weights}
        rates = {name: meta[RATE + name] for name in net.weights}

        def risk(weights: Weights, support: Rows) -> Tensor:
            return self.risk(net, weights, support)

        return self._descend(risk, weights, rates, steps, support)
