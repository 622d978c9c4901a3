"""A thousand to a million tasks: seconds and peak memory, by `auto` and by SVI with minibatches of tasks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.bench import Bench
from benchmarks.problems import Problem, linear
from benchmarks.report import Sheet, medians, number, of
from benchmarks.store import Store
from benchmarks.tools import Tool, preset

__all__ = ["BENCH", "sheets"]

Row = dict[str, Any]
TRUTH = "bayesmeta-auto"
JOINT = preset(
    "bayesmeta-svi-joint", "SVI over φ and θ, mean field", "svi-meanfield", batch_size=1000, evidence="joint"
)
SCALING = (
    preset(TRUTH, "auto", "auto"),
    preset("bayesmeta-svi", "SVI, minibatches of 1,000", "svi-fullrank", batch_size=1000),
    replace(JOINT, up_to=10_000, too_slow="its verdict is *failed* at 10,000 tasks already"),
)
HEADER = (
    "tasks",
    "by",
    "runs",
    "cold s",
    "fitting s",
    "times the last",
    "peak MB",
    "effective draws",
    "k-hat",
    "off by, sds",
    "verdict",
)
NOTES = """\
How it was measured: hierarchical linear regressions of 11 observations a task, two coefficients each, all numbers
of a fit in a fresh process. *Cold* has the interpreter, the imports and reading the file in it, *fitting* is the
call of `fit`, *times the last* its ratio to the row of ten times fewer tasks. Peak memory is the largest resident
size of the process, data included: 176 bytes of x and y for each task, and as much again for the arrays they were read
from. *Off by* is the largest distance of a posterior mean of φ from that of `auto` on the same tasks, in its
posterior sds. `auto` compiles the density from 100,000 tasks on, which is in its seconds; nothing else is compiled."""


def sheets(store: Store, problems: tuple[Problem, ...], tools: tuple[Tool, ...]) -> list[Sheet]:
    """One table: tools, and under each the growing number of tasks."""
    rows = medians(store)
    lines = []
    for tool in tools:
        last: Row | None = None
        for problem in problems:
            for row in of(rows, problem.name, tool.name):
                truth = of(rows, problem.name, TRUTH)
                lines.append([f"{problem.n_tasks:,}", tool.title, *_cells(row, last, truth)])
                last = row
    return [Sheet("Seconds and memory as tasks grow", HEADER, lines)] if lines else []


def _cells(row: Row, last: Row | None, truth: list[Row]) -> list[str]:
    growth = "–" if last is None else f"{row['fit_s'] / last['fit_s']:.1f}"
    first = [number(row[name]) for name in ("runs", "cold_s", "fit_s")]
    then = [number(row.get(name)) for name in ("peak_mb", "ess", "k_hat")]
    off = number(_off(row, truth[0])) if truth else "–"
    return [*first, growth, *then, off, row["verdict"]]


def _off(row: Row, truth: Row) -> float:
    pairs = [(row["moments"][name][0], *truth["moments"][name]) for name in truth["moments"]]
    return max(float(abs(mean - centre) / sd) for mean, centre, sd in pairs if sd > 0)


PROBLEMS = tuple(linear(n) for n in (1_000, 10_000, 100_000, 1_000_000))
BENCH = Bench("scaling", "Growing numbers of tasks", PROBLEMS, SCALING, PROBLEMS[:1], sheets, NOTES, repeats=1)
