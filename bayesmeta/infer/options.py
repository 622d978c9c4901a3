"""Checks that the settings of several back-ends share."""

from __future__ import annotations

from bayesmeta.errors import OptionError

__all__ = ["check_whole"]


def check_whole(name: str, value: object, least: int) -> None:
    """Raise an OptionError unless the value is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise OptionError(f"{name} must be a whole number of at least {least}, got {value!r}")
