"""Laplace's approximation of p(φ | D), weighted: the mode, the curvature there, and importance sampling.

A Student-t with the mode as its location and the inverse Hessian as its scale is drawn from thousands of times in
one vectorised batch, and each draw is weighted by the density itself: what comes out is the posterior, not its
Gaussian approximation, wherever k-hat says that the weights can be trusted. About a hundred gradients in all, and
nothing is compiled. Where θ is integrated out, φ is a handful of numbers and this is often all that is needed.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bayesmeta.draws import Draws
from bayesmeta.errors import BayesmetaError, OptionError, unknown
from bayesmeta.evidence import METHODS
from bayesmeta.infer.climb import Climb, climb, finite_starts
from bayesmeta.infer.importance import Importance
from bayesmeta.infer.options import check_whole
from bayesmeta.infer.proposals import Dense, Mixture, Proposal
from bayesmeta.target import Target
from bayesmeta.track import bar

__all__ = ["LARGEST", "Laplace", "at_modes", "hessian", "importance_draws", "run"]

PROPOSALS = ("student-t", "normal")
LARGEST = 300
SAME_MODE = 1e-3
FAR_BELOW = 15.0  # nats: a mode so much lower than another has no mass to speak of


@dataclass(frozen=True)
class Laplace:
    """Settings of the weighted Laplace approximation.

    Args:
        draws: Equally weighted draws that come out.
        starts: Starting points of L-BFGS; the distinct modes found make a mixture.
        steps: The most steps of L-BFGS.
        proposal: ``"student-t"``, whose tails keep the weights bounded, or ``"normal"``.
        df: Degrees of freedom of the Student-t.
        importance: Weight the draws by the density; False gives the plain approximation, and still says k-hat.
        evidence: ``"exact"``, ``"quadrature"``, ``"laplace"`` (θ integrated out), ``"joint"`` (θ sampled too), or
            ``"auto"``: the first valid.
    """

    draws: int = 4000
    starts: int = 4
    steps: int = 200
    proposal: Literal["student-t", "normal"] = "student-t"
    df: float = 5.0
    importance: bool = True
    evidence: Literal["auto", "exact", "quadrature", "laplace", "joint"] = "auto"

    def __post_init__(self) -> None:
        for name in ("draws", "starts", "steps"):
            check_whole(name, getattr(self, name), 1)
        if self.proposal not in PROPOSALS:
            raise OptionError(unknown("proposal", self.proposal, PROPOSALS))
        if not isinstance(self.df, int | float) or not self.df > 0:
            raise OptionError(f"df must be a number above 0, got {self.df!r}")
        if self.evidence not in METHODS:
            raise OptionError(unknown("evidence", self.evidence, METHODS))


def run(target: Target, config: Laplace, *, seed: int = 0, progress: bool = True) -> Draws:
    """Draw from a target by its weighted Laplace approximation.

    Raises:
        OptionError: The target has too many dimensions for a dense Hessian.
        BayesmetaError: No starting point was found, or the mode has no curvature.
    """
    check_size(target)
    begin = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    starts = finite_starts(target.value_and_grad, config.starts, target.dim, generator)
    with bar("climbing to the mode", config.steps, progress) as step:
        found = climb(target.value_and_grad, starts, steps=config.steps, watch=lambda k, value: step(1))
    proposal, count = at_modes(target, found, config.df if config.proposal == "student-t" else math.inf)
    sampler = Importance(target.log_prob, generator)
    sampler.draw(proposal, config.draws)
    log = (f"{count} mode{'s' * (count > 1)} found from {len(starts)} starts, {int(found.converged.sum())} arrived",)
    evaluations = found.evaluations + 2 * target.dim * count
    return importance_draws(sampler, config.draws, seed, begin, log, evaluations, config.importance)


def check_size(target: Target) -> None:
    """Raise where a dense Hessian would be too large."""
    if target.dim > LARGEST:
        raise OptionError(
            f"this density has {target.dim:,} dimensions, and Laplace's approximation takes {LARGEST} at most: use "
            "evidence='auto' if θ can be integrated out, or inference='nuts' or 'pathfinder'"
        )


def importance_draws(
    sampler: Importance,
    draws: int,
    seed: int,
    begin: float,
    log: tuple[str, ...],
    evaluations: int,
    importance: bool = True,
) -> Draws:
    """The outcome of importance sampling as draws (1, draws, dim)."""
    _, k_hat, size = sampler.smoothed()
    sentence = f"{len(sampler.u):,} weighted draws: k-hat {k_hat:.2f}, effective size {size:,.0f}"
    u = sampler.resampled(draws, seed) if importance else sampler.u[:draws]
    return Draws(
        u.unsqueeze(0),
        seconds=time.perf_counter() - begin,
        k_hat=k_hat,
        effective_size=min(size, float(draws)) if importance else None,
        log=(*log, sentence),
        evaluations=evaluations,
    )


def at_modes(target: Target, found: Climb, df: float) -> tuple[Proposal, int]:
    """A Student-t at every distinct mode, weighted by its Laplace evidence; and how many there are.

    Raises:
        BayesmetaError: No mode has a negative definite Hessian.
    """
    parts: list[Dense] = []
    masses: list[float] = []
    top = -math.inf
    for mode, height in _distinct(found):
        if height < top - FAR_BELOW:
            break
        factor = _factor(hessian(target, mode))
        if factor is not None:
            top = max(top, height)
            parts.append(Dense(mode, factor, df))
            masses.append(height + float(factor.diagonal().log().sum()))
    if not parts:
        raise BayesmetaError(
            "the log density has no negative definite Hessian at the highest point found: the posterior is improper, "
            "flat in some direction, or its mode lies at the edge; look at the hyperprior, or use inference='nuts'"
        )
    if len(parts) == 1:
        return parts[0], 1
    return Mixture(parts, torch.softmax(torch.tensor(masses, dtype=torch.float64), 0)), len(parts)


def _distinct(found: Climb) -> list[tuple[Tensor, float]]:
    """The modes, the highest first, without repetitions."""
    order = torch.argsort(found.height, descending=True)
    kept: list[tuple[Tensor, float]] = []
    for k in order.tolist():
        mode, height = found.mode[k], float(found.height[k])
        near = [(mode - other).abs().max() < SAME_MODE + 0.05 * other.abs().max() for other, _ in kept]
        if not any(near) and (bool(found.converged[k]) or not kept):
            kept.append((mode, height))
    return kept


def hessian(target: Target, u: Tensor, step: float = 1e-3) -> Tensor:
    """The Hessian of the log density at u (dim, dim) by central differences of gradients, all in one batch.

    Differences rather than automatic derivatives: the evidence from Gram matrices has first derivatives only.
    """
    size = step * torch.ones(len(u), dtype=torch.float64)
    for _ in range(2):  # once with equal steps, then with steps in proportion to the spread found
        shift = torch.diag(size)
        _, grads = target.value_and_grad(torch.cat([u + shift, u - shift]))
        ahead, behind = grads.chunk(2)
        matrix = (ahead - behind) / (2 * size).unsqueeze(-1)
        size = (step * 10 * (-matrix.diagonal()).clamp(min=1e-4).rsqrt()).clamp(1e-6, 0.1)
    return 0.5 * (matrix + matrix.mT)


def _factor(matrix: Tensor) -> Tensor | None:
    """A lower factor of the inverse of -matrix; None where that is not positive definite."""
    if not bool(torch.isfinite(matrix).all()):
        return None
    values, vectors = torch.linalg.eigh(-matrix)
    if not bool((values > 1e-10 * values.abs().max()).all()):
        return None
    factor, info = torch.linalg.cholesky_ex((vectors / values) @ vectors.mT)
    return None if int(info) else factor
