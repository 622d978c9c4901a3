"""Panels for several numbers that belong together: each by itself on the diagonal, pairs of them below it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bayesmeta.plot.style import Grid, grid_of, new_grid, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Range", "corner", "tick_few"]

WIDEST = 10.0  # inches of a figure
LONGEST = 70  # letters that fit above a panel


class Range(NamedTuple):
    """An axis: its label, and from where to where it goes."""

    label: str
    low: float
    high: float


def corner(
    ranges: Sequence[Range],
    marginal: Callable[[Axes, int], None],
    pair: Callable[[Axes, int, int], None],
    ax: Axes | Sequence[Axes] | Grid | None,
) -> Grid:
    """Draw k numbers in panels (k, k), of which the upper right ones stay empty but for the legend.

    Args:
        ranges: The axis of each number (k,).
        marginal: Draws number i by itself.
        pair: Draws number i (horizontal) with number j (vertical).
        ax: k² axes to draw in, row by row; a new figure by default.
    """
    k = len(ranges)
    size = 5.6 if k == 1 else min(3.2, WIDEST / k)
    panels = new_grid(k, k, size, 0.75 * size if k == 1 else size) if ax is None else grid_of(ax, k * k).reshape(k, k)
    for j in range(k):
        for i in range(k):
            if i > j:
                panels[j, i].set_axis_off()
                continue
            if i == j:
                marginal(panels[j, i], i)
            else:
                pair(panels[j, i], i, j)
            _settle(panels[j, i], ranges, i, j)
    _legend(panels)
    return panels


def tick_few(ax: Axes) -> None:
    """Few enough ticks for a small panel."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.tick_params(labelsize="small")


def _settle(ax: Axes, ranges: Sequence[Range], i: int, j: int) -> None:
    """Limits, labels and ticks of the panel in column i and row j."""
    from matplotlib.ticker import MaxNLocator

    k = len(ranges)
    ax.set_xlim(ranges[i].low, ranges[i].high)
    if k > 1:
        tick_few(ax)
    if i < j:
        ax.set_ylim(ranges[j].low, ranges[j].high)
        ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.tick_params(labelleft=i == 0)
        ax.set_ylabel(ranges[j].label if i == 0 else "")
    elif k > 1:
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.set_ylabel("density" if k == 1 or j == 0 else "")
    ax.tick_params(labelbottom=j == k - 1)
    ax.set_xlabel(ranges[i].label if j == k - 1 else "")
    tidy(ax)


def _legend(panels: Grid) -> None:
    """One legend for all panels: in the empty corner, or above a single panel."""
    k = len(panels)
    found: dict[str, Any] = {}
    for panel in (panels[0, 0], panels[k - 1, 0]):
        handles, labels = panel.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    if k == 1:
        columns = 1 if sum(len(label) for label in found) > LONGEST else 2
        where: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": columns}
    else:
        where = {"loc": "upper right", "bbox_to_anchor": (1.0, 1.0)}
    legend = panels[0, k - 1].legend(list(found.values()), list(found), frameon=False, fontsize="small", **where)
    legend.set_in_layout(k == 1)  # it may reach over the empty panels
