"""`bayesmeta compare`: runs of hierarchies and of networks, on a table or on what the model file holds out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bayesmeta as bm
from bayesmeta import shelf
from bayesmeta.compare.held import held_of
from bayesmeta.errors import FileFormatError
from tests.test_cli import refused, run

HEAD = """import numpy as np
import pandas as pd
from torch import nn

import bayesmeta as bm


def table(seed, count):
    rng = np.random.default_rng(seed)
    frames = []
    for k in range(count):
        x = rng.uniform(-1, 1, 9)
        y = rng.normal(1, 1) + 2 * x + rng.normal(0, 0.3, 9)
        frames.append(pd.DataFrame({"site": f"{seed}-{k}", "dose": x, "response": y}))
    return pd.concat(frames)


def load():
    return bm.Tasks.from_frame(table(0, 15), task="site", x="dose", y="response")

"""
NETWORK = f"{HEAD}\nnet = nn.Linear(1, 1).double()\n\n\ndef held_out():\n    return bm.data.DKTSines()\n"
HIERARCHY = f"{HEAD}\nhierarchy = bm.families.linear(load())\n"
MAML = 'back_end = "maml"\n\n[options]\nshots = 3\ninner_steps = 1\ninner_learning_rate = 0.1\nsteps = 3\n'


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of two runs, of a network and of a hierarchy."""
    folder = tmp_path_factory.mktemp("compared")
    (folder / "network.py").write_text(NETWORK)
    (folder / "hierarchy.py").write_text(HIERARCHY)
    (folder / "maml.toml").write_text(MAML)
    made = {"network": folder / "maml.toml", "hierarchy": "laplace"}
    for name, inference in made.items():
        done = run("fit", folder / f"{name}.py", "--inference", inference, "--out", folder / name, "-q")
        assert done.exit_code == 0, (done.output, done.exception)
    return folder / "network", folder / "hierarchy"


@pytest.fixture
def new(tmp_path: Path) -> Path:
    rng = np.random.default_rng(7)
    x = rng.uniform(-1, 1, (6, 8)).round(3)
    y = (rng.normal(1, 1, (6, 1)) + 2 * x + rng.normal(0, 0.3, (6, 8))).round(3)
    table = pd.DataFrame({"site": np.repeat(list("abcdef"), 8), "dose": x.reshape(-1), "response": y.reshape(-1)})
    table.loc[table.index[-1], "response"] = np.nan
    table.to_csv(tmp_path / "new.csv", index=False)
    return tmp_path / "new.csv"


@pytest.mark.changes_rng  # fits of networks and hierarchies
def test_runs_are_compared_on_a_table(runs: tuple[Path, Path], new: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.npz"
    result = run("compare", *runs, "--data", new, "--shots", "1,4", "--out", out, "--level", 0.8)

    assert result.exit_code == 0, (result.output, result.exception)
    found = bm.Comparison.load(out)
    assert found.learners == ("network", "hierarchy")
    assert found.shots == (1, 4)
    table = pd.read_csv(out.with_suffix(".csv"), index_col=[0, 1])
    assert table["rmse"].to_numpy() == pytest.approx(found.table["rmse"].to_numpy())
    assert found["hierarchy", 4]["rmse"] < found["network", 4]["rmse"]
    assert out.with_suffix(".png").stat().st_size > 5000
    assert "hierarchy" in result.stdout
    again = run("compare", *runs, "--data", new, "--shots", "1,4", "--out", out, "--level", 0.8, "-q")
    assert (again.exit_code, again.stdout) == (0, "")


@pytest.mark.changes_rng
def test_what_the_model_file_holds_out_has_an_optimum_beside(runs: tuple[Path, Path]) -> None:
    result = run("compare", runs[0], "--shots", "2", "--count", 20)

    assert result.exit_code == 0, (result.output, result.exception)
    assert "optimum" in result.stdout
    assert "network" in result.stdout


@pytest.mark.changes_rng
def test_what_cannot_be_compared_is_said(runs: tuple[Path, Path], new: Path, tmp_path: Path) -> None:
    network, hierarchy = runs
    assert "has no function held_out()" in refused("compare", hierarchy)
    assert "wanted whole numbers with commas between" in refused("compare", network, "--shots", "1;2")
    assert "each once" in refused("compare", network, network)
    assert "wanted a file that ends in .npz" in refused("compare", network, "--out", tmp_path / "found.csv")
    assert "is not a folder" in refused("compare", tmp_path / "none")
    assert "--shots" not in refused("compare", network, "--data", new, "--shots", "8")
    assert "fewer than the 9 that 8 shots" in refused("compare", network, "--data", new, "--shots", "8")
    new.write_text("site,dose\na,1\n")
    assert "response" in refused("compare", network, "--data", new)


def test_a_table_beside_the_comparison_is_not_written_over(runs: tuple[Path, Path], new: Path) -> None:
    before = new.read_text()

    said = refused("compare", *runs, "--data", new, "--shots", "2", "--out", new.with_suffix(".npz"))

    assert "is there already" in said
    assert new.read_text() == before


@pytest.mark.parametrize(
    "name", [name for name in shelf.names("model") if shelf.is_network(shelf.path_of("model", name))]
)
def test_networks_of_the_gallery_hold_tasks_out(name: str) -> None:
    file = shelf.load_model(name)
    assert file.held_out is not None
    found = held_of(file.held_out(), 1, count=2, ways=5, query=1, by_class=None, seed=0)
    trained = file.data()
    batch = trained.batch(0) if isinstance(trained, bm.Stream) else trained

    assert found.support.x.shape[1:] == batch.x.shape[1:]
    assert found.ways == (None if name == "sines" else 5)


def test_what_holds_tasks_out_is_a_function(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(f"{HEAD}\nnet = nn.Linear(1, 1)\nheld_out = 3\n")
    with pytest.raises(FileFormatError, match="'held_out' is of type int; wanted a function without arguments"):
        shelf.load_model(tmp_path / "odd.py")
