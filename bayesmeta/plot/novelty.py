"""Which tasks do not belong to the population, and what is strange about them.

Each task is a row, the strangest on top, with three probabilities on a logarithmic axis: of the task as a whole, of its
θ, and of how its observations scatter about θ. Near zero, on the left, the population hardly ever makes such a task.
Scatter has two ends, too much and too little; twice the nearer one is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bayesmeta.errors import NotAvailableError, OptionError
from bayesmeta.plot.style import BLACK, BLUE, GREY, RED, legend, new_axes, short, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmeta.diagnose.novelty import Novelty

Array = npt.NDArray[np.float64]

__all__ = ["novelty"]

MOST_LETTERS = 28
SHORT = {
    "θ is far out": "θ far out",
    "observations scatter more than in the population": "scatters more",
    "observations scatter less than in the population": "scatters less",
}
MARKERS = (("task as a whole", "o"), ("θ", "D"), ("scatter of its observations", "s"))


def novelty(result: Novelty, *, level: float = 0.01, most: int = 30, ax: Axes | None = None) -> Axes:
    """Draw the probabilities of tasks under the population, strangers in red and in words.

    Args:
        result: What `posterior.novelty(tasks)` returned.
        level: Which tasks are strangers: of those that belong, a share of at most this is taken for one.
        most: How many tasks are drawn; the strangest, where there are more.
        ax: Axes to draw in; a new figure by default.

    Returns:
        The axes.

    Raises:
        OptionError: A level outside (0, 1), or no tasks to be drawn.
        NotAvailableError: No task has observations.
    """
    if not isinstance(most, int) or most < 1:
        raise OptionError(f"most must be a whole number of at least 1, got {most!r}")
    parts = result.part(level)
    p_value = result.p_value().numpy()
    seen = np.flatnonzero(~np.isnan(p_value))
    if not len(seen):
        raise NotAvailableError("no task has observations, so that none can be strange: pass tasks with some")
    order = seen[np.lexsort((result.tail_probability.numpy()[seen], p_value[seen]))][:most]
    ax = new_axes(7.2, 1.6 + 0.24 * max(len(order), 4)) if ax is None else ax
    _draw(ax, _probabilities(result)[:, order], [bool(parts[t]) for t in order], result.replicates)
    _limit(ax, level, _probabilities(result)[:, order])
    for row, t in enumerate(order):
        if parts[t]:
            ax.annotate(
                _short(parts[t]), (1.02, row), xycoords=ax.get_yaxis_transform(), va="center", fontsize=8, color=RED
            )
    _label(ax, result, order, sum(map(bool, parts)))
    return tidy(ax)


def _probabilities(result: Novelty) -> Array:
    """Of the whole, of θ, and twice that of scatter's nearer end (3, T); NaN where there is none."""
    noise = result.noise_probability.numpy()
    both = 2 * np.minimum(noise, 1 - noise)
    return np.stack([result.tail_probability.numpy(), result.theta_probability.numpy(), both])


def _short(part: str) -> str:
    for words, fewer in SHORT.items():
        part = part.replace(words, fewer)
    return part


def _limit(ax: Axes, level: float, values: Array) -> None:
    """A task is a stranger where one of its probabilities is left of the line: the level, shared among them."""
    count = int((~np.isnan(values)).sum(0).max())
    name = f"{level:g}" if count == 1 else f"{level:g} / {count}"
    ax.axvline(
        level / count, color=BLACK, linewidth=0.8, linestyle="--", zorder=1, label=f"{name}: strangers left of it"
    )


def _draw(ax: Axes, values: Array, strange: list[bool], replicates: int) -> None:
    least = 0.5 / replicates
    rows = np.arange(values.shape[1])
    red = np.array(strange)
    shown = np.clip(values, least, None)
    with np.errstate(invalid="ignore"):
        ends = np.nanmin(shown, 0), np.nanmax(shown, 0)
    ax.hlines(rows, *ends, color=np.where(red, RED, GREY), linewidth=0.8, alpha=0.5, zorder=2)
    for (name, marker), row in zip(MARKERS, shown, strict=True):
        there = ~np.isnan(row)
        if not there.any():
            continue
        for which, color in ((there & ~red, BLUE), (there & red, RED)):
            face = color if marker == "o" else "white"
            ax.scatter(row[which], rows[which], s=26, marker=marker, facecolors=face, edgecolors=color, zorder=3)
        ax.plot([], [], marker, mfc=GREY if marker == "o" else "white", mec=GREY, markersize=5, label=name)
    ax.set_xscale("log")
    ax.set_xlim(0.7 * least, 1.4)


def _label(ax: Axes, result: Novelty, order: npt.NDArray[np.intp], strangers: int) -> None:
    names = [result.names[t] for t in order]
    ax.set_yticks(range(len(names)), [short(name, MOST_LETTERS) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    seen = int((result.sizes > 0).sum())
    shown = f", the {len(order)} strangest drawn" if len(order) < seen else ""
    shown += f" ({len(result) - seen:,} without observations)" if seen < len(result) else ""
    ax.set_title(f"{strangers:,} of {len(result):,} tasks strange{shown}", loc="left", fontsize="medium", pad=40)
    ax.set_ylabel("task")
    ax.set_xlabel(f"share of {result.replicates:,} tasks of the population that are stranger")
    legend(ax, columns=2)
