"""Are ranks uniform? Simultaneous confidence bands for their empirical distribution, exact.

N independent ranks, each uniform on 0..L, have a cumulative count C_k = #{rank < k} ~ Binomial(N, k/(L+1)) at each
of the L points k = 1..L. With the two-sided tail probability of a count at its own point,

    p_k(c) = 2 min(P(C_k <= c), P(C_k >= c)),      T = min_k p_k(C_k),

the band {c : p_k(c) > γ} at every k holds all counts at once with probability P(T > γ), which is found without
simulation: counts of equally likely cells are Poisson counts given their total, so one walks from point to point,
convolving with a Poisson distribution and cutting off what leaves the band. The same walk turns T into a p-value,
so that the picture and the test never disagree.

Säilynoja, T., Bürkner, P.-C. and Vehtari, A. (2022). Graphical test for discrete uniformity and its applications in
goodness-of-fit evaluation and multiple sample comparison. Statistics and Computing 32, 32.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["IntArray", "band", "counts_below", "coverage", "holm", "p_value"]

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

HALVINGS = 40
LEAST = 1e-10  # below it, one minus a sum of probabilities is rounding error, and the union bound stands in
TINY = 1e-300
SAME = 1 + 1e-9  # counts that are equally unlikely, on the left and on the right, are so up to rounding


def counts_below(ranks: IntArray, draws: int) -> IntArray:
    """C_k, the number of ranks below k, for k = 1..L; ranks (N, ...) give (L, ...)."""
    return np.stack([(ranks < k).sum(0) for k in range(1, draws + 1)]).astype(np.int64)


def p_value(counts: IntArray, n: int) -> float:
    """How likely uniform ranks leave at least so unlikely a count at some point: P(T <= T observed).

    Args:
        counts: C_k (L,), as `counts_below` gives them for one quantity.
        n: Number of ranks N.
    """
    draws = len(counts)
    statistic = SAME * float(_tails(n, draws)[np.arange(draws), counts].min())
    outside = 1.0 - coverage(n, draws, statistic)
    return outside if outside > LEAST else float(np.clip(draws * statistic, TINY, LEAST))


def band(n: int, draws: int, level: float = 0.95) -> tuple[IntArray, IntArray]:
    """The least and greatest counts (L,), (L,) of N ranks on 0..L that lie inside, all at once, with a probability.

    The band is the narrowest of its kind that holds at least `level`; counts are whole numbers, so that it may
    hold a little more.
    """
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if coverage(n, draws, middle) >= level else (low, middle)
    return _inside(n, draws, low)


@lru_cache(maxsize=4096)
def coverage(n: int, draws: int, gamma: float) -> float:
    """P(T > γ): the probability that the counts of N uniform ranks on 0..L lie in the band of γ at every point."""
    lower, upper = _inside(n, draws, gamma)
    if (lower > upper).any():
        return 0.0
    rate = n / (draws + 1)
    start, state = 0, np.ones(1)
    for low, high in zip(lower.tolist(), upper.tolist(), strict=True):
        state = np.convolve(state, _poisson(rate, high - start))[low - start : high - start + 1]
        start = low
    last = _poisson(rate, n - start)[::-1][: len(state)]
    return float(np.clip((state[: len(last)] * last).sum() / _poisson(n, n)[n], 0.0, 1.0))


def holm(p_values: Array) -> Array:
    """p-values corrected for their number, whatever depends on what (Holm 1979).

    The smallest is below α just where some quantity leaves its band of level 1 - α/Q.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1.0)
    return corrected


def _inside(n: int, draws: int, gamma: float) -> tuple[IntArray, IntArray]:
    """The band of γ: the least and greatest count with p_k > γ; the least is above the greatest where there is none."""
    inside = _tails(n, draws) > gamma
    lower = np.where(inside.any(1), inside.argmax(1), n + 1)
    return lower, n - inside[:, ::-1].argmax(1)


@lru_cache(maxsize=8)
def _tails(n: int, draws: int) -> Array:
    """p_k(c) (L, N + 1)."""
    z = np.arange(1, draws + 1)[:, None] / (draws + 1)
    c = np.arange(n + 1)
    log_factorial = _log_factorial(n)
    choose = log_factorial[n] - log_factorial - log_factorial[::-1]
    mass = np.exp(choose + c * np.log(z) + (n - c) * np.log1p(-z))
    below, above = mass.cumsum(1), mass[:, ::-1].cumsum(1)[:, ::-1]
    tails: Array = np.minimum(2 * np.minimum(below, above), 1.0)
    return tails


def _poisson(rate: float, most: int) -> Array:
    """Poisson probabilities of 0..most."""
    k = np.arange(most + 1)
    mass: Array = np.exp(k * np.log(rate) - rate - _log_factorial(most))
    return mass


def _log_factorial(most: int) -> Array:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])
