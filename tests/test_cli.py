"""The command line: what it writes, what it prints, and how it ends."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import bayesmeta as bm
from bayesmeta import shelf
from bayesmeta.cli import app

MODEL = '''"""A level per site, and one slope for all.

Four sites, five doses each.
"""

import pandas as pd
import pyro
import pyro.distributions as dist
import torch

import bayesmeta as bm


def hyperprior():
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(2.0))
    return mu, tau


def task(phi, x, y=None):
    mu, tau = phi
    level = pyro.sample("level", dist.Normal(mu, tau))
    return pyro.sample("y", dist.Normal(level + 0.5 * x, 0.5).to_event(1), obs=y)


hierarchy = bm.Hierarchy(hyperprior, task)


def load():
    sites = ["A", "B", "C", "D"]
    noise = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).tolist()
    rows = [
        {"site": site, "dose": float(dose), "response": t + 0.5 * dose + 0.5 * noise[t][dose]}
        for t, site in enumerate(sites)
        for dose in range(5)
    ]
    return bm.Tasks.from_frame(pd.DataFrame(rows), task="site", x="dose", y="response")
'''

TINY = ["--draws", "40", "--tune", "40", "--chains", "1"]

# The new task is spread over the table, another one has no response, and one was seen in the fit.
NEW = """nurse,site,dose,response
ann,new,0,5.1
bob,ghost,1,
ann,new,1,
cid,new,2,6.2
cid,B,3,
bob,ghost,0,
ann,new,4,
ann,new,3,6.4
"""


def run(*arguments: object) -> Any:
    """The result of a command line: exit_code, stdout, stderr, exception."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    """What a command line says that ends with exit code 2: one paragraph, on stderr."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1
    return str(result.stderr)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "sites.py"
    path.write_text(MODEL)
    return path


@pytest.fixture(scope="module")
def fitted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of a run, and what the command printed."""
    folder = tmp_path_factory.mktemp("runs") / "sites"
    result = run("fit", model, "--out", folder, "--seed", 3, *TINY)
    assert result.exit_code == 0, (result.output, result.exception)
    return folder, result


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "new.csv"
    path.write_text(NEW)
    return path


# --- fit ---------------------------------------------------------------------------------------------------


def test_fit_writes_a_run(fitted: tuple[Path, Any], model: Path) -> None:
    folder, _ = fitted
    record = tomllib.loads((folder / "run.toml").read_text())
    posterior = bm.load(folder / "posterior.nc", shelf.load_model(folder / "model.py").hierarchy)

    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == [
        "model.py",
        "posterior.nc",
        "run.toml",
        "summary.csv",
    ]
    assert (folder / "model.py").read_text() == model.read_text()
    assert (record["model"], record["seed"], record["back_end"]) == ("sites", 3, "auto")
    assert (record["options"]["draws"], record["options"]["chains"]) == (40, 1)
    assert "bayesmeta" in record["versions"]
    assert posterior.phi["mu"].shape == (40,)
    assert {"mu", "tau"} <= set(pd.read_csv(folder / "summary.csv", index_col=0).index)


def test_fit_prints_the_summary_the_road_and_the_place(fitted: tuple[Path, Any]) -> None:
    folder, result = fitted
    posterior = bm.load(folder / "posterior.nc", shelf.load_model(folder / "model.py").hierarchy)

    assert "tau" in result.stdout
    assert posterior.info.road in result.stdout
    assert "verdict: fine" in result.stdout
    assert f"Written: {folder}" in result.stdout


def test_fit_again_gives_the_same_and_may_be_silent(fitted: tuple[Path, Any], model: Path, tmp_path: Path) -> None:
    folder, _ = fitted

    for _ in range(2):  # an earlier run may be replaced
        result = run("fit", model, "--out", tmp_path / "again", "--seed", 3, "--quiet", *TINY)
        assert (result.exit_code, result.stdout) == (0, "")

    assert (tmp_path / "again" / "summary.csv").read_text() == (folder / "summary.csv").read_text()


def test_fit_takes_a_preset_file(model: Path, tmp_path: Path) -> None:
    preset = tmp_path / "tiny.toml"
    preset.write_text('back_end = "nuts"\n[options]\ndraws = 30\ntune = 30\nchains = 1\nevidence = "joint"\n')

    result = run("fit", model, "--inference", preset, "--out", tmp_path / "run", "--quiet")

    assert result.exit_code == 0, (result.output, result.exception)
    record = tomllib.loads((tmp_path / "run" / "run.toml").read_text())
    assert record["options"]["evidence"] == "joint"


def test_fit_refuses_a_folder_that_is_not_a_run(model: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")

    assert "neither empty nor an earlier run" in refused("fit", model, "--out", tmp_path, *TINY)
    assert "cannot make the folder" in refused("fit", model, "--out", tmp_path / "thesis.tex" / "run", *TINY)


def test_fit_says_what_is_wrong(model: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "run")

    assert "unknown model 'radom'" in refused("fit", "radom", *out)
    assert "did you mean 'radon'?" in refused("fit", "radom", *out)
    assert "no file 'nowhere/mine.py'" in refused("fit", "nowhere/mine.py", *out)
    assert "did you mean 'nuts'?" in refused("fit", model, "--inference", "nutz", *out)
    assert "draws" in refused("fit", model, "--draws", 0, *out)
    assert not (tmp_path / "run").exists()


def test_fit_names_the_line_of_a_broken_model(model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(model.read_text().replace("hierarchy = ", "1 / 0\nhierarchy = "))

    message = refused("fit", broken, "--out", tmp_path / "run")

    assert "broken.py, line 26: ZeroDivisionError" in message


@pytest.mark.parametrize(("raised", "code"), [("KeyboardInterrupt", 130), ("RuntimeError('own')", 1)])
def test_fit_interrupted_and_fit_with_a_bug(model: Path, tmp_path: Path, raised: str, code: int) -> None:
    ours = tmp_path / "ours.py"
    ours.write_text(model.read_text().replace("def load():\n", f"def load():\n    raise {raised}\n"))

    result = run("fit", ours, "--out", tmp_path / "run")

    assert result.exit_code == code
    assert isinstance(result.exception, RuntimeError if code == 1 else SystemExit)


def test_fit_interrupted_while_sampling_keeps_what_was_drawn(
    fitted: tuple[Path, Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posterior = bm.load(fitted[0] / "posterior.nc", shelf.load_model(fitted[0] / "model.py").hierarchy)
    posterior.info = dataclasses.replace(posterior.info, interrupted=True)
    monkeypatch.setattr(bm, "fit", lambda *given, **options: posterior)

    result = run("fit", model, "--out", tmp_path / "run", *TINY)

    assert result.exit_code == 130
    assert (tmp_path / "run" / "posterior.nc").is_file()


# --- adapt -------------------------------------------------------------------------------------------------


def test_adapt_keeps_every_row_and_predicts_the_empty_ones(
    fitted: tuple[Path, Any], table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "there" / "adapted.csv"

    result = run("adapt", fitted[0], "--data", table, "--out", out)

    assert result.exit_code == 0, (result.output, result.exception)
    given, frame = pd.read_csv(table), pd.read_csv(out)
    pd.testing.assert_frame_equal(frame[given.columns], given)
    assert list(frame.columns) == [*given.columns, "mean", "sd", "lower", "upper", "k_hat"]
    empty = given["response"].isna()
    assert frame.loc[empty, ["mean", "sd", "lower", "upper"]].notna().all(axis=None)
    assert frame.loc[~empty, ["mean", "sd", "lower", "upper"]].isna().all(axis=None)
    predicted = frame[empty]
    assert ((predicted["lower"] < predicted["mean"]) & (predicted["mean"] < predicted["upper"])).all()
    assert frame.groupby("site")["k_hat"].nunique(dropna=False).eq(1).all()


def test_adapt_puts_each_prediction_into_its_own_row(fitted: tuple[Path, Any], table: Path, tmp_path: Path) -> None:
    run("adapt", fitted[0], "--data", table, "--out", tmp_path / "out.csv", "--quiet")
    frame = pd.read_csv(tmp_path / "out.csv").set_index(["site", "dose"])
    mean: dict[Any, float] = frame["mean"].to_dict()
    sd: dict[Any, float] = frame["sd"].to_dict()

    posterior = bm.load(fitted[0] / "posterior.nc", shelf.load_model(fitted[0] / "model.py").hierarchy)
    tasks = bm.Tasks.from_lists([[0.0, 2.0, 3.0]], [[5.1, 6.2, 6.4]], names=["new"])
    expected = posterior.adapt(tasks).predict([torch.tensor([1.0, 4.0])]).mean[0].tolist()

    assert mean["new", 4] - mean["new", 1] == pytest.approx(1.5, abs=0.3)
    assert [mean["new", 1], mean["new", 4]] == pytest.approx(expected, abs=0.3)
    assert sd["ghost", 0] > 1.3 * sd["new", 4]
    assert mean["B", 3] == pytest.approx(2.5, abs=1.0)


def test_adapt_prints_a_row_per_task(fitted: tuple[Path, Any], table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"

    loud = run("adapt", fitted[0], "--data", table, "--out", out)
    quiet = run("adapt", fitted[0], "--data", table, "--out", out, "--quiet")

    for word in ("new", "ghost", "k-hat", "level", f"Written: {out}"):
        assert word in loud.stdout
    assert (quiet.exit_code, quiet.stdout) == (0, "")


def test_adapt_narrows_with_the_level(fitted: tuple[Path, Any], table: Path, tmp_path: Path) -> None:
    widths = []
    for level in (0.5, 0.9):
        run("adapt", fitted[0], "--data", table, "--out", tmp_path / "out.csv", "--level", level)
        frame = pd.read_csv(tmp_path / "out.csv").dropna(subset="mean")
        widths.append((frame["upper"] - frame["lower"]).to_numpy())

    assert (widths[0] < widths[1]).all()


def test_adapt_with_nothing_to_predict_gives_k_hat(fitted: tuple[Path, Any], tmp_path: Path) -> None:
    table = tmp_path / "full.csv"
    table.write_text("site,dose,response\n007,0,1.0\n007,1,1.5\n")

    result = run("adapt", fitted[0], "--data", table, "--out", tmp_path / "out.csv")

    assert result.exit_code == 0, (result.output, result.exception)
    frame = pd.read_csv(tmp_path / "out.csv", dtype={"site": str})
    assert frame["site"].tolist() == ["007", "007"]
    assert frame["mean"].isna().all()
    assert frame["k_hat"].notna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("response", "reply"), "unknown column 'response'"),
        (("dose", "amount"), "unknown column 'dose'"),
        (("nurse", "mean"), "has a column 'mean', which the result needs"),
        (("ann,new,4,", "ann,new,,"), "'dose' is NaN in row 8"),
        (("6.2", "high"), "has 'high' in column 'response', line 5"),
        (("cid,new", "cid,"), "row 5"),
    ],
)
def test_adapt_names_what_is_wrong_in_the_table(
    fitted: tuple[Path, Any], table: Path, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    table.write_text(table.read_text().replace(*change))

    assert message in refused("adapt", fitted[0], "--data", table, "--out", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_adapt_keeps_the_table_letter_by_letter(fitted: tuple[Path, Any], tmp_path: Path) -> None:
    table, out = tmp_path / "odd.csv", tmp_path / "out.csv"
    table.write_text("zip,site,dose,response,note\n00123,new,0,5.10,NA\n\n00124,new,1,,1e5\n")

    assert run("adapt", fitted[0], "--data", table, "--out", out, "--quiet").exit_code == 0

    frame = pd.read_csv(out, dtype=str, keep_default_na=False)
    assert frame["zip"].tolist() == ["00123", "00124"]
    assert (frame["response"].tolist(), frame["note"].tolist()) == (["5.10", ""], ["NA", "1e5"])


def test_a_task_written_as_another_number_is_not_taken_for_a_new_one(model: Path, tmp_path: Path) -> None:
    numbered = tmp_path / "numbered.py"
    numbered.write_text(model.read_text().replace('["A", "B", "C", "D"]', "[7.0, 8.0, 9.0, 10.0]"))
    table, out = tmp_path / "new.csv", tmp_path / "out.csv"
    assert run("fit", numbered, "--out", tmp_path / "run", "--quiet", *TINY).exit_code == 0

    table.write_text("site,dose,response\n007,3,\n")
    assert "task '007' is not one of the fit, which has '7'" in refused(
        "adapt", tmp_path / "run", "--data", table, "--out", out
    )
    table.write_text("site,dose,response\n7,3,\n")
    assert run("adapt", tmp_path / "run", "--data", table, "--out", out, "--quiet").exit_code == 0
    assert pd.read_csv(out)["k_hat"].item() == float("-inf")


def test_an_adapted_table_that_cannot_be_written_is_said(fitted: tuple[Path, Any], table: Path, tmp_path: Path) -> None:
    (tmp_path / "out.csv.part").mkdir()

    assert "cannot write" in refused("adapt", fitted[0], "--data", table, "--out", tmp_path / "out.csv")


def test_a_model_that_reads_a_file_beside_itself_is_told_what_a_run_holds(model: Path, tmp_path: Path) -> None:
    reading, table = tmp_path / "reading.py", tmp_path / "new.csv"
    reading.write_text(
        model.read_text() + "\nfrom pathlib import Path\n(Path(__file__).parent / 'x.txt').read_text()\n"
    )
    (tmp_path / "x.txt").write_text("")
    table.write_text(NEW)
    assert run("fit", reading, "--out", tmp_path / "run", "--quiet", *TINY).exit_code == 0

    said = refused("adapt", tmp_path / "run", "--data", table, "--out", tmp_path / "out.csv")
    assert "x.txt" in said
    assert "a copy of the model file" in said


def test_adapt_says_what_is_wrong(fitted: tuple[Path, Any], table: Path, tmp_path: Path) -> None:
    folder, good = fitted[0], ("--data", table, "--out", tmp_path / "out.csv")

    assert "is not a folder; wanted the folder of a run" in refused("adapt", tmp_path / "no", *good)
    assert "has no posterior.nc, summary.csv, model.py, run.toml" in refused("adapt", tmp_path, *good)
    assert "--level: got 90.0" in refused("adapt", folder, *good, "--level", 90)
    assert "is a folder" in refused("adapt", folder, "--data", table, "--out", tmp_path)
    assert "cannot read" in refused("adapt", folder, "--data", tmp_path / "x.csv", "--out", tmp_path / "o.csv")
    assert "method" in refused("adapt", folder, *good, "--method", "magic")


# --- gallery, presets, help --------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "command"), [("model", "models"), ("preset", "presets")])
def test_the_shelf_is_listed_and_copied(kind: shelf.Kind, command: str, tmp_path: Path) -> None:
    listed = run(command)
    name = shelf.names(kind)[0]
    copied = run(command, "copy", name, "--to", tmp_path)

    assert listed.exit_code == 0
    assert all(each in listed.stdout for each in shelf.names(kind))
    assert copied.exit_code == 0
    assert Path(copied.stdout.strip()).read_text() == shelf.path_of(kind, name).read_text()
    assert "exists already" in refused(command, "copy", name, "--to", tmp_path)
    assert f"unknown {kind} 'none'" in refused(command, "copy", "none")


@pytest.mark.parametrize("command", [["fit"], ["adapt"], ["models"], ["presets"]])
def test_help_has_examples(command: list[str]) -> None:
    result = run(*command, "--help")

    assert result.exit_code == 0
    assert "Examples" in result.stdout
    assert f"bayesmeta {command[0]}" in result.stdout


def test_version_and_bad_usage() -> None:
    assert run("--version").stdout.startswith("bayesmeta 0.")
    assert run("--help").exit_code == 0
    assert run("fot").exit_code == 2
    assert run("adapt", "runs/x").exit_code == 2


def test_rows_with_more_cells_than_names_are_refused(fitted: tuple[Path, Any], tmp_path: Path) -> None:
    table, out = tmp_path / "new.csv", tmp_path / "out.csv"
    table.write_text("site,dose,response\nnew,0,5.1,\nnew,1,,\n", encoding="utf-8")
    said = refused("adapt", fitted[0], "--data", table, "--out", out, "--quiet")
    assert "have more cells than its first line has names" in " ".join(said.split())


def test_a_run_in_the_folder_of_a_networks_run_takes_its_place(model: Path, tmp_path: Path) -> None:
    net = tmp_path / "net.py"
    net.write_text(
        "import bayesmeta as bm\nfrom torch import nn\nnet = nn.Linear(1, 1)\n"
        "def load():\n    return bm.data.MAMLSines().tasks(4, shots=8)\n"
    )
    preset = tmp_path / "tiny.toml"
    preset.write_text('back_end = "maml"\n[options]\nsteps = 2\n')
    folder = tmp_path / "run"
    assert run("fit", net, "--inference", preset, "--out", folder, "--quiet").exit_code == 0
    assert run("fit", model, "--out", folder, "--quiet", *TINY).exit_code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["model.py", "posterior.nc", "run.toml", "summary.csv"]
    assert run("fit", net, "--inference", preset, "--out", folder, "--quiet").exit_code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["curves.csv", "learner.npz", "model.py", "run.toml"]


def test_a_run_keeps_the_model_as_it_was_when_it_was_loaded(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MODEL)
    found = shelf.load_model(path)
    path.write_text("changed")
    assert found.source.decode() == MODEL


def test_a_posterior_makes_the_folder_it_is_saved_in(fitted: tuple[Path, Any], tmp_path: Path) -> None:
    posterior = bm.load(fitted[0] / "posterior.nc", shelf.load_model(fitted[0] / "model.py").hierarchy)
    posterior.save(tmp_path / "new" / "folder" / "sites.nc")
    assert (tmp_path / "new" / "folder" / "sites.nc").is_file()


def test_a_table_that_goes_on_from_that_of_the_fit_counts_no_row_twice(fitted: tuple[Path, Any]) -> None:
    posterior = bm.load(fitted[0] / "posterior.nc", shelf.load_model(fitted[0] / "model.py").hierarchy)
    old = posterior.tasks["A"]
    longer = bm.Tasks.from_lists([[*old.x.tolist(), 5.0]], [[*old.y.tolist(), 3.0]], names=["A"])
    assert posterior.adapt(longer).tasks.sizes.tolist() == [old.n + 1]
    only = bm.Tasks.from_lists([[5.0]], [[3.0]], names=["A"])
    assert torch.equal(posterior.adapt(only).theta["level"], posterior.adapt(longer).theta["level"])
