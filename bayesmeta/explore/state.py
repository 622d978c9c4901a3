"""What the user of the view has chosen and typed: the one thing that the page and Python tell each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bayesmeta.errors import DataError, OptionError
from bayesmeta.explore.quantity import Quantity

__all__ = ["MOST_POINTS", "Point", "State"]

MOST_POINTS = 200


@dataclass(frozen=True)
class Point:
    """One observation that can be moved: its inputs, one for each column of x, and its outcome."""

    x: tuple[float, ...]
    y: float


@dataclass(frozen=True)
class State:
    """The choices, valid for the posterior that is looked at.

    Attributes:
        task: Name of the task; a new one where no task has that name.
        points: New observations of it.
        context: Its context, by name; of numbers only.
        element: Which element of θ is drawn, as a position among all.
        column: Which column of x is the horizontal axis.
        held: Values of all columns of x, where they are not the axis.
    """

    task: str
    points: tuple[Point, ...] = ()
    context: Mapping[str, float] = field(default_factory=dict)
    element: int = 0
    column: int = 0
    held: tuple[float, ...] = ()

    def plain(self) -> dict[str, Any]:
        """The same as lists and dicts."""
        return {**asdict(self), "points": [{"x": list(p.x), "y": p.y} for p in self.points], "held": list(self.held)}


def read_points(raw: Any, columns: Sequence[Quantity], outcome: Quantity) -> tuple[Point, ...]:
    """Points as the page sends them.

    Raises:
        DataError: They are not a list of such points, too many, or not of finite numbers.
    """
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        raise DataError(f"points: got {type(raw).__name__}; wanted a list of points")
    if len(raw) > MOST_POINTS:
        raise DataError(f"points: got {len(raw)}; the view moves up to {MOST_POINTS}: use posterior.adapt for more")
    points = []
    for k, one in enumerate(raw):
        if not isinstance(one, Mapping) or set(one) != {"x", "y"} or not _is_row(one["x"], len(columns)):
            raise DataError(f"observation {k + 1}: got {one!r}; wanted x, {len(columns)} numbers, and y")
        x = tuple(column.number(value) for column, value in zip(columns, one["x"], strict=True))
        y = outcome.number(one["y"])
        if outcome.is_binary and y not in outcome.values:
            raise DataError(f"observation {k + 1}: {outcome.name} is {y:g}; wanted 0 or 1, as in the data of the fit")
        points.append(Point(x, y))
    return tuple(points)


def _is_row(x: Any, width: int) -> bool:
    return isinstance(x, Sequence) and not isinstance(x, str) and len(x) == width


def read_position(raw: Any, count: int, name: str) -> int:
    """A position from 0 to count - 1; 0 where there is nothing to choose from.

    Raises:
        OptionError: There is no such position.
    """
    if count == 0:
        return 0
    if isinstance(raw, bool) or not isinstance(raw, int) or not 0 <= raw < count:
        raise OptionError(f"{name}: got {raw!r}; wanted a whole number from 0 to {count - 1}")
    return raw
