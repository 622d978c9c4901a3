"""Logistic regression of N classes by Laplace's approximation, in the space of the observations.

    p(y_i = c) = softmax(o_i + f_i)_c,      f_.c ~ Normal(0, K),  K = Z Z'        n observations, N classes

The rows of Z (n, p) are features in units of the prior of their weights: f = Z V, with V (p, N) standard normal; o is
known. What has to be factorised is a matrix of the size of the observations for each class, however many features there
are: with D_c = diag(π_c), E_c = (K + D_c⁻¹)⁻¹, all classes together share one more of them, Σ_c E_c. After Williams and
Barber (1998), "Bayesian classification with Gaussian processes", in the arrangement of Rasmussen and Williams (2006),
"Gaussian processes for machine learning", algorithm 3.3.

The mode is found outside of the differentiated graph, and one more step from there has its derivative (implicit
differentiation): first derivatives of log Z are right, second ones are not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bayesmeta.families.rows_normal import cholesky

__all__ = ["Data", "Fitted", "fitted", "log_likelihood", "root_of_precision", "weights_drawn"]

STEPS = 12
LADDER = (1.0, 0.5, 0.2, 0.05, 0.01, 0.002, 0.0)  # how much of a Newton step is taken: whatever is best


class Data(NamedTuple):
    """Observations of one task.

    Attributes:
        rows: Z (n, p).
        y: Classes, as rows of zeros with a single one (n, N).
        offset: o (n, N).
        mask: Which rows are real (n,); the others have no say.
    """

    rows: Tensor
    y: Tensor
    offset: Tensor
    mask: Tensor


class Fitted(NamedTuple):
    """What is known at the mode.

    Attributes:
        log_z: Laplace's approximation of log p(y), in nats, ().
        weights: V at the mode (p, N).
        share: π at the mode (n, N), zero for rows that are not real.
    """

    log_z: Tensor
    weights: Tensor
    share: Tensor


class _Curved(NamedTuple):
    """At some f: π (n, N), E_c (N, n, n), the root of their sum, and half the log determinant of I + K W."""

    share: Tensor
    each: Tensor
    root: Tensor
    half_log_det: Tensor


def fitted(data: Data) -> Fitted:
    """The mode of V, and Laplace's approximation of the evidence there."""
    still = Data(*(part.detach() for part in data))
    kernel = still.rows @ still.rows.mT
    slope = torch.zeros_like(still.y)
    for _ in range(STEPS):
        slope = _better(still, kernel, slope, _newton(still, kernel, slope))
    kernel = data.rows @ data.rows.mT
    slope = _newton(data, kernel, slope.detach())
    at = _curved(data, kernel, slope)
    return Fitted(_height(data, kernel, slope) - at.half_log_det, data.rows.mT @ slope, at.share)


def log_likelihood(data: Data, f: Tensor) -> Tensor:
    """log p(y | f) of f (..., n, N), (...)."""
    log_shares = torch.log_softmax(data.offset + f, -1)
    return (data.mask.to(f.dtype).unsqueeze(-1) * data.y * log_shares).sum((-1, -2))


def root_of_precision(data: Data, share: Tensor) -> Tensor:
    """The Cholesky factor (p N, p N) of I + Σ_i z_i z_i' ⊗ (diag(π_i) - π_i π_i'), the precision of V at the mode."""
    curved = torch.diag_embed(share) - share.unsqueeze(-1) * share.unsqueeze(-2)
    size = data.rows.shape[1] * share.shape[1]
    precision = torch.einsum("ip,iq,icd->pcqd", data.rows, data.rows, curved).reshape(size, size)
    root: Tensor = cholesky(precision + torch.eye(size, dtype=precision.dtype))
    return root


def weights_drawn(found: Fitted, root: Tensor, z: Tensor) -> Tensor:
    """Draws of V (S, p, N) from the normal about the mode, from standard normal numbers (S, p N)."""
    away: Tensor = torch.linalg.solve_triangular(root.mT, z.mT, upper=True).mT
    return found.weights + away.reshape(len(z), *found.weights.shape)


def _newton(data: Data, kernel: Tensor, slope: Tensor) -> Tensor:
    """Where a Newton step leads from f = K a, as a (n, N)."""
    f, at = kernel @ slope, _curved(data, kernel, slope)
    said = data.mask.to(f.dtype).unsqueeze(-1) * data.y
    pull = at.share * (f - (at.share * f).sum(-1, keepdim=True)) + said - at.share
    away = torch.einsum("cij,jc->ic", at.each, kernel @ pull)
    shared = torch.cholesky_solve(away.sum(-1, keepdim=True), at.root)
    target: Tensor = pull - away + torch.einsum("cij,jk->ic", at.each, shared)
    return target


def _better(data: Data, kernel: Tensor, slope: Tensor, target: Tensor) -> Tensor:
    """The best of some points on the way from one a to another."""
    lengths = torch.tensor(LADDER, dtype=slope.dtype)
    points = slope + lengths[:, None, None] * (target - slope)
    best = _height(data, kernel, points).argmax(0)
    chosen = (torch.arange(len(LADDER)) == best).to(slope.dtype)
    reached: Tensor = torch.tensordot(chosen, points, 1)
    return reached


def _height(data: Data, kernel: Tensor, slope: Tensor) -> Tensor:
    """log p(y, f) at f = K a, without the constant of the prior, of a (..., n, N)."""
    f = kernel @ slope
    height: Tensor = log_likelihood(data, f) - 0.5 * (slope * f).sum((-1, -2))
    return height


def _curved(data: Data, kernel: Tensor, slope: Tensor) -> _Curved:
    real = data.mask.to(kernel.dtype)
    log_share = torch.log_softmax(data.offset + kernel @ slope, -1)
    share, half = real.unsqueeze(-1) * log_share.exp(), (real.unsqueeze(-1) * (0.5 * log_share).exp()).mT.unsqueeze(-1)
    eye = torch.eye(len(share), dtype=share.dtype)
    root = cholesky(eye + half * kernel * half.mT)
    thin = torch.linalg.solve_triangular(root, half * eye, upper=False)
    each = thin.mT @ thin
    together = cholesky(each.sum(0) + torch.diag_embed(1 - real))
    log_det = torch.stack([part.diagonal(dim1=-2, dim2=-1).log().sum() for part in (root, together)])
    return _Curved(share, each, together, log_det.sum())
