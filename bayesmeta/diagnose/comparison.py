"""Learners side by side on the same new tasks, by number of shots: what `bayesmeta.compare` found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from bayesmeta.diagnose.classes import ClassScore
from bayesmeta.diagnose.metrics import Score
from bayesmeta.errors import NotAvailableError, UnknownNameError, unknown

if TYPE_CHECKING:
    from bayesmeta.plot.style import Grid

__all__ = ["Cell", "Comparison"]

NUMBERS = ("rmse", "nll", "nll_joint", "crps", "coverage", "width", "ece")
CLASSES = ("accuracy", "nll", "brier", "ece")
HIGHER = ("accuracy",)  # is better
NO_BEST = ("coverage", "width")  # neither lower nor higher is better
Scores = Score | ClassScore


class Cell(NamedTuple):
    """One learner at one number of shots.

    Attributes:
        score: How good its predictions of the query were.
        adapt_ms: Milliseconds from the observations of one new task to the prediction of its query: the median of a
            few runs of that task on its own.
        seconds: What adapting to all tasks and predicting their queries took, together.
    """

    score: Scores
    adapt_ms: float
    seconds: float


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """What learners make of the same new tasks.

    Attributes:
        cells: What was found, by name of the learner and number of shots.
        learners: The names, in the order in which they were given.
        shots: The numbers of shots.
        train_seconds: What learning from the tasks of training took, by name; NaN where it is not known.
        failed: Why there is no cell, by name and number of shots.
        notes: What was warned of on the way, by name and number of shots.
        record: What was compared on: fingerprints of support and query, settings.
    """

    cells: Mapping[tuple[str, int], Cell]
    learners: tuple[str, ...]
    shots: tuple[int, ...]
    train_seconds: Mapping[str, float] = field(default_factory=dict)
    failed: Mapping[tuple[str, int], str] = field(default_factory=dict)
    notes: Mapping[tuple[str, int], Sequence[str]] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of the table: those of numbers, or of classes."""
        first = next(iter(self.cells.values()), None)
        return CLASSES if first is not None and isinstance(first.score, ClassScore) else NUMBERS

    @property
    def table(self) -> pd.DataFrame:
        """A row for each number of shots and learner.

        Columns: each metric with its standard error over tasks (``nll``, ``nll_se``), ``ece_floor`` (the calibration
        error that a perfect prediction would have), ``train_seconds`` and ``adapt_ms``. What failed has NaN.
        """
        rows = {(k, name): self._row(name, k) for k in self.shots for name in self.learners}
        index = pd.MultiIndex.from_tuples(list(rows), names=["shots", "learner"])
        return pd.DataFrame(list(rows.values()), index=index)

    def differences(self, to: str | None = None) -> pd.DataFrame:
        """Each learner less another one, with standard errors of the paired differences, a row for each.

        Both met the same tasks, which makes these far sharper than standard errors of each on its own. Of errors it
        is the mean square that is compared, ``mse``.

        Args:
            to: The name of the other one; by default the one with the lowest nll at that number of shots.

        Raises:
            UnknownNameError: There is no learner of that name.
        """
        if to is not None:
            self._check(to)
        rows: dict[tuple[int, str], dict[str, float]] = {}
        for k in self.shots:
            scores = self.scores(k)
            other = to if to is not None else _lowest(scores)
            if other not in scores:
                continue
            for name, score in scores.items():
                found = score.minus(scores[other])  # type: ignore[arg-type]
                rows[k, name] = {
                    f"{metric}{end}": float(row[column])
                    for metric, row in found.iterrows()
                    for column, end in (("difference", ""), ("standard_error", "_se"))
                }
        index = pd.MultiIndex.from_tuples(list(rows), names=["shots", "learner"])
        return pd.DataFrame(list(rows.values()), index=index)

    def scores(self, shots: int) -> dict[str, Scores]:
        """The scores at a number of shots by name of the learner: for `bm.plot.compare`, which draws them in rows.

        Raises:
            UnknownNameError: That number of shots was not looked at.
        """
        if shots not in self.shots:
            raise UnknownNameError(unknown("number of shots", shots, self.shots))
        return {name: self.cells[name, shots].score for name in self.learners if (name, shots) in self.cells}

    def __getitem__(self, key: tuple[str, int]) -> Scores:
        """The score of a learner at a number of shots.

        Raises:
            UnknownNameError: There is no such learner or number of shots.
            NotAvailableError: It failed, or was not come to.
        """
        name, shots = key
        self._check(name)
        found = self.scores(shots)
        if name not in found:
            reason = self.failed.get((name, shots), "it was interrupted before that")
            raise NotAvailableError(f"{name!r} has no score at {shots} shots: {reason}")
        return found[name]

    def plot(self, metric: Sequence[str] | None = None, *, level: float = 0.95) -> Grid:
        """Metrics against the number of shots, a panel for each, a line for each learner.

        `bayesmeta.plot.compare` draws one of them, in axes of yours.

        Args:
            metric: Columns of the table; by default error or accuracy, and nll.
            level: Probability of the bars, by standard errors over tasks.

        Returns:
            The axes (1, metrics).

        Raises:
            UnknownNameError: There is no such metric.
            DataError: A metric is not a number for any learner.
            OptionError: No metric, or a level outside (0, 1).
        """
        from bayesmeta.plot.compare_shots import comparison_panels

        return comparison_panels(self, list(self.metrics[:2] if metric is None else metric), level)

    @property
    def interrupted(self) -> bool:
        """Whether something that was asked for was not come to."""
        return len(self.cells) + len(self.failed) < len(self.learners) * len(self.shots)

    # --- showing --------------------------------------------------------------------------------------------

    def _check(self, name: str) -> None:
        if name not in self.learners:
            raise UnknownNameError(unknown("learner", name, self.learners))

    def _row(self, name: str, shots: int) -> dict[str, float]:
        cell = self.cells.get((name, shots))
        table = None if cell is None else cell.score.table
        row: dict[str, float] = {}
        for metric in self.metrics:
            for column, end in (("value", ""), ("standard_error", "_se")):
                row[metric + end] = math.nan if table is None else float(table.loc[metric, column])  # type: ignore[arg-type]
        row["ece_floor"] = math.nan if cell is None else cell.score.ece_floor
        row["train_seconds"] = self.train_seconds.get(name, math.nan)
        row["adapt_ms"] = math.nan if cell is None else cell.adapt_ms
        return row

    def shown(self) -> pd.DataFrame:
        """The table in words: values ± standard errors, calibration errors with their floors, times with units."""
        table = self.table
        shown = pd.DataFrame(index=table.index)
        for metric in self.metrics:
            pairs = zip(table[metric], table["ece_floor" if metric == "ece" else f"{metric}_se"], strict=True)
            name, said = (f"{metric} (floor)", _floored) if metric == "ece" else (metric, _with_error)
            if not bool(table[metric].isna().all()):
                shown[name] = [said(*pair) for pair in pairs]
        shown["training"] = [_seconds(value) for value in table["train_seconds"]]
        shown["adapting"] = [_seconds(value / 1000) for value in table["adapt_ms"]]
        return shown

    def _best(self) -> dict[str, set[tuple[int, str]]]:
        """Rows with the best value at their number of shots, by column of what is shown."""
        best: dict[str, set[tuple[int, str]]] = {}
        for metric in self.metrics:
            if metric in NO_BEST:
                continue
            values = self.table[metric].dropna() * (-1 if metric in HIGHER else 1)
            least = values.groupby(level="shots").idxmin()
            best["ece (floor)" if metric == "ece" else metric] = set(least)
        return best

    def _title(self) -> str:
        first = next(iter(self.cells.values()), None)
        if first is None:
            return f"Comparison of {len(self.learners)} learners: nothing was found"
        tasks = first.score.per_task
        return (
            f"Comparison of {len(self.learners)} learner{'s' * (len(self.learners) > 1)} on {len(tasks):,} tasks, "
            f"{int(tasks['n'].sum()):,} observations predicted; ± standard errors over tasks"
        )

    def remarks(self) -> list[str]:
        """What failed and what else was said, a sentence each."""
        said = [f"{name}, {shots} shots: failed: {reason}" for (name, shots), reason in self.failed.items()]
        said += [f"{name}, {shots} shots: {line}" for (name, shots), lines in self.notes.items() for line in lines]
        if self.interrupted:
            done, all_of_them = len(self.cells) + len(self.failed), len(self.learners) * len(self.shots)
            said.append(f"interrupted: {done} of {all_of_them} were made")
        return said

    def __repr__(self) -> str:
        return "\n".join([self._title(), self.shown().to_string(), *self.remarks()])

    def _repr_html_(self) -> str:
        shown, best = self.shown(), self._best()
        for column, rows in best.items():
            for row in rows if column in shown else ():
                shown.loc[row, column] = f"<b>{shown.at[row, column]!s}</b>"
        shown.index = shown.index.map(lambda row: (row[0], escape(str(row[1]))))
        said = "".join(f"<li>{escape(line)}</li>" for line in self.remarks())
        return f"<div><p>{escape(self._title())}</p>{shown.to_html(escape=False)}<ul>{said}</ul></div>"

    # --- files ----------------------------------------------------------------------------------------------

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything to one file of NumPy arrays (npz, no pickle), replacing it whole.

        Raises:
            NotAvailableError: The file cannot be written.
        """
        from bayesmeta.diagnose.comparison_file import write

        write(self, path)

    @staticmethod
    def load(path: str | PathLike[str]) -> Comparison:
        """Open a file that `save` wrote, or `bayesmeta.compare` while it ran.

        Raises:
            NotAvailableError: There is no such file.
            FileFormatError: The file is something else.
        """
        from bayesmeta.diagnose.comparison_file import read

        return read(path)


def _with_error(value: float, error: float) -> str:
    """A value with its standard error, to the digits that it is known to.

    >>> _with_error(0.11512, 0.0046), _with_error(2.0, 0.31), _with_error(6.3178, 0.0)
    ('0.1151 ± 0.0046', '2.00 ± 0.31', '6.32')
    """
    if math.isnan(value):
        return ""
    size = max(abs(value), error, 1e-300)
    if math.isnan(error) or error < 1e-4 * size:
        return f"{value:.3g}"
    digits = max(0, min(1 - math.floor(math.log10(error)), 3 - math.floor(math.log10(size))))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _floored(value: float, floor: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f} ({floor:.3f})"


def _seconds(value: float) -> str:
    """A time with its unit.

    >>> _seconds(0.0123), _seconds(2.91), _seconds(1234.0)
    ('12 ms', '2.9 s', '21 min')
    """
    if math.isnan(value):
        return ""
    size, unit = (60, "min") if value >= 180 else (1, "s") if value >= 1 else (1e-3, "ms")
    return f"{value / size:.2g} {unit}" if value < 100 * size else f"{value / size:,.0f} {unit}"


def _lowest(scores: Mapping[str, Any]) -> str | None:
    """The name of the score with the lowest nll; of those with a joint one alone by that; None where none has any."""
    for metric in ("nll", "nll_joint"):
        known = {name: score[metric] for name, score in scores.items() if metric in score.table.index}
        finite = {name: value for name, value in known.items() if math.isfinite(value)}
        if finite:
            return min(finite, key=lambda name: finite[name])
    return None
