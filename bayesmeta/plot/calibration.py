"""Are predictions calibrated? Where observations lie in their predictive distributions, against where they should.

The probability integral transform (PIT) of an observation is the predicted probability of less than it: uniform on
[0, 1] for right predictions. Four pictures of it:

    ecdf         share of PITs below z, minus z. Above zero on the left and below on the right: too narrow
    histogram    of PITs. A valley in the middle: predictions too narrow; a hill: too wide; a slope: biased
    coverage     share of observations inside their central intervals, against the intervals' probability
    reliability  of outcomes 0 and 1: the share of ones, against the probability that was predicted; of classes: the
                 share of observations that the likeliest class was right for, against its probability

Observations of one task share what is not known of the task: their PITs are right or wrong together, and stray farther
than as many independent ones. The bands are therefore those of data drawn from the prediction itself, task by task.
For bare PITs they are those of independent observations, and the legend says so.

Säilynoja, T., Bürkner, P.-C. and Vehtari, A. (2022). Graphical test for discrete uniformity and its applications in
goodness-of-fit evaluation and multiple sample comparison. Statistics and Computing 32, 32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from bayesmeta.errors import DataError, NotAvailableError, OptionError, unknown
from bayesmeta.plot.style import BLACK, BLUE, PALE, check_level, legend, new_axes, percent, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]

__all__ = ["calibration"]

KINDS = ("ecdf", "histogram", "coverage", "reliability")
Z = np.arange(1, 100) / 100
BINS = 20
DRAWS = 400  # of a prediction that comes without a score
INDEPENDENT = 400  # data sets of independent PITs, where there is no prediction to draw them from
LARGEST = 5000  # PITs in each of them: the band of more is narrower by the root of the number


class _Places(NamedTuple):
    """Share of PITs below each of `Z` (99,), the same in data sets of a right prediction (R, 99), and the number."""

    share: Array
    reference: Array
    size: int
    independent: bool


def calibration(
    result: Any,
    y: Any = None,
    *,
    kind: Literal["ecdf", "histogram", "coverage", "reliability"] | None = None,
    level: float = 0.95,
    label: str | None = None,
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Draw whether predictions mean what they say.

    Args:
        result: What `bm.score` returned; or a prediction, as `adapted.predict(x)` makes it, with `y`; or PITs (N,).
        y: The observations that a prediction is for: (T, m), a list of one tensor per task, or a `Tasks`.
        kind: ``"ecdf"``, ``"histogram"``, ``"coverage"`` or ``"reliability"``, which is for outcomes 0 and 1 and for
            classes, and the default of the latter.
        level: Probability that a right prediction stays inside the band: everywhere at once in ``"ecdf"`` and
            ``"coverage"``, bin by bin in the other two.
        label: Label of the vertical axis.
        seed: Seeds the draws that are made of a prediction, and of the band of bare PITs.
        ax: Axes to draw in; a new figure by default.

    Returns:
        The axes.

    Raises:
        OptionError: An unknown kind, or a level outside (0, 1).
        DataError: A prediction without `y`, or PITs outside of [0, 1].
        NotAvailableError: Reliability of outcomes that are not all 0 or 1, or without a prediction of them.
    """
    if kind is not None and kind not in KINDS:
        raise OptionError(unknown("kind", kind, KINDS))
    check_level(level)
    score = _score(result, y, seed)
    kind = kind or ("ecdf" if isinstance(score, np.ndarray) or hasattr(score, "pit") else "reliability")
    if kind == "reliability":
        drawn = _reliability(score)
        ax = new_axes() if ax is None else ax
        _draw_reliability(ax, *drawn, level, classes=not hasattr(score, "pit"))
    else:
        places = _places(score, seed)
        ax = new_axes() if ax is None else ax
        draw = {"ecdf": _draw_ecdf, "histogram": _draw_histogram, "coverage": _draw_coverage}[kind]
        draw(ax, places, level)
    if label is not None:
        ax.set_ylabel(label)
    legend(ax)
    return tidy(ax)


# --- what is drawn ------------------------------------------------------------------------------------------


def _score(result: Any, y: Any, seed: int) -> Any:
    """A `Score` or `ClassScore`, or PITs as an array."""
    from bayesmeta.diagnose.classes import ClassScore
    from bayesmeta.diagnose.metrics import Score, score

    if isinstance(result, Score | ClassScore):
        return result
    if (hasattr(result, "quantile") and hasattr(result, "log_prob")) or hasattr(result, "probabilities"):
        if y is None:
            raise DataError("a prediction needs the observations that it is for: pass them as y")
        return score(result, y, draws=DRAWS, seed=seed)
    try:
        pit = np.asarray(result, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"result is a {type(result).__name__}; wanted a Score, a prediction with y=..., or an array of PITs"
        ) from error
    return pit


def _places(score: Any, seed: int) -> _Places:
    bare = isinstance(score, np.ndarray)
    if not bare and not hasattr(score, "pit"):
        raise NotAvailableError("classes have no order, and no place among their predictions: take kind='reliability'")
    pit = score if bare else score.pit.numpy()
    pit = pit[~np.isnan(pit)]
    if not len(pit) or pit.min() < 0 or pit.max() > 1:
        raise DataError(
            "PITs are probabilities, at least one of them, in [0, 1]; got "
            + (f"{pit.min():.3g} to {pit.max():.3g}" if len(pit) else "none that is a number")
        )
    share = np.searchsorted(np.sort(pit), Z) / len(pit)
    known = None if bare else score.reference
    reference = _independent(len(pit), seed) if known is None else known.numpy()
    return _Places(share, reference, len(pit), known is None)


def _independent(count: int, seed: int) -> Array:
    """The shares (R, 99) in data sets of so many independent uniform PITs."""
    few = min(count, LARGEST)
    cells = np.random.default_rng(seed).multinomial(few, np.full(len(Z) + 1, 1 / (len(Z) + 1)), size=INDEPENDENT)
    share = cells.cumsum(1)[:, :-1] / few
    band: Array = Z + (share - Z) * np.sqrt(few / count)
    return band


def _simultaneous(reference: Array, z: Array, level: float) -> Array:
    """Half the width (len(z),) of the band that so many of the data sets (R, len(z)) stay in, all along."""
    scale = np.sqrt(z * (1 - z))
    farthest = np.abs((reference - z) / scale).max(1)
    return np.asarray(np.quantile(farthest, level) * scale)


def _reliability(score: Any) -> tuple[Array, Array, Array, Array]:
    """Probability, share, count of the bins that are not empty (B,), and shares drawn (R, B)."""
    found = None if isinstance(score, np.ndarray) else score.reliability
    if found is None:
        raise NotAvailableError(
            "reliability is for outcomes that are all 0 or 1, or classes: pass a prediction of such with y=..., or its "
            "score, or take kind='ecdf'"
        )
    there = (found.size > 0).numpy()
    return (
        found.probability.numpy()[there],
        found.share.numpy()[there],
        found.size.numpy()[there],
        found.replicates.numpy()[:, there],
    )


# --- drawing ------------------------------------------------------------------------------------------------


def _band_name(places: _Places, level: float, how: str) -> str:
    of = "independent observations" if places.independent else "the prediction's own draws"
    return f"{percent(level)} band of {of}, {how}"


def _draw_ecdf(ax: Axes, places: _Places, level: float) -> None:
    half = _simultaneous(places.reference, Z, level)
    z, ends = np.r_[0.0, Z, 1.0], np.r_[0.0, half, 0.0]
    ax.fill_between(z, -ends, ends, color=PALE, linewidth=0, label=_band_name(places, level, "all along"))
    ax.axhline(0.0, color=BLACK, linewidth=0.8)
    ax.plot(z, np.r_[0.0, places.share - Z, 0.0], color=BLUE, linewidth=1.4, label=f"{places.size:,} observations")
    ax.set_xlim(0, 1)
    ax.set_xlabel("z: predicted probability of less than was observed (PIT)")
    ax.set_ylabel("share of observations with a PIT below z, minus z")


def _draw_histogram(ax: Axes, places: _Places, level: float) -> None:
    edges = np.linspace(0, 1, BINS + 1)
    heights, drawn = (_density(share) for share in (places.share, places.reference))
    lower, upper = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    name = _band_name(places, level, "bin by bin")
    ax.stairs(upper, edges, baseline=lower, fill=True, color=PALE, label=name)
    ax.axhline(1.0, color=BLACK, linewidth=0.8)
    ax.stairs(heights, edges, color=BLUE, linewidth=1.4, label=f"{places.size:,} observations")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.08 * max(float(heights.max()), float(upper.max())))
    ax.set_xlabel("predicted probability of less than was observed (PIT)")
    ax.set_ylabel("density; 1 for right predictions")


def _density(share: Array) -> Array:
    """Heights of the bins of a histogram (..., BINS) from shares below `Z`."""
    ends = np.zeros((*share.shape[:-1], 1))
    whole = np.concatenate([ends, share, ends + 1], -1)
    heights: Array = BINS * np.diff(whole[..., :: 100 // BINS], axis=-1)
    return heights


def _draw_coverage(ax: Axes, places: _Places, level: float) -> None:
    nominal = 2 * Z[50:] - 1
    share, drawn = (_inside(values) for values in (places.share, places.reference))
    half = _simultaneous(drawn, nominal, level)
    z, ends = np.r_[0.0, nominal, 1.0], np.r_[0.0, half, 0.0]
    name = _band_name(places, level, "all along")
    ax.fill_between(z, np.clip(z - ends, 0, 1), np.clip(z + ends, 0, 1), color=PALE, linewidth=0, label=name)
    ax.plot([0, 1], [0, 1], color=BLACK, linewidth=0.8)
    ax.plot(z, np.r_[0.0, share, 1.0], color=BLUE, linewidth=1.4, label=f"{places.size:,} observations")
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set_xlabel("probability of the central interval")
    ax.set_ylabel("share of observations inside")


def _inside(share: Array) -> Array:
    """Share of PITs in the central intervals of probability .02, .04, ... .98 (..., 49)."""
    inside: Array = share[..., 50:] - share[..., 48::-1]
    return inside


def _draw_reliability(
    ax: Axes, probability: Array, share: Array, count: Array, drawn: Array, level: float, *, classes: bool
) -> None:
    lower, upper = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    name = f"{percent(level)} interval of the prediction's own draws"
    ax.vlines(probability, lower, upper, color=PALE, linewidth=9, zorder=1, label=name)
    ax.plot([0, 1], [0, 1], color=BLACK, linewidth=0.8, zorder=2)
    area = 18 + 130 * count / count.max()
    ax.plot(probability, share, color=BLUE, linewidth=1.0, alpha=0.5, zorder=2)
    ax.scatter(probability, share, s=area, color=BLUE, zorder=3)
    ax.plot([], [], "o", color=BLUE, label=f"{int(count.sum()):,} outcomes, larger where more")
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    ax.set_xlabel("predicted probability of the likeliest class" if classes else "predicted probability")
    ax.set_ylabel("share of observations that are of that class" if classes else "share of ones that came")
