"""Calibration: how far the distribution of ranks is from uniform, with a band that uniform ranks stay in.

One step curve for each quantity, the share of ranks below z minus z. A curve that rises above zero early and falls
below it late means ranks that are too often small and large: the draws are too narrow. One that stays above zero
means true values that lie too low among the draws: the draws are too high.

Säilynoja, T., Bürkner, P.-C. and Vehtari, A. (2022). Graphical test for discrete uniformity and its applications in
goodness-of-fit evaluation and multiple sample comparison. Statistics and Computing 32, 32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bayesmeta.errors import UnknownNameError, unknown
from bayesmeta.plot.style import BLACK, BLUE, GREY, PALE, SERIES, legend, new_axes, percent, spread, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmeta.diagnose.sbc import Calibration

Array = npt.NDArray[np.float64]

__all__ = ["sbc"]

MOST_NAMED = 6
MOST_INSIDE = 100  # curves inside the band


def sbc(
    calibration: Calibration,
    *,
    quantities: Sequence[str] | None = None,
    level: float = 0.95,
    ax: Axes | None = None,
) -> Axes:
    """Draw the ranks of a calibration: empirical minus uniform distribution function, and the simultaneous band.

    Args:
        calibration: The ranks.
        quantities: Names of the quantities to draw; all by default, and of very many inside the band an even spread.
            The band stays that of all quantities.
        level: Probability that the curves of all quantities stay in the band, if ranks are uniform.
        ax: Axes to draw in; a new figure by default.

    Returns:
        The axes.

    Raises:
        UnknownNameError: No such quantity.
        OptionError: A level outside (0, 1).
    """
    pick = _pick(calibration.quantities, quantities)
    z, difference, lower, upper = calibration.ecdf(level)
    ax = new_axes() if ax is None else ax
    ends = (np.r_[0.0, z, 1.0], np.r_[0.0, lower, 0.0], np.r_[0.0, upper, 0.0])
    ax.fill_between(*ends, color=PALE, linewidth=0, zorder=1, label=f"{percent(level)} band, all quantities at once")
    ax.axhline(0.0, color=BLACK, linewidth=0.8, zorder=2)
    outside = [k for k in pick if ((difference[:, k] < lower) | (difference[:, k] > upper)).any()]
    _draw_inside(ax, z, difference[:, [k for k in pick if k not in outside]])
    outside.sort(key=lambda k: float(calibration.p_values[k]))
    for place, k in enumerate(outside):
        name = calibration.quantities[k] if place < MOST_NAMED else None
        if place == MOST_NAMED:
            name = f"and {len(outside) - MOST_NAMED} more outside"
        _step(ax, z, difference[:, k], SERIES[place] if place < MOST_NAMED else GREY, name, 1.6)
    ax.set_xlim(0, 1)
    ax.set_xlabel(f"z: rank of the true value among {calibration.draws} draws, scaled")
    ax.set_ylabel("share of ranks below z, minus z")
    ax.set_title(f"{calibration.verdict.level}: {len(calibration):,} replications", loc="left", fontsize="medium")
    legend(ax, "below")
    return tidy(ax)


def _pick(known: tuple[str, ...], wanted: Sequence[str] | None) -> list[int]:
    if wanted is None:
        return list(range(len(known)))
    for name in wanted:
        if name not in known:
            raise UnknownNameError(unknown("quantity", name, known))
    return [known.index(name) for name in wanted]


def _draw_inside(ax: Axes, z: Array, differences: Array) -> None:
    count = differences.shape[1]
    shown = spread(count, MOST_INSIDE)
    label = f"{count:,} quantit{'y' if count == 1 else 'ies'} inside"
    label += f" ({len(shown)} drawn)" if len(shown) < count else ""
    for place, k in enumerate(shown):
        _step(ax, z, differences[:, k], BLUE, label if place == 0 else None, 0.9 if count <= 10 else 0.4)


def _step(ax: Axes, z: Array, values: Array, color: str, label: str | None, width: float) -> None:
    ends = (np.r_[0.0, z, 1.0], np.r_[0.0, values, 0.0])
    ax.plot(*ends, color=color, linewidth=width, zorder=3, label=label)
