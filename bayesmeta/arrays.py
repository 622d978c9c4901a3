"""Arrays, lists and names from users, as flat float64 arrays: or an error that names the task and the row."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from bayesmeta.errors import DataError

__all__ = [
    "Flat",
    "FloatArray",
    "IntArray",
    "as_context",
    "as_names",
    "as_text",
    "check_flat",
    "digest",
    "empty_task",
    "names_or_numbers",
    "offsets_of",
    "read_arrays",
    "read_lists",
]

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]

RESERVED = ("phi", "x", "y")  # the task function's own arguments


class Flat(NamedTuple):
    """The observations of all tasks, one task after the other: what `Tasks` are made of."""

    x: Float64[Tensor, "N ..."]
    y: Float64[Tensor, "N ..."]
    offsets: Int64[Tensor, " T_plus_1"]
    names: tuple[str, ...]
    context: Mapping[str, Float64[Tensor, "T ..."]]


def read_lists(
    xs: Sequence[object] | None,
    ys: Sequence[object],
    *,
    names: Sequence[object] | None,
    context: Mapping[str, object] | None,
    allow_empty: bool,
) -> Flat:
    """Flat tensors from one array of inputs and one of observations per task (see `Tasks.from_lists`)."""
    labels = names_or_numbers(names, len(ys), "ys")
    if not labels:
        raise DataError("ys: got no task at all; wanted one sequence of observations for each task, at least one")
    y_arrays, sizes = _per_task(ys, "ys", labels)
    if not allow_empty and (sizes == 0).any():
        raise empty_task(labels[int(np.argmax(sizes == 0))])
    x = np.zeros((int(sizes.sum()), 0))
    if xs is not None:
        if len(xs) != len(ys):
            raise DataError(f"xs: got {len(xs)} tasks and ys has {len(ys)}; wanted one array of inputs per task")
        x_arrays, rows = _per_task(xs, "xs", labels)
        if (rows != sizes).any():
            t = int(np.argmax(rows != sizes))
            raise DataError(
                f"xs: task {labels[t]!r} has {rows[t]} rows of inputs and {sizes[t]} observations in ys; "
                "wanted one row of inputs per observation"
            )
        x = _joined(x_arrays, "xs", labels)
    return _finished(x, _joined(y_arrays, "ys", labels), sizes, labels, context)


def read_arrays(
    x: object | None, y: object, *, names: Sequence[object] | None, context: Mapping[str, object] | None
) -> Flat:
    """Flat tensors from rectangular arrays (see `Tasks.from_arrays`)."""
    ys = _as_array(y, "y")
    if ys.ndim < 2 or len(ys) == 0:
        raise DataError(
            f"y: got shape {ys.shape}; wanted (T, n) or (T, n, k): tasks first, observations "
            "second, at least one of each. A single task is y[None]"
        )
    labels = names_or_numbers(names, len(ys), "y")
    if ys.shape[1] == 0:
        raise empty_task(labels[0])
    rows = ys.shape[0] * ys.shape[1]
    xs = np.zeros((*ys.shape[:2], 0)) if x is None else _as_array(x, "x")
    if xs.shape[:2] != ys.shape[:2]:
        raise DataError(
            f"x: got shape {xs.shape} and y has {ys.shape}; the first two axes (tasks, observations) must be "
            "equal. Use Tasks.from_lists for tasks of different sizes"
        )
    x_flat, y_flat = (np.array(array).reshape(rows, *array.shape[2:]) for array in (xs, ys))
    return _finished(x_flat, y_flat, np.full(len(labels), ys.shape[1]), labels, context)


def as_context(context: Mapping[str, object] | None, names: Sequence[str]) -> dict[str, Float64[Tensor, "T ..."]]:
    """Each context as float64 (T, ...), one value (or row) per task."""
    result = {}
    for key, values in (context or {}).items():
        array = _as_array(values, f"context[{key!r}]")
        if array.ndim == 0 or len(array) != len(names):
            raise DataError(
                f"context[{key!r}]: got shape {array.shape}; wanted one value per task, so a first axis of {len(names)}"
            )
        _check_finite(array, f"context[{key!r}]", lambda row: f"task {names[row]!r}")
        result[key] = torch.from_numpy(np.array(array))
    return result


def as_text(name: Hashable) -> str:
    """A name as text, of a number that is whole without a point.

    >>> as_text(7.0), as_text(7.5), as_text("007")
    ('7', '7.5', '007')
    """
    number = float(name) if isinstance(name, (float, np.floating)) else math.nan
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else str(name)


def as_names(names: Iterable[Hashable], what: str = "names") -> tuple[str, ...]:
    """Names as text, each once."""
    result = tuple(map(as_text, names))
    if len(set(result)) != len(result):
        twice = Counter(result).most_common(1)[0][0]
        raise DataError(f"{what}: {twice!r} appears twice (names are compared as text); every task needs its own name")
    return result


def names_or_numbers(names: Sequence[object] | None, count: int, counted: str) -> tuple[str, ...]:
    """The names given, one for each of the `count` tasks in `counted`; "0", "1", ... where none are."""
    if names is None:
        return tuple(map(str, range(count)))
    if isinstance(names, str):
        raise DataError(f"names: got the text {names!r}; wanted a sequence of names, such as [{names!r}]")
    if len(names) != count:
        raise DataError(f"names: got {len(names)} names; wanted one per task, {count} as in {counted}")
    return as_names(names)


def offsets_of(sizes: Int64[Tensor, " T"]) -> Int64[Tensor, " T_plus_1"]:
    """Where each task starts, and the number of observations at the end."""
    return torch.cat([torch.zeros(1, dtype=torch.int64), torch.cumsum(sizes, 0)])


def empty_task(name: str) -> DataError:
    """The error for a task without observations, where these are wanted."""
    return DataError(
        f"task {name!r} has no observations; leave it out, or pass allow_empty=True / "
        "Tasks.without_observations for zero-shot"
    )


def check_flat(flat: Flat) -> None:
    """What must hold however the tensors were made; cheap."""
    count, rows = len(flat.names), len(flat.y)
    if count == 0:
        raise DataError("no task at all; wanted at least one. Was a selection filtered to nothing?")
    if len(flat.offsets) != count + 1 or int(flat.offsets[-1]) != rows or len(flat.x) != rows:
        raise DataError(
            f"offsets: {len(flat.offsets)} of them, ending at {int(flat.offsets[-1])}, with {count} names, "
            f"{rows} rows of y and {len(flat.x)} of x; wanted one more than names, ending at the number of "
            "rows. Tasks.from_lists makes them"
        )
    for name, values in flat.context.items():
        if not isinstance(name, str) or name in RESERVED:
            raise DataError(
                f"context: {name!r} cannot be a context's name; the task function gets contexts by keyword, "
                f"beside its own {', '.join(RESERVED)}. Rename it"
            )
        if len(values) != count:
            raise DataError(f"context[{name!r}]: got {len(values)} values; wanted one per task, {count}")


def digest(names: Sequence[str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, and of each tensor's own name, shape and bytes."""
    sha = hashlib.sha256()
    for name in names:
        text = name.encode()
        sha.update(len(text).to_bytes(8, "little") + text)
    for name, values in tensors.items():
        sha.update(f"{name} {tuple(values.shape)} ".encode())
        sha.update(np.ascontiguousarray(values.numpy()).data)
    return sha.hexdigest()


# --- helpers ------------------------------------------------------------------------------------------------


def _as_array(value: object, what: str) -> npt.NDArray[Any]:
    """Any array, tensor or nested sequence of numbers as a float64 array; `what` names it in the error."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{what}: its rows have different lengths; wanted a rectangular array of numbers. "
            "Fill in what is missing, or use Tasks.from_lists for tasks of different sizes"
        ) from error
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{what}: got values of type {array.dtype}; wanted numbers or booleans. "
            "Encode labels as numbers first (pd.get_dummies, pd.to_numeric)"
        )
    return array.astype(np.float64, copy=False)


def _per_task(arrays: Sequence[object], what: str, names: Sequence[str]) -> tuple[list[npt.NDArray[Any]], IntArray]:
    """One float64 array per task, and the number of rows in each."""
    read = [_as_array(array, f"{what} of task {name!r}") for name, array in zip(names, arrays, strict=True)]
    for name, array in zip(names, read, strict=True):
        if array.ndim == 0:
            raise DataError(f"{what}: task {name!r} is a single number; wanted a sequence, one entry per observation")
    return read, np.array([len(array) for array in read], dtype=np.int64)


def _joined(arrays: Sequence[npt.NDArray[Any]], what: str, names: Sequence[str]) -> npt.NDArray[Any]:
    """One array per task, concatenated: (n_1, ...), (n_2, ...) -> (N, ...).

    A task without rows takes the shape of the others' rows.
    """
    filled = [(name, array) for name, array in zip(names, arrays, strict=True) if len(array)]
    if not filled:
        return np.concatenate(arrays) if len({array.shape for array in arrays}) == 1 else np.zeros((0, 0))
    row = filled[0][1].shape[1:]
    for name, array in filled:
        if array.shape[1:] != row:
            raise DataError(
                f"{what}: task {name!r} has rows of shape {array.shape[1:]} and task {filled[0][0]!r} of "
                f"{row}; every task must have the same columns"
            )
    return np.concatenate([array for _, array in filled])


def _check_finite(values: npt.NDArray[Any], what: str, where: Callable[[int], str]) -> None:
    """Raise if a row of `values` (N, ...) is not finite; `where(row)` says which row that is."""
    if np.isfinite(values).all():
        return
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    row = int(np.argmax(bad))
    word = "NaN" if np.isnan(values[row]).any() else "infinite"
    raise DataError(
        f"{what} is {word} in {where(row)} ({int(bad.sum())} in all); every value must be finite. "
        "Leave these out, or fill them in"
    )


def _finished(
    x: FloatArray,
    y: FloatArray,
    sizes: IntArray,
    names: tuple[str, ...],
    context: Mapping[str, object] | None,
) -> Flat:
    """Flat tensors, once every value has been seen to be finite."""
    offsets = offsets_of(torch.from_numpy(sizes))

    def where(row: int) -> str:
        task = int(np.searchsorted(offsets.numpy(), row, side="right")) - 1
        return f"row {row - int(offsets[task])} of task {names[task]!r}"

    _check_finite(x, "x", where)
    _check_finite(y, "y", where)
    return Flat(torch.from_numpy(x), torch.from_numpy(y), offsets, names, as_context(context, names))
