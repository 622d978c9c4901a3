"""The default: what is fast where it is right, what is slow where it must be, and the reason in the record.

1. L-BFGS climbs to the modes, a Student-t at each is drawn from and weighted (`bayesmeta.infer.laplace`).
2. Where k-hat or the effective size is not good enough, a mixture of Student-t's is fitted to the weighted draws
   and more are drawn, a few times: a skewed or bent posterior over a handful of φ comes right by that.
3. Where that is not enough either, or where θ is sampled too and dimensions are many, NUTS: from the weighted
   draws as starting points and in coordinates whitened by their covariance, which serves as the mass matrix.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bayesmeta.density import Density
from bayesmeta.draws import Draws
from bayesmeta.errors import BayesmetaError, OptionError, unknown
from bayesmeta.evidence import METHODS
from bayesmeta.infer import laplace, nuts
from bayesmeta.infer.climb import climb, finite_starts
from bayesmeta.infer.importance import LEAST, Importance
from bayesmeta.infer.options import check_whole
from bayesmeta.infer.proposals import Proposal
from bayesmeta.psis import K_HAT
from bayesmeta.target import Target
from bayesmeta.track import bar, stage

__all__ = ["Auto", "run"]

ROUNDS = 5
# Numbers that one density goes through: above the first, good weights are not made better by another round; above
# the second, compiling pays. Sizes and not seconds, so that a seed gives the same draws on a busy machine.
LARGE = 20_000
VERY_LARGE = 150_000
MOST_DIMENSIONS = 60
STEADY = 50.0  # effective draws that a covariance is trusted from


@dataclass(frozen=True)
class Auto:
    """Settings of the default road: weighted Laplace first, NUTS where its k-hat says so.

    Args:
        draws: Equally weighted draws that come out of the first road; NUTS takes `draws` / `chains` per chain.
        starts: Starting points of L-BFGS.
        tune: Warm-up iterations per chain, if it comes to NUTS; half of them where the coordinates are whitened.
        chains: Chains, if it comes to NUTS.
        target_accept: Mean acceptance probability, if it comes to NUTS.
        compile: Compile the density, if it comes to NUTS or tasks are very many.
        evidence: ``"exact"``, ``"quadrature"``, ``"laplace"`` (θ integrated out), ``"joint"`` (θ sampled too), or
            ``"auto"``: the first valid.
    """

    draws: int = 4000
    starts: int = 4
    tune: int = 1000
    chains: int = 4
    target_accept: float = 0.8
    compile: bool = True
    evidence: Literal["auto", "exact", "quadrature", "laplace", "joint"] = "auto"

    def __post_init__(self) -> None:
        for name, least in (("draws", 1), ("starts", 1), ("tune", 0), ("chains", 1)):
            check_whole(name, getattr(self, name), least)
        if not isinstance(self.target_accept, (int, float)) or not 0 < self.target_accept < 1:
            raise OptionError(f"target_accept must lie between 0 and 1, got {self.target_accept!r}")
        if self.evidence not in METHODS:
            raise OptionError(unknown("evidence", self.evidence, METHODS))


def run(target: Target, config: Auto, *, seed: int = 0, progress: bool = True) -> Draws:
    """Draw from a target by the cheapest road that its own diagnostic accepts.

    Raises:
        BayesmetaError: No starting point of finite density was found.
    """
    begin = time.perf_counter()
    if target.dim > MOST_DIMENSIONS:
        reason = f"{target.dim:,} dimensions are too many for importance sampling: NUTS"
        return _after(nuts.run(target, _nuts(config, config.tune), seed=seed, progress=progress), (reason,), 0, begin)
    generator = torch.Generator().manual_seed(seed)
    asked, log = _asked(target, config, progress)
    starts = finite_starts(asked.value_and_grad, config.starts, target.dim, generator)
    with bar("climbing to the mode", 200, progress) as step:
        found = climb(asked.value_and_grad, starts, watch=lambda k, value: step(1))
    log = (*log, f"L-BFGS from {len(starts)} starts, {int(found.converged.sum())} arrived")
    evaluations = found.evaluations + 4 * target.dim
    try:
        proposal, _ = laplace.at_modes(asked, found, max(5.0, float(target.dim)))
    except BayesmetaError:
        log = (*log, "no mode with a negative definite Hessian: NUTS")
        draws = nuts.run(target, _nuts(config, config.tune), seed=seed, progress=progress)
        return _after(draws, log, evaluations, begin)
    sampler = Importance(asked.log_prob, generator)
    with stage("drawing and weighting", progress):
        rounds, interrupted = _rounds(sampler, proposal, config.draws, patient=target.cells < LARGE)
    _, k_hat, size = sampler.smoothed()
    if interrupted or good(k_hat, size):
        draws = laplace.importance_draws(sampler, config.draws, seed, begin, (*log, *rounds), evaluations)
        return replace(draws, interrupted=interrupted, density="vectorised" if asked is target else "compiled")
    reason = f"k-hat must be below {K_HAT} and the effective size at least {LEAST:,.0f}: NUTS, started from these draws"
    draws = _from_weighted(target, sampler, config, seed, progress)
    return _after(draws, (*log, *rounds, reason), evaluations, begin)


def _asked(target: Target, config: Auto, progress: bool) -> tuple[Target, tuple[str, ...]]:
    """What to ask for values and gradients: compiled code where tasks are very many."""
    if target.cells < VERY_LARGE or not config.compile or not target.program.structure.vectorised:
        return target, ()
    with stage("compiling the density", progress):
        asked = target.pointwise()
    return asked, (f"one density goes through {target.cells:,} numbers: it was compiled",)


def good(k_hat: float, size: float) -> bool:
    """Whether weighted draws can stand as they are."""
    return k_hat < K_HAT and size >= LEAST


def _rounds(sampler: Importance, proposal: Proposal, draws: int, *, patient: bool) -> tuple[tuple[str, ...], bool]:
    """Draw and refit until the weights are good; a sentence per round, and whether it was interrupted."""

    def enough(k_hat: float, size: float) -> bool:
        ample = size >= draws / 2 and len(sampler.u) >= draws and k_hat < 0.5
        return good(k_hat, size) and (ample or not patient)

    found, interrupted = sampler.adapt(proposal, draws, ROUNDS, enough)
    log = []
    for number, (k_hat, size) in enumerate(found):
        what = "a Student-t at the mode" if number == 0 else "a mixture of Student-t's fitted to them"
        log.append(f"round {number + 1}, {what}: k-hat {k_hat:.2f}, effective size {size:,.0f}")
    return (*log, *(("interrupted: what was drawn until then is kept",) if interrupted else ())), interrupted


def _nuts(config: Auto, tune: int) -> nuts.NUTS:
    return nuts.NUTS(
        draws=math.ceil(config.draws / config.chains),
        tune=tune,
        chains=config.chains,
        target_accept=config.target_accept,
        compile=config.compile,
        evidence=config.evidence,
    )


def _after(draws: Draws, log: tuple[str, ...], evaluations: int, begin: float) -> Draws:
    seconds = time.perf_counter() - begin - draws.compile_seconds
    return replace(draws, log=(*log, *draws.log), evaluations=draws.evaluations + evaluations, seconds=seconds)


# ---------------------------------------------------------------------------------------------------------
# NUTS from what was learnt


class Whitened:
    """A density in coordinates z, u = mean + factor · z.

    NUTS with a unit mass matrix there is NUTS with the inverse covariance of u as its mass matrix.
    """

    def __init__(self, density: Density, mean: Tensor, factor: Tensor) -> None:
        self.density = density
        self.mean, self.factor = mean, factor
        self.dim = density.dim

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """log density and gradient (dim,) at z (dim,)."""
        value, grad = self.density.value_and_grad(self.mean + self.factor @ z)
        return value, self.factor.mT @ grad

    def unwhitened(self, z: Tensor) -> Tensor:
        """u (..., dim) of z (..., dim)."""
        return self.mean + z @ self.factor.mT

    def whitened(self, u: Tensor) -> Tensor:
        """z (..., dim) of u (..., dim)."""
        solved = torch.linalg.solve_triangular(self.factor, (u - self.mean).reshape(-1, self.dim).mT, upper=False)
        result: Tensor = solved.mT.reshape(u.shape)
        return result


def _from_weighted(target: Target, sampler: Importance, config: Auto, seed: int, progress: bool) -> Draws:
    """NUTS whose chains start at weighted draws, whitened by their covariance where that can be trusted."""
    _, _, size = sampler.smoothed()
    drawn = sampler.resampled(1000, seed)
    with stage("compiling the density" if config.compile else "recording the density", progress):
        density = target.density(config.compile)
    if size < STEADY:
        mean, factor = torch.zeros(target.dim, dtype=torch.float64), torch.eye(target.dim, dtype=torch.float64)
        tune = config.tune
    else:
        mean, covariance = drawn.mean(0), torch.atleast_2d(torch.cov(drawn.mT))
        ridge = torch.diag(1e-9 + 1e-6 * covariance.diagonal())
        factor, tune = torch.linalg.cholesky(covariance + ridge), config.tune // 2
    white = Whitened(density, mean, factor)
    draws = nuts.sample(white, _nuts(config, tune), seed=seed, progress=progress, start=_starts(white, drawn))
    return replace(draws, u=white.unwhitened(draws.u), density=density.mode, compile_seconds=density.seconds)


def _starts(white: Whitened, drawn: Tensor) -> Callable[[int], npt.NDArray[Any]]:
    """A starting point by a chain's seed: one of the draws."""

    def start(seed: int) -> npt.NDArray[Any]:
        pick = int(np.random.default_rng(seed).integers(len(drawn)))
        z: npt.NDArray[Any] = white.whitened(drawn[pick]).numpy()
        return z

    return start
