"""What is left of the tasks of a linear mixed model once they are read, and what an algebra of it can do.

There are two: `gram_narrow` writes matrices out by element, which is quickest for a few coordinates of θ, and
`gram_wide` asks LAPACK, whose calls are worth their cost for more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from bayesmeta.evidence.linear import Linear
from bayesmeta.program import Phi, Program, Row

__all__ = ["Algebra", "Blocks"]


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


class Algebra(NamedTuple):
    """The formulas of `bayesmeta.evidence.gram`; priors are of its own making, w = [-β, 1] is (m,).

    Attributes:
        read: The prior at φ, of one row of data per task, or of one in all where tasks share prior and scale.
        total: Σ_t log Z_t with its derivative by Fisher's identity (); the last argument says whether they share it.
        per_task: log Z_t (T,).
        conditional: p(θ_t | φ, D_t) as precision P (T, p, p) and P·mean (T, p).
        prior_at: log p(θ | φ) as it was read, at one point θ (p,), and of it the quadratic term.
    """

    read: Callable[[Program, Linear, Phi, Row], Any]
    total: Callable[[Any, Tensor, Blocks, bool], Tensor]
    per_task: Callable[[Any, Tensor, Blocks], Tensor]
    conditional: Callable[[Any, Tensor, Blocks], tuple[Tensor, Tensor]]
    prior_at: Callable[[Any, Tensor], tuple[Tensor, Tensor]]
