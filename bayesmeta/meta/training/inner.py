"""The inner loop: a few steps of gradient descent on the support of one task, as a differentiable function.

The meta-objective is the query loss *after* these steps, and its gradient goes through them: with w(k+1) = w(k) -
α ∇L(w(k)), dw(k+1)/dw(k) = I - α ∇²L(w(k)). Taking the gradient at the initial weights, as is often done by mistake,
leaves out the product of these factors; `first_order` leaves it out on purpose and still takes the gradient at the
adapted weights (Finn, Abbeel, Levine 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from bayesmeta.meta.module import Weights
from bayesmeta.meta.training.recompute import recomputed

__all__ = ["Rates", "descend"]

Rates: TypeAlias = float | Mapping[str, Tensor]


def descend(
    loss: Callable[..., Tensor],
    weights: Weights,
    rates: Rates,
    steps: int,
    *,
    first_order: bool = False,
    given: tuple[Any, ...] = (),
    recompute: bool = False,
) -> Weights:
    """Weights after so many gradient steps.

    Args:
        loss: The support loss of weights, (), and of what is given.
        weights: Where to begin.
        rates: Learning rate, one for all or one of each weight's shape by name; names that are not in it stay.
        steps: How many.
        first_order: Hold the gradients constant, so that the outer derivative does not pass through them.
        given: Further arguments of the loss, in tuples and dicts: with `recompute` all other tensors that it takes.
        recompute: Keep the weights between steps alone, and compute a step again when it is differentiated: memory for
            time. Second derivatives of the result are then not to be had.
    """

    def step(weights: Weights, rates: Rates, given: tuple[Any, ...]) -> Weights:
        slope = torch.func.grad(loss)(weights, *given)
        if first_order:
            slope = {name: value.detach() for name, value in slope.items()}
        return {name: value - _rate(rates, name) * slope[name] for name, value in weights.items()}

    for _ in range(steps):
        weights = recomputed(step, weights, rates, given) if recompute else step(weights, rates, given)
    return weights


def _rate(rates: Rates, name: str) -> float | Tensor:
    return rates.get(name, torch.zeros(())) if isinstance(rates, Mapping) else rates
