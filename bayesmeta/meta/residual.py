"""How large the error is that adapted networks leave: the standard deviation that makes past errors likeliest.

Of one network for each task that is the root of the mean squared error. Of a mixture of M it is what is left when the
members' own spread is taken out,

    max over σ of  Σ_n log 1/M Σ_m N(y_n; f_m(x_n), σ²)

by expectation maximisation: each error counts by how likely its member is to be the one (Dempster, Laird and Rubin
1977, Maximum likelihood from incomplete data via the EM algorithm).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.episodes import Rows
from bayesmeta.meta.module import Functional, Weights
from bayesmeta.meta.training.chunks import in_chunks
from bayesmeta.meta.training.feed import Part

__all__ = ["error_left", "residual_sd"]

ROUNDS = 200
TINY = 1e-30


def error_left(algorithm: Algorithm, net: Functional, meta: Weights, parts: Sequence[Part], steps: int) -> float | None:
    """σ on the query of some episodes, after so many steps on their support, a task counting as much as another.

    None where the algorithm knows the standard deviation of each observation.
    """

    def one(support: Rows, query: Rows, noise: Tensor) -> tuple[Tensor, ...]:
        members = algorithm.members(net, meta, support, steps, noise)
        return algorithm.outputs(net, members, query.x)

    squares, weights = [], []
    for part in parts:
        outs, *sd = in_chunks(net, one, part.episodes, "error", chunk=algorithm.chunk)
        if sd:
            return None
        y, mask = part.episodes.query.y, part.episodes.query.mask
        square = (outs.reshape(*outs.shape[:2], *y.shape[1:]) - y.unsqueeze(1)).double().square()
        share = (mask / mask.sum(1, keepdim=True)).double().reshape(*mask.shape, *(1,) * (y.dim() - 2)).expand_as(y)
        squares.append(square.transpose(0, 1).flatten(1))
        weights.append(share.flatten())
    return residual_sd(torch.cat(squares, 1), torch.cat(weights))


def residual_sd(square: Tensor, weight: Tensor) -> float:
    """σ, in units of the observations.

    Args:
        square: The members' squared errors (M, N).
        weight: How much each observation counts (N,), zero for those that are not real.
    """
    share = weight / weight.sum()
    square = torch.where(share > 0, square, 0.0)
    variance = (square.mean(0) @ share).clamp(min=TINY)
    for _ in range(ROUNDS if len(square) > 1 else 0):
        member = torch.softmax(-0.5 * square / variance, 0)
        variance = ((member * square).sum(0) @ share).clamp(min=TINY)
    return float(variance.sqrt())
