"""iMAML: the inner loop goes to the bottom of a bowl about the initialisation, and the gradient is that of the bottom.

    w*(m) = argmin over w of  L_support(w) + λ/2 |w - m|²
    dL_query/dm = (I + ∇²L_support(w*) / λ)⁻¹ ∇L_query(w*)

by conjugate gradients: memory does not grow with the number of inner steps, and the path there does not matter.

Rajeswaran, Finn, Kakade and Levine (2019), Meta-learning with implicit gradients, NeurIPS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesmeta.infer.options import check_number, check_whole
from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.episodes import Episodes, Rows
from bayesmeta.meta.flat import Flat
from bayesmeta.meta.module import Functional, Weights
from bayesmeta.meta.training.inner import descend

__all__ = ["IMAML"]

TINY = 1e-30


@dataclass(frozen=True)
class IMAML(Algorithm):
    """Settings of iMAML: those of every algorithm, and more.

    Args:
        regularisation: λ, how strongly a task is held at the initialisation.
        cg_steps: Steps of conjugate gradients.
    """

    inner_steps: int = 16
    regularisation: float = 2.0
    cg_steps: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("cg_steps", self.cg_steps, 1)
        check_number("regularisation", self.regularisation)

    def adapted(self, net: Functional, meta: Weights, support: Rows, steps: int) -> Weights:
        """The weights of one task after so many steps down its support loss and the bowl."""

        def bowl(weights: Weights) -> Tensor:
            away = torch.stack([(value - meta[name]).square().sum() for name, value in weights.items()]).sum()
            return self.risk(net, weights, support) + 0.5 * self.regularisation * away

        return descend(bowl, meta, self.inner_learning_rate, steps)

    def value_and_grad(
        self, net: Functional, meta: Weights, episodes: Episodes, weight: Tensor
    ) -> tuple[Tensor, Weights]:
        """The query loss after adaptation, and the implicit gradient averaged over tasks."""

        def one(support: Rows, query: Rows, noise: Tensor) -> tuple[Tensor, Weights]:
            weights = self.adapted(net, meta, support, self.inner_steps)
            slope, value = torch.func.grad_and_value(lambda w: self.risk(net, w, query))(weights)
            return value, self._implicit(net, weights, support, slope)

        values, grads = torch.func.vmap(one)(*episodes)
        share = weight / len(weight)
        return share @ values, {name: torch.tensordot(share, grad, 1) for name, grad in grads.items()}

    def _implicit(self, net: Functional, weights: Weights, support: Rows, slope: Weights) -> Weights:
        """(I + H / λ)⁻¹ of the query's slope, H the Hessian of the support loss at the adapted weights."""
        flat = Flat(weights)
        descent = torch.func.grad(lambda w: self.risk(net, w, support))

        def times(v: Tensor) -> Tensor:
            curved = torch.func.jvp(descent, (weights,), (flat.named(v),))[1]
            return v + flat.vector(curved) / self.regularisation

        return flat.named(conjugate_gradients(times, flat.vector(slope), self.cg_steps))


def conjugate_gradients(times: Callable[[Tensor], Tensor], b: Tensor, steps: int) -> Tensor:
    """x with Ax = b after so many steps from zero, A positive definite and given as v ↦ Av (Hestenes, Stiefel 1952)."""
    x, residual = torch.zeros_like(b), b
    direction, square = residual, residual @ residual
    for _ in range(steps):
        image = times(direction)
        curvature = direction @ image
        length = torch.where(curvature > 0, square / curvature.clamp(min=TINY), 0.0)  # A may be no bowl far from w*
        x, residual = x + length * direction, residual - length * image
        new = residual @ residual
        direction, square = residual + new / square.clamp(min=TINY) * direction, new
    return x
