"""A Normal over all rows of a task at once: what rows have in common by a few factors, and noise of their own.

    Y = M + (F Z + diag(h) E) S',      Z (p, k) and E (n, k) standard normal

so that vec(Y) has covariance (FF' + diag(h²)) ⊗ SS': the marginal of a linear model with p coefficients whose prior is
matrix-normal, in k outputs. Its density costs a Cholesky factor of the smaller of n and p.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, TypeAlias

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

__all__ = ["RowsNormal", "cholesky", "log_rows", "whitened"]

Shape: TypeAlias = torch.Size | list[int] | tuple[int, ...]


class RowsNormal(TorchDistribution):
    """The distribution of Y (..., n, k), or of one output (..., n).

    Args:
        loc: M (..., n, k), or (..., n).
        factor: F (..., n, p).
        scale: h (..., n).
        root: S (..., k, k), lower triangular.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(self, loc: Tensor, factor: Tensor, scale: Tensor, root: Tensor) -> None:
        axes = loc.dim() - factor.dim() + 2  # of an event: rows, and outputs where there are several
        self.loc, self.factor, self.scale, self.root = loc, factor, scale, root
        self._one = axes == 1
        super().__init__(loc.shape[: loc.dim() - axes], loc.shape[loc.dim() - axes :], validate_args=False)

    @constraints.dependent_property
    def support(self) -> Any:
        """Real vectors, or real matrices."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """M, of the shape of Y."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Variance of each number of Y."""
        rows = self.factor.square().sum(-1) + self.scale.square()
        outputs = self.root.square().sum(-1)
        return rows * outputs[..., 0, None] if self._one else rows.unsqueeze(-1) * outputs.unsqueeze(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of all rows together (...)."""
        away = value - self.loc
        away = away.unsqueeze(-1) if self._one else away
        mask = torch.ones_like(self.scale, dtype=torch.bool)
        return log_rows(whitened(away, self.root), self.factor, self.scale, self.root, mask)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draws of Y."""
        outputs = self.root.shape[-1]
        lead = torch.Size(sample_shape) + self.batch_shape
        z = torch.randn(*lead, self.factor.shape[-1], outputs, dtype=self.loc.dtype)
        noise = torch.randn(*lead, self.factor.shape[-2], outputs, dtype=self.loc.dtype)
        away = (self.factor @ z + self.scale.unsqueeze(-1) * noise) @ self.root.mT
        drawn: Tensor = self.loc + (away.squeeze(-1) if self._one else away)
        return drawn

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Draws of Y, not differentiable."""
        with torch.no_grad():
            return self.rsample(sample_shape)


def whitened(away: Tensor, root: Tensor) -> Tensor:
    """E S'⁻¹ of E (..., n, k): outputs that are independent and have noise of sd one."""
    if root.shape[-1] == 1:
        return away / root
    white: Tensor = torch.linalg.solve_triangular(root, away.mT, upper=False).mT
    return white


def log_rows(white: Tensor, factor: Tensor, scale: Tensor, root: Tensor, mask: Tensor) -> Tensor:
    """Log density (...) of the rows where mask (..., n) is true, from whitened residuals (..., n, k)."""
    real = mask.to(white.dtype)
    inverse = (real / scale).unsqueeze(-1)
    f, r = factor * inverse, white * inverse
    n, p = f.shape[-2:]
    outputs = white.shape[-1]
    if p <= n:
        lower = cholesky(f.mT @ f + torch.eye(p, dtype=f.dtype))
        explained = torch.linalg.solve_triangular(lower, f.mT @ r, upper=False)
        square = r.square().sum((-2, -1)) - explained.square().sum((-2, -1))
    else:
        lower = cholesky(f @ f.mT + torch.eye(n, dtype=f.dtype))
        square = torch.linalg.solve_triangular(lower, r, upper=False).square().sum((-2, -1))
    log_det = 2 * lower.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 2 * (real * scale.log()).sum(-1)
    count = real.sum(-1)
    between = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    total: Tensor = square + outputs * log_det + count * (between + outputs * math.log(2 * math.pi))
    return -0.5 * total


def cholesky(matrix: Tensor) -> Tensor:
    """The lower Cholesky factor (..., p, p); NaN where there is none."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return torch.where((failed == 0)[..., None, None], factor, math.nan)
