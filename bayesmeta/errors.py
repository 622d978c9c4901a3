"""What can go wrong, by kind: one base class, and each error also the builtin that Python users expect."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BayesmetaError",
    "BayesmetaWarning",
    "DataError",
    "FileFormatError",
    "HierarchyError",
    "NotAvailableError",
    "OptionError",
    "UnknownNameError",
    "unknown",
]


class BayesmetaError(Exception):
    """Base of every error that bayesmeta raises on purpose."""


class DataError(BayesmetaError, ValueError):
    """The observations are not usable: NaN, empty, ragged in the wrong place, not numeric."""


class HierarchyError(BayesmetaError, ValueError):
    """The user's hyperprior or task does not describe a hierarchy that can be fitted."""


class OptionError(BayesmetaError, ValueError):
    """A setting is unknown, or its value is out of range."""


class UnknownNameError(BayesmetaError, KeyError):
    """A task, site, preset, model or data set of that name does not exist."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class FileFormatError(BayesmetaError, ValueError):
    """A file is not one of ours, or does not fit the hierarchy it is opened with."""


class NotAvailableError(BayesmetaError, RuntimeError):
    """What was asked for needs something that is not there: an optional package, a method, a file."""


class BayesmetaWarning(UserWarning):
    """The result stands, but something about it should be known."""


def unknown(kind: str, got: object, valid: Iterable[object]) -> str:
    """The sentence for an unknown name: what was got, what is valid, and the nearest.

    >>> unknown("preset", "nut", ["nuts", "pyro-nuts"])
    "unknown preset 'nut'; valid: 'nuts', 'pyro-nuts'; did you mean 'nuts'?"
    """
    names = [str(name) for name in valid]
    shown = ", ".join(repr(name) for name in names[:20]) + (", ..." if len(names) > 20 else "")
    near = difflib.get_close_matches(str(got), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {got!r}; valid: {shown or 'none'}{hint}"
