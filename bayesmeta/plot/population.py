"""The population: how θ of a task that nobody has seen is distributed, and where the tasks of the fit lie in it.

For each draw of φ one θ is drawn from p(θ | φ): the curve is what the fit expects of the next task, with the
uncertainty about φ in it. Below it stand the tasks of the fit, each with its mean and its interval. Their means spread
less than the curve, being drawn to its middle; a gap where the curve is highest, or tasks out in its tails, say that
p(θ | φ) has the wrong shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bayesmeta.diagnose.replicates import newcomers
from bayesmeta.errors import DataError, UnknownNameError, unknown
from bayesmeta.plot.corner import Range, corner
from bayesmeta.plot.picking import Element, of_the_fit, one_site, picked_elements, picked_tasks, support_of
from bayesmeta.plot.smooth import contour_heights, density, density_of_pairs, window
from bayesmeta.plot.style import BLACK, BLUE, GREY, Grid, check_level, noun, percent, plain, spread, thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmeta.posterior import Posterior

__all__ = ["population"]

Array = npt.NDArray[np.float64]

MOST_ELEMENTS = 4
MOST_TASKS = 100
MOST_ELLIPSES = 30
MOST_DRAWS = 4000
INNER = 0.5  # probability of the inner region, and of the ellipses
DEPTH = 0.8  # of the tasks below the curve, in heights of it


@dataclass(frozen=True)
class _Number:
    """One number of θ: draws for a new task (S,), those of the tasks shown (S, T), their support and axis."""

    element: Element
    new: Array
    seen: Array
    support: tuple[float, float]
    range: Range


@dataclass(frozen=True)
class _Words:
    """What the legend says: of the new task, of the tasks of the fit, and the probability of the intervals."""

    new: str
    seen: str
    level: float


def population(
    posterior: Posterior,
    *,
    site: str | None = None,
    elements: int | Sequence[int] | None = None,
    context: Mapping[str, Any] | None = None,
    level: float = 0.9,
    seed: int = 0,
    ax: Axes | Sequence[Axes] | Grid | None = None,
) -> Grid:
    """Draw the distribution of θ of a new task, and the tasks of the fit on it.

    Several numbers of θ are drawn each by itself and in pairs. Of more than 100 tasks an even spread is drawn.

    Args:
        posterior: The fitted population.
        site: Name of the θ site; the first by default.
        elements: Which numbers of it, counted over its flattened shape; by default the first 4.
        context: The context of the new task by name; what is not given is the mean over the tasks of the fit.
        level: Probability of the interval of each task, and of the outer region of a pair.
        seed: Seeds the draws of the new θ.
        ax: Axes to draw in, one for each panel; a new figure by default.

    Returns:
        The axes (k, k) for k numbers.

    Raises:
        NotAvailableError: The task has no θ.
        UnknownNameError: No such site, or no such context.
        OptionError: No such element, a level outside (0, 1), or not as many axes as panels.
        DataError: A context of another shape than in the fit.
    """
    check_level(level)
    found = one_site(tuple(posterior.collapsed.program.structure.theta), site)
    chosen = picked_elements(found, elements, MOST_ELEMENTS)
    new, where = _newcomer(posterior, context, seed)
    numbers = _numbers(posterior, chosen, new, level, seed)
    words = _words(posterior, where, numbers[0].seen.shape[1], level)
    return corner(
        [number.range for number in numbers],
        lambda panel, i: _draw_marginal(panel, numbers[i], words, alone=len(numbers) == 1),
        lambda panel, i, j: _draw_pair(panel, numbers[i], numbers[j], words),
        ax,
    )


# --- what is drawn --------------------------------------------------------------------------------------------


def _newcomer(posterior: Posterior, context: Mapping[str, Any] | None, seed: int) -> tuple[dict[str, Tensor], str]:
    """θ by site of one new task (S, 1, ...), and where it stands, in words."""
    known, given = posterior.tasks.context, dict(context or {})
    for name in given:
        if name not in known:
            raise UnknownNameError(unknown("context", name, list(known)))
    values = {}
    for name, tensor in known.items():
        one = torch.as_tensor(given[name], dtype=torch.float64) if name in given else tensor.mean(0)
        if one.shape != tensor.shape[1:]:
            raise DataError(f"context: {name!r} has shape {tuple(one.shape)}, in the fit {tuple(tensor.shape[1:])}")
        values[name] = one.unsqueeze(0)
    new = newcomers(posterior, 1, values, draws=None, seed=seed)
    return new.theta, _place(values, list(given))


def _place(values: Mapping[str, Tensor], given: list[str]) -> str:
    """The contexts (1, ...) in words."""
    left = [name for name in values if name not in given]
    words = [f"{name} = {float(values[name]):.4g}" if values[name].numel() == 1 else f"that {name}" for name in given]
    words += [f"mean {name}" for name in left] if len(left) <= 2 else [f"the mean of {len(left)} contexts"]
    return ", ".join(words)


def _numbers(
    posterior: Posterior, chosen: list[Element], new: dict[str, Tensor], level: float, seed: int
) -> list[_Number]:
    positions = picked_tasks(posterior.tasks, None, MOST_TASKS)
    some = len(positions) < len(posterior.tasks)
    seen = of_the_fit(posterior, positions, seed).theta if some else posterior.theta
    return [_number(element, element.of(new)[:, 0], element.of(seen), level) for element in chosen]


def _number(element: Element, new: Array, seen: Array, level: float) -> _Number:
    new = new[spread(len(new), MOST_DRAWS)]
    support = support_of(element.site, new, seen.reshape(-1))
    low, high = window(new, support)
    lower, _, upper = _intervals(seen, level)
    room = 0.05 * (high - low)
    ends = Range(element.label, min(low, float(lower.min()) - room), max(high, float(upper.max()) + room))
    return _Number(element, new, seen, support, ends)


def _words(posterior: Posterior, where: str, shown: int, level: float) -> _Words:
    one, count = noun(posterior), len(posterior.tasks)
    new = f"a new {one}" + (f", at {where}" if where else "")
    return _Words(plain(new), plain(one) + thinned(shown, count), level)


# --- drawing --------------------------------------------------------------------------------------------------


def _draw_marginal(ax: Axes, number: _Number, words: _Words, *, alone: bool) -> None:
    top = _draw_curve(ax, number, words)
    count = number.seen.shape[1]
    order = np.argsort(number.seen.mean(0), kind="stable")
    low, middle, high = _intervals(number.seen[:, order], words.level)
    place = -top * (0.05 + DEPTH * (np.arange(count) + 0.5) / count)
    thick = 2.0 if count <= 20 else 1.0
    ax.hlines(place, low, high, color=GREY, alpha=0.6, linewidth=thick, zorder=2)
    ax.scatter(middle, place, s=10 if count <= 30 else 5, color=BLACK, linewidths=0, zorder=3)
    label = f"{words.seen}: mean and {percent(words.level)} interval"
    ax.plot([], [], "-o", color=GREY, markerfacecolor=BLACK, markeredgewidth=0, markersize=4, label=label)
    ax.axhline(0.0, color=BLACK, linewidth=0.6, zorder=1)
    ax.set_ylim(-top * (0.1 + DEPTH), 1.08 * top)
    ax.set_ylabel("density")
    if alone:
        ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= 1.08 * top])


def _draw_curve(ax: Axes, number: _Number, words: _Words) -> float:
    """The density of a new task; its height."""
    if np.ptp(number.new) == 0:
        ax.plot([number.new[0]] * 2, [0, 1], color=BLUE, linewidth=1.6, zorder=4, label=f"{words.new}: a point")
        return 1.0
    at = np.linspace(number.range.low, number.range.high, 256)
    height = density(number.new, at, number.support)
    ax.fill_between(at, 0.0, height, color=BLUE, alpha=0.2, linewidth=0, zorder=3)
    ax.plot(at, height, color=BLUE, linewidth=1.4, zorder=4, label=words.new)
    return float(height.max())


def _intervals(seen: Array, level: float) -> tuple[Array, Array, Array]:
    """Lower ends, means and upper ends (T,) of draws (S, T)."""
    low, high = np.quantile(seen, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, seen.mean(0), high


def _draw_pair(ax: Axes, first: _Number, second: _Number, words: _Words) -> None:
    if np.ptp(first.new) > 0 and np.ptp(second.new) > 0:
        across, up = (np.linspace(number.range.low, number.range.high, 80) for number in (first, second))
        lattice = density_of_pairs(first.new, second.new, across, up)
        heights = contour_heights(lattice, (INNER, words.level))
        if heights[0] < heights[-1]:
            ax.contour(across, up, lattice, heights, colors=[BLUE], linewidths=[0.9, 1.6], zorder=3)
            label = f"{words.new}: {percent(INNER)} and {percent(words.level)} regions"
            ax.plot([], [], color=BLUE, linewidth=1.2, label=label)
    x, y = first.seen.mean(0), second.seen.mean(0)
    drawn = len(x) <= MOST_ELLIPSES
    if drawn:
        _draw_ellipses(ax, first.seen, second.seen)
    ax.scatter(x, y, s=10, color=BLACK, linewidths=0, zorder=4)
    style: dict[str, Any] = {"marker": "o", "linestyle": "-" if drawn else "", "color": GREY}
    label = f"{words.seen}: mean" + (f" and {percent(INNER)} ellipse" if drawn else "")
    ax.plot([], [], markerfacecolor=BLACK, markeredgewidth=0, markersize=4, label=label, **style)


def _draw_ellipses(ax: Axes, x: Array, y: Array) -> None:
    """The normal region of probability `INNER` of each task, from draws (S, T)."""
    from matplotlib.patches import Ellipse

    radius = np.sqrt(-2 * np.log(1 - INNER))
    for k in range(x.shape[1]):
        pair = np.stack([x[:, k], y[:, k]])
        if pair.shape[1] < 2:
            return
        sizes, directions = np.linalg.eigh(np.cov(pair))
        width, height = 2 * radius * np.sqrt(np.maximum(sizes, 0.0))
        angle = float(np.degrees(np.arctan2(directions[1, 0], directions[0, 0])))
        centre = (float(pair[0].mean()), float(pair[1].mean()))
        ax.add_patch(Ellipse(centre, width, height, angle=angle, fill=False, edgecolor=GREY, linewidth=0.6, zorder=2))
