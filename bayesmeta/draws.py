"""Draws: what every back-end returns, whatever it did to get there, and the record of how it was done."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

__all__ = ["Draws", "Info", "versions"]

Stats = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Draws:
    """Equally weighted draws of a density over unconstrained coordinates.

    Attributes:
        u: Coordinates (chains, draws, dim), float64.
        stats: Per draw (chains, draws): ``diverging``, ``lp``, ``energy``, ``tree_depth``, ``n_steps``,
            ``step_size``, ``acceptance_rate``, where the back-end has them.
        warmup_stats: The same of the warm-up.
        interrupted: Whether sampling was stopped before all draws were taken.
        seconds: Seconds spent drawing, warm-up included.
        k_hat: Pareto k-hat of the importance weights, where draws were weighted and resampled.
        effective_size: Kish's effective number of weighted draws, where draws were weighted and resampled.
        curves: What was watched while it went on, e.g. ``elbo`` per step.
        log: What was done and why, a sentence each.
        evaluations: Gradients taken besides those of `stats`.
        density: What evaluated the density: ``"compiled"``, ``"traced"``, ``"eager"`` or ``"vectorised"``.
        compile_seconds: Seconds spent recording and compiling the density, before `seconds`.
        members: How many point estimates they are, where they are no draws but an ensemble.
        unwatched: How many observations training went over again and again, where no task was held out of them.
        point: What kind of point φ is, in a sentence, where all draws of it are the same.
    """

    u: Tensor
    stats: Stats = field(default_factory=dict)
    warmup_stats: Stats = field(default_factory=dict)
    interrupted: bool = False
    seconds: float = 0.0
    k_hat: float | None = None
    effective_size: float | None = None
    curves: Stats = field(default_factory=dict)
    log: tuple[str, ...] = ()
    evaluations: int = 0
    density: str = "vectorised"
    compile_seconds: float = 0.0
    members: int | None = None
    unwatched: int | None = None
    point: str = ""

    @property
    def gradients(self) -> int:
        """Gradient evaluations in all, warm-up included."""
        steps = (np.nansum(stats["n_steps"]) for stats in (self.stats, self.warmup_stats) if "n_steps" in stats)
        return self.evaluations + int(sum(steps))

    @property
    def divergences(self) -> int:
        """Divergent transitions after warm-up."""
        return int(np.sum(self.stats.get("diverging", np.zeros(0))))


@dataclass(frozen=True)
class Info:
    """How a posterior came about.

    Attributes:
        evidence: ``"exact"`` or ``"joint"``: what was done about θ.
        road: The same in a sentence.
        gram: Whether tasks were reduced to Gram matrices.
        inference: The settings of the back-end, with its name under ``back_end``.
        seconds: Seconds by part: ``setup``, ``compile``, ``sample``, ``total``.
        density: ``"compiled"``, ``"traced"`` or ``"eager"``.
        gradients: Gradient evaluations, warm-up included.
        divergences: Divergent transitions after warm-up.
        interrupted: Whether the run was stopped early.
        seed: The seed.
        versions: Versions of the packages that took part.
        k_hat: Pareto k-hat of the importance weights, where there were any.
        effective_size: Effective number of weighted draws, where there were any.
        log: What was done and why, a sentence each.
        verdict: Whether the draws can be trusted: ``level`` and ``findings``, as plain data.
        evidence_error: How far log Z may be off, where it is approximated, by what was measured.
    """

    evidence: str
    road: str
    gram: bool
    inference: Mapping[str, Any]
    seconds: Mapping[str, float]
    density: str
    gradients: int
    divergences: int
    interrupted: bool
    seed: int
    versions: Mapping[str, str]
    k_hat: float | None = None
    effective_size: float | None = None
    log: tuple[str, ...] = ()
    verdict: Mapping[str, Any] = field(default_factory=dict)
    evidence_error: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {value:.2f} s" for name, value in self.seconds.items())
        settings = ", ".join(f"{key}={value!r}" for key, value in self.inference.items() if key != "back_end")
        lines = [
            f"evidence     {self.road}",
            f"inference    {self.inference.get('back_end')}({settings})",
            f"density      {self.density}",
            f"time         {parts}",
            f"gradients    {self.gradients:,}",
            f"divergences  {self.divergences}" + ("   (interrupted)" if self.interrupted else ""),
            *(f"{'approach' if k == 0 else '':13}{line}" for k, line in enumerate(self.log)),
            f"seed         {self.seed}",
            "versions     " + ", ".join(f"{name} {value}" for name, value in self.versions.items()),
        ]
        return "\n".join(lines)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages a posterior depends on."""
    found = {"python": platform.python_version()}
    for name in ("bayesmeta", "torch", "pyro-ppl", "nutpie", "arviz"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
