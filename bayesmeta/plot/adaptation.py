"""How the prediction for one task changes as its observations come in.

The first panel is the population alone; in each next one the first k observations are known (dots), the others are
still to come (rings). The dashed lines in all panels are the interval of the first.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bayesmeta.diagnose.replicates import fresh_names
from bayesmeta.errors import BayesmetaWarning, DataError, OptionError
from bayesmeta.plot.panel import Band, View, bands, draw_task, view_of
from bayesmeta.plot.picking import enough_draws
from bayesmeta.plot.style import GREY, Grid, check_level, grid_legend, short, spread, tidy
from bayesmeta.plot.tasks import label_outer, wrapped
from bayesmeta.psis import K_HAT
from bayesmeta.tasks import Task, Tasks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmeta.adapt import Adapted
    from bayesmeta.posterior import Posterior

__all__ = ["adaptation"]

SHOTS = (0, 1, 2, 5, 10, 20, 50, 100)
MOST_PANELS = 4


def adaptation(
    posterior: Posterior,
    tasks: Tasks,
    *,
    name: str | None = None,
    shots: Sequence[int] | None = None,
    column: str | int | None = None,
    output: int = 0,
    at: Any = None,
    level: float = 0.9,
    seed: int = 0,
    ax: Axes | Sequence[Axes] | Grid | None = None,
) -> Grid:
    """Draw predictions for a task from none of its observations, from a few, and from more.

    The task is adapted to as a new one, whatever its name: of a task of the fit, φ has seen the observations already,
    and the title says so.

    Args:
        posterior: The fitted population.
        tasks: The task, with its observations in the order in which they come in; or several.
        name: Which of them, where there are several; the first by default.
        shots: Numbers of observations to adapt to, a panel for each; by default four from 0 to all.
        column: The input, by name or number, to draw over where there are several.
        output: Which number of an observation, where it has several.
        at: Inputs (m,) to draw the band at; by default over the range of the task.
        level: Probability of the interval.
        seed: Seeds the draws.
        ax: Axes to draw in, one for each panel; a new figure by default.

    Returns:
        The axes (rows, columns).

    Raises:
        UnknownNameError: No such task or column.
        OptionError: Numbers of observations that the task does not have, or not as many axes as panels.
        DataError: The task has no observations, or is not shaped as those of the fit.
    """
    check_level(level)
    one = tasks[[0 if name is None else tasks.index(name)]]
    task = one[0]
    counts = _counts(task, shots)
    view = view_of(one, posterior.tasks, column, output, at, level)
    adapted = _adapted(posterior, one, counts, seed)
    found = bands(adapted, view, [task.x] * len(counts))
    panels = wrapped(len(counts), ax)
    for k, (panel, count) in enumerate(zip(panels.reshape(-1), counts, strict=False)):
        draw_task(panel, view, task, found[k], seen=count)
        _draw_first(panel, view, found[0])
        panel.set_title(_title(count, float(adapted.k_hat[k])), fontsize="small")
        tidy(panel).tick_params(labelsize="small")
    label_outer(panels, len(counts), view.xlabel, view.ylabel)
    grid_legend(panels, whole=ax is None)
    if ax is None:
        seen = ", which the fit has seen" if task.name in posterior.tasks else ""
        panels[0, 0].figure.suptitle(short(task.name, 60) + seen, fontsize="medium")
    return panels


def _counts(task: Task, shots: Sequence[int] | None) -> list[int]:
    if not task.n:
        raise DataError(f"task {task.name!r} has no observations: pass one that has some to adapt to")
    if shots is None:
        known = [*(count for count in SHOTS if count < task.n), task.n]
        return [known[k] for k in spread(len(known), MOST_PANELS)]
    counts = list(shots)
    if not counts or not all(isinstance(k, int) and 0 <= k <= task.n for k in counts):
        raise OptionError(f"shots must be numbers from 0 to {task.n}, the observations of the task, got {counts}")
    return counts


def _adapted(posterior: Posterior, one: Tasks, counts: list[int], seed: int) -> Adapted:
    """The task after each number of observations, as so many new tasks."""
    task = one[0]
    names = fresh_names(posterior.tasks, len(counts), "shown")
    context = {key: value.expand(len(counts), *value.shape[1:]) for key, value in one.context.items()}
    xs, ys = [task.x[:count] for count in counts], [task.y[:count] for count in counts]
    parts = Tasks.from_lists(xs, ys, names=names, context=context or None, allow_empty=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BayesmetaWarning)  # k-hat stands in the title of its panel
        return posterior.adapt(parts, draws=enough_draws(posterior), strangers="ignore", seed=seed)


def _title(count: int, k_hat: float) -> str:
    if not count:
        return "the population alone"
    told = f"\nk-hat {k_hat:.2f}: refit" if K_HAT < k_hat < float("inf") else ""
    return f"{count} observation{'' if count == 1 else 's'}{told}"


def _draw_first(ax: Axes, view: View, first: Band) -> None:
    """The interval of the population alone, where it is a band."""
    if view.kind != "line":
        return
    for ends, label in ((first.lower, "interval of the first panel"), (first.upper, None)):
        ax.plot(view.at, ends, color=GREY, linewidth=0.8, linestyle="--", zorder=1.5, label=label)
