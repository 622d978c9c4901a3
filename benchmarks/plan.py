"""The order of the measurements, one after another, and which are already there."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Place, measure
from benchmarks.peers import PeersError, peers_python
from benchmarks.problems import Problem, save
from benchmarks.store import Store
from benchmarks.tools import EMPTY, WARM, Tool

__all__ = ["Job", "Limits", "carry_out", "jobs"]

Row = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Limits:
    """How often, and for how long.

    Attributes:
        repeats: measurements of each row of the table.
        seconds: a run is stopped after so many.
        once_beyond: a run that took longer than so many seconds is not repeated.
    """

    repeats: int = 3
    seconds: float = 3600.0
    once_beyond: float = 600.0


@dataclass(frozen=True)
class Job:
    """One row to come: a tool on a problem with its cache in one state, for the so many-th time."""

    problem: Problem
    tool: Tool
    cache: str
    repeat: int

    @property
    def key(self) -> Row:
        """What the row is found by."""
        names = {"problem": self.problem.name, "tool": self.tool.name, "cache": self.cache}
        return {**names, "repeat": self.repeat}

    @property
    def title(self) -> str:
        """A line for the terminal."""
        form = f", {self.tool.form(self.problem.kind)}" if self.tool.peer else ""
        return f"{self.problem.title} · {self.tool.title}{form} · cache {self.cache} · run {self.repeat + 1}"


def jobs(problems: tuple[Problem, ...], tools: tuple[Tool, ...], repeats: int) -> Iterator[Job]:
    """All rows, each repeat a whole round, so that a slow hour of the machine meets more than one tool."""
    for repeat in range(repeats):
        for problem in problems:
            for tool in tools:
                if tool.left_out(problem) is None:
                    for cache in tool.states(problem):
                        yield Job(problem, tool, cache, repeat)


def carry_out(todo: list[Job], store: Store, limits: Limits, scratch: Path, say: Say) -> None:
    """Measure what the store does not hold yet, and save each row as it finishes."""
    peers = _Peers(store, say)
    for job in todo:
        reason = _needless(job, store, limits)
        if reason is None:
            python = peers.python() if job.tool.peer else Path(sys.executable)
            if python is None:
                continue
            say(job.title)
            row = _run(job, python, limits, scratch)
            store.add(job.key | _budget(job.tool) | row)
            say("    " + _word(row))
        elif reason:
            say(f"{job.title}: {reason}")


class _Peers:
    """The peers' interpreter, asked for once, when the first of them is due."""

    def __init__(self, store: Store, say: Say) -> None:
        self.folder = Path(__file__).resolve().parent.parent / ".venv-peers"
        self.store, self.say = store, say
        self.known: Path | None = None
        self.failed = False

    def python(self) -> Path | None:
        if self.known is None and not self.failed:
            self.say(f"environment of the peers: {self.folder}")
            try:
                self.known = peers_python(self.folder)
                self.store.left_out.pop("the peers", None)
            except PeersError as error:
                self.failed = True
                self.store.left_out["the peers"] = f"their environment could not be made: {error}"
                self.store.save()
                self.say(f"    {self.store.left_out['the peers']}; going on without them")
        return self.known


def _needless(job: Job, store: Store, limits: Limits) -> str | None:
    """Why the job need not be run ("" if it is simply there already), or None if it is to be run."""
    for row in store.find(**job.key):
        if row["ok"]:
            return "" if _budget(job.tool).items() <= row.items() else None
        if row.get("over_limit"):
            return f"{row['error']} last time"
    first = store.find(**job.key | {"repeat": 0})
    if job.repeat and first and first[0].get("over_limit"):
        return "not repeated, the first run did not end within the limit"
    if job.repeat and first and first[0].get("cold_s", 0.0) > limits.once_beyond:
        return f"not repeated, the first run took {first[0]['cold_s']:.0f} s"
    return None


def _run(job: Job, python: Path, limits: Limits, scratch: Path) -> Row:
    data = scratch / f"{job.problem.name}.npz"
    if not data.exists():
        save(job.problem.load(), data)
    cache = scratch / "cache" / f"{job.tool.name}-{job.problem.name}"
    place = Place(python, data, job.problem.kind, cache, scratch, limits.seconds)
    if job.cache == EMPTY:
        shutil.rmtree(cache, ignore_errors=True)
    elif job.cache == WARM and not cache.exists():
        primed = measure(job.tool, place, seed=job.repeat)
        if not primed["ok"]:
            return primed
    cache.mkdir(parents=True, exist_ok=True)
    return measure(job.tool, place, seed=job.repeat)


def _budget(tool: Tool) -> Row:
    budget = tool.budget
    return {"chains": budget.chains, "draws": budget.draws, "tune": budget.tune}


def _word(row: Row) -> str:
    if not row["ok"]:
        return f"failed: {row['error']}"
    found = {
        "ess": "least ESS",
        "r_hat": "R-hat",
        "us_per_gradient": "µs per gradient",
        "adapt_s": "s to adapt",
    }
    parts = [f"{row[key]:g} {name}" for key, name in found.items() if row.get(key) is not None]
    return ", ".join([f"{row['cold_s']:.1f} s", *parts])
