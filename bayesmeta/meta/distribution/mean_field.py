"""Mean-field posteriors of a task: a normal distribution for each weight, that begins at the prior and is adapted.

    q(w) = Π_i N(w_i; μ_i, s_i²)      prior p(w) = the same with the meta-parameters μ⁰, s⁰
    one step down  F = E_q[L_support(w)] + r KL(q | p),   r = 2σ²/n times a weight

        log s ← log s - α ∂F/∂log s
            μ ← (μ - α ∂E_q[L]/∂μ + c μ⁰) / (1 + c),   c = α r / s⁰²

which is gradient descent but for the pull of μ to the prior, that is taken where the step ends, not where it begins: it
leads to the same place, and a narrow prior holds a mean instead of throwing it to and fro. The prior's means and
standard deviations are what is learnt across tasks. Expectations are means over pairs of opposite draws w = μ ± s ε,
which are exact for the mean of a quadratic loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesmeta.infer.options import check_whole
from bayesmeta.meta.distribution.bayesian import Bayesian, check_positive
from bayesmeta.meta.episodes import Rows
from bayesmeta.meta.flat import Flat
from bayesmeta.meta.module import Functional, Weights
from bayesmeta.meta.training.inner import descend

__all__ = ["LOG_SD", "MeanField", "divergence", "drawn", "numbers_of"]

LOG_SD = "log sd of "


@dataclass(frozen=True)
class MeanField(Bayesian):
    """Settings of algorithms whose posterior of a task is of this kind: those of Bayesian ones, and more.

    Args:
        prior_sd: Standard deviation of each weight from task to task, to begin with; it is learnt.
        divergence_weight: How much KL(q | p) counts. With 1 many steps lead to the posterior; less, as by default,
            lets tasks go further in few steps.
        pairs: Pairs of opposite draws that expectations are taken over, in inner steps and in the meta-objective.
        first_order: Leave out the second derivatives of the inner steps.
    """

    prior_sd: float = 0.05
    divergence_weight: float = 0.1
    pairs: int = 1
    first_order: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("prior_sd", self.prior_sd)
        check_positive("divergence_weight", self.divergence_weight)
        check_whole("pairs", self.pairs, 1)

    def begin(self, net: Functional) -> Weights:
        """Means of the weights, logarithms of their standard deviations, and of the noise."""
        log_sd = math.log(self.prior_sd)
        return super().begin(net) | {LOG_SD + name: torch.full_like(w, log_sd) for name, w in net.weights.items()}

    def randoms(self, net: Functional) -> int:
        """Those of the inner steps, and those of the meta-objective or of the draws that predict."""
        return (self.pairs + max(self.pairs, self.draws)) * sum(w.numel() for w in net.weights.values())

    def adapted(self, net: Functional, meta: Weights, support: Rows, steps: int) -> Weights:
        """The means of one task's weights after so many steps, whose draws all are one standard deviation away."""
        noise = torch.ones(self.randoms(net), dtype=net.dtype)
        posterior = self.posterior(net, meta, support, steps, noise)
        return {name: posterior[name] for name in net.weights}

    def members(self, net: Functional, meta: Weights, support: Rows, steps: int, noise: Tensor) -> Weights:
        """Draws of one task's posterior after so many steps (M, ...)."""
        posterior = self.posterior(net, meta, support, steps, noise)
        numbers = numbers_of(net, noise)[self.pairs :][: self.draws]
        found: Weights = torch.func.vmap(lambda e: drawn(net, posterior, e))(numbers)
        return found

    def posterior(self, net: Functional, meta: Weights, support: Rows, steps: int, noise: Tensor) -> Weights:
        """Means and logarithms of standard deviations of one task after so many steps, by name as in `begin`.

        Args:
            net: The network.
            meta: The prior, by the same names.
            support: Rows of the task.
            steps: How many.
            noise: Standard normal numbers (randoms,), the first of which the draws of the steps are made of.
        """
        prior = {name: meta[name] for weight in net.weights for name in (weight, LOG_SD + weight)}
        numbers, share = numbers_of(net, noise)[: self.pairs], self.divergence_weight * self.share(meta, support)

        def free(posterior: Weights) -> Tensor:
            """What is gone down but for the pull of the means."""
            risk = expected(net, posterior, numbers, lambda weights: self.risk(net, weights, support))
            return risk + share * divergence_of_widths(net, posterior, prior)

        posterior, rate = prior, self.inner_learning_rate
        for _ in range(steps):
            posterior = descend(free, posterior, rate, 1, first_order=self.first_order)
            for name in net.weights:
                pull = rate * share * (-2 * prior[LOG_SD + name]).exp()
                posterior[name] = (posterior[name] + pull * prior[name]) / (1 + pull)
        return posterior

    def expected_surprise(
        self, net: Functional, meta: Weights, posterior: Weights, rows: Rows, noise: Tensor
    ) -> Tensor:
        """-E_q log p(y | x, w) of one task's rows, their mean, in nats, ()."""
        numbers = numbers_of(net, noise)[self.pairs : 2 * self.pairs]
        return expected(net, posterior, numbers, lambda weights: self.surprise(net, meta, weights, rows))


def numbers_of(net: Functional, noise: Tensor) -> Tensor:
    """Standard normal numbers (r,) as draws of all weights (r / p, p)."""
    return noise.reshape(-1, sum(w.numel() for w in net.weights.values()))


def drawn(net: Functional, posterior: Weights, numbers: Tensor) -> Weights:
    """The weights μ + s ε, by ε (p,)."""
    noise = Flat(net.weights).named(numbers)
    return {name: posterior[name] + posterior[LOG_SD + name].exp() * noise[name] for name in net.weights}


def expected(net: Functional, posterior: Weights, numbers: Tensor, value: Callable[[Weights], Tensor]) -> Tensor:
    """The mean of a function of weights () over pairs of opposite draws, by ε (S, p)."""
    both = torch.cat([numbers, -numbers])
    each: Tensor = torch.func.vmap(lambda e: value(drawn(net, posterior, e)))(both)
    return each.mean()


def divergence(net: Functional, q: Weights, p: Weights) -> Tensor:
    """KL(q | p) of two such distributions, in nats, ()."""
    away = [((q[name] - p[name]) * (-p[LOG_SD + name]).exp()).square().sum() for name in net.weights]
    return divergence_of_widths(net, q, p) + 0.5 * torch.stack(away).sum()


def divergence_of_widths(net: Functional, q: Weights, p: Weights) -> Tensor:
    """KL(q | p) of two that have the same means, in nats, ()."""
    log_ratio = [q[LOG_SD + name] - p[LOG_SD + name] for name in net.weights]
    return 0.5 * torch.stack([((2 * r).exp() - 1 - 2 * r).sum() for r in log_ratio]).sum()
