"""What all workers share: their arguments, the data, a clock, and the line of JSON that they print.

A worker uses nothing but NumPy and the standard library beside its own tool, because the peers
live in an environment of their own.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Arrays", "Clock", "arguments", "finish", "load", "peak_mb", "say"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Arrays:
    """The data of a problem: rows (N,) and the task of each."""

    kind: str
    x: Array
    y: Array
    task: NDArray[np.int64]

    @property
    def n_tasks(self) -> int:
        """T."""
        return int(self.task[-1]) + 1

    @property
    def by_task(self) -> tuple[Array, Array]:
        """x and y as (T, n), for tasks of equal size."""
        return self.x.reshape(self.n_tasks, -1), self.y.reshape(self.n_tasks, -1)


@dataclass
class Clock:
    """Seconds between marks, counted from the moment at which the parent started the process."""

    last: float
    seconds: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        """Note the seconds since the last mark under this name."""
        now = time.time()
        self.seconds[name] = now - self.last
        self.last = now


def arguments() -> argparse.Namespace:
    """The arguments that every worker takes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="npz for the draws of phi")
    parser.add_argument("--started", type=float, default=time.time(), help="when the parent started this")
    parser.add_argument("--chains", type=int, default=2)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--tune", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--form", choices=["centred", "decentred"], default="decentred")
    parser.add_argument("--no-compile", action="store_true", help="bayesmeta: run the traced graph")
    parser.add_argument("--preset", default="nuts", help="bayesmeta: what it is fitted by")
    parser.add_argument("--set", default="{}", help="bayesmeta: options of the preset, as JSON")
    parser.add_argument("--theta", action="store_true", help="bayesmeta: draw theta of every task as well")
    return parser.parse_args()


def load(path: Path) -> Arrays:
    """Read what `benchmarks.problems.save` wrote."""
    with np.load(path) as file:
        return Arrays(str(file["kind"]), file["x"], file["y"], file["task"])


def peak_mb() -> float:
    """The largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def finish(path: Path, phi: Mapping[str, Any], clock: Clock, tools: list[str], **facts: Any) -> None:
    """Save the draws of phi, each (chain, draw, ...), and print the line that the parent reads.

    Args:
        path: where the draws go.
        phi: the draws by name.
        clock: with the marks "import", "compile" and "sample".
        tools: the packages whose versions are noted.
        facts: divergences, gradients, steps_per_draw, road, ... as far as the tool knows them.
    """
    columns: dict[str, Any] = {name: np.asarray(draws, dtype=np.float64) for name, draws in phi.items()}
    np.savez(path, **columns)
    say(clock, tools, **facts)


def say(clock: Clock, tools: list[str], **facts: Any) -> None:
    """Print the line of JSON."""
    line: dict[str, Any] = {f"{name}_s": round(value, 4) for name, value in clock.seconds.items()}
    line |= facts | {"peak_mb": round(peak_mb()), "versions": {tool: version(tool) for tool in tools}}
    print(json.dumps(line), flush=True)
