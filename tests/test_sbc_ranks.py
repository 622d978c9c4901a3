"""Ranks and what they say: exact posteriors pass, wrong ones fail and are told apart; files; pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bayesmeta.diagnose.sbc import Calibration, rank
from bayesmeta.errors import DataError, FileFormatError, NotAvailableError, OptionError, UnknownNameError
from bayesmeta.plot import sbc as plot
from tests.sbc_models import conjugate_ranks

N, DRAWS = 1000, 99


def calibration(**wrong: Any) -> Calibration:
    return Calibration.of(conjugate_ranks(N, DRAWS, **wrong), DRAWS)


# ---------------------------------------------------------------------------------------------------------
# The judgement


def test_ranks_among_exact_draws_are_uniform() -> None:
    found = calibration()

    assert found.verdict.level == "fine"
    assert found.failures() == []
    assert found.corrected.min() > 0.05
    assert "1,000 replications" in found.verdict.reasons[0]


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"stretch": 0.8}, "mu: draws are too narrow"),
        ({"stretch": 1.3}, "mu: draws are too wide"),
        ({"shift": 0.3}, "mu: draws are too high"),
        ({"shift": -0.3}, "mu: draws are too low"),
    ],
)
def test_wrong_posteriors_fail_and_are_told_apart(wrong: dict[str, float], word: str) -> None:
    verdict = calibration(**wrong).verdict

    assert verdict.level == "failed"
    assert any(reason.startswith(word) for reason in verdict.reasons)


def test_a_dropped_likelihood_shows_in_the_likelihood_alone() -> None:
    found = calibration(dropped=True)

    assert found.failures() == ["log likelihood"]
    assert found.verdict.level == "failed"


def test_replications_without_ranks_make_it_doubtful() -> None:
    right = calibration()

    found = Calibration(right.quantities, right.ranks, DRAWS, right.positions, unfitted={7: "no start"}, asked=N + 1)

    assert found.verdict.level == "doubtful"
    assert "number 7: no start" in found.verdict.reasons[0]


def test_the_table_and_what_is_shown() -> None:
    found = calibration(stretch=0.8)
    table = found.table()

    assert list(table.index) == ["mu", "log likelihood"]
    assert list(table.columns) == ["mean", "spread", "p", "p_corrected", "draws"]
    assert table["spread"].iloc[0] > 1.05
    assert table["draws"].iloc[0] == "too narrow"
    assert "failed: 1,000 replications, ranks among 99 draws" in repr(found)
    assert "mu: draws are too narrow" in repr(found)
    html = Calibration.of({"a<b": [0, 1, 2, 3]}, 3)._repr_html_()
    assert "a&lt;b" in html
    assert "a<b" not in html
    assert "<table" in html


def test_notes_say_what_to_keep_in_mind() -> None:
    stats = {
        "effective": np.array([500.0, 40.0, np.inf]),
        "seconds": np.ones(3),
        "divergences": np.array([0.0, 2.0, 3.0]),
        "k_hat": np.array([np.nan, 0.9, np.inf]),
    }
    found = Calibration(("mu",), np.array([[1], [2], [3]]), 99, np.arange(3), stats, asked=5)

    said = found.notes()

    assert [line[:11] for line in said] == ["interrupted", "1 replicati", "2 replicati", "2 replicati"]
    assert all(line in repr(found) for line in said)
    assert Calibration.of({"mu": [1]}, 3).notes() == []


@pytest.mark.parametrize(
    ("ranks", "match"),
    [([0, 5], "among 3 draws they are 0 to 3"), ([-1, 2], "lie between -1 and 2"), ([], "no ranks to judge")],
)
def test_ranks_that_cannot_be(ranks: list[int], match: str) -> None:
    with pytest.raises(DataError, match=match):
        Calibration.of({"mu": ranks}, 3)


def test_ranks_of_another_shape() -> None:
    with pytest.raises(DataError, match="one column for each of 2 quantities"):
        Calibration(("a", "b"), np.zeros((3, 1), dtype=np.int64), 3, np.arange(3))


# ---------------------------------------------------------------------------------------------------------
# One rank


def test_rank_counts_the_draws_below() -> None:
    draws = np.array([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]])

    assert rank(np.array([2.5, 0.0]), draws, 3, np.random.default_rng(0)).tolist() == [2, 0]


@pytest.mark.parametrize(("count", "most"), [(9, 9), (4, 9), (20, 9)])
def test_ties_and_other_numbers_of_draws_leave_uniform_ranks_uniform(count: int, most: int) -> None:
    rng = np.random.default_rng(2)
    sets = rng.integers(0, 3, size=(4000, count + 1)).astype(float)  # three values only: most are tied

    ranks = [rank(row[:1], row[1:, None], most, rng)[0] for row in sets]

    assert Calibration.of({"ties": ranks}, most).p_values[0] > 0.001
    broken = [int((row[1:] < row[0]).sum()) for row in sets]
    assert Calibration.of({"ties not broken": broken}, count).p_values[0] < 1e-9


# ---------------------------------------------------------------------------------------------------------
# Files


def test_a_file_gives_back_everything(tmp_path: Path) -> None:
    right = calibration()
    stats = {"effective": np.linspace(0, 1, N), "k_hat": np.full(N, np.nan)}
    record = {"seed": 3, "hierarchy": {"phi": [["mu", "Normal", [], "real"]]}}
    saved = Calibration(
        right.quantities, right.ranks, DRAWS, right.positions, stats, {4: "näher"}, asked=N + 1, record=record
    )
    saved.save(tmp_path / "ranks")

    found = Calibration.load(tmp_path / "ranks")

    assert [path.name for path in tmp_path.iterdir()] == ["ranks"]
    assert found.quantities == saved.quantities
    assert np.array_equal(found.ranks, saved.ranks)
    assert np.array_equal(found.positions, saved.positions)
    assert found.stats.keys() == stats.keys()
    assert np.array_equal(found.stats["effective"], stats["effective"])
    assert (found.draws, found.asked, found.record) == (DRAWS, N + 1, record)
    assert dict(found.unfitted) == {4: "näher"}
    assert np.array_equal(found.p_values, saved.p_values)


def _text(path: Path) -> None:
    path.write_text("not one of ours", encoding="utf-8")


def _pickled(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, record=np.array([{"format": 1}], dtype=object))


def _other(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, record=np.array(json.dumps({"format": "another"})))


def _array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def _empty(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize("write", [_text, _pickled, _other, _array, _empty])
def test_other_files_are_refused(write: Any, tmp_path: Path) -> None:
    write(tmp_path / "file")

    with pytest.raises(FileFormatError, match=r"is not a calibration saved by bayesmeta|has format .another."):
        Calibration.load(tmp_path / "file")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotAvailableError, match="there is no file"):
        Calibration.load(tmp_path / "nothing")


# ---------------------------------------------------------------------------------------------------------
# Pictures


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    import sys

    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def test_the_picture_names_what_is_outside_and_labels_its_axes() -> None:
    ax = calibration(dropped=True).plot()

    labels = ax.get_legend_handles_labels()[1]
    assert "log likelihood" in labels
    assert "1 quantity inside" in labels
    assert "95% band, all quantities at once" in labels
    assert "rank of the true value among 99 draws" in ax.get_xlabel()
    assert "share of ranks below z" in ax.get_ylabel()


def test_the_curves_are_the_differences_of_distribution_functions() -> None:
    found = calibration(shift=0.5)
    ax = plot(found, quantities=["mu"])

    x, y = next(np.asarray(line.get_xydata()).T for line in ax.get_lines() if line.get_label() == "mu")

    assert np.allclose(x[1:-1], np.arange(1, DRAWS + 1) / (DRAWS + 1))
    expected = [(found.ranks[:, 0] < k).mean() - k / (DRAWS + 1) for k in range(1, DRAWS + 1)]
    assert np.allclose(y[1:-1], expected)
    assert y.max() > 0.1  # draws too high: true values low among them


def test_a_picture_in_given_axes_of_many_wrong_quantities() -> None:
    import matplotlib.pyplot as plt

    bad = Calibration.of({f"q{k}": np.zeros(200, dtype=np.int64) for k in range(9)}, 9)
    _, given = plt.subplots()

    ax = plot(bad, ax=given)

    assert ax is given
    labels = ax.get_legend_handles_labels()[1]
    assert "and 3 more outside" in labels


def test_options_of_the_picture_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="unknown quantity 'tau'"):
        plot(calibration(), quantities=["tau"])
    with pytest.raises(OptionError, match="level must lie between 0 and 1"):
        plot(calibration(), level=1.0)
