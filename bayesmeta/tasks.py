"""Ragged tasks: many small data sets of one population, of any sizes, each with a name.

The observations of all tasks lie one after another in flat tensors, with an offset per task, so that a million tasks
cost no more than a data frame of the same rows, and each task is a view.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, overload

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bayesmeta import reading, showing
from bayesmeta.errors import DataError, OptionError, UnknownNameError, unknown
from bayesmeta.padding import Padded, pad

__all__ = ["Columns", "Padded", "Task", "Tasks", "split_missing"]

RESERVED = ("phi", "x", "y")  # the task function's own arguments


@dataclass(frozen=True)
class Columns:
    """How the columns of a data frame were used. `x` as text gives x of shape (n,), as a tuple (n, d)."""

    task: str
    x: str | tuple[str, ...] | None
    y: str
    context: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Task:
    """One task: views into the tensors of the `Tasks` it is taken from.

    Attributes:
        name: the task's name.
        x: inputs (n,), (n, d) or (n, ...); (n, 0) where there are none.
        y: observations (n,) or (n, k).
        context: what holds for the whole task, by keyword; each of shape () or (...).
    """

    name: str
    x: Tensor
    y: Tensor
    context: Mapping[str, Tensor]

    @property
    def n(self) -> int:
        """The number of observations."""
        return len(self.y)


@dataclass(frozen=True, eq=False, repr=False)
class Tasks:
    """Ragged tasks. Made by `from_frame`, `from_lists`, `from_arrays` or `without_observations`.

    A task is looked up by name (text) or position (integer); a slice or a list gives `Tasks` again.

    Attributes:
        x: the inputs of all tasks, one task after the other, float64 (N, ...).
        y: the observations, float64 (N, ...).
        offsets: where each task starts, and N at the end, int64 (T + 1,).
        names: the tasks' names, each once.
        context: what holds for a whole task, each float64 (T, ...).
        columns: how a data frame's columns were used, or None.

    Examples:
        >>> tasks = Tasks.from_lists(xs=[[0.0, 1.0], [2.0]], ys=[[1.0, 3.0], [5.0]], names=["A", "B"])
        >>> len(tasks), tasks["B"].y, tasks.sizes
        (2, tensor([5.], dtype=torch.float64), tensor([2, 1]))
    """

    x: Tensor
    y: Tensor
    offsets: Tensor
    names: tuple[str, ...]
    context: Mapping[str, Tensor] = field(default_factory=dict)
    columns: Columns | None = None

    def __post_init__(self) -> None:
        _check_tasks(self)

    # --- ways in -------------------------------------------------------------------------------------------------

    @staticmethod
    def from_frame(
        df: pd.DataFrame,
        *,
        task: str,
        x: str | Sequence[str] | None = None,
        y: str,
        context: str | Sequence[str] | None = None,
    ) -> Tasks:
        """Tasks from a long data frame, one observation per row; a task's rows need not be adjacent.

        Args:
            df: the data frame.
            task: the column that says which task a row belongs to. Tasks come in order of first appearance, their
                rows in the frame's order.
            x: the input columns. One name gives x of shape (n,), a list of d names (n, d), None (n, 0).
            y: the response column.
            context: columns that are constant within each task; they reach the task function by keyword.

        Raises:
            UnknownNameError: a column is not in the frame.
            DataError: a column is not numeric, a value is NaN or infinite, or a context varies within a task.
        """
        columns = _columns(df, task, x, y, context)
        return _from_frame(df, columns, reading.numeric_column(df, y, "y"))

    @staticmethod
    def from_lists(
        xs: Sequence[object] | None,
        ys: Sequence[object],
        *,
        names: Sequence[object] | None = None,
        context: Mapping[str, object] | None = None,
        allow_empty: bool = False,
    ) -> Tasks:
        """Tasks from one array (or tensor, or list) of inputs and one of observations for each.

        Args:
            xs: per task (n_t,), (n_t, d) or (n_t, ...); None if there are no inputs.
            ys: per task (n_t,) or (n_t, k).
            names: one per task; "0", "1", ... by default.
            context: per name a sequence of T values.
            allow_empty: let tasks have no observations.

        Raises:
            DataError: lengths that do not match, an empty task, a value that is not a finite number.
        """
        labels = _default_names(names, len(ys), "ys")
        y_list = [reading.as_array(y, f"ys of task {name!r}") for name, y in zip(labels, ys, strict=True)]
        sizes = _row_counts(y_list, "ys", labels)
        if not allow_empty and (sizes == 0).any():
            raise _empty_task(labels[int(np.argmax(sizes == 0))])
        if xs is None:
            x_flat = np.zeros((int(sizes.sum()), 0))
        else:
            x_flat = _joined_inputs(xs, labels, sizes)
        y_flat = reading.joined(y_list, "ys", labels)
        return _finished(x_flat, y_flat, sizes, labels, context)

    @staticmethod
    def from_arrays(
        x: object | None,
        y: object,
        *,
        names: Sequence[object] | None = None,
        context: Mapping[str, object] | None = None,
    ) -> Tasks:
        """Tasks of equal size, from rectangular arrays.

        Args:
            x: inputs (T, n), (T, n, d) or (T, n, ...); None if there are none.
            y: observations (T, n) or (T, n, k).
            names: one per task; "0", "1", ... by default.
            context: per name T values.

        Raises:
            DataError: shapes that do not match, or a value that is not a finite number.
        """
        y_array = reading.as_array(y, "y")
        if y_array.ndim < 2:
            raise DataError(f"y: got shape {y_array.shape}; wanted (T, n) or (T, n, k): tasks first, observations second")
        labels = _default_names(names, len(y_array), "y")
        if y_array.shape[1] == 0:
            raise _empty_task(labels[0])
        x_array = np.zeros((*y_array.shape[:2], 0)) if x is None else reading.as_array(x, "x")
        if x_array.shape[:2] != y_array.shape[:2]:
            raise DataError(
                f"x: got shape {x_array.shape} and y has {y_array.shape}; the first two axes (tasks, observations) "
                "must be equal. Use Tasks.from_lists for tasks of different sizes"
            )
        sizes = np.full(len(labels), y_array.shape[1])
        flat = (array.reshape(-1, *array.shape[2:]) for array in (x_array, y_array))
        return _finished(*(np.array(array) for array in flat), sizes, labels, context)

    @staticmethod
    def without_observations(
        names: Sequence[object], *, like: Tasks | None = None, context: Mapping[str, object] | None = None
    ) -> Tasks:
        """Tasks of which nothing has been observed yet, to be predicted from the population alone.

        Args:
            names: the tasks' names.
            like: tasks whose shapes of x and y, and whose contexts, these shall have.
            context: per name T values; all of those that `like` has.
        """
        labels = _default_names(names, len(names), "names")
        missing = set(like.context if like else ()) - set(context or ())
        if missing:
            name = min(missing)
            raise DataError(f"context: {name!r} is missing, and like.context has it; pass context={{{name!r}: [...]}}")
        return Tasks(
            x=like.x[:0] if like else torch.zeros(0, 0, dtype=torch.float64),
            y=like.y[:0] if like else torch.zeros(0, dtype=torch.float64),
            offsets=torch.zeros(len(labels) + 1, dtype=torch.int64),
            names=labels,
            context=reading.as_context(context, labels),
            columns=like.columns if like else None,
        )

    # --- looking -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Task]:
        return (self[position] for position in range(len(self)))

    def __contains__(self, name: object) -> bool:
        return name in self._positions

    @overload
    def __getitem__(self, key: str | int) -> Task: ...
    @overload
    def __getitem__(self, key: slice | Sequence[Any] | Tensor) -> Tasks: ...
    def __getitem__(self, key: str | int | slice | Sequence[Any] | Tensor) -> Task | Tasks:
        if isinstance(key, str):
            return self._task(self.index(key))
        if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
            return self._task(self._checked_position(int(key)))
        if isinstance(key, slice):
            return self._take(np.arange(len(self))[key])
        return self._take(self._lookup(key))

    def index(self, name: str) -> int:
        """The position of the task of that name."""
        if name not in self._positions:
            raise UnknownNameError(unknown("task", name, self.names))
        return self._positions[name]

    @cached_property
    def sizes(self) -> Tensor:
        """Observations per task, int64 (T,)."""
        return self.offsets.diff()

    @cached_property
    def task_index(self) -> Tensor:
        """The position of the task that each observation belongs to, int64 (N,)."""
        return torch.repeat_interleave(torch.arange(len(self)), self.sizes)

    @property
    def n_observations(self) -> int:
        """N, the observations of all tasks."""
        return len(self.y)

    def __repr__(self) -> str:
        return showing.as_text(self)

    def _repr_html_(self) -> str:
        return showing.as_html(self)

    # --- making others -------------------------------------------------------------------------------------------

    def without(self, names: str | Iterable[str]) -> Tasks:
        """All tasks but these."""
        left_out = [self.index(name) for name in ([names] if isinstance(names, str) else names)]
        return self._take(np.delete(np.arange(len(self)), left_out))

    def with_names(self, names: Sequence[object]) -> Tasks:
        """The same tasks under other names."""
        labels = _default_names(names, len(self), "the tasks")
        return Tasks(self.x, self.y, self.offsets, labels, self.context, self.columns)

    def __add__(self, other: Tasks) -> Tasks:
        """These tasks and the others; no name may occur in both."""
        for what, ours, theirs in (("x", self.x, other.x), ("y", self.y, other.y)):
            if ours.shape[1:] != theirs.shape[1:]:
                raise DataError(
                    f"{what}: cannot add tasks with rows of shape {tuple(theirs.shape[1:])} to tasks with rows of shape "
                    f"{tuple(ours.shape[1:])}; both need the same columns"
                )
        if set(self.context) != set(other.context):
            raise DataError(
                f"context: cannot add tasks with {sorted(other.context)} to tasks with {sorted(self.context)}; "
                "both need the same names"
            )
        return Tasks(
            x=torch.cat([self.x, other.x]),
            y=torch.cat([self.y, other.y]),
            offsets=torch.cat([self.offsets, other.offsets[1:] + self.offsets[-1]]),
            names=reading.as_names(self.names + other.names),
            context={name: torch.cat([values, other.context[name]]) for name, values in self.context.items()},
            columns=self.columns if self.columns == other.columns else None,
        )

    def split(self, support: int, seed: int = 0) -> tuple[Tasks, Tasks]:
        """Support and query: `support` random observations of each task (all of a smaller one), and the rest.

        Rows keep their order; both halves have all tasks, some perhaps without observations. The seed drives a
        generator of its own.

        Args:
            support: observations per task to adapt on, 0 or more.
            seed: which random choice.

        Returns:
            The support tasks and the query tasks.
        """
        if isinstance(support, bool) or not isinstance(support, (int, np.integer)) or support < 0:
            raise OptionError(f"support: got {support!r}; wanted a number of observations per task, 0 or more")
        shuffled = torch.randperm(self.n_observations, generator=torch.Generator().manual_seed(seed))
        order = shuffled[torch.argsort(self.task_index[shuffled], stable=True)]
        rank = torch.arange(self.n_observations) - self.offsets[self.task_index]
        chosen = torch.zeros(self.n_observations, dtype=torch.bool)
        chosen[order[rank < support]] = True
        return self._rows(chosen), self._rows(~chosen)

    def padded(self, max_buckets: int = 3, exact_sizes: bool = False) -> list[Padded]:
        """A few rectangular batches of tasks of similar size, padded with real rows and masked.

        Args:
            max_buckets: how many batches at most; one more is only made where it at least halves the cells and
                saves more than 2,000 of them.
            exact_sizes: one batch for each distinct size instead, without any padding.
        """
        if max_buckets < 1:
            raise OptionError(f"max_buckets: got {max_buckets}; wanted 1 or more")
        return pad((self.x, self.y), self.offsets, self.context, max_buckets=max_buckets, exact_sizes=exact_sizes)

    def fingerprint(self) -> str:
        """SHA-256 of names, sizes, inputs, observations and contexts: equal for equal tasks only."""
        digest = hashlib.sha256()
        for name in self.names:
            text = name.encode()
            digest.update(len(text).to_bytes(8, "little") + text)
        named = {"offsets": self.offsets, "x": self.x, "y": self.y}
        named |= {f"context {name}": self.context[name] for name in sorted(self.context)}
        for name, values in named.items():
            digest.update(f"{name} {tuple(values.shape)}".encode())
            digest.update(values.contiguous().numpy().data)
        return digest.hexdigest()

    # --- inside --------------------------------------------------------------------------------------------------

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.names)}

    def _task(self, position: int) -> Task:
        start, end = self.offsets[position : position + 2].tolist()
        context = {name: values[position] for name, values in self.context.items()}
        return Task(self.names[position], self.x[start:end], self.y[start:end], context)

    def _checked_position(self, position: int) -> int:
        if not -len(self) <= position < len(self):
            raise UnknownNameError(f"position {position} is not there: there are {len(self)} tasks, 0 to {len(self) - 1}")
        return position % len(self)

    def _lookup(self, keys: Sequence[Any] | Tensor) -> reading.IntArray:
        """Positions of a list of names and positions, or of a mask of one truth value per task."""
        items = keys.tolist() if isinstance(keys, (Tensor, np.ndarray)) else list(keys)
        if items and all(isinstance(item, bool) for item in items):
            if len(items) != len(self):
                raise DataError(f"a mask of {len(items)} truth values; wanted one per task, {len(self)}")
            return np.flatnonzero(items)
        found = [self.index(k) if isinstance(k, str) else self._checked_position(int(k)) for k in items]
        return np.array(found, dtype=np.int64)

    def _take(self, positions: reading.IntArray) -> Tasks:
        """The tasks at these positions, in that order."""
        index = torch.from_numpy(positions)
        sizes = self.sizes[index]
        offsets = _offsets(sizes)
        rows = torch.arange(int(offsets[-1])) + torch.repeat_interleave(self.offsets[index] - offsets[:-1], sizes)
        return Tasks(
            x=self.x[rows],
            y=self.y[rows],
            offsets=offsets,
            names=reading.as_names([self.names[p] for p in positions.tolist()]),
            context={name: values[index] for name, values in self.context.items()},
            columns=self.columns,
        )

    def _rows(self, chosen: Tensor) -> Tasks:
        """All tasks with the chosen observations only, mask (N,)."""
        sizes = torch.bincount(self.task_index[chosen], minlength=len(self))
        return Tasks(self.x[chosen], self.y[chosen], _offsets(sizes), self.names, self.context, self.columns)


def split_missing(df: pd.DataFrame, columns: Columns) -> tuple[Tasks, Tasks]:
    """Rows with the response filled in as support, rows with it empty as query, for adapting from one table.

    Both have all tasks of the table, in order of first appearance, some perhaps without observations; the query's y is
    NaN. Everything but the response is checked as in `Tasks.from_frame`.
    """
    columns = _columns(df, columns.task, columns.x, columns.y, columns.context)
    tasks = _from_frame(df, columns, reading.numeric_column(df, columns.y, "y", allow_missing=True))
    missing = torch.isnan(tasks.y)
    return tasks._rows(~missing), tasks._rows(missing)


# --- building ----------------------------------------------------------------------------------------------------


def _columns(
    df: pd.DataFrame, task: str, x: str | Sequence[str] | None, y: str, context: str | Sequence[str] | None
) -> Columns:
    """The columns as given, checked for what no frame can mend."""
    if not isinstance(df, pd.DataFrame):
        raise DataError(f"df: got {type(df).__name__}; wanted a pandas DataFrame (pd.DataFrame(...) makes one)")
    inputs = x if isinstance(x, str) or x is None else tuple(x)
    columns = Columns(task, inputs, y, (context,) if isinstance(context, str) else tuple(context or ()))
    for role, used in (("task", (task,)), ("x", _input_names(columns)), ("context", columns.context)):
        if y in used:
            raise DataError(f"{role}: column {y!r} is y as well; a task would be predicted from its own response")
    return columns


def _input_names(columns: Columns) -> tuple[str, ...]:
    return (columns.x,) if isinstance(columns.x, str) else (columns.x or ())


def _from_frame(df: pd.DataFrame, columns: Columns, y: reading.FloatArray) -> Tasks:
    """Tasks of all rows, once the response has been read."""
    codes, names = reading.group_rows(df, columns.task)
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes, minlength=len(names))
    first = order[np.cumsum(sizes) - sizes]
    inputs = [reading.numeric_column(df, name, "x")[order] for name in _input_names(columns)]
    x = inputs[0] if isinstance(columns.x, str) else np.stack(inputs, axis=1) if inputs else np.zeros((len(y), 0))
    context = {
        name: reading.constant_within(reading.numeric_column(df, name, "context"), codes, first, (name, names))
        for name in columns.context
    }
    return Tasks(
        x=torch.from_numpy(x),
        y=torch.from_numpy(y[order]),
        offsets=_offsets(torch.from_numpy(sizes)),
        names=names,
        context=context,
        columns=columns,
    )


def _finished(
    x: reading.FloatArray,
    y: reading.FloatArray,
    sizes: reading.IntArray,
    names: tuple[str, ...],
    context: Mapping[str, object] | None,
) -> Tasks:
    """Tasks from flat arrays, once every value has been seen to be finite."""
    offsets = _offsets(torch.from_numpy(sizes))

    def where(row: int) -> str:
        task = int(np.searchsorted(offsets.numpy(), row, side="right")) - 1
        return f"row {row - int(offsets[task])} of task {names[task]!r}"

    reading.check_finite(x, "x", where)
    reading.check_finite(y, "y", where)
    return Tasks(torch.from_numpy(x), torch.from_numpy(y), offsets, names, reading.as_context(context, names))


def _joined_inputs(xs: Sequence[object], names: tuple[str, ...], sizes: reading.IntArray) -> reading.FloatArray:
    """The inputs of all tasks, one after the other."""
    if len(xs) != len(names):
        raise DataError(f"xs: got {len(xs)} tasks and ys has {len(names)}; wanted one array of inputs per task")
    arrays = [reading.as_array(x, f"xs of task {name!r}") for name, x in zip(names, xs, strict=True)]
    rows = _row_counts(arrays, "xs", names)
    if (rows != sizes).any():
        t = int(np.argmax(rows != sizes))
        raise DataError(f"xs: task {names[t]!r} has {rows[t]} rows of inputs and {sizes[t]} observations in ys")
    return reading.joined(arrays, "xs", names)


def _row_counts(arrays: Sequence[Any], what: str, names: Sequence[str]) -> reading.IntArray:
    for name, array in zip(names, arrays, strict=True):
        if array.ndim == 0:
            raise DataError(f"{what}: task {name!r} is a single number; wanted a sequence, one entry per observation")
    return np.array([len(array) for array in arrays], dtype=np.int64)


def _default_names(names: Sequence[object] | None, count: int, counted: str) -> tuple[str, ...]:
    if names is None:
        return tuple(map(str, range(count)))
    if isinstance(names, str):
        raise DataError(f"names: got the text {names!r}; wanted a sequence of names, such as [{names!r}]")
    if len(names) != count:
        raise DataError(f"names: got {len(names)} names; wanted one per task, {count} as in {counted}")
    return reading.as_names(names)


def _offsets(sizes: Tensor) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int64), torch.cumsum(sizes, 0)])


def _empty_task(name: str) -> DataError:
    return DataError(
        f"task {name!r} has no observations; leave it out, or pass allow_empty=True / "
        "Tasks.without_observations for zero-shot"
    )


def _check_tasks(tasks: Tasks) -> None:
    """What must hold however the tasks were made; cheap."""
    count, total = len(tasks.names), len(tasks.y)
    if count == 0:
        raise DataError("no task at all; wanted at least one. Was a selection or a frame filtered to nothing?")
    if len(tasks.offsets) != count + 1 or int(tasks.offsets[-1]) != total or len(tasks.x) != total:
        raise DataError(
            f"offsets: {len(tasks.offsets)} of them ending at {int(tasks.offsets[-1])}, with {count} names, {total} rows "
            f"of y and {len(tasks.x)} of x; wanted T + 1 offsets ending at the number of rows"
        )
    for name, values in tasks.context.items():
        if not isinstance(name, str) or name in RESERVED:
            raise DataError(
                f"context: {name!r} cannot be a context's name; the task function gets contexts by keyword, beside "
                f"its own {', '.join(RESERVED)}. Rename it"
            )
        if len(values) != count:
            raise DataError(f"context[{name!r}]: got {len(values)} values; wanted one per task, {count}")
