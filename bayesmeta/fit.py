"""The front door: `fit(hierarchy, tasks, inference)` learns the population, `load` opens a saved posterior."""

from __future__ import annotations

import dataclasses
import time
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from bayesmeta.density import Density
from bayesmeta.draws import Draws, Info, versions
from bayesmeta.errors import BayesmetaWarning, DataError, OptionError
from bayesmeta.evidence import Collapsed, Joint, choose, evidence_error, kind
from bayesmeta.hierarchy import Hierarchy
from bayesmeta.mapping import flatten_draws
from bayesmeta.posterior import Posterior
from bayesmeta.presets import Config, back_end_of, module_of, read_preset
from bayesmeta.streams import Stream
from bayesmeta.target import Target
from bayesmeta.tasks import Tasks
from bayesmeta.track import stage

__all__ = ["check", "configured", "fit", "log_density"]


def fit(
    hierarchy: Hierarchy,
    tasks: Tasks | Stream,
    inference: str | PathLike[str] | Config = "auto",
    *,
    seed: int = 0,
    progress: bool = True,
) -> Posterior:
    """Infer p(φ | D) from the tasks of a population.

    Args:
        hierarchy: Hyperprior and task.
        tasks: The tasks; each must have observations. Or a `Stream` of them, for ``inference=Ensemble(...)``: the
            tasks of the posterior are then those of its first batch.
        inference: A preset's name (``"auto"``, ``"nuts"``, ``"svi-fullrank"``, ...; `bayesmeta presets` lists
            them), the path of a preset file, or a configured back-end such as ``NUTS(draws=500)``. ``"auto"``
            weighs draws from the neighbourhood of the mode, and goes on to NUTS where that is not good enough.
        seed: Seeds everything random; the same seed gives the same draws.
        progress: Show a progress bar.

    Returns:
        The posterior, whose `info` tells what was done and whose `verdict` whether it can be trusted. Where it is
        not fine, a `BayesmetaWarning` says why and what to do.

    Raises:
        HierarchyError: The functions do not describe a hierarchy that can be fitted.
        DataError: A task without observations.
        OptionError: An unknown preset or setting.

    Example:
        >>> import bayesmeta as bm
        >>> people = bm.data.load("sleepstudy")
        >>> tasks = bm.Tasks.from_frame(people, task="Subject", x="Days", y="Reaction")
        >>> posterior = bm.fit(bm.families.linear(tasks), tasks, progress=False)
        >>> posterior.verdict.level, posterior.info.evidence, sorted(posterior.phi)
        ('fine', 'exact', ['mu', 'sigma', 'tau'])
    """
    config = configured(inference)
    start = time.perf_counter()
    streamed: dict[str, Any] = {}
    if isinstance(tasks, Stream):
        check_streamed(config)
        check_seed(seed)
        streamed, tasks = {"stream": tasks}, tasks.first(seed)
    check(hierarchy, tasks, seed)
    with stage("looking at the hierarchy", progress):
        program = hierarchy.program(tasks)
        evidence = choose(program, tasks, config.evidence)
    setup = time.perf_counter() - start
    draws: Draws = module_of(config).run(Target(evidence), config, seed=seed, progress=progress, **streamed)
    seconds = {
        "setup": setup,
        "compile": draws.compile_seconds,
        "sample": draws.seconds,
        "total": time.perf_counter() - start,
    }
    posterior = Posterior(hierarchy, tasks, evidence, draws, _info(config, evidence, draws, seed, seconds)).judged()
    verdict = posterior.verdict
    if verdict.level != "fine":
        warnings.warn(f"the draws are {verdict!r}", BayesmetaWarning, stacklevel=2)
    return posterior


def log_density(evidence: Collapsed | Joint, *, compile: bool = True) -> Density:
    """log p(φ, D), or log p(φ, θ, D) where θ is sampled too, as a density over unconstrained coordinates."""
    return Target(evidence).density(compile)


def configured(inference: str | PathLike[str] | Config) -> Config:
    """The back-end that is meant by a preset's name, the path of a preset, or itself."""
    if isinstance(inference, (str, PathLike)):
        return read_preset(Path(inference) if isinstance(inference, PathLike) else inference)
    if not isinstance(inference, type) and dataclasses.is_dataclass(inference):
        back_end_of(inference)
        return inference
    raise OptionError(
        f"inference must be a preset's name, the path of a preset, or a back-end such as NUTS(...), "
        f"got {type(inference).__name__}"
    )


def check(hierarchy: Any, tasks: Any, seed: Any) -> None:
    """Whether these can be fitted, as far as their kinds tell, and every task has observations."""
    if not isinstance(hierarchy, Hierarchy):
        raise OptionError(f"hierarchy must be a Hierarchy(hyperprior, task), got {type(hierarchy).__name__}")
    if not isinstance(tasks, Tasks):
        raise OptionError(
            f"tasks must be a Tasks, got {type(tasks).__name__}: make one by Tasks.from_frame, from_lists or "
            "from_arrays, or a Stream"
        )
    check_seed(seed)
    empty = [tasks.names[int(i)] for i in torch.nonzero(tasks.sizes == 0)[:5]]
    if empty:
        raise DataError(
            f"task(s) {empty} have no observations: leave them out of the fit; posterior.adapt predicts them"
        )


def check_seed(seed: Any) -> None:
    """Raise an OptionError unless the seed is a whole number of at least 0."""
    if not isinstance(seed, int) or seed < 0:
        raise OptionError(f"seed must be a whole number of at least 0, got {seed!r}")


def check_streamed(config: Config) -> None:
    """Raise an OptionError unless the back-end takes tasks from a stream."""
    if back_end_of(config) != "ensemble":
        raise OptionError(
            f"a stream of tasks is for inference=Ensemble(...), got {type(config).__name__}: it needs all tasks at "
            "once, as a Tasks"
        )


def _info(config: Config, evidence: Collapsed | Joint, draws: Draws, seed: int, seconds: dict[str, float]) -> Info:
    return Info(
        evidence=kind(evidence),
        road=evidence.road,
        gram=evidence.gram,
        inference={"back_end": back_end_of(config), **dataclasses.asdict(config)},
        seconds=seconds,
        density=draws.density,
        gradients=draws.gradients,
        divergences=draws.divergences,
        interrupted=draws.interrupted,
        seed=seed,
        versions=versions(),
        k_hat=draws.k_hat,
        effective_size=draws.effective_size,
        log=draws.log,
        evidence_error=evidence_error(evidence, flatten_draws(draws.u)[:, : evidence.program.structure.phi.size]),
    )
