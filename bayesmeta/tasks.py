"""Ragged tasks: many small data sets of one population, of any sizes, each with a name.

The observations of all tasks lie one after another in flat tensors, with an offset per task, so that a
million tasks cost no more than a data frame of the same rows, and each task is a view.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from bayesmeta import showing
from bayesmeta.arrays import (
    Flat,
    IntArray,
    as_context,
    as_names,
    check_flat,
    digest,
    names_or_numbers,
    offsets_of,
    read_arrays,
    read_lists,
)
from bayesmeta.columns import Columns, columns_of
from bayesmeta.errors import DataError, OptionError, UnknownNameError, unknown
from bayesmeta.padding import Padded, pad

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Columns", "Padded", "Task", "Tasks", "check_columns", "split_missing"]


@dataclass(frozen=True, eq=False)
class Task:
    """One task: views into the tensors of the `Tasks` it is taken from.

    Attributes:
        name: the task's name.
        x: inputs (n,), (n, d) or (n, ...); (n, 0) where there are none.
        y: observations (n,) or (n, k).
        context: what holds for the whole task, by keyword.
    """

    name: str
    x: Float64[Tensor, "n ..."]
    y: Float64[Tensor, "n ..."]
    context: Mapping[str, Float64[Tensor, " ..."]]

    @property
    def n(self) -> int:
        """The number of observations."""
        return len(self.y)


@dataclass(frozen=True, eq=False, repr=False)
class Tasks:
    """Ragged tasks, made by `from_frame`, `from_lists`, `from_arrays` or `without_observations`.

    A task is looked up by name (text) or position (integer); a slice or a list gives `Tasks` again.

    Attributes:
        x: the inputs of all tasks, one task after the other, (N, ...).
        y: the observations, (N, ...).
        offsets: where each task starts, and N at the end, (T + 1,).
        names: the tasks' names, each once.
        context: what holds for a whole task, each (T, ...).
        columns: how a data frame's columns were used, or None.

    Examples:
        >>> tasks = Tasks.from_lists([[0.0, 1.0], [2.0]], [[1.0, 3.0], [5.0]], names=["A", "B"])
        >>> tasks
        Tasks: 2 tasks, 3 observations
          names  A, B
          sizes  min 1, median 1.5, max 2
          x      a number per observation
          y      a number per observation
        >>> tasks["A"].y, tasks[["B"]].names
        (tensor([1., 3.], dtype=torch.float64), ('B',))
    """

    x: Float64[Tensor, "N ..."]
    y: Float64[Tensor, "N ..."]
    offsets: Int64[Tensor, " T_plus_1"]
    names: tuple[str, ...]
    context: Mapping[str, Float64[Tensor, "T ..."]] = field(default_factory=dict)
    columns: Columns | None = None

    def __post_init__(self) -> None:
        check_flat(Flat(self.x, self.y, self.offsets, self.names, self.context))

    # --- ways in --------------------------------------------------------------------------------------------

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
            task: the column that says which task a row belongs to. Tasks come in order of first appearance,
                the rows of each in the frame's order; names are text.
            x: the input columns. One name gives x of shape (n,), a list of d names (n, d), None (n, 0).
            y: the response column.
            context: columns that are constant within each task; they reach the task function by keyword.

        Raises:
            UnknownNameError: a column is not in the frame.
            DataError: a column is not numeric, a value is NaN or infinite, or a context varies within a task.
        """
        from bayesmeta.frames import read_frame

        columns = columns_of(task, x, y, context)
        return Tasks(*read_frame(df, columns), columns)

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
        return Tasks(*read_lists(xs, ys, names=names, context=context, allow_empty=allow_empty))

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
        return Tasks(*read_arrays(x, y, names=names, context=context))

    @staticmethod
    def without_observations(
        names: Sequence[object], *, like: Tasks | None = None, context: Mapping[str, object] | None = None
    ) -> Tasks:
        """Tasks of which nothing has been observed yet, to be predicted from the population alone.

        Args:
            names: the tasks' names.
            like: tasks whose shapes of x and y, and whose contexts, these shall have.
            context: per name T values; all those that `like` has.
        """
        labels = names_or_numbers(names, len(names), "names")
        missing = set(like.context if like else ()) - set(context or ())
        if missing:
            name = min(missing)
            raise DataError(f"context: {name!r} is missing, and like has it; pass context={{{name!r}: [one per task]}}")
        return Tasks(
            x=like.x[:0] if like else torch.zeros(0, 0, dtype=torch.float64),
            y=like.y[:0] if like else torch.zeros(0, dtype=torch.float64),
            offsets=torch.zeros(len(labels) + 1, dtype=torch.int64),
            names=labels,
            context=as_context(context, labels),
            columns=like.columns if like else None,
        )

    # --- looking --------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Task]:
        return (self._task(position) for position in range(len(self)))

    def __contains__(self, name: object) -> bool:
        return name in self._positions

    @overload
    def __getitem__(self, key: str | int) -> Task: ...
    @overload
    def __getitem__(self, key: slice | Sequence[Any] | Tensor) -> Tasks: ...
    def __getitem__(self, key: str | int | slice | Sequence[Any] | Tensor) -> Task | Tasks:
        if isinstance(key, str):
            return self._task(self.index(key))
        if isinstance(key, slice):
            return self._take(np.arange(len(self))[key].copy())
        if np.ndim(key) == 0:
            return self._task(self._position(key))
        return self._take(self._positions_of(key))

    def index(self, name: str) -> int:
        """The position of the task of that name."""
        if name not in self._positions:
            raise UnknownNameError(unknown("task", name, self.names))
        return self._positions[name]

    @cached_property
    def sizes(self) -> Int64[Tensor, " T"]:
        """Observations per task."""
        return self.offsets.diff()

    @cached_property
    def task_index(self) -> Int64[Tensor, " N"]:
        """The position of the task that each observation belongs to."""
        return torch.repeat_interleave(torch.arange(len(self)), self.sizes)

    @property
    def n_observations(self) -> int:
        """N, the observations of all tasks."""
        return len(self.y)

    def __repr__(self) -> str:
        return showing.as_text(self)

    def _repr_html_(self) -> str:
        return showing.as_html(self)

    def fingerprint(self) -> str:
        """SHA-256 of names, sizes, inputs, observations and contexts: equal for equal tasks only."""
        contexts = {f"context {name}": self.context[name] for name in sorted(self.context)}
        return digest(self.names, {"offsets": self.offsets, "x": self.x, "y": self.y, **contexts})

    # --- making others --------------------------------------------------------------------------------------

    def without(self, names: str | Iterable[str]) -> Tasks:
        """All tasks but these."""
        left_out = [self.index(name) for name in ([names] if isinstance(names, str) else names)]
        return self._take(np.delete(np.arange(len(self)), left_out))

    def with_names(self, names: Sequence[object]) -> Tasks:
        """The same tasks under other names."""
        labels = names_or_numbers(names, len(self), "the tasks")
        return Tasks(self.x, self.y, self.offsets, labels, self.context, self.columns)

    def __add__(self, other: Tasks) -> Tasks:
        """These tasks and the others; no name may occur in both."""
        _check_addable(self, other)
        return Tasks(
            x=torch.cat([self.x, other.x]),
            y=torch.cat([self.y, other.y]),
            offsets=torch.cat([self.offsets, other.offsets[1:] + self.offsets[-1]]),
            names=as_names(self.names + other.names),
            context={name: torch.cat([values, other.context[name]]) for name, values in self.context.items()},
            columns=self.columns if self.columns == other.columns else None,
        )

    def split(self, support: int, seed: int = 0) -> tuple[Tasks, Tasks]:
        """Support and query: `support` random observations of each task, all of a smaller one, and the rest.

        Rows keep their order; both halves have all tasks, some perhaps without observations. The seed drives
        a generator of its own.

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
            max_buckets: how many batches at most; one more is made only where it at least halves the cells
                and saves more than 2,000 of them.
            exact_sizes: one batch for each distinct size instead, without padding.
        """
        if max_buckets < 1:
            raise OptionError(f"max_buckets: got {max_buckets!r}; wanted 1 or more")
        return pad((self.x, self.y), self.offsets, self.context, max_buckets=max_buckets, exact_sizes=exact_sizes)

    # --- inside ---------------------------------------------------------------------------------------------

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.names)}

    def _task(self, position: int) -> Task:
        start, end = self.offsets[position : position + 2].tolist()
        context = {name: values[position] for name, values in self.context.items()}
        return Task(self.names[position], self.x[start:end], self.y[start:end], context)

    def _position(self, key: Any) -> int:
        """A position from 0, from a name or a position that may count from the end."""
        if isinstance(key, str):
            return self.index(key)
        key = key.item() if hasattr(key, "item") else key
        if isinstance(key, bool) or not isinstance(key, int) or not -len(self) <= key < len(self):
            raise UnknownNameError(f"task {key!r}: wanted a name, or a position from 0 to {len(self) - 1}")
        return key % len(self)

    def _positions_of(self, keys: Any) -> IntArray:
        """Positions of a list of names and positions, or of a mask of one truth value per task."""
        items = keys.tolist() if isinstance(keys, (Tensor, np.ndarray)) else list(keys)
        if items and all(isinstance(item, bool) for item in items):
            if len(items) != len(self):
                raise DataError(f"a mask of {len(items)} truth values; wanted one per task, {len(self)}")
            return np.flatnonzero(items)
        return np.array([self._position(item) for item in items], dtype=np.int64)

    def _take(self, positions: IntArray) -> Tasks:
        """The tasks at these positions, in that order."""
        index = torch.from_numpy(positions)
        sizes = self.sizes[index]
        offsets = offsets_of(sizes)
        rows = torch.arange(int(offsets[-1])) + torch.repeat_interleave(self.offsets[index] - offsets[:-1], sizes)
        return Tasks(
            x=self.x[rows],
            y=self.y[rows],
            offsets=offsets,
            names=as_names([self.names[p] for p in positions.tolist()]),
            context={name: values[index] for name, values in self.context.items()},
            columns=self.columns,
        )

    def _rows(self, chosen: Bool[Tensor, " N"]) -> Tasks:
        """All tasks, with the chosen observations only."""
        sizes = torch.bincount(self.task_index[chosen], minlength=len(self))
        return Tasks(self.x[chosen], self.y[chosen], offsets_of(sizes), self.names, self.context, self.columns)


def split_missing(df: pd.DataFrame, columns: Columns) -> tuple[Tasks, Tasks]:
    """Rows with the response filled in as support, rows with it empty as query: adapting from one table.

    Both have all tasks of the table, in order of first appearance, some perhaps without observations; the
    query's y is NaN. Everything but the response is checked as in `Tasks.from_frame`.
    """
    from bayesmeta.frames import read_frame

    tasks = Tasks(*read_frame(df, columns, missing_y=True), columns)
    missing = torch.isnan(tasks.y)
    return tasks._rows(~missing), tasks._rows(missing)


def check_columns(known: Tasks, other: Tasks, what: str) -> None:
    """Raise a DataError where both came from a data frame, and their inputs from other columns or in another order."""
    ours, theirs = (tasks.columns.inputs if tasks.columns else None for tasks in (known, other))
    if ours is not None and theirs is not None and ours != theirs:
        raise DataError(
            f"x: the inputs are columns {list(theirs)}, of {what} {list(ours)}: pass the same columns in the same order"
        )


def _check_addable(ours: Tasks, theirs: Tasks) -> None:
    for what, left, right in (("x", ours.x, theirs.x), ("y", ours.y, theirs.y)):
        if left.shape[1:] != right.shape[1:]:
            raise DataError(
                f"{what}: cannot add tasks with rows of shape {tuple(right.shape[1:])} to tasks with rows of "
                f"shape {tuple(left.shape[1:])}; both need the same columns"
            )
    check_columns(ours, theirs, "the tasks that they are added to")
    if set(ours.context) != set(theirs.context):
        raise DataError(
            f"context: cannot add tasks with {sorted(theirs.context)} to tasks with {sorted(ours.context)}; "
            "both need the same names"
        )
