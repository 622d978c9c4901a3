"""A posterior in a notebook: its verdict, its table with histograms, its tasks; small, and at once."""

from __future__ import annotations

import re

import numpy as np
import pytest

import bayesmeta as bm
from bayesmeta.report.cell import histogram, intervals
from tests.scenarios import normal_normal
from tests.test_report import schools, subject


def test_it_shows_verdict_table_and_pictures_in_a_few_kilobytes() -> None:
    text = schools()._repr_html_()

    assert re.search("<b>(fine|doubtful|failed)</b>", text)
    assert text.count("<svg") == 3  # a histogram for each number of φ, and the tasks
    assert text.count("<circle") == 8
    assert ">mu<" in text
    assert "theta of each task: median and 90 % interval" in text
    assert len(text) < 60_000


def test_text_of_a_user_is_escaped() -> None:
    scenario = normal_normal()
    tasks = scenario.tasks.with_names([f"<b>{k}</b>" for k in range(8)])
    posterior = bm.fit(scenario.hierarchy, tasks, bm.Laplace(draws=50), progress=False)

    assert "<b>3</b>" not in posterior._repr_html_()
    assert "&lt;b&gt;3&lt;/b&gt;" in posterior._repr_html_()


def test_every_row_has_the_histogram_of_its_own_draws() -> None:
    posterior = subject().posterior
    found = re.findall(r"Histogram of draws of ([^,]+(?:,\d)*), from (\S+) to", posterior._repr_html_())
    flat = {"mu[0]": posterior.phi["mu"][:, 0], "mu[1]": posterior.phi["mu"][:, 1], "tau": posterior.phi["tau"]}
    starts = dict(found)

    for name, draws in flat.items():
        assert float(starts[name]) == pytest.approx(float(np.quantile(draws.numpy(), 0.001)), rel=0.01)


def test_a_histogram_is_as_high_as_its_counts() -> None:
    drawn = histogram(np.repeat([0.0, 1.0], [100, 50]), "z")
    heights = [float(value) for value in re.findall(r"V([\d.]+)H", drawn)]

    assert heights[0] == 1.0
    assert heights[-1] == pytest.approx(11.5)
    assert set(heights[1:-1]) == {22.0}
    assert "nan" not in histogram(np.array([1.0, 2.0]), "two")
    assert histogram(np.ones(5), "same") == histogram(np.array([np.nan, 1.0]), "one") == "–"


def test_intervals_lie_where_their_ends_are() -> None:
    low, high = np.array([-1.0, 0.0]), np.array([0.0, 3.0])
    drawn = intervals(low, (low + high) / 2, high, "t", ["a", "<i>"])
    bars = [[float(v) for v in pair] for pair in re.findall(r"M[\d.]+ ([\d.]+)V([\d.]+)", drawn)]

    assert bars == [[124.0, 94.5], [94.5, 6.0]]
    assert "&lt;i&gt;" in drawn
    assert ">0<" in drawn
    assert intervals(low[:1], low[:1], low[:1], "nothing") == ""
