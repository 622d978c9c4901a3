"""A long data frame as flat tensors: or an error that names the column and the row or the task.

Vectorised, one observation per row of the frame: five million rows are read in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64
from torch import Tensor

from bayesmeta.arrays import Flat, FloatArray, IntArray, as_names, offsets_of
from bayesmeta.columns import Columns
from bayesmeta.errors import DataError, UnknownNameError, unknown

__all__ = ["read_frame"]


def read_frame(df: pd.DataFrame, columns: Columns, *, missing_y: bool = False) -> Flat:
    """Flat tensors: tasks in order of first appearance, the rows of each in the frame's order.

    Args:
        df: the data frame.
        columns: how its columns are used.
        missing_y: let the response be empty (NaN) in some rows.
    """
    if not isinstance(df, pd.DataFrame):
        raise DataError(f"df: got {type(df).__name__}; wanted a pandas DataFrame (pd.DataFrame(...) makes one)")
    if not len(df):
        raise DataError("df has no rows; wanted at least one observation. Was it filtered to nothing?")
    y = _numeric_column(df, columns.y, "y", missing=missing_y)
    inputs = [_numeric_column(df, name, "x") for name in columns.inputs]
    codes, names = _task_of_rows(df, columns.task)
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes, minlength=len(names))
    first = order[np.cumsum(sizes) - sizes]
    if isinstance(columns.x, str):
        x = inputs[0][order]
    else:
        x = np.stack([column[order] for column in inputs], axis=1) if inputs else np.zeros((len(y), 0))
    context = {}
    for name in columns.context:
        values = _numeric_column(df, name, "context")
        context[name] = _constant_within(values, codes, values[first], (name, names))
    return Flat(torch.from_numpy(x), torch.from_numpy(y[order]), offsets_of(torch.from_numpy(sizes)), names, context)


def _column(df: pd.DataFrame, name: str, role: str) -> pd.Series[Any]:
    """Column `name`, which must be there, once; `role` is the argument that named it."""
    if name not in df.columns:
        raise UnknownNameError(f"{role}: {unknown('column', name, df.columns)}")
    column = df[name]
    if column.ndim == 2:
        raise DataError(
            f"{role}: the frame has {column.shape[1]} columns named {name!r}; wanted one. "
            "Rename them, or keep the first: df.loc[:, ~df.columns.duplicated()]"
        )
    return column


def _numeric_column(df: pd.DataFrame, name: str, role: str, *, missing: bool = False) -> FloatArray:
    """Column `name` as float64; `missing` lets NaN pass, infinity never does."""
    column = _column(df, name, role)
    kind = column.dtype
    if not pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_complex_dtype(kind):
        raise DataError(
            f"{role}: column {name!r} is not numeric (dtype {kind}); wanted numbers or booleans. {_encoding(column)}"
        )
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    bad = np.isinf(values) if missing else ~np.isfinite(values)
    if bad.any():
        row = int(np.argmax(bad))
        word = "NaN" if np.isnan(values[row]) else "infinite"
        remedy = f"df.dropna(subset=[{name!r}]) drops them" if word == "NaN" else "Drop these rows"
        raise DataError(
            f"{role}: column {name!r} is {word} in row {_row_label(df, row)} ({int(bad.sum())} rows in all); "
            f"every value must be finite. {remedy}, or fill them in"
        )
    return values


def _row_label(df: pd.DataFrame, row: int) -> str:
    """The row's label in the frame, as it is written in Python."""
    return repr(df.index[[row]].tolist()[0])


def _encoding(column: pd.Series[Any]) -> str:
    """How a column of this kind is turned into numbers."""
    name = column.name
    if isinstance(column.dtype, pd.CategoricalDtype):
        dummies = f"pd.get_dummies(df, columns=[{name!r}], dtype=float)"
        return f"Encode it: {dummies}, or df[{name!r}].cat.codes if it is ordered"
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return f"Encode it as time passed: (df[{name!r}] - df[{name!r}].min()).dt.total_seconds()"
    return (
        f"If it holds numbers written as text: pd.to_numeric(df[{name!r}]); "
        f"if it holds labels: pd.get_dummies(df, columns=[{name!r}], dtype=float)"
    )


def _task_of_rows(df: pd.DataFrame, task: str) -> tuple[IntArray, tuple[str, ...]]:
    """The position of each row's task, and the tasks' names in order of first appearance."""
    column = _column(df, task, "task")
    codes, labels = pd.factorize(column)
    if (codes < 0).any():
        row = int(np.argmax(codes < 0))
        raise DataError(
            f"task: column {task!r} is empty in row {_row_label(df, row)} ({int((codes < 0).sum())} rows in "
            f"all); every row must say which task it belongs to. df.dropna(subset=[{task!r}]) drops them, or "
            "fill them in"
        )
    return codes.astype(np.int64, copy=False), as_names(list(labels), "task")


def _constant_within(
    values: FloatArray, codes: IntArray, per_task: FloatArray, where: tuple[str, Sequence[str]]
) -> Float64[Tensor, " T"]:
    """One value per task, of a column that must not vary within a task.

    Args:
        values: the column (N,).
        codes: the task of each row (N,).
        per_task: the value in each task's first row (T,).
        where: the column's name and the tasks' names, for the error.
    """
    bad = values != per_task[codes]
    if bad.any():
        row = int(np.argmax(bad))
        column, names = where
        raise DataError(
            f"context: column {column!r} varies within task {names[codes[row]]!r} ({per_task[codes[row]]:g} "
            f"and {values[row]:g}); a context is one value per task. Name it in x if it belongs to the "
            "observations"
        )
    return torch.from_numpy(per_task)
