"""Gaussians over θ, one per task: precision matrices of a few dimensions, batched over tasks.

`torch.linalg` calls LAPACK once per matrix of a batch; for tiny matrices that call is the cost. Up to `UNROLL`
dimensions the Cholesky factor is therefore written out element by element, each element a tensor over tasks,
which a compiler fuses into one loop. Above, LAPACK is quicker, and what is done with the factor is dense too.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "LOG_2PI",
    "Dense",
    "Gaussian",
    "Matrix",
    "Unrolled",
    "Vector",
    "dot",
    "inverse_lower",
    "is_definite",
    "log_integral",
    "log_volume",
    "times_lower",
    "times_upper",
]

UNROLL = 5
LOG_2PI = math.log(2 * math.pi)

Vector = list[Tensor]
Matrix = list[list[Tensor]]


class Gaussian(ABC):
    """exp(b'θ - θ'Pθ/2) by the lower Cholesky factor L of P and by L⁻¹b.

    What comes by element are tensors over tasks (...): vectors and matrices are lists of them.
    """

    @staticmethod
    def of(precision: Tensor, b: Tensor) -> Gaussian:
        """From precision matrices (..., p, p) and linear terms b (..., p)."""
        if b.shape[-1] > UNROLL:
            return Dense.factored(precision, b)
        return Unrolled.factored([list(row.unbind(-1)) for row in precision.unbind(-2)], list(b.unbind(-1)))

    @staticmethod
    def from_elements(precision: Matrix, b: Vector) -> Gaussian:
        """From the elements of P (its lower triangle is used) and b."""
        if len(b) <= UNROLL:
            return Unrolled.factored(precision, b)
        elements = torch.broadcast_tensors(*b, *(element for row in precision for element in row))
        p = len(b)
        rows = [torch.stack(elements[p * k : p * (k + 1)], -1) for k in range(p + 1)]
        return Dense.factored(torch.stack(rows[1:], -2), rows[0])

    @property
    @abstractmethod
    def white(self) -> Vector:
        """L⁻¹ b."""

    @abstractmethod
    def log_det(self) -> Tensor:
        """log det P (...)."""

    @abstractmethod
    def mean(self) -> Vector:
        """P⁻¹ b."""

    @abstractmethod
    def covariance(self) -> Matrix:
        """P⁻¹."""

    @abstractmethod
    def sample(self, z: Tensor) -> Tensor:
        """Draws (..., p) from standard normal z (..., p)."""

    @abstractmethod
    def columns(self) -> list[Vector]:
        """The columns of a square root of P⁻¹: those of L⁻ᵀ."""

    def half_quadratic(self) -> Tensor:
        """b' P⁻¹ b / 2 (...)."""
        return 0.5 * _total([w * w for w in self.white])


@dataclass(frozen=True)
class Unrolled(Gaussian):
    """Written out element by element."""

    factor: Matrix
    solved: Vector

    @staticmethod
    def factored(precision: Matrix, b: Vector) -> Unrolled:
        """From elements."""
        factor = _cholesky(precision)
        return Unrolled(factor, _solve_lower(factor, b))

    @property
    def white(self) -> Vector:
        """L⁻¹ b."""
        return self.solved

    def log_det(self) -> Tensor:
        """log det P (...)."""
        return 2 * _total([self.factor[i][i].log() for i in range(len(self.factor))])

    def mean(self) -> Vector:
        """P⁻¹ b."""
        return _solve_upper(self.factor, self.solved)

    def covariance(self) -> Matrix:
        """P⁻¹."""
        p = len(self.solved)
        inverse = inverse_lower(self.factor)
        lower = [[_total([inverse[k][i] * inverse[k][j] for k in range(i, p)]) for j in range(i + 1)] for i in range(p)]
        return [[lower[max(i, j)][min(i, j)] for j in range(p)] for i in range(p)]

    def sample(self, z: Tensor) -> Tensor:
        """Draws (..., p) from standard normal z (..., p)."""
        noisy = [w + noise for w, noise in zip(self.solved, z.unbind(-1), strict=True)]
        return torch.stack(_solve_upper(self.factor, noisy), -1)

    def columns(self) -> list[Vector]:
        """The columns of a square root of P⁻¹: those of L⁻ᵀ."""
        return inverse_lower(self.factor, transposed=True)


@dataclass(frozen=True)
class Dense(Gaussian):
    """By LAPACK: the factor (..., p, p) and L⁻¹b (..., p); NaN where P is not positive definite."""

    factor: Tensor
    solved: Tensor

    @staticmethod
    def factored(precision: Tensor, b: Tensor) -> Dense:
        """From precision matrices (..., p, p) and linear terms b (..., p)."""
        factor, failed = torch.linalg.cholesky_ex(precision)
        factor = torch.where((failed == 0)[..., None, None], factor, math.nan)  # as square roots below zero are
        return Dense(factor, torch.linalg.solve_triangular(factor, b.unsqueeze(-1), upper=False).squeeze(-1))

    @property
    def white(self) -> Vector:
        """L⁻¹ b."""
        return list(self.solved.unbind(-1))

    def log_det(self) -> Tensor:
        """log det P (...)."""
        half: Tensor = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return 2 * half

    def half_quadratic(self) -> Tensor:
        """b' P⁻¹ b / 2 (...)."""
        return 0.5 * self.solved.square().sum(-1)

    def mean(self) -> Vector:
        """P⁻¹ b."""
        return list(self.sample(torch.zeros_like(self.solved)).unbind(-1))

    def covariance(self) -> Matrix:
        """P⁻¹."""
        root = self._root()
        return [list(row.unbind(-1)) for row in (root @ root.mT).unbind(-2)]

    def sample(self, z: Tensor) -> Tensor:
        """Draws (..., p) from standard normal z (..., p)."""
        noisy = (self.solved + z).unsqueeze(-1)
        draws: Tensor = torch.linalg.solve_triangular(self.factor.mT, noisy, upper=True).squeeze(-1)
        return draws

    def columns(self) -> list[Vector]:
        """The columns of a square root of P⁻¹: those of L⁻ᵀ."""
        return [list(column.unbind(-1)) for column in self._root().unbind(-1)]

    def _root(self) -> Tensor:
        """L⁻ᵀ."""
        one = torch.eye(self.factor.shape[-1], dtype=self.factor.dtype)
        inverse: Tensor = torch.linalg.solve_triangular(self.factor, one.expand_as(self.factor), upper=False)
        return inverse.mT


def log_integral(log_peak: Tensor, gaussian: Gaussian) -> Tensor:
    """log of the integral over θ of exp(log_peak + b'θ - θ'Pθ/2), shape (...)."""
    return log_peak + gaussian.half_quadratic() + log_volume(gaussian)


def log_volume(gaussian: Gaussian) -> Tensor:
    """log of the integral over θ of exp(-θ'Pθ/2), shape (...)."""
    return 0.5 * (len(gaussian.white) * LOG_2PI - gaussian.log_det())


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """The inner product of two vectors of elements; a fused sum, where a matrix product would be a call."""
    return _total([x * y for x, y in zip(a, b, strict=True)])


def is_definite(precision: Tensor) -> Tensor:
    """Whether matrices (..., p, p) are positive definite: their Cholesky factor exists, bool (...)."""
    zero = torch.zeros_like(precision[..., 0])
    return torch.isfinite(Gaussian.of(precision, zero).log_det())


def _total(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _cholesky(a: Matrix) -> Matrix:
    rows: Matrix = []
    for i in range(len(a)):
        row: Vector = []
        for j in range(i + 1):
            rest = a[i][j] - dot(row, (rows[j] if j < i else row)[:j]) if j else a[i][j]
            row.append(rest.sqrt() if i == j else rest / rows[j][j])
        rows.append(row)
    return rows


def times_lower(factor: Matrix, v: Vector) -> Vector:
    """L v."""
    return [dot(factor[i][: i + 1], v[: i + 1]) for i in range(len(v))]


def times_upper(factor: Matrix, v: Vector) -> Vector:
    """L' v."""
    p = len(v)
    return [dot([factor[j][i] for j in range(i, p)], v[i:]) for i in range(p)]


def _solve_lower(factor: Matrix, b: Vector) -> Vector:
    out: Vector = []
    for i in range(len(b)):
        rest = b[i] - dot(factor[i][:i], out) if i else b[i]
        out.append(rest / factor[i][i])
    return out


def _solve_upper(factor: Matrix, w: Vector) -> Vector:
    """L⁻ᵀ w."""
    p = len(w)
    out: dict[int, Tensor] = {}
    for i in reversed(range(p)):
        known = [factor[j][i] * out[j] for j in range(i + 1, p)]
        out[i] = (w[i] - _total(known) if known else w[i]) / factor[i][i]
    return [out[i] for i in range(p)]


def inverse_lower(factor: Matrix, *, transposed: bool = False) -> Matrix:
    """The rows of L⁻¹ (lower triangle), or with `transposed` the full columns of L⁻ᵀ, which are those rows."""
    p = len(factor)
    inverse: Matrix = []
    for i in range(p):
        diagonal = factor[i][i].reciprocal()
        row = [-dot(factor[i][j:i], [inverse[k][j] for k in range(j, i)]) * diagonal for j in range(i)]
        inverse.append([*row, diagonal])
    if transposed:
        return [[*row, *[torch.zeros_like(row[0])] * (p - len(row))] for row in inverse]
    return inverse
