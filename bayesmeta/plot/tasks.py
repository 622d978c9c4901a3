"""Data with what is predicted of them, a panel for each task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bayesmeta.adapt import Adapted
from bayesmeta.plot.panel import bands, draw_task, view_of
from bayesmeta.plot.picking import of_the_fit, picked_tasks
from bayesmeta.plot.style import Grid, check_level, grid_legend, grid_of, hide_empty, new_grid, short, thinned, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmeta.posterior import Posterior

__all__ = ["label_outer", "tasks", "wrapped"]

COLUMNS = 4
LONGEST = 24  # letters of a task's name in a title


def tasks(
    fitted: Posterior | Adapted,
    *,
    names: str | Sequence[str] | None = None,
    column: str | int | None = None,
    output: int = 0,
    at: Any = None,
    level: float = 0.9,
    most: int = 12,
    seed: int = 0,
    ax: Axes | Sequence[Axes] | Grid | None = None,
) -> Grid:
    """Draw tasks with their predictions: those of the fit, or those that were adapted to.

    Over one input that takes many values the prediction is a band; where it takes a few, an interval at each. Without
    inputs, or with several, the observations of a task stand in the order of their predictions. Observations outside
    of their interval are red.

    Args:
        fitted: A posterior, whose tasks are then drawn, or what its `adapt` returned.
        names: Which tasks; by default an even spread of `most`, from the one with the fewest observations to the one
            with the most.
        column: The input, by name or number, to draw over where there are several.
        output: Which number of an observation, where it has several.
        at: Inputs (m,) to draw the band at; by default from the least to the greatest of the tasks drawn.
        level: Probability of the interval.
        most: How many tasks to draw where none are named.
        seed: Seeds the draws of θ.
        ax: Axes to draw in, one for each task; a new figure by default.

    Returns:
        The axes (rows, columns).

    Raises:
        UnknownNameError: No such task or column.
        OptionError: A level outside (0, 1), or not as many axes as tasks.
        NotAvailableError: Observations are arrays.
    """
    check_level(level)
    known = fitted.tasks
    positions = picked_tasks(known, names, most)
    view = view_of(known[positions], known, column, output, at, level)
    adapted = fitted if isinstance(fitted, Adapted) else of_the_fit(fitted, positions, seed)
    shown = [known.names[position] for position in positions]
    panels = wrapped(len(shown), ax)
    found = dict(zip(adapted.names, bands(adapted, view), strict=True))
    for panel, name in zip(panels.reshape(-1), shown, strict=False):
        left = draw_task(panel, view, known[name], found[name])
        panel.set_title(short(name, LONGEST) + (f"\n{left}" if left else f" ({known[name].n:,})"), fontsize="small")
        tidy(panel).tick_params(labelsize="small")
    label_outer(panels, len(shown), view.xlabel, view.ylabel)
    grid_legend(panels, whole=ax is None)
    if names is None and len(shown) < len(known):
        panels[0, 0].figure.suptitle(thinned(len(shown), len(known)).strip(" ()"), fontsize="medium")
    return panels


def wrapped(count: int, ax: Axes | Sequence[Axes] | Grid | None) -> Grid:
    """Axes for so many panels, in rows of four, sharing their axes; those given in one row."""
    if ax is not None:
        return grid_of(ax, count).reshape(1, count)
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    width, height = (5.6, 4.0) if count == 1 else (2.5, 2.2 if rows > 1 else 3.0)
    panels = new_grid(rows, columns, width, height, sharex=True, sharey=True)
    hide_empty(panels, count)
    return panels


def label_outer(panels: Grid, count: int, xlabel: str, ylabel: str) -> None:
    """Labels at the left and below the lowest panel of each column."""
    columns = panels.shape[1]
    for panel in panels[:, 0]:
        panel.set_ylabel(ylabel)
    for k in range(max(0, count - columns), count):
        panels.reshape(-1)[k].set_xlabel(xlabel)
        panels.reshape(-1)[k].tick_params(labelbottom=True)
