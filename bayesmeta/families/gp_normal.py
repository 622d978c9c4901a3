"""Normal vectors whose elements are correlated: densities, conditionals, and a distribution that is made lazily.

Matrices are batched, and may be padded: where a mask is false, a row and column are those of the identity and the
residual is zero, which changes neither the determinant nor the quadratic form.

    log N(r; 0, K) = -|L⁻¹r|²/2 - Σ log L_ii - n log(2π)/2,      K = LL'
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["JointNormal", "Observed", "cholesky", "log_normal", "log_normal_first_order", "masked"]

LOG_2PI = math.log(2 * math.pi)


def cholesky(matrix: Tensor) -> Tensor:
    """The lower Cholesky factor (..., n, n); NaN where there is none, as a square root below zero is."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return torch.where((failed == 0)[..., None, None], factor, math.nan)


def masked(matrix: Tensor, mask: Tensor) -> Tensor:
    """A covariance (..., n, n) with rows and columns of the identity where the mask (..., n) is false."""
    both = mask.unsqueeze(-1) & mask.unsqueeze(-2)
    return torch.where(both, matrix, torch.eye(mask.shape[-1], dtype=matrix.dtype))


def log_normal(covariance: Tensor, residual: Tensor, mask: Tensor | None = None) -> Tensor:
    """log N(r; 0, K) (...) of residuals (..., n), zero where the mask is false."""
    factor = cholesky(covariance)
    white = _solve(factor, residual)
    count = residual.shape[-1] if mask is None else mask.sum(-1)
    return -0.5 * white.square().sum(-1) - _half_log_det(factor) - 0.5 * count * LOG_2PI


def log_normal_first_order(covariance: Tensor, residual: Tensor, mask: Tensor) -> Tensor:
    """`log_normal` with its first derivatives alone, which cost one inverse and no way back through the factor.

    With α = K⁻¹r, ∂/∂K = (αα' - K⁻¹)/2 and ∂/∂r = -α (Rasmussen, Williams 2006, equation 5.9).
    """
    factor = cholesky(covariance.detach())
    root = _inverse_factor(factor)
    white = (root @ residual.detach().unsqueeze(-1)).squeeze(-1)
    inverse = root.mT @ root
    alpha = (root.mT @ white.unsqueeze(-1)).squeeze(-1)
    slope = 0.5 * (alpha.unsqueeze(-1) * alpha.unsqueeze(-2) - inverse)
    value = -0.5 * white.square().sum(-1) - _half_log_det(factor) - 0.5 * mask.sum(-1) * LOG_2PI
    moving = (slope * covariance).sum((-1, -2)) - (alpha * residual).sum(-1)
    return moving + (value - moving).detach()


def _half_log_det(factor: Tensor) -> Tensor:
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _solve(factor: Tensor, vector: Tensor) -> Tensor:
    """L⁻¹ v."""
    solved: Tensor = torch.linalg.solve_triangular(factor, vector.unsqueeze(-1), upper=False)
    return solved.squeeze(-1)


def _inverse_factor(factor: Tensor) -> Tensor:
    """L⁻¹."""
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype).expand(factor.shape)
    inverse: Tensor = torch.linalg.solve_triangular(factor, eye, upper=False)
    return inverse


class Observed:
    """What the observations of one task say about Normal values elsewhere.

    Args:
        covariance: That of the observations (..., n, n), masked.
        residual: Observations less their means (..., n), zero where masked.
    """

    def __init__(self, covariance: Tensor, residual: Tensor) -> None:
        self._factor = cholesky(covariance)
        self._white = _solve(self._factor, residual)

    def whitened(self, cross: Tensor) -> Tensor:
        """L⁻¹C (..., n, m) of covariances C (..., n, m) between observations and values, zero where masked."""
        solved: Tensor = torch.linalg.solve_triangular(self._factor, cross, upper=False)
        return solved

    def shift(self, whitened: Tensor) -> Tensor:
        """How far the means move (..., m)."""
        return (whitened * self._white.unsqueeze(-1)).sum(-2)


class JointNormal(TorchDistribution):
    """A Normal vector whose moments are at hand and whose covariance is made when it is asked for.

    Means and variances of many predictions cost little, their covariances much.

    Args:
        loc: Means (..., n).
        variance: Variances (..., n).
        covariance: Makes the covariance (..., n, n).
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (as torch has it)
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, variance: Tensor, covariance: Callable[[], Tensor]) -> None:
        self.loc = loc
        self._variance = variance
        self._covariance = covariance
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Means (..., n)."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Variances (..., n)."""
        return self._variance

    @property
    def covariance_matrix(self) -> Tensor:
        """The covariance (..., n, n)."""
        return self._covariance()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density (...) of vectors (..., n)."""
        return log_normal(self._covariance(), value - self.loc)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws (*sample_shape, ..., n)."""
        noise = torch.randn((*sample_shape, *self.loc.shape), dtype=self.loc.dtype)
        return self.loc + (cholesky(self._covariance()) @ noise.unsqueeze(-1)).squeeze(-1)
