"""`python -m benchmarks`: measure bayesmeta beside its peers, one fresh process after another.

Rows are kept in OUT/speed.json as they finish, and a second call goes on where the first stopped;
OUT/speed.md is the page. `--fresh` measures what is selected anew, `--only bayesmeta --only radon` selects
tools and problems, `--quick` runs everything on a tiny budget to see that it works.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.plan import Limits, carry_out, jobs
from benchmarks.problems import PROBLEMS, QUICK, Problem
from benchmarks.store import Store
from benchmarks.tools import TOOLS, Tool, quick

__all__ = ["main"]

WIDTH = 150


def main(words: list[str] | None = None) -> int:
    """Run the command line; the exit status is 1 if a run failed."""
    args = _arguments(words)
    problems = QUICK if args.quick else PROBLEMS
    tools = tuple(quick(tool) for tool in TOOLS) if args.quick else TOOLS
    chosen_problems, chosen_tools = _select(args.only, problems, tools)
    out: Path = args.out or Path("runs/bench-quick" if args.quick else "benchmarks/results")
    store = Store.open(out / "speed.json")
    names = {tool.name for tool in chosen_tools}, {problem.name for problem in chosen_problems}
    if args.fresh:
        store.forget(lambda row: row["tool"] in names[0] and row["problem"] in names[1])
    _note_left_out(store, chosen_problems, chosen_tools)
    limits = Limits(1 if args.quick else args.repeats, args.limit, args.once_beyond)
    console = Console(highlight=False)
    console.width = max(console.width, WIDTH)
    todo = list(jobs(chosen_problems, chosen_tools, limits.repeats))
    with tempfile.TemporaryDirectory(prefix="bayesmeta-bench-") as scratch:
        carry_out(todo, store, limits, Path(scratch), lambda line: console.print(line, markup=False))
    store.save()
    pages = report.sheets(store, problems, tools)
    report.show(pages, store, console)
    command = "make bench" if words is None and not args.quick else "python -m benchmarks --quick"
    (out / "speed.md").write_text(report.markdown(pages, store, command))
    console.print(f"{out / 'speed.json'}, {out / 'speed.md'}", markup=False)
    return int(any(not row["ok"] for row in store.rows))


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a problem or a tool")
    parser.add_argument("--quick", action="store_true", help="tiny problems and budgets, into runs/bench-quick")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each row (default 3)")
    parser.add_argument("--out", type=Path, help="folder of the results (default benchmarks/results)")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds after which a run is stopped")
    parser.add_argument(
        "--once-beyond", type=float, default=600.0, help="a run longer than so many seconds is not repeated"
    )
    anew = parser.add_mutually_exclusive_group()
    anew.add_argument("--resume", action="store_true", help="keep the rows that are there (the default)")
    anew.add_argument("--fresh", action="store_true", help="measure the selected rows anew")
    return parser.parse_args(words)


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


if __name__ == "__main__":
    raise SystemExit(main())
