"""Groups as ArviZ's own container: the only place that knows which ArviZ it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr

__all__ = ["to_arviz"]


def to_arviz(groups: Mapping[str, xr.Dataset]) -> Any:
    """Groups as an `InferenceData` before ArviZ 1.0, as an `xarray.DataTree` from then on."""
    import arviz

    if "InferenceData" in vars(arviz):  # asking a 1.x for it by name makes it warn
        return arviz.InferenceData(**groups)
    return xr.DataTree.from_dict(dict(groups))
