"""PLATIPUS: an initialisation that is drawn, from a prior that a gradient step on the support has moved.

    prior      p(θ | support) = N(μ - γ_p ∇L_support(μ), s_p²)
    posterior  q(θ | query)   = N(μ - γ_q ∇L_query(μ), s_q²)                    used in training alone
    min of     E_t [ L_query(φ) + KL(q | p) ],   φ = θ ~ q after some steps down L_support

A new task draws initialisations from its prior and adapts each. What is learnt: μ, s_p, s_q and the rates γ_p and γ_q.

Finn, Xu and Levine (2018), Probabilistic model-agnostic meta-learning, NeurIPS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesmeta.meta.distribution.bayesian import Bayesian, check_positive
from bayesmeta.meta.distribution.mean_field import LOG_SD, divergence, drawn, numbers_of
from bayesmeta.meta.episodes import Episodes, Rows
from bayesmeta.meta.module import Functional, Weights
from bayesmeta.meta.training.inner import descend

__all__ = ["PLATIPUS"]

LOG_Q_SD = "log sd by the query of "
PRIOR_RATE, QUERY_RATE = "rate of the prior", "rate by the query"


@dataclass(frozen=True)
class PLATIPUS(Bayesian):
    """Settings of PLATIPUS: those of Bayesian ones, and more.

    Args:
        prior_sd: Standard deviation of each weight of the initialisation to begin with, under prior and posterior.
        divergence_weight: How much the divergence counts beside the query's likelihood; 1 makes it a bound.
        first_order: Leave out the second derivatives of the inner steps.
    """

    prior_sd: float = 0.05
    divergence_weight: float = 1.0
    first_order: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("prior_sd", self.prior_sd)
        check_positive("divergence_weight", self.divergence_weight)

    def begin(self, net: Functional) -> Weights:
        """Means, the two kinds of standard deviations and rates, and the noise."""
        log_sd, rate = math.log(self.prior_sd), torch.tensor(self.inner_learning_rate, dtype=net.dtype)
        prior, posterior = (
            {kind + name: torch.full_like(w, log_sd) for name, w in net.weights.items()} for kind in (LOG_SD, LOG_Q_SD)
        )
        return super().begin(net) | prior | posterior | {PRIOR_RATE: rate, QUERY_RATE: rate.clone()}

    def randoms(self, net: Functional) -> int:
        """Those of the draws."""
        return self.draws * sum(w.numel() for w in net.weights.values())

    def adapted(self, net: Functional, meta: Weights, support: Rows, steps: int) -> Weights:
        """Where the mean of the prior of one task goes in so many steps."""
        start = self._moved(net, meta, support, PRIOR_RATE, LOG_SD)
        return self._descended(net, {name: start[name] for name in net.weights}, support, steps)

    def members(self, net: Functional, meta: Weights, support: Rows, steps: int, noise: Tensor) -> Weights:
        """Where draws of the prior of one task go in so many steps (M, ...)."""
        prior = self._moved(net, meta, support, PRIOR_RATE, LOG_SD)

        def one(numbers: Tensor) -> Weights:
            return self._descended(net, drawn(net, prior, numbers), support, steps)

        found: Weights = torch.func.vmap(one)(numbers_of(net, noise))
        return found

    def objective(self, net: Functional, meta: Weights, episode: Episodes) -> Tensor:
        """The query's surprise after adapting a draw of q, and its share of KL(q | p), in nats per row, ()."""
        q = self._moved(net, meta, episode.query, QUERY_RATE, LOG_Q_SD)
        p = self._moved(net, meta, episode.support, PRIOR_RATE, LOG_SD)
        start = drawn(net, q, numbers_of(net, episode.noise)[0])
        weights = self._descended(net, start, episode.support, self.inner_steps)
        cost = self.divergence_weight * divergence(net, q, p) / episode.query.mask.sum().clamp(min=1)
        return self.surprise(net, meta, weights, episode.query) + cost

    def _moved(self, net: Functional, meta: Weights, rows: Rows, rate: str, log_sd: str) -> Weights:
        """A distribution of initialisations whose mean is one step down the loss of rows, named as a mean field."""
        means = {name: meta[name] for name in net.weights}
        slope = torch.func.grad(lambda weights: self.risk(net, weights, rows))(means)
        moved = {name: value - meta[rate] * slope[name] for name, value in means.items()}
        return moved | {LOG_SD + name: meta[log_sd + name] for name in net.weights}

    def _descended(self, net: Functional, start: Weights, support: Rows, steps: int) -> Weights:
        def risk(weights: Weights) -> Tensor:
            return self.risk(net, weights, support)

        return descend(risk, start, self.inner_learning_rate, steps, first_order=self.first_order)
