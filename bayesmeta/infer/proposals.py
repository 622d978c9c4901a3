"""Distributions to draw from in place of a posterior: Gaussians and Student-t's with their log densities.

`LowRank` is the Gaussian that Pathfinder reads off an L-BFGS path: its covariance is the inverse Hessian in the
compact form of Byrd, Nocedal, Schnabel 1994, drawn from in O(dim · history²) whatever the dimension. `Dense` is a
Student-t (or Gaussian) with a full scale matrix. `Mixture` is several of either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Dense", "LowRank", "Mixture", "Proposal"]

LOG_2PI = math.log(2 * math.pi)


class Proposal(Protocol):
    """A distribution over u (dim,)."""

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws (count, dim)."""
        ...

    def log_prob(self, u: Tensor) -> Tensor:
        """log density (S,) of points (S, dim)."""
        ...


@dataclass(frozen=True)
class Dense:
    """A multivariate Student-t with `df` degrees of freedom, location (dim,) and lower factor of its scale matrix.

    With df infinite it is the Gaussian.
    """

    mean: Tensor
    factor: Tensor
    df: float = math.inf

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws (count, dim)."""
        z = torch.randn(count, len(self.mean), generator=generator, dtype=torch.float64)
        if math.isfinite(self.df):
            chi = torch._standard_gamma(torch.full((count, 1), self.df / 2, dtype=torch.float64), generator=generator)
            z = z * (self.df / (2 * chi)).sqrt()
        return self.mean + z @ self.factor.mT

    def log_prob(self, u: Tensor) -> Tensor:
        """log density (S,) of points (S, dim)."""
        white = torch.linalg.solve_triangular(self.factor, (u - self.mean).mT, upper=False)
        square, dim = white.square().sum(0), len(self.mean)
        log_det = self.factor.diagonal().log().sum()
        log_kernel: Tensor = -0.5 * (square + dim * LOG_2PI)
        if math.isfinite(self.df):
            df = self.df
            constant = math.lgamma((df + dim) / 2) - math.lgamma(df / 2) - 0.5 * dim * math.log(df * math.pi)
            log_kernel = constant - 0.5 * (df + dim) * torch.log1p(square / df)
        return log_kernel - log_det


@dataclass(frozen=True)
class LowRank:
    """A Gaussian with covariance √a (I + Q (C - I) Q') √a: a diagonal `a` and few columns Q (dim, r).

    Attributes:
        mean: (dim,).
        root: √a (dim,).
        basis: Q (dim, r), orthonormal columns.
        factor: Lower Cholesky factor of C (r, r).
    """

    mean: Tensor
    root: Tensor
    basis: Tensor
    factor: Tensor

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws (count, dim)."""
        z = torch.randn(count, len(self.mean), generator=generator, dtype=torch.float64)
        inside = z @ self.basis
        return self.mean + self.root * (z + (inside @ self.factor.mT - inside) @ self.basis.mT)

    def log_prob(self, u: Tensor) -> Tensor:
        """log density (S,) of points (S, dim)."""
        white = (u - self.mean) / self.root
        inside = white @ self.basis
        solved = torch.linalg.solve_triangular(self.factor, inside.mT, upper=False).mT
        square = white.square().sum(-1) - inside.square().sum(-1) + solved.square().sum(-1)
        log_det = self.root.log().sum() + self.factor.diagonal().log().sum()
        log_kernel: Tensor = -0.5 * (square + len(self.mean) * LOG_2PI)
        return log_kernel - log_det

    def times(self, vector: Tensor) -> Tensor:
        """The covariance times a vector (dim,)."""
        scaled = self.root * vector
        inside = scaled @ self.basis
        return self.root * (scaled + self.basis @ (self.factor @ (self.factor.mT @ inside) - inside))

    @staticmethod
    def of_path(mean: Tensor, diagonal: Tensor, steps: Tensor, changes: Tensor) -> LowRank:
        """From pairs of L-BFGS.

        Args:
            mean: Where it stands (dim,).
            diagonal: The inverse Hessian before the pairs, its diagonal (dim,).
            steps: s (r, dim), the oldest first.
            changes: y (r, dim): how the gradient of -log density changed, s'y > 0.
        """
        s, y = steps.mT, changes.mT
        root = diagonal.sqrt()
        upper = torch.triu(s.mT @ y)
        inverse = torch.linalg.inv(upper) if len(steps) else upper
        middle = torch.diag(upper.diagonal()) + y.mT @ (diagonal.unsqueeze(-1) * y)
        zero = torch.zeros_like(upper)
        m = torch.cat([torch.cat([zero, -inverse], 1), torch.cat([-inverse.mT, inverse.mT @ middle @ inverse], 1)])
        q, r = torch.linalg.qr(torch.cat([root.unsqueeze(-1) * y, s / root.unsqueeze(-1)], 1))
        inner = torch.eye(r.shape[0], dtype=torch.float64) + r @ m @ r.mT
        return LowRank(mean, root, q, torch.linalg.cholesky(0.5 * (inner + inner.mT)))


@dataclass(frozen=True)
class Mixture:
    """Several proposals with weights that sum to one."""

    parts: Sequence[Proposal]
    weights: Tensor

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws (count, dim)."""
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        sizes = torch.bincount(which, minlength=len(self.parts)).tolist()
        drawn = [part.sample(size, generator) for part, size in zip(self.parts, sizes, strict=True) if size]
        return torch.cat(drawn)[torch.randperm(count, generator=generator)]

    def log_prob(self, u: Tensor) -> Tensor:
        """log density (S,) of points (S, dim)."""
        terms = torch.stack([part.log_prob(u) for part in self.parts])
        return torch.logsumexp(terms + self.weights.log().unsqueeze(-1), 0)
