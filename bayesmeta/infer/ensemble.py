"""Ensembles: several point estimates of φ trained side by side, for φ of thousands of dimensions such as networks.

Each member starts from its own draw of the prior and climbs

    log p(φ) + Σ_t log Z_t(φ)

by stochastic gradients over batches of tasks; θ is integrated out exactly as elsewhere. All members are one tensor:
five cost little more than one. What members agree about the tasks have determined, where they differ they have not
(Lakshminarayanan, Pritzel, Blundell 2017, "Simple and scalable predictive uncertainty estimation using deep
ensembles"). They are no draws from p(φ | D): their spread comes from where they started. With `repulsion` they push
each other apart as Stein variational gradient descent has it, and come closer to draws where φ is of few dimensions.
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bayesmeta.draws import Draws
from bayesmeta.errors import BayesmetaWarning, OptionError, unknown
from bayesmeta.evidence import METHODS, Collapsed, Joint
from bayesmeta.evidence.conditional import log_evidence
from bayesmeta.fingerprint import fingerprint
from bayesmeta.infer import ensemble_checkpoint
from bayesmeta.infer.ensemble_density import MembersDensity
from bayesmeta.infer.ensemble_feed import Feed, FromStream, FromTasks, held_out
from bayesmeta.infer.ensemble_start import prior_draws, scales, starts
from bayesmeta.infer.ensemble_train import History, State, Trainer, evidence_words, first_state, rate_at
from bayesmeta.infer.options import check_number, check_whole
from bayesmeta.infer.svi_train import SCHEDULES
from bayesmeta.streams import Stream
from bayesmeta.target import Target
from bayesmeta.threads import one_thread
from bayesmeta.track import bar, steps_to

__all__ = ["Ensemble", "run"]

RECORDED_FROM = 400  # steps


@dataclass(frozen=True)
class Ensemble:
    """Settings of an ensemble.

    Args:
        members: Point estimates trained side by side; 1 for a single one.
        evidence: What to do about θ, one of `bayesmeta.evidence.METHODS` but ``"joint"``.
        steps: Gradient steps at most.
        batch_size: Tasks per step; all of them where there are fewer. A stream brings its own batches.
        learning_rate: Of Adam at its highest, in prior standard deviations of φ.
        schedule: How it goes down: ``"cosine"``, ``"exponential"`` or ``"constant"``.
        warmup: Share of the steps over which it rises.
        clip: Longest gradient of a member, in nats per task and prior standard deviation.
        repulsion: Members push each other apart (Stein variational gradient descent).
        validation: Share of the tasks that is left out of training and watched; a stream brings its own.
        every: Steps between two looks at them, and between two checkpoints.
        patience: Looks without a gain after which training ends; each member then is as it was at its best.
        checkpoint: A file to go on from where it exists, and to write to; None for none.
        compile: Compile the density: worth it from some ten thousand steps on.
    """

    members: int = 5
    evidence: Literal["auto", "exact", "quadrature", "laplace", "joint"] = "auto"
    steps: int = 3000
    batch_size: int = 64
    learning_rate: float = 0.05
    schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    warmup: float = 0.02
    clip: float = 10.0
    repulsion: bool = False
    validation: float = 0.0
    every: int = 100
    patience: int = 10
    checkpoint: str | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("members", "steps", "batch_size", "every", "patience"):
            check_whole(name, getattr(self, name), 1)
        for name, most, closed in (
            ("learning_rate", math.inf, False),
            ("clip", math.inf, False),
            ("warmup", 1.0, True),
            ("validation", 1.0, True),
        ):
            check_number(name, getattr(self, name), most, zero=closed)
        for name, valid in (("evidence", METHODS), ("schedule", tuple(SCHEDULES))):
            if getattr(self, name) not in valid:
                raise OptionError(unknown(name, getattr(self, name), valid))
        for name in ("repulsion", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if not isinstance(self.checkpoint, str | None):
            raise OptionError(f"checkpoint must be the path of a file as text, or None, got {self.checkpoint!r}")


def run(
    target: Target, config: Ensemble, *, seed: int = 0, progress: bool = True, stream: Stream | None = None
) -> Draws:
    """Train an ensemble on a target's tasks, or on a stream that these are the first batch of.

    Returns:
        Draws (1, members, q). `curves` has ``evidence`` (steps, members), the mean log Z of each batch in nats per
        task, ``validation`` (looks, members) with the steps ``looks``, and ``learning_rate`` by step.

    Raises:
        OptionError: θ is not integrated out, or the settings do not go with the tasks.
        BayesmetaError: No starting point of finite evidence was found for some member.
        FileFormatError: The checkpoint is of another run.
    """
    begin = time.perf_counter()
    evidence = _collapsed(target)
    feed, look = _feed(evidence, config, stream, seed)
    density = MembersDensity(feed.total, compile=config.compile, record=config.steps >= RECORDED_FROM)
    path = None if config.checkpoint is None else Path(config.checkpoint)
    with one_thread(), bar("log Z", config.steps, progress) as step:
        belongs = {} if path is None else _belongs(target, config, stream, seed)
        draws = prior_draws(target.program, config.members, seed)
        found = None if path is None else ensemble_checkpoint.read(path, belongs)
        if found is None:
            found = first_state(starts(density, feed.part(0), draws, config.members)), History()
        state, history = found
        taken = state.step

        def keep(state: State, history: History) -> None:
            if path is not None:
                ensemble_checkpoint.write(path, state, history, belongs)

        trainer = Trainer(config, density, feed, scales(draws), look, keep, steps_to(step), evidence_words)
        state = trainer.run(state, history)
        keep(state, history)
        members = trainer.settled(state)
    if history.interrupted:
        _warn_interrupted(state, config)
    return Draws(
        members.unsqueeze(0),
        interrupted=history.interrupted,
        seconds=time.perf_counter() - begin,
        effective_size=float(config.members),
        curves=_curves(history, config),
        log=_sentences(config, feed, state, history, taken, over=trainer.over(state)),
        evaluations=(state.step - taken) * config.members,
        density=density.mode,
        members=config.members,
        unwatched=int(evidence.tasks.sizes.sum()) if stream is None and look is None else None,
    )


def _collapsed(target: Target) -> Collapsed:
    evidence = target.evidence
    if isinstance(evidence, Joint):
        raise OptionError(
            "an ensemble is of φ alone, and θ of this hierarchy is not integrated out: use evidence='laplace', or "
            "inference='svi-meanfield' over φ and θ together"
        )
    return evidence


def _feed(
    evidence: Collapsed, config: Ensemble, stream: Stream | None, seed: int
) -> tuple[Feed, Callable[[Tensor], Tensor] | None]:
    """Where batches come from, and what gives the evidence of the tasks that are watched, if any are."""
    if stream is not None:
        if config.validation:
            raise OptionError(
                f"validation is {config.validation:g}, a share of tasks that are held; a stream has none: give it "
                "some, Stream(..., validation=tasks)"
            )
        return FromStream(evidence, stream, config.steps, seed), _watched(evidence, stream.validation)
    count = len(evidence.tasks)
    if config.validation and count < 2:
        raise OptionError("validation needs two tasks at least, one of them to train on: leave it out")
    trained, watched = held_out(count, config.validation, seed)
    return (
        FromTasks(evidence, trained, config.batch_size, seed),
        _watched(evidence, evidence.tasks[watched] if len(watched) else None),
    )


def _watched(evidence: Collapsed, tasks: Any) -> Callable[[Tensor], Tensor] | None:
    """Gives the mean log Z of tasks (M,) at u (M, q)."""
    if tasks is None:
        return None
    watched = evidence.on(tasks)
    return lambda u: log_evidence(watched, u).mean(1)


def _belongs(target: Target, config: Ensemble, stream: Stream | None, seed: int) -> dict[str, Any]:
    """What a checkpoint of this run belongs to: with more steps, or compiled, it is still the same run."""
    settings = dataclasses.asdict(config) | {"seed": seed}
    for name in ("steps", "checkpoint", "compile"):
        del settings[name]
    if stream is not None:
        settings["stream"] = stream.beside
    tasks = target.evidence.tasks
    return {"settings": settings, "tasks": tasks.fingerprint(), "hierarchy": fingerprint(target.program, tasks)}


def _warn_interrupted(state: State, config: Ensemble) -> None:
    warnings.warn(
        f"training was interrupted after {state.step:,} of {config.steps:,} steps: members are as they were then, or "
        "at their best until then where tasks are watched",
        BayesmetaWarning,
        stacklevel=4,
    )


def _curves(history: History, config: Ensemble) -> dict[str, Any]:
    def stacked(values: list[Tensor]) -> Any:
        return torch.stack(values).numpy() if values else np.zeros((0, config.members))

    curves = {
        "evidence": stacked(history.evidence),
        "learning_rate": np.array([rate_at(config, step) for step in range(len(history.evidence))]),
    }
    if history.validation:
        curves |= {"validation": stacked(history.validation), "looks": np.array(history.looks)}
    return curves


def _sentences(
    config: Ensemble, feed: Feed, state: State, history: History, taken: int, *, over: bool
) -> tuple[str, ...]:
    members = "a single point" if config.members == 1 else f"{config.members} members"
    kind = ", pushing each other apart" if config.repulsion and config.members > 1 else ""
    said = [f"{members} from draws of p(φ){kind}: {state.step:,} steps over {feed.described}"]
    if taken:
        said.append(f"went on from step {taken:,} of {config.checkpoint}")
    if history.evidence:
        recent = torch.stack(history.evidence[-max(1, len(history.evidence) // 10) :]).nanmean(0)
        said.append(f"log Z in the last tenth of the steps: {_range(recent)} nats per task")
        failed = int((~torch.isfinite(torch.stack(history.evidence))).any(1).sum())
        if failed:
            said.append(f"{failed:,} steps led a member to where the evidence is not finite, and it went back")
    if history.validation:
        end = "it rose no longer, and training ended" if over else "the steps were used up before it stopped rising"
        said.append(f"log Z of validation tasks at best: {_range(state.score)} nats per task; {end}")
    return tuple(said)


def _range(values: Tensor) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:.4g}" if f"{low:.4g}" == f"{high:.4g}" else f"{low:.4g} to {high:.4g}"
