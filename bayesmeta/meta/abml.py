"""ABML: amortised Bayesian meta-learning, a hierarchical variational posterior whose tasks' part is gradient descent.

    min over the prior of  E_t [ -E_q log p(support, query | w) + KL(q | p) ] - log p(prior)

with q = q_t after some steps down the same bound on the support alone. In contrast to VAMPIRE the meta-objective has
the divergence in it, so that it holds the posteriors to the prior, and the prior to where it is needed. It is the bound
itself with `divergence_weight=1`; by default the divergence counts a tenth, inside and outside.

Ravi and Beatson (2019), Amortized Bayesian meta-learning, ICLR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesmeta.errors import OptionError
from bayesmeta.meta.distribution.bayesian import check_positive
from bayesmeta.meta.distribution.mean_field import LOG_SD, MeanField, divergence
from bayesmeta.meta.episodes import Episodes, Rows
from bayesmeta.meta.module import Functional, Weights

__all__ = ["ABML"]


@dataclass(frozen=True)
class ABML(MeanField):
    """Settings of ABML: those of `bayesmeta.meta.distribution.mean_field.MeanField`, and more.

    Args:
        hyperprior: How much -log p(prior) counts in the meta-objective, which is in nats per row: one over the number
            of rows of all tasks, or 0 to leave it out.
        shape, rate: Of the gamma distribution that 1 / s² of each weight has; means have N(0, 1).
    """

    hyperprior: float = 1e-4
    shape: float = 1.0
    rate: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("shape", self.shape)
        check_positive("rate", self.rate)
        if not isinstance(self.hyperprior, int | float) or not 0 <= self.hyperprior < math.inf:
            raise OptionError(f"hyperprior must be a number of at least 0, got {self.hyperprior!r}")

    def objective(self, net: Functional, meta: Weights, episode: Episodes) -> Tensor:
        """The bound on all rows of one task, and what the hyperprior says, in nats per row, ()."""
        rows = Rows(*(torch.cat(parts) for parts in zip(episode.support, episode.query, strict=True)))
        posterior = self.posterior(net, meta, episode.support, self.inner_steps, episode.noise)
        surprise = self.expected_surprise(net, meta, posterior, rows, episode.noise)
        cost = self.divergence_weight * divergence(net, posterior, meta) / rows.mask.sum().clamp(min=1)
        return surprise + cost - self.hyperprior * self._log_hyperprior(net, meta)

    def _log_hyperprior(self, net: Functional, meta: Weights) -> Tensor:
        """log p of means and precisions of the prior, up to a constant, ()."""
        parts = []
        for name in net.weights:
            log_precision = -2 * meta[LOG_SD + name]
            gamma = (self.shape - 1) * log_precision - self.rate * log_precision.exp()
            parts.append((gamma - 0.5 * meta[name].square()).sum())
        return torch.stack(parts).sum()
