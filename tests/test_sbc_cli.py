"""`bayesmeta check`: what it prints, what it keeps, and how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import bayesmeta as bm
from bayesmeta import calibrate
from bayesmeta.cli import app
from bayesmeta.diagnose.sbc import STATS

MODEL = '''"""Levels about a common mean."""

import pyro
import pyro.distributions as dist

import bayesmeta as bm


def hyperprior():
    return pyro.sample("mu", dist.Normal(0.0, 1.0))


def task(phi, x, y=None):
    theta = pyro.sample("theta", dist.Normal(phi, 1.0))
    return pyro.sample("y", dist.Normal(theta, 1.0).expand([len(x)]).to_event(1), obs=y)


hierarchy = bm.Hierarchy(hyperprior, task)


def load():
    return bm.Tasks.from_lists(None, [[0.0] * 3, [0.0], [0.0, 0.0]], names=["A", "B", "C"])
'''


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "levels.py"
    path.write_text(MODEL, encoding="utf-8")
    return path


def test_a_model_file_is_checked_and_the_ranks_are_kept(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "ranks.npz"
    command = ("check", model, "--inference", "laplace", "--cores", 1, "--out", out)

    first = run(*command, "--replications", 2)
    again = run(*command, "--replications", 3, "--quiet")

    assert first.exit_code == 0, first.output
    assert "theta[B]" in first.stdout
    assert "verdict: fine" in first.stdout
    assert "2 replications" in first.stdout
    assert again.exit_code == 0
    assert again.stdout == ""
    assert len(bm.Calibration.load(out)) == 3


def test_other_settings_do_not_go_on_in_the_same_file(model: Path, tmp_path: Path) -> None:
    command = ("check", model, "--inference", "laplace", "--cores", 1, "--out", tmp_path / "ranks.npz", "-n", 1)
    run(*command)

    result = run(*command, "--seed", 4)

    assert result.exit_code == 2
    assert "seed: 0 in place of 4" in result.stderr


def _ends(monkeypatch: pytest.MonkeyPatch, ranks: list[int], asked: int) -> None:
    stats = {name: np.ones(len(ranks)) for name in STATS}
    found = bm.Calibration(("mu",), np.array(ranks)[:, None], 9, np.arange(len(ranks)), stats, asked=asked)
    monkeypatch.setattr(calibrate, "sbc", lambda *args, **kwargs: found)
    monkeypatch.setattr(bm, "sbc", calibrate.sbc)


def test_what_is_not_calibrated_ends_with_one(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _ends(monkeypatch, [0] * 50, 50)

    result = run("check", model)

    assert result.exit_code == 1
    assert "verdict: failed: mu: draws are too high" in result.stdout


def test_what_was_interrupted_ends_with_130(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _ends(monkeypatch, [0, 9, 4], 50)

    result = run("check", model)

    assert result.exit_code == 130
    assert "interrupted: 3 of 50 replications were made" in result.stdout
