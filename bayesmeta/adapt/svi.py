"""Adaptation by variational inference: one Gaussian for θ of each task, shared by all draws of φ.

    q(v | φ) = N(m + B (u - ū), L L'),        v standardised θ, u the coordinates of φ, ū their mean

maximises the mean over draws of φ of E_q[log p(y, v | φ) - log q(v | φ)]. The expectation is taken over a fixed set
of pairs of a draw of φ and normal numbers, which makes it an ordinary function that L-BFGS maximises without a
learning rate (Giordano, Ingram, Broderick 2024, "Black box variational inference with a deterministic objective");
the normal numbers have mean zero and covariance one exactly, so that nothing is lost where log p is quadratic.
Draws are proposed from q and weighted: see `bayesmeta.adapt.ensemble`.

One Gaussian for all φ is cheap where there are thousands of draws of φ, and finds the bulk of a skewed density
where Laplace's method stands on its peak.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayesmeta.adapt.curvature import DENSE, Diagonal, Root
from bayesmeta.adapt.density import TaskDensity
from bayesmeta.adapt.ensemble import Found, adapt_about, proposals_for
from bayesmeta.adapt.problem import Problem, Result, in_pieces
from bayesmeta.errors import OptionError
from bayesmeta.infer.climb import climb
from bayesmeta.infer.options import check_whole

__all__ = ["SVI", "run"]

FULL_MOST = 10
PAIRS_PER_NUMBER = 4


@dataclass(frozen=True)
class SVI:
    """Settings of adaptation by variational inference.

    Args:
        steps: The most steps of L-BFGS.
        pairs: How many pairs of a draw of φ and normal numbers stand for the expectation; more are taken where the
            Gaussian has more parameters than they can settle.
        full: Let coordinates of θ be correlated; None for up to 10 of them.
        correct: Weigh proposals from q, which makes the answer exact where k-hat is below 0.7. By default where θ
            has 50 coordinates at most; beyond, draws of φ keep equal weights.
        proposals: How many to make under each draw of φ.
    """

    steps: int = 100
    pairs: int = 64
    full: bool | None = None
    correct: bool | None = None
    proposals: int = 8

    def __post_init__(self) -> None:
        for name in ("steps", "pairs", "proposals"):
            check_whole(name, getattr(self, name), 1)
        for name in ("full", "correct"):
            if getattr(self, name) not in (None, True, False):
                raise OptionError(f"{name} must be True, False or None, got {getattr(self, name)!r}")

    def proposes(self, p: int) -> int:
        """How many proposals are made for θ of p coordinates."""
        return proposals_for(p, self.correct, self.proposals)


def run(problem: Problem, config: SVI) -> Result:
    """Draws of φ and θ of each task; fewer than there are of φ, where θ has many coordinates."""
    p = problem.program.structure.theta.size
    problem = problem.thinned(problem.affordable) if p > DENSE else problem
    proposals = config.proposes(p)

    def piece(part: Problem) -> Result:
        return adapt_about(part, lambda density: _find(density, config, part.seed), proposals)

    return in_pieces(problem, p * (proposals + 6), piece)


def _find(density: TaskDensity, config: SVI, seed: int) -> Found:
    """The centre and spread of q under each draw of φ."""
    guide = _Guide.of(density, config, seed)
    best = climb(guide.objective, guide.start(density.shape[1]), steps=config.steps).mode
    q = guide.read(best)
    spread = Diagonal(q.scale.unsqueeze(0)) if q.below is None else Root(q.root().unsqueeze(0))
    unknown = torch.zeros(density.shape[:2], dtype=torch.float64)
    return Found(q.centre(guide.away), spread, unknown, weighted=config.proposes(density.p) > 0)


class _Gaussian(NamedTuple):
    """q by task: m (T, p), B (T, p, c), the diagonal of L (T, p), and what stands below it (T, p (p - 1) / 2)."""

    mean: Tensor
    slope: Tensor
    scale: Tensor
    below: Tensor | None

    def centre(self, away: Tensor) -> Tensor:
        """m + B (u - ū) (S, T, p) at distances (S, c)."""
        return self.mean + torch.einsum("tpc,sc->stp", self.slope, away)

    def spread(self, z: Tensor) -> Tensor:
        """L z (K, T, p) of z (K, p)."""
        if self.below is None:
            return self.scale * z.unsqueeze(1)
        return torch.einsum("tpr,kr->ktp", self.root(), z)

    def root(self) -> Tensor:
        """L (T, p, p)."""
        root = torch.diag_embed(self.scale)
        if self.below is None:
            return root
        row, column = torch.ones(root.shape[1:]).tril(-1).nonzero(as_tuple=True)
        return root.index_put((torch.arange(len(root))[:, None], row, column), self.below)


@dataclass(frozen=True)
class _Guide:
    """The objective over the parameters of q of each task, flattened to (T, D).

    Attributes:
        density: Under the draws of φ of the K pairs.
        z: Normal numbers of the pairs (K, p).
        of_pairs: Distances of φ from its mean, of the pairs (K, c).
        away: The same of all draws (S, c).
        full: Whether L has anything below its diagonal.
    """

    density: TaskDensity
    z: Tensor
    of_pairs: Tensor
    away: Tensor
    full: bool

    @staticmethod
    def of(density: TaskDensity, config: SVI, seed: int) -> _Guide:
        draws, _, p = density.shape
        full = p <= FULL_MOST if config.full is None else config.full
        away = _distances(density.phi)
        pairs = max(config.pairs, PAIRS_PER_NUMBER * ((p if full else 1) + away.shape[1]))
        generator = torch.Generator().manual_seed(seed)
        turns = [torch.randperm(draws, generator=generator) for _ in range(-(-pairs // draws))]
        pick = torch.cat(turns)[:pairs]
        z = _normal_numbers(away[pick], p, generator)
        return _Guide(density.under(density.phi[pick]), z, away[pick], away, full)

    def start(self, tasks: int) -> Tensor:
        """The prior, half as wide (T, D)."""
        p, c = self.z.shape[1], self.away.shape[1]
        corners = p * (p - 1) // 2 if self.full else 0
        flat = torch.zeros(tasks, p * (2 + c) + corners, dtype=torch.float64)
        flat[:, p * (1 + c) : p * (2 + c)] = math.log(0.5)
        return flat

    def read(self, flat: Tensor) -> _Gaussian:
        """The parameters from (T, D)."""
        p, c = self.z.shape[1], self.away.shape[1]
        mean, slope, log_scale, below = flat.split([p, p * c, p, flat.shape[1] - p * (2 + c)], 1)
        return _Gaussian(mean, slope.reshape(len(flat), p, c), log_scale.exp(), below if self.full else None)

    def objective(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of log p(y, v | φ) - log q(v | φ), up to a constant (T,), and its gradient (T, D)."""
        with torch.enable_grad():
            leaf = flat.detach().requires_grad_(True)
            q = self.read(leaf)
            v = q.centre(self.of_pairs) + q.spread(self.z)
            entropy = q.scale.log().sum(-1)
            height, slope = self.density.value_and_grad(v.detach())
            # the mean height depends on the parameters by the points v alone: its gradient by theirs
            (grad,) = torch.autograd.grad(((v * slope).sum((0, 2)) / len(self.z) + entropy).sum(), leaf)
        return height.mean(0) + entropy.detach(), grad


def _distances(phi: Tensor) -> Tensor:
    """Distances of draws of φ (S, q) from their mean, uncorrelated and of variance one (S, c).

    Directions that hardly vary are left out, and all of them where φ has too many coordinates: c is then zero.
    """
    away: Tensor = phi - phi.mean(0)
    draws, q = away.shape
    if draws < 10 * q:
        return away[:, :0]
    u, s, _ = torch.linalg.svd(away, full_matrices=False)
    kept: Tensor = u[:, s > 1e-8 * s.max().clamp(min=1e-300)]
    return kept * math.sqrt(draws)


def _normal_numbers(away: Tensor, p: int, generator: torch.Generator) -> Tensor:
    """Normal numbers (K, p) beside distances (K, c): of mean 0, covariance 1, and uncorrelated with these.

    Exactly so, where K is larger than p + c.
    """
    count = len(away)
    z: Tensor = torch.randn(count, p, generator=generator, dtype=torch.float64)
    along, _ = torch.linalg.qr(torch.cat([torch.ones(count, 1, dtype=torch.float64), away], 1))
    z = z - along @ (along.mT @ z)
    if count <= p + away.shape[1] + 1:
        return z
    factor = torch.linalg.cholesky(z.mT @ z / count)
    white: Tensor = torch.linalg.solve_triangular(factor, z.mT, upper=False)
    return white.mT
