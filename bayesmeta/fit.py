"""The front door: `fit(hierarchy, tasks, inference)` learns the population, `load` opens a saved posterior."""

from __future__ import annotations

import dataclasses
import time
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesmeta.density import Density
from bayesmeta.draws import Draws, Info, versions
from bayesmeta.errors import DataError, OptionError
from bayesmeta.evidence import Collapsed, Joint, choose
from bayesmeta.hierarchy import Hierarchy
from bayesmeta.infer.nuts import NUTS, sample
from bayesmeta.posterior import Posterior
from bayesmeta.presets import back_end_of, read_preset
from bayesmeta.sites import quiet_pyro
from bayesmeta.tasks import Tasks
from bayesmeta.track import stage

__all__ = ["fit", "log_density"]


def fit(
    hierarchy: Hierarchy,
    tasks: Tasks,
    inference: str | PathLike[str] | NUTS = "nuts",
    *,
    seed: int = 0,
    progress: bool = True,
) -> Posterior:
    """Infer p(φ | D) from the tasks of a population.

    Args:
        hierarchy: Hyperprior and task.
        tasks: The tasks; each must have observations.
        inference: A preset's name (``"nuts"``, ``"nuts-joint"``, ``"pyro-nuts"``), the path of a preset file, or
            a configured back-end such as ``NUTS(draws=500)``.
        seed: Seeds everything random; the same seed gives the same draws.
        progress: Show a progress bar.

    Returns:
        The posterior, whose `info` tells what was done.

    Raises:
        HierarchyError: The functions do not describe a hierarchy that can be fitted.
        DataError: A task without observations.
        OptionError: An unknown preset or setting.
    """
    config = _configured(inference)
    _check(hierarchy, tasks, seed)
    start = time.perf_counter()
    with stage("looking at the hierarchy", progress):
        program = hierarchy.program(tasks)
        evidence = choose(program, tasks, config.evidence)
    setup = time.perf_counter() - start
    with stage("compiling the density" if config.compile else "tracing the density", progress):
        density = log_density(evidence, compile=config.compile)
    draws = sample(density, config, seed=seed, progress=progress)
    seconds = {
        "setup": setup,
        "compile": density.seconds,
        "sample": draws.seconds,
        "total": time.perf_counter() - start,
    }
    info = _info(config, evidence, density, draws, seed, seconds)
    return Posterior(hierarchy, tasks, evidence, draws, info)


def log_density(evidence: Collapsed | Joint, *, compile: bool = True) -> Density:
    """log p(φ, D), or log p(φ, θ, D) where θ is sampled too, as a density over unconstrained coordinates."""
    program = evidence.program
    leaves, spec = pytree.tree_flatten(evidence.data)
    q, p = program.structure.phi.size, program.structure.theta.size
    count = len(evidence.tasks) if isinstance(evidence, Joint) else 0

    def log_joint(u: Tensor, *leaves: Tensor) -> Tensor:
        phi, data = program.phi(u[:q]), pytree.tree_unflatten(list(leaves), spec)
        if isinstance(evidence, Joint):
            return phi.log_prior + evidence.total(phi, u[q:].reshape(count, p), data)
        return phi.log_prior + evidence.total(phi, data)

    with quiet_pyro():
        return Density(log_joint, q + count * p, leaves, compile=compile, trace=program.structure.vectorised)


def _configured(inference: str | PathLike[str] | NUTS) -> NUTS:
    if isinstance(inference, NUTS):
        return inference
    if isinstance(inference, (str, PathLike)):
        return read_preset(Path(inference) if isinstance(inference, PathLike) else inference)
    raise OptionError(
        f"inference must be a preset's name, the path of a preset, or a back-end such as NUTS(...), "
        f"got {type(inference).__name__}"
    )


def _check(hierarchy: Any, tasks: Any, seed: Any) -> None:
    if not isinstance(hierarchy, Hierarchy):
        raise OptionError(f"hierarchy must be a Hierarchy(hyperprior, task), got {type(hierarchy).__name__}")
    if not isinstance(tasks, Tasks):
        raise OptionError(
            f"tasks must be a Tasks, got {type(tasks).__name__}: make one by Tasks.from_frame, from_lists or "
            "from_arrays"
        )
    if not isinstance(seed, int) or seed < 0:
        raise OptionError(f"seed must be a whole number of at least 0, got {seed!r}")
    empty = [tasks.names[int(i)] for i in torch.nonzero(tasks.sizes == 0)[:5]]
    if empty:
        raise DataError(
            f"task(s) {empty} have no observations: leave them out of the fit; posterior.adapt predicts them"
        )


def _info(
    config: NUTS, evidence: Collapsed | Joint, density: Density, draws: Draws, seed: int, seconds: dict[str, float]
) -> Info:
    return Info(
        evidence="joint" if isinstance(evidence, Joint) else "exact",
        road=evidence.road,
        gram=evidence.gram,
        inference={"back_end": back_end_of(config), **dataclasses.asdict(config)},
        seconds=seconds,
        density=density.mode,
        gradients=draws.gradients,
        divergences=draws.divergences,
        interrupted=draws.interrupted,
        seed=seed,
        versions=versions(),
    )
