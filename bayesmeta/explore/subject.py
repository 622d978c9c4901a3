"""What is looked at: a posterior and its tasks, and the columns, contexts and elements of θ that one chooses from."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bayesmeta.adapt import check_like
from bayesmeta.errors import DataError, NotAvailableError, UnknownNameError, unknown
from bayesmeta.explore.density import bounds
from bayesmeta.explore.quantity import Quantity
from bayesmeta.explore.state import MOST_POINTS, Point, State, read_points, read_position
from bayesmeta.plot.style import input_label, noun, response_label
from bayesmeta.sites import element_labels
from bayesmeta.tasks import Tasks

if TYPE_CHECKING:
    from bayesmeta.posterior import Posterior

__all__ = ["Element", "Subject"]

MOST_NAMES = 2000
MOST_ELEMENTS = 200


@dataclass(frozen=True)
class Element:
    """One number of θ: its label, its site and place there, and the ends of its support."""

    label: str
    site: str
    place: int
    support: tuple[float, float]


class Subject:
    """A posterior, further tasks, and what there is to choose from.

    Args:
        posterior: The fitted population.
        tasks: Tasks that the fit has not seen, whose observations start as points that can be moved.

    Raises:
        NotAvailableError: Inputs or observations are not rows of numbers.
        DataError: The further tasks are not shaped as those of the fit.
    """

    def __init__(self, posterior: Posterior, tasks: Tasks | None = None) -> None:
        fit = posterior.tasks
        if fit.y.dim() > 1 or fit.x.dim() > 2:
            raise NotAvailableError(
                f"explore() shows observations of one number each at inputs of some columns; here an observation has "
                f"shape {tuple(fit.y.shape[1:])} and its input {tuple(fit.x.shape[1:])}: use adapt and predict"
            )
        if tasks is not None:
            check_like(fit, tasks)
            _check_unseen(fit, tasks)
        self.posterior = posterior
        self.more = tasks
        self._all = fit if tasks is None else tasks + fit
        self.new = _unused(self._all)

    @cached_property
    def columns(self) -> list[Quantity]:
        """The columns of x."""
        x = _table(self._all.x)
        return [Quantity.of(input_label(self.posterior.tasks, k), x[:, k]) for k in range(x.shape[1])]

    @cached_property
    def outcome(self) -> Quantity:
        """What is observed."""
        return Quantity.outcome(response_label(self.posterior.tasks), self._all.y)

    @cached_property
    def contexts(self) -> list[Quantity]:
        """The contexts that are one number per task."""
        every = self._all.context.items()
        return [Quantity.of(name, values) for name, values in every if values.dim() == 1]

    @cached_property
    def elements(self) -> list[Element]:
        """The first elements of θ, in the order of its sites."""
        found = []
        for site in self.posterior.collapsed.program.structure.theta:
            labels = element_labels(site.name, site.shape)
            found += [Element(label, site.name, k, bounds(site.support)) for k, label in enumerate(labels)]
        return found[:MOST_ELEMENTS]

    def plain(self) -> dict[str, Any]:
        """What the page needs to know before anything is chosen."""
        fit = self.posterior.tasks
        return {
            "noun": noun(self.posterior),
            "new": self.new,
            "more": [] if self.more is None else list(self.more.names[:MOST_NAMES]),
            "fit": list(fit.names[:MOST_NAMES]),
            "count": len(self._all),
            "elements": [element.label for element in self.elements],
            "columns": [column.plain() for column in self.columns],
            "contexts": [context.plain() for context in self.contexts],
            "outcome": {**self.outcome.plain(), "binary": self.outcome.is_binary},
            "most": MOST_POINTS,
        }

    # --- what is chosen ---------------------------------------------------------------------------------------

    def start(self, task: str | None = None, element: int = 0) -> State:
        """The state in which a task is first shown: with its own points if they can be moved, else without any.

        Raises:
            UnknownNameError: There is no such task.
        """
        name = self.new if task is None else task
        if name != self.new and name not in self._all:
            raise UnknownNameError(unknown("task", name, self._all.names))
        points = _as_points(self._all[[name]]) if self._can_move(name) else ()
        return State(name, points, self._context(name), element, held=tuple(column.middle for column in self.columns))

    def copied(self, state: State) -> State:
        """A new task with the observations of the one that is shown.

        Raises:
            DataError: They are too many to be moved.
        """
        points = (*_as_points(self.seen(state.task)), *state.points)
        if len(points) > MOST_POINTS:
            raise DataError(f"the task has {len(points):,} observations; the view moves up to {MOST_POINTS}")
        return replace(state, task=self.new, points=points)

    def read(self, raw: Mapping[str, Any]) -> State:
        """The state as the page sends it; without points, the task as it is first shown.

        Raises:
            BayesmetaError: Something in it is not valid; the message says what.
        """
        base = replace(
            self.start(raw.get("task")),
            element=read_position(raw.get("element", 0), len(self.elements), "element"),
            column=read_position(raw.get("column", 0), len(self.columns), "column"),
            held=self._held(raw.get("held")),
        )
        if raw.get("points") is None:
            return base
        points = read_points(raw["points"], self.columns, self.outcome)
        context = self._typed(raw.get("context") or {}) if base.task == self.new else base.context
        return replace(base, points=points, context=context)

    # --- as tasks ---------------------------------------------------------------------------------------------

    def seen(self, name: str) -> Tasks:
        """Observations of a task that cannot be moved: those of the fit, or too many; perhaps none."""
        if name in self._all and not self._can_move(name):
            return self._all[[name]]
        return Tasks.without_observations([name], like=self.posterior.tasks, context=self._tensors(name, {}))

    def tasks(self, state: State) -> Tasks:
        """What is to be adapted on: the points, and what was seen of a task that the fit does not know."""
        return self._joined(state, self.seen(state.task), known=state.task in self.posterior.tasks)

    def every(self, state: State) -> Tasks:
        """All observations of the task, those of the fit too, under a name that the fit does not know."""
        return self._joined(state, self.seen(state.task), known=False).with_names([self.new])

    def nobody(self, state: State) -> Tasks:
        """A task of the same context of which nothing was observed."""
        context = self._tensors(state.task, state.context)
        return Tasks.without_observations([self.new], like=self.posterior.tasks, context=context)

    def rows(self, xs: list[tuple[float, ...]]) -> Tensor:
        """Inputs (m, d), or (m,) where the fit has them so."""
        flat = torch.tensor(xs, dtype=torch.float64).reshape(len(xs), len(self.columns))
        return flat[:, 0] if self.posterior.tasks.x.dim() == 1 else flat

    def _joined(self, state: State, seen: Tasks, known: bool) -> Tasks:
        x = self.rows([point.x for point in state.points])
        y = torch.tensor([point.y for point in state.points], dtype=torch.float64)
        if not known:
            x, y = torch.cat([seen.x, x]), torch.cat([seen.y, y])
        context = self._tensors(state.task, state.context) or None
        if not len(y):
            return Tasks.without_observations([state.task], like=self.posterior.tasks, context=context)
        return Tasks.from_lists([x], [y], names=[state.task], context=context)

    # --- inside -----------------------------------------------------------------------------------------------

    def _can_move(self, name: str) -> bool:
        return self.more is not None and name in self.more and self.more[name].n <= MOST_POINTS

    def _context(self, name: str) -> dict[str, float]:
        if name not in self._all:
            return {context.name: context.middle for context in self.contexts}
        task = self._all[name]
        return {context.name: float(task.context[context.name]) for context in self.contexts}

    def _typed(self, given: Mapping[str, Any]) -> dict[str, float]:
        return {context.name: context.number(given.get(context.name, context.middle)) for context in self.contexts}

    def _tensors(self, name: str, numbers: Mapping[str, float]) -> dict[str, Tensor]:
        """The context of one task (1, ...): its own, and of a new one the numbers; else that of the first task."""
        own = dict(self._all[name if name in self._all else 0].context)
        if name not in self._all:
            own |= {key: torch.tensor(value, dtype=torch.float64) for key, value in numbers.items()}
        return {key: value.unsqueeze(0) for key, value in own.items()}

    def _held(self, given: Any) -> tuple[float, ...]:
        if given is None:
            return tuple(column.middle for column in self.columns)
        if not isinstance(given, Sequence) or len(given) != len(self.columns):
            raise DataError(f"held: got {given!r}; wanted one number for each column of x, {len(self.columns)}")
        return tuple(column.number(value) for column, value in zip(self.columns, given, strict=True))


def _unused(taken: Tasks) -> str:
    """A name for a new task that no other has."""
    names = itertools.chain(["new"], (f"new {number}" for number in itertools.count(1)))
    return next(name for name in names if name not in taken)


def _check_unseen(fit: Tasks, tasks: Tasks) -> None:
    both = [name for name in tasks.names if name in fit]
    if both:
        raise DataError(
            f"tasks: the fit has seen {both[0]!r} ({len(both)} such tasks); all tasks of the fit can be chosen anyway: "
            "leave them out, or give them other names with tasks.with_names([...])"
        )


def _table(x: Tensor) -> Tensor:
    return x.unsqueeze(-1) if x.dim() == 1 else x


def _as_points(task: Tasks) -> tuple[Point, ...]:
    rows = zip(_table(task.x).tolist(), task.y.tolist(), strict=True)
    return tuple(Point(tuple(x), y) for x, y in rows)
