"""1 to 256 vectorised chains: effective draws per second, on the processor and, where there is one, on a GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.bench import Bench
from benchmarks.problems import PROBLEMS, QUICK, Problem
from benchmarks.report import Sheet, medians, number, of
from benchmarks.store import Store
from benchmarks.tools import Tool, preset

__all__ = ["BENCH", "sheets"]

Row = dict[str, Any]
COUNTS = (1, 16, 64, 256)
DRAWS = 16_000
MANY = 64
TOO_SLOW = "64 chains over φ and θ, 4,005 dimensions, did not end in 200 s; 16 chains did in 132 s"
HEADER = (
    "chains",
    "evidence",
    "runs",
    "draws of each",
    "fitting s",
    "of it compiling",
    "gradients",
    "least ESS",
    "R-hat",
    "ESS/s of sampling",
    "ESS/s of fitting",
    "MB",
)
NOTES = """\
How it was measured: the preset `hmc-vectorised` with so many chains in one tensor, 16,000 draws in all but for the
single chain, which takes 4,000; warm-up as the preset has it, and in the seconds of sampling. *Exact* samples φ alone,
*joint* φ and θ together. ESS is ArviZ's bulk ESS, the least over the components of φ. Compiled anew in every run; a
fresh process each. `device = "cuda"` rows are there where the machine has a GPU."""


def _tool(chains: int, evidence: str, device: str) -> Tool:
    draws = max(DRAWS // chains, 1) if chains > 1 else 4_000
    name = f"bayesmeta-{chains}-{evidence}" + ("" if device == "cpu" else f"-{device}")
    title = f"{chains} chains" + ("" if device == "cpu" else f", {device}")
    options = {"chains": chains, "draws": draws, "evidence": evidence, "device": device}
    tool = preset(name, title, "hmc-vectorised", ("empty",), **options)
    if evidence == "joint" and device == "cpu" and chains >= MANY:
        return replace(tool, up_to=85, too_slow=TOO_SLOW)
    return tool


def _devices() -> tuple[str, ...]:
    import torch

    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def sheets(store: Store, problems: tuple[Problem, ...], tools: tuple[Tool, ...]) -> list[Sheet]:
    """One table for each problem."""
    rows = medians(store)
    pages = []
    for problem in problems:
        lines = [[tool.title, *_cells(row)] for tool in tools for row in of(rows, problem.name, tool.name)]
        pages.append(Sheet(problem.title, HEADER, lines))
    return [page for page in pages if page.rows]


def _cells(row: Row) -> list[str]:
    cells = [row["evidence"], number(row["runs"]), number(row["kept"][1]), number(row["fit_s"])]
    cells += [number(row[name]) for name in ("compile_s", "gradients", "ess")]
    r_hat = f"{row['r_hat']:.3f}" if row.get("r_hat") is not None else "–"
    return [*cells, r_hat, number(row["ess"] / row["sample_s"]), number(row["ess_per_s_fit"]), number(row["peak_mb"])]


CHAINS = tuple(
    _tool(chains, evidence, device) for device in _devices() for evidence in ("auto", "joint") for chains in COUNTS
)
CHOSEN = tuple(problem for problem in PROBLEMS if problem.name in ("radon", "linear-2000"))
BENCH = Bench("chains", "Vectorised chains", CHOSEN, CHAINS, QUICK[1:], sheets, NOTES, repeats=3)
