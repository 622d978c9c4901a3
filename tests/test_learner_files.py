"""Learners as files and as runs of the command line: what comes back is what was written."""

from __future__ import annotations

import json
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import bayesmeta as bm
from bayesmeta import meta, network_runs, shelf
from bayesmeta.cli import app
from bayesmeta.errors import BayesmetaWarning, FileFormatError, HierarchyError, NotAvailableError, OptionError
from bayesmeta.meta.training.climb import Climb
from bayesmeta.meta.training.feed import Part

pytestmark = pytest.mark.changes_rng  # modules of torch.nn draw their weights

FEW: dict[str, Any] = {"shots": 2, "steps": 3, "inner_steps": 2}


def waves(count: int = 6, rows: int = 6) -> bm.Tasks:
    return bm.data.MAMLSines().tasks(count, shots=rows, seed=1)


def network(inputs: int = 1, out: int = 1) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 4), nn.Tanh(), nn.Linear(4, out))


def huber(out: Tensor, y: Tensor) -> Tensor:
    return nn.functional.huber_loss(out.reshape(y.shape), y, reduction="none")


def classes() -> bm.Tasks:
    x = torch.randn(4, 12, 2, generator=torch.Generator().manual_seed(0))
    return bm.Tasks.from_arrays(x, torch.arange(3.0).repeat(4, 4))


CASES: dict[str, tuple[meta.Algorithm, Callable[[], nn.Module], Callable[[], bm.Tasks]]] = {
    "maml": (meta.MAML(**FEW), network, waves),
    "mamlpp": (meta.MAMLPlusPlus(**FEW), network, waves),
    "metasgd": (meta.MetaSGD(validation=0.3, every=1, **FEW), network, waves),
    "anil": (meta.ANIL(head=("2.weight",), **FEW), network, waves),
    "cavia": (meta.CAVIA(size=2, **FEW), lambda: network(3), waves),
    "double": (meta.MAML(**FEW), lambda: network().double(), waves),
    "vampire": (meta.VAMPIRE(**FEW), network, waves),
    "protonet": (meta.ProtoNet(shots=2, steps=3), lambda: network(2, 3), classes),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_opened_is_what_was_written(name: str, tmp_path: Path) -> None:
    algorithm, make, tasks = CASES[name]
    learner = bm.fit(make(), tasks(), algorithm, progress=False)
    learner.save(tmp_path / "there" / "learner.npz")
    again = meta.load(tmp_path / "there" / "learner.npz", make())
    few, x = tasks()[:3], tasks()[0].x
    before, after = (one.adapt(few, seed=4).predict(x) for one in (learner, again))

    assert torch.equal(before.members, after.members)
    assert (again.algorithm, again.noise, again.steps, again.interrupted) == (algorithm, learner.noise, 3, False)
    assert {name: value.dtype for name, value in again.weights.items()} == {
        name: value.dtype for name, value in learner.weights.items()
    }
    assert all(np.array_equal(again.curves[name], curve) for name, curve in learner.curves.items())
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["learner.npz"]


def test_nothing_in_the_file_is_code(tmp_path: Path) -> None:
    bm.fit(network(), waves(), meta.MAML(**FEW), progress=False).save(tmp_path / "one.npz")
    with zipfile.ZipFile(tmp_path / "one.npz") as file:
        headers = [file.read(name)[:120] for name in file.namelist()]

    assert headers
    assert all(b"'descr': '|O'" not in header and header.startswith(b"\x93NUMPY") for header in headers)


def test_a_loss_of_the_users_own_comes_from_the_user(tmp_path: Path) -> None:
    path = tmp_path / "huber.npz"
    learner = bm.fit(network(), waves(), meta.MAML(loss=huber, **FEW), progress=False)
    learner.save(path)

    again = meta.load(path, network(), loss=huber)
    assert torch.equal(again.adapt(waves()).predict(waves()).mean, learner.adapt(waves()).predict(waves()).mean)
    with pytest.raises(OptionError, match=r"was learnt with a loss that is a function, .*: pass loss=\.\.\."):
        meta.load(path, network())
    bm.fit(network(), waves(), meta.MAML(**FEW), progress=False).save(path)
    with pytest.raises(OptionError, match="was learnt with loss='mse': leave loss out"):
        meta.load(path, network(), loss=huber)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda: network(2), r"'0.weight' was \(4, 1\) float32 and is \(4, 2\) float32"),
        (lambda: network().double(), r"'0.weight' was \(4, 1\) float32 and is \(4, 1\) float64; "),
        (lambda: nn.Linear(1, 1), r"it had no 'weight'; it had no 'bias'; '0.weight' is missing"),
    ],
)
def test_another_network_is_refused(net: Callable[[], nn.Module], message: str, tmp_path: Path) -> None:
    bm.fit(network(), waves(), meta.MAML(**FEW), progress=False).save(tmp_path / "one.npz")
    with pytest.raises(FileFormatError, match=f"was learnt with another network: .*{message}"):
        meta.load(tmp_path / "one.npz", net())


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.npz"
    with pytest.raises(NotAvailableError, match=r"there is no file .*one\.npz"):
        meta.load(path, network())
    path.write_text("no file of arrays")
    with pytest.raises(FileFormatError, match="is not a learner saved by bayesmeta"):
        meta.load(path, network())
    np.savez(path, record=np.array(json.dumps({"format": "bayesmeta learner 99"})))
    with pytest.raises(FileFormatError, match="has format 'bayesmeta learner 99', this version reads"):
        meta.load(path, network())
    changed(path, "algorithm", "Path")
    with pytest.raises(FileFormatError, match="was learnt by 'Path', which this version does not know"):
        meta.load(path, network())
    changed(path, "settings", {"loss": "mse", "shots": 1, "warp": 3})
    with pytest.raises(FileFormatError, match=r"has settings that this version does not know: .*warp"):
        meta.load(path, network())


def changed(path: Path, key: str, value: Any) -> None:
    """A learner's file with another value in its record."""
    bm.fit(network(), waves(), meta.MAML(**FEW), progress=False).save(path)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    record = json.loads(str(arrays.pop("record"))) | {key: value}
    np.savez(path, record=np.array(json.dumps(record)), **arrays)


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    learner = bm.fit(network(), waves(), meta.MAML(**FEW), progress=False)
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(NotAvailableError, match=r"path: cannot write .*taken"):
        learner.save(tmp_path / "taken" / "learner.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


# --- model files and runs ---------------------------------------------------------------------------------

MODEL = '''"""Lines through a small network.

Each line is a task.
"""

import pandas as pd
import torch
from torch import nn

import bayesmeta as bm

net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
settings = {"shots": 3}


def load():
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 3, generator=g).tolist()
    table = pd.DataFrame([{"line": f"L{k // 8}", "dose": a, "age": b, "y": c} for k, (a, b, c) in enumerate(rows)])
    return bm.Tasks.from_frame(table, task="line", x=["dose", "age"], y="y")
'''
PRESET = 'back_end = "maml"\n[options]\nsteps = 4\nvalidation = 0.3\nevery = 2\n'


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "lines.py").write_text(MODEL)
    (tmp_path / "quick.toml").write_text(PRESET)
    done = called("fit", tmp_path / "lines.py", "-i", tmp_path / "quick.toml", "-o", tmp_path / "run", "--seed", 5)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "Learner by MAML: 17 meta-parameters, 4 steps" in done.stdout
    assert f"Written: {tmp_path / 'run'}" in done.stdout.replace("\n", "")
    return tmp_path / "run"


def called(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    done = called(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr.count("\n") == 1
    return str(done.stderr)


def test_fit_writes_the_run_of_a_network(run: Path) -> None:
    record = tomllib.loads((run / "run.toml").read_text())
    curves = pd.read_csv(run / "curves.csv")
    found = network_runs.open_run(run)

    assert sorted(path.name for path in run.iterdir() if path.is_file()) == sorted(network_runs.FILES)
    assert (record["model"], record["seed"], record["back_end"], record["options"]["shots"]) == ("lines", 5, "maml", 3)
    assert record["columns"] == {"task": "line", "x": ["dose", "age"], "y": "y", "context": []}
    assert curves["step"].tolist() == [1, 2, 3, 4]
    assert curves["validation"].notna().tolist() == [False, True, False, True]
    assert found.columns is not None
    assert found.columns.x == ("dose", "age")
    assert found.learner.algorithm == meta.MAML(shots=3, steps=4, validation=0.3, every=2)
    again = shelf.load_model(run / "model.py")
    net: Any = again.model
    direct = bm.fit(net, again.tasks(), found.learner.algorithm, seed=5, progress=False)
    assert all(torch.equal(direct.weights[name], found.learner.weights[name]) for name in direct.weights)


@pytest.mark.filterwarnings("default::bayesmeta.BayesmetaWarning")
def test_what_was_learnt_before_an_interruption_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated, steps = Climb.__call__, []

    def interrupted(self: Climb, u: Tensor, part: Part) -> tuple[Tensor, Tensor]:
        steps.append(part.step)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return evaluated(self, u, part)

    monkeypatch.setattr(Climb, "__call__", interrupted)
    (tmp_path / "lines.py").write_text(MODEL)
    (tmp_path / "quick.toml").write_text(PRESET)
    done = called("fit", tmp_path / "lines.py", "-i", tmp_path / "quick.toml", "-o", tmp_path / "run")

    assert done.exit_code == 130, (done.output, done.exception)
    assert "interrupted after 2 of 4 steps" in " ".join(done.stderr.split())
    found = network_runs.open_run(tmp_path / "run").learner
    assert (found.interrupted, found.steps) == (True, 2)


def test_adapt_predicts_the_rows_without_a_response(run: Path, tmp_path: Path) -> None:
    table = tmp_path / "new.csv"
    table.write_text("nurse,line,dose,age,y\nann,new,0,1,1.5\nbob,ghost,1,0,\nann,new,1,0,\ncid,new,2,1,0.5\n")
    done = called("adapt", run, "--data", table, "--out", tmp_path / "out.csv")
    assert done.exit_code == 0, (done.output, done.exception)
    given, frame = pd.read_csv(table), pd.read_csv(tmp_path / "out.csv")
    learner = network_runs.open_run(run).learner
    known = bm.Tasks.from_lists([[[0.0, 1.0], [2.0, 1.0]]], [[1.5, 0.5]], names=["new"])
    expected = learner.adapt(known).predict(torch.tensor([[1.0, 0.0]]))

    assert "ghost" in done.stdout
    pd.testing.assert_frame_equal(frame[given.columns], given)
    assert frame["mean"].notna().tolist() == [False, True, True, False]
    assert frame["mean"][2] == pytest.approx(float(expected.mean), rel=1e-5)
    assert frame["upper"][2] - frame["lower"][2] == pytest.approx(2 * 1.6449 * float(expected.sd), rel=1e-3)


def test_what_a_run_of_a_network_cannot_do_it_says(run: Path, tmp_path: Path) -> None:
    table = tmp_path / "new.csv"
    table.write_text("line,dose,y\nnew,0,1\n")

    assert "is of a network; a report is of the posterior of a hierarchy" in refused("report", run)
    assert "'age'" in refused("adapt", run, "-d", table, "-o", tmp_path / "out.csv")
    assert "is a network, without p(φ)" in refused("check", run / "model.py", "-n", 3)
    assert "a network is for the algorithms of bayesmeta.meta" in refused(
        "fit", run / "model.py", "-o", tmp_path / "other"
    )
    without = (run / "run.toml").read_text().partition("[columns]")[0]
    (run / "run.toml").write_text(without)
    assert "was not learnt from a data frame" in refused("adapt", run, "-d", table, "-o", tmp_path / "out.csv")
    (run / "run.toml").write_text("no toml at all")
    assert "not TOML" in refused("adapt", run, "-d", table, "-o", tmp_path / "out.csv")
    (run / "curves.csv").unlink()
    assert "has no curves.csv" in refused("adapt", run, "-d", table, "-o", tmp_path / "out.csv")


def test_a_model_file_has_a_hierarchy_or_a_network(tmp_path: Path) -> None:
    path = tmp_path / "lines.py"
    path.write_text(MODEL)
    state = torch.get_rng_state()
    first, second = shelf.load_model(path), shelf.load_model(path)

    assert torch.equal(torch.get_rng_state(), state)
    assert first.is_network
    assert shelf.is_network(path)
    assert isinstance(first.model, nn.Module)
    assert isinstance(second.model, nn.Module)
    assert torch.equal(first.model.state_dict()["0.weight"], second.model.state_dict()["0.weight"])
    with pytest.raises(HierarchyError, match=r"lines\.py: is a network, without p\(φ\) and p\(θ \| φ\)"):
        _ = first.hierarchy
    path.write_text(MODEL.replace("net = nn.Seq", "net = list or nn.Seq"))
    with pytest.raises(FileFormatError, match=r"'net' is of type type; wanted, at module level, net = a torch\.nn"):
        shelf.load_model(path)
    path.write_text(MODEL.replace('settings = {"shots": 3}', "settings = 3"))
    with pytest.raises(FileFormatError, match="'settings' is of type int; wanted a dict"):
        shelf.load_model(path)
    path.write_text(MODEL + "\nhierarchy = bm.families.bnn(net, inputs=2)\n")
    assert not shelf.is_network(path)
    assert not shelf.load_model(path).is_network


def test_what_a_network_holds_besides_weights_is_kept(tmp_path: Path) -> None:
    def normed() -> nn.Module:
        return nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))

    net = normed()
    net(torch.randn(50, 1))
    learner = bm.fit(net.eval(), waves(), meta.MAML(**FEW), progress=False)
    learner.save(tmp_path / "normed.npz")
    again = meta.load(tmp_path / "normed.npz", normed().eval())
    x = torch.linspace(-2, 2, 5)
    assert torch.equal(again.adapt(waves()).predict(x).mean, learner.adapt(waves()).predict(x).mean)


def test_a_network_of_other_layers_is_said_to_be_another(tmp_path: Path) -> None:
    bm.fit(network(), waves(), meta.MAML(**FEW), progress=False).save(tmp_path / "tanh.npz")
    with pytest.warns(BayesmetaWarning, match=r"was learnt with the network Sequential.*Tanh.*this one is.*ReLU"):
        meta.load(tmp_path / "tanh.npz", nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1)))


def test_a_checkpoint_of_other_layers_or_of_another_stream_is_refused(tmp_path: Path) -> None:
    kept = meta.MAML(checkpoint=str(tmp_path / "here.npz"), **FEW)
    bm.fit(network(), waves(), kept, progress=False)
    with pytest.raises(FileFormatError, match=r"layers was.*Tanh.*and is.*ReLU"):
        bm.fit(nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1)), waves(), kept, progress=False)

    again = meta.MAML(checkpoint=str(tmp_path / "stream.npz"), **FEW)
    bm.fit(network(), bm.Stream(lambda seed: waves(), validation=waves(4)), again, progress=False)
    with pytest.raises(FileFormatError, match=r"stream was.*validation"):
        bm.fit(network(), bm.Stream(lambda seed: waves(), validation=waves(3)), again, progress=False)
