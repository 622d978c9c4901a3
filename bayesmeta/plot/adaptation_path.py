"""The way of the fine-tuning: where gradient steps take θ from each draw of φ.

Every line begins at what a draw of φ says of a task that nothing is known of, and ends where so many steps on the
observations of the task lead. Lines that still move at their end want more steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from bayesmeta.evidence.conditional import constrained
from bayesmeta.plot.picking import Element, one_site, picked_elements
from bayesmeta.plot.style import BLACK, BLUE, LIGHT, legend, new_axes, short, spread, thinned, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmeta.adapt import Adapted

__all__ = ["adaptation_path"]

Array = npt.NDArray[np.float64]

MOST_LINES = 60


def adaptation_path(
    adapted: Adapted,
    *,
    name: str | None = None,
    site: str | None = None,
    elements: int | Sequence[int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the path of θ of one task, step by step: one number of it against the steps, or two against each other.

    Args:
        adapted: What ``posterior.adapt(tasks, method="gradient", options={"path": True})`` returned.
        name: Which task; the first by default.
        site: Name of the θ site; the first by default.
        elements: One or two numbers of it, counted over its flattened shape; by default the first two, where there
            are two.
        ax: Axes to draw in; a new figure by default.

    Returns:
        The axes. Of more than 60 draws an even spread is drawn.

    Raises:
        NotAvailableError: No path was kept, or the method takes no steps.
        UnknownNameError: No such task or site.
        OptionError: No such element, or more than two.
    """
    position = 0 if name is None else adapted.tasks.index(name)
    chosen = picked_elements(one_site(tuple(adapted._program.structure.theta), site), elements, 2, at_most=2)
    paths = _paths(adapted, position, chosen)
    ax = new_axes() if ax is None else ax
    if len(chosen) == 1:
        _draw_steps(ax, paths[0])
        ax.set(xlabel="steps", ylabel=chosen[0].label)
    else:
        _draw_plane(ax, *paths)
        ax.set(xlabel=chosen[0].label, ylabel=chosen[1].label)
    draws = adapted.path.shape[1]
    left = thinned(paths[0].shape[1], draws, "draws")
    name = short(adapted.names[position], 40)
    ax.set_title(f"{name}: {len(paths[0]) - 1} steps{left}", fontsize="medium", loc="left")
    legend(ax, "below")
    return tidy(ax)


def _paths(adapted: Adapted, position: int, chosen: list[Element]) -> list[Array]:
    """The values of each number on its way (steps + 1, S) for an even spread of draws."""
    pick = torch.from_numpy(spread(adapted.path.shape[1], MOST_LINES))
    phi = adapted.phi_coordinates[pick][:, [position]]
    values = [
        constrained(adapted._program, adapted.tasks[[position]], phi, points[pick][:, [position]])
        for points in adapted.path
    ]
    return [np.stack([element.of(one)[:, 0] for one in values]) for element in chosen]


def _draw_steps(ax: Axes, path: Array) -> None:
    steps = np.arange(len(path))
    ax.plot(steps, path, color=LIGHT, linewidth=0.8, zorder=1)
    ax.plot([], [], color=LIGHT, linewidth=0.8, label="each draw of φ")
    ax.plot(steps, np.median(path, 1), color=BLUE, linewidth=1.8, zorder=2, label="median")


def _draw_plane(ax: Axes, x: Array, y: Array) -> None:
    ax.plot(x, y, color=LIGHT, linewidth=0.8, zorder=1)
    ends: dict[str, Any] = {"s": 16, "linewidths": 0.8}
    ax.scatter(x[0], y[0], facecolors="white", edgecolors=BLACK, zorder=2, label="start, from each draw of φ", **ends)
    ax.scatter(x[-1], y[-1], facecolors=BLUE, edgecolors=BLUE, zorder=3, label="end", **ends)
