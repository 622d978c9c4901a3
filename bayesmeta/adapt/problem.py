"""What a method of adaptation is asked, and what it answers: the contract that all of them keep.

A method is a module with a frozen config and a function ``run(problem, config) -> Result``. It draws θ of every
task given what is known of it, with the φ that goes with each draw, all tasks and all draws of φ at once. Every
task of a problem has observations: those without any are drawn from the population before a method is asked.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from bayesmeta.errors import BayesmetaWarning, DataError, NotAvailableError
from bayesmeta.evidence import Collapsed, Joint
from bayesmeta.program import Program
from bayesmeta.psis import effective_size, psis, resample
from bayesmeta.tasks import Tasks

if TYPE_CHECKING:
    from bayesmeta.posterior import Posterior

__all__ = ["Problem", "Result", "Weighed", "distinct", "in_pieces", "weigh"]

FEWEST_FOR_K_HAT = 21
FAILED = 0.01  # share of the draws of φ without an evidence that is said
PIECE_NUMBERS = 4_000_000
MOST_DRAWS, FEWEST_DRAWS, NUMBERS = 1000, 25, 250_000


class Result(NamedTuple):
    """Equally weighted draws of (φ, θ) for each task on its own.

    Attributes:
        phi: Coordinates of φ (S, T, q).
        theta: Centred coordinates of θ (S, T, p).
        k_hat: Pareto k-hat of the weights of φ (T,).
        effective_size: Effective number of draws of φ (T,).
        k_hat_theta: Pareto k-hat of the weights of φ and θ together, where θ comes from an approximation; else -inf
            (T,).
        path: Where each draw of θ came from step by step, in centred coordinates (steps + 1, S, T, p), if kept.
        note: What should be known about how it went, a sentence, or nothing.
    """

    phi: Tensor
    theta: Tensor
    k_hat: Tensor
    effective_size: Tensor
    k_hat_theta: Tensor
    path: Tensor | None = None
    note: str = ""

    def rows(self, pick: Tensor) -> Result:
        """Some of the draws."""
        path = None if self.path is None else self.path[:, pick]
        return self._replace(phi=self.phi[pick], theta=self.theta[pick], path=path)

    @staticmethod
    def joined(parts: Sequence[Result], order: Tensor) -> Result:
        """Results of several sets of tasks as one; `order` says which task of the parts in a row comes where."""
        if len(parts) == 1 and bool((order == torch.arange(len(order))).all()):
            return parts[0]

        def gather(tensors: list[Tensor], axis: int) -> Tensor:
            return torch.cat(tensors, axis).index_select(axis, order)

        paths = [part.path for part in parts if part.path is not None]
        path = gather(paths, 2) if len(paths) == len(parts) else None
        notes = dict.fromkeys(part.note for part in parts if part.note)
        return Result(
            gather([part.phi for part in parts], 1),
            gather([part.theta for part in parts], 1),
            gather([part.k_hat for part in parts], 0),
            gather([part.effective_size for part in parts], 0),
            gather([part.k_hat_theta for part in parts], 0),
            path,
            "; ".join(notes),
        )

    def tasks(self, at: Tensor) -> Result:
        """The result of some of the tasks, without their paths."""
        return Result(
            self.phi[:, at],
            self.theta[:, at],
            self.k_hat[at],
            self.effective_size[at],
            self.k_hat_theta[at],
            note=self.note,
        )


@dataclass(frozen=True)
class Problem:
    """Tasks to adapt to, each on its own.

    Attributes:
        posterior: The fitted population.
        pick: Which of its draws of φ to use (S,).
        known: All observations known of each task (T,).
        before: Those of them that the fit has seen; none for new tasks.
        seed: Seeds everything random.
        progress: Whether to show what takes long.
    """

    posterior: Posterior
    pick: Tensor
    known: Tasks
    before: Tasks
    seed: int
    progress: bool = False

    @cached_property
    def phi(self) -> Tensor:
        """Coordinates of the draws of φ (S, q)."""
        return self.posterior.phi_coordinates[self.pick]

    @property
    def evidence(self) -> Collapsed | Joint:
        """What the fit did about θ."""
        return self.posterior.collapsed

    @cached_property
    def program(self) -> Program:
        """The hierarchy's functions in centred coordinates of θ."""
        return self.posterior.collapsed.program.with_centring(True)

    @cached_property
    def seen(self) -> Tensor:
        """Which tasks the fit has seen something of (T,)."""
        return self.before.sizes > 0

    @cached_property
    def unchanged(self) -> Tensor:
        """Which tasks have nothing new (T,): φ is as the fit left it."""
        return self.before.sizes == self.known.sizes

    @property
    def affordable(self) -> int:
        """How many draws to use where each costs work of its own: 1,000, fewer where φ and θ are long."""
        structure = self.program.structure
        return min(MOST_DRAWS, max(FEWEST_DRAWS, NUMBERS // (structure.theta.size + structure.phi.size)))

    def at(self, positions: Tensor) -> Problem:
        """The same of the tasks at these positions."""
        some = positions.tolist()
        return replace(self, known=self.known[some], before=self.before[some])

    def thinned(self, most: int) -> Problem:
        """The same with so many draws of φ at most, evenly spaced."""
        if len(self.pick) <= most:
            return self
        return replace(self, pick=self.pick[torch.linspace(0, len(self.pick) - 1, most).round().long()])


def in_pieces(problem: Problem, numbers: int, run: Callable[[Problem], Result]) -> Result:
    """`run` on so many tasks at a time that memory stays bounded, each task and draw needing so many numbers."""
    count = max(1, PIECE_NUMBERS // max(1, numbers * len(problem.pick)))
    everything = torch.arange(len(problem.known))
    if count >= len(everything):
        return run(problem)
    parts = [run(replace(problem.at(part), seed=problem.seed + int(part[0]))) for part in everything.split(count)]
    return Result.joined(parts, everything)


def distinct(phi: Tensor) -> tuple[Tensor, Tensor]:
    """The different ones among draws of φ (S, q), and which of them each draw is (S,).

    What is resampled, and the members of an ensemble, come many times: what depends on φ alone is done once for each.
    """
    found, place = torch.unique(phi, dim=0, return_inverse=True)
    return (found, place) if len(found) < len(phi) else (phi, torch.arange(len(phi)))


class Weighed(NamedTuple):
    """Which draw of φ each row of each task takes (S, T), k-hat (T,) and effective size (T,) of the weights."""

    pick: Tensor
    k_hat: Tensor
    effective_size: Tensor


def weigh(log_weights: Tensor, problem: Problem) -> Weighed:
    """Smooth and resample weights of φ (S, T); where nothing is new about a task all draws stay as they are.

    Raises:
        DataError: The observations of a task are impossible under every draw of φ.
        NotAvailableError: Their evidence is not a number under any.

    Warns:
        BayesmetaWarning: It is not a number under more than a hundredth of the draws, which are left out.
    """
    log_weights = torch.where(problem.unchanged, 0.0, log_weights)
    _say_failed(torch.isnan(log_weights).double().mean(0), problem)
    log_weights = torch.where(torch.isfinite(log_weights), log_weights, -torch.inf)
    impossible = torch.nonzero(torch.isneginf(log_weights).all(0)).squeeze(-1)
    if len(impossible):
        raise DataError(
            f"the observations of task {problem.known.names[int(impossible[0])]!r} have density zero under every draw "
            "of φ: look for values outside of what the task can observe (counts above their maximum, negative ones)"
        )
    smoothed, k_hat = psis(log_weights)
    pick = resample(smoothed, problem.seed)
    pick[:, problem.unchanged] = torch.arange(len(log_weights)).unsqueeze(-1)
    return Weighed(pick, k_hat, effective_size(smoothed))


def _say_failed(share: Tensor, problem: Problem) -> None:
    """Where log Z could not be evaluated at a share (T,) of the draws of φ."""
    worst = int(share.argmax())
    name = problem.known.names[worst]
    if float(share[worst]) == 1:
        raise NotAvailableError(
            f"the evidence of task {name!r} is not a number under any draw of φ: what evaluates it failed; look at its "
            "observations, or take another method"
        )
    if float(share[worst]) > FAILED:
        warnings.warn(
            f"the evidence of task {name!r} is not a number at {float(share[worst]):.0%} of the draws of φ, which are "
            "left out: its draws are those of the others alone",
            BayesmetaWarning,
            stacklevel=2,
        )
