"""How training went: the ELBO of variational inference, or the evidence of the members of an ensemble, by step.

Below it the slope of the smoothed curve: training is over when it has come to zero and stays there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bayesmeta.errors import NotAvailableError
from bayesmeta.infer.svi_train import slope, smoothed
from bayesmeta.plot.style import BLACK, BLUE, LIGHT, RED, Grid, grid_of, legend, new_grid, spread, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmeta.draws import Draws
    from bayesmeta.posterior import Posterior

__all__ = ["elbo"]

Array = npt.NDArray[np.float64]

MOST_LINES = 20
FIRST = 0.2  # of the steps, which may lie below the picture
SMOOTHING = 20  # a window is that part of the steps


class _Curves(NamedTuple):
    """Values by step (steps, lines), smoothed (steps,), its slope (steps,), what they are, and what was watched."""

    values: Array
    smooth: Array
    slope: Array
    label: str
    line: str
    watched: tuple[Array, Array] | None = None


def elbo(posterior: Posterior | Draws, *, ax: Sequence[Axes] | Grid | None = None) -> Grid:
    """Draw what was maximised, step by step, smoothed, and the slope of that.

    Args:
        posterior: A posterior fitted by variational inference or as an ensemble, in this session: curves are not
            saved with it. Or its draws.
        ax: Two axes to draw in; a new figure by default.

    Returns:
        The axes (2, 1): the curve above, its slope below. Of an ensemble each member is a line.

    Raises:
        NotAvailableError: Nothing was trained, or the posterior was loaded from a file.
        OptionError: Not two axes.
    """
    curves = _curves(posterior)
    steps = np.arange(1.0, len(curves.values) + 1)
    panels = new_grid(2, 1, 6.4, 2.4, sharex=True) if ax is None else grid_of(ax, 2).reshape(2, 1)
    above, below = panels[:, 0]
    _draw_values(above, steps, curves)
    below.axhline(0.0, color=BLACK, linewidth=0.8, zorder=1)
    below.plot(steps, curves.slope, color=BLUE, linewidth=1.4, zorder=2)
    _limit(below, curves.slope, keep=0.0)
    below.set(xlabel="step", ylabel="slope, nats per step")
    above.set_ylabel(curves.label)
    legend(above, columns=3)
    tidy(above)
    tidy(below)
    return panels


# --- what is drawn --------------------------------------------------------------------------------------------


def _curves(posterior: Posterior | Draws) -> _Curves:
    draws: Any = getattr(posterior, "draws", posterior)
    curves = draws.curves
    if "elbo" in curves and len(curves["elbo"]):
        values, smooth, rising = (np.asarray(curves[name], float) for name in ("elbo", "elbo_smooth", "elbo_slope"))
        return _Curves(values[:, None], smooth, rising, "ELBO, nats", "each step")
    if "evidence" in curves and len(curves["evidence"]):
        values = np.asarray(curves["evidence"], dtype=np.float64)
        mean, window = values.mean(1), max(1, len(values) // SMOOTHING)
        watched = None
        if "validation" in curves:
            watched = np.asarray(curves["looks"], float), np.asarray(curves["validation"], float).mean(1)
        return _Curves(
            values, smoothed(mean, window), slope(mean, window), "log Z, nats per task", "each member", watched
        )
    raise NotAvailableError(
        "there is no curve of training: it is kept by inference='svi-...' and 'ensemble', and not in a saved posterior"
    )


# --- drawing --------------------------------------------------------------------------------------------------


def _draw_values(ax: Axes, steps: Array, curves: _Curves) -> None:
    for place, k in enumerate(spread(curves.values.shape[1], MOST_LINES)):
        finite = np.isfinite(curves.values[:, k])
        label = curves.line if place == 0 else None
        ax.plot(steps[finite], curves.values[finite, k], color=LIGHT, linewidth=0.6, zorder=1, label=label)
    ax.plot(steps, curves.smooth, color=BLUE, linewidth=1.6, zorder=3, label="smoothed")
    if curves.watched is not None:
        looks, values = curves.watched
        finite = np.isfinite(values)
        style: dict[str, Any] = {"color": RED, "markersize": 3.0, "linewidth": 1.0, "zorder": 4}
        ax.plot(looks[finite], values[finite], "-o", label="tasks watched", **style)
    _limit(ax, curves.smooth)


def _limit(ax: Axes, curve: Array, keep: float | None = None) -> None:
    """Limits that show a curve from a fifth of the steps on: what the first steps do is often a cliff."""
    late = curve[int(FIRST * len(curve)) :]
    late = late[np.isfinite(late)]
    ends = [float(late.min()), float(late.max())] if len(late) else [0.0, 1.0]
    if keep is not None:
        ends = [min(ends[0], keep), max(ends[1], keep)]
    room = 0.25 * (ends[1] - ends[0]) or max(1e-9, 0.1 * abs(ends[1]))
    ax.set_ylim(ends[0] - room, ends[1] + room)
