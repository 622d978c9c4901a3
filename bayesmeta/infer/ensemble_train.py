"""Training an ensemble: steps of Adam for all members at once, until the steps are used up or nothing is gained.

Steps are taken in prior standard deviations of φ, so that a learning rate means the same for the weights of a
network, an intercept of 250 and a scale of .02; the log posterior is counted in nats per task, so that it means the
same for ten tasks and for a million. The state is replaced as a whole after each step: an interruption, wherever it
comes, leaves a state that training can go on from. A member that steps to where the evidence or its gradient is not
finite goes back to where it was, without its momentum.

Adam: Kingma, Ba 2015. The learning rate rises over a warm-up and goes down a schedule.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from bayesmeta.infer.ensemble_repulsion import repelled
from bayesmeta.infer.svi_train import SCHEDULES

if TYPE_CHECKING:
    from bayesmeta.infer.ensemble import Ensemble

__all__ = ["Batches", "History", "State", "Trainer", "evidence_words", "first_state", "rate_at"]

BETAS = (0.9, 0.99)
EPS = 1e-8
WATCHED = 20  # steps between two words of the progress bar
RECENT = 50  # steps that these words are averaged over


@dataclass(frozen=True)
class State:
    """Everything that the next step depends on, besides settings and seed.

    Attributes:
        u: Coordinates of φ of all members (M, q).
        safe: The last ones at which evidence and gradient were finite (M, q).
        first, second: Adam's moments (M, q).
        step: Steps taken.
        best: Coordinates at the best validation evidence so far (M, q).
        score: That evidence (M,), in nats per task; -inf before the first look.
        idle: Looks in a row at which no member gained.
    """

    u: Tensor
    safe: Tensor
    first: Tensor
    second: Tensor
    step: int
    best: Tensor
    score: Tensor
    idle: int


@dataclass
class History:
    """What was watched.

    Attributes:
        evidence: Mean log Z of each batch under each member, in nats per task, by step, (M,) each.
        validation: The same of the validation tasks, by look.
        looks: The steps at which they were looked at.
        interrupted: Whether Ctrl-C ended it.
    """

    evidence: list[Tensor] = field(default_factory=list)
    validation: list[Tensor] = field(default_factory=list)
    looks: list[int] = field(default_factory=list)
    interrupted: bool = False

    def until(self, step: int) -> None:
        """Forget what came after a step."""
        del self.evidence[step:]
        kept = sum(look <= step for look in self.looks)
        del self.looks[kept:], self.validation[kept:]


def first_state(u: Tensor) -> State:
    """The state before the first step, with members at u (M, q)."""
    zero = torch.zeros_like(u)
    return State(u, u, zero, zero, 0, u, torch.full((len(u),), -math.inf, dtype=u.dtype), 0)


def rate_at(config: Ensemble, step: int) -> float:
    """The learning rate of a step, from 0."""
    warmup = config.warmup * config.steps
    rising = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return config.learning_rate * rising * SCHEDULES[config.schedule](step / config.steps)


class Batches(Protocol):
    """What a step is taken on, by its number.

    Attributes:
        total: The number of tasks in all.
    """

    total: int

    def part(self, step: int) -> Any:
        """What the density of a step is asked about."""


@dataclass
class Trainer:
    """One run of training.

    Attributes:
        config: The settings.
        density: What is climbed: its value (M,) and gradient (M, q) at u (M, q) on a batch.
        feed: The batches.
        scale: Prior standard deviations of the coordinates of φ (q,).
        look: Gives the validation evidence (M,) at u (M, q); None where nothing is watched.
        keep: Called with a state and the history now and then, to write a checkpoint.
        watch: Called with the steps done and a few words.
        words: Makes these of the history.
    """

    config: Ensemble
    density: Callable[[Tensor, Any], tuple[Tensor, Tensor]]
    feed: Batches
    scale: Tensor
    look: Callable[[Tensor], Tensor] | None
    keep: Callable[[State, History], None]
    watch: Callable[[int, str], object]
    words: Callable[[History], str]

    def run(self, state: State, history: History) -> State:
        """Train from a state on, which is returned as it was last; the history is written to."""
        config = self.config
        with _until_interrupted(history):
            while state.step < config.steps and not self.over(state):
                evidence, grad = self.density(state.u, self.feed.part(state.step))
                moved = self.advanced(state, torch.where(torch.isfinite(evidence).unsqueeze(1), grad, torch.nan))
                history.evidence.append(evidence)
                if moved.step % config.every == 0 or moved.step == config.steps:
                    moved = self._looked(moved, history)
                state = moved
                if state.step % config.every == 0:
                    self.keep(state, history)
                if state.step % WATCHED == 0:
                    self.watch(state.step, self.words(history))
        history.until(state.step)
        return state

    def over(self, state: State) -> bool:
        """Whether validation says that training has come to its end."""
        return self.look is not None and state.idle >= self.config.patience

    def advanced(self, state: State, grad: Tensor) -> State:
        """The state one step on, given gradients (M, q) of the log posterior per task, some perhaps not finite."""
        ascent = grad * self.scale
        if self.config.repulsion:
            ascent = repelled(state.u / self.scale, ascent, 1 / self.feed.total)
        norm = ascent.norm(dim=1, keepdim=True)
        usable = torch.isfinite(norm)
        ascent = torch.where(usable, ascent * (self.config.clip / norm).clamp(max=1.0), 0.0)
        count = state.step + 1
        first = torch.where(usable, torch.lerp(ascent, state.first, BETAS[0]), 0.0)
        second = torch.where(usable, torch.lerp(ascent.square(), state.second, BETAS[1]), state.second)
        mean, square = first / (1 - BETAS[0] ** count), second / (1 - BETAS[1] ** count)
        step = rate_at(self.config, state.step) * mean / (square.sqrt() + EPS)
        u = torch.where(usable, state.u + self.scale * step, state.safe)
        safe = torch.where(usable, state.u, state.safe)
        return replace(state, u=u, safe=safe, first=first, second=second, step=count)

    def settled(self, state: State) -> Tensor:
        """The members (M, q): at their best on what was watched, else where their evidence was finite last."""
        evidence, _ = self.density(state.u, self.feed.part(max(0, state.step - 1)))
        u = torch.where(torch.isfinite(evidence).unsqueeze(1), state.u, state.safe)
        return torch.where(torch.isfinite(state.score).unsqueeze(1), state.best, u)

    def _looked(self, state: State, history: History) -> State:
        """The state after a look at the validation tasks."""
        if self.look is None:
            return state
        score = self.look(state.u)
        history.validation.append(score)
        history.looks.append(state.step)
        compared = score.mean().expand_as(score) if self.config.repulsion else score  # particles belong together
        better = compared > state.score
        best = torch.where(better.unsqueeze(-1), state.u, state.best)
        idle = 0 if bool(better.any()) else state.idle + 1
        reached = torch.where(better, compared, state.score)
        return replace(state, best=best, score=reached, idle=idle)


def evidence_words(history: History) -> str:
    """Where training stands."""
    recent = torch.stack(history.evidence[-RECENT:]).nanmean()
    words = f"log Z per task {float(recent):.4g}"
    return f"{words}, validation {float(history.validation[-1].mean()):.4g}" if history.validation else words


@contextlib.contextmanager
def _until_interrupted(history: History) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        history.interrupted = True
