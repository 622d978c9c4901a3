"""One benchmark: problems x tools, each run in a fresh process, kept in a JSON file and shown on a page."""

from __future__ import annotations

import argparse
import compileall
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.measure import ROOT
from benchmarks.plan import Limits, carry_out, jobs
from benchmarks.problems import Problem
from benchmarks.store import Store
from benchmarks.tools import Tool, quick

__all__ = ["Bench", "arguments", "carry"]

WIDTH = 150
STOPPED = 3600.0  # seconds
Sheets = Callable[[Store, tuple[Problem, ...], tuple[Tool, ...]], list[report.Sheet]]


@dataclass(frozen=True)
class Bench:
    """What is measured, and how it is shown.

    Attributes:
        name: of the benchmark and of its files.
        title: the page's.
        problems: what is fitted.
        tools: by what.
        tiny: the problems of `--quick`.
        sheets: the tables of a store.
        notes: how it was measured, for the page.
        repeats: runs of each row unless the command line says otherwise.
        publish: what else is done with the tables of the whole benchmark.
        trains: whether the budget of its tools is seconds of training, which `--limit` then changes.
    """

    name: str
    title: str
    problems: tuple[Problem, ...]
    tools: tuple[Tool, ...]
    tiny: tuple[Problem, ...]
    sheets: Sheets
    notes: str
    repeats: int = 3
    publish: Callable[[list[report.Sheet]], None] | None = None
    trains: bool = False


def arguments(words: list[str], description: str | None) -> argparse.Namespace:
    """The command line of a benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=description)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a problem or a tool")
    parser.add_argument("--quick", action="store_true", help="tiny problems and budgets, into runs/bench-quick")
    parser.add_argument("--repeats", type=int, help="runs of each row")
    parser.add_argument("--out", type=Path, help="folder of the results (default benchmarks/results)")
    parser.add_argument(
        "--limit",
        type=float,
        help="seconds after which a run is stopped (3600); of omniglot, seconds of training of each row (1200)",
    )
    parser.add_argument(
        "--once-beyond", type=float, default=600.0, help="a run longer than so many seconds is not repeated"
    )
    anew = parser.add_mutually_exclusive_group()
    anew.add_argument("--resume", action="store_true", help="keep the rows that are there (the default)")
    anew.add_argument("--fresh", action="store_true", help="measure the selected rows anew")
    return parser.parse_args(words)


def carry(bench: Bench, args: argparse.Namespace, command: str) -> int:
    """Measure what is selected and not there yet, and write the page; the exit status is 1 if a run failed."""
    problems = bench.tiny if args.quick else bench.problems
    tools = tuple(quick(tool) for tool in bench.tools) if args.quick else bench.tools
    if bench.trains and args.limit:
        tools = tuple(replace(tool, budget=replace(tool.budget, tune=round(args.limit))) for tool in tools)
    chosen_problems, chosen_tools = _select(args.only, problems, tools)
    out: Path = args.out or Path("runs/bench-quick" if args.quick else "benchmarks/results")
    store = Store.open(out / f"{bench.name}.json")
    names = {tool.name for tool in chosen_tools}, {problem.name for problem in chosen_problems}
    if args.fresh:
        store.forget(lambda row: row["tool"] in names[0] and row["problem"] in names[1])
    _note_left_out(store, chosen_problems, chosen_tools)
    most = math.inf if bench.trains else args.limit or STOPPED
    limits = Limits(1 if args.quick else args.repeats or bench.repeats, most, args.once_beyond)
    console = Console(highlight=False)
    console.width = max(console.width, WIDTH)
    todo = list(jobs(chosen_problems, chosen_tools, limits.repeats))
    _compile_bytecode()
    with tempfile.TemporaryDirectory(prefix="bayesmeta-bench-") as scratch:
        carry_out(todo, store, limits, Path(scratch), lambda line: console.print(line, markup=False))
    store.save()
    pages = bench.sheets(store, problems, tools)
    report.show(pages, store, console)
    page = out / f"{bench.name}.md"
    page.write_text(report.markdown(pages, store, bench.title, command, bench.notes))
    console.print(f"{store.path}, {page}", markup=False)
    if bench.publish and not args.quick and args.out is None:
        bench.publish(pages)
    return int(any(not row["ok"] for row in store.rows))


def _compile_bytecode() -> None:
    """What installing a package does for it: the peers come with their bytecode, a checkout does not."""
    for folder in ("bayesmeta", "benchmarks"):
        compileall.compile_dir(ROOT / folder, quiet=1)


def _select(
    only: list[str], problems: tuple[Problem, ...], tools: tuple[Tool, ...]
) -> tuple[tuple[Problem, ...], tuple[Tool, ...]]:
    """The problems and tools named; where none of a kind is named, all of it."""
    known = {problem.name for problem in problems} | {tool.name for tool in tools}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise SystemExit(f"--only {unknown[0]}: not a problem or a tool; there are {', '.join(sorted(known))}")
    some_problems = tuple(problem for problem in problems if problem.name in only)
    some_tools = tuple(tool for tool in tools if tool.name in only)
    return some_problems or problems, some_tools or tools


def _note_left_out(store: Store, problems: tuple[Problem, ...], tools: tuple[Tool, ...]) -> None:
    for problem in problems:
        for tool in tools:
            reason = tool.left_out(problem)
            if reason:
                store.left_out[f"{tool.title} on {problem.title}"] = reason
