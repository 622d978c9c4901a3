"""Means over all observations with their standard errors over tasks, and observations as a rectangle.

Observations of a task rise and fall together, so every standard error is taken over tasks: the mean over all
observations is a ratio of sums over tasks (Cochran 1977, Sampling techniques, section 6.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bayesmeta.errors import DataError
from bayesmeta.tasks import Tasks

__all__ = ["means_by_task", "names_of", "observed_matrix", "ratio", "ratio_difference"]


def ratio(means: pd.Series[float], counts: pd.Series[int]) -> tuple[float, float]:
    """The mean over all observations from the tasks' means, and its standard error over tasks."""
    mean, weight = means.to_numpy(dtype=float), counts.to_numpy(dtype=float)
    value = float((mean * weight).sum() / weight.sum())
    if len(mean) < 2:
        return value, math.nan
    spread = float(((weight * (mean - value)) ** 2).sum()) * len(mean) / (len(mean) - 1)
    return value, math.sqrt(spread) / float(weight.sum())


def ratio_difference(one: pd.DataFrame, other: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """A metric per row: the first less the second table of tasks, with the standard error of the paired difference.

    Raises:
        DataError: The tables are of different tasks or observations.
    """
    if list(one.index) != list(other.index) or any(one["n"] != other["n"]):
        raise DataError("the two scores are of different tasks or observations; score both on the same query")
    rows = {name: ratio(one[name] - other[name], one["n"]) for name in columns}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["difference", "standard_error"])


def names_of(predictive: Any, count: int) -> list[str]:
    """The names of the tasks of a prediction, numbers where it has none."""
    return list(getattr(predictive, "names", None) or map(str, range(count)))


def observed_matrix(names: Sequence[str], y: Any, like: Tensor) -> Tensor:
    """Observations as a rectangle (T, m, ...) shaped as `like`, NaN where there are none.

    Args:
        names: The names of the tasks (T,).
        y: The observations: (T, m), a list of one tensor per task, or a `Tasks` that has these tasks.
        like: What they shall be shaped as.

    Raises:
        DataError: They are for other tasks, or of another shape.
    """
    if isinstance(y, Tasks):
        y = [y[name].y for name in names]
    try:
        rows = [torch.as_tensor(np.asarray(row, dtype=np.float64)) for row in y]
    except (TypeError, ValueError) as error:
        raise DataError(f"y: wanted numbers, one array per task: {error}") from error
    if len(rows) != len(names):
        raise DataError(f"y is for {len(rows)} tasks, predicted are {len(names)}")
    if any(row.dim() == 0 for row in rows):
        raise DataError("y has one number per task; wanted an array of observations for each, as in y[:, None]")
    out = torch.full_like(like, math.nan)
    for k, row in enumerate(rows):
        if row.shape[1:] != like.shape[2:] or len(row) > like.shape[1]:
            raise DataError(f"task {names[k]!r}: y has shape {tuple(row.shape)}, predicted {tuple(like.shape[1:])}")
        out[k, : len(row)] = row
    return out


def means_by_task(cells: dict[str, Tensor], there: Tensor, names: Sequence[str]) -> pd.DataFrame:
    """A row per task: its number n of observations, and the mean of each of the cells (T, m, ...) over them."""
    count = there.flatten(1).sum(1)
    columns: dict[str, Any] = {"n": count.numpy()}
    for name, values in cells.items():
        total = torch.where(there, values, 0.0).flatten(1).sum(1)
        columns[name] = (total / count.clamp(min=1)).numpy()
    return pd.DataFrame(columns, index=pd.Index(names, name="task"))
