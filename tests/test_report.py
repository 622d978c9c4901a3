"""The report: what it says is so, what does not apply is said, and nothing of a user's text becomes markup."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import bayesmeta as bm
from bayesmeta import shelf
from bayesmeta.cli import app
from bayesmeta.errors import NotAvailableError, OptionError
from bayesmeta.report import SECTIONS, _written, as_page, calibrating, checking, leaving, shrinking
from bayesmeta.report.formula import formula
from bayesmeta.report.html import Section, page, table
from bayesmeta.report.story import as_html, story_of, title_of
from bayesmeta.report.subject import Subject, lighter
from tests.scenarios import normal_normal

QUICK = bm.Laplace(draws=400)


def hyperprior() -> dict[str, Tensor]:
    return {
        "mu": pyro.sample("mu", dist.Normal(torch.tensor([0.0, 1.0]), 2.0).to_event(1)),
        "tau": pyro.sample("tau", dist.HalfNormal(1.0)),
        "beta": pyro.sample("beta", dist.Normal(0.0, 1.0)),
    }


def task(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None, *, old: Tensor) -> Tensor:
    mean = torch.where(old > 0, phi["mu"][0], phi["mu"][1])
    theta = pyro.sample("theta", dist.Normal(mean, phi["tau"]))
    loc = theta + phi["beta"] * x[:, 0] + 0.0 * x[:, 1]
    return pyro.sample("y", dist.Normal(loc, 0.5).to_event(1), obs=y)


@cache
def subject(story: str = "") -> Subject:
    """Tasks named as markup, with a context and an input that the model does not use."""
    rng = np.random.default_rng(3)
    sizes = [1, 2, 3, 5, 5, 8, 3, 2]
    xs = [rng.normal(size=(n, 2)) for n in sizes]
    ys = [rng.normal() + x[:, 0] + 0.5 * rng.normal(size=len(x)) for x in xs]
    names = [f"<b>{k}</b> & co" for k in range(len(sizes))]
    tasks = bm.Tasks.from_lists(xs, ys, names=names, context={"old": [k % 2 for k in range(len(sizes))]})
    posterior = bm.fit(bm.Hierarchy(hyperprior, task), tasks, QUICK, progress=False)
    return Subject(posterior, story, 0)


@cache
def schools(evidence: Literal["auto", "joint"] = "auto") -> bm.Posterior:
    scenario = normal_normal()
    return bm.fit(scenario.hierarchy, scenario.tasks, replace(QUICK, evidence=evidence), progress=False)


class Reader(HTMLParser):
    """Tags that stay open, images, headings, addresses and all text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.anchors: list[str] = []
        self.links: list[str] = []
        self.pieces: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img":
            self.images.append(given)
        elif tag not in ("meta", "link", "br", "path"):
            self.open.append(tag)
        if tag == "h2":
            self.anchors.append(str(given["id"]))
        if tag == "a":
            self.links.append(str(given["href"]))

    def handle_endtag(self, tag: str) -> None:
        if tag != "path":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)


# --- the page -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written() -> str:
    """The page of `subject`, with a title and a story that try to be markup."""
    before = plt.figure()
    text = as_page(subject("Wells <i>deep</i>\n\nOf <b>all</b> kinds.").posterior, title="<u>Wells</u>")
    assert plt.get_fignums() == [before.number], "pictures leave nothing behind"
    assert plt.gcf() is before
    plt.close(before)
    return text


def test_a_page_has_every_section_its_pictures_and_nothing_from_elsewhere(written: str) -> None:
    read = Reader(written)

    assert read.open == []
    assert read.anchors == [anchor for anchor, _, _ in SECTIONS]
    assert read.links == [f"#{anchor}" for anchor in read.anchors]
    assert 'lang="en"' in written
    assert 'name="viewport"' in written
    assert len(read.images) >= 7
    for image in read.images:
        kind, _, data = str(image["src"]).partition(";base64,")
        magic = {"data:image/svg+xml": b"<?xml", "data:image/png": b"\x89PNG"}[kind]
        assert base64.b64decode(data).startswith(magic)
        assert len(str(image["alt"])) > 30
    assert not re.search(r'(src|href)="(?!data:|#)', written)
    assert "<script" not in written
    assert len(written) < 2_000_000
    assert "Not shown" not in written


def test_what_a_user_wrote_is_text_and_no_markup(written: str) -> None:
    assert "<b>0" not in written
    assert "<u>" not in written
    assert "<b>0</b> & co" in Reader(written).text
    assert "<u>Wells</u>" in Reader(written).text


def test_the_seed_decides_what_is_drawn() -> None:
    def drawn(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return checking.replicate(replace(subject(), seed=seed), subject().tasks)

    assert np.array_equal(drawn(1), drawn(1))
    assert not np.array_equal(drawn(1), drawn(2))


def test_names_with_dollars_are_no_formulas(tmp_path: Path) -> None:
    from tests.test_plot_house import DOLLARS, in_dollars

    page = in_dollars().report(tmp_path / "page.html", progress=False).read_text(encoding="utf-8")

    assert DOLLARS in page


def test_a_table_and_a_page_of_its_own() -> None:
    made = Reader(page("A & B", [], [Section("one", "One", (table(("a", "b"), [("<x>", "1")], numbers=(1,)),))]))

    assert made.open == []
    assert made.links == []
    assert "A & B" in made.text
    assert "<x>" in made.text


# --- the model in words and formula -----------------------------------------------------------------------------


def test_the_formula_says_what_each_parameter_is_made_of() -> None:
    lines = {line.name: line for line in formula(subject().posterior)}

    assert lines["mu"].distribution == "Normal((0, 1), 2)"
    assert lines["tau"].distribution == "HalfNormal(1)"
    assert lines["theta"].distribution == "Normal(loc(mu), tau)"
    assert lines["y"].distribution == "Normal(loc(beta, theta, x[0]), 0.5)"
    assert (lines["mu"].shape, lines["tau"].support) == ("2", "positive")
    assert [line.level for line in formula(subject().posterior)] == ["phi", "phi", "phi", "theta", "observed"]


def test_a_parameter_that_is_a_site_or_a_context_is_named() -> None:
    lines = {line.name: line.distribution for line in formula(schools())}

    assert lines == {
        "mu": "Normal(0, 5)",
        "tau": "HalfNormal(4)",
        "theta": "Normal(mu, tau)",
        "y": "Normal(theta, sigma)",
    }


STORY = """Wells: how deep is the water?

A task is a well
in a village.

    theta_t ~ Normal(0, 1)
      y_ti  ~ Normal(theta_t, 1)

Gelman, A. and Hill, J. (2007). Data Analysis,
chapter 12.
Rubin, D. B. (1981). Estimation.
"""


def test_a_story_is_told_by_paragraphs_formulas_and_references() -> None:
    parts = as_html(STORY)

    assert title_of(STORY) == "Wells: how deep is the water?"
    assert parts[1] == "<p>A task is a well in a village.</p>"
    assert parts[2] == '<pre tabindex="0">theta_t ~ Normal(0, 1)\n  y_ti  ~ Normal(theta_t, 1)</pre>'
    assert parts[3:] == [
        "<p>Gelman, A. and Hill, J. (2007). Data Analysis, chapter 12.</p>",
        "<p>Rubin, D. B. (1981). Estimation.</p>",
    ]


def test_the_story_is_that_of_the_model_file_and_not_of_any_other_module(tmp_path: Path) -> None:
    made = tmp_path / "made.py"
    made.write_text('"""Plates of seeds."""\nimport bayesmeta as bm\nhierarchy = bm.families.gp()\nload = print\n')

    assert story_of(shelf.load_model("eight_schools").hierarchy).startswith("Eight schools: ")
    assert story_of(shelf.load_model(made).hierarchy) == "Plates of seeds.", "functions from elsewhere"
    assert story_of(subject().posterior.hierarchy) == "", "not the docstring of the tests"


def test_a_notebook_has_no_docstring_of_its_own() -> None:
    source = (
        "def hyperprior(): ...\n\ndef task(phi, x, y=None):\n    'One plot.'\n\nhierarchy = Hierarchy(hyperprior, task)"
    )
    cell: dict[str, Any] = {"__doc__": "Automatically created module", "Hierarchy": bm.Hierarchy}
    exec(source, cell)
    in_a_file = {**cell, "__file__": "plots.py"}
    exec(source, in_a_file)

    assert story_of(cell["hierarchy"]) == "One plot."
    assert story_of(in_a_file["hierarchy"]) == "Automatically created module"


# --- checks that can fail ---------------------------------------------------------------------------------------


def test_data_of_another_kind_have_small_tail_probabilities() -> None:
    one = subject()
    anew = checking.replicate(one, one.tasks)
    observed = one.tasks.y.numpy()

    def tails(y: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> dict[str, float]:
        return {row[0]: float(row[4]) for row in checking.statistics(y, anew, one.tasks)}

    assert anew.shape == (400, one.tasks.n_observations)
    right, shifted, wide = tails(observed), tails(observed + 3), tails(5 * observed)
    assert min(right.values()) > 0.02
    assert shifted["mean"] == 0.0
    assert shifted["standard deviation"] == right["standard deviation"]
    assert wide["standard deviation"] == wide["standard deviation within tasks"] == 0.0


def test_statistics_are_those_of_the_kind_of_observations() -> None:
    tasks = bm.Tasks.from_lists(None, [[0.0, 1.0], [1.0], [1.0, 0.0, 0.0]])
    rng = np.random.default_rng(0)
    binary = [row[0] for row in checking.statistics(tasks.y.numpy(), rng.integers(0, 2, (50, 6)).astype(float), tasks)]
    counts = [row[0] for row in checking.statistics(4 * tasks.y.numpy(), rng.poisson(2, (50, 6)).astype(float), tasks)]

    assert binary == ["share of ones", "standard deviation of the tasks' means"]
    assert "share of zeros" in counts


@cache
def with_a_stranger() -> bm.Posterior:
    """Nine tasks near zero and one at six."""

    def hyperprior() -> tuple[Tensor, Tensor]:
        return pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfNormal(2.0))

    def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(*phi))
        return pyro.sample("y", dist.Normal(theta, 1.0).expand([len(x)]).to_event(1), obs=y)

    rng = np.random.default_rng(1)
    ys = [rng.normal(size=4) for _ in range(9)] + [rng.normal(size=4) + 3.0]
    tasks = bm.Tasks.from_lists(None, ys, names=[*"abcdefghi", "far"])
    return bm.fit(bm.Hierarchy(hyperprior, task), tasks, bm.Laplace(draws=4000), progress=False)


def test_a_task_is_placed_as_a_fit_without_it_places_it() -> None:
    posterior = with_a_stranger()
    one = Subject(posterior, "", 0)
    found = calibrating.score_of_new_tasks(one, posterior.tasks)
    without = bm.fit(posterior.hierarchy, posterior.tasks.without("far"), bm.Laplace(draws=4000), progress=False)
    new = bm.Tasks.without_observations(["new"], like=posterior.tasks)
    far = [posterior.tasks["far"].y]
    x = [torch.zeros(4, 0)]
    truth = bm.score(without.adapt(new).predict(x), far)
    seen = bm.score(posterior.adapt(new).predict(x), far)

    def apart(one: bm.Score, of: bm.Score) -> float:
        return float((one.pit[-4:] - of.pit[-4:]).abs().max())

    def lost(one: bm.Score) -> float:
        return float(one.per_task["nll"].iloc[-1])

    assert apart(found, truth) < 0.4 * apart(seen, truth), "φ is that of the others, not of all"
    assert abs(lost(found) - lost(truth)) < 0.4 * abs(lost(seen) - lost(truth))
    assert apart(seen, truth) > 0.05


def test_leaving_out_names_what_the_draws_cannot_tell() -> None:
    section = leaving.section(Subject(with_a_stranger(), "", 0))
    k_hat = np.array([0.1, 0.9, np.nan])

    assert "adds up to" in section.parts[0]
    assert leaving._trust(["a", "b", "c"], k_hat, 0.7).startswith("For b, c the draws cannot tell it well")
    assert "every task" in leaving._trust(["a"], k_hat[:1], 0.7)


# --- what does not apply is said ----------------------------------------------------------------------------------


def test_after_a_joint_fit_two_sections_say_why_they_are_empty() -> None:
    one = Subject(schools("joint"), "", 0)
    loo, calibration = leaving.section(one), calibrating.section(one)

    assert len(loo.parts) == len(calibration.parts) == 1
    assert "Not shown: θ was sampled together with φ" in loo.parts[0]
    assert "posterior.loo() does it" in loo.parts[0]
    assert "Not shown: θ was sampled together with φ" in calibration.parts[0]


def test_one_task_is_enough_for_a_page() -> None:
    posterior = subject().posterior
    alone = bm.fit(posterior.hierarchy, posterior.tasks[[5]], QUICK, progress=False)
    read = Reader(as_page(alone))

    assert read.anchors == [anchor for anchor, _, _ in SECTIONS]
    assert read.text.startswith("A population of 1 task")
    assert "with fewer than three tasks there is no population" in read.text


def test_what_point_estimates_cannot_say_is_said() -> None:
    posterior = subject().posterior
    point = bm.fit(posterior.hierarchy, posterior.tasks, "svi-map", progress=False)
    found = _written(Subject(point, "", 0), "loo", "Leave one task out", leaving.section, lambda: None)

    assert found.title == "Leave one task out"
    assert "φ is a single point here, which was moved without each task by Newton steps" in found.parts[0]
    assert len(found.parts) == 2  # words and a table, but no picture of k-hats that there are not


def test_tasks_without_a_parameter_of_their_own_say_so() -> None:
    x = np.linspace(0, 1, 6)
    tasks = bm.Tasks.from_lists([x, x], [np.sin(x), np.cos(x)])
    posterior = bm.fit(bm.families.gp(), tasks, bm.Laplace(draws=50), progress=False)

    assert "have no θ of their own" in shrinking.section(Subject(posterior, "", 0)).parts[0]


@cache
def many(count: int) -> Subject:
    rng = np.random.default_rng(0)
    tasks = bm.Tasks.from_arrays(None, rng.normal(size=(count, 2)))
    return Subject(bm.fit(with_a_stranger().hierarchy, tasks, QUICK, progress=False), "", 0)


def test_of_many_tasks_some_are_drawn_and_it_is_said() -> None:
    one = many(700)

    assert "The observations of 300 of the 700 tasks, of all sizes" in checking.section(one).parts[0]
    assert "Each of 200 tasks, of all sizes among 700," in calibrating.section(one).parts[0]
    assert "posterior.summary(&quot;theta&quot;)" in shrinking.section(one).parts[-1]


@pytest.mark.long
def test_ten_thousand_tasks_have_a_page() -> None:
    text = as_page(many(10_000).posterior)

    assert "Not shown" not in text
    assert len(text) < 2_000_000


def test_fewer_draws_are_an_even_spread_of_each_chain() -> None:
    one = schools()
    u = one.draws.u.reshape(2, 200, -1)
    draws = replace(one.draws, u=u, stats={"lp": u[..., 0].numpy()})
    posterior = bm.Posterior(one.hierarchy, one.tasks, one.collapsed, draws, one.info)
    few = lighter(posterior, 10)

    assert few.draws.u.shape[:2] == (2, 5)
    assert torch.equal(few.draws.u[:, 0], u[:, 0])
    assert torch.equal(few.draws.u[:, -1], u[:, -1])
    np.testing.assert_array_equal(few.draws.stats["lp"], few.draws.u[..., 0])
    assert lighter(posterior, 1000) is posterior


# --- where it is written ------------------------------------------------------------------------------------------


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    posterior = subject().posterior
    with pytest.raises(OptionError, match="seed must be a whole number of at least 0, got -1"):
        posterior.report(tmp_path / "z.html", seed=-1)
    monkeypatch.setattr("bayesmeta.report.as_page", lambda posterior, title, **more: f"<h1>{title}</h1>")
    written = posterior.report(tmp_path / "new" / "x.html", title="Mine")

    assert written.read_text(encoding="utf-8") == "<h1>Mine</h1>"
    assert [path.name for path in written.parent.iterdir()] == ["x.html"]
    with pytest.raises(NotAvailableError, match=r"is a folder; wanted the path of a file, such as report\.html"):
        posterior.report(tmp_path)
    with pytest.raises(NotAvailableError, match=r"path: cannot write '.*y\.html'"):
        posterior.report(written / "y.html")


def test_the_command_writes_the_page_of_a_run(tmp_path: Path) -> None:
    run, asked = tmp_path / "run", ["fit", "eight_schools", "--inference", "laplace", "--draws", "200", "--quiet"]
    assert CliRunner().invoke(app, [*asked, "--out", str(run)]).exit_code == 0
    done = CliRunner().invoke(app, ["report", str(run), "--out", str(tmp_path / "x.html")])
    missing = CliRunner().invoke(app, ["report", str(tmp_path / "none")])

    assert done.exit_code == 0, done.output
    assert "Written:" in done.output
    text = Reader((tmp_path / "x.html").read_text(encoding="utf-8")).text
    assert "Eight schools: is coaching for a test worth more in one school than in another?" in text
    assert "Rubin, D. B. (1981)" in text
    assert missing.exit_code == 2
    assert "is not a folder; wanted the folder of a run" in missing.stderr


@pytest.mark.parametrize(("scale", "whole"), [(1.0, False), (1.0, True), (30.0, True)])
def test_bins_hold_what_was_observed_and_whole_numbers_lie_within_them(scale: float, whole: bool) -> None:
    rng = np.random.default_rng(0)
    observed, anew = scale * rng.normal(size=50), scale * rng.normal(size=(100, 50))
    if whole:
        observed, anew = observed.round(), anew.round()
    edges = checking._edges(observed, anew)

    assert edges[0] <= observed.min() <= observed.max() <= edges[-1]
    assert 3 <= len(edges) - 1 <= 45
    assert not whole or set(edges % 1) == {0.5}
