"""What algorithms that keep a distribution over the weights of a task share: a likelihood, and draws that predict.

The loss is read as a negative log likelihood in nats, the squared one as that of a normal distribution whose standard
deviation is learnt with everything else:

    -log p(y | x, w) = (y - f_w(x))² / 2σ² + log σ + ½ log 2π

Inner loops count in units of the loss, as those of MAML do, so that a learning rate means the same in all algorithms:
what a posterior adds to it (a divergence from the prior, a push apart) is multiplied by 2σ² / n, n the rows of the
support, which scales the direction of a step and leaves where steps lead to as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesmeta.errors import OptionError
from bayesmeta.infer.options import check_whole
from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.episodes import Rows
from bayesmeta.meta.losses import loss_of, masked_mean
from bayesmeta.meta.module import Functional, Weights

__all__ = ["HALF_LOG_2PI", "LOG_NOISE", "Bayesian", "check_positive"]

LOG_NOISE = "log noise"
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Bayesian(Algorithm):
    """Settings that all of them have: those of every algorithm, and more.

    Args:
        noise: Standard deviation of observations for ``loss="mse"``, in units of y, to begin with; it is learnt.
        draws: Networks that a task is adapted to, whose mixture predicts.
    """

    noise: float = 0.5
    draws: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("noise", self.noise)
        check_whole("draws", self.draws, 1)

    def begin(self, net: Functional) -> Weights:
        """The module's own weights, and for a squared loss the logarithm of the noise, ()."""
        if self.loss != "mse":
            return dict(net.weights)
        return dict(net.weights) | {LOG_NOISE: torch.tensor(math.log(self.noise), dtype=net.dtype)}

    def unit(self, meta: Weights, rows: Rows) -> Tensor:
        """How much loss a nat per row is, (): 2σ² over the components of y for a squared loss, else one."""
        if self.loss != "mse":
            return rows.y.new_ones(())
        return 2 * (2 * meta[LOG_NOISE]).exp() / components(rows)

    def share(self, meta: Weights, rows: Rows) -> Tensor:
        """How much loss a nat of a whole task is, (): `unit` over the rows that are real, zero where none is."""
        count = rows.mask.sum()
        return torch.where(count > 0, self.unit(meta, rows) / count.clamp(min=1), 0.0)

    def surprise(self, net: Functional, meta: Weights, weights: Weights, rows: Rows) -> Tensor:
        """-log p(y | x, w) of one task's rows, their mean, in nats, ()."""
        each = loss_of(self.loss)(self.forward(net, weights, rows.x), rows.y)
        return masked_mean(self._nats(meta, rows, each), rows.mask)

    def judged(self, net: Functional, meta: Weights, members: Weights, rows: Rows) -> Tensor:
        """-log of the density that the members' mixture has at one task's rows, their mean, in nats, ()."""
        return self.mixture_surprise(meta, self.outputs(net, members, rows.x)[0], rows)

    def mixture_surprise(self, meta: Weights, outs: Tensor, rows: Rows) -> Tensor:
        """-log 1/M Σ_m p(y | x, w_m) of each row, their mean, (), by what the members say (M, n, ...)."""
        each = torch.stack([self._nats(meta, rows, loss_of(self.loss)(out, rows.y)) for out in outs])
        return masked_mean(math.log(len(each)) - torch.logsumexp(-each, 0), rows.mask)

    def _nats(self, meta: Weights, rows: Rows, losses: Tensor) -> Tensor:
        """Losses of rows (n,) as negative log likelihoods (n,)."""
        if self.loss != "mse":
            return losses
        return losses / self.unit(meta, rows) + components(rows) * (meta[LOG_NOISE] + HALF_LOG_2PI)


def components(rows: Rows) -> int:
    """How many numbers an observation is."""
    return math.prod(rows.y.shape[1:])


def check_positive(name: str, value: object) -> None:
    """Raise an OptionError unless the value is a finite number above zero."""
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise OptionError(f"{name} must be a number above 0, got {value!r}")
