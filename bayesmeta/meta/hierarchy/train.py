"""Training a point φ of a hierarchy: Adam down the meta-objective, by the loop that trains ensembles.

Steps are taken in prior standard deviations of φ, from the best of some draws of p(φ). Coordinates that the objective
does not depend on stay where they are; that they are such is seen at a few points.

Not all that it finds is kept. A noise that comes out of it is the error left after a few steps, not that of the
observations given θ: with a wide prior of θ beside it, it would be counted twice. So scales (φ that are not any real
number) which are no part of the initialisation are free again in the end.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesmeta.errors import BayesmetaError
from bayesmeta.fingerprint import fingerprint
from bayesmeta.infer import ensemble_checkpoint
from bayesmeta.infer.ensemble_start import prior_draws, scales
from bayesmeta.infer.ensemble_train import History, State, Trainer, first_state
from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.hierarchy.beginning import Beginning
from bayesmeta.meta.hierarchy.feed import Feed, Shuffled
from bayesmeta.meta.hierarchy.objective import Climb, Objective
from bayesmeta.meta.reptile import Reptile
from bayesmeta.meta.training.loop import plan_of, words_of
from bayesmeta.streams import Stream
from bayesmeta.target import Target
from bayesmeta.track import bar, steps_to

__all__ = ["Training", "curves"]

STARTS = 16  # draws from p(φ), of which training begins at the best
PROBES = 3  # of them are looked at, to see what the objective depends on
UNSEEN = 1e-7  # slopes, of the largest or of one, per prior standard deviation


class Training:
    """One run: what is climbed, from where, over which tasks.

    Attributes:
        drawn: Draws from p(φ) (S, q).
        seen: Which coordinates of φ the objective depends on (q,).
        free: Which of them are not settled by it (q,).
    """

    def __init__(self, target: Target, config: Algorithm, stream: Stream | None, seed: int) -> None:
        program, tasks = target.program, target.evidence.tasks
        self.config, self.program, self.tasks, self._seed = config, program, tasks, seed
        self.feed, self.watched = Feed.of(
            stream or tasks,
            shots=config.shots,
            size=config.batch_size,
            steps=config.steps,
            validation=config.validation,
            seed=seed,
        )
        first = self.feed.part(0)
        self.objective = Objective(program, Beginning(program, tasks, first.rows), config, self.feed.total)
        self.drawn = prior_draws(program, 1, seed)
        self.starts = _best_starts(self.objective, first, self.drawn)
        self.scale = scales(self.drawn)
        probe = self.feed.probe()
        moving = self._not_flat(_moves(self.objective, probe, self.starts[:PROBES]))
        plain = self.objective.without_prior()
        slopes = torch.func.vmap(lambda u: plain.value_and_grad(u, probe)[1])(self.starts[:PROBES])
        self.seen = moving if isinstance(config, Reptile) else self._not_flat(slopes)
        real = torch.cat([torch.full((site.size,), site.is_real) for site in program.structure.phi])
        self.free = ~self.seen | ~(moving | real)

    def _not_flat(self, slopes: Tensor) -> Tensor:
        """Which coordinates (q,) have a slope (S, q) that is more than rounding, at one point at least."""
        sizes = (slopes.nan_to_num(0.0) * self.scale).abs()
        return (sizes > UNSEEN * sizes.amax(1, keepdim=True).clamp(min=1.0)).any(0)

    def run(self, progress: bool) -> tuple[State, History, str]:
        """The state at the end, settled, what was watched, and what evaluated the objective."""
        config = self.config
        path = None if config.checkpoint is None else Path(config.checkpoint)
        belongs = {} if path is None else self._belongs()
        ascent = Climb(self.objective, config, self.seen)
        with bar("meta-learning", config.steps, progress) as step:
            found = None if path is None else ensemble_checkpoint.read(path, belongs)
            state, history = (first_state(self.starts[:1]), History()) if found is None else found

            def keep(state: State, history: History) -> None:
                if path is not None:
                    ensemble_checkpoint.write(path, state, history, belongs)

            look = None if self.watched is None else self._look
            watch = steps_to(step)
            trainer = Trainer(plan_of(config), ascent, self.feed, self.scale, look, keep, watch, words_of)
            state = trainer.run(state, history)
            keep(state, history)
            settled = dataclasses.replace(state, u=trainer.settled(state))
        return settled, history, ascent.mode

    def _look(self, u: Tensor) -> Tensor:
        watched: Any = self.watched
        return -self.objective.without_prior().value(u[0], watched).unsqueeze(0)

    def _belongs(self) -> dict[str, Any]:
        """What a checkpoint of this run belongs to: with more steps, or compiled, it is still the same run."""
        config = self.config
        settings = dataclasses.asdict(config) | {"seed": self._seed, "algorithm": type(config).__name__}
        for name in ("steps", "checkpoint", "compile", "loss"):
            del settings[name]
        if isinstance(self.feed.tasks, Stream):
            settings["stream"] = self.feed.tasks.beside
        known = fingerprint(self.program, self.tasks)
        return {"settings": settings, "tasks": self.tasks.fingerprint(), "hierarchy": known}

    def sentences(self, state: State, history: History) -> tuple[str, ...]:
        """How φ was found."""
        config = self.config
        order = " of first order" if getattr(config, "first_order", False) else ""
        steps = f"{config.inner_steps} gradient steps of {config.inner_learning_rate:g}"
        inner = f"{steps} on {config.shots} rows of a task"
        begin = f"{type(config).__name__}{order}: φ is a point, found by the query loss after {inner}"
        said = [f"{begin}; {state.step:,} steps over {self.feed.described}"]
        if history.evidence:
            last = torch.cat(history.evidence[-max(1, len(history.evidence) // 10) :])
            said.append(f"query loss in the last tenth of the steps: {-float(last.nanmean()):.4g} nats per row")
        alone = int((self.tasks.sizes == 1).sum())
        if alone:
            said.append(f"{alone:,} of {len(self.tasks):,} tasks have one row, and no support in training")
        return tuple(said)


def _best_starts(objective: Objective, part: Shuffled, drawn: Tensor) -> Tensor:
    """Draws from p(φ) (S, q) of finite objective, the best first.

    Raises:
        BayesmetaError: There is none.
    """
    some = drawn[:STARTS]
    values = torch.func.vmap(lambda u: objective.value(u, part))(some)
    fine = torch.isfinite(values)
    if not bool(fine.any()):
        raise BayesmetaError(
            f"the meta-objective is finite at none of {len(some)} draws from the prior: the inner loop runs away; take "
            "a smaller inner_learning_rate or fewer inner_steps, or look at the sizes of inputs and responses"
        )
    return some[torch.where(fine, values, torch.inf).argsort()[: int(fine.sum())]]


def _moves(objective: Objective, part: Shuffled, points: Tensor) -> Tensor:
    """Slopes in φ of a random sum of the elements of the initialisation, at some points (S, q)."""
    shape = objective.beginning(points[0], part).shape
    weight = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slope = torch.func.grad(lambda u: (weight * objective.beginning(u, part)).sum())
    slopes: Tensor = torch.func.vmap(slope)(points)
    return slopes


def curves(history: History) -> dict[str, Any]:
    """``loss`` by step, and ``validation`` at the steps ``looks`` where tasks were watched."""

    def stacked(values: list[Tensor]) -> Any:
        return -torch.cat(values).numpy() if values else np.zeros(0)

    curves = {"loss": stacked(history.evidence)}
    if history.validation:
        curves |= {"validation": stacked(history.validation), "looks": np.array(history.looks)}
    return curves
