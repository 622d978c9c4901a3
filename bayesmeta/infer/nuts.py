"""NUTS: the no-U-turn sampler (Hoffman, Gelman 2014) over whatever density the hierarchy gives.

nutpie drives it: a mass matrix adapted to draws and gradients alike (Seyboldt, Carlson, Carpenter 2024), the
trajectories in Rust. `engine="pyro"` runs Pyro's own NUTS on the same density instead: the
slow reference.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bayesmeta.density import Density
from bayesmeta.draws import Draws
from bayesmeta.errors import BayesmetaError, BayesmetaWarning, OptionError, unknown
from bayesmeta.evidence import METHODS
from bayesmeta.infer import pyro_nuts
from bayesmeta.infer.options import check_whole
from bayesmeta.infer.peak import peak
from bayesmeta.target import Target
from bayesmeta.threads import one_thread
from bayesmeta.track import stage

__all__ = ["NUTS", "LogDensity", "run", "sample"]

Array = npt.NDArray[Any]
ENGINES = ("nutpie", "pyro")
INITS = ("random", "mode")
JITTER = 0.1  # of starting points about the mode
STATS = {
    "diverging": "diverging",
    "logp": "lp",
    "energy": "energy",
    "depth": "tree_depth",
    "n_steps": "n_steps",
    "step_size": "step_size",
    "mean_tree_accept": "acceptance_rate",
    "maxdepth_reached": "reached_max_treedepth",
}


class LogDensity(Protocol):
    """What is sampled: a log density over u (dim,) with its gradient."""

    dim: int

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log p(u), a scalar, and its gradient (dim,)."""
        ...


@dataclass(frozen=True)
class NUTS:
    """Settings of the no-U-turn sampler.

    Args:
        draws: Draws per chain after warm-up.
        tune: Warm-up iterations per chain.
        chains: Number of chains.
        evidence: ``"exact"``, ``"quadrature"``, ``"laplace"`` (θ integrated out), ``"joint"`` (θ sampled too), or
            ``"auto"``: the first valid.
        engine: ``"nutpie"``, or ``"pyro"`` for Pyro's own sampler.
        target_accept: Mean acceptance probability that the step size is adapted to, in (0, 1).
        max_treedepth: Trajectories have at most 2 ** max_treedepth leapfrog steps.
        cores: Chains that run at once, as threads. A gradient is a call into Python, and threads take turns at
            its lock: on densities of well under a millisecond two threads were half as fast as one.
        compile: Compile the density. Not worth it for tiny budgets.
        low_rank: Let nutpie's mass matrix follow a few correlated directions.
        init: Where chains begin: ``"random"``, each at a point of its own, so that R-hat can tell of a second mode; or
            ``"mode"``, all about the highest mode of p(φ | D) that L-BFGS finds from a few random points, for a
            posterior with a second mode that is known to have hardly any mass and in which a chain may stay.
    """

    draws: int = 1000
    tune: int = 1000
    chains: int = 4
    evidence: Literal["auto", "exact", "quadrature", "laplace", "joint"] = "auto"
    engine: Literal["nutpie", "pyro"] = "nutpie"
    target_accept: float = 0.8
    max_treedepth: int = 10
    cores: int = 1
    compile: bool = True
    low_rank: bool = False
    init: Literal["random", "mode"] = "random"

    def __post_init__(self) -> None:
        for name, least in (("draws", 1), ("tune", 0), ("chains", 1), ("max_treedepth", 1), ("cores", 1)):
            check_whole(name, getattr(self, name), least)
        if not isinstance(self.target_accept, (int, float)) or not 0 < self.target_accept < 1:
            raise OptionError(f"target_accept must lie between 0 and 1, got {self.target_accept!r}")
        if self.evidence not in METHODS:
            raise OptionError(unknown("evidence", self.evidence, METHODS))
        if self.engine not in ENGINES:
            raise OptionError(unknown("engine", self.engine, ENGINES))
        if self.init not in INITS:
            raise OptionError(unknown("init", self.init, INITS))


def run(
    target: Target, config: NUTS, *, seed: int = 0, progress: bool = True, start: Callable[[int], Array] | None = None
) -> Draws:
    """Draw from a target by NUTS; `start` gives the starting point of a chain by its seed, in place of `init`."""
    if start is None and config.init == "mode":
        start = _about_the_mode(target, seed, progress)
    with stage("compiling the density" if config.compile else "recording the density", progress):
        density = target.density(config.compile)
    draws = sample(density, config, seed=seed, progress=progress, start=start)
    return replace(draws, density=density.mode, compile_seconds=density.seconds)


def sample(
    density: LogDensity,
    config: NUTS,
    *,
    seed: int = 0,
    progress: bool = True,
    start: Callable[[int], Array] | None = None,
) -> Draws:
    """Draw from a density by NUTS.

    Args:
        density: log p(u) and its gradient.
        config: The settings.
        seed: Seeds chains and their starting points.
        progress: Show a progress bar, in the terminal or the notebook.
        start: Starting point of a chain by its seed; by default a random point of finite density.

    Raises:
        BayesmetaError: No starting point of finite density was found.
    """
    start = start or (lambda chain_seed: finite_start(density, chain_seed))
    begin = time.perf_counter()
    engine = _nutpie if config.engine == "nutpie" else pyro_nuts.run
    with one_thread():
        start(seed)  # where there is no starting point, its error should not come from within a sampler's thread
        u, stats, warmup, interrupted = engine(density, config, seed, progress, start)
    if interrupted:
        warnings.warn(
            f"sampling was interrupted: {u.shape[1]} of {config.draws} draws of {u.shape[0]} of {config.chains} chains "
            "were kept",
            BayesmetaWarning,
            stacklevel=4,
        )
    return Draws(u, stats, warmup, interrupted, time.perf_counter() - begin)


def _about_the_mode(target: Target, seed: int, progress: bool) -> Callable[[int], Array]:
    """Starting points that differ little from the highest mode that is found."""
    with stage("climbing to the mode", progress):
        mode: Array = peak(target, seed)[0].numpy()

    def start(chain_seed: int) -> Array:
        near = mode + np.random.default_rng(chain_seed).uniform(-JITTER, JITTER, target.dim)
        value, grad = target.value_and_grad(torch.from_numpy(near).unsqueeze(0))
        return near if bool(torch.isfinite(value).all() and torch.isfinite(grad).all()) else mode

    return start


def finite_start(density: LogDensity, seed: int, tries: int = 200) -> Array:
    """A point with finite density and gradient, uniform in [-2, 2] per coordinate, in [-1, 1] if need be."""
    rng = np.random.default_rng(seed)
    for attempt in range(tries):
        width = 2.0 * 0.98**attempt
        u = rng.uniform(-width, width, density.dim)
        value, grad = density.value_and_grad(torch.from_numpy(u))
        if bool(torch.isfinite(value)) and bool(torch.isfinite(grad).all()):
            return u
    raise BayesmetaError(
        f"no starting point of finite log density was found in {tries} tries: look for observations that are "
        "impossible under the task (counts above their maximum, negative values under a positive distribution)"
    )


def _nutpie(density: LogDensity, config: NUTS, seed: int, progress: bool, start: Callable[[int], Array]) -> Any:
    import nutpie

    model = nutpie.compiled_pyfunc.from_pyfunc(
        density.dim,
        lambda: _log_density(density),
        lambda seed1, seed2, chain: lambda u: {"u": u},
        [np.dtype("float64")],
        [(density.dim,)],
        ["u"],
        make_initial_point_fn=start,
    )
    sampler = nutpie.sample(
        model,
        draws=config.draws,
        tune=config.tune,
        chains=config.chains,
        cores=min(config.cores, config.chains),
        seed=seed,
        progress_bar=progress,
        low_rank_modified_mass_matrix=config.low_rank,
        target_accept=config.target_accept,
        maxdepth=config.max_treedepth,
        blocking=False,
    )
    interrupted = False
    try:
        trace = sampler.wait()
    except KeyboardInterrupt:
        trace, interrupted = sampler.abort(), True
    except RuntimeError as error:
        cause = str(error).split("Stack backtrace")[0].strip()
        raise BayesmetaError(f"the sampler stopped because evaluating the density failed: {cause}") from error
    return *_unpacked(trace, interrupted), interrupted


def _log_density(density: LogDensity) -> Callable[[Array], tuple[float, Array]]:
    """One chain's own: what solvers inside the density remember of a chain must not depend on the others."""
    density = density.fork() if isinstance(density, Density) else density

    def value_and_grad(u: Array) -> tuple[float, Array]:
        value, grad = density.value_and_grad(torch.from_numpy(np.array(u)))
        return float(value), grad.numpy()

    return value_and_grad


def _unpacked(trace: Any, interrupted: bool) -> tuple[Tensor, dict[str, Array], dict[str, Array]]:
    """Draws and statistics as arrays; of an interrupted run, those of `_kept`."""
    u = np.asarray(trace["posterior"]["u"].values, dtype=np.float64)
    rows, length = np.arange(u.shape[0]), u.shape[1]
    if interrupted:
        rows, length = _kept(np.isfinite(u).all(axis=-1).sum(axis=1))
    stats = {
        ours: np.asarray(trace["sample_stats"][theirs].values)[rows, :length]
        for theirs, ours in STATS.items()
        if theirs in trace["sample_stats"]
    }
    warm: dict[str, Array] = {}
    if "warmup_sample_stats" in _groups(trace):
        group = trace["warmup_sample_stats"]
        warm = {ours: np.asarray(group[theirs].values) for theirs, ours in STATS.items() if theirs in group}
    return torch.from_numpy(u[rows, :length].copy()), stats, warm


def _kept(counts: Array) -> tuple[Array, int]:
    """Which chains of an interrupted run to keep, and how many draws of each: the choice that keeps the most."""
    order = np.argsort(-counts, kind="stable")
    total = counts[order] * np.arange(1, len(order) + 1)
    if not total.any():
        raise KeyboardInterrupt("sampling was interrupted during warm-up; no draws were taken yet")
    most = int(np.argmax(total))
    return np.sort(order[: most + 1]), int(counts[order[most]])


def _groups(trace: Any) -> set[str]:
    names = trace.groups() if callable(trace.groups) else trace.groups
    return {name.strip("/") for name in names}
