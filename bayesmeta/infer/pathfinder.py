"""Pathfinder: Gaussians along the way to the mode, the best of each path, weighted.

Zhang, Carpenter, Gelman, Vehtari 2022, "Pathfinder: Parallel quasi-Newton variational inference".

The way of L-BFGS to a mode leads through the body of a posterior; at each of its points the pairs of steps and
gradient changes give a Gaussian for nothing. The one with the highest ELBO of each path is kept, all paths are
drawn from, and Pareto-smoothed importance weights over their mixture correct what the Gaussians miss. The cost
grows with the dimension only linearly, so that it also serves where θ is sampled too.
"""

from __future__ import annotations

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
from bayesmeta.infer.laplace import importance_draws
from bayesmeta.infer.options import check_whole
from bayesmeta.infer.proposals import LowRank, Mixture
from bayesmeta.target import Target
from bayesmeta.track import bar

__all__ = ["Pathfinder", "best_of_paths", "run"]


@dataclass(frozen=True)
class Pathfinder:
    """Settings of multi-path Pathfinder.

    Args:
        draws: Equally weighted draws that come out.
        paths: Paths, each from a start of its own.
        steps: The most steps of a path.
        history: Pairs of L-BFGS that a Gaussian is made of; two columns of its covariance each.
        elbo_draws: Draws that estimate the ELBO of each point of a path.
        importance: Weight the draws by the density; False gives the Gaussians themselves, and still says k-hat.
        evidence: ``"exact"``, ``"quadrature"``, ``"laplace"`` (θ integrated out), ``"joint"`` (θ sampled too), or
            ``"auto"``: the first valid.
    """

    draws: int = 4000
    paths: int = 8
    steps: int = 200
    history: int = 6
    elbo_draws: int = 20
    importance: bool = True
    evidence: Literal["auto", "exact", "quadrature", "laplace", "joint"] = "auto"

    def __post_init__(self) -> None:
        for name in ("draws", "paths", "steps", "history", "elbo_draws"):
            check_whole(name, getattr(self, name), 1)
        if self.evidence not in METHODS:
            raise OptionError(unknown("evidence", self.evidence, METHODS))


def run(target: Target, config: Pathfinder, *, seed: int = 0, progress: bool = True) -> Draws:
    """Draw from a target by multi-path Pathfinder.

    Raises:
        BayesmetaError: No starting point was found, or no path has a point whose ELBO is finite.
    """
    begin = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    starts = finite_starts(target.value_and_grad, config.paths, target.dim, generator)
    with bar("finding paths", config.steps, progress) as step:
        found = climb(target.value_and_grad, starts, steps=config.steps, watch=lambda k, value: step(1))
    normals, elbos = best_of_paths(target, found, config.history, config.elbo_draws, generator)
    sampler = Importance(target.log_prob, generator)
    shares = torch.full((len(normals),), 1 / len(normals), dtype=torch.float64)
    sampler.draw(Mixture(normals, shares), config.draws)
    steps = len(found.u) - 1
    spread = f"{float(elbos.min()):.1f} to {float(elbos.max()):.1f} nats"
    log = (f"{len(normals)} of {config.paths} paths, {steps} steps at most, best ELBO of a path from {spread}",)
    return importance_draws(sampler, config.draws, seed, begin, log, found.evaluations, config.importance)


def best_of_paths(
    target: Target, found: Climb, history: int, draws: int, generator: torch.Generator
) -> tuple[list[LowRank], Tensor]:
    """Of each path the Gaussian with the highest ELBO, and these ELBOs in nats.

    Raises:
        BayesmetaError: None has a finite ELBO.
    """
    normals, elbos = [], []
    for path in range(found.u.shape[1]):
        candidates = _along(found.u[:, path], found.grad[:, path], history)
        if not candidates:
            continue
        values = _elbos(target, candidates, draws, generator)
        best = int(values.argmax())
        if bool(torch.isfinite(values[best])):
            normals.append(candidates[best])
            elbos.append(values[best])
    if not normals:
        raise BayesmetaError(
            "no path of Pathfinder has a point whose ELBO is finite: the posterior is improper or very hard; use "
            "inference='nuts'"
        )
    return normals, torch.stack(elbos)


def _along(u: Tensor, grad: Tensor, history: int) -> list[LowRank]:
    """The Gaussian at each point of a path (steps, dim) behind the first, by the pairs until there."""
    diagonal = torch.ones(u.shape[1], dtype=torch.float64)
    pairs: list[tuple[Tensor, Tensor]] = []
    normals = []
    for k in range(1, len(u)):
        s, y = u[k] - u[k - 1], grad[k - 1] - grad[k]
        if float(s @ y) > 1e-12 * float(y @ y):
            diagonal = _updated(diagonal, s, y)
            pairs = [*pairs, (s, y)][-history:]
        elif not bool(s.any()):
            break
        if pairs:
            normal = _normal(u[k], grad[k], diagonal, pairs)
            if normal is not None:
                normals.append(normal)
    return normals


def _updated(diagonal: Tensor, s: Tensor, y: Tensor) -> Tensor:
    """The diagonal inverse Hessian after a pair (Gilbert, Lemaréchal 1989), as Pathfinder uses it."""
    a, b, c = y @ (diagonal * y), y @ s, s @ (s / diagonal)
    inverse = a / (b * diagonal) + y.square() / b - a * s.square() / (b * c * diagonal.square())
    updated = 1 / inverse
    fine = torch.isfinite(updated) & (updated > 0)
    return torch.where(fine, updated, diagonal)


def _normal(u: Tensor, grad: Tensor, diagonal: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> LowRank | None:
    """The Gaussian at one point: a Newton step away, with the inverse Hessian of the pairs as its covariance."""
    steps, changes = (torch.stack(column) for column in zip(*pairs, strict=True))
    try:
        at_point = LowRank.of_path(u, diagonal, steps, changes)
    except RuntimeError:
        return None
    shifted = LowRank(u + at_point.times(grad), at_point.root, at_point.basis, at_point.factor)
    return shifted if bool(torch.isfinite(shifted.mean).all()) else None


def _elbos(target: Target, candidates: list[LowRank], draws: int, generator: torch.Generator) -> Tensor:
    """The ELBO of each candidate in nats, all their draws in one batch."""
    drawn = [normal.sample(draws, generator) for normal in candidates]
    values = target.log_prob(torch.cat(drawn)).reshape(len(candidates), draws)
    entropy = torch.stack([-normal.log_prob(u) for normal, u in zip(candidates, drawn, strict=True)])
    elbos = (values + entropy).mean(1)
    return torch.where(torch.isfinite(elbos), elbos, -torch.inf)
