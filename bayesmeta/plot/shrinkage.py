"""Shrinkage: what each task says alone, what all say together, and the hierarchical posterior between them.

Each task is a column: a ring for the task alone (no pooling), a dot and a bar for its posterior in the
population (partial pooling), and a thin line from the one to the other, which is the shrinkage. Behind them,
the estimate with all tasks as one (complete pooling), and the middle of the population, which may depend on the
context of the task. What these are, and how they are found, is said in `bayesmeta.plot.pooling`. A task whose
observations leave its θ open has no ring, and a θ of very many coordinates has none for any task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bayesmeta.errors import OptionError, UnknownNameError, unknown
from bayesmeta.plot.picking import of_the_fit, one_site
from bayesmeta.plot.pooling import Drawn, Pooling, pooling
from bayesmeta.plot.style import (
    BLACK,
    BLUE,
    GREY,
    RED,
    check_level,
    legend,
    new_axes,
    noun,
    plain,
    short,
    spread,
    thinned,
    tidy,
)
from bayesmeta.sites import element_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmeta.posterior import Posterior

__all__ = ["shrinkage"]

MOST_TASKS = 100
MOST_TICKS = 25
ROOM = 60  # letters side by side below the axes
BEYOND = 0.8  # heights of all intervals together


@dataclass(frozen=True)
class _Columns:
    """What is drawn, a number per task (T,) from left to right."""

    place: Tensor
    sizes: Tensor
    lower: Tensor
    middle: Tensor
    upper: Tensor
    pooled: Pooling


def shrinkage(
    posterior: Posterior,
    *,
    site: str | None = None,
    element: int = 0,
    level: float = 0.9,
    along: str | None = None,
    label: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one element of θ per task: alone, in its population, and what the population says.

    Args:
        posterior: The fitted population.
        site: Name of the θ site; the first by default.
        element: Which element of the site, counted over its flattened shape.
        level: Probability of the interval drawn for each task.
        along: A context that gives the horizontal axis, the area of a ring then grows with the number of
            observations; by default tasks stand in the order of that number. Of more than 100 tasks an even
            spread is drawn.
        label: Label of the vertical axis, with its unit.
        ax: Axes to draw in; a new figure by default.

    Returns:
        The axes.

    Raises:
        NotAvailableError: The tasks have no θ.
        UnknownNameError: No such site, or no such context.
        OptionError: No such element, a level outside (0, 1), or a context of several numbers per task.
    """
    found = one_site(posterior.collapsed.program.structure.theta.items, site)
    site = found.name
    shape = found.shape
    _check(level, element, shape)
    order = _order(posterior.tasks.sizes if along is None else _context(posterior, along))
    columns = _columns(posterior, site, element, level, along, order)
    ax = new_axes(min(9.5, 6.4 + 0.04 * len(order)), 4.8) if ax is None else ax
    _draw(ax, columns, plain(noun(posterior)), along, level)
    _label_horizontal(ax, posterior, columns, along, [posterior.tasks.names[k] for k in order.tolist()])
    ax.set_ylabel(label or element_labels(site, shape)[element])
    legend(ax)
    return tidy(ax)


# --- what is drawn ------------------------------------------------------------------------------------------


def _check(level: float, element: int, shape: tuple[int, ...]) -> None:
    count = torch.Size(shape).numel()
    if not 0 <= element < count:
        raise OptionError(f"element must lie between 0 and {count - 1}, got {element}")
    check_level(level)


def _context(posterior: Posterior, along: str) -> Tensor:
    context = posterior.tasks.context
    if along not in context:
        raise UnknownNameError(unknown("context", along, list(context)))
    if context[along].dim() > 1:
        shape = tuple(context[along].shape[1:])
        raise OptionError(f"along: context {along!r} has shape {shape} per task; wanted one number")
    return context[along]


def _order(key: Tensor) -> Tensor:
    """Tasks from left to right; of very many, an even spread."""
    return torch.argsort(key, stable=True)[spread(len(key), MOST_TASKS)]


def _columns(posterior: Posterior, site: str, element: int, level: float, along: str | None, order: Tensor) -> _Columns:
    drawn = _drawn(posterior, order)
    values = drawn.theta[site]
    draws = values.reshape(*values.shape[:2], -1)[..., element]
    tail = torch.tensor([(1 - level) / 2, 0.5, (1 + level) / 2], dtype=torch.float64)
    lower, middle, upper = torch.quantile(draws, tail, dim=0)
    rank = torch.arange(len(order), dtype=torch.float64)
    return _Columns(
        place=rank if along is None else _context(posterior, along)[order],
        sizes=posterior.tasks.sizes[order],
        lower=lower,
        middle=middle,
        upper=upper,
        pooled=_pooled(posterior, site, element, order, drawn),
    )


def _drawn(posterior: Posterior, order: Tensor) -> Drawn:
    """θ of the tasks at these positions; of few among very many no others are drawn."""
    if len(order) == len(posterior.tasks) or "theta" in vars(posterior):
        return Drawn({name: values[:, order] for name, values in posterior.theta.items()}, posterior.phi_coordinates)
    some = of_the_fit(posterior, order.tolist(), posterior.info.seed)
    return Drawn(some.theta, some.phi_coordinates[:, 0])


def _pooled(posterior: Posterior, site: str, element: int, order: Tensor, drawn: Drawn) -> Pooling:
    found = pooling(posterior, site, order, drawn)
    parts = (found.alone, found.together, found.population)
    alone, together, population = (values.reshape(len(values), -1)[:, element] for values in parts)
    return Pooling(alone, together, population, found.middle)


# --- drawing ------------------------------------------------------------------------------------------------


def _draw(ax: Axes, columns: _Columns, noun: str, along: str | None, level: float) -> None:
    _draw_alone(ax, columns, columns.pooled.alone, noun, along)
    _draw_together(ax, columns)
    _draw_population(ax, columns.place, columns.pooled, along)
    ax.vlines(columns.place, columns.lower, columns.upper, color=BLUE, alpha=0.4, linewidth=2.5, zorder=3)
    ax.scatter(columns.place, columns.middle, s=16, color=BLUE, zorder=4)
    label = f"{noun} in the population: median and {level:.0%} interval"
    ax.plot([], [], "-o", color=BLUE, markersize=4, label=label)


def _draw_alone(ax: Axes, columns: _Columns, alone: Tensor, noun: str, along: str | None) -> None:
    """A ring for the task alone, with a line to its posterior; a triangle where it is far off; NaN is not drawn."""
    there = ~torch.isnan(alone)
    if not bool(there.any()):
        return
    low, high = _bounds(columns)
    shown = alone.clamp(low, high)
    ends = (columns.place[there], shown[there], columns.middle[there])
    ax.vlines(*ends, color=GREY, alpha=0.5, linewidth=0.8, zorder=2)
    area = torch.full_like(alone, 22) if along is None else 14 + 150 * columns.sizes / columns.sizes.max()
    style: dict[str, Any] = {"facecolors": "white", "edgecolors": GREY, "linewidths": 1.0, "zorder": 2.5}
    for marker, which in (("o", alone == shown), ("v", alone < low), ("^", alone > high)):
        if bool(which.any()):
            ax.scatter(columns.place[which], shown[which], s=area[which].numpy(), marker=marker, **style)
    ax.plot([], [], "o", mfc="white", mec=GREY, markersize=5, label=f"{noun} alone (no pooling)")
    if bool((alone < low).any() or (alone > high).any()):
        ax.plot([], [], "^", mfc="white", mec=GREY, markersize=5, label=f"{noun} alone, beyond the picture")


def _bounds(columns: _Columns) -> tuple[float, float]:
    """How far from the intervals a task alone is still drawn where it is: little data may say anything."""
    low, high = float(columns.lower.min()), float(columns.upper.max())
    room = BEYOND * (high - low)
    return low - room, high + room


def _draw_together(ax: Axes, columns: _Columns) -> None:
    low, high = _bounds(columns)
    height = float(columns.pooled.together[0])
    if low <= height <= high:
        label = "all as one (complete pooling)"
        ax.axhline(height, color=RED, linewidth=1.2, linestyle="--", zorder=1, label=label)


def _draw_population(ax: Axes, place: Tensor, pooled: Pooling, along: str | None) -> None:
    """The middle of the population: a line where it is one, else a dash for each task."""
    population, label = pooled.population, f"{pooled.middle} of the population"
    same = bool(torch.isclose(population, population[0], rtol=1e-9, atol=1e-12).all())
    if same:
        ax.axhline(float(population[0]), color=BLACK, linewidth=1.2, zorder=1.5, label=label)
    elif along is not None:
        ax.plot(place, population, color=BLACK, linewidth=1.2, zorder=1.5, label=label)
    else:
        ax.scatter(place, population, marker="_", s=40, color=BLACK, linewidths=1.2, zorder=3.5)
        ax.plot([], [], "_", color=BLACK, markersize=7, label=f"{label}, given its context")


def _label_horizontal(ax: Axes, posterior: Posterior, columns: _Columns, along: str | None, names: list[str]) -> None:
    if along is None:
        _ticks(ax, columns.sizes, list(map(short, names)), plain(noun(posterior)))
    else:
        ax.set_xlabel(plain(along))
    ax.set_xlabel(ax.get_xlabel() + thinned(len(names), len(posterior.tasks)))


def _ticks(ax: Axes, sizes: Tensor, names: list[str], noun: str) -> None:
    """Names below few tasks, numbers of observations below many."""
    ax.set_xlim(-1, len(sizes))
    equal = bool((sizes == sizes[0]).all())
    if len(sizes) > MOST_TICKS and equal:
        ax.set_xticks([])
        ax.set_xlabel(f"{noun} (observations: {int(sizes[0]):,} each)")
        return
    if len(sizes) > MOST_TICKS:
        places = _places(sizes)
        ax.set_xticks(places, [f"{int(sizes[place]):,}" for place in places])
        ax.set_xlabel(f"observations per {noun}, fewest first")
        return
    counts = [""] * len(names) if equal else [f" ({size:,})" for size in sizes.tolist()]
    labels = [name + count for name, count in zip(names, counts, strict=True)]
    crowded = sum(len(label) + 2 for label in labels) > ROOM
    ax.set_xticks(range(len(names)), labels, rotation=45 if crowded else 0, ha="right" if crowded else "center")
    ax.set_xlabel(f"{noun} (observations: {f'{int(sizes[0]):,} each' if equal else 'in brackets, fewest first'})")


def _places(sizes: Tensor) -> list[int]:
    """The first task of each number of observations, where there is room, and the last task."""
    room, last = max(1.0, len(sizes) / MOST_TICKS), len(sizes) - 1
    found: list[int] = []
    for place in range(len(sizes)):
        first = place == 0 or sizes[place] != sizes[place - 1]
        if first and (not found or place - found[-1] >= room) and last - place >= room:
            found.append(place)
    return [*found, last]
