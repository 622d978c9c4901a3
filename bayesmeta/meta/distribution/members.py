"""The networks of one task, its members: weights by name with an axis of members in front, of length M or one.

Weights that all members have in common have an axis of one, so that they are kept, and gone through, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from bayesmeta.meta.module import Weights

__all__ = ["count_of", "over_members"]

Found = TypeVar("Found", bound=Tensor | tuple[Tensor, ...])


def count_of(members: Mapping[str, Tensor], axis: int = 0) -> int:
    """M."""
    return max(value.shape[axis] for value in members.values())


def over_members(function: Callable[[Weights], Found], members: Weights) -> Found:
    """`function` of the weights of each member, its results stacked (M, ...)."""
    count = count_of(members)
    own = {name: value for name, value in members.items() if len(value) == count}
    common = {name: value[0] for name, value in members.items() if len(value) != count}
    found: Found = torch.func.vmap(lambda weights: function(common | weights))(own)
    return found
