"""The pictures of the demonstration: shrinkage of the tasks fitted, predictions of the tasks hidden."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayesmeta.demo.result import SHOWN, Result, inside
from bayesmeta.plot import shrinkage
from bayesmeta.plot.style import BLACK, BLUE, LIGHT, RED, plain, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Picture", "draw"]

DOTS_PER_INCH = 150
MOST_ROWS = 24  # hidden observations drawn per task


@dataclass(frozen=True)
class Picture:
    """A picture in a file.

    Attributes:
        path: Where it lies.
        caption: What it shows, a sentence or two.
        alt: The same for those who do not see it.
    """

    path: Path
    caption: str
    alt: str


def draw(result: Result, out: Path) -> list[Picture]:
    """Draw and save all pictures that the model allows."""
    pictures = [_shrinkage(result, out / "shrinkage.png", None)]
    context = result.first.posterior.tasks.context
    pictures += [
        _shrinkage(result, out / f"shrinkage_{name}.png", name) for name in context if context[name].dim() == 1
    ]
    return [*pictures, _predictions(result, out / "predictions.png")]


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # not of pyplot, so that nothing is left open

    return Figure(figsize=(width, height), layout="constrained")


def _shrinkage(result: Result, path: Path, along: str | None) -> Picture:
    words, posterior = result.words, result.first.posterior
    figure = _figure(8.4, 4.8)
    axes = figure.add_subplot()
    shrinkage(posterior, along=along, level=result.setting.level, label=words.theta, ax=axes)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    order = f"in the order of their number of {words.rows}"
    if along is not None:
        order = f"along {along}, larger rings for more {words.rows}"
    caption = (
        f"The {len(posterior.tasks)} {words.tasks} of the fit, {order}. A {words.task} with few {words.rows} is drawn "
        f"from its own estimate (ring) to the population; one with many keeps its own."
    )
    alt = (
        f"Estimates of {len(posterior.tasks)} {words.tasks}, {order}: each {words.task} alone as a ring, its posterior "
        "in the population as a dot with an interval, and a line between the two."
    )
    return Picture(path, caption, alt)


def _predictions(result: Result, path: Path) -> Picture:
    words, setting = result.words, result.setting
    names = result.first.query.names
    picked = {name: _spread(result, name) for name in names}
    widths = [max(6, len(rows)) + 2 for rows in picked.values()]
    figure = _figure(8.4, 4.0)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False, width_ratios=widths)[0]
    for panel, name in zip(panels, names, strict=True):
        _panel(panel, result, picked[name])
        shown, hidden = len(picked[name]), result.first.query[name].n
        panel.set_title(f"{plain(name)}\n{hidden} hidden" + (f", {shown} drawn" if shown < hidden else ""), fontsize=8)
    panels[0].set_ylabel(plain(words.response))
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8
    )
    figure.savefig(path, dpi=DOTS_PER_INCH)
    caption = (
        f"Hidden {words.rows} of the {len(names)} {words.tasks} that the fit did not see, in the order of their "
        f"prediction, with {setting.level:.0%} intervals before and after adapting to {setting.support} {words.rows}."
    )
    within = {way: int(inside(result.first.ways[way]).sum()) for way in SHOWN}
    alt = (
        f"{caption} Of these {result.first.query.n_observations} {words.rows}, {within['both']} lie inside the "
        f"interval after adapting, {within['population']} before."
    )
    return Picture(path, caption, alt)


def _spread(result: Result, name: str) -> pd.Index[int]:
    """The rows of a hidden task that are drawn, by predicted mean and truth; of many an even spread."""
    frame = result.first.ways["both"]
    rows = frame[frame["task"] == name].sort_values(["mean", "y"]).index
    return rows[spread(len(rows), MOST_ROWS)]


def _panel(ax: Axes, result: Result, rows: pd.Index[int]) -> None:
    both, population = (result.first.ways[way].loc[rows] for way in SHOWN)
    place = np.arange(len(rows))
    few = f"{result.setting.support} {result.words.rows}"
    ax.vlines(place, population["lower"], population["upper"], color=LIGHT, linewidth=5, label="population alone")
    ax.vlines(place, both["lower"], both["upper"], color=BLUE, linewidth=1.5, label=f"population and {few}")
    within = inside(both).to_numpy()
    for which, color, label in ((within, BLACK, "truth"), (~within, RED, "truth, outside")):
        ax.scatter(place[which], both["y"].to_numpy()[which], s=13, color=color, zorder=3, label=label)
    ax.set_xlim(-1, max(6, len(rows)))
    ax.set_xticks([])
    ax.spines[["top", "right"]].set_visible(False)
