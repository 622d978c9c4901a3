"""The Laplace approximation of the weights of one task: a normal distribution about where gradient steps ended.

    H = τ I + L'L        L'L = Σ_rows J' Λ J,   J = ∂f/∂w,   Λ = -∂² log p(y | f) / ∂f²

the Gauss-Newton form of the Hessian of the negative log posterior, for these likelihoods also the Fisher information. A
task has few rows and a network many weights, so H is never made: with A = L / √τ, which has a row for each number that
the network says of the support,

    log det H = p log τ + log det(I + A A')
    H^-1/2 z  = τ^-1/2 (z - A' U diag(1 / (r (r + 1))) U' A z),    A A' = U diag(r² - 1) U'

Only where rows times outputs are many is the diagonal alone taken. Martens (2020), New insights and perspectives on the
natural gradient method, JMLR.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Laplace", "log_probabilities", "root_of_curvature"]


@dataclass(frozen=True)
class Laplace:
    """N(mode, H⁻¹), without its mode.

    Attributes:
        root: A (k, p), so that H = τ (I + A'A); where `diagonal`, the diagonal of A'A (p,).
        log_precision: log τ, ().
        diagonal: Whether only the diagonal of A'A is known.
    """

    root: Tensor
    log_precision: Tensor
    diagonal: bool

    @classmethod
    def of(cls, curved: Tensor, log_precision: Tensor, diagonal: bool) -> Laplace:
        """By L (k, p) and log τ, ()."""
        scaled = curved * (-0.5 * log_precision).exp()
        return cls(scaled.square().sum(0) if diagonal else scaled, log_precision, diagonal)

    def log_det_ratio(self) -> Tensor:
        """log det H - p log τ, (): how much the observations narrow it, twice, in nats."""
        if self.diagonal:
            return torch.log1p(self.root).sum()
        return 2 * self._factor().diagonal().log().sum()

    def sample(self, z: Tensor) -> Tensor:
        """Draws of w - mode (M, p), of standard normal numbers (M, p)."""
        scale = (-0.5 * self.log_precision).exp()
        if self.diagonal:
            return scale * z / (1 + self.root).sqrt()
        eigenvalues, vectors = torch.linalg.eigh(self.root @ self.root.T)
        r = (1 + eigenvalues.clamp(min=0)).sqrt()
        inside = (z @ self.root.T) @ vectors / (r * (r + 1))
        drawn: Tensor = scale * (z - inside @ vectors.T @ self.root)
        return drawn

    def variance(self, slopes: Tensor) -> Tensor:
        """The variance (k,) of j·w for each row j of (k, p)."""
        scale = (-self.log_precision).exp()
        if self.diagonal:
            return scale * (slopes.square() / (1 + self.root)).sum(1)
        known: Tensor = torch.linalg.solve_triangular(self._factor(), self.root @ slopes.T, upper=False)
        return scale * (slopes.square().sum(1) - known.square().sum(0))

    def _factor(self) -> Tensor:
        """The Cholesky factor of I + A A' (k, k)."""
        one = torch.eye(len(self.root), dtype=self.root.dtype)
        factor: Tensor = torch.linalg.cholesky(one + self.root @ self.root.T)
        return factor


def root_of_curvature(out: Callable[[Tensor], Tensor], weights: Tensor, mask: Tensor, noise: Tensor | None) -> Tensor:
    """L (k, p), by the rows of one task.

    Args:
        out: What the network says of the rows (n, c), by weights (p,).
        weights: Where (p,).
        mask: Which rows are real (n,).
        noise: Standard deviation of normal observations, (); None where outputs are logits of classes.
    """
    slopes = torch.func.jacrev(out)(weights)
    if noise is None:
        p = torch.softmax(out(weights), -1)
        each = p.sqrt().unsqueeze(-1) * (slopes - (p.unsqueeze(-1) * slopes).sum(1, keepdim=True))
    else:
        each = slopes / noise
    return torch.where(mask.reshape(-1, 1, 1), each, 0.0).flatten(0, 1)


def log_probabilities(mean: Tensor, variance: Tensor) -> Tensor:
    """log of about the mean of the softmax of normal logits (n, classes), by their means and variances.

    With two classes it is MacKay's formula for the logistic function, with more Lu, Ie and Sha (2020), Mean-field
    approximation to Gaussian-softmax integral, arXiv:2006.07584, brought to a sum of one.
    """
    scale = (1 + math.pi / 8 * (variance.unsqueeze(-1) + variance.unsqueeze(-2))).sqrt()
    against = (mean.unsqueeze(-2) - mean.unsqueeze(-1)) / scale  # of each class (.., k, i), zero against itself
    return torch.log_softmax(-torch.logsumexp(against, -1), -1)
