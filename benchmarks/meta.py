"""One meta-gradient of MAML: ours eager, recorded and compiled, beside the packages that others use for it."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np

from benchmarks.bench import Bench
from benchmarks.problems import Data, Problem
from benchmarks.report import Sheet, medians, number, of
from benchmarks.store import Store
from benchmarks.tools import EMPTY, NO_CACHE, WARM, Budget, Tool

__all__ = ["BENCH", "sheets", "sine_data"]

Row = dict[str, Any]
TASKS, POINTS = 25, 20
STEPS = (1, 5)
BASE = "higher"
HEADER = (
    "by",
    "compiler's cache",
    "ms",
    "of which threads",
    "processor ms",
    "times as fast as `higher`",
    "first call s",
    "peak MB",
    "more than its imports, MB",
    "off by",
)
NOTES = """\
How it was measured: sine regression, 25 tasks of 10 support and 10 query points, a 1-40-40-1 network with ReLU in
float32, plain gradient descent with rate 0.01 in the inner loop, second order; one gradient of the mean query loss
with respect to the initial weights. Every tool in a fresh process: imports, one call (recording and compiling lie in
it), then calls for three seconds at least, of which the median counts, and of five such processes the median again.
Peers are timed with one thread and with as many as torch takes by itself, and the faster counts; bayesmeta always
evaluates with one. *Processor ms* is the processor's time of a call with one thread, which others on the machine
change little. *Peak* is the largest resident memory of the process, *more than its imports* what was not there yet
after the imports. *Off by* is the largest difference from the gradient of a plain loop in float64, relative to its
largest element, computed in every process. `higher` and TorchOpt's `MetaSGD` go through the tasks in a loop, as their
own examples do; TorchOpt's functional optimiser can be put under `torch.func.vmap` by hand, and is measured so as
well. parallel-metalearn is made for classification: its MAML is given a squared loss by the base class it has for
losses."""


def sine_data(steps: int, seed: int = 3) -> Data:
    """Sine waves as MAML's paper has them, the support of each task first; the kind says how many inner steps."""
    rng = np.random.default_rng(seed)
    amplitude, phase = rng.uniform(0.1, 5.0, (TASKS, 1)), rng.uniform(0.0, np.pi, (TASKS, 1))
    x = rng.uniform(-5.0, 5.0, (TASKS, POINTS))
    y = amplitude * np.sin(x - phase)
    return Data(f"sines-{steps}", x.reshape(-1), y.reshape(-1), np.repeat(np.arange(TASKS), POINTS))


def sheets(store: Store, problems: tuple[Problem, ...], tools: tuple[Tool, ...]) -> list[Sheet]:
    """A table for each number of inner steps."""
    rows, pages = medians(store), []
    for problem in problems:
        found = [(tool, row) for tool in tools for row in of(rows, problem.name, tool.name)]
        base = next((row["ms"] for tool, row in found if tool.name == BASE), None)
        lines = [_line(tool.title, row, base) for tool, row in found]
        pages.append(Sheet(problem.title, HEADER, lines))
    return [page for page in pages if page.rows]


def _line(title: str, row: Row, base: float | None) -> list[str]:
    best = min(row["ms_by_threads"], key=lambda count: float(row["ms_by_threads"][count]))
    return [
        title,
        row["cache"],
        f"{row['ms']:.3g}",
        best,
        f"{row['processor_ms']:.3g}",
        "–" if base is None else f"{base / row['ms']:.1f}",
        number(row["first_ms"] / 1000),
        number(row["peak_mb"]),
        number(row["work_mb"]),
        f"{row['off']:.0e}",
    ]


def _ours(way: str, title: str, caches: tuple[str, ...] = (NO_CACHE,)) -> Tool:
    words = ("--set", json.dumps({"way": way}))
    return Tool(f"bayesmeta-{way}", title, "gradient", "bayesmeta_meta", False, caches, BUDGET, words)


def _peer(name: str, title: str, worker: str, **options: Any) -> Tool:
    return Tool(name, title, "gradient", worker, True, (NO_CACHE,), BUDGET, ("--set", json.dumps(options)))


BUDGET = Budget(1, 0, 0)
TOOLS = (
    _peer(BASE, "`higher`, loop over tasks", "higher_meta"),
    _peer("torchopt", "TorchOpt `MetaSGD`, loop over tasks", "torchopt_meta", way="loop"),
    _peer("torchopt-vmap", "TorchOpt functional, vmap by hand", "torchopt_meta", way="vmap"),
    _peer("parallel-metalearn", "parallel-metalearn, vmap", "metalearn_meta"),
    _ours("eager", "bayesmeta, eager"),
    _ours("recorded", "bayesmeta, recorded"),
    _ours("compiled", "bayesmeta, `compile=True`", (EMPTY, WARM)),
)
PROBLEMS = tuple(
    Problem(f"sines-{steps}", f"{steps} inner step{'s' * (steps > 1)}", "sines", TASKS, partial(sine_data, steps))
    for steps in STEPS
)
BENCH = Bench("meta", "One meta-gradient of MAML", PROBLEMS, TOOLS, PROBLEMS[:1], sheets, NOTES, repeats=5)
