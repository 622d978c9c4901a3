"""One task in one panel: its observations, and what is predicted for them.

Where observations have one input that takes many values, the prediction is a band over it; where it takes a few, an
interval at each of them. Without inputs, or with several, the observations stand side by side in the order of their
predictions, or at one of the columns. Binary outcomes have the interval of their probability; all others that of the
next observation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bayesmeta.errors import NotAvailableError, OptionError, UnknownNameError, unknown
from bayesmeta.plot.style import BLACK, BLUE, RED, input_label, percent, plain, response_label, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmeta.adapt import Adapted
    from bayesmeta.tasks import Task, Tasks

__all__ = ["Band", "View", "bands", "draw_task", "view_of"]

Array = npt.NDArray[np.float64]
Kind: TypeAlias = Literal["line", "values", "rows"]

FEW = 6  # values of an input that are treated one by one
POINTS = 60  # inputs that a band is computed at
MOST_POINTS = 400  # observations drawn in a panel over an input
MOST_ROWS = 40  # observations drawn side by side
JITTER = 0.3  # of the least distance between values of an input


@dataclass(frozen=True)
class View:
    """How tasks are drawn, the same for all panels.

    Attributes:
        kind: ``"line"``: a band over the input; ``"values"``: an interval at each of a few values of it; ``"rows"``:
            an interval for each observation, side by side or at a column.
        at: Inputs that the prediction is drawn at (m,); none for rows.
        column: Which column gives the horizontal axis; None: the order of the predictions.
        output: Which number of an observation is drawn.
        binary: Whether outcomes are 0 or 1, so that the interval is that of the probability.
        xlabel: Label of the horizontal axis.
        ylabel: Label of the vertical axis.
        level: Probability of the interval.
    """

    kind: Kind
    at: Array
    column: int | None
    output: int
    binary: bool
    xlabel: str
    ylabel: str
    level: float

    @property
    def words(self) -> str:
        """What the interval is, for the legend."""
        what = "probability" if self.binary else "prediction"
        return f"{what}: mean and {percent(self.level)} interval"


class Band(NamedTuple):
    """What is predicted of one task: inputs or places, mean, lower and upper end, (m,) each."""

    mean: Array
    lower: Array
    upper: Array


def view_of(shown: Tasks, among: Tasks, column: str | int | None, output: int, at: Any, level: float) -> View:
    """How tasks are best drawn.

    Args:
        shown: The tasks that are drawn.
        among: The tasks that they are some of, or are to be compared with: they say what kind of input it is.
        column: The input column to draw over, by name or number; None leaves the choice.
        output: Which number of an observation to draw.
        at: Inputs (m,) that a band is drawn at; None for the range of the tasks drawn.
        level: Probability of the interval.

    Raises:
        UnknownNameError: No such column.
        OptionError: No such number in an observation, or `at` without a single input.
        NotAvailableError: Observations are arrays.
    """
    _check_output(among, output)
    place = _column(among, column)
    single = among.x.dim() == 1 or (among.x.dim() == 2 and among.x.shape[1] == 1)
    if at is not None and not single:
        raise OptionError("at: inputs of a band are for tasks with one input; these have none, or several")
    kind, values = _inputs(shown, among, at) if single else ("rows", np.zeros(0))
    label = plain(response_label(among)) + (f"[{output}]" if among.y.dim() > 1 else "")
    outcomes = np.unique(among.y.numpy())
    binary = len(outcomes) > 0 and bool(np.isin(outcomes, (0.0, 1.0)).all())
    xlabel = "observations" if place is None else plain(input_label(among, place))
    return View(kind, values, place, output, binary, xlabel, label, level)


def _inputs(shown: Tasks, among: Tasks, at: Any) -> tuple[Kind, Array]:
    """Of a single input: how it is drawn, and the values that predictions are drawn at."""
    if at is not None:
        return "line", np.unique(np.asarray(at, dtype=np.float64))
    own = np.unique(shown.x.numpy())
    known = np.union1d(among.x.numpy(), own)
    if not len(known):
        return "rows", known
    if len(known) <= FEW and (len(known) == 1 or among.n_observations >= 2 * len(known)):
        return "values", known
    over = own if len(own) > 1 else known
    return "line", np.linspace(over[0], over[-1], POINTS)


def bands(adapted: Adapted, view: View, own: Sequence[Tensor] | None = None) -> list[Band]:
    """What is predicted for each adapted task, at the inputs of the view or, in rows, at its own (m, ...)."""
    if view.kind == "rows":
        predicted = adapted.predict([task.x for task in adapted.tasks] if own is None else own)
    else:
        x = torch.from_numpy(view.at)
        predicted = adapted.predict(x if adapted.tasks.x.dim() == 1 else x.unsqueeze(-1))
    lower, upper = predicted.mean_interval(view.level) if view.binary else predicted.interval(view.level)
    sizes = predicted.query.sizes.tolist()
    parts = [_numbers(values, view.output) for values in (predicted.mean, lower, upper)]
    return [Band(*(part[t, :size] for part in parts)) for t, size in enumerate(sizes)]


def draw_task(ax: Axes, view: View, task: Task, band: Band, seen: int | None = None) -> str:
    """Draw a task with its prediction.

    Args:
        ax: Where.
        view: How.
        task: Its observations.
        band: Its prediction.
        seen: How many of its observations, the first, the prediction knows; all by default.

    Returns:
        What was left out, in words; empty where nothing was.
    """
    seen = task.n if seen is None else seen
    y = _numbers(task.y.unsqueeze(0), view.output)[0]
    if view.kind == "rows":
        return _draw_rows(ax, view, task, band, y, seen)
    x = task.x.reshape(len(task.x), -1)[:, 0].numpy() if task.n else np.zeros(0)
    (_draw_band if view.kind == "line" else _draw_values)(ax, view, band)
    lower, upper = (np.interp(x, view.at, ends) for ends in (band.lower, band.upper))
    place = x if view.kind == "line" else _jittered(x, view.at)
    pick = np.argsort(x, kind="stable")[spread(len(x), MOST_POINTS)]
    outside = (y < lower) | (y > upper)
    _draw_points(ax, place[pick], y[pick], pick < seen, outside[pick] & (not view.binary))
    return "" if len(pick) == len(x) else f"{len(pick):,} of {len(x):,} drawn"


# --- choosing -------------------------------------------------------------------------------------------------


def _check_output(tasks: Tasks, output: int) -> None:
    if tasks.y.dim() > 2:
        raise NotAvailableError(
            f"observations are arrays of shape {tuple(tasks.y.shape[1:])}; only numbers and rows of them can be drawn"
        )
    count = 1 if tasks.y.dim() == 1 else tasks.y.shape[1]
    if isinstance(output, bool) or not isinstance(output, int) or not 0 <= output < count:
        raise OptionError(f"output must lie between 0 and {count - 1}, got {output!r}")


def _column(tasks: Tasks, column: str | int | None) -> int | None:
    """The number of the column for the horizontal axis; None where there is no natural one."""
    count = 1 if tasks.x.dim() == 1 else tasks.x.shape[1] if tasks.x.dim() == 2 else 0
    if column is None:
        return 0 if count == 1 else None
    names = [] if tasks.columns is None else list(tasks.columns.inputs)
    if isinstance(column, str):
        if column not in names:
            raise UnknownNameError(unknown("input column", column, names))
        return names.index(column)
    if isinstance(column, bool) or not isinstance(column, int) or not 0 <= column < count:
        raise OptionError(f"column must be a name or a number below {count}, got {column!r}")
    return column


def _numbers(values: Tensor, output: int) -> Array:
    """Tensor (T, m) or (T, m, k) as an array (T, m)."""
    array: Array = values.numpy() if values.dim() == 2 else values[..., output].numpy()
    return array


# --- drawing --------------------------------------------------------------------------------------------------


def _draw_band(ax: Axes, view: View, band: Band) -> None:
    ax.fill_between(view.at, band.lower, band.upper, color=BLUE, alpha=0.2, linewidth=0, zorder=1)
    ax.plot(view.at, band.mean, color=BLUE, linewidth=1.4, zorder=2, label=view.words)


def _draw_values(ax: Axes, view: View, band: Band) -> None:
    ax.vlines(view.at, band.lower, band.upper, color=BLUE, alpha=0.25, linewidth=7, zorder=1)
    ax.scatter(view.at, band.mean, marker="_", s=90, color=BLUE, linewidths=1.6, zorder=2)
    ax.plot([], [], color=BLUE, linewidth=1.6, label=view.words)
    gap = _gap(view.at)
    ax.set_xlim(view.at[0] - gap, view.at[-1] + gap)
    ax.set_xticks(view.at)


def _draw_rows(ax: Axes, view: View, task: Task, band: Band, y: Array, seen: int) -> str:
    """Observations at a column, or side by side in the order of their predicted means and values."""
    if view.column is None:
        ax.set_xticks([])
    if not task.n:
        return "no observations"
    order = np.lexsort((y, band.mean))
    pick = order[spread(len(order), MOST_ROWS if view.column is None else MOST_POINTS)]
    column = None if view.column is None else task.x[:, view.column].numpy()
    place = np.arange(len(pick), dtype=np.float64) if column is None else column[pick]
    if column is not None and len(np.unique(column)) <= FEW:
        place = _jittered(place, np.unique(column))
    ax.vlines(place, band.lower[pick], band.upper[pick], color=BLUE, alpha=0.3, linewidth=2.5, zorder=1)
    ax.scatter(place, band.mean[pick], marker="_", s=12, color=BLUE, linewidths=1.2, zorder=2)
    ax.plot([], [], color=BLUE, linewidth=1.6, label=view.words)
    outside = (y < band.lower) | (y > band.upper)
    _draw_points(ax, place, y[pick], pick < seen, outside[pick] & (not view.binary))
    return "" if len(pick) == task.n else f"{len(pick)} of {task.n:,} drawn"


def _draw_points(ax: Axes, x: Array, y: Array, seen: npt.NDArray[np.bool_], outside: npt.NDArray[np.bool_]) -> None:
    """Observations: dots where the prediction knows them, rings where it does not; red outside of the interval."""
    size = 14 if len(x) <= 60 else 6
    for color, which, words in ((BLACK, ~outside, ""), (RED, outside, ", outside")):
        for known, label in ((True, "observed"), (False, "not yet observed")):
            chosen = which & (seen == known)
            if chosen.any():
                face = color if known else "white"
                style: dict[str, Any] = {"facecolors": face, "edgecolors": color, "linewidths": 0.8, "zorder": 3}
                ax.scatter(x[chosen], y[chosen], s=size, label=label + words, **style)


def _gap(values: Array) -> float:
    """The least distance between values, 1 where there is one alone."""
    return float(np.diff(values).min()) if len(values) > 1 else 1.0


def _jittered(x: Array, values: Array) -> Array:
    """Positions of observations that share a few values, side by side within each in the order they came."""
    moved = x.astype(np.float64).copy()
    width = JITTER * _gap(values)
    for value in values:
        at = np.flatnonzero(x == value)
        if len(at) > 1:
            moved[at] += np.linspace(-width, width, len(at))
    return moved
