"""Observations that are classes, 0 to N-1: the probabilities that a Categorical distribution gives them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bayesmeta.closed_form import Mixed

__all__ = ["base_of", "class_count", "class_shares", "log_share"]


def base_of(fn: Any) -> Any:
    """What is under nested `Independent` and expanded distributions."""
    while type(fn).__name__ in ("Independent", "ExpandedDistribution"):
        fn = fn.base_dist
    return fn


def class_count(fn: Any) -> int:
    """N, the number of classes of Categorical observations or of a mixture of them; 0 for others."""
    base = base_of(fn.parts if isinstance(fn, Mixed) else fn)
    return int(base.probs.shape[-1]) if type(base).__name__ == "Categorical" else 0


def class_shares(fn: Any) -> Tensor:
    """Probabilities of the classes of Categorical observations (m, N), of a mixture of them averaged."""
    if isinstance(fn, Mixed):
        mixed: Tensor = torch.tensordot(fn.log_weights.exp(), class_shares(fn.parts), 1)
        return mixed
    probs: Tensor = base_of(fn).probs
    return probs.expand(*fn.shape(), probs.shape[-1])


def log_share(fn: Any, y: Tensor) -> Tensor:
    """The log probability of each class y (m,), each on its own."""
    chosen: Tensor = class_shares(fn).gather(-1, y.long().unsqueeze(-1))
    return chosen.squeeze(-1).log()
