"""Medians of the repeats, as tables for the terminal and for a page of markdown."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.problems import Problem
from benchmarks.store import Store, machine
from benchmarks.tools import Tool

__all__ = ["Sheet", "markdown", "medians", "sheets", "show"]

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


@dataclass(frozen=True)
class Sheet:
    """A table before it is drawn: every cell is text."""

    title: str
    header: tuple[str, ...]
    rows: list[list[str]]


def medians(store: Store) -> list[Row]:
    """One row for each (problem, tool, cache): medians of what is a number, the first of what is not."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in store.rows:
        if row["ok"]:
            groups.setdefault((row["problem"], row["tool"], row["cache"]), []).append(row)
    return [_median(rows) for rows in groups.values()]


def _median(rows: list[Row]) -> Row:
    merged: Row = {"runs": len(rows)}
    for name in rows[0]:
        values = [row.get(name) for row in rows]
        numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
        merged[name] = statistics.median(numbers) if len(numbers) == len(values) else values[0]
    return merged


def sheets(store: Store, problems: tuple[Problem, ...], tools: tuple[Tool, ...]) -> list[Sheet]:
    """A table for each problem, one of ratios, one for adapting; those without rows are left out."""
    rows = medians(store)
    pages = [_problem_sheet(rows, problem, tools) for problem in problems]
    pages += [_ratio_sheet(rows, problems, tools), _adapt_sheet(rows)]
    return [page for page in pages if page.rows]


def _problem_sheet(rows: list[Row], problem: Problem, tools: tuple[Tool, ...]) -> Sheet:
    lines = []
    for tool in tools:
        for row in _of(rows, problem.name, tool.name):
            if tool.what == "fit":
                lines.append([_title(tool, row), row["cache"], *_fit_cells(row)])
            elif tool.what == "gradient":
                empty = ["–"] * (len(HEADER) - 4)
                cells = [_title(tool, row), row["cache"], str(row["runs"]), *empty]
                lines.append([*cells[:-1], _number(row["us_per_gradient"]), _number(row["peak_mb"])])
    return Sheet(problem.title[0].upper() + problem.title[1:], HEADER, lines)


def _fit_cells(row: Row) -> list[str]:
    names = ["runs", "cold_s", "import_s", "compile_s", "sample_s", "theta_s", "ess", "r_hat", "divergences"]
    cells = {name: _number(row.get(name)) for name in [*names, "ess_per_s_fit", "us_per_gradient", "peak_mb"]}
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
                ours = _at(rows, problem.name, "bayesmeta", cache)
                peer = _at(rows, problem.name, tool.name, cache) or _at(rows, problem.name, tool.name, "none")
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
    lines = [[row["problem"], *(_number(row.get(name)) for name in names)] for row in rows if "adapt_s" in row]
    return Sheet("Adapting to new tasks in one call", (*header, "MB more than before", "peak MB"), lines)


def _of(rows: list[Row], problem: str, tool: str) -> list[Row]:
    return [row for row in rows if row["problem"] == problem and row["tool"] == tool]


def _at(rows: list[Row], problem: str, tool: str, cache: str) -> Row | None:
    """The row with the cache in this state, if there is one."""
    return next((row for row in _of(rows, problem, tool) if row["cache"] == cache), None)


def _number(value: Any) -> str:
    """Three figures or so, without exponents."""
    if value is None:
        return "–"
    if isinstance(value, str) or value == int(value):
        return f"{value:,.0f}" if not isinstance(value, str) else value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def show(pages: list[Sheet], store: Store, console: Console) -> None:
    """Draw the tables on the terminal, with what was left out and what failed."""
    for page in pages:
        table = Table(title=page.title, title_justify="left")
        for i, name in enumerate(page.header):
            table.add_column(name, justify="left" if i < 2 else "right")
        for line in page.rows:
            table.add_row(*line)
        console.print(table)
    for remark in remarks(store):
        console.print(f"- {remark}", markup=False)


def remarks(store: Store) -> list[str]:
    """What was left out, what failed, and whether the machine was quiet."""
    lines = [f"Left out: {name}: {reason}" for name, reason in store.left_out.items()]
    failed = [row for row in store.rows if not row["ok"]]
    lines += [f"Failed: {row['tool']} on {row['problem']}, cache {row['cache']}: {row['error']}" for row in failed]
    busy = [row.get("busy_before") or 0.0 for row in store.rows]
    if busy and max(busy) > 0.15:
        share = sum(value > 0.15 for value in busy)
        lines.append(f"The machine was not quiet: others kept it busy before {share} of {len(busy)} runs.")
    return lines


def markdown(pages: list[Sheet], store: Store, command: str) -> str:
    """The same tables as a page, with the command, the machine and the versions."""
    parts = ["# Speed", f"Made by `{command}`.", NOTES]
    for page in pages:
        parts.append(f"## {page.title}")
        ruler = ["---"] * 2 + ["---:"] * (len(page.header) - 2)
        table = [page.header, ruler, *page.rows]
        parts.append("\n".join("| " + " | ".join(cells) + " |" for cells in table))
    found = remarks(store)
    if found:
        parts.append("## Remarks\n\n" + "\n".join(f"- {line}" for line in found))
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine().items())
    parts.append(f"## Machine and versions\n\n{facts}.\n\n{_versions(store)}.")
    return "\n\n".join(parts) + "\n"


def _versions(store: Store) -> str:
    versions: dict[str, str] = {}
    for row in store.rows:
        versions |= row.get("versions", {})
    return ", ".join(f"{name} {versions[name]}" for name in sorted(versions))
