"""What the demonstration found: the ways to predict, judged on every hidden observation of every round."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bayesmeta.demo.experiment import Round, Setting

__all__ = ["SHOWN", "Result", "Words", "inside", "words_of"]

SHOWN = ("both", "population")  # the ways that have intervals


@dataclass(frozen=True)
class Words:
    """What things are called: a task, tasks, an observation, observations, the response, and θ, with units."""

    task: str = "task"
    tasks: str = "tasks"
    row: str = "observation"
    rows: str = "observations"
    response: str = "y"
    theta: str | None = None


WORDS = {
    "radon": Words(
        "county",
        "counties",
        "house",
        "houses",
        "log radon (log pCi/L)",
        "level of the county: log radon in a basement",
    ),
    "sleepstudy": Words("person", "people", "day", "days", "reaction time (ms)", "reaction time when rested (ms)"),
}


def words_of(setting: Setting) -> Words:
    """The words for the model of a setting."""
    return WORDS.get(Path(setting.model).stem, Words())


@dataclass(frozen=True)
class Result:
    """What came out, and in which words to tell it."""

    setting: Setting
    rounds: list[Round]

    @property
    def words(self) -> Words:
        """What tasks and observations are called."""
        return words_of(self.setting)

    @property
    def first(self) -> Round:
        """The round that is shown in full."""
        return self.rounds[0]

    def frame(self, way: str) -> pd.DataFrame:
        """A row for each hidden observation of all rounds."""
        return pd.concat([one.ways[way] for one in self.rounds], ignore_index=True)

    def scores(self) -> pd.DataFrame:
        """A row per way: coverage and mean width of the intervals, RMSE, mean log density in nats."""
        return pd.DataFrame({way: _score(self.frame(way)) for way in self.first.ways}).T

    def gain(self) -> tuple[float, float]:
        """How much the few observations add to the log score, in nats per observation, and its standard error.

        Observations of a task rise and fall together, so the error is taken over tasks (a ratio estimate:
        Cochran, Sampling Techniques, 1977, section 6.3).
        """
        both, population = (self.frame(way) for way in SHOWN)
        difference = both["log_prob"] - population["log_prob"]
        mean = float(difference.mean())
        totals = (difference - mean).groupby(both["task"]).sum()
        count = len(totals)
        if count < 2:
            return mean, math.nan
        return mean, math.sqrt(float((totals**2).sum()) * count / (count - 1)) / len(difference)

    def examples(self, per_task: int) -> pd.DataFrame:
        """The first hidden observations of each task of the first round, both ways side by side."""
        left, right = (self.first.ways[way].groupby("task", sort=False).head(per_task) for way in SHOWN)
        return left.merge(right.add_suffix(" population"), left_index=True, right_index=True)


def inside(frame: pd.DataFrame) -> pd.Series[bool]:
    """Whether each observation lies in its interval."""
    return (frame["lower"] <= frame["y"]) & (frame["y"] <= frame["upper"])


def _score(frame: pd.DataFrame) -> dict[str, float]:
    rmse = float(((frame["y"] - frame["mean"]) ** 2).mean() ** 0.5)
    if "lower" not in frame:
        return {"rmse": rmse}
    return {
        "coverage": float(inside(frame).mean()),
        "width": float((frame["upper"] - frame["lower"]).mean()),
        "rmse": rmse,
        "log_score": float(frame["log_prob"].mean()),
    }
