"""What users hand in, as float64 arrays: or an error that names the row or the task that is wrong.

Everything here is vectorised: a data frame of five million rows is read in seconds. `tasks.py` builds `Tasks` from
what these functions return.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from bayesmeta.errors import DataError, UnknownNameError, unknown

__all__ = [
    "as_array",
    "as_context",
    "as_names",
    "check_finite",
    "constant_within",
    "group_rows",
    "joined",
    "numeric_column",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


# --- data frames -------------------------------------------------------------------------------------------------


def numeric_column(frame: pd.DataFrame, name: str, role: str, *, allow_missing: bool = False) -> FloatArray:
    """Column `name` of `frame` as float64.

    Args:
        frame: the data frame.
        name: the column's name.
        role: the argument that named it ("x", "y", "context"), for the error.
        allow_missing: let NaN pass (never infinity).

    Raises:
        UnknownNameError: there is no such column.
        DataError: the column is not numeric, or a value is NaN or infinite; the error names the row.
    """
    column = frame_column(frame, name, role)
    kind = column.dtype
    if not pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_complex_dtype(kind):
        raise DataError(
            f"{role}: column {name!r} is not numeric (dtype {kind}); wanted numbers or booleans. {_encoding(column)}"
        )
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isfinite(values).all():
        return values
    bad = np.isinf(values) if allow_missing else ~np.isfinite(values)
    if bad.any():
        first = int(np.argmax(bad))
        raise DataError(
            f"{role}: column {name!r} is {_word(values[first])} in row {frame.index[first]!r} "
            f"({int(bad.sum())} such rows in all); every value must be finite. "
            f"Drop these rows (df.dropna(subset=[{name!r}]) for NaN), or fill them in"
        )
    return values


def frame_column(frame: pd.DataFrame, name: str, role: str) -> pd.Series[Any]:
    """Column `name`, which must be there, once."""
    if name not in frame.columns:
        raise UnknownNameError(f"{role}: {unknown('column', name, frame.columns)}")
    column = frame[name]
    if isinstance(column, pd.DataFrame):
        raise DataError(
            f"{role}: the frame has {column.shape[1]} columns named {name!r}; wanted one. "
            "Rename them, or keep one: df.loc[:, ~df.columns.duplicated()]"
        )
    return column


def group_rows(frame: pd.DataFrame, task: str) -> tuple[IntArray, tuple[str, ...]]:
    """The task of each row, as a position, and the tasks' names in order of first appearance."""
    column = frame_column(frame, task, "task")
    if len(column) == 0:
        raise DataError("df has no rows; wanted at least one observation. Was it filtered to nothing?")
    codes, labels = pd.factorize(column)
    if (codes < 0).any():
        first = int(np.argmax(codes < 0))
        raise DataError(
            f"task: column {task!r} is empty in row {frame.index[first]!r} ({int((codes < 0).sum())} such rows in "
            "all); every row must say which task it belongs to. Drop these rows, or fill the names in"
        )
    return codes.astype(np.int64, copy=False), as_names(list(labels), "task")


def constant_within(values: FloatArray, codes: IntArray, first: IntArray, where: tuple[str, Sequence[str]]) -> Tensor:
    """One value per task (T,) of a column that must not vary within a task.

    Args:
        values: the column (N,).
        codes: the task of each row (N,).
        first: the first row of each task (T,).
        where: the column's name and the tasks' names, for the error.
    """
    column, names = where
    per_task = values[first]
    bad = values != per_task[codes]
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"context: column {column!r} varies within task {names[codes[row]]!r}: {per_task[codes[row]]:g} and "
            f"{values[row]:g}; a context column has one value per task. Pass it in x if it belongs to the observations"
        )
    return torch.from_numpy(per_task)


def _encoding(column: pd.Series[Any]) -> str:
    """How a column of this kind is turned into numbers."""
    name = column.name
    if isinstance(column.dtype, pd.CategoricalDtype):
        return f"Encode it: pd.get_dummies(df, columns=[{name!r}], dtype=float) or df[{name!r}].cat.codes"
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return f"Encode it as time passed: (df[{name!r}] - df[{name!r}].min()).dt.total_seconds()"
    return (
        f"If it holds numbers written as text: pd.to_numeric(df[{name!r}]); "
        f"if it holds labels: pd.get_dummies(df, columns=[{name!r}], dtype=float)"
    )


# --- arrays and lists --------------------------------------------------------------------------------------------


def as_array(value: object, what: str) -> npt.NDArray[Any]:
    """Any array, tensor or nested sequence of numbers as a float64 array; `what` names it in the error."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError(f"{what}: rows of different lengths; wanted a rectangular array of numbers") from error
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{what}: got values of type {array.dtype}; wanted numbers or booleans. "
            "Encode labels as numbers first (pd.get_dummies, pd.to_numeric)"
        )
    return array.astype(np.float64, copy=False)


def check_finite(flat: npt.NDArray[Any], what: str, where: Callable[[int], str]) -> None:
    """Raise if a row of `flat` (N, ...) is not finite; `where(row)` says which row that is."""
    if np.isfinite(flat).all():
        return
    bad = ~np.isfinite(flat).reshape(len(flat), -1).all(axis=1)
    row = int(np.argmax(bad))
    value = flat[row].reshape(-1)
    value = value[~np.isfinite(value)][0]
    raise DataError(
        f"{what} is {_word(value)} in {where(row)} ({int(bad.sum())} such rows in all); "
        "every value must be finite. Leave these rows out, or fill them in"
    )


def joined(arrays: Sequence[npt.NDArray[Any]], what: str, names: Sequence[str]) -> npt.NDArray[Any]:
    """One array per task, concatenated along the first axis: (n_1, ...), ... -> (N, ...).

    An empty array takes the shape of the others' rows.
    """
    full = [array for array in arrays if array.size > 0]
    row = full[0].shape[1:] if full else max((array.shape[1:] for array in arrays), key=len)
    for name, array in zip(names, arrays, strict=True):
        if array.size > 0 and array.shape[1:] != row:
            raise DataError(
                f"{what}: task {name!r} has rows of shape {array.shape[1:]} and others have {row}; "
                "every task must have the same columns"
            )
    return np.concatenate([a if a.size else a.reshape(len(a) if 0 in row else 0, *row) for a in arrays])


def as_names(names: Iterable[Hashable], what: str = "names") -> tuple[str, ...]:
    """Names as strings, each once."""
    result = tuple(map(str, names))
    if len(set(result)) != len(result):
        seen: set[str] = set()
        twice = next(name for name in result if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise DataError(f"{what}: {twice!r} appears twice (names are compared as text); every task needs its own name")
    return result


def as_context(context: Mapping[str, object] | None, names: Sequence[str]) -> dict[str, Tensor]:
    """Each context as float64 (T, ...), one value (or row) per task."""
    result = {}
    for key, values in (context or {}).items():
        array = as_array(values, f"context[{key!r}]")
        if array.ndim == 0 or len(array) != len(names):
            raise DataError(
                f"context[{key!r}]: got shape {array.shape}; wanted one value per task, first axis {len(names)}"
            )
        check_finite(array, f"context[{key!r}]", lambda row: f"task {names[row]!r}")
        result[key] = torch.from_numpy(np.array(array))
    return result


def _word(value: float) -> str:
    return "NaN" if np.isnan(value) else "infinite"
