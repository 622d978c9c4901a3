"""What each further observation of a new task brings: spread, error or log density against the number of shots.

Every dot is a mean over simulated tasks, with a bar that would hold the mean over infinitely many of them with the
probability asked for. A dashed line shows what no number of shots goes below: the spread of an observation whose θ is
known.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

import numpy as np

from bayesmeta.errors import OptionError, unknown
from bayesmeta.plot.style import BLACK, BLUE, GREY, RED, check_level, legend, new_axes, percent, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmeta.diagnose.shots import Shots

__all__ = ["shots"]

NOMINAL = 0.9  # probability of the intervals whose coverage `Shots` has
WIDE = 20  # from so many shots on the axis is logarithmic
LABELS = {
    "sd": "spread and error of predictions (units of y)",
    "rmse": "error of predictions (units of y)",
    "nll": "-log p(y) per observation (nats)",
    "coverage": f"share of observations in {percent(NOMINAL)} intervals",
}


def shots(
    result: Shots,
    *,
    measure: Literal["sd", "rmse", "nll", "coverage"] = "sd",
    of: str | None = None,
    target: float | None = None,
    level: float = 0.95,
    label: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how well a new task is predicted against how many of its observations have been seen.

    Args:
        result: What `posterior.shots(...)` returned.
        measure: ``"sd"``: the predicted standard deviation, and beside it the error that was made, which agrees with
            it where adaptation keeps what it promises; ``"rmse"``, ``"nll"`` or ``"coverage"``.
        of: An element of θ by its label, such as ``"beta[1]"``: its posterior sd is drawn.
        target: A value of the measure that is wanted: drawn as a line, with the fewest shots that reach it.
        level: Probability of the bars, which hold the error of the simulation.
        label: Label of the vertical axis, with its unit.
        ax: Axes to draw in; a new figure by default.

    Returns:
        The axes.

    Raises:
        OptionError: An unknown measure, a level outside (0, 1), or a target for the coverage.
        UnknownNameError: There is no such element of θ.
    """
    if measure not in LABELS:
        raise OptionError(unknown("measure", measure, tuple(LABELS)))
    if target is not None and measure == "coverage":
        raise OptionError("target goes with measure 'sd', 'rmse' or 'nll': a coverage is to be right, not reached")
    check_level(level)
    column = result._column(measure, of)
    ax = new_axes() if ax is None else ax
    if measure == "sd" and of is None:
        _draw(ax, result, "rmse", "error made (root mean square)", GREY, level)
        _draw(ax, result, column, "predicted standard deviation", BLUE, level)
        _floor(ax, result.floor)
    else:
        _draw(ax, result, column, None, BLUE, level)
    if measure == "coverage":
        ax.axhline(NOMINAL, color=BLACK, linewidth=0.8, linestyle="--", zorder=1, label="as promised")
    if target is not None:
        _target(ax, target, result.needed(**{measure: target}, of=of))
    _label(ax, result, label or (f"posterior sd of {of}" if of else LABELS[measure]))
    return tidy(ax)


def _draw(ax: Axes, result: Shots, column: str, name: str | None, color: str, level: float) -> None:
    """Dots joined by a line, with bars where the table has a standard error."""
    table = result.table
    width = NormalDist().inv_cdf((1 + level) / 2)
    bars = width * table[f"{column}_se"].to_numpy() if f"{column}_se" in table else None
    places = table.index.to_numpy()
    if bars is not None:
        middle = table[column].to_numpy()
        ax.vlines(places, middle - bars, middle + bars, color=color, alpha=0.4, linewidth=2.5, zorder=2)
    ax.plot(places, table[column], "-o", color=color, markersize=4.5, linewidth=1.3, zorder=3, label=name)


def _floor(ax: Axes, floor: float) -> None:
    if not math.isnan(floor):
        ax.axhline(floor, color=BLACK, linewidth=0.8, linestyle="--", zorder=1, label="if θ were known")


def _target(ax: Axes, target: float, needed: int | None) -> None:
    said = "not reached" if needed is None else f"reached with {needed:,} shot{'' if needed == 1 else 's'}"
    ax.axhline(target, color=RED, linewidth=1.0, zorder=1.5, label=f"{target:g} wanted: {said}")
    if needed is not None:
        ax.axvline(needed, color=RED, linewidth=1.0, linestyle=":", zorder=1.5)


def _label(ax: Axes, result: Shots, label: str) -> None:
    places = [int(k) for k in result.table.index]
    if max(places) >= WIDE:
        ax.set_xscale("symlog", linthresh=1)
        ax.set_xlim(min(places) - 0.2 * (1 + min(places)), 1.2 * max(places))
    ax.set_xticks(_apart(places), [f"{k:,}" for k in _apart(places)])
    ax.minorticks_off()
    ax.set_xlabel(f"observations of the new task (shots), {result.tasks:,} simulated tasks")
    ax.set_ylabel(label)
    legend(ax)


def _apart(places: list[int], room: float = 0.045) -> list[int]:
    """The numbers of shots that have room for their own tick: of crowded ones the first, and the last of all."""
    scaled = np.arcsinh(places) if max(places) >= WIDE else np.asarray(places, dtype=np.float64)
    least = room * max(float(scaled[-1] - scaled[0]), 1e-300)
    kept = [0]
    for k in range(1, len(places)):
        if scaled[k] - scaled[kept[-1]] >= least and (k == len(places) - 1 or scaled[-1] - scaled[k] >= least):
            kept.append(k)
    return [places[k] for k in dict.fromkeys([*kept, len(places) - 1])]
