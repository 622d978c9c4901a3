"""Draws of one posterior moved to another that is near: tasks were added, or one was taken out.

The weights that lead from the one to the other say where the other lies, as far as the draws can follow: a Student-t
fitted to the weighted draws is the first proposal of adaptive importance sampling (`bayesmeta.infer.importance`) on
the density that is wanted. Where next to none of the draws count, the heaviest ones climb to the mode, and the
Student-t stands there. What comes out has the density that is wanted and no other: nothing of the draws that it began
with is left in it but where the proposals look first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesmeta.errors import BayesmetaError
from bayesmeta.infer.climb import climb
from bayesmeta.infer.importance import DF, LEAST, Importance, fitted_mixture
from bayesmeta.infer.laplace import at_modes
from bayesmeta.infer.proposals import Proposal
from bayesmeta.psis import K_HAT, effective_size
from bayesmeta.target import Target
from bayesmeta.track import stage

__all__ = ["MOST_DIMENSIONS", "Moved", "move", "tempered"]

MOST_DIMENSIONS = 60
ROUNDS = 6
# Effective draws that a first proposal is fitted to, at least and for each dimension; with fewer the mode is sought.
FOLLOWING, PER_DIMENSION = 100.0, 10.0
STARTS = 4


@dataclass(frozen=True)
class Moved:
    """What came of a move.

    Attributes:
        u: Draws of all rounds (N, dim).
        log_weights: Their log importance weights (N,), neither smoothed nor normalised.
        smoothed: The same Pareto-smoothed, and summing to one after `exp`.
        k_hat: Pareto k-hat of the weights.
        effective_size: Kish's effective number of draws.
        log: A sentence for each round.
        interrupted: Whether it was stopped before it was good.
    """

    u: Tensor
    log_weights: Tensor
    smoothed: Tensor
    k_hat: float
    effective_size: float
    log: tuple[str, ...]
    interrupted: bool

    @property
    def log_mass(self) -> float:
        """log of the integral of the target's density over u, as it is evaluated: log p(D) in nats."""
        return float(torch.logsumexp(self.log_weights, 0)) - math.log(len(self.log_weights))

    @property
    def good(self) -> bool:
        """Whether the weighted draws can stand as they are."""
        return self.k_hat < K_HAT and self.effective_size >= LEAST


def move(
    target: Target, u: Tensor, log_weights: Tensor, *, draws: int = 4000, seed: int = 0, progress: bool = False
) -> Moved:
    """Weighted draws of a target, found from draws of another and the weights that lead to it.

    Args:
        target: The density that is wanted; θ must be integrated out.
        u: Draws of the other (N, dim).
        log_weights: log density of the target less that of the other (N,), up to a constant.
        draws: About how many draws are wanted in the end.
        seed: Seeds proposals.
        progress: Say what is being done while it lasts.
    """
    generator = torch.Generator().manual_seed(seed)
    sampler = Importance(target.log_prob, generator)
    proposal = _first(target, u, log_weights, generator)
    with stage("moving the draws", progress):
        found, interrupted = sampler.adapt(
            proposal, draws, ROUNDS, lambda k_hat, size: k_hat < K_HAT and size >= max(LEAST, draws / 2)
        )
    rounds = enumerate(found, 1)
    log = tuple(f"moved, round {number}: k-hat {k:.2f}, effective size {size:,.0f}" for number, (k, size) in rounds)
    smoothed, k_hat, size = sampler.smoothed()
    return Moved(sampler.u, sampler.log_ratios, smoothed, k_hat, size, log, interrupted)


def _first(target: Target, u: Tensor, log_weights: Tensor, generator: torch.Generator) -> Proposal:
    """A Student-t at the weighted draws, or at the mode that the heaviest of them climb to."""
    finite = torch.isfinite(log_weights)
    enough = max(FOLLOWING, PER_DIMENSION * u.shape[1])
    if bool(finite.any()) and float(effective_size(torch.log_softmax(log_weights, 0))) < enough:
        heaviest = log_weights.topk(min(STARTS, int(finite.sum()))).indices
        try:
            return at_modes(target, climb(target.value_and_grad, u[heaviest]), DF)[0]
        except BayesmetaError:
            pass  # no mode with a curvature: the draws have to do
    return fitted_mixture(u, tempered(log_weights, enough), 1, generator)


def tempered(log_weights: Tensor, enough: float) -> Tensor:
    """Weights (N,), summing to one, raised to the highest power up to one that leaves so many effective draws."""
    finite = torch.isfinite(log_weights)
    if not bool(finite.any()):
        return torch.full_like(log_weights, 1 / len(log_weights))
    enough = min(enough, 0.5 * float(finite.sum()))

    def at(power: float) -> Tensor:
        return torch.log_softmax(torch.where(finite, power * log_weights, -math.inf), 0)

    low, high = 0.0, 1.0
    if float(effective_size(at(high))) >= enough:
        return at(high).exp()
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if float(effective_size(at(middle))) >= enough else (low, middle)
    return at(low).exp()
