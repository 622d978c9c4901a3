"""Gram matrices of tasks with more than a few coordinates of θ: dense matrices (T, p, p), by LAPACK.

θ is standardised by a square root R of the prior's covariance, θ = m + Rz with z standard normal, as in
`bayesmeta.evidence.gram_narrow`: P = I + R'A'AR / σ² is never near singular.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bayesmeta.evidence.exact import expansion
from bayesmeta.evidence.gaussian import LOG_2PI
from bayesmeta.evidence.gram_blocks import Blocks
from bayesmeta.evidence.gram_prior import first, locs_and_roots, weight
from bayesmeta.evidence.linear import Linear
from bayesmeta.program import Phi, Program, Row

__all__ = ["Prior", "conditional", "per_task", "prior_at", "read", "total"]


class Prior(NamedTuple):
    """log p(m + δ | φ) = h + g'δ - δ'Λδ/2 and the precision 1/σ² of the observations; for all tasks, or over (T,).

    The centre m is a constant: the mean of the prior, detached. The root R is triangular, RR' = Λ⁻¹.
    """

    centre: Tensor  # (..., p)
    h: Tensor  # (...)
    g: Tensor  # (..., p)
    precision: Tensor  # (..., p, p)
    weight: Tensor  # (...)
    root: Tensor  # (..., p, p)


class Moved(NamedTuple):
    """Blocks of D'D, with A m taken off y."""

    aa: Tensor  # (T, p, p)
    aw: Tensor  # (T, p, m)
    ww: Tensor  # (T, m, m)

    @staticmethod
    def by(centre: Tensor, blocks: Blocks) -> Moved:
        """With θ counted from `centre` (..., p)."""
        aa, aw, ww = (block.permute(2, 0, 1) for block in (blocks.aa, blocks.aw, blocks.ww))
        moved = aw[..., -1] - _times(aa, centre)
        cross = ww[..., :-1, -1] - _times(aw[..., :-1].mT, centre)
        corner = ww[..., -1, -1] - ((aw[..., -1] + moved) * centre).sum(-1)
        above = torch.cat([ww[..., :-1, :-1], cross.unsqueeze(-1)], -1)
        below = torch.cat([cross, corner.unsqueeze(-1)], -1).unsqueeze(-2)
        return Moved(aa, torch.cat([aw[..., :-1], moved.unsqueeze(-1)], -1), torch.cat([above, below], -2))


def read(program: Program, linear: Linear, phi: Phi, rows: Row) -> Prior:
    """The prior at φ: one for all tasks where they share it, else over tasks (T,).

    Args:
        program: The hierarchy's functions.
        linear: The structure of the linear mixed model.
        phi: The point.
        rows: One row of data per task, or one in all where tasks share prior and scale.
    """
    one = _general if linear.prior == "general" else _normal
    if linear.shared:
        return one(program, phi, first(rows))
    return Prior(*program.over_tasks(lambda row: tuple(one(program, phi, row)))(rows))


def total(prior: Prior, w: Tensor, blocks: Blocks, shared: bool) -> Tensor:
    """Σ_t log Z_t, and its derivative in prior and w; see `Gram.total`."""
    moved = Moved.by(prior.centre, blocks)
    log_z, mean, square = _integrated(Prior(*(part.detach() for part in prior)), w.detach(), moved)
    given_theta = prior.h + (prior.g * mean).sum(-1) - 0.5 * (prior.precision * square).sum((-2, -1))
    fitted = _times(moved.aw.mT, mean) @ w
    given_data = prior.weight * (fitted - 0.5 * (moved.aa * square).sum((-2, -1)))
    residual = (moved.ww @ w) @ w
    expected = (given_theta + given_data + _at_residual(prior.weight, blocks.n, residual)).sum()
    left = (residual - _explained(w, moved, mean)).detach().clamp(min=0.0)
    value = (log_z + _at_residual(prior.weight, blocks.n, left)).sum()
    return value.detach() + (expected - expected.detach())


def per_task(prior: Prior, w: Tensor, blocks: Blocks) -> Tensor:
    """log Z_t in nats, (T,)."""
    moved = Moved.by(prior.centre, blocks)
    log_z, mean, _ = _integrated(prior, w, moved)
    left = ((moved.ww @ w) @ w - _explained(w, moved, mean)).clamp(min=0.0)
    return log_z + _at_residual(prior.weight, blocks.n, left)


def conditional(prior: Prior, w: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """p(θ_t | φ, D_t) as precision P (T, p, p) and P·mean (T, p)."""
    moved = Moved.by(prior.centre, blocks)
    precision = prior.precision + moved.aa * prior.weight[..., None, None]
    b = prior.g + (moved.aw @ w) * prior.weight[..., None] + _times(precision, prior.centre)
    return precision, b


def prior_at(prior: Prior, v: Tensor) -> tuple[Tensor, Tensor]:
    """log p(θ | φ) at θ = v (p,), and δ'Λδ of it; () or (T,) each."""
    away = v - prior.centre
    square = (_times(prior.precision, away) * away).sum(-1)
    return prior.h + (prior.g * away).sum(-1) - 0.5 * square, square


def _integrated(prior: Prior, w: Tensor, moved: Moved) -> tuple[Tensor, Tensor, Tensor]:
    """log Z without the likelihood at the mean of θ - m (T,); that mean, and second moments of θ - m."""
    root, p = prior.root, prior.root.shape[-1]
    curved = root.mT @ moved.aa @ root
    factor, failed = torch.linalg.cholesky_ex(torch.eye(p) + curved * prior.weight[..., None, None])
    factor = torch.where((failed == 0)[..., None, None], factor, math.nan)
    slope = _times(root.mT, prior.g + (moved.aw @ w) * prior.weight[..., None])
    white = torch.linalg.solve_triangular(factor, slope.unsqueeze(-1), upper=False)
    half = torch.linalg.solve_triangular(factor, root.mT.expand_as(factor), upper=False)
    z = torch.linalg.solve_triangular(factor.mT, white, upper=True).squeeze(-1)
    mean = _times(root, z)
    square = half.mT @ half + mean.unsqueeze(-1) * mean.unsqueeze(-2)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - root.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    at_mean = prior.h + (prior.g * mean).sum(-1) - 0.5 * z.square().sum(-1)
    return at_mean + 0.5 * p * LOG_2PI - log_det, mean, square


def _explained(w: Tensor, moved: Moved, mean: Tensor) -> Tensor:
    """How much smaller the sum of squared residuals is with θ at `mean` than at the centre (T,)."""
    return (mean * (2 * (moved.aw @ w) - _times(moved.aa, mean))).sum(-1)


def _at_residual(weight: Tensor, n: Tensor, residual: Tensor) -> Tensor:
    """-n log(2πσ²)/2 - r'r/2σ²."""
    return 0.5 * (n * (weight.log() - LOG_2PI) - residual * weight)


def _normal(program: Program, phi: Phi, row: Row) -> Prior:
    """Read off Normals and multivariate normals: their means and the Cholesky factors of their covariances."""
    met = program.meet(phi.returned, torch.zeros(program.structure.theta.size), row)
    locs, roots = locs_and_roots(program, met)
    loc, root = torch.cat(locs), torch.block_diag(*roots)
    inverse = torch.linalg.solve_triangular(root, torch.eye(len(loc)), upper=False)
    precision, centre = inverse.mT @ inverse, loc.detach()
    away = loc - centre
    g = precision @ away
    h = -(root.diagonal().log().sum() + 0.5 * g @ away + 0.5 * len(loc) * LOG_2PI)
    return Prior(centre, h, g, precision, weight(program, phi, row, met), root)


def _general(program: Program, phi: Phi, row: Row) -> Prior:
    """By second-order expansion of log p(θ | φ), whatever its form."""
    p = program.structure.theta.size

    def log_prior(v: Tensor) -> Tensor:
        return program.terms(phi.returned, v, row)[0]

    _, slope, precision = expansion(log_prior, p)
    factor, _ = torch.linalg.cholesky_ex(precision)
    root = torch.linalg.solve_triangular(factor, torch.eye(p), upper=False).mT
    centre = (root @ (root.mT @ slope)).detach()
    g, h = torch.func.grad_and_value(log_prior)(centre)
    return Prior(centre, h, g, precision, weight(program, phi, row), root)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrices (..., k, p) by vectors (..., p)."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
