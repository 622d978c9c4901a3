"""Leave-one-task-out as ArviZ's own `ELPDData`, from NumPy arrays: it differs from release to release."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from bayesmeta.export.groups import Array

__all__ = ["arviz_elpd"]


def arviz_elpd(
    elpd: Array, k_hat: Array, *, p_loo: float, names: Sequence[str], draws: int, good_k: float, refitted: list[str]
) -> Any:
    """A pandas series in ArviZ 0.x, a data class in 1.x.

    Args:
        elpd: log p(D_t | all other tasks), in nats (T,).
        k_hat: Pareto k-hat of each task (T,).
        p_loo: The effective number of parameters.
        names: The names of the tasks.
        draws: How many draws it comes from.
        good_k: Up to which k-hat a value is to be trusted.
        refitted: The names of the tasks that were refitted without.
    """
    coords = {"task": np.array(names, dtype=object)}
    each = xr.DataArray(elpd, dims="task", coords=coords, name="loo_i")
    shape = xr.DataArray(k_hat, dims="task", coords=coords, name="pareto_shape", attrs={"refitted": refitted})
    fields: dict[str, Any] = {
        "elpd": float(elpd.sum()),
        "se": math.sqrt(len(elpd) * float(elpd.var())),
        "p": p_loo,
        "n_samples": draws,
        "n_data_points": len(elpd),
        "warning": bool((k_hat > good_k).any()),
    }
    import arviz

    if "InferenceData" in vars(arviz):  # asking a 1.x for it by name makes it warn
        from arviz.stats import ELPDData

        labels = ["elpd_loo", "se", "p_loo", "n_samples", "n_data_points", "warning", "loo_i", "pareto_k", "scale"]
        return ELPDData(data=[*fields.values(), each, shape, "log", good_k], index=[*labels, "good_k"])
    fields |= {"scale": "log", "good_k": good_k, "elpd_i": each, "pareto_k": shape}
    arviz_1 = importlib.import_module("arviz_stats")
    if hasattr(arviz_1, "ELPDDataLOO"):
        return arviz_1.ELPDDataLOO(**fields)
    return arviz_1.ELPDData(kind="loo", **fields)  # before arviz-stats 1.3
