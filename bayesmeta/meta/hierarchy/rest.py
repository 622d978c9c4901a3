"""What an initialisation says nothing of, such as how wide p(θ | φ) is: set where the evidence is largest."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bayesmeta.errors import BayesmetaError
from bayesmeta.evidence import kind
from bayesmeta.infer.climb import climb
from bayesmeta.target import Target

__all__ = ["Rest", "rest_of"]

ROADS = {"exact": "exact evidence", "own": "exact evidence", "quadrature": "evidence by quadrature"}


class Rest(NamedTuple):
    """Coordinates of φ (q,), and which of them were set here and how, in a clause."""

    u: Tensor
    said: str


def rest_of(target: Target, u: Tensor, free: Tensor, drawn: Tensor) -> Rest:
    """φ with its free coordinates where log p(φ, D) is largest given the others.

    Args:
        target: The hierarchy on its tasks, θ integrated out.
        u: Coordinates of φ (q,).
        free: Which of them are free (q,).
        drawn: Draws from p(φ) (S, q), to start from.

    Raises:
        BayesmetaError: That is finite nowhere.
    """
    if not bool(free.any()):
        return Rest(u, "")

    def given(w: Tensor) -> tuple[Tensor, Tensor]:
        points = u.expand(len(w), -1).clone()
        points[:, free] = w
        value, grad = target.value_and_grad(points)
        return value, grad[:, free]

    starts = torch.cat([u[free].unsqueeze(0), torch.zeros(1, int(free.sum()), dtype=u.dtype), drawn[:2, free]])
    value, grad = given(starts)
    fine = torch.isfinite(value) & torch.isfinite(grad).all(1)
    if not bool(fine.any()):
        raise BayesmetaError(
            "the evidence of the tasks is finite nowhere near the φ that was found: take a smaller learning_rate, or "
            "inference='svi-map'"
        )
    found = climb(given, starts[fine])
    whole = u.clone()
    whole[free] = found.mode[found.height.argmax()]
    road = ROADS.get(kind(target.evidence), "evidence by Laplace's approximation")
    parts = target.program.structure.phi.split(free.double())
    names = ", ".join(name for name, part in parts.items() if bool(part.any()))
    return Rest(whole, f"{names}, set where the {road} of all tasks is largest given the rest")
