"""Importance sampling with adapted proposals: weighted draws that know how far they can be trusted.

Draws of all rounds count, each weighted by the mixture of all proposals so far (Cornuet, Marin, Mira, Robert 2012,
"Adaptive multiple importance sampling"): a poor first proposal then does no harm, and a heavy-tailed one keeps
the weights bounded. Between rounds a mixture of Student-t's is fitted to the weighted draws by EM. Weights are
Pareto-smoothed; k-hat and the effective size say whether to stop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bayesmeta.infer.proposals import Dense, Mixture, Proposal
from bayesmeta.psis import effective_size, psis, resample

__all__ = ["LEAST", "Adaptation", "Importance", "fitted_mixture"]

LEAST = 1000.0  # effective draws, for weighted draws to stand as they are
PER_ROUND = 2000  # at least: a tail that was fitted to fewer draws was seen to come out short (`bm.sbc`)
DF = 5.0
# Components are drawn from this much wider than the points they were fitted to: too wide costs a few draws, too
# narrow costs the tails.
WIDER = 1.2


class Adaptation(NamedTuple):
    """k-hat and effective size after each round, and whether an interruption ended it."""

    found: tuple[tuple[float, float], ...]
    interrupted: bool


@dataclass
class Importance:
    """Weighted draws of a density, in rounds.

    Args:
        log_prob: log density (S,) up to a constant at points (S, dim).
        generator: Where randomness comes from.

    Attributes:
        u: All draws so far (N, dim).
        log_target: log density at them (N,).
        rounds: The proposals so far and how many draws came from each.
    """

    log_prob: Callable[[Tensor], Tensor]
    generator: torch.Generator
    u: Tensor = field(init=False)
    log_target: Tensor = field(init=False)
    rounds: list[tuple[Proposal, int]] = field(default_factory=list)

    def draw(self, proposal: Proposal, count: int) -> None:
        """Add a round of `count` draws from a proposal."""
        u = proposal.sample(count, self.generator)
        log_target = self.log_prob(u)
        log_target = torch.where(torch.isfinite(log_target), log_target, -math.inf)
        self.u = torch.cat([self.u, u]) if self.rounds else u
        self.log_target = torch.cat([self.log_target, log_target]) if self.rounds else log_target
        self.rounds.append((proposal, count))

    @property
    def log_ratios(self) -> Tensor:
        """log density minus that of the mixture of all proposals (N,)."""
        total = sum(count for _, count in self.rounds)
        terms = [proposal.log_prob(self.u) + math.log(count / total) for proposal, count in self.rounds]
        return self.log_target - torch.logsumexp(torch.stack(terms), 0)

    def smoothed(self) -> tuple[Tensor, float, float]:
        """Normalised log weights (N,), k-hat and effective size."""
        ratios = self.log_ratios
        if not bool(torch.isfinite(ratios).any()):
            return torch.full_like(ratios, -math.log(len(ratios))), math.inf, 0.0
        weights, k_hat = psis(ratios)
        return weights, float(k_hat), float(effective_size(weights))

    def adapt(self, proposal: Proposal, draws: int, most: int, enough: Callable[[float, float], bool]) -> Adaptation:
        """Draw and refit in rounds, until the weights are enough or next to nothing of them is left.

        Args:
            proposal: The first.
            draws: About how many draws are wanted in the end; half of them come in a round, or `PER_ROUND`.
            most: Rounds at most.
            enough: Whether weights of such k-hat and effective size are.

        Raises:
            KeyboardInterrupt: In the first round; later ones keep what there is.
        """
        found: list[tuple[float, float]] = []
        for _ in range(most):
            try:
                self.draw(proposal, max(draws // 2, PER_ROUND))
            except KeyboardInterrupt:
                if not self.rounds:
                    raise
                return Adaptation(tuple(found), True)
            _, k_hat, size = self.smoothed()
            found.append((k_hat, size))
            if size == 0.0 or enough(k_hat, size):
                break
            proposal = self.refitted()
        return Adaptation(tuple(found), False)

    def resampled(self, draws: int, seed: int) -> Tensor:
        """Equally weighted draws (draws, dim): without repetition where the weights allow it."""
        weights, _, _ = self.smoothed()
        picked = resample(weights, seed)
        if draws <= len(picked):
            return self.u[picked[:draws]]
        more = torch.randint(len(picked), (draws - len(picked),), generator=self.generator)
        return self.u[torch.cat([picked, picked[more]])]

    def refitted(self) -> Proposal:
        """A mixture of Student-t's fitted to the weighted draws, of more components with every round."""
        weights, _, _ = self.smoothed()
        return fitted_mixture(self.u, weights.exp(), 1 + 2 * len(self.rounds), self.generator)


def fitted_mixture(u: Tensor, weights: Tensor, parts: int, generator: torch.Generator, steps: int = 15) -> Mixture:
    """A mixture of Student-t's fitted by EM (as Gaussians) to weighted points.

    Args:
        u: Points (N, dim).
        weights: Their weights (N,), summing to one.
        parts: How many components to begin with; those that lose their points are dropped.
        generator: Chooses where components begin.
        steps: Steps of EM.
    """
    dim = u.shape[1]
    whole = _weighted_moments(u, weights)
    begin = torch.multinomial(weights.clamp(min=1e-300), parts, replacement=True, generator=generator)
    centres, covariances = u[begin], whole[1].expand(parts, dim, dim)
    shares = torch.full((parts,), 1 / parts, dtype=torch.float64)
    for _ in range(steps):
        mixture = _mixture(centres, covariances, shares, math.inf)
        terms = torch.stack([part.log_prob(u) for part in mixture.parts]) + mixture.weights.log().unsqueeze(-1)
        duty = torch.softmax(terms, 0) * weights
        shares = duty.sum(1)
        keep = shares > max(0.02, 3 * dim / len(u))
        if not bool(keep.any()):
            centres, covariances = whole[0].unsqueeze(0), whole[1].unsqueeze(0)
            shares = torch.ones(1, dtype=torch.float64)
            break
        duty, shares = duty[keep], shares[keep] / shares[keep].sum()
        moments = [_weighted_moments(u, row / row.sum()) for row in duty]
        centres, covariances = (torch.stack(column) for column in zip(*moments, strict=True))
    return _mixture(centres, WIDER**2 * covariances, shares, DF)


def _weighted_moments(u: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    mean = weights @ u
    away = u - mean
    covariance = (away * weights.unsqueeze(-1)).mT @ away
    ridge = 1e-6 * covariance.diagonal().clamp(min=1e-12)
    return mean, covariance + torch.diag(ridge)


def _mixture(centres: Tensor, covariances: Tensor, shares: Tensor, df: float) -> Mixture:
    factors = torch.linalg.cholesky(covariances)
    return Mixture([Dense(c, factor, df) for c, factor in zip(centres, factors, strict=True)], shares)
