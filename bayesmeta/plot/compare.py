"""Learners side by side on the same tasks, or hierarchies by leaving tasks out: a row each, the best on top.

Dots are means, bars hold them with the probability asked for, by standard errors over tasks. The bars say how well a
value is known; which of two is better is said far more sharply by their differences task by task, because both met
the same tasks. These stand at the right, with the half-width of their own interval.

Of a comparison by number of shots, each learner is a line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from bayesmeta.diagnose.comparison import Comparison
from bayesmeta.errors import DataError, OptionError, UnknownNameError, unknown
from bayesmeta.plot.compare_shots import compare_shots
from bayesmeta.plot.style import BLACK, BLUE, GREY, check_level, legend, new_axes, percent, short, tidy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["compare"]

LABELS = {
    "accuracy": "share of observations whose likeliest class was theirs, higher is better",
    "brier": "Brier score, lower is better",
    "nll": "-log p(y) per observation (nats), lower is better",
    "nll_joint": "-log p(y) of a task's observations together, per observation (nats), lower is better",
    "crps": "continuous ranked probability score (units of y), lower is better",
    "rmse": "root mean squared error (units of y), lower is better",
    "coverage": "share of observations inside their intervals",
    "width": "mean width of intervals (units of y)",
    "ece": "expected calibration error, lower is better",
    "elpd_loo": "log density of tasks left out, summed (nats), higher is better",
}
PAIRED = {name: name for name in ("accuracy", "brier", "nll", "nll_joint", "crps")} | {"rmse": "mse"}
HIGHER = ("accuracy", "elpd_loo")  # is better


@dataclass(frozen=True)
class _Row:
    """A learner: its value with a standard error, and by how much it is off the best with that error, if known."""

    name: str
    value: float
    error: float
    away: float = math.nan
    away_error: float = math.nan


def compare(
    results: Mapping[str, Any] | pd.DataFrame | Comparison,
    *,
    metric: str | None = None,
    level: float = 0.95,
    label: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one metric of several learners: a row each, or against the number of shots a line each.

    Args:
        results: By name, what `bm.score` returned for each, of the same query; or the table of `bm.score_table` or of
            `bm.loo_compare`. A table of scores does not tell the differences task by task. Or what `bm.compare` found,
            by number of shots.
        metric: A column of the table: ``"nll"`` by default, or ``"elpd_loo"``.
        level: Probability of the bars.
        label: Label of the axis of the metric, with its unit.
        ax: Axes to draw in; a new figure by default.

    Returns:
        The axes.

    Raises:
        OptionError: Nothing to compare, or a level outside (0, 1).
        UnknownNameError: There is no such metric.
        DataError: The scores are of different tasks, or no value is finite.
    """
    check_level(level)
    if isinstance(results, Comparison):
        return compare_shots(results, metric or "nll", level, label, ax)
    return _compare_rows(results, metric, level, label, ax)


def _compare_rows(
    results: Mapping[str, Any] | pd.DataFrame, metric: str | None, level: float, label: str | None, ax: Axes | None
) -> Axes:
    if not len(results):
        raise OptionError("results is empty: pass a score by the name of each learner")
    rows, metric, nominal = _rows(results, metric)
    if not rows:
        raise DataError(f"{metric!r} is not a number for any of {list(results)[:5]}: take another metric")
    ax = new_axes(7.6, 1.5 + 0.36 * max(3, len(rows))) if ax is None else ax
    _draw(ax, rows, NormalDist().inv_cdf((1 + level) / 2), level)
    if nominal is not None:
        ax.axvline(nominal, color=BLACK, linewidth=0.8, linestyle="--", zorder=1, label=f"promised: {nominal:g}")
    ax.set_yticks(range(len(rows)), [short(row.name, 32) for row in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_ylabel("hierarchy" if metric == "elpd_loo" else "learner")
    ax.set_xlabel(label or LABELS.get(metric, metric))
    legend(ax, columns=3)
    return tidy(ax)


# --- what is drawn ------------------------------------------------------------------------------------------


def _rows(results: Mapping[str, Any] | pd.DataFrame, metric: str | None) -> tuple[list[_Row], str, float | None]:
    """The learners, the best first; those without a value are left out."""
    import pandas as pd

    if isinstance(results, pd.DataFrame):
        metric = metric or ("elpd_loo" if "elpd_loo" in results else "nll")
        rows, nominal = _of_table(results, metric), None
    else:
        metric = metric or "nll"
        rows, nominal = _of_scores(results, metric)
    found = [row for row in rows if math.isfinite(row.value)]
    return sorted(found, key=lambda row: _badness(row.value, metric, nominal)), metric, nominal


def _badness(value: float, metric: str, nominal: float | None) -> float:
    if nominal is not None:
        return abs(value - nominal)
    return -value if metric in HIGHER else value


def _of_table(table: pd.DataFrame, metric: str) -> list[_Row]:
    error = "se" if metric == "elpd_loo" else f"{metric}_se"
    known = [name for name in table.columns if f"{name}_se" in table or name == "elpd_loo"]
    if metric not in known:
        raise UnknownNameError(unknown("metric", metric, known))
    rows = []
    for name, values in table.iterrows():
        away = (-values["elpd_diff"], values["dse"]) if metric == "elpd_loo" else (math.nan, math.nan)
        spread = math.nan if metric == "ece" else float(values[error])
        rows.append(_Row(str(name), float(values[metric]), spread, *map(float, away)))
    return rows


def _of_scores(scores: Mapping[str, Any], metric: str) -> tuple[list[_Row], float | None]:
    tables = {name: score.table for name, score in scores.items()}
    first = next(iter(tables.values()))
    if metric not in first.index:
        raise UnknownNameError(unknown("metric", metric, list(first.index)))
    values = {name: table.loc[metric] for name, table in tables.items()}
    if metric == "ece":  # whose error is that of perfect predictions, and no error over tasks
        values = {name: row.where(row.index != "standard_error") for name, row in values.items()}
    rows = [_Row(name, float(row["value"]), float(row["standard_error"])) for name, row in values.items()]
    nominal = float(first.loc["coverage", "perfect"]) if metric == "coverage" else None
    if metric not in PAIRED:
        return rows, nominal
    finite = (row for row in rows if math.isfinite(row.value))
    best = min(finite, key=lambda row: _badness(row.value, metric, nominal), default=None)
    return [row if best is None else _paired(row, best, scores, metric) for row in rows], nominal


def _paired(row: _Row, best: _Row, scores: Mapping[str, Any], metric: str) -> _Row:
    """The same with its difference to the best, task by task; of the error, by the mean square."""
    difference = scores[row.name].minus(scores[best.name]).loc[PAIRED[metric]]
    away, error = float(difference["difference"]), float(difference["standard_error"])
    if metric == "rmse":
        away, error = row.value - best.value, error / max(row.value + best.value, 1e-300)
    return _Row(row.name, row.value, row.error, away, error)


# --- drawing ------------------------------------------------------------------------------------------------


def _draw(ax: Axes, rows: list[_Row], width: float, level: float) -> None:
    for place, row in enumerate(rows):
        half = 0.0 if math.isnan(row.error) else width * row.error
        ax.hlines(place, row.value - half, row.value + half, color=BLUE, alpha=0.4, linewidth=3.5, zorder=2)
        if not math.isnan(row.away):
            said = "best" if place == 0 else _difference(row, width)
            ax.annotate(said, (1.02, place), xycoords=ax.get_yaxis_transform(), va="center", fontsize=8, color=GREY)
    ax.scatter([row.value for row in rows], range(len(rows)), s=30, color=BLUE, zorder=3)
    bars = any(not math.isnan(row.error) for row in rows)
    words = f"mean and {percent(level)} interval over tasks" if bars else "over all tasks"
    ax.plot([], [], "-o" if bars else "o", color=BLUE, markersize=5, label=words)
    if any(not math.isnan(row.away) for row in rows):
        ax.plot([], [], " ", label="right: difference to the best, paired")
    ax.grid(axis="y", color="#eeeeee", zorder=0)
    ax.set_axisbelow(True)


def _difference(row: _Row, width: float) -> str:
    if math.isnan(row.away_error):
        return f"{row.away:+.3g}"
    half = width * row.away_error
    digits = max(0, 1 - math.floor(math.log10(half))) if half > 0 else 3
    return f"{row.away:+.{digits}f} ± {half:.{digits}f}"
