"""Reptile: the initialisation moves towards where gradient descent takes it on each task.

Nichol, Achiam and Schulman (2018), On first-order meta-learning algorithms, arXiv:1803.02999.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.episodes import Episodes, Rows
from bayesmeta.meta.module import Functional, Weights

__all__ = ["Reptile"]


@dataclass(frozen=True)
class Reptile(Algorithm):
    """Settings of Reptile: those of every algorithm. All rows of a task are gone down, support and query alike."""

    def value_and_grad(
        self, net: Functional, meta: Weights, episodes: Episodes, weight: Tensor
    ) -> tuple[Tensor, Weights]:
        """The query loss after adaptation to the support, and w - w(k) averaged over tasks."""

        def one(support: Rows, query: Rows, noise: Tensor) -> tuple[Tensor, Weights]:
            both = Rows(*(torch.cat(parts) for parts in zip(support, query, strict=True)))
            moved = self.adapted(net, meta, both, self.inner_steps)
            value = self.objective(net, meta, Episodes(support, query, noise))
            return value, {name: meta[name] - moved[name] for name in meta}

        values, moves = torch.func.vmap(one)(*episodes)
        share = weight / len(weight)
        return share @ values, {name: torch.tensordot(share, move, 1) for name, move in moves.items()}
