"""From a cold process to a diagnosed posterior on radon: `auto` beside the peers, imports and compiling included.

A posterior counts as diagnosed with R-hat below 1.01 and least ESS of 400 over φ, or, where draws were weighted,
with k-hat below .7 and an effective size of 1,000.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.bench import Bench
from benchmarks.problems import PROBLEMS, QUICK, Problem
from benchmarks.report import Sheet, medians, number, of
from benchmarks.store import Store
from benchmarks.tools import EMPTY, NUMPYRO, PYMC, TOOLS, WARM, Tool, preset

__all__ = ["BENCH", "diagnosed", "sheets"]

Row = dict[str, Any]
OURS = "bayesmeta-auto"
PYRO = next(tool for tool in TOOLS if tool.name == "pyro")
COLD = (
    preset(OURS, "bayesmeta, auto", "auto"),
    preset("bayesmeta-laplace", "bayesmeta, laplace", "laplace"),
    preset("bayesmeta-nuts", "bayesmeta, nuts", "nuts", (EMPTY, WARM)),
    NUMPYRO,
    PYMC,
    replace(PYRO, budget=replace(PYRO.budget, chains=2, draws=1000, tune=500)),
)
HEADER = (
    "tool",
    "cache",
    "runs",
    "cold s",
    "of it imports",
    "least ESS",
    "R-hat",
    "k-hat",
    "MB",
    "diagnosed",
    "times as long",
)
NOTES = """\
How it was measured: every run is a fresh process; *cold* is the wall clock from starting it to its end, with the
interpreter, the imports, compiling, warm-up and sampling in it; medians over the runs, which go round all tools. ESS
and R-hat are ArviZ's, computed afterwards in the same way for all; the effective size of weighted draws and their
k-hat are bayesmeta's own. *Diagnosed* means R-hat below 1.01 and least ESS of 400 or more, or k-hat below .7 and an
effective size of 1,000 or more. The cache is that of the tool's compiler on disk: *empty* is the first fit ever of a
model and shape, *warm* the next process, *none* a tool that compiles nothing. Python's own bytecode
is there for all tools, as it is after an installation. NumPyro and PyMC + nutpie run 2 chains
side by side, 1,000 draws after 1,000 of warm-up, in float64 and in the form that suits them; Pyro runs 2 chains, one
after the other, 1,000 draws after 500. *Times as long* is beside `auto`."""


def diagnosed(row: Row) -> bool:
    """Whether the draws meet the standard."""
    if row.get("k_hat") is not None:
        return bool(row["k_hat"] < 0.7 and row["ess"] >= 1000)
    return bool((row["r_hat"] or 9.0) < 1.01 and row["ess"] >= 400)


def sheets(store: Store, problems: tuple[Problem, ...], tools: tuple[Tool, ...]) -> list[Sheet]:
    """One table for each problem."""
    rows = medians(store)
    pages = []
    for problem in problems:
        ours = of(rows, problem.name, OURS)
        lines = [_line(row, tool, ours) for tool in tools for row in of(rows, problem.name, tool.name)]
        pages.append(Sheet(problem.title, HEADER, lines))
    return [page for page in pages if page.rows]


def _line(row: Row, tool: Tool, ours: list[Row]) -> list[str]:
    cells = [number(row.get(name)) for name in ("runs", "cold_s", "import_s", "ess", "r_hat", "k_hat", "peak_mb")]
    if row.get("r_hat") is not None:
        cells[4] = f"{row['r_hat']:.3f}"
    times = f"{row['cold_s'] / ours[0]['cold_s']:.1f}" if ours else "–"
    title = f"{tool.title}, {row['form']}" if "form" in row else tool.title
    return [title, row["cache"], *cells, "yes" if diagnosed(row) else "no", times]


RADON = tuple(problem for problem in PROBLEMS if problem.name == "radon")
BENCH = Bench("cold", "From a cold process to a diagnosed posterior", RADON, COLD, QUICK[:1], sheets, NOTES, repeats=5)
