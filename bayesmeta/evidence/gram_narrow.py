"""Gram matrices of tasks with a few coordinates of θ: matrices written out, each element a tensor over tasks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bayesmeta.evidence.gaussian import LOG_2PI, Gaussian, Matrix, Vector, dot, log_volume, times_lower, times_upper
from bayesmeta.evidence.gram_blocks import Blocks

__all__ = ["Moved", "Prior", "conditional", "per_task", "prior_at", "total"]


class Prior(NamedTuple):
    """log p(m + δ | φ) = h + g'δ - δ'Λδ/2 and the precision 1/σ² of the observations; elements are () or (T,).

    The centre m is a constant: the mean of the prior, detached. `root` is the lower Cholesky factor of Λ⁻¹ where it
    can be read off: θ is then standardised by it, because for a correlation near one det Λ is lost in rounding.
    """

    centre: list[Tensor]
    h: Tensor
    g: list[Tensor]
    precision: list[list[Tensor]]
    weight: Tensor
    root: list[list[Tensor]]

    def detached(self) -> Prior:
        """The same numbers as constants."""
        g = [element.detach() for element in self.g]
        precision, root = ([[element.detach() for element in row] for row in m] for m in (self.precision, self.root))
        return Prior(self.centre, self.h.detach(), g, precision, self.weight.detach(), root)


class Moved(NamedTuple):
    """Elements of the blocks of D'D, with A m taken off y, over tasks or summed over them."""

    aa: list[list[Tensor]]
    aw: list[list[Tensor]]
    ww: list[list[Tensor]]

    @staticmethod
    def by(centre: list[Tensor], aa: Tensor, aw: Tensor, ww: Tensor) -> Moved:
        """Blocks (p, p, ...), (p, m, ...), (m, m, ...) with θ counted from `centre`."""
        p, last = range(len(centre)), ww.shape[0] - 1
        moved = [aw[i, last] - dot([aa[i, j] for j in p], centre) for i in p]
        cross = [ww[k, last] - dot([aw[i, k] for i in p], centre) for k in range(last)]
        corner = ww[last, last] - dot([aw[i, last] + moved[i] for i in p], centre)
        inner = [[ww[j, k] for k in range(last)] + [cross[j]] for j in range(last)]
        return Moved(
            [[aa[i, j] for j in p] for i in p],
            [[aw[i, k] for k in range(last)] + [moved[i]] for i in p],
            [*inner, [*cross, corner]],
        )


def total(prior: Prior, w: Tensor, blocks: Blocks, shared: bool) -> Tensor:
    """Σ_t log Z_t, and its derivative in prior and w; see `Gram.total`."""
    moved = Moved.by(prior.centre, blocks.aa, blocks.aw, blocks.ww)
    log_z, mean, square = _integrated(prior.detached(), w.detach(), moved)
    p, m = range(len(mean)), range(len(w))
    fitted = [dot([moved.aw[i][k] for i in p], mean) for k in m]
    energy = dot([moved.aa[i][j] for i in p for j in p], [square[i][j] for i in p for j in p])
    # where all tasks share the prior, sums over tasks come first, and φ meets a handful of numbers
    add = torch.sum if shared else _each
    count = blocks.n.numel() if shared else 1
    moments = [add(element) for row in square for element in row]
    given_theta = count * prior.h + dot(prior.g, [add(element) for element in mean])
    given_theta = given_theta - 0.5 * dot([element for row in prior.precision for element in row], moments)
    given_data = prior.weight * (dot(list(w), [add(element) for element in fitted]) - 0.5 * add(energy))
    n, residual = _without_theta(w, prior, moved, blocks, shared)
    expected = (given_theta + given_data + _at_residual(prior.weight, n, residual)).sum()
    left = (residual - add(_explained(w, moved, mean))).detach().clamp(min=0.0)
    value = log_z.sum() if log_z.dim() else log_z * len(blocks.n)
    value = value + _at_residual(prior.weight, n, left).sum()
    return value.detach() + (expected - expected.detach())


def per_task(prior: Prior, w: Tensor, blocks: Blocks) -> Tensor:
    """log Z_t in nats, (T,)."""
    moved = Moved.by(prior.centre, blocks.aa, blocks.aw, blocks.ww)
    log_z, mean, _ = _integrated(prior, w, moved)
    left = (_quadratic_form(moved.ww, w) - _explained(w, moved, mean)).clamp(min=0.0)
    return log_z + _at_residual(prior.weight, blocks.n, left)


def _without_theta(w: Tensor, prior: Prior, moved: Moved, blocks: Blocks, shared: bool) -> tuple[Tensor, Tensor]:
    """How many observations and r'r, with θ at the centre: of each task (T,), or summed over them where they share."""
    if not shared:
        return blocks.n, _quadratic_form(moved.ww, w)
    moved = Moved.by(prior.centre, blocks.aa.sum(-1), blocks.aw.sum(-1), blocks.ww_sum)
    return blocks.n_sum, _quadratic_form(moved.ww, w)


def _explained(w: Tensor, moved: Moved, mean: Vector) -> Tensor:
    """How much smaller the sum of squared residuals is with θ at `mean` than at the centre (T,)."""
    p = range(len(mean))
    at_mean = [2 * dot(moved.aw[i], list(w)) - dot(moved.aa[i], mean) for i in p]
    return dot(mean, at_mean)


def _at_residual(weight: Tensor, n: Tensor, residual: Tensor) -> Tensor:
    """-n log(2πσ²)/2 - r'r/2σ²."""
    return 0.5 * (n * (weight.log() - LOG_2PI) - residual * weight)


def conditional(prior: Prior, w: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """p(θ_t | φ, D_t) as precision P (T, p, p) and P·mean (T, p)."""
    precision, b = _natural(prior, w, Moved.by(prior.centre, blocks.aa, blocks.aw, blocks.ww))
    b = [of_delta + dot(row, prior.centre) for of_delta, row in zip(b, precision, strict=True)]
    return torch.stack([torch.stack(row, -1) for row in precision], -2), torch.stack(b, -1)


def prior_at(prior: Prior, v: Tensor) -> tuple[Tensor, Tensor]:
    """log p(θ | φ) at θ = v (p,), and δ'Λδ of it; () or (T,) each."""
    away = [at - from_ for at, from_ in zip(v, prior.centre, strict=True)]
    square = dot([x * y for x in away for y in away], [element for row in prior.precision for element in row])
    return prior.h + dot(prior.g, away) - 0.5 * square, square


def _natural(prior: Prior, w: Tensor, moved: Moved) -> tuple[list[list[Tensor]], list[Tensor]]:
    """P = Λ + A'A / σ² and b = g + A'r / σ², elements over tasks."""
    p = range(len(prior.g))
    precision = [[prior.precision[i][j] + moved.aa[i][j] * prior.weight for j in p] for i in p]
    b = [prior.g[i] + dot(moved.aw[i], list(w)) * prior.weight for i in p]
    return precision, b


def _integrated(prior: Prior, w: Tensor, moved: Moved) -> tuple[Tensor, Vector, Matrix]:
    """log Z without the likelihood at the mean of θ - m; that mean, and second moments of θ - m."""
    if prior.root:
        return _standardised(prior, w, moved)
    gaussian = Gaussian.from_elements(*_natural(prior, w, moved))
    mean = gaussian.mean()
    at_mean = prior.h + dot(mean, [g - 0.5 * dot(row, mean) for g, row in zip(prior.g, prior.precision, strict=True)])
    return at_mean + log_volume(gaussian), mean, _second_moment(mean, gaussian)


def _standardised(prior: Prior, w: Tensor, moved: Moved) -> tuple[Tensor, Vector, Matrix]:
    """The same by θ = m + Rz, z standard normal: P = I + R'A'AR / σ² is never near singular."""
    root, p = prior.root, range(len(prior.g))
    right = [times_upper(root, row) for row in moved.aa]
    curved = [times_upper(root, [right[i][k] for i in p]) for k in p]
    precision = [[curved[j][k] * prior.weight + float(j == k) for k in p] for j in p]
    b = [prior.g[i] + dot(moved.aw[i], list(w)) * prior.weight for i in p]
    gaussian = Gaussian.from_elements(precision, times_upper(root, b))
    log_det = dot([root[i][i].log() for i in p], [torch.ones(()) for _ in p])
    z, spread = gaussian.mean(), gaussian.covariance()
    mean = times_lower(root, z)
    halves = [times_lower(root, [spread[i][k] for i in p]) for k in p]
    covariance = [times_lower(root, [halves[k][i] for k in p]) for i in p]
    square = [[covariance[i][j] + mean[i] * mean[j] for j in p] for i in p]
    at_mean = prior.h + log_det + dot(prior.g, mean) - 0.5 * dot(z, z)
    return at_mean + log_volume(gaussian), mean, square


def _second_moment(mean: list[Tensor], gaussian: Gaussian) -> list[list[Tensor]]:
    """E[θθ'] by element."""
    covariance = gaussian.covariance()
    p = range(len(mean))
    return [[covariance[i][j] + mean[i] * mean[j] for j in p] for i in p]


def _quadratic_form(ww: list[list[Tensor]], w: Tensor) -> Tensor:
    """w' W w, for every task (T,) or for their sum ()."""
    return dot([dot(row, list(w)) for row in ww], list(w))


def _each(terms: Tensor) -> Tensor:
    return terms
