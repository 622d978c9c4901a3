"""One measurement: a worker in a fresh process, its wall clock, and the ESS of the draws that it left."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.tools import Tool

__all__ = ["Place", "busy_share", "least_ess", "measure", "worst_r_hat"]

ROOT = Path(__file__).resolve().parent.parent
Row = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a worker runs: interpreter, data, cache of its compiler, scratch folder, limit in seconds."""

    python: Path
    data: Path
    kind: str
    cache: Path
    scratch: Path
    limit: float


def measure(tool: Tool, place: Place, seed: int) -> Row:
    """Run the worker of `tool` once and describe what it did.

    Returns:
        A row with "ok", and either "error" or what the worker said, the seconds from starting the process
        to its end ("cold_s"), and for a fit "ess", "r_hat", "fit_s" and the ESS per second of each.
    """
    draws = place.scratch / "draws.npz"
    draws.unlink(missing_ok=True)
    busy = busy_share()
    started = time.time()
    try:
        finished = subprocess.run(
            _command(tool, place, draws, seed, started),
            cwd=ROOT,
            env=_environment(place.cache),
            capture_output=True,
            text=True,
            timeout=place.limit if math.isfinite(place.limit) else None,
        )
    except subprocess.TimeoutExpired:
        return {"ok": False, "error": f"stopped after {place.limit:g} s", "over_limit": True}
    cold = time.time() - started
    if finished.returncode != 0:
        said = finished.stderr.strip().splitlines() or [f"exit status {finished.returncode}"]
        return {"ok": False, "error": said[-1][:300]}
    row: Row = {"ok": True, "cold_s": round(cold, 3), "busy_before": busy}
    row |= json.loads(finished.stdout.strip().splitlines()[-1])
    return row | (_judge(row, draws) if tool.what == "fit" else {})


def _command(tool: Tool, place: Place, draws: Path, seed: int, started: float) -> list[str]:
    budget = tool.budget
    given = {
        "--data": place.data,
        "--out": draws,
        "--started": started,
        "--chains": budget.chains,
        "--draws": budget.draws,
        "--tune": budget.tune,
        "--seed": seed,
        "--form": tool.form(place.kind),
    }
    words = [str(word) for pair in given.items() for word in pair]
    return [str(place.python), "-m", f"benchmarks.workers.{tool.worker}", *words, *tool.options]


def _environment(cache: Path) -> dict[str, str]:
    """Every compiler keeps its cache in the given folder, whatever the caller's shell says."""
    return os.environ | {
        "XDG_CACHE_HOME": str(cache),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "PYTENSOR_FLAGS": f"base_compiledir={cache / 'pytensor'}",
        "NUMBA_CACHE_DIR": str(cache / "numba"),
        "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }


def _judge(row: Row, draws: Path) -> Row:
    """What the draws are worth, and for how many seconds they were had."""
    with np.load(draws) as file:
        phi = {name: file[name] for name in file.files}
    weighted = row.get("effective_size")  # of weighted draws, whose autocorrelation says nothing
    ess = least_ess(phi) if weighted is None else weighted
    r_hat = worst_r_hat(phi) if weighted is None else math.nan
    fit = row["compile_s"] + row["sample_s"] + row.get("theta_s", 0.0)
    found: Row = {
        "ess": round(ess, 1),
        "r_hat": round(r_hat, 5) if math.isfinite(r_hat) else None,
        "fit_s": round(fit, 3),
        "ess_per_s_fit": round(ess / fit, 3),
        "ess_per_s_cold": round(ess / row["cold_s"], 3),
    }
    if row.get("gradients"):
        found["us_per_gradient"] = round(1e6 * row["sample_s"] / row["gradients"], 2)
    return found


def least_ess(phi: dict[str, NDArray[np.float64]]) -> float:
    """The least bulk ESS over all components of phi, each (chain, draw, ...), by ArviZ."""
    return min(float(_arviz().ess(column, method="bulk")) for column in _columns(phi))


def worst_r_hat(phi: dict[str, NDArray[np.float64]]) -> float:
    """The largest rank-normalised split R-hat; a single chain is cut into two first."""
    columns = _columns(phi)
    if columns[0].shape[0] == 1:
        half = columns[0].shape[1] // 2
        columns = [np.stack([column[0, :half], column[0, half : 2 * half]]) for column in columns]
    return max(float(_arviz().rhat(column, method="rank")) for column in columns)


def _columns(phi: dict[str, NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Every scalar of phi as (chain, draw)."""
    flat = [draws.reshape(*draws.shape[:2], -1) for draws in phi.values()]
    return [draws[:, :, i] for draws in flat for i in range(draws.shape[2])]


def _arviz() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz
    return arviz


def busy_share(seconds: float = 0.5) -> float | None:
    """The share of the machine's processors that others keep busy, or None where /proc does not tell."""
    stat = Path("/proc/stat")
    if not stat.exists() or sys.platform != "linux":
        return None

    def ticks() -> tuple[int, int]:
        values = [int(word) for word in stat.read_text().splitlines()[0].split()[1:9]]
        return sum(values), values[3] + values[4]

    total, idle = ticks()
    time.sleep(seconds)
    later, later_idle = ticks()
    return round(1 - (later_idle - idle) / max(later - total, 1), 2)
