"""The README is true: its code runs, its commands work, and what it points to exists."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import bayesmeta as bm
from bayesmeta import shelf
from bayesmeta.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TINY = bm.NUTS(draws=100, tune=150, chains=2, compile=False)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_the_code_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a small budget; the numbers shown are those of the default one."""
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bm, "fit", functools.partial(bm.fit, inference=TINY, progress=False))
    namespace: dict[str, Any] = {}
    found = blocks("python")
    assert found
    with torch.random.fork_rng(devices=[]):  # networks begin at random weights
        for block in found:
            exec(compile(block, "README.md", "exec"), namespace)
    plt.close("all")

    frame = namespace["predicted"].frame()
    shown = blocks("text")[0].splitlines()
    assert shown[0].split() == list(frame.columns)
    for line, (_, row) in zip(shown[1:], frame.iterrows(), strict=True):
        assert float(line.split()[-4]) == pytest.approx(row["mean"], abs=0.2)
        assert float(line.split()[-1]) == pytest.approx(row["upper"], abs=0.4)


def test_the_first_block_is_about_twenty_lines() -> None:
    lines = [line for line in blocks("python")[0].splitlines() if line.strip()]

    assert len(lines) <= 25


def test_the_commands_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("new_houses.csv").write_text(blocks("csv")[0], encoding="utf-8")
    preset = tmp_path / "tiny.toml"
    preset.write_text('back_end = "nuts"\n[options]\ndraws = 100\ntune = 150\nchains = 2\ncompile = false\n')
    commands = [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]
    assert {command[1] for command in commands} == {"models", "fit", "adapt"}
    for program, *words in commands:
        assert program == "bayesmeta"
        if "--inference" in words:
            place = words.index("--inference") + 1
            assert words[place] in shelf.names("preset")
            words[place] = str(preset)
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output

    table = pd.read_csv("adapted.csv")
    told = re.search(r"first floor in NEWTOWN\s+(\S+), with a 90 % interval from (\S+) to (\d+\.\d+)", README)
    assert told is not None
    row = table[(table["county"] == "NEWTOWN") & table["log_radon"].isna()].iloc[0]
    for shown, name in zip(told.groups(), ("mean", "lower", "upper"), strict=True):
        assert float(shown) == pytest.approx(row[name], abs=0.2)


def test_what_it_points_to_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    local = [link for link in links if "://" not in link]
    files = re.findall(r"`((?:models|inference|docs)/[\w./-]*)`", README)

    assert any(link.endswith(".png") for link in local)
    for name in [*local, *files]:
        assert (ROOT / name).exists(), name


def test_every_make_target_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake ([a-z-]+)", README))

    assert {"demo", "test", "setup"} <= named
    for target in named:
        assert re.search(rf"^{target}( [\w-]+)*:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("kind", ["model", "preset"])
def test_every_model_and_preset_is_named(kind: shelf.Kind) -> None:
    assert [name for name in shelf.names(kind) if f"`{name}`" not in README] == []
