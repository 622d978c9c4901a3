"""Real data with tasks hidden: adapting to a few of their observations, beside a refit and beside no population."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import Bench
from benchmarks.problems import Data, Problem
from benchmarks.report import Sheet, medians, number, of
from benchmarks.store import Store
from benchmarks.tools import NO_CACHE, Budget, Tool

__all__ = ["BENCH", "sheets"]

Row = dict[str, Any]
TITLES = {
    "radon": "counties of Minnesota: 3 houses seen of at least 7",
    "sleepstudy": "people short of sleep: 3 days seen of 10",
    "rats": "rats: 2 weights seen of 5",
    "epil": "people with epilepsy: 2 counts seen of 4",
    "contraception": "districts of Bangladesh: 5 women seen of at least 15",
    "heart": "hospitals: 10 patients seen of 123 to 303",
}
WAYS = {
    "adapt": "adapt, no refit",
    "again": "adapt, from another fit of the same",
    "refit": "full refit with its observations",
    "population": "population alone (zero-shot)",
    "pooled": "one model for all, no tasks",
    "alone": "its observations alone",
}
HEADER = (
    "predicted from",
    "tasks",
    "NLL",
    "- adapt",
    "CRPS",
    "RMSE",
    "90 % coverage",
    "width",
    "s or ms for each task",
)
NOTES = """\
How it was measured: some tasks at a time are hidden from a fit of the others by `auto`; then each is adapted to a few
of its observations, and its other observations are predicted. *Refit* fits all other tasks and the few observations
together, once for each hidden task, which is what adapting saves; it is done for the first of them only. Both have
Monte Carlo errors: how large these are is shown by adapting the same tasks from a fit with another seed. *Pooled* is
one regression through all other tasks and the few observations of the hidden ones, *alone* the same hierarchy fitted
to the few observations of the first tasks and nothing else. NLL is per observation; the difference is paired, over
the tasks that both predicted, with its standard error over tasks in brackets. The hierarchies are
`bm.families.linear`, `poisson` (overdispersed) and `logistic`; what varies by task is the level, and for sleepstudy
and rats the slope too. Times are of one call, divided by its tasks, without imports and without the fit of the
others; one taken while others kept the machine busy throughout is left out."""


def _none(name: str) -> Data:
    """The worker loads the data: only their name is handed over."""
    return Data(name, np.zeros(1), np.zeros(1), np.zeros(1, dtype=np.int64))


def _problems() -> tuple[Problem, ...]:
    """All data that are there: rats and hospitals lie in the folder that BAYESMETA_DATA names."""
    folder = Path(os.environ.get("BAYESMETA_DATA", ""))
    files = {"rats": "classic/rats.csv", "heart": "heart_disease/heart_disease_4hospitals.csv"}
    there = [name for name in TITLES if name not in files or (folder / files[name]).is_file()]
    return tuple(Problem(name, TITLES[name], name, 0, partial(_none, name)) for name in there)


def sheets(store: Store, problems: tuple[Problem, ...], tools: tuple[Tool, ...]) -> list[Sheet]:
    """One table for each data set."""
    rows, pages = medians(store), []
    for problem in problems:
        found = [row for tool in tools for row in of(rows, problem.name, tool.name)]
        lines = [_line(title, row["ways"][way]) for row in found for way, title in WAYS.items() if way in row["ways"]]
        pages.append(Sheet(f"{problem.name}: {problem.title}", HEADER, lines))
    return [page for page in pages if page.rows]


def _line(title: str, way: Row) -> list[str]:
    gap = "0" if way["gap"] is None else f"{way['gap'][0]:+.4f} ({way['gap'][1]:.4f})"
    seconds = way["seconds"]
    time = "–" if seconds is None else f"{number(seconds)} s" if seconds > 0.2 else f"{number(1000 * seconds)} ms"
    shown = [f"{way['nll'][0]:.3f}", gap, f"{way['crps'][0]:.3f}", f"{way['rmse'][0]:.3f}"]
    return [title, str(way["tasks"]), *shown, f"{100 * way['coverage'][0]:.1f} %", f"{way['width'][0]:.3g}", time]


TOOL = Tool("bayesmeta-hidden", "hidden tasks", "score", "bayesmeta_hidden", False, (NO_CACHE,), Budget(100, 1000, 8))
PROBLEMS = _problems()
BENCH = Bench("hidden", "Hidden tasks of real data", PROBLEMS, (TOOL,), PROBLEMS[:1], sheets, NOTES, repeats=1)
