"""The inner loop: a few steps of gradient descent on the support of one task, as a differentiable function.

The meta-objective is the query loss *after* these steps, and its gradient goes through them: with w(k+1) = w(k) -
α ∇L(w(k)), dw(k+1)/dw(k) = I - α ∇²L(w(k)). Taking the gradient at the initial weights, as is often done by mistake,
leaves out the product of these factors; `first_order` leaves it out on purpose and still takes the gradient at the
adapted weights (Finn, Abbeel, Levine 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from bayesmeta.meta.module import Weights

__all__ = ["Rates", "descend"]

Rates: TypeAlias = float | Mapping[str, Tensor]


def descend(
    loss: Callable[[Weights], Tensor],
    weights: Weights,
    rates: Rates,
    steps: int,
    *,
    first_order: bool = False,
) -> Weights:
    """Weights after so many gradient steps.

    Args:
        loss: The support loss of weights, ().
        weights: Where to begin.
        rates: Learning rate, one for all or one of each weight's shape by name; names that are not in it stay.
        steps: How many.
        first_order: Hold the gradients constant, so that the outer derivative does not pass through them.
    """
    for _ in range(steps):
        slope = torch.func.grad(loss)(weights)
        if first_order:
            slope = {name: value.detach() for name, value in slope.items()}
        weights = {name: value - _rate(rates, name) * slope[name] for name, value in weights.items()}
    return weights


def _rate(rates: Rates, name: str) -> float | Tensor:
    return rates if isinstance(rates, float) else rates.get(name, torch.zeros(()))
