"""The recorder of pictures: it finds what was drawn, and its checks fail on what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes

from bayesmeta.errors import OptionError
from bayesmeta.plot.style import BLUE, GREY, PALE, RED, check_level, grid_of, legend, new_axes, spread, thinned
from tests import plot_records
from tests.plot_records import check, record, resembles, structure


@pytest.fixture(autouse=True)
def figures_are_closed() -> Iterator[None]:
    yield
    plt.close("all")


def drawn(shift: float = 0.0) -> Axes:
    x = np.linspace(0, 1, 5)
    ax = new_axes(4, 3)
    ax.plot(x, x + shift, color=BLUE, label="mean")
    ax.scatter(x, x**2, color=RED, label="data")
    ax.vlines(x, 0, x, color=GREY)
    ax.fill_between(x, x - 0.1, x + 0.1, color=PALE, label="band")
    ax.text(0.5, 0.5, "here")
    ax.set(xlabel="time, h", ylabel="dose, mg", title="drug")
    legend(ax)
    return ax


def test_what_was_drawn_is_found_by_kind_colour_and_label() -> None:
    found = check(drawn())
    x = np.linspace(0, 1, 5)

    np.testing.assert_allclose(found.data("line", BLUE), np.stack([x, x], 1))
    np.testing.assert_allclose(found.data("points", RED), np.stack([x, x**2], 1))
    np.testing.assert_allclose(found.data("bars", GREY)[1::2], np.stack([x, x], 1))
    (band,) = found.of("band", label="band")
    assert (band.y.min(), band.y.max()) == pytest.approx((-0.1, 1.1))
    assert not found.of("points", BLUE)
    assert found.legend == ("mean", "data", "band")
    assert found.words.split("\n") == ["drug", "time, h", "dose, mg", "mean", "data", "band", "here"]


def test_a_picture_without_a_label_or_data_or_with_nan_fails() -> None:
    ax = new_axes()
    with pytest.raises(AssertionError, match="nothing was drawn"):
        check(ax)
    ax.plot([0, 1], [0, 1])
    with pytest.raises(AssertionError, match="horizontal axis has no label"):
        check(ax)
    ax.set(xlabel="x", ylabel="y")
    check(ax)
    ax.scatter([0.0, 1.0], [0.0, np.nan])
    with pytest.raises(AssertionError, match="NaN"):
        check(ax)


def test_a_legend_that_says_a_thing_twice_fails() -> None:
    ax = drawn()
    ax.plot([0, 1], [0, 0], label="mean")
    legend(ax)

    with pytest.raises(AssertionError, match="twice"):
        check(ax)


def test_pictures_are_compared_without_their_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot_records, "BASELINES", tmp_path)
    monkeypatch.setenv("BAYESMETA_WRITE_BASELINES", "1")
    assert resembles(drawn().figure, "drug")  # type: ignore[arg-type]
    monkeypatch.delenv("BAYESMETA_WRITE_BASELINES")
    other = drawn()
    other.set(xlabel="a much longer label\nof two lines", title="")

    assert resembles(other.figure, "drug")  # type: ignore[arg-type]
    assert not resembles(drawn(shift=0.3).figure, "drug")  # type: ignore[arg-type]
    assert structure(drawn().figure).shape == (90, 120)  # type: ignore[arg-type]


# --- the style of the house -----------------------------------------------------------------------------------


def test_a_spread_has_both_ends_and_no_position_twice() -> None:
    for count, most in ((1, 1), (7, 3), (10_000, 100), (101, 100), (5, 5)):
        places = spread(count, most)
        assert len(set(places.tolist())) == min(count, most)
        assert places[0] == 0
        assert places[-1] == count - 1 or most == 1
    assert thinned(100, 10_000) == " (100 of 10,000 tasks, evenly spread)"


def test_a_legend_without_labels_is_none() -> None:
    ax = new_axes()
    legend(ax)

    assert record(ax).legend == ()


def test_axes_are_counted_and_levels_are_probabilities() -> None:
    _, two = plt.subplots(1, 2)

    assert len(grid_of(two, 2)) == 2
    with pytest.raises(OptionError, match="got 2 axes for 3 panels; pass one for each"):
        grid_of(two, 3)
    with pytest.raises(OptionError, match=r"level must lie between 0 and 1, got 1\.0"):
        check_level([0.5, 1.0])
