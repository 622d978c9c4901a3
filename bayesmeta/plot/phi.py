"""What the data have taught about φ: each number by itself and in pairs, the prior beside the posterior.

Every panel goes to where the posterior is. A prior that reaches further is cut off there, and the panel says how much
of it lies outside: a prior of which nearly all does was told much by the data. One that looks flat is not thereby
harmless, and one that ends where the posterior does has a say in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bayesmeta.errors import HierarchyError, OptionError, UnknownNameError, unknown
from bayesmeta.plot.corner import Range, corner, tick_few
from bayesmeta.plot.picking import Element, elements_of, support_of
from bayesmeta.plot.smooth import density, window
from bayesmeta.plot.style import (
    BLUE,
    GREY,
    LIGHT,
    Grid,
    check_level,
    grid_legend,
    grid_of,
    hide_empty,
    new_grid,
    percent,
    spread,
    thinned,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmeta.posterior import Posterior
    from bayesmeta.prior import Prior

__all__ = ["phi"]

Array = npt.NDArray[np.float64]

MOST_PAIRED = 6  # numbers that are drawn in pairs unless asked for
MOST = 24  # numbers that are drawn at all
MOST_POINTS = 1000
PRIOR_DRAWS = 2000
FEWEST = 10  # different draws that have a density; fewer are lines
COLUMNS = 4
HEADROOM = 1.2  # heights of the posterior
WORTH_SAYING = 0.01  # of the prior outside of a panel


@dataclass(frozen=True)
class _Number:
    """One number of φ: its draws (S,), those of the prior (R,) or None, and the axis they are drawn on."""

    element: Element
    after: Array
    before: Array | None
    support: tuple[float, float]
    range: Range

    @property
    def outside(self) -> float:
        """The share of the prior that is not shown."""
        if self.before is None:
            return 0.0
        return float(np.mean((self.before < self.range.low) | (self.before > self.range.high)))


def phi(
    posterior: Posterior,
    *,
    sites: str | Sequence[str] | None = None,
    prior: bool | Prior = True,
    pairs: bool | None = None,
    level: float = 0.9,
    seed: int = 0,
    ax: Axes | Sequence[Axes] | Grid | None = None,
) -> Grid:
    """Draw the posterior of φ, number by number and in pairs, with its prior.

    Numbers that are the same in every draw, as the diagonal of a Cholesky factor may be, are left out. Of more than
    24 numbers an even spread is drawn.

    Args:
        posterior: The fitted population.
        sites: Names of the sites of φ; all by default.
        prior: Whether to draw the prior too, or draws of it as `bayesmeta.prior` returns them. A hierarchy that
            cannot be drawn from has none.
        pairs: Draw pairs below the diagonal; by default where there are 6 numbers or fewer.
        level: Probability of the interval drawn for each number.
        seed: Seeds the draws of the prior.
        ax: Axes to draw in, one for each panel; a new figure by default.

    Returns:
        The axes: (k, k) with pairs, else (rows, columns).

    Raises:
        UnknownNameError: No such site.
        OptionError: A level outside (0, 1), or not as many axes as panels.
    """
    check_level(level)
    chosen, count = _chosen(posterior, sites)
    before = _prior(posterior, prior, seed)
    numbers = [_number(element, posterior, before) for element in chosen]
    paired = len(numbers) <= MOST_PAIRED if pairs is None else pairs
    if not paired or len(numbers) == 1:
        return _side_by_side(numbers, count, level, ax)
    return corner(
        [number.range for number in numbers],
        lambda panel, i: _draw_marginal(panel, numbers[i], level),
        lambda panel, i, j: _draw_pair(panel, numbers[i], numbers[j]),
        ax,
    )


# --- what is drawn --------------------------------------------------------------------------------------------


def _chosen(posterior: Posterior, sites: str | Sequence[str] | None) -> tuple[list[Element], int]:
    """The numbers to draw, and how many there are."""
    known = {site.name: site for site in posterior.collapsed.program.structure.phi}
    names = list(known) if sites is None else [sites] if isinstance(sites, str) else list(sites)
    for name in names:
        if name not in known:
            raise UnknownNameError(unknown("site", name, known))
    if not names:
        raise OptionError("sites: got none; name some, or leave it out for all")
    numbers = [element for name in names for element in elements_of(known[name])]
    moving = [element for element in numbers if np.ptp(element.of(posterior.phi)) > 0]
    numbers = moving or numbers
    return [numbers[k] for k in spread(len(numbers), MOST)], len(numbers)


def _prior(posterior: Posterior, prior: bool | Prior, seed: int) -> Prior | None:
    if not isinstance(prior, bool):
        return prior
    if not prior:
        return None
    try:
        return posterior.prior(PRIOR_DRAWS, seed)
    except HierarchyError:
        return None


def _number(element: Element, posterior: Posterior, prior: Prior | None) -> _Number:
    after = element.of(posterior.phi)
    before = None if prior is None else element.of(prior.phi)
    support = support_of(element.site, after, *([] if before is None else [before]))
    return _Number(element, after, before, support, Range(element.label, *window(after, support)))


# --- drawing --------------------------------------------------------------------------------------------------


def _side_by_side(numbers: list[_Number], count: int, level: float, ax: Axes | Sequence[Axes] | Grid | None) -> Grid:
    """Every number by itself, in a grid."""
    k = len(numbers)
    columns = min(k, COLUMNS)
    if ax is None:
        panels = new_grid(-(-k // columns), columns, 5.6 if k == 1 else 2.6, 4.0 if k == 1 else 2.1)
    else:
        panels = grid_of(ax, k).reshape(1, k)
    for panel, number in zip(panels.reshape(-1), numbers, strict=False):
        _draw_marginal(panel, number, level)
        panel.set(xlim=number.range[1:], xlabel=number.range.label, yticks=[])
        panel.spines["left"].set_visible(False)
        tick_few(tidy(panel))
    for panel in panels[:, 0]:
        panel.set_ylabel("density")
    hide_empty(panels, k)
    grid_legend(panels, whole=ax is None)
    if k < count:
        panels[0, 0].set_title("φ" + thinned(k, count, "numbers"), loc="left", fontsize="medium")
    return panels


def _draw_marginal(ax: Axes, number: _Number, level: float) -> None:
    at = np.linspace(number.range.low, number.range.high, 256)
    top = _draw_prior(ax, number, at)
    draws = np.unique(number.after)
    if len(draws) < FEWEST:
        top = top or 1.0
        label = "posterior: a point" if len(draws) == 1 else "posterior: each draw"
        ax.vlines(draws, 0.0, top, color=BLUE, linewidth=1.6, zorder=3, label=label)
    else:
        top = max(top, _draw_posterior(ax, number, at, level))
    ax.set_ylim(0, HEADROOM * top)


def _draw_prior(ax: Axes, number: _Number, at: Array) -> float:
    """The density of the prior where there is one; its height."""
    if number.before is None or np.ptp(number.before) == 0:
        return 0.0
    height = density(number.before, at, number.support)
    ax.fill_between(at, 0.0, height, color=LIGHT, alpha=0.5, linewidth=0, zorder=1)
    ax.plot(at, height, color=GREY, linewidth=1.0, linestyle="--", zorder=2, label="prior")
    if number.outside > WORTH_SAYING:
        text = f"{percent(round(number.outside, 2))} of the prior\nis outside"
        said: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": "x-small", "color": GREY}
        ax.annotate(text, (1.0, 1.0), xycoords="axes fraction", **said)
    return float(height.max())


def _draw_posterior(ax: Axes, number: _Number, at: Array, level: float) -> float:
    """The density of the posterior with its median and interval; its height."""
    height = density(number.after, at, number.support)
    ax.fill_between(at, 0.0, height, color=BLUE, alpha=0.2, linewidth=0, zorder=3)
    ax.plot(at, height, color=BLUE, linewidth=1.4, zorder=4, label="posterior")
    low, middle, high = np.quantile(number.after, [(1 - level) / 2, 0.5, (1 + level) / 2])
    label = f"median and {percent(level)} interval"
    ax.plot([low, high], [0, 0], color=BLUE, linewidth=4, solid_capstyle="butt", zorder=5, clip_on=False, label=label)
    ax.plot([middle], [0], "o", color="white", markeredgecolor=BLUE, markersize=4, zorder=6, clip_on=False)
    return float(height.max())


def _draw_pair(ax: Axes, first: _Number, second: _Number) -> None:
    if first.before is not None and second.before is not None:
        pick = spread(len(first.before), MOST_POINTS)
        x, y = first.before[pick], second.before[pick]
        shown = _inside(x, first.range) & _inside(y, second.range)
        ax.scatter(x[shown], y[shown], s=5, color=LIGHT, linewidths=0, zorder=1)
        ax.plot([], [], "o", color=LIGHT, markersize=4, label="draws of the prior")
    pick = spread(len(first.after), MOST_POINTS)
    ax.scatter(first.after[pick], second.after[pick], s=5, color=BLUE, alpha=0.35, linewidths=0, zorder=2)
    ax.plot([], [], "o", color=BLUE, alpha=0.6, markersize=4, label="draws of the posterior")


def _inside(values: Array, on: Range) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = (values >= on.low) & (values <= on.high)
    return found
