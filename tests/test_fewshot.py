"""The few-shot benchmarks: their tables from rows as the workers leave them, and a worker from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bayesmeta.data import Environment
from benchmarks import fewshot, hidden
from benchmarks.__main__ import main
from benchmarks.learners import ENVIRONMENTS, LEARNERS
from benchmarks.store import Store


def _row(tool: str, problem: str, **values: Any) -> dict[str, Any]:
    return {"problem": problem, "tool": tool, "cache": "none", "repeat": 0, "ok": True} | values


def _metrics(rmse: float, **more: Any) -> dict[str, Any]:
    names = ("nll", "nll_joint", "crps", "coverage", "width", "ece")
    return {name: [0.5, 0.01] for name in names} | {"rmse": [rmse, 0.01], "ece_floor": 0.02} | more


def test_learners_stand_by_shots_and_ranges(tmp_path: Path) -> None:
    beside = {"ratio": [1.5, 0.1], "nll_gap": [0.2, 0.03], "nll_joint_gap": [0.1, 0.02], "adapt_ms": 0.4}
    best = {"in 1": _metrics(1.0), "in 5": _metrics(0.1), "out 5": _metrics(0.1)}
    learnt = {name: _metrics(0.2, **beside) for name in best}
    rows = [
        _row("bayesmeta-optimal", "dkt", scores=best, train_s=0.0),
        _row("bayesmeta-gp", "dkt", scores=learnt, train_s=60.0),
    ]

    inside, outside = fewshot.sheets(Store(tmp_path / "x.json", rows), fewshot.PROBLEMS, fewshot.LEARNERS)

    assert inside.title == "DKT's sines, in range"
    assert [line[:4] for line in inside.rows] == [
        ["Bayes-optimal", "1", "1.0000", "1"],
        ["Gaussian process", "1", "0.0400", "1.500 (0.100)"],
        ["Bayes-optimal", "5", "0.0100", "1"],
        ["Gaussian process", "5", "0.0400", "1.500 (0.100)"],
    ]
    assert outside.rows[1][-2:] == ["0.4", "60"]


def test_ways_to_predict_hidden_tasks(tmp_path: Path) -> None:
    common = {name: [0.5, 0.1] for name in ("nll", "crps", "rmse", "coverage", "width")} | {"tasks": 9}
    ways = {
        "adapt": common | {"gap": None, "seconds": 0.002},
        "refit": common | {"gap": [0.001, 0.002], "seconds": 1.5},
        "alone": common | {"gap": [0.7, 0.1], "seconds": None},
    }
    store = Store(tmp_path / "x.json", [_row("bayesmeta-hidden", "radon", ways=ways)])

    (page,) = hidden.sheets(store, hidden.PROBLEMS, hidden.BENCH.tools)

    assert [(line[0], line[3], line[-1]) for line in page.rows] == [
        ("adapt, no refit", "0", "2 ms"),
        ("full refit with its observations", "+0.0010 (0.0020)", "1.5 s"),
        ("its observations alone", "+0.7000 (0.1000)", "–"),
    ]


def test_every_learner_has_an_environment_and_every_environment_a_learner() -> None:
    tools = {(problem, tool.name) for tool in fewshot.LEARNERS for problem in tool.problems}

    assert {name for name, _ in LEARNERS} == set(ENVIRONMENTS) == set(fewshot.TITLES)
    assert {(name, f"bayesmeta-{learner}") for name, learner in LEARNERS} == {
        pair for pair in tools if pair[1] != fewshot.OPTIMAL
    }
    assert all(isinstance(setting.make(), Environment) for setting in ENVIRONMENTS.values())


@pytest.mark.changes_rng
@pytest.mark.parametrize(("name", "learner"), list(LEARNERS))
def test_every_learner_has_a_hierarchy(name: str, learner: str) -> None:
    tasks = ENVIRONMENTS[name].make().tasks(4, 6, seed=1)

    assert LEARNERS[name, learner].hierarchy(tasks).program(tasks).structure.phi.size > 0


@pytest.mark.long
def test_a_learner_from_end_to_end(tmp_path: Path) -> None:
    assert main(["fewshot", "--quick", "--only", "bayesmeta-periodic", "--only", "dkt", "--out", str(tmp_path)]) == 0
    (row,) = json.loads((tmp_path / "fewshot.json").read_text())["rows"]
    assert set(row["scores"]) == {f"{where} {shots}" for where in ("in", "out") for shots in (1, 2, 3, 5, 10)}
    assert "| Bayesian last layer, periodic features | 1 |" in (tmp_path / "fewshot.md").read_text()


@pytest.mark.long
def test_hidden_tasks_from_end_to_end(tmp_path: Path) -> None:
    assert main(["hidden", "--quick", "--only", "radon", "--out", str(tmp_path)]) == 0
    (row,) = json.loads((tmp_path / "hidden.json").read_text())["rows"]
    ways = row["ways"]
    assert set(ways) == set(hidden.WAYS)
    assert abs(ways["refit"]["gap"][0]) < 0.05
    assert ways["alone"]["gap"][0] > 0.1
    assert "| adapt, no refit | 9 |" in (tmp_path / "hidden.md").read_text()
