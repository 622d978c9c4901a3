"""The front door: `fit(hierarchy, tasks, inference)` learns the population; of a network, how it adapts to a task."""

from __future__ import annotations

import dataclasses
import time
import warnings
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import nn

from bayesmeta.density import Density
from bayesmeta.draws import Draws, Info, versions
from bayesmeta.errors import BayesmetaWarning, DataError, OptionError
from bayesmeta.evidence import Collapsed, Joint, choose, evidence_error, kind
from bayesmeta.hierarchy import Hierarchy
from bayesmeta.mapping import flatten_draws
from bayesmeta.posterior import Posterior
from bayesmeta.presets import Config, back_end_of, evidence_of, is_algorithm, module_of, read_preset
from bayesmeta.streams import Stream
from bayesmeta.target import Target
from bayesmeta.tasks import Tasks
from bayesmeta.track import stage

if TYPE_CHECKING:
    from bayesmeta.meta.learner import Learner
    from bayesmeta.program import Program

__all__ = ["check", "configured", "fit", "log_density"]


@overload
def fit(
    hierarchy: Hierarchy,
    tasks: Tasks | Stream,
    inference: str | PathLike[str] | Config = "auto",
    *,
    seed: int = 0,
    progress: bool = True,
) -> Posterior: ...


@overload
def fit(
    hierarchy: nn.Module,
    tasks: Tasks | Stream,
    inference: str | PathLike[str] | Config = "auto",
    *,
    seed: int = 0,
    progress: bool = True,
) -> Learner: ...


def fit(
    hierarchy: Hierarchy | nn.Module,
    tasks: Tasks | Stream,
    inference: str | PathLike[str] | Config = "auto",
    *,
    seed: int = 0,
    progress: bool = True,
) -> Posterior | Learner:
    """Infer p(φ | D) from the tasks of a population, or learn a network that adapts to a task.

    Args:
        hierarchy: Hyperprior and task; or a network, any `torch.nn.Module`, for an algorithm of `bayesmeta.meta`.
        tasks: The tasks; each must have observations. Or a `Stream` of them, for ``inference=Ensemble(...)`` and
            algorithms such as `MAML`: the tasks of the posterior are then those of its first batch.
        inference: A preset's name (``"auto"``, ``"nuts"``, ``"svi-fullrank"``, ...; `bayesmeta presets` lists
            them), the path of a preset file, or a configured back-end such as ``NUTS(draws=500)``. ``"auto"``
            weighs draws from the neighbourhood of the mode, and goes on to NUTS where that is not good enough.
            A network takes ``"maml"`` and its family. `MAML` and `Reptile` take hierarchies, too: see
            `bayesmeta.meta.hierarchy.fit`.
        seed: Seeds everything random; the same seed gives the same draws.
        progress: Show a progress bar.

    Returns:
        The posterior, whose `info` tells what was done and whose `verdict` whether it can be trusted. Where it is
        not fine, a `BayesmetaWarning` says why and what to do. Of a network, the `bayesmeta.meta.Learner`.

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
    if isinstance(hierarchy, nn.Module):
        return _learner(hierarchy, tasks, config, inference, seed, progress)
    return _posterior(hierarchy, tasks, config, seed, progress)


def _learner(
    net: nn.Module, tasks: Tasks | Stream, config: Config, inference: Any, seed: int, progress: bool
) -> Learner:
    """The network as an algorithm of `bayesmeta.meta` learns it."""
    from bayesmeta import meta

    if not isinstance(config, meta.Algorithm):
        asked = repr(inference) if isinstance(inference, str) else type(config).__name__
        raise OptionError(
            f"a network is for the algorithms of bayesmeta.meta, such as inference='maml' or MAML(...), got {asked}; "
            "that needs a Hierarchy(hyperprior, task), as bm.families.bnn or last_layer make of a network"
        )
    if isinstance(tasks, Stream):
        check_seed(seed)
    else:
        check_tasks(tasks, seed)
    return meta.fit(net, tasks, config, seed=seed, progress=progress)


def _posterior(hierarchy: Hierarchy, tasks: Tasks | Stream, config: Config, seed: int, progress: bool) -> Posterior:
    """p(φ | D), or the point of it that the back-end finds."""
    start = time.perf_counter()
    streamed: dict[str, Any] = {}
    if isinstance(tasks, Stream):
        check_streamed(config)
        check_seed(seed)
        streamed, tasks = {"stream": tasks}, tasks.first(seed)
    check(hierarchy, tasks, seed)
    with stage("looking at the hierarchy", progress):
        program = hierarchy.program(tasks)
        evidence = _evidence(program, tasks, config)
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
        warnings.warn(f"the draws are {verdict!r}", BayesmetaWarning, stacklevel=3)
    return posterior


def _evidence(program: Program, tasks: Tasks, config: Config) -> Collapsed | Joint:
    """What is done about θ: as the back-end is asked to; algorithms need it integrated out."""
    if not is_algorithm(config):
        return choose(program, tasks, evidence_of(config))
    from bayesmeta.meta.hierarchy import fit as on_hierarchy

    return on_hierarchy.integrated(program, tasks, config)


def log_density(evidence: Collapsed | Joint, *, compile: bool = True) -> Density:
    """log p(φ, D), or log p(φ, θ, D) where θ is sampled too, as a density over unconstrained coordinates."""
    return Target(evidence).density(compile)


def configured(inference: str | PathLike[str] | Config) -> Config:
    """The back-end that is meant by a preset's name, the path of a preset, or itself."""
    if isinstance(inference, (str, PathLike)):
        return read_preset(Path(inference) if isinstance(inference, PathLike) else inference)
    if not isinstance(inference, type) and dataclasses.is_dataclass(inference):
        if not is_algorithm(inference):
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
    check_tasks(tasks, seed)


def check_tasks(tasks: Any, seed: Any) -> None:
    """Raise unless these are tasks, each with observations, and this a seed."""
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
    if back_end_of(config) != "ensemble" and not is_algorithm(config):
        raise OptionError(
            f"a stream of tasks is for inference=Ensemble(...), got {type(config).__name__}: it needs all tasks at "
            "once, as a Tasks (MAML(...) takes a stream, too)"
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
