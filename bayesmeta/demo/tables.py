"""The tables of the demonstration as text, for the terminal and the page alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bayesmeta.demo.result import Result

__all__ = ["Table", "examples", "reading", "scores", "timing"]


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: What it shows.
        head: The headings.
        rows: The cells, a tuple per row.
        numbers: Positions of the columns that hold numbers, which stand to the right.
    """

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    numbers: tuple[int, ...]


def examples(result: Result, per_task: int = 3) -> Table:
    """The first hidden observations of each task with their intervals, after adapting and before."""
    words = result.words
    counts = dict(zip(result.first.query.names, result.first.query.sizes.tolist(), strict=True))
    rows = []
    last = ""
    for _, row in result.examples(per_task).iterrows():
        name = str(row["task"])
        label = f"{name} ({counts[name]})" if name != last else ""
        mark = "yes" if row["lower"] <= row["y"] <= row["upper"] else "no"
        numbers = (_number(row["y"]), _number(row["mean"]), _interval(row))
        rows.append((label, *numbers, mark, _interval(row, " population")))
        last = name
    interval = f"{result.setting.level:.0%} interval"
    head = (f"{words.task} (hidden)", "truth", "predicted", interval, "inside", "zero-shot")
    title = f"The first {per_task} hidden {words.rows} of each {words.task}: {words.response}"
    return Table(title, head, rows, (1, 2, 3, 5))


def scores(result: Result) -> Table:
    """The ways to predict, judged on all hidden observations."""
    words, few = result.words, f"{result.setting.support} {result.words.rows}"
    titles = {
        "both": f"population and {few}",
        "population": "population alone (zero-shot)",
        "alone": f"{few} alone (their mean)",
    }
    rows = [
        (
            titles[str(way)],
            _percent(row["coverage"]),
            _number(row["width"]),
            _number(row["rmse"], 3),
            _number(row["log_score"], 3),
        )
        for way, row in result.scores().iterrows()
    ]
    tasks = sum(len(one.query) for one in result.rounds)
    title = f"All {len(result.frame('both'))} hidden {words.rows} of {tasks} {words.tasks}"
    head = ("predicted from", f"inside {result.setting.level:.0%}", "width", "RMSE", "log score")
    return Table(title, head, rows, (1, 2, 3, 4))


def reading(result: Result) -> str:
    """How to read the scores."""
    words, level = result.words, result.setting.level
    count = len(result.frame("both"))
    gain, error = result.gain()
    few = f"{result.setting.support} {words.rows}"
    return (
        f"Right intervals hold {level:.0%} of {count} {words.rows}, give or take "
        f"{2 * math.sqrt(level * (1 - level) / count):.0%}. The log score is the mean log density in nats, higher "
        f"is better; the {few} change it by {gain:+.3f} (standard error {error:.3f})."
    )


def timing(result: Result) -> list[str]:
    """How long each part of the first round took, and the checks of all rounds."""
    words, first = result.words, result.first
    seconds, seen = first.seconds, first.posterior.tasks
    total = sum(seconds[part] for part in ("setup", "compile", "sample"))
    k_hat = max(float(one.adapted.k_hat.max()) for one in result.rounds)
    worst = max((one.posterior.verdict for one in result.rounds), key=lambda verdict: verdict.rank)
    fitted = (
        f"Fitted {len(seen)} {words.tasks} ({seen.n_observations} {words.rows}) in {total:.1f} s: setup "
        f"{seconds['setup']:.1f}, compiling {seconds['compile']:.1f}, sampling {seconds['sample']:.1f}; "
        f"the draws are {worst.level}: {'; '.join(worst.reasons)}."
    )
    adapted = (
        f"Adapted {len(first.query)} {words.tasks} to {result.setting.support} {words.rows} each in "
        f"{_twice(seconds, 'adapt')} and predicted {first.query.n_observations} {words.rows} in "
        f"{_twice(seconds, 'predict')}, from {len(first.adapted.theta_coordinates):,} draws, without a refit; "
        f"k-hat at most {k_hat:.2f} (a refit is due above 0.7)."
    )
    return [fitted, adapted]


def _twice(seconds: dict[str, float], part: str) -> str:
    again, first = (1000 * seconds[name] for name in (f"{part} again", part))
    return f"{again:.0f} ms ({first:.0f} ms the first time)"


def _interval(row: pd.Series[float], suffix: str = "") -> str:
    return f"[{_number(row['lower' + suffix])}, {_number(row['upper' + suffix])}]"


def _number(value: float, decimals: int = 2) -> str:
    """With decimals below 100, without above; a dash for what there is not."""
    if math.isnan(value):
        return "–"
    return f"{value:.{decimals}f}" if abs(value) < 100 else f"{value:.0f}"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1%}"
