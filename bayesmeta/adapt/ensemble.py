"""Draws of (φ, θ) from Gaussians found for θ under each draw of φ: weighted by what they miss, and resampled.

Laplace's method, gradient steps and variational inference differ in how they come to a centre v and a spread R
for p(θ | φ_s, D_t). What follows is the same. Of K proposals θ_k about the centre, from a Student-t,

    w_sk = p(D_t, θ_k | φ_s) / q_s(θ_k),        Z_t(φ_s) ≈ 1/K Σ_k w_sk

is an estimate without bias, so that (φ_s, θ_k) drawn in proportion to w_sk are draws of p(φ, θ | D_t, D), however
few proposals there are, as the draws of φ become many (the pseudo-marginal argument: Andrieu, Roberts 2009). Two
Pareto k-hats say whether they are enough: that of the weights of φ, and that of all w_sk, of φ and θ together.
With many coordinates no proposals can follow; θ is then drawn from the Gaussian itself, φ is weighted by its
integral, and k-hat still says what was missed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bayesmeta.adapt.curvature import Spread
from bayesmeta.adapt.density import TaskDensity
from bayesmeta.adapt.problem import Problem, Result, weigh
from bayesmeta.evidence.gaussian import LOG_2PI
from bayesmeta.evidence.proposals import log_student, student
from bayesmeta.psis import psis
from bayesmeta.threads import one_thread

__all__ = ["MOST_CORRECTED", "Found", "adapt_about", "proposals_for", "seen_log_z"]

MOST_CORRECTED = 50
FOR_K_HAT = 10_000


class Found(NamedTuple):
    """What a method found for p(θ | φ_s, D_t), in the coordinates of the density.

    Attributes:
        centre: Points (S, T, p).
        spread: The root of the covariance there; None for points without any width.
        log_z: The Gaussian's integral, log Z_t(φ_s) (S, T); zero where it is not known.
        weighted: Whether draws of φ are to be weighted by log Z.
        path: How the centre was come to (steps + 1, S, T, p), if kept.
        note: What should be known about how it went.
    """

    centre: Tensor
    spread: Spread | None
    log_z: Tensor
    weighted: bool = True
    path: Tensor | None = None
    note: str = ""


Find = Callable[[TaskDensity], Found]


def proposals_for(p: int, correct: bool | None, proposals: int) -> int:
    """How many proposals to make for θ of p coordinates: none where they are not wanted, or would not do."""
    wanted = p <= MOST_CORRECTED if correct is None else correct
    return proposals if wanted else 0


@one_thread()
def adapt_about(problem: Problem, find: Find, proposals: int) -> Result:
    """Draws of (φ, θ) from what `find` finds.

    Args:
        problem: The tasks.
        find: The centre and spread of θ of the density's tasks under each of its draws of φ.
        proposals: How many to make about each centre, to correct it; none to take the Gaussian as it is.
    """
    generator = torch.Generator().manual_seed(problem.seed)
    density = TaskDensity(problem.program, problem.known, problem.phi)
    found = find(density)
    about = _about(density, found, proposals, generator)
    offset = seen_log_z(problem, find, proposals, generator)
    weights = about.log_z - offset if found.weighted else torch.zeros_like(about.log_z)
    pick, k_hat, size = weigh(weights, problem)
    theta, k_hat_theta = about.draw(pick, torch.where(problem.unchanged, about.log_z, offset), generator)
    path = found.path
    if path is not None:
        task = torch.arange(pick.shape[1])
        path = torch.stack([density.centred(step)[pick, task] for step in path])
    centred = density.under(problem.phi[pick]).centred(theta)
    return Result(problem.phi[pick], centred, k_hat, size, k_hat_theta, path, found.note)


def seen_log_z(problem: Problem, find: Find, proposals: int, generator: torch.Generator) -> Tensor:
    """log Z_t(φ_s) (S, T) of what the fit has seen of each task; zero for new ones."""
    log_z = torch.zeros(len(problem.phi), len(problem.known), dtype=torch.float64)
    changed = torch.nonzero(problem.seen & ~problem.unchanged).squeeze(-1)
    if len(changed):
        density = TaskDensity(problem.program, problem.before[changed.tolist()], problem.phi)
        log_z[:, changed] = _about(density, find(density), proposals, generator).log_z
    return log_z


class _About(NamedTuple):
    """log Z_t(φ_s) (S, T), and how to draw θ (S, T, p) with its k-hat (T,).

    `draw` takes a choice of φ (S, T), what of log Z_t(φ_s) is no weight (S, T), and a generator.
    """

    log_z: Tensor
    draw: Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


def _about(density: TaskDensity, found: Found, proposals: int, generator: torch.Generator) -> _About:
    if found.spread is None or not proposals:
        return _plain(density, found)
    return _corrected(density, found.centre, found.spread, proposals, generator)


def _corrected(density: TaskDensity, centre: Tensor, spread: Spread, count: int, generator: torch.Generator) -> _About:
    """By proposals about the centre, weighted."""
    points, weights = [], []
    for _ in range(count):
        z = student(density.shape, generator)
        point = centre + spread.times(z)
        weight = density.value(point) - log_student(z) + spread.log_det()
        points.append(point)
        weights.append(torch.where(torch.isfinite(weight), weight, -math.inf))
    candidates, log_w = torch.stack(points), torch.stack(weights)
    log_z = torch.logsumexp(log_w, 0) - math.log(count)

    def draw(pick: Tensor, offset: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        task = torch.arange(pick.shape[1])
        among = log_w[:, pick, task]
        gumbel = -torch.empty_like(among).exponential_(generator=generator).log()
        chosen = (among + gumbel).argmax(0)
        together = log_w[: max(1, FOR_K_HAT // len(pick))] - offset
        return candidates[chosen, pick, task], psis(together.flatten(0, 1))[1]

    return _About(log_z, draw)


def _plain(density: TaskDensity, found: Found) -> _About:
    """From the Gaussian itself, or the points themselves where they have no width."""

    def draw(pick: Tensor, offset: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        centre = found.centre[pick, torch.arange(pick.shape[1])]
        if found.spread is None:
            return centre, torch.full((pick.shape[1],), math.inf, dtype=torch.float64)
        spread = found.spread.at(pick)
        z = torch.randn(centre.shape, generator=generator, dtype=torch.float64)
        theta = centre + spread.times(z)
        log_q = -0.5 * (z.square().sum(-1) + z.shape[-1] * LOG_2PI) - spread.log_det()
        log_w = density.under(density.phi[pick]).value(theta) - log_q
        log_w = torch.where(torch.isfinite(log_w), log_w, -math.inf)
        relative = log_w - found.log_z[pick, torch.arange(pick.shape[1])]
        return theta, psis(relative)[1]

    return _About(found.log_z, draw)
