"""VAMPIRE: a mean-field posterior for each task, and a prior from which a few steps of it do well on the query.

    min over the prior of  E_t [ -E_q log p(query | w) ],   q = q_t after some steps down its variational free energy

Nguyen, Do and Carneiro (2020), Uncertainty in model-agnostic meta-learning using variational inference, WACV.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bayesmeta.meta.distribution.mean_field import MeanField
from bayesmeta.meta.episodes import Episodes
from bayesmeta.meta.module import Functional, Weights

__all__ = ["VAMPIRE"]


@dataclass(frozen=True)
class VAMPIRE(MeanField):
    """Settings of VAMPIRE, those of `bayesmeta.meta.distribution.mean_field.MeanField`."""

    def objective(self, net: Functional, meta: Weights, episode: Episodes) -> Tensor:
        """What one task's posterior says of its query: -E_q log p, in nats per row, ()."""
        posterior = self.posterior(net, meta, episode.support, self.inner_steps, episode.noise)
        return self.expected_surprise(net, meta, posterior, episode.query, episode.noise)
