"""MAML++: what makes MAML train well, as settings of their own.

* A learning rate for each weight tensor and each inner step, learnt.
* The query loss after every inner step counts, at first all alike, in the end the last one alone.
* First order at the beginning, second order from then on.

Antoniou, Edwards and Storkey (2019), How to train your MAML, ICLR. Its batch normalisation by step is not part of it:
a module normalises by the rows it is given (`bayesmeta.meta.module`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bayesmeta.meta.episodes import Episodes, Rows
from bayesmeta.meta.maml import MAML
from bayesmeta.meta.module import Functional, Weights

__all__ = ["MAMLPlusPlus"]

RATE = "rates of "


@dataclass(frozen=True)
class MAMLPlusPlus(MAML):
    """Settings of MAML++: those of MAML, and more.

    Args:
        multi_step: Share of training over which the losses of all inner steps give way to that of the last.
        first_order_until: Share of training that is of first order.
    """

    multi_step: float = 0.15
    first_order_until: float = 0.0
    shares: tuple[float, ...] = field(default=(), init=False, repr=False)

    def begin(self, net: Functional) -> Weights:
        """Weights, and for each of them a learning rate by inner step (K,); later steps take the last of them."""
        steps = max(1, self.inner_steps)
        rates = {RATE + name: torch.full((steps,), self.inner_learning_rate, dtype=net.dtype) for name in net.weights}
        return dict(net.weights) | rates

    def at(self, done: float) -> MAMLPlusPlus:
        """First or second order, and how much the loss after each inner step counts (K,)."""
        stage = replace(self, first_order=self.first_order or done < self.first_order_until)
        object.__setattr__(stage, "shares", self._shares(done))
        return stage

    def _shares(self, done: float) -> tuple[float, ...]:
        """1/K each to begin with; all but the last fall to zero as training goes on, and the last takes the rest."""
        count = max(1, self.inner_steps)
        left = max(0.0, 1 - done / self.multi_step) if self.multi_step > 0 else 0.0
        others = left / count
        return (*[others] * (count - 1), 1 - others * (count - 1))

    def adapted(self, net: Functional, meta: Weights, support: Rows, steps: int) -> Weights:
        """The weights of one task after so many steps on its support."""
        return self._path(net, meta, support, steps)[-1]

    def objective(self, net: Functional, meta: Weights, episode: Episodes) -> Tensor:
        """The query losses after the inner steps, each with its share, ()."""
        path = self._path(net, meta, episode.support, self.inner_steps)
        shares = self.shares or self._shares(1.0)
        used = [(share, weights) for share, weights in zip(shares, path[-len(shares) :], strict=True) if share]
        return torch.stack([share * self.risk(net, weights, episode.query) for share, weights in used]).sum()

    def _path(self, net: Functional, meta: Weights, support: Rows, steps: int) -> list[Weights]:
        """The weights before the first step and after each."""
        weights = {name: meta[name] for name in net.weights}

        def risk(weights: Weights, support: Rows) -> Tensor:
            return self.risk(net, weights, support)

        path = [weights]
        for k in range(steps):
            rates = {name: meta[RATE + name][min(k, self.inner_steps - 1)] for name in weights}
            path.append(self._descend(risk, path[-1], rates, 1, support))
        return path
