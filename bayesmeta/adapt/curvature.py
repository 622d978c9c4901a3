"""Gaussians at points of θ: how wide p(θ | φ, D) is there, by second derivatives.

    P = -∇² log p(y, θ | φ) = R⁻ᵀ R⁻¹,        θ ≈ v + R z,  z standard normal

Up to `DENSE` coordinates P is had as a matrix. Beyond, as for the weights of a network, standardised coordinates
help: the prior's part of P is the identity, and a few observations curve few directions, so that P is the identity
but in the span of the vectors that Lanczos' iteration finds from products of P with vectors alone (Lanczos 1950;
Golub, Van Loan 2013, "Matrix Computations", chapter 10).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bayesmeta.adapt.density import TaskDensity
from bayesmeta.evidence.gaussian import UNROLL, Gaussian, is_definite

__all__ = ["DENSE", "Diagonal", "LowRank", "Root", "Spread", "curvature_at"]

DENSE = 60
MOST_RANK = 64
# No direction is taken to be wider than the prior by more than the root of this factor.
LEAST_PRECISION = 0.1


class Spread(Protocol):
    """A root R of the inverse precision of each task under each draw of φ."""

    def times(self, z: Tensor) -> Tensor:
        """R z (S, T, p) of z (S, T, p)."""
        ...

    def transposed_times(self, g: Tensor) -> Tensor:
        """R' g (S, T, p) of g (S, T, p)."""
        ...

    def log_det(self) -> Tensor:
        """log |det R| (S, T)."""
        ...

    def at(self, pick: Tensor) -> Spread:
        """That of draw pick[s, t] of φ in place of draw s."""
        ...


@dataclass(frozen=True)
class Root:
    """R as a matrix (S, T, p, p); the first axis may be 1, where all draws of φ share it."""

    root: Tensor

    def times(self, z: Tensor) -> Tensor:
        """R z (S, T, p)."""
        return (self.root * z.unsqueeze(-2)).sum(-1)

    def transposed_times(self, g: Tensor) -> Tensor:
        """R' g (S, T, p)."""
        return (self.root * g.unsqueeze(-1)).sum(-2)

    def log_det(self) -> Tensor:
        """log |det R| (S, T): the roots here are triangular."""
        return self.root.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)

    def at(self, pick: Tensor) -> Root:
        """That of draw pick[s, t] of φ."""
        return self if len(self.root) == 1 else Root(self.root[pick, torch.arange(pick.shape[1])])


@dataclass(frozen=True)
class Diagonal:
    """R as its diagonal (1, T, p), the same for all draws of φ."""

    scale: Tensor

    def times(self, z: Tensor) -> Tensor:
        """R z (S, T, p)."""
        return self.scale * z

    def transposed_times(self, g: Tensor) -> Tensor:
        """R' g (S, T, p)."""
        return self.scale * g

    def log_det(self) -> Tensor:
        """log |det R| (1, T)."""
        return self.scale.log().sum(-1)

    def at(self, pick: Tensor) -> Diagonal:
        """The same: all draws of φ share it."""
        return self


@dataclass(frozen=True)
class LowRank:
    """R = 1 + V (e^(-1/2) - 1) V', for orthonormal V (S, T, p, r) along which P has the eigenvalues e (S, T, r)."""

    vectors: Tensor
    values: Tensor

    def times(self, z: Tensor) -> Tensor:
        """R z (S, T, p)."""
        along = (self.vectors * z.unsqueeze(-1)).sum(-2) * (self.values.rsqrt() - 1)
        return z + (self.vectors * along.unsqueeze(-2)).sum(-1)

    def transposed_times(self, g: Tensor) -> Tensor:
        """R' g (S, T, p): R is symmetric."""
        return self.times(g)

    def log_det(self) -> Tensor:
        """log |det R| (S, T)."""
        return -0.5 * self.values.log().sum(-1)

    def at(self, pick: Tensor) -> LowRank:
        """That of draw pick[s, t] of φ."""
        task = torch.arange(pick.shape[1])
        return LowRank(self.vectors[pick, task], self.values[pick, task])


def curvature_at(density: TaskDensity, v: Tensor, seed: int = 0) -> tuple[Tensor, Tensor, Spread]:
    """The log density (S, T), its gradient (S, T, p) and the spread at points (S, T, p).

    Where P is not positive definite it is moved until it is.
    """
    if density.p <= DENSE:
        value, grad, precision = density.second_order(v, _precision)
        return value, grad, Root(_root(precision))
    rank = min(density.p, MOST_RANK, 2 * int(density.tasks.sizes.max()) + 8)
    value, grad, packed = density.second_order(v, lambda g, leaf: _lanczos(g, leaf, rank, seed))
    return value, grad, LowRank(packed[..., 1:, :], packed[..., 0, :])


def _precision(grad: Tensor, leaf: Tensor) -> Tensor:
    """P (S, T, p, p), column by column."""
    columns = [_times_minus_hessian(grad, leaf, unit) for unit in torch.eye(leaf.shape[-1], dtype=leaf.dtype)]
    precision = torch.stack(columns, -1)
    return 0.5 * (precision + precision.mT)


def _times_minus_hessian(grad: Tensor, leaf: Tensor, vector: Tensor) -> Tensor:
    """P w (S, T, p) of w (S, T, p) or (p,)."""
    if not grad.requires_grad:
        return torch.zeros_like(leaf)
    (product,) = torch.autograd.grad((grad * vector).sum(), leaf, retain_graph=True, materialize_grads=True)
    return -product.detach()


def _root(precision: Tensor) -> Tensor:
    """R = L⁻ᵀ (S, T, p, p), L the Cholesky factor of P."""
    p = precision.shape[-1]
    factor, failed = torch.linalg.cholesky_ex(precision) if p > UNROLL else (precision, ~is_definite(precision))
    bad = (failed != 0) | ~torch.isfinite(precision).all(-1).all(-1)
    if bool(bad.any()):
        precision = precision.masked_scatter(bad[..., None, None], _made_definite(precision[bad]))
    if p <= UNROLL:
        columns = Gaussian.of(precision, torch.zeros_like(precision[..., 0])).columns()
        return torch.stack([torch.stack(column, -1) for column in columns], -1)
    factor = torch.linalg.cholesky(precision) if bool(bad.any()) else factor
    eye = torch.eye(p, dtype=precision.dtype).expand_as(factor)
    inverse: Tensor = torch.linalg.solve_triangular(factor, eye, upper=False)
    return inverse.mT


def _made_definite(precision: Tensor) -> Tensor:
    """Matrices (k, p, p) with eigenvalues no less than `LEAST_PRECISION`; the identity where one is not finite."""
    finite = torch.isfinite(precision).all(-1).all(-1)[:, None, None]
    eye = torch.eye(precision.shape[-1], dtype=precision.dtype)
    values, vectors = torch.linalg.eigh(torch.where(finite, precision, eye))
    moved: Tensor = (vectors * values.clamp(min=LEAST_PRECISION).unsqueeze(-2)) @ vectors.mT
    return moved


def _lanczos(grad: Tensor, leaf: Tensor, rank: int, seed: int) -> Tensor:
    """Eigenvalues of P (S, T, 1, r) over the vectors that go with them (S, T, p, r), by Lanczos on P - 1."""
    generator = torch.Generator().manual_seed(seed)
    q = _unit(torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype))
    basis, projected = [q], []
    for _ in range(rank):
        product = _times_minus_hessian(grad, leaf, basis[-1]) - basis[-1]
        product = torch.where(torch.isfinite(product), product, 0.0)
        projected.append(product)
        rest = product
        for _ in range(2):  # once more, as rounding errors leave some behind
            for known in basis:
                rest = rest - (rest * known).sum(-1, keepdim=True) * known
        basis.append(_unit(rest))
    vectors, image = torch.stack(basis[:rank], -1), torch.stack(projected, -1)
    small = vectors.mT @ image
    values, turn = torch.linalg.eigh(0.5 * (small + small.mT))
    return torch.cat([(1 + values).clamp(min=LEAST_PRECISION).unsqueeze(-2), vectors @ turn], -2)


def _unit(w: Tensor) -> Tensor:
    """w at length one; zero where nothing is left of it."""
    norm = w.norm(dim=-1, keepdim=True)
    return torch.where(norm > 1e-8, w / norm.clamp(min=1e-300), 0.0)
