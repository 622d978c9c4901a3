"""Logistic regression of N classes by Laplace's approximation, in the space of the observations.

    p(y_i = c) = softmax(f_i)_c,      f_.c ~ Normal(0, K),  K = Z Z'        n observations, N classes

The rows of Z (n, p) are features in units of the prior of their weights: f = Z V, with V (p, N) standard normal. What
has to be factorised is a matrix of the size of the observations for each class, however many features there are: with
D_c = diag(π_c), E_c = (K + D_c⁻¹)⁻¹, all classes together share one more of them, Σ_c E_c. After Williams and Barber
(1998), "Bayesian classification with Gaussian processes", in the arrangement of Rasmussen and Williams (2006),
"Gaussian processes for machine learning", algorithm 3.3.

The mode is found outside of the differentiated graph, and one more step from there has its derivative (implicit
differentiation): first derivatives of log Z are right, second ones are not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Fitted", "fitted", "root_of_precision", "weights_drawn"]

STEPS = 12
LADDER = (1.0, 0.5, 0.2, 0.05)  # how much of a Newton step is taken: whatever is best


class Fitted(NamedTuple):
    """What is known at the mode.

    Attributes:
        log_z: Laplace's approximation of log p(y), in nats, ().
        weights: V at the mode (p, N).
        share: π at the mode (n, N).
    """

    log_z: Tensor
    weights: Tensor
    share: Tensor


class _Data(NamedTuple):
    """K (n, n), y as rows of zeros with a single one (n, N), and ones for real rows (n, 1)."""

    kernel: Tensor
    y: Tensor
    real: Tensor


class _Curved(NamedTuple):
    """At some f: π (n, N), E_c (N, n, n), the root of their sum, and half the log determinant of I + K W."""

    share: Tensor
    each: Tensor
    root: Tensor
    half_log_det: Tensor


def fitted(rows: Tensor, y: Tensor, mask: Tensor) -> Fitted:
    """The mode of V, and Laplace's approximation of the evidence there.

    Args:
        rows: Z (n, p).
        y: Classes, as rows of zeros with a single one (n, N).
        mask: Which rows are real (n,); the others have no say.
    """
    real = mask.to(rows.dtype).unsqueeze(-1)
    data = _Data(rows @ rows.mT, y * real, real)
    still = _Data(*(part.detach() for part in data))
    slope = torch.zeros_like(still.y)
    for _ in range(STEPS):
        slope = _better(still, slope, _newton(still, slope))
    slope = _newton(data, slope.detach())
    at = _curved(data, slope)
    return Fitted(_height(data, slope) - at.half_log_det, rows.mT @ slope, at.share)


def root_of_precision(rows: Tensor, share: Tensor, mask: Tensor) -> Tensor:
    """The Cholesky factor (p N, p N) of I + Σ_i z_i z_i' ⊗ (diag(π_i) - π_i π_i'), the precision of V at the mode."""
    curved = torch.diag_embed(share) - share.unsqueeze(-1) * share.unsqueeze(-2)
    size = rows.shape[1] * share.shape[1]
    precision = torch.einsum("i,ip,iq,icd->pcqd", mask.to(rows.dtype), rows, rows, curved).reshape(size, size)
    return torch.linalg.cholesky(precision + torch.eye(size, dtype=rows.dtype))


def weights_drawn(found: Fitted, root: Tensor, z: Tensor) -> Tensor:
    """Draws of V (S, p, N) from the normal about the mode, from standard normal numbers (S, p N)."""
    away = torch.linalg.solve_triangular(root.mT, z.mT, upper=True).mT
    return found.weights + away.reshape(len(z), *found.weights.shape)


def _newton(data: _Data, slope: Tensor) -> Tensor:
    """Where a Newton step leads from f = K a, as a (n, N)."""
    f, at = data.kernel @ slope, _curved(data, slope)
    pull = at.share * (f - (at.share * f).sum(-1, keepdim=True)) + data.y - at.share
    away = torch.einsum("cij,jc->ic", at.each, data.kernel @ pull)
    shared = torch.cholesky_solve(away.sum(-1, keepdim=True), at.root)
    return pull - away + torch.einsum("cij,jk->ic", at.each, shared)


def _better(data: _Data, slope: Tensor, target: Tensor) -> Tensor:
    """The best of some points on the way from one a to another."""
    lengths = torch.tensor(LADDER, dtype=slope.dtype)
    points = slope + lengths[:, None, None] * (target - slope)
    heights = torch.stack([_height(data, point) for point in points])
    chosen = (torch.arange(len(LADDER)) == heights.argmax(0)).to(slope.dtype)
    return torch.tensordot(chosen, points, 1)


def _height(data: _Data, slope: Tensor) -> Tensor:
    """log p(y, f) at f = K a, without the constant of the prior, ()."""
    f = data.kernel @ slope
    said = (data.y * f).sum() - (data.real.squeeze(-1) * torch.logsumexp(f, -1)).sum()
    return said - 0.5 * (slope * f).sum()


def _curved(data: _Data, slope: Tensor) -> _Curved:
    log_share = torch.log_softmax(data.kernel @ slope, -1)
    share, half = data.real * log_share.exp(), (data.real * (0.5 * log_share).exp()).mT.unsqueeze(-1)
    eye = torch.eye(len(share), dtype=share.dtype)
    root = torch.linalg.cholesky(eye + half * data.kernel * half.mT)
    thin = torch.linalg.solve_triangular(root, half * eye, upper=False)
    each = thin.mT @ thin
    together = torch.linalg.cholesky(each.sum(0) + torch.diag_embed(1 - data.real.squeeze(-1)))
    log_det = torch.stack([part.diagonal(dim1=-2, dim2=-1).log().sum() for part in (root, together)])
    return _Curved(share, each, together, log_det.sum())
