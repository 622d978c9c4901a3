"""The demonstration: what it hides, how it judges, what it writes and prints, and how it ends."""

from __future__ import annotations

import base64
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

import bayesmeta as bm
from bayesmeta import shelf
from bayesmeta.demo import Result, Round, Setting, experiment, run, show, tables, write
from bayesmeta.demo.__main__ import app
from bayesmeta.demo.result import inside
from bayesmeta.errors import OptionError

MODEL = '''"""Wells: a level per well, which the depth tells in part."""

import pandas as pd
import pyro
import pyro.distributions as dist
import torch

import bayesmeta as bm


def hyperprior():
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(2.0))
    return mu, tau


def task(phi, x, y=None, *, depth):
    mu, tau = phi
    level = pyro.sample("level", dist.Normal(mu + 0.1 * depth, tau))
    return pyro.sample("y", dist.Normal(level + 0.5 * x, 0.3).to_event(1), obs=y)


hierarchy = bm.Hierarchy(hyperprior, task)


def load():
    generator = torch.Generator().manual_seed(4)
    rows = []
    for t in range(12):
        level = float(2.0 * torch.randn((), generator=generator))
        for dose in range(5 + t):
            noise = float(torch.randn((), generator=generator))
            rows.append({"well": f"<{t}>", "dose": dose, "depth": t, "found": level + 0.5 * dose + 0.3 * noise})
    return bm.Tasks.from_frame(pd.DataFrame(rows), task="well", x="dose", y="found", context="depth")
'''

TINY = bm.NUTS(draws=150, tune=150, chains=2, compile=False)


@pytest.fixture(scope="module")
def wells(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "wells.py"
    path.write_text(MODEL, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def result(wells: str) -> Result:
    setting = Setting(wells, TINY, hidden=3, rounds=2, seed=1)
    return Result(setting, run(setting))


class _Page(HTMLParser):
    """Tags that are still open at the end, images, and pieces of text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        elif tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_each_round_hides_other_tasks_from_its_fit(result: Result) -> None:
    tasks = shelf.load_model(result.setting.model).tasks()
    hidden = [set(one.query.names) for one in result.rounds]

    assert [len(names) for names in hidden] == [3, 3]
    assert not hidden[0] & hidden[1]
    for one, names in zip(result.rounds, hidden, strict=True):
        assert set(one.posterior.tasks.names) == set(tasks.names) - names
        assert one.adapted.tasks.sizes.tolist() == [3, 3, 3]
        assert (one.adapted.tasks.sizes + one.query.sizes).tolist() == [tasks[name].n for name in one.query.names]
        assert all(tasks[name].n >= 7 for name in names)


def test_the_few_observations_help_where_tasks_differ(result: Result) -> None:
    scores = result.scores()

    assert scores["coverage"].isna().tolist() == [False, False, True]
    assert scores["rmse"]["both"] < 0.5 * scores["rmse"]["population"]
    assert scores["width"]["both"] < 0.5 * scores["width"]["population"]
    gain, error = result.gain()
    assert gain == pytest.approx(scores["log_score"]["both"] - scores["log_score"]["population"])
    assert gain > 4 * error > 0


def test_coverage_is_that_of_the_intervals_and_drops_for_wrong_ones(result: Result) -> None:
    frame = result.frame("both")
    count = len(frame)
    assert count == sum(one.query.n_observations for one in result.rounds)
    coverage = result.scores()["coverage"]["both"]
    assert abs(coverage - 0.9) < 4 * math.sqrt(0.9 * 0.1 / count)

    width = frame["upper"] - frame["lower"]
    narrow = frame.assign(lower=frame["mean"] - width / 20, upper=frame["mean"] + width / 20)
    shifted = frame.assign(y=frame["y"] + 2 * width)
    assert inside(narrow).mean() < 0.5
    assert inside(shifted).mean() == 0


def test_the_standard_error_of_the_gain_is_taken_over_tasks(result: Result) -> None:
    def round_with(difference: list[float]) -> Round:
        zero = pd.DataFrame({"task": ["A", "A", "B", "B"], "log_prob": 0.0})
        first = result.first
        ways = {"both": zero.assign(log_prob=difference), "population": zero}
        return Round(first.posterior, first.adapted, first.query, ways, first.seconds)

    together = Result(result.setting, [round_with([1.0, 1.0, 0.0, 0.0])])
    apart = Result(result.setting, [round_with([1.0, 0.0, 1.0, 0.0])])
    assert together.gain() == (0.5, 0.5)
    assert apart.gain() == (0.5, 0.0)


def test_the_folder_has_a_page_with_its_pictures_in_it(result: Result, tmp_path: Path) -> None:
    files = write(result, tmp_path / "new" / "folder")

    assert {file.name for file in files} == {
        "index.html",
        "predictions.csv",
        "predictions.png",
        "shrinkage.png",
        "shrinkage_depth.png",
    }
    assert all(file.is_file() for file in files)
    text = files[0].read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert len(page.images) == 3
    for image in page.images:
        kind, _, data = str(image["src"]).partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data)[:8] == b"\x89PNG\r\n\x1a\n"
        assert len(str(image["alt"])) > 40
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert 'name="viewport"' in text
    shown = tables.scores(result)
    assert {shown.title, *shown.head, *(cell for row in shown.rows for cell in row)} <= set(page.text)
    assert all(name in "".join(page.text) for name in result.first.query.names)  # "<4>": escaped, so shown


def test_the_table_of_predictions_has_every_hidden_observation(result: Result, tmp_path: Path) -> None:
    write(result, tmp_path)
    table = pd.read_csv(tmp_path / "predictions.csv")

    truth = [value for one in result.rounds for value in one.query.y.tolist()]
    assert table["y"].tolist() == pytest.approx(truth)
    assert ((table["lower"] < table["mean"]) & (table["mean"] < table["upper"])).all()


def test_the_tables_on_the_terminal_fit_80_columns(result: Result) -> None:
    console = Console(width=80, record=True, quiet=False, file=None)
    with console.capture() as captured:
        show(result, console)
    text = captured.get()

    assert "population and 3 observations" in text
    assert "standard error" in text
    assert "the draws are" in text
    assert "…" not in text
    for name in result.first.query.names:
        assert f"{name} ({result.first.query[name].n})" in text
    assert result.rounds[1].query.names[0] not in text


def test_the_same_seed_hides_the_same() -> None:
    tasks = shelf.load_model("radon").tasks()
    chosen = [experiment._choose(tasks, Setting(seed=seed)) for seed in (0, 0, 1)]

    assert chosen[0] == chosen[1] != chosen[2]
    assert [len(names) for names in chosen[0]] == [5]
    assert [len(names) for names in experiment._choose(tasks, Setting(rounds=99))] == [5, 5, 5, 5, 5, 5, 4]


def test_too_few_tasks_to_hide_is_an_error(wells: str) -> None:
    with pytest.raises(OptionError, match=r"5 tasks with at least 7 observations are wanted.*'eight_schools' has 0"):
        run(Setting("eight_schools"))
    with pytest.raises(OptionError, match=r"12 tasks with at least 2 .* has 12 such among 12"):
        run(Setting(wells, hidden=12, support=1, least=2))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"support": 7}, r"least must exceed support \(7\), got 7"),
        ({"level": 1.0}, "level must lie between 0 and 1, got 1.0"),
    ],
)
def test_a_setting_that_makes_no_sense_is_an_error(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Setting(**wrong)  # type: ignore[arg-type]


def test_the_command_runs_to_its_page(wells: str, tmp_path: Path) -> None:
    preset = tmp_path / "tiny.toml"
    preset.write_text('back_end = "nuts"\n[options]\ndraws = 60\ntune = 60\nchains = 2\ncompile = false\n')
    out = tmp_path / "out"
    asked = ["--out", str(out), "--model", wells, "--inference", str(preset), "--hidden", "2", "--support", "2"]
    done = CliRunner().invoke(app, asked)

    assert done.exit_code == 0, done.output
    assert "Written:" in done.output
    assert (out / "index.html").is_file()


def test_bad_input_is_one_paragraph_and_exit_code_2(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    for asked, message in [
        (["--model", "rado"], "did you mean 'radon'?"),
        (["--out", str(blocked)], "cannot make the folder"),
        (["--support", "0"], "support must be at least 1"),
    ]:
        done = CliRunner().invoke(app, ["--out", str(tmp_path / "out"), *asked])
        assert done.exit_code == 2
        assert message in done.stderr
        assert "Traceback" not in done.output


def test_ctrl_c_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "fit", interrupted)
    done = CliRunner().invoke(app, ["--out", str(tmp_path)])

    assert done.exit_code == 130
    assert "nothing was written" in done.stderr
    assert list(tmp_path.iterdir()) == []
