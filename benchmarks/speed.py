"""NUTS beside the peers' NUTS: seconds of each part, effective draws per second, microseconds per gradient."""

from __future__ import annotations

from typing import Any

from benchmarks.bench import Bench
from benchmarks.problems import PROBLEMS, QUICK, Problem
from benchmarks.report import Sheet, at, medians, number, of
from benchmarks.store import Store
from benchmarks.tools import TOOLS, Tool

__all__ = ["BENCH", "sheets"]

Row = dict[str, Any]

HEADER = (
    "tool",
    "cache",
    "runs",
    "cold s",
    "import s",
    "compile s",
    "sample s",
    "θ s",
    "least ESS",
    "R-hat",
    "div.",
    "ESS/s of fitting",
    "µs/gradient",
    "MB",
)

# what is to be reached, as (problem, peer): times the peer's least ESS per second of fitting
GOALS = {("linear-2000", "numpyro"): 30.0, ("linear-2000", "pymc-nutpie"): 10.0, ("radon", "pyro"): 50.0}
GRADIENT_GOAL = 20.0

NOTES = """\
How it was measured: every run is a fresh process; *cold* is the wall clock from starting it to its end,
with the interpreter, the imports, compiling, warm-up and sampling in it. *Fitting* is compiling and
sampling, warm-up included, without the imports. Least ESS is ArviZ's bulk ESS, the least over the
components of φ, computed in the same way from every tool's draws; R-hat is the largest. The cache is that
of the tool's compiler on disk: *empty* is the first fit ever of a model and shape, *warm* the next process.
µs per gradient is the sampling time over all gradients, warm-up included, of all chains; Pyro's potential
is timed alone, with one thread or all, whichever is faster. The peers' models are written decentred and
centred; the goals are held against the form that gives the peer more ESS per second (decentred on radon,
centred on the linear problems). All peers draw θ as well as φ; bayesmeta draws θ in the row that says so.
The linear tasks have 11 observations each, noise .5 and spread .7 and .4. NumPyro and PyMC + nutpie run
in float64 with 2 chains side by side, 1,000 draws after 1,000 of warm-up, as bayesmeta does; Pyro runs one
chain of 200 after 200. Runs are one after another; medians over the runs."""


def sheets(store: Store, problems: tuple[Problem, ...], tools: tuple[Tool, ...]) -> list[Sheet]:
    """A table for each problem, one of ratios, one for adapting; those without rows are left out."""
    rows = medians(store)
    pages = [_problem_sheet(rows, problem, tools) for problem in problems]
    pages += [_ratio_sheet(rows, problems, tools), _adapt_sheet(rows)]
    return [page for page in pages if page.rows]


def _problem_sheet(rows: list[Row], problem: Problem, tools: tuple[Tool, ...]) -> Sheet:
    lines = []
    for tool in tools:
        for row in of(rows, problem.name, tool.name):
            if tool.what == "fit":
                lines.append([_title(tool, row), row["cache"], *_fit_cells(row)])
            elif tool.what == "gradient":
                empty = ["–"] * (len(HEADER) - 4)
                cells = [_title(tool, row), row["cache"], str(row["runs"]), *empty]
                lines.append([*cells[:-1], number(row["us_per_gradient"]), number(row["peak_mb"])])
    return Sheet(problem.title[0].upper() + problem.title[1:], HEADER, lines)


def _fit_cells(row: Row) -> list[str]:
    names = ["runs", "cold_s", "import_s", "compile_s", "sample_s", "theta_s", "ess", "r_hat", "divergences"]
    cells = {name: number(row.get(name)) for name in [*names, "ess_per_s_fit", "us_per_gradient", "peak_mb"]}
    if row.get("r_hat") is not None:
        cells["r_hat"] = f"{row['r_hat']:.3f}"
    return list(cells.values())


def _ratio_sheet(rows: list[Row], problems: tuple[Problem, ...], tools: tuple[Tool, ...]) -> Sheet:
    header = ("problem", "beside", "cache", "cold: times faster", "ESS per s of fitting: times more", "goal")
    lines = []
    for problem in problems:
        for tool in tools:
            if tool.name.startswith("bayesmeta"):
                continue
            for cache in ("empty", "warm", "none"):
                ours = at(rows, problem.name, "bayesmeta", cache)
                peer = at(rows, problem.name, tool.name, cache) or at(rows, problem.name, tool.name, "none")
                if ours is None or peer is None:
                    continue
                lines.append([problem.title, _title(tool, peer), cache, *_ratios(ours, peer, problem, tool)])
    return Sheet("bayesmeta beside the others", header, lines)


def _ratios(ours: Row, peer: Row, problem: Problem, tool: Tool) -> list[str]:
    if tool.what == "gradient":
        times = peer["us_per_gradient"] / ours["us_per_gradient"]
        return ["–", f"µs per gradient: {times:.1f}", f"{GRADIENT_GOAL:g}"]
    goal = GOALS.get((problem.name, tool.name))
    cold = peer["cold_s"] / ours["cold_s"]
    more = ours["ess_per_s_fit"] / peer["ess_per_s_fit"]
    return [f"{cold:.1f}", f"{more:.1f}", "–" if goal is None else f"{goal:g}"]


def _title(tool: Tool, row: Row) -> str:
    return f"{tool.title}, {row['form']}" if "form" in row else tool.title


def _adapt_sheet(rows: list[Row]) -> Sheet:
    header = (
        "problem",
        "new tasks",
        "observations each",
        "draws of φ",
        "adapting s",
        "predicting s",
        "k-hat < .7",
    )
    names = ["new_tasks", "observations", "phi_draws", "adapt_s", "predict_s", "k_hat_below_07"]
    names += ["adapt_mb", "peak_mb"]
    lines = [[row["problem"], *(number(row.get(name)) for name in names)] for row in rows if "adapt_s" in row]
    return Sheet("Adapting to new tasks in one call", (*header, "MB more than before", "peak MB"), lines)


BENCH = Bench("speed", "Speed", PROBLEMS, TOOLS, QUICK, sheets, NOTES)
