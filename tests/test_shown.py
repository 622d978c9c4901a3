"""What results show of themselves in a notebook: short where there is much, and saying what was left out."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import bayesmeta as bm
from tests.exploring import curve, nothing

MANY = 10_000


@cache
def many() -> bm.Adapted:
    """Ten thousand tasks of which nothing is known."""
    names = [f"<b>{t}</b>" for t in range(MANY)]
    return curve().adapt(bm.Tasks.without_observations(names, like=curve().tasks), draws=5)


def test_of_ten_thousand_tasks_the_first_are_shown_and_the_rest_is_said() -> None:
    page = many()._repr_html_()

    assert page.startswith("<p><b>Adapted: 10,000 tasks, 5 draws each</b>")
    assert page.count("<tr") == 61
    assert "and 19,940 rows more: <code>summary()</code> has all" in page
    assert "&lt;b&gt;29&lt;/b&gt;" in page
    assert "<b>29</b>" not in page


def test_of_predictions_too() -> None:
    predicted = many().predict(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    page = predicted._repr_html_()
    first = predicted["<b>0</b>"].frame()

    assert page.count("<tr") == 31
    assert "and 29,970 rows more: <code>frame()</code> has all" in page
    assert f"{first['mean'][0]:.4g}" in page


def test_a_few_tasks_are_shown_whole() -> None:
    adapted = curve().adapt(bm.Tasks.from_lists([[0.0]], [[1.0]], names=["one"]), draws=100)

    assert repr(adapted).startswith("Adapted: 1 task, 100 draws each, largest k-hat ")
    assert adapted._repr_html_().count("<tr") == 3
    assert "rows more" not in adapted._repr_html_() + adapted.predict(torch.zeros(2))._repr_html_()


def test_the_summary_is_that_of_the_draws_task_by_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bayesmeta.adapt.adapted.QUANTILE_NUMBERS", 500)  # in several pieces
    adapted = curve().adapt(
        bm.Tasks.from_lists([[0.0], [0.5], [-0.5]], [[1.0], [2.0], [0.0]], names=[*"abc"]), draws=100
    )
    table = adapted.summary(level=0.8)
    draws = adapted.theta["beta"].numpy()

    assert table["task"].tolist() == [*"aabbcc"]
    assert table["theta"].tolist() == ["beta[0]", "beta[1]"] * 3
    for row, (t, k) in enumerate((t, k) for t in range(3) for k in range(2)):
        expected = [draws[:, t, k].mean(), draws[:, t, k].std(ddof=1), *np.quantile(draws[:, t, k], [0.1, 0.9])]
        np.testing.assert_allclose(table.loc[row, ["mean", "sd", "lower", "upper"]].to_numpy(float), expected)
        assert table["k_hat"][row] == float(adapted.k_hat[t])


def test_a_score_says_of_what_it_is() -> None:
    tasks = nothing().tasks
    score = bm.score(nothing().adapt(tasks, draws=50).predict(tasks), tasks)

    assert "Score of 19 observations of 5 tasks, intervals of 90%" in score._repr_html_()
    assert "NaN" not in score._repr_html_()
