"""Meta-parameters as one vector, which is what training moves."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bayesmeta.meta.module import Weights

__all__ = ["Flat"]


class Flat:
    """Between named tensors and a vector (q,).

    Args:
        like: The tensors, by name.
    """

    def __init__(self, like: Mapping[str, Tensor]) -> None:
        self._shapes = {name: value.shape for name, value in like.items()}
        self._sizes = [value.numel() for value in like.values()]

    def vector(self, values: Mapping[str, Tensor]) -> Tensor:
        """The tensors as one vector (q,)."""
        return torch.cat([values[name].reshape(-1) for name in self._shapes])

    def named(self, vector: Tensor) -> Weights:
        """A vector (q,) as the tensors."""
        parts = vector.split(self._sizes)
        return {name: part.reshape(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}
