"""Adaptation by Langevin steps: every draw is a chain over (φ, θ), all of them in one tensor.

From Laplace's approximation on, θ moves along the gradient with noise, accepted or not by Metropolis' rule (MALA:
Roberts, Tweedie 1996), and φ is exchanged for another of its draws now and then, by the same rule. Both leave

    p(φ_s, θ | D_new, D) ∝ p(D_new | θ, φ_s) p(θ | φ_s)

as it is, so that what Laplace's approximation had wrong about θ, and about φ, is worn off. Steps are scaled by the
curvature where a chain began. No proposals are weighted, so that many coordinates of θ are no hindrance.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayesmeta.adapt.curvature import DENSE, Spread, curvature_at
from bayesmeta.adapt.density import TaskDensity
from bayesmeta.adapt.ensemble import proposals_for, seen_log_z
from bayesmeta.adapt.laplace import find
from bayesmeta.adapt.problem import Problem, Result, in_pieces, weigh
from bayesmeta.errors import BayesmetaWarning, OptionError
from bayesmeta.infer.options import check_whole
from bayesmeta.threads import one_thread
from bayesmeta.track import Step, bar

__all__ = ["Langevin", "run"]

PROPOSALS = 8
EXCHANGE_EVERY = 3
WORN_OFF = 0.3  # correlation over chains, between halfway and the end of what follows the warm-up


@dataclass(frozen=True)
class Langevin:
    """Settings of adaptation by Langevin steps.

    Args:
        steps: Steps of each chain; in the first third the length of a step is found.
        draws: The most chains, each of them one draw; None for 1,000, fewer where φ and θ are long.
        target_accept: The share of steps to accept.
    """

    steps: int = 150
    draws: int | None = None
    target_accept: float = 0.574

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, 3)
        if self.draws is not None:
            check_whole("draws", self.draws, 1)
        if not 0 < self.target_accept < 1:
            raise OptionError(f"target_accept must lie between 0 and 1, got {self.target_accept!r}")


def run(problem: Problem, config: Langevin) -> Result:
    """Draws of φ and θ of each task; as many as there are chains."""
    problem = problem.thinned(config.draws or problem.affordable)
    structure = problem.program.structure
    p, q = structure.theta.size, structure.phi.size
    return in_pieces(problem, p * (min(p, DENSE) + 20) + 4 * q, lambda piece: _some(piece, config))


@one_thread()
def _some(problem: Problem, config: Langevin) -> Result:
    generator = torch.Generator().manual_seed(problem.seed)
    chains, k_hat, size = _start(problem, generator)
    with bar("adapting by Langevin steps", config.steps, problem.progress) as shown:
        done = _walk(chains, config, generator, shown)
    draws = chains.density.under(problem.phi[chains.index])
    note = f"Langevin steps: {done.accepted:.0%} accepted, {done.exchanged:.0%} of exchanges of φ"
    if done.left > WORN_OFF + 4 / math.sqrt(len(problem.phi)):
        warnings.warn(
            f"after {config.steps} steps chains still remember where they were halfway (correlation {done.left:.2f}): "
            "take more steps, or method='nuts'",
            BayesmetaWarning,
            stacklevel=6,
        )
    theta = draws.centred(chains.v)
    return Result(problem.phi[chains.index], theta, k_hat, size, torch.full_like(k_hat, -math.inf), note=note)


class _Chains:
    """Where the chains are: a draw of φ by its index (S, T), and θ in coordinates v (S, T, p)."""

    def __init__(self, density: TaskDensity, phi: Tensor, offset: Tensor, index: Tensor, v: Tensor) -> None:
        self.density, self.phi, self.offset = density, phi, offset
        self.index, self.v = index, v
        self.spread = self._spread()
        self.value, self.grad = self.under(index).value_and_grad(v)
        self.task = torch.arange(index.shape[1])

    def _spread(self) -> Spread:
        return curvature_at(self.under(self.index), self.v)[2]

    def under(self, index: Tensor) -> TaskDensity:
        """The density under the draws of φ at an index (S, T)."""
        return self.density.under(self.phi[index])

    def move(self, step: Tensor, generator: torch.Generator) -> Tensor:
        """One step of θ, of length step (T,); the acceptance probabilities (S, T)."""
        length = step.unsqueeze(-1)
        z = torch.randn(self.v.shape, generator=generator, dtype=torch.float64)
        push = z + 0.5 * length * self.spread.transposed_times(self.grad)
        v = self.v + length * self.spread.times(push)
        value, grad = self.under(self.index).value_and_grad(v)
        back = push + 0.5 * length * self.spread.transposed_times(grad)
        gain = value - self.value + 0.5 * (z.square() - back.square()).sum(-1)
        accept = torch.where(torch.isfinite(gain), gain, -math.inf).clamp(max=0.0).exp()
        self._take(_coin(accept, generator), self.index, v, value, grad)
        return accept

    def exchange(self, generator: torch.Generator) -> Tensor:
        """Another draw of φ with the same θ; the acceptance probabilities (S, T)."""
        index = torch.randint(len(self.phi), self.index.shape, generator=generator)
        value, grad = self.under(index).value_and_grad(self.v)
        gain = value - self.offset[index, self.task] - self.value + self.offset[self.index, self.task]
        accept = torch.where(torch.isfinite(gain), gain, -math.inf).clamp(max=0.0).exp()
        self._take(_coin(accept, generator), index, self.v, value, grad)
        return accept

    def _take(self, taken: Tensor, index: Tensor, v: Tensor, value: Tensor, grad: Tensor) -> None:
        row = taken.unsqueeze(-1)
        self.index, self.v = torch.where(taken, index, self.index), torch.where(row, v, self.v)
        self.value, self.grad = torch.where(taken, value, self.value), torch.where(row, grad, self.grad)


def _coin(accept: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(accept.shape, generator=generator, dtype=torch.float64) < accept


def _start(problem: Problem, generator: torch.Generator) -> tuple[_Chains, Tensor, Tensor]:
    """Chains that begin at draws of Laplace's approximation, with k-hat and effective size of its weights of φ."""
    standardised = TaskDensity(problem.program, problem.known, problem.phi)
    p = standardised.p
    found = find(standardised, problem.seed)
    proposals = proposals_for(p, None, PROPOSALS)
    offset = seen_log_z(problem, lambda density: find(density, problem.seed), proposals, generator)
    unchanged = problem.unchanged
    pick, k_hat, size = weigh(found.log_z - offset, problem)
    v = found.centre[pick, torch.arange(pick.shape[1])]
    if found.spread is not None:
        v = v + found.spread.at(pick).times(torch.randn(v.shape, generator=generator, dtype=torch.float64))
    if bool(unchanged.any()):
        offset = torch.where(unchanged, found.log_z, offset)
    if p > DENSE:  # the curvature of many coordinates is had in standardised ones
        return _Chains(standardised, problem.phi, offset, pick, v), k_hat, size
    theta = standardised.under(problem.phi[pick]).centred(v)
    density = TaskDensity(problem.program, problem.known, problem.phi, centred=True)
    return _Chains(density, problem.phi, offset, pick, theta), k_hat, size


class _Walked(NamedTuple):
    """Shares of steps and of exchanges accepted, and the largest correlation left between halfway and the end."""

    accepted: float
    exchanged: float
    left: float


def _walk(chains: _Chains, config: Langevin, generator: torch.Generator, shown: Step) -> _Walked:
    """Take the steps; Ctrl-C ends them, once the length of a step is found."""
    tune = config.steps // 3
    halfway = tune + (config.steps - tune) // 2
    log_step = torch.full((chains.index.shape[1],), math.log(1.2 * chains.density.p ** (-1 / 6)), dtype=torch.float64)
    accepted, exchanged, times, middle, k = 0.0, 0.0, 0, chains.v, 0
    try:
        for k in range(config.steps):
            accept = chains.move(log_step.exp(), generator)
            if k < tune:
                log_step = log_step + (accept.mean(0) - config.target_accept) * 3 / (k + 3) ** 0.6
            accepted += float(accept.mean())
            if k % EXCHANGE_EVERY == 0:
                exchanged, times = exchanged + float(chains.exchange(generator).mean()), times + 1
            middle = chains.v if k == halfway else middle
            shown(1)
    except KeyboardInterrupt:
        if k < tune:
            raise
        warnings.warn(
            f"interrupted after {k} of {config.steps} Langevin steps: the draws are as they were then",
            BayesmetaWarning,
            stacklevel=7,
        )
    return _Walked(accepted / (k + 1), exchanged / max(1, times), _correlation(middle, chains.v))


def _correlation(a: Tensor, b: Tensor) -> float:
    """The largest correlation over chains (S, T, p) of any coordinate of any task."""
    a, b = a - a.mean(0), b - b.mean(0)
    scale = (a.square().sum(0) * b.square().sum(0)).sqrt()
    return float(torch.where(scale > 0, (a * b).sum(0) / scale.clamp(min=1e-300), 0.0).max())
