"""What a number on the screen may be: its range, and whether it takes levels, whole numbers or any.

Inputs, contexts and outcomes are looked at in the data of the fit: a floor is 0 or 1, a day or a count a whole number,
a reaction time any number. A point that is dragged snaps to what its quantity can be, and a curve is drawn at no other
inputs; what is typed is taken as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bayesmeta.errors import DataError

__all__ = ["Kind", "Quantity"]

Kind = Literal["levels", "whole", "real"]

MOST_LEVELS = 3
GRID = 61
ROOM = 0.05  # beyond the data, as a share of their range


@dataclass(frozen=True)
class Quantity:
    """One column of x, a context, or the outcome.

    Attributes:
        name: What it is called.
        kind: ``"levels"`` where it takes up to three whole numbers, ``"whole"`` for other whole numbers, ``"real"``.
        low: Least value that is drawn.
        high: Largest value that is drawn.
        middle: Its median, which stands where nobody chose a value.
        values: The levels, else empty.

    Examples:
        >>> Quantity.of("floor", torch.tensor([0.0, 1.0, 0.0]))
        Quantity(name='floor', kind='levels', low=0.0, high=1.0, middle=0.0, values=(0.0, 1.0))
        >>> Quantity.of("day", torch.arange(10.0)).grid()
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    """

    name: str
    kind: Kind
    low: float
    high: float
    middle: float
    values: tuple[float, ...] = ()

    @staticmethod
    def of(name: str, data: Tensor) -> Quantity:
        """The quantity whose values (N,) these are."""
        distinct = data.double().unique()
        low, high, middle = float(distinct.min()), float(distinct.max()), float(data.double().median())
        if bool((distinct == distinct.round()).all()):
            if len(distinct) <= MOST_LEVELS:
                return Quantity(name, "levels", low, high, middle, tuple(distinct.tolist()))
            return Quantity(name, "whole", low, high, middle)
        return Quantity(name, "real", *_with_room(low, high, ROOM), middle)

    @staticmethod
    def outcome(name: str, data: Tensor) -> Quantity:
        """The observations (N,): yes or no, counts from 0 on, or any number; there is room beyond the data."""
        found = Quantity.of(name, data)
        if found.is_binary:
            return found
        counts = found.kind != "real" and found.low >= 0
        limits = _with_room(found.low, found.high, 2 * ROOM)
        return Quantity(name, "whole" if counts else "real", *limits, found.middle)

    @property
    def is_binary(self) -> bool:
        """Whether it is 0 or 1."""
        return self.values == (0.0, 1.0)

    def grid(self) -> list[float]:
        """Values at which a curve over it is drawn."""
        if self.kind == "levels":
            return list(self.values)
        even = torch.linspace(self.low, self.high, GRID, dtype=torch.float64)
        if self.kind == "whole":
            whole: list[float] = even.round().unique().tolist()
            return whole
        points: list[float] = even.tolist()
        return points

    def number(self, value: Any) -> float:
        """A value of it as the page sends it.

        Raises:
            DataError: It is no finite number.
        """
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise DataError(f"{self.name}: got {value!r}; wanted a finite number")
        return float(value)

    def plain(self) -> dict[str, Any]:
        """What the page needs to know of it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "low": self.low,
            "high": self.high,
            "middle": self.middle,
            "values": list(self.values),
        }


def _with_room(low: float, high: float, share: float) -> tuple[float, float]:
    """Limits beyond the data, but not across zero: of what is positive, nothing negative is asked."""
    room = share * (high - low) or 1.0
    return (low - room if low < 0 else max(0.0, low - room)), (high + room if high > 0 else min(0.0, high + room))
