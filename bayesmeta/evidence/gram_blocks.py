"""What is left of the tasks of a linear mixed model, and the integral over θ from it: element by element.

In the words of `bayesmeta.evidence.gram`: blocks of D'D, the prior of θ about its mean, and the Gaussian integral, by
the precision of θ itself or, where the prior's Cholesky factor is known, by that of θ standardised.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bayesmeta.evidence.gaussian import Gaussian, Matrix, Vector, dot, log_integral, times_lower, times_upper
from bayesmeta.program import Row

__all__ = ["Blocks", "Moved", "Prior", "integrated", "natural", "quadratic_form"]


class Blocks(NamedTuple):
    """What is left of the tasks: blocks of D'D over w = [-β, 1], counts, and one row each for the prior.

    The task axis comes last, so that each element is one contiguous vector over tasks.
    """

    aa: Tensor  # (p, p, T)
    aw: Tensor  # (p, m, T)
    ww: Tensor  # (m, m, T)
    n: Tensor  # (T,)
    ww_sum: Tensor  # (m, m)
    n_sum: Tensor  # ()
    rows: Row  # one row per task, or one in all where neither prior nor scale depends on the task


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


def natural(prior: Prior, w: Tensor, moved: Moved) -> tuple[list[list[Tensor]], list[Tensor]]:
    """P = Λ + A'A / σ² and b = g + A'r / σ², elements over tasks."""
    p = range(len(prior.g))
    precision = [[prior.precision[i][j] + moved.aa[i][j] * prior.weight for j in p] for i in p]
    b = [prior.g[i] + dot(moved.aw[i], list(w)) * prior.weight for i in p]
    return precision, b


def integrated(prior: Prior, w: Tensor, moved: Moved) -> tuple[Tensor, Vector, Matrix]:
    """log of the integral over θ, but for what does not involve θ; mean and second moments of θ - m."""
    if prior.root:
        return _standardised(prior, w, moved)
    gaussian = Gaussian.from_elements(*natural(prior, w, moved))
    mean = gaussian.mean()
    return log_integral(prior.h, gaussian), mean, _second_moment(mean, gaussian)


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
    return log_integral(prior.h + log_det, gaussian), mean, square


def _second_moment(mean: list[Tensor], gaussian: Gaussian) -> list[list[Tensor]]:
    """E[θθ'] by element."""
    covariance = gaussian.covariance()
    p = range(len(mean))
    return [[covariance[i][j] + mean[i] * mean[j] for j in p] for i in p]


def quadratic_form(ww: list[list[Tensor]], w: Tensor) -> Tensor:
    """w' W w, for every task (T,) or for their sum ()."""
    return dot([dot(row, list(w)) for row in ww], list(w))
