"""Gaussians over θ, one per task: precision matrices of a few dimensions, batched over tasks.

`torch.linalg` calls LAPACK once per matrix of a batch; for tiny matrices that call is the cost. Up to
`UNROLL` dimensions the Cholesky factor is therefore written out element by element, which a compiler fuses
into one loop over tasks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LOG_2PI", "Gaussian", "log_integral"]

UNROLL = 6
LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Gaussian:
    """exp(b'θ - θ'Pθ/2): precision P (..., p, p) and b = P mean (..., p), with the Cholesky factor of P."""

    columns: tuple[tuple[Tensor, ...], ...] | Tensor
    b: Tensor

    @staticmethod
    def of(precision: Tensor, b: Tensor) -> Gaussian:
        """From a precision matrix (..., p, p) and the linear term b (..., p)."""
        p = precision.shape[-1]
        if p > UNROLL:
            return Gaussian(torch.linalg.cholesky(precision), b)
        return Gaussian(_cholesky(precision, p), b)

    def log_det(self) -> Tensor:
        """log det P (...)."""
        if isinstance(self.columns, Tensor):
            return 2 * self.columns.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return 2 * _total([row[-1].log() for row in self.columns])

    def half_quadratic(self) -> Tensor:
        """b' P^-1 b / 2 (...)."""
        return 0.5 * self._whitened().square().sum(-1)

    def mean(self) -> Tensor:
        """P^-1 b (..., p)."""
        return self._solve_transposed(self._whitened())

    def sample(self, z: Tensor) -> Tensor:
        """Draws from standard normal z (..., p)."""
        return self._solve_transposed(self._whitened() + z)

    def _whitened(self) -> Tensor:
        """L^-1 b, where P = L L'."""
        if isinstance(self.columns, Tensor):
            return torch.linalg.solve_triangular(self.columns, self.b.unsqueeze(-1), upper=False).squeeze(-1)
        out: list[Tensor] = []
        for i, row in enumerate(self.columns):
            rest = [row[j] * out[j] for j in range(i)]
            out.append((self.b[..., i] - _total(rest) if rest else self.b[..., i]) / row[i])
        return torch.stack(out, -1)

    def _solve_transposed(self, w: Tensor) -> Tensor:
        """L^-T w."""
        if isinstance(self.columns, Tensor):
            return torch.linalg.solve_triangular(self.columns.mT, w.unsqueeze(-1), upper=True).squeeze(-1)
        p = len(self.columns)
        out: dict[int, Tensor] = {}
        for i in reversed(range(p)):
            rest = [self.columns[j][i] * out[j] for j in range(i + 1, p)]
            out[i] = (w[..., i] - _total(rest) if rest else w[..., i]) / self.columns[i][i]
        return torch.stack([out[i] for i in range(p)], -1)


def log_integral(log_peak: Tensor, gaussian: Gaussian) -> Tensor:
    """log of the integral over θ of exp(log_peak + b'θ - θ'Pθ/2), shape (...)."""
    p = gaussian.b.shape[-1]
    return log_peak + gaussian.half_quadratic() + 0.5 * (p * LOG_2PI - gaussian.log_det())


def _cholesky(a: Tensor, p: int) -> tuple[tuple[Tensor, ...], ...]:
    rows: list[tuple[Tensor, ...]] = []
    for i in range(p):
        row: list[Tensor] = []
        for j in range(i + 1):
            known = [row[k] * (row[k] if j == i else rows[j][k]) for k in range(j)]
            rest = a[..., i, j] - _total(known) if known else a[..., i, j]
            row.append(rest.sqrt() if i == j else rest / rows[j][j])
        rows.append(tuple(row))
    return tuple(rows)


def _total(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
