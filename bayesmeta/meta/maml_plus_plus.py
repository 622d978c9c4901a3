"""MAML++: what makes MAML train well, as settings of their own.

* A learning rate for each weight tensor and each inner step, learnt.
* Scales and shifts of normalisations for each inner step, learnt: what is right before a step is not after it.
* The query loss after every inner step counts, at first all alike, in the end the last one alone.
* First order at the beginning, second order from then on.

Antoniou, Edwards and Storkey (2019), How to train your MAML, ICLR. Statistics are those of the rows that a module is
given (`bayesmeta.meta.module`), at every step anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bayesmeta.errors import OptionError
from bayesmeta.meta.episodes import Episodes, Rows
from bayesmeta.meta.maml import MAML
from bayesmeta.meta.module import Functional, Weights

__all__ = ["MAMLPlusPlus"]

RATE = "rates of "
STEPS = "by step, "


@dataclass(frozen=True)
class MAMLPlusPlus(MAML):
    """Settings of MAML++: those of MAML, and more.

    Args:
        multi_step: Share of training over which the losses of all inner steps give way to that of the last.
        first_order_until: Share of training that is of first order.
        norm_by_step: Whether normalisations have a scale and a shift for each number of inner steps taken, which
            are learnt and do not adapt; otherwise they adapt as other weights do.
    """

    multi_step: float = 0.15
    first_order_until: float = 0.0
    norm_by_step: bool = False
    shares: tuple[float, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("multi_step", "first_order_until"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise OptionError(f"{name} is a share of training, from 0 to 1, got {value!r}")

    def begin(self, net: Functional) -> Weights:
        """Weights, and for each of them a learning rate by inner step (K,); later steps take the last of them.

        With `norm_by_step`, those of normalisations are (K + 1, ...) and have no rates.
        """
        steps, norms = max(1, self.inner_steps), self._norms(net)
        adapting = {name: value for name, value in net.weights.items() if name not in norms}
        rates = {RATE + name: torch.full((steps,), self.inner_learning_rate, dtype=net.dtype) for name in adapting}
        by_step = {
            STEPS + name: net.weights[name].expand(self.inner_steps + 1, *net.weights[name].shape) for name in norms
        }
        return adapting | rates | {name: value.clone() for name, value in by_step.items()}

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
        norms = self._norms(net)
        weights = {name: meta[name] for name in net.weights if name not in norms}

        def risk(weights: Weights, norms: Weights, support: Rows) -> Tensor:
            return self.risk(net, weights | norms, support)

        path = []
        for k in range(steps + 1):
            now = {name: meta[STEPS + name][min(k, self.inner_steps)] for name in norms}
            path.append(weights | now)
            if k < steps:
                rates = {name: meta[RATE + name][min(k, self.inner_steps - 1)] for name in weights}
                weights = self._descend(risk, weights, rates, 1, now, support)
        return path

    def _norms(self, net: Functional) -> tuple[str, ...]:
        """The weights that are one for each step."""
        return net.norms() if self.norm_by_step else ()
