"""Metrics of several learners against the number of shots: a panel for each metric, a line for each learner."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from bayesmeta.errors import DataError, OptionError, UnknownNameError, unknown
from bayesmeta.plot.style import (
    BLACK,
    BLUE,
    GREY,
    SERIES,
    Grid,
    check_level,
    grid_legend,
    legend,
    new_axes,
    new_grid,
    percent,
    short,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmeta.diagnose.comparison import Comparison

__all__ = ["compare_shots", "comparison_panels"]

COLOURS = (BLUE, *SERIES, GREY)
STYLES = ("-", "--", ":")
MARKERS = ("o", "s", "^")
APART = 0.05  # between learners at the same number of shots, of the way to the next
SHORT = {
    "accuracy": "accuracy: share of right classes",
    "brier": "Brier score",
    "nll": "-log p(y) per observation (nats)",
    "nll_joint": "-log p(y) of a task together, per observation (nats)",
    "crps": "CRPS (units of y)",
    "rmse": "root mean squared error (units of y)",
    "coverage": "share of observations inside intervals",
    "width": "mean width of intervals (units of y)",
    "ece": "expected calibration error",
}


def compare_shots(result: Comparison, metric: str, level: float, label: str | None, ax: Axes | None) -> Axes:
    """Draw a metric of a comparison.

    Args:
        result: What `bayesmeta.compare` found.
        metric: A column of its table.
        level: Probability of the bars, by standard errors over tasks.
        label: Label of the vertical axis, in place of the metric's own.
        ax: Axes to draw in; a new figure by default.

    Raises:
        UnknownNameError: There is no such metric.
        DataError: It is not a number for any learner.
    """
    _check(result, metric)
    ax = new_axes() if ax is None else ax
    _fill(ax, result, metric, level, label)
    legend(ax, columns=3)
    return ax


def comparison_panels(result: Comparison, metrics: Sequence[str], level: float) -> Grid:
    """Draw metrics of a comparison in a new figure, a panel for each (1, metrics), with one legend for all.

    Raises:
        OptionError: No metric.
        UnknownNameError: There is no such metric.
        DataError: A metric is not a number for any learner.
    """
    if not metrics:
        raise OptionError("metric is empty: name one or more columns of the table")
    check_level(level)
    for metric in metrics:
        _check(result, metric)
    panels = new_grid(1, len(metrics), 4.3, 4.4)
    for panel, metric in zip(panels[0], metrics, strict=True):
        _fill(panel, result, metric, level, None)
    grid_legend(panels, whole=True)
    return panels


def _check(result: Comparison, metric: str) -> None:
    """Raise unless there is something to draw of a metric."""
    if metric not in result.metrics:
        raise UnknownNameError(unknown("metric", metric, result.metrics))
    if bool(result.table[metric].isna().all()):
        raise DataError(f"{metric!r} is not a number for any learner: take another metric")


def _fill(ax: Axes, result: Comparison, metric: str, level: float, label: str | None) -> None:
    for place in range(len(result.learners)):
        _draw(ax, result, metric, place, NormalDist().inv_cdf((1 + level) / 2))
    _reference(ax, result, metric, level)
    ax.set_xticks(range(len(result.shots)), [f"{k:,}" for k in result.shots])
    ax.set_xlabel("observations adapted on (shots)")
    ax.set_ylabel(label or SHORT[metric])
    tidy(ax)


def _draw(ax: Axes, result: Comparison, metric: str, place: int, width: float) -> None:
    """One learner: dots joined by a line, with bars, or the floor of a calibration error, beside them."""
    name = result.learners[place]
    rows = result.table.xs(name, level="learner")
    values, errors = rows[metric].to_numpy(dtype=float), rows[f"{metric}_se"].to_numpy(dtype=float)
    there = np.isfinite(values)
    if not there.any():
        return
    middle = (len(result.learners) - 1) / 2
    x = (np.arange(len(values)) + APART * (place - middle))[there]
    colour, turn = COLOURS[place % len(COLOURS)], place // len(COLOURS) % len(STYLES)
    ax.plot(
        x, values[there], MARKERS[turn] + STYLES[turn], color=colour, markersize=4.5, linewidth=1.3, label=_label(name)
    )
    if metric == "ece":
        ax.scatter(x, rows["ece_floor"].to_numpy(dtype=float)[there], marker="_", color=colour, s=60, linewidths=1.5)
        return
    half = width * np.nan_to_num(errors[there])
    ax.vlines(x, values[there] - half, values[there] + half, color=colour, alpha=0.4, linewidth=2.5)


def _reference(ax: Axes, result: Comparison, metric: str, level: float) -> None:
    """What bars are, what is promised, or what a perfect prediction would have."""
    if metric == "ece":
        ax.scatter([], [], marker="_", color=GREY, s=60, linewidths=1.5, label="a perfect prediction's own error")
        return
    ax.plot([], [], color=GREY, alpha=0.4, linewidth=2.5, label=f"{percent(level)} interval over tasks")
    if metric == "coverage":
        wanted = next(iter(result.cells.values())).score.level  # type: ignore[union-attr]
        ax.axhline(wanted, color=BLACK, linewidth=0.8, linestyle="--", zorder=1, label=f"promised: {wanted:g}")


def _label(name: str) -> str:
    """A learner in the legend; what begins with an underscore, matplotlib would leave out."""
    return f"\u200b{short(name, 32)}" if name.startswith("_") else short(name, 32)
