"""Real data by name, for the gallery, the tests and the reader's own experiments.

What the gallery needs comes with the package. The rest is read from the folder that the environment variable
BAYESMETA_DATA names, or fetched once from where it is published and kept in the user's cache; either way its
checksum is compared first. Whatever the road, rows, columns and tasks are counted before a frame is handed
out.

Examples:
    >>> import bayesmeta.data
    >>> bayesmeta.data.load("eight_schools").head(2)
      school   y  sigma
    0      A  28     15
    1      B   8     10
"""

from __future__ import annotations

import pandas as pd

from bayesmeta.data.bundled import BUNDLED, read_bundled
from bayesmeta.data.registry import REMOTE
from bayesmeta.data.remote import fetch, roads
from bayesmeta.errors import UnknownNameError, unknown

__all__ = ["available", "describe", "load"]


def available() -> list[str]:
    """The names of all data sets: those that come with the package first."""
    return [*BUNDLED, *REMOTE]


def load(name: str) -> pd.DataFrame:
    """A data set as a long data frame, one observation per row; `describe(name)` says what the columns are.

    Args:
        name: one of `available()`.

    Raises:
        UnknownNameError: there is no data set of that name.
        FileFormatError: the file is not the one that was registered.
        NotAvailableError: the file is neither here nor within reach.
    """
    if name in BUNDLED:
        return read_bundled(name)
    if name in REMOTE:
        return fetch(REMOTE[name])
    raise UnknownNameError(unknown("data set", name, available()))


def describe(name: str) -> str:
    """What a data set holds, where it comes from, under which terms, and what to cite."""
    if name in BUNDLED:
        return f"{BUNDLED[name].text()}\nread from: the package itself"
    if name in REMOTE:
        return f"{REMOTE[name].entry.text()}\nread from: {roads(REMOTE[name])}"
    raise UnknownNameError(unknown("data set", name, available()))
