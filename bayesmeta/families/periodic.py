"""Sines and cosines of the inputs as features, their frequencies learnt: functions that go on beyond the data.

    x -> (sin(ω_1'x), ..., sin(ω_K'x), cos(ω_1'x), ..., cos(ω_K'x))

What is linear in them, or a network of them, repeats outside of the range that was seen, where a network of x itself
would do anything. With frequencies drawn at random and kept they are random Fourier features (Rahimi, Recht 2007,
"Random features for large-scale kernel machines").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bayesmeta.errors import OptionError

__all__ = ["Periodic"]


class Periodic(nn.Module):
    """A layer of 2K sines and cosines.

    As a part of φ a frequency of one input has the prior Normal(its value here, 1), and those of several inputs are
    weights, Normal(0, 1/√d).

    Args:
        count: K, the number of frequencies.
        inputs: d, the number of inputs.
        highest: The highest frequency, in radians per unit of x; the others are spaced evenly below it.

    Raises:
        OptionError: A count or a frequency that is not above zero.

    Example:
        >>> Periodic(8)(torch.zeros(5, 1)).shape
        torch.Size([5, 16])
    """

    def __init__(self, count: int, inputs: int = 1, *, highest: float = 3.0) -> None:
        for name, value in (("count", count), ("inputs", inputs), ("highest", highest)):
            whole = name == "highest" or isinstance(value, int)
            if not whole or not 0 < value < math.inf:
                raise OptionError(f"{name} must be above 0{'' if name == 'highest' else ' and whole'}, got {value!r}")
        super().__init__()
        spaced = highest * torch.arange(1, count + 1) / count
        self.frequency = nn.Parameter(spaced if inputs == 1 else spaced.unsqueeze(-1).repeat(1, inputs))

    def forward(self, x: Tensor) -> Tensor:
        """Features (..., 2K) of inputs (..., d)."""
        phase = x @ self.frequency.reshape(len(self.frequency), -1).mT
        return torch.cat([phase.sin(), phase.cos()], -1)
