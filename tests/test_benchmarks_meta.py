"""The benchmarks of meta-learning: their data, tables and options; nothing here looks at how fast anything is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bayesmeta as bm
from benchmarks import bench, meta, omniglot, sinusoid
from benchmarks.bench import Bench
from benchmarks.plan import Job
from benchmarks.problems import save
from benchmarks.store import Store
from benchmarks.workers.common import load
from benchmarks.workers.meta_gradient import case, network


def store_of(found: Bench, problem: str, path: Path, **facts: Any) -> Store:
    """A row for each tool, the same facts in all."""
    rows = [
        {"problem": problem, "tool": tool.name, "cache": cache, "repeat": 0, "ok": True} | facts
        for tool in found.tools
        for cache in tool.caches
    ]
    return Store(path, rows)


@pytest.mark.changes_rng
def test_the_tasks_of_a_meta_gradient_are_the_same_everywhere(tmp_path: Path) -> None:
    save(meta.sine_data(5), tmp_path / "data.npz")
    found = case(load(tmp_path / "data.npz"))
    again = meta.sine_data(5)

    assert (found.steps, tuple(found.xs.shape), tuple(found.yq.shape)) == (5, (25, 10, 1), (25, 10))
    np.testing.assert_array_equal(again.y, meta.sine_data(1).y)
    first, second = (torch.cat([weight.flatten() for weight in network().parameters()]) for _ in range(2))
    assert torch.equal(first, second)


def test_the_table_of_meta_gradients(tmp_path: Path) -> None:
    facts: dict[str, Any] = {
        "ms_by_threads": {"1": 4.0, "2": 2.0},
        "first_ms": 1500.0,
        "peak_mb": 300,
        "work_mb": 8.0,
        "off": 6e-8,
    }
    facts["processor_ms"] = 3.0
    store = store_of(meta.BENCH, "sines-1", tmp_path / "meta.json", ms=2.0, **facts)
    store.rows[0]["ms"] = 90.0
    (page,) = meta.sheets(store, meta.PROBLEMS, meta.TOOLS)

    assert page.rows[0][:5] == ["`higher`, loop over tasks", "none", "90", "2", "3"]
    assert page.rows[1][4:] == ["3", "45.0", "1.5", "300", "8", "6e-08"]


def test_the_table_of_sines_has_published_figures_where_there_are_some(tmp_path: Path) -> None:
    score = {"mse": [0.5, 0.02, 0.3], "nll": 1.0, "coverage": 0.94, "ece": 0.03, "ece_floor": 0.01, "adapt_ms": 0.2}
    facts = {"scores": dict.fromkeys(("10", "5"), score), "train_s": 60.0, "numbers": 1761}
    store = store_of(sinusoid.BENCH, "sines-5", tmp_path / "sinusoid.json", **facts)
    (page,) = sinusoid.sheets(store, sinusoid.PROBLEMS, sinusoid.LEARNERS)

    assert [line[1] for line in page.rows[:2]] == ["5", "5"]
    assert page.rows[0][:5] == ["MAML, 1 step", "5", "0.5 (0.02)", "0.3", "1.13 ± .18"]
    assert next(line for line in page.rows if line[:2] == ["MAML, 1 step", "10"])[4] == "–"


def test_the_table_of_characters(tmp_path: Path) -> None:
    scores = {"accuracy": [0.95, 0.002], "nll": [0.2, 0.01], "ece": [0.02, 0.001], "brier": [0.1, 0.01]}
    facts = {"scores": scores, "ece_floor": 0.005, "tasks": 12000, "adapt_ms": 3.0, "train_s": 1200.0, "numbers": 1000}
    facts["tune"] = 1200
    store = store_of(omniglot.BENCH, "omniglot-5-1", tmp_path / "omniglot.json", **facts)
    problems = (omniglot.problem(5, 1), omniglot.problem(20, 1))
    (page,) = omniglot.sheets(store, problems, omniglot.LEARNERS)

    assert page.title == "5-way 1-shot"
    assert page.rows[0][:5] == ["MAML", "20", "12,000", "95.00 (0.20)", "98.7"]


def test_the_limit_of_a_benchmark_that_trains_is_seconds_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, float]] = []

    def run(todo: list[Job], _: Store, limits: Any, *rest: object) -> None:
        seen.extend((job.tool.budget.tune, limits.seconds) for job in todo)

    monkeypatch.setattr(bench, "carry_out", run)
    for words in (["--limit", "60"], []):
        args = bench.arguments([*words, "--out", str(tmp_path)], "")
        some = Bench(
            "omniglot", "", (omniglot.problem(5, 1),), omniglot.LEARNERS[:1], (), omniglot.sheets, "", 1, None, True
        )
        bench.carry(some, args, "")
    assert seen == [(60, float("inf")), (1200, float("inf"))]


@pytest.mark.parametrize("tools", [sinusoid.LEARNERS, omniglot.LEARNERS], ids=["sines", "characters"])
def test_every_learner_is_one_that_there_is(tools: Any) -> None:
    for tool in tools:
        name = json.loads(tool.options[1])["learner"]
        assert name == "last-layer" or name in bm.meta.__all__
