"""Every preset on every model of the gallery: seconds, error against the truth, and what the verdict said of it.

The truth are exact moments where they are known, and otherwise those of a NUTS run of 40,000 draws.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import Bench
from benchmarks.problems import Data, Problem
from benchmarks.report import Sheet, as_text, medians, number, of
from benchmarks.store import Store
from benchmarks.tools import EMPTY, NO_CACHE, WARM, Tool, preset
from benchmarks.workers.bayesmeta_fit import GALLERY

__all__ = ["BENCH", "errors", "publish", "sheets", "summary", "truth_of"]

Row = dict[str, Any]
Moments = dict[str, list[float]]
REFERENCE, JOINTLY = "bayesmeta-reference", "bayesmeta-reference-jointly"
EXACT: dict[str, Moments] = {"eight_schools": {"mu[0]": [4.3968, 3.3177], "tau[0]": [3.5977, 3.2200]}}
"""Mean and sd by quadrature over (mu, log tau)."""

TOO_SLOW_COLLAPSED = ("contraception", "theoph")
"""Models whose evidence by quadrature is so dear that the reference is over φ and θ together, which is exact too."""

COMPILED = ("nuts", "nuts-joint", "nuts-laplace", "hmc-vectorised")
SLOW = ("pyro-nuts",)
MARKS = {"fine": "", "doubtful": " ?", "failed": " ✗"}
PAGE = Path(__file__).resolve().parent.parent / "docs" / "roads.md"
BEGIN, END = "<!-- table: python -m benchmarks roads -->", "<!-- end of the table -->"
HEADER = (
    "road",
    "evidence",
    "first s",
    "again s",
    "gradients",
    "effective draws",
    "k-hat",
    "mean off by, sds",
    "sd off by",
    "verdict",
)
NOTES = """\
How it was measured: one call of `fit` with the preset as it comes, in a fresh process, without the imports. *First*
is the first fit ever of a model and shape, with an empty cache of the compiler, *again* the next process; where
nothing is compiled there is only the one. *Effective draws* is the least bulk ESS over φ, or the effective size of
weighted draws. The two errors are the worst over the elements of φ: of a mean, in true posterior sds, and of an sd,
relative. They have the draws' own Monte Carlo error in them: 4,000 effective draws of a mean are off by .016 sd at
one standard error, 400 by .05, and the worst of several more. The truth is exact for eight schools, elsewhere NUTS
with 4 chains of 10,000 draws (row *reference*), over φ and θ together where the evidence of a task is dear. The
verdict is what `posterior.verdict` said, without knowing the truth."""


def _models() -> tuple[Problem, ...]:
    from bayesmeta import shelf

    files = {name: shelf.path_of("model", name) for name in shelf.names("model")}
    titles = {name: shelf.title(path) for name, path in files.items() if not shelf.is_network(path)}
    return tuple(Problem(name, title, f"{GALLERY}{name}", 0, partial(_named, name)) for name, title in titles.items())


def _named(name: str) -> Data:
    """The worker loads a model of the gallery by itself: only its name is handed over."""
    none = np.zeros(1)
    return Data(f"{GALLERY}{name}", none, none, np.zeros(1, dtype=np.int64))


def _presets() -> tuple[Tool, ...]:
    from bayesmeta import shelf

    names = [name for name in shelf.names("preset") if name not in SLOW and not _adapts(name)]
    roads = [
        preset(f"bayesmeta-{name}", name, name, (EMPTY, WARM) if name in COMPILED else (NO_CACHE,)) for name in names
    ]
    return (*_references(), *roads)


def _references() -> tuple[Tool, Tool]:
    """NUTS at length, over φ alone or over φ and θ together: each model has one of the two.

    Jointly from the mode: theophylline has a second one with hardly any mass, in which a chain may stay.
    """
    long = {"draws": 10_000, "tune": 2_000, "target_accept": 0.95}
    collapsed = preset(REFERENCE, "reference", "nuts", (EMPTY,), low_rank=True, **long)
    jointly = preset(JOINTLY, "reference, jointly", "nuts-joint", (EMPTY,), init="mode", **long)
    others = tuple(problem.name for problem in MODELS if problem.name not in TOO_SLOW_COLLAPSED)
    return replace(collapsed, problems=others), replace(jointly, problems=TOO_SLOW_COLLAPSED)


def _adapts(name: str) -> bool:
    """Whether it is a preset of an algorithm that adapts networks."""
    from bayesmeta.presets import is_algorithm, read_preset

    return is_algorithm(read_preset(name))


def errors(moments: Moments, truth: Moments) -> tuple[float, float]:
    """The worst error of a mean, in true sds, and of an sd, relative; elements that do not vary are left out."""
    pairs = [(*moments[name], *truth[name]) for name in truth if truth[name][1] > 1e-9]
    mean = max(abs(mean - centre) / spread for mean, _, centre, spread in pairs)
    return mean, max(abs(sd / spread - 1) for _, sd, _, spread in pairs)


def sheets(store: Store, problems: tuple[Problem, ...], tools: tuple[Tool, ...]) -> list[Sheet]:
    """One table of all, and one for each model."""
    rows = medians(store)
    pages = [summary(rows, problems, tools)]
    for problem in problems:
        truth = truth_of(rows, problem.name)
        lines = [_line(of(rows, problem.name, tool.name), tool, truth) for tool in tools]
        pages.append(Sheet(f"{problem.name}: {problem.title}", HEADER, [line for line in lines if line]))
    return [page for page in pages if page.rows]


def summary(rows: list[Row], problems: tuple[Problem, ...], tools: tuple[Tool, ...]) -> Sheet:
    """All of it at a glance: seconds and the worst error of a mean, a road per line, a model per column."""
    names = [problem.name for problem in problems if any(row["problem"] == problem.name for row in rows)]
    lines = []
    for tool in tools:
        cells = [_cell(of(rows, name, tool.name), truth_of(rows, name)) for name in names]
        if tool.name not in (REFERENCE, JOINTLY) and any(cell != "–" for cell in cells):
            lines.append([tool.title, *cells])
    return Sheet("At a glance", ("road", *names), lines)


def _cell(rows: list[Row], truth: Moments | None) -> str:
    if not rows or truth is None:
        return "–"
    mean, _ = errors(rows[0]["moments"], truth)
    again = " again" if rows[0]["cache"] == WARM else ""
    return f"{number(rows[0]['fit_s'])} s{again}, {mean:.2f}{MARKS[rows[0]['verdict']]}"


def truth_of(rows: list[Row], problem: str) -> Moments | None:
    """Exact moments, or those of the reference; None where neither is known."""
    found = of(rows, problem, REFERENCE) or of(rows, problem, JOINTLY)
    return EXACT.get(problem) or (found[0]["moments"] if found else None)


def publish(pages: list[Sheet]) -> None:
    """Put the table at a glance into the page of the documentation."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    table = "\n\n".join(as_text(page) for page in pages if page.title == "At a glance")
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def _line(rows: list[Row], tool: Tool, truth: Moments | None) -> list[str]:
    """The runs with either state of the cache on one line; their draws are the same."""
    if not rows:
        return []
    by = {row["cache"]: row for row in rows}
    first, again = by.get(EMPTY) or by.get(NO_CACHE), by.get(WARM)
    one = first or rows[0]
    mean, sd = errors(one["moments"], truth) if truth else (math.nan, math.nan)
    cells = [number(row["fit_s"] if row else None) for row in (first, again)]
    cells += [number(one.get(name)) for name in ("gradients", "ess", "k_hat")]
    return [tool.title, _evidence(one), *cells, f"{mean:.3f}", f"{100 * sd:.1f} %", one["verdict"]]


def _evidence(row: Row) -> str:
    return f"{row['evidence']}, Gram" if row.get("gram") else str(row["evidence"])


MODELS = _models()
ROADS = _presets()
TINY = tuple(problem for problem in MODELS if problem.name in ("eight_schools", "seeds"))
BENCH = Bench("roads", "Which road to take: measured", MODELS, ROADS, TINY, sheets, NOTES, 1, publish)
