"""Checks that the settings of several back-ends share."""

from __future__ import annotations

import math

from bayesmeta.errors import OptionError

__all__ = ["check_number", "check_whole"]


def check_whole(name: str, value: object, least: int) -> None:
    """Raise an OptionError unless the value is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise OptionError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_number(name: str, value: object, most: float = math.inf, *, zero: bool = False) -> None:
    """Raise an OptionError unless the value lies above zero, or at it where that is allowed, and below `most`."""
    if isinstance(value, int | float) and not isinstance(value, bool) and (0 < value < most or (zero and value == 0)):
        return
    least = "of at least 0" if zero else "above 0"
    bound = "" if math.isinf(most) else f" and below {most:g}"
    raise OptionError(f"{name} must be a number {least}{bound}, got {value!r}")
