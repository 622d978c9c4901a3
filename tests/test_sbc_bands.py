"""Simultaneous bands for ranks: their coverage and p-values against simulation, and that they agree."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bayesmeta.diagnose.bands import IntArray, band, counts_below, coverage, holm, p_value


@pytest.mark.parametrize(("n", "draws", "level"), [(200, 19, 0.95), (60, 99, 0.8), (1000, 9, 0.5), (5, 3, 0.9)])
def test_bands_hold_what_they_say(n: int, draws: int, level: float) -> None:
    lower, upper = band(n, draws, level)
    sets = 20_000
    cells = np.random.default_rng(0).multinomial(n, np.full(draws + 1, 1 / (draws + 1)), size=sets)
    counts = cells.cumsum(1)[:, :-1]

    inside = float(((counts >= lower) & (counts <= upper)).all(1).mean())

    assert inside > level - 4 * np.sqrt(level * (1 - level) / sets)
    wider = coverage(n, draws, _gamma(n, draws, lower, upper))
    assert abs(inside - wider) < 4 * np.sqrt(wider * (1 - wider) / sets + 1e-12)


def _gamma(n: int, draws: int, lower: IntArray, upper: IntArray) -> float:
    """The largest two-sided tail probability just outside the band, by scipy: the band is what lies above it."""
    z = np.arange(1, draws + 1) / (draws + 1)
    below = np.where(lower > 0, 2 * stats.binom(n, z).cdf(lower - 1), 0.0)
    above = np.where(upper < n, 2 * stats.binom(n, z).sf(upper), 0.0)
    return float(np.maximum(below, above).max()) + 1e-12


def test_a_band_that_ignores_that_there_are_many_points_does_not() -> None:
    n, draws = 200, 99
    z = np.arange(1, draws + 1) / (draws + 1)
    cells = np.random.default_rng(0).multinomial(n, np.full(draws + 1, 1 / (draws + 1)), size=4000)
    counts = cells.cumsum(1)[:, :-1]

    pointwise = (counts >= stats.binom(n, z).ppf(0.025)) & (counts <= stats.binom(n, z).ppf(0.975))

    assert pointwise.all(1).mean() < 0.7
    assert pointwise.mean() > 0.94


def test_p_values_are_uniform_and_agree_with_the_band() -> None:
    n, draws, sets = 150, 49, 1500
    ranks = np.random.default_rng(1).integers(0, draws + 1, size=(n, sets))
    counts = counts_below(ranks, draws)
    lower, upper = band(n, draws, 0.9)

    p = np.array([p_value(column, n) for column in counts.T])

    inside = ((counts >= lower[:, None]) & (counts <= upper[:, None])).all(0)
    assert np.array_equal(p > 0.1, inside)
    for level in (0.01, 0.1, 0.3, 0.6):
        share = (p <= level).mean()
        assert share < level + 4 * np.sqrt(level * (1 - level) / sets)
        assert share > 0.8 * level - 4 * np.sqrt(level * (1 - level) / sets)


def test_p_values_of_hopeless_ranks_are_tiny_and_not_zero() -> None:
    counts = counts_below(np.zeros((1000, 1), dtype=np.int64), 99)[:, 0]

    assert 0 < p_value(counts, 1000) < 1e-100


def test_counts_below() -> None:
    assert counts_below(np.array([[0], [2], [2]]), 2).tolist() == [[1], [1]]


def test_holm_against_the_definition() -> None:
    assert holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.6, 0.9])).tolist() == [1.0, 1.0]
