"""How a plated model is read, and the two functions of a hierarchy that follow: φ outside the plate, one task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayesmeta.arguments import Block, Source
from bayesmeta.constant import constant
from bayesmeta.plates import Alone, Hyper, Sizes
from bayesmeta.tasks import Task, Tasks

__all__ = ["FLAT", "ROWS_FIRST", "TASKS_FIRST", "OneTask", "Outside", "Reading"]

# Where tasks stand in x and y: rows of all tasks one after the other; (T, n) or (n, T) where all have n rows.
FLAT, TASKS_FIRST, ROWS_FIRST = "flat", "tasks first", "rows first"


@dataclass(frozen=True)
class Reading:
    """How a model is read: what it takes, how its data are laid out, and which of its sites are φ.

    Attributes:
        model: the user's model.
        plate: its plate over tasks.
        takes: what its arguments take.
        y_shape: the shape of one observation.
        layout: how x and y are laid out.
        squeezed: whether inputs of one column come without an axis for it.
        all_rows: a size of plates, written as a number in the model, that stands for all observations.
        none: whether None in place of the observations asks the model for a prediction.
        phi: the latent sites outside the plate, as they come.
        above: the observed sites and factors that belong to φ.
        data: the sites that hold observations.
        per_row: whether the plate holds one observation of each task.
    """

    model: Callable[..., Any]
    plate: str
    takes: Mapping[str, Source]
    y_shape: tuple[int, ...]
    layout: str = FLAT
    squeezed: bool = False
    all_rows: int | None = None
    none: bool = True
    phi: tuple[str, ...] = ()
    above: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    per_row: bool = False

    def call(self, data: Block) -> None:
        """Run the model on these tasks, under the handlers that are on."""
        self.model(**{name: source.of(data) for name, source in self.takes.items()})

    def sizes(self, data: Block) -> Sizes:
        """The sizes of the model's plates on these tasks."""
        return Sizes(self.plate, data.count, len(data.index), self.all_rows)

    def together(self, tasks: Tasks) -> Block:
        """The data of several tasks."""
        x, y = (self._laid_out(values, len(tasks)) for values in (self._inputs(tasks.x), tasks.y))
        return Block(x, y, tasks.task_index, len(tasks), tasks.context)

    def alone(self, x: Tensor, y: Tensor | None, context: Mapping[str, Tensor]) -> Block:
        """The data of one task; NaN for observations that the model has to have."""
        rows = len(x)
        members = rows if self.per_row else 1
        if y is None and not self.none:
            y = torch.full((rows, *self.y_shape), torch.nan, dtype=torch.float64)
        return Block(
            self._laid_out(self._inputs(x), 1),
            None if y is None else self._laid_out(y, 1),
            constant(lambda: torch.arange(rows) if self.per_row else torch.zeros(rows, dtype=torch.int64)),
            members,
            {name: value.unsqueeze(0).expand(members, *value.shape) for name, value in context.items()},
        )

    @property
    def y_axis(self) -> int | None:
        """The axis of y that runs over tasks, where there is one."""
        place = {TASKS_FIRST: -2, ROWS_FIRST: -1}.get(self.layout)
        return None if place is None else place - len(self.y_shape)

    def _inputs(self, x: Tensor) -> Tensor:
        return x.squeeze(-1) if self.squeezed and x.dim() == 2 and x.shape[-1] == 1 else x

    def _laid_out(self, values: Tensor, tasks: int) -> Tensor:
        if self.layout == FLAT:
            return values
        rows = values.reshape(tasks, len(values) // tasks, *values.shape[1:])
        return rows if self.layout == TASKS_FIRST else rows.transpose(0, 1)


@dataclass(frozen=True)
class Outside:
    """The hyperprior of a plated model: what it samples outside the plate. Returns φ by site."""

    reading: Reading
    like: Task

    def __call__(self) -> dict[str, Tensor]:
        """Sample φ: the model runs on the data of one task, whichever."""
        reading = self.reading
        data = reading.alone(self.like.x, self.like.y, self.like.context)
        handler = Hyper(reading.sizes(data), frozenset(reading.phi + reading.above))
        with handler:
            reading.call(data)
        return {name: handler.values[name] for name in reading.phi}


@dataclass(frozen=True)
class OneTask:
    """The task of a plated model: the model on the data of one task, φ standing at given values."""

    reading: Reading

    def __call__(self, phi: Mapping[str, Tensor], x: Tensor, y: Tensor | None = None, **context: Tensor) -> None:
        """Sample θ of one task, and its observations or, without any, draw them."""
        reading = self.reading
        data = reading.alone(x, y, context)
        placeholders = y is None and not reading.none
        handler = Alone(
            reading.sizes(data),
            phi,
            frozenset(reading.above),
            frozenset(reading.data),
            y_axis=reading.y_axis,
            per_row=reading.per_row,
            predict=placeholders,
        )
        with handler:
            reading.call(data)
