"""Stochastic variational inference: the best q(u) of a family, on Pyro's guides, by gradients of the ELBO.

Where θ is integrated out the guide is over φ alone, a handful of dimensions. Otherwise it is structured: q(φ), and
for each task a normal q(θ_t | φ) whose mean follows φ; with `amortised` a network gives it from the rows of the
task. Tasks come in minibatches where `batch_size` says so. What is learnt is then weighed: importance weights
p(u, D)/q(u) of the draws, smoothed, correct them where their k-hat says that they can, and k-hat says whether the
guide can be trusted where they cannot (Yao, Vehtari, Simpson, Gelman 2018, "Yes, but did it work?").

| guide | what it is |
|---|---|
| `meanfield` | independent normals: scales are those given all else, too small where φ is correlated |
| `fullrank` | a multivariate normal |
| `lowrank` | a multivariate normal, diagonal plus a few directions: for many φ |
| `flow` | a normal bent by splines and autoregressive networks: skewed and curved posteriors |
| `map` | a point, the mode of p(φ | D): empirical Bayes; θ is still drawn given φ |
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyro
import torch
from torch import nn

from bayesmeta.draws import Draws
from bayesmeta.errors import BayesmetaWarning, OptionError, unknown
from bayesmeta.evidence import METHODS
from bayesmeta.infer.options import check_whole
from bayesmeta.infer.svi_amortised import LocalAmortised
from bayesmeta.infer.svi_draws import drawn
from bayesmeta.infer.svi_fit import Fitted, fit_guides, starting_point
from bayesmeta.infer.svi_guides import GUIDES
from bayesmeta.infer.svi_train import SCHEDULES, Trained, slope, smoothed
from bayesmeta.sites import quiet_pyro
from bayesmeta.target import Target
from bayesmeta.threads import one_thread
from bayesmeta.track import stage

__all__ = ["SVI", "run"]


@dataclass(frozen=True)
class SVI:
    """Settings of stochastic variational inference.

    Args:
        guide: ``"meanfield"``, ``"fullrank"``, ``"lowrank"``, ``"flow"`` or ``"map"``.
        evidence: What to do about θ, one of `bayesmeta.evidence.METHODS`.
        steps: Gradient steps at most.
        learning_rate: Of Adam, at the start, in posterior standard deviations of φ; networks take a tenth.
        schedule: How it goes down: ``"cosine"``, ``"exponential"`` or ``"constant"``.
        particles: Draws from the guide per step.
        restarts: Runs from other random starts; that of highest ELBO counts.
        tolerance: Training ends early once the smoothed ELBO rises by less than this share of its noise; 0: never.
        patience: Steps that the ELBO is smoothed over, and in which training then comes to its end.
        clip: Longest gradient.
        batch_size: Tasks per step; None for all of them.
        draws: Draws that come out.
        importance: Correct the draws by their importance weights where k-hat is below .7.
        rank: Directions of the low-rank guide; by default the root of the number of φ.
        amortised: Whether a network gives q(θ | φ) from the rows of a task; None: from 20,000 tasks on. It plays no
            part where θ is integrated out.
        compile: Compile the density: worth it for thousands of steps over all tasks only.
    """

    guide: Literal["meanfield", "fullrank", "lowrank", "flow", "map"] = "fullrank"
    evidence: Literal["auto", "exact", "quadrature", "laplace", "joint"] = "auto"
    steps: int = 2000
    learning_rate: float = 0.05
    schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    particles: int = 16
    restarts: int = 1
    tolerance: float = 0.01
    patience: int = 100
    clip: float = 100.0
    batch_size: int | None = None
    draws: int = 4000
    importance: bool = True
    rank: int | None = None
    amortised: bool | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "particles", "restarts", "patience", "draws"):
            check_whole(name, getattr(self, name), 1)
        for name in ("batch_size", "rank"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), 1)
        for name in ("learning_rate", "clip"):
            _check_number(name, getattr(self, name), above=True)
        _check_number("tolerance", self.tolerance, above=False)
        for name, valid in (("guide", GUIDES), ("evidence", METHODS), ("schedule", tuple(SCHEDULES))):
            if getattr(self, name) not in valid:
                raise OptionError(unknown(name, getattr(self, name), valid))
        for name in ("importance", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.amortised not in (None, True, False):
            raise OptionError(f"amortised must be True, False or None, got {self.amortised!r}")
        if self.rank is not None and self.guide != "lowrank":
            raise OptionError(f"rank is for guide='lowrank'; got rank={self.rank} with guide={self.guide!r}")


def _check_number(name: str, value: object, *, above: bool) -> None:
    fine = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not fine or value < 0 or (above and value == 0):  # type: ignore[operator]
        wanted = "a number above 0" if above else "a number of at least 0"
        raise OptionError(f"{name} must be {wanted}, got {value!r}")


def run(target: Target, config: SVI, *, seed: int = 0, progress: bool = True) -> Draws:
    """Fit a guide to a target and draw from it.

    Returns:
        Draws (1, draws, dim); fewer where θ of all tasks would not fit into memory. `curves` has ``elbo`` by step,
        ``elbo_smooth`` and ``elbo_slope`` in nats per step.

    Raises:
        BayesmetaError: No starting point of finite density, or the ELBO was finite at no step.
        OptionError: An option that does not fit the target.
    """
    begin = time.perf_counter()
    _check_target(target, config)
    with one_thread(), _own_pyro(seed):
        if config.guide == "map" and not target.is_joint:
            return _mode_only(target, config, seed, progress, begin)
        fits = fit_guides(target, config, seed, progress)
        best = max(fits, key=lambda fit: fit.elbo)
        with stage("drawing from the guide", progress):
            result = drawn(target, best.start, best.guide, best.local, config.draws, config.importance, seed)
    curves = _curves(best.trained, config.patience)
    interrupted = any(fit.trained.interrupted for fit in fits)
    if interrupted:
        warnings.warn(
            f"variational inference was interrupted after {len(best.trained.elbo)} of {config.steps} steps: the draws "
            "are from the guide as it was then",
            BayesmetaWarning,
            stacklevel=3,
        )
    return Draws(
        result.u.unsqueeze(0),
        interrupted=interrupted,
        seconds=time.perf_counter() - begin,
        k_hat=result.k_hat,
        effective_size=result.effective_size,
        curves=curves,
        log=(*_sentences(target, config, fits, best), *result.log),
        evaluations=sum(fit.evaluations for fit in fits),
        density="compiled" if config.compile else "vectorised",
    )


def _check_target(target: Target, config: SVI) -> None:
    count = len(target.evidence.tasks)
    if config.batch_size is not None and config.batch_size > count:
        raise OptionError(f"batch_size is {config.batch_size}, and there are {count} tasks: leave it out to take all")
    if config.rank is not None and config.rank > target.q:
        raise OptionError(f"rank is {config.rank}, and φ has {target.q} coordinates: use rank={target.q} or less")


@contextlib.contextmanager
def _own_pyro(seed: int) -> Iterator[None]:
    """Random numbers, parameters and precision that are nobody else's, in Pyro as in torch."""
    with quiet_pyro(), torch.random.fork_rng(devices=[]), pyro.settings.context(module_local_params=True):
        torch.manual_seed(seed)
        yield


def _mode_only(target: Target, config: SVI, seed: int, progress: bool, begin: float) -> Draws:
    """Empirical Bayes: φ at its mode, in all draws."""
    with stage("climbing to the mode of φ", progress):
        start = starting_point(target, config, seed)
    sentence = (
        "φ is a point, the mode of log p(φ | D) over its unconstrained coordinates (empirical Bayes): all draws of φ "
        "are equal, and say nothing of how uncertain it is; θ is drawn given φ"
    )
    return Draws(
        start.centre.expand(1, config.draws, -1).contiguous(),
        seconds=time.perf_counter() - begin,
        log=(sentence,),
        evaluations=start.evaluations,
    )


def _curves(trained: Trained, window: int) -> dict[str, Any]:
    elbo = np.array(trained.elbo)
    return {"elbo": elbo, "elbo_smooth": smoothed(elbo, window), "elbo_slope": slope(elbo, window)}


def _sentences(target: Target, config: SVI, fits: list[Fitted], best: Fitted) -> tuple[str, ...]:
    trained = best.trained
    steps = len(trained.elbo)
    end = f"the ELBO rose no longer from step {trained.stopped} on" if trained.stopped else "the steps were used up"
    tasks = "all tasks" if config.batch_size is None else f"{config.batch_size} of {len(target.evidence.tasks)} tasks"
    over = f"φ and the θ of each task ({_kind(best.local)})" if target.is_joint else "φ, with θ integrated out"
    first = f"{config.guide} guide over {over}: {steps} steps over {tasks}; {end}"
    ending = f"ELBO {best.elbo:,.2f} (standard error {best.error:.2f}) nats"
    if len(fits) > 1:
        ending += ", the best of " + ", ".join(f"{fit.elbo:,.2f}" for fit in fits)
    failed = f"{trained.failed} steps had no finite gradient and were left out"
    return (first, ending, failed) if trained.failed else (first, ending)


def _kind(local: nn.Module | None) -> str:
    return "amortised" if isinstance(local, LocalAmortised) else "a normal given φ"
