"""Real data by name, image sets, and environments: distributions over tasks with a known optimum.

`load` gives data for the gallery, the tests and the reader's own experiments. `DKTSines`, `MixedNoiseSines`,
`MAMLSines`, `PACOHSinusoid`, `PACOHCauchy` and `GPTasks` make tasks, and know the best prediction for them. `omniglot`,
`digits`, `image_folder` and `Images` make few-shot tasks of labelled images.

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

import importlib
from typing import TYPE_CHECKING, Any

import pandas as pd

from bayesmeta.data.bundled import BUNDLED, read_bundled
from bayesmeta.data.registry import REMOTE
from bayesmeta.data.remote import fetch, roads
from bayesmeta.errors import UnknownNameError, unknown

if TYPE_CHECKING:
    from bayesmeta.data.digit_images import digits
    from bayesmeta.data.environment import Environment
    from bayesmeta.data.folder import image_folder
    from bayesmeta.data.gp_tasks import GPTasks
    from bayesmeta.data.images import Images
    from bayesmeta.data.omniglot_files import omniglot
    from bayesmeta.data.optimal import Optimal
    from bayesmeta.data.pacoh import PACOHCauchy, PACOHSinusoid
    from bayesmeta.data.sines import DKTSines, MAMLSines, MixedNoiseSines

__all__ = [
    "DKTSines",
    "Environment",
    "GPTasks",
    "Images",
    "MAMLSines",
    "MixedNoiseSines",
    "Optimal",
    "PACOHCauchy",
    "PACOHSinusoid",
    "available",
    "describe",
    "digits",
    "image_folder",
    "load",
    "omniglot",
]

_WHERE = {
    "DKTSines": "sines",
    "Environment": "environment",
    "GPTasks": "gp_tasks",
    "Images": "images",
    "MAMLSines": "sines",
    "MixedNoiseSines": "sines",
    "Optimal": "optimal",
    "PACOHCauchy": "pacoh",
    "PACOHSinusoid": "pacoh",
    "digits": "digit_images",
    "image_folder": "folder",
    "omniglot": "omniglot_files",
}
"""The module of what is loaded when first used, because it needs torch and the data sets do not."""


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def available() -> list[str]:
    """The names of all data sets: those that come with the package first.

    Examples:
        >>> "radon" in available()
        True
    """
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
    """What a data set holds, where it comes from, under which terms, and what to cite.

    Examples:
        >>> print(describe("eight_schools").splitlines()[1])
        8 rows, 8 tasks (school)
    """
    if name in BUNDLED:
        return f"{BUNDLED[name].text()}\nread from: the package itself"
    if name in REMOTE:
        return f"{REMOTE[name].entry.text()}\nread from: {roads(REMOTE[name])}"
    raise UnknownNameError(unknown("data set", name, available()))
