"""How a posterior shows itself in a notebook: the verdict, φ with a small histogram in each row, and θ of the tasks.

The pictures are a few kilobytes of SVG written by hand, so that nothing has to be loaded to show a posterior, and
take their text colour from the notebook, light or dark. θ is drawn where that is a matter of a moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from bayesmeta.plot.style import noun, spread, thinned
from bayesmeta.report.subject import lighter
from bayesmeta.sites import element_labels
from bayesmeta.summary import FEW_ELEMENTS, overview
from bayesmeta.summary import MOST_ROWS as MOST_ELEMENTS

if TYPE_CHECKING:
    import pandas as pd

    from bayesmeta.posterior import Posterior

__all__ = ["as_html", "histogram", "intervals"]

Array = npt.NDArray[np.float64]

BLUE = "#3f7fc4"  # seen well on white and on black
CHIPS = {"fine": "#1d6b3f", "doubtful": "#8a5200", "failed": "#a32a1e"}
COLUMNS = ("mean", "sd", "q05", "q95", "ess_bulk", "r_hat")
MOST_ROWS = 60
BINS, WIDTH, HEIGHT = 30, 120, 22
FEW = 100  # draws without far tails to be left out
STRIP_WIDTH, STRIP_HEIGHT, EDGE = 640, 130, 64
MOST_TASKS, DRAWS, NUMBERS = 160, 200, 2_000_000
MOST_NAMES, MOST_LETTERS = 10, 10


def as_html(posterior: Posterior, head: str) -> str:
    """A posterior for a notebook.

    Args:
        posterior: The posterior.
        head: How many tasks and draws, plain text.
    """
    verdict = posterior.verdict
    chip = (
        f'<span style="background:{CHIPS[verdict.level]};color:#fff;border-radius:1em;padding:.1em .7em">'
        f"<b>{verdict.level}</b></span>"
    )
    why = "".join(f"<br>{escape(line)}" for line in verdict.remedies)
    parts = [
        f"<p><b>Posterior</b> of {escape(head)}</p>",
        f"<p>{chip} {escape('; '.join(verdict.reasons))}{why}</p>",
        _table(posterior),
        _strip(posterior),
        f"<p>{escape(posterior.info.road)}</p>",
    ]
    return f"<div>{''.join(parts)}</div>"


# --- φ --------------------------------------------------------------------------------------------------------


def _table(posterior: Posterior) -> str:
    sites = posterior.collapsed.program.structure.phi
    frame = overview(posterior.phi, posterior.draws.u.shape[:2], sites, effective_size=posterior.info.effective_size)
    shown = frame.head(MOST_ROWS)
    head = "".join(f"<th>{name}</th>" for name in ("", "draws", *COLUMNS))
    rows = "".join(
        _row(label, row, draws) for (label, row), draws in zip(shown.iterrows(), _rows(posterior), strict=False)
    )
    more = f"<p>the first {MOST_ROWS} of {len(frame):,} rows; summary() has all</p>" if len(frame) > MOST_ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}"


def _row(label: object, row: pd.Series[float], draws: Array) -> str:
    cells = "".join(f"<td>{row[name]:.4g}</td>" if np.isfinite(row[name]) else "<td>–</td>" for name in COLUMNS)
    name = escape(str(label))
    return f'<tr><th style="text-align:left">{name}</th><td>{histogram(draws, f"draws of {label}")}</td>{cells}</tr>'


def _rows(posterior: Posterior) -> Iterator[Array]:
    """Draws behind each row of the overview of φ, in its order."""
    sites = list(posterior.collapsed.program.structure.phi)
    all_of_them = sum(site.size for site in sites) <= MOST_ELEMENTS
    for site in sites:
        flat = posterior.phi[site.name].reshape(len(posterior.phi[site.name]), -1).numpy()
        if all_of_them or flat.shape[1] <= FEW_ELEMENTS:
            yield from flat.T
        else:
            yield flat.reshape(-1)


def histogram(draws: Array, title: str) -> str:
    """A small histogram of draws as SVG, its far tails left out; a dash where all are the same."""
    finite = draws[np.isfinite(draws)]
    if len(finite) < 2 or np.ptp(finite) == 0:
        return "–"
    low, high = np.quantile(finite, [0.001, 0.999])
    cut = low < high and len(finite) >= FEW
    counts = np.histogram(finite, BINS, range=(low, high) if cut else None)[0]
    heights = HEIGHT - (HEIGHT - 1) * counts / counts.max()
    step = WIDTH / BINS
    path = "".join(f"V{height:.1f}H{step * (k + 1):g}" for k, height in enumerate(heights))
    label = escape(f"Histogram of {title}, from {low:.3g} to {high:.3g}")
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{label}"><title>{label}</title>'
        f'<path d="M0 {HEIGHT}{path}V{HEIGHT}Z" fill="{BLUE}"/></svg>'
    )


# --- θ --------------------------------------------------------------------------------------------------------


def _strip(posterior: Posterior) -> str:
    """The first number of θ of the tasks, in the order of their medians; nothing where it is not quickly had."""
    sites = list(posterior.collapsed.program.structure.theta)
    tasks = len(posterior.tasks)
    size = sum(site.size for site in sites)
    quick = posterior.info.evidence in ("exact", "joint") and DRAWS * tasks * max(1, size) <= NUMBERS
    if not sites or tasks < 2 or not quick or posterior.draws.members is not None:
        return ""
    site = sites[0]
    draws = lighter(posterior, DRAWS).theta[site.name]
    first = draws.reshape(len(draws), tasks, -1)[..., 0]
    low, middle, high = torch.quantile(first, torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64), dim=0).numpy()
    order = np.argsort(middle)[spread(tasks, MOST_TASKS)]
    label = element_labels(site.name, site.shape)[0]
    what = noun(posterior)
    text = f"{label} of each {what}: median and 90 % interval, in the order of medians{thinned(len(order), tasks)}"
    names = [posterior.tasks.names[k] for k in order] if tasks <= MOST_NAMES else []
    return f"<p>{escape(text)}</p>{intervals(low[order], middle[order], high[order], text, names)}"


def intervals(low: Array, middle: Array, high: Array, title: str, names: Sequence[str] = ()) -> str:
    """Intervals (T,) with their middles side by side as SVG, with the ends of the axis and zero where it is inside.

    Args:
        low: Lower ends (T,).
        middle: Middles (T,).
        high: Upper ends (T,).
        title: What they are, for those who do not see them.
        names: What stands below each, or nothing.
    """
    bottom, top = float(low.min()), float(high.max())
    if not (math.isfinite(bottom) and math.isfinite(top)) or bottom == top:
        return ""
    step = (STRIP_WIDTH - EDGE) / len(low)

    def y(value: float) -> float:
        return 6 + (STRIP_HEIGHT - 12) * (top - value) / (top - bottom)

    x = [EDGE + step * (k + 0.5) for k in range(len(low))]
    bars = "".join(f"M{a:.1f} {y(u):.1f}V{v:.1f}" for a, u, v in zip(x, low, map(y, high), strict=True))
    radius = min(3.0, max(1.2, 0.35 * step))
    dots = "".join(f'<circle cx="{a:.1f}" cy="{y(m):.1f}" r="{radius:.1f}"/>' for a, m in zip(x, middle, strict=True))
    marks = [bottom, top, *([0.0] if bottom < 0 < top and min(top, -bottom) > 0.12 * (top - bottom) else [])]
    ticks = "".join(
        f'<text x="{EDGE - 8}" y="{y(v) + 4:.1f}" text-anchor="end" font-size="11" fill="currentColor">{v:.3g}</text>'
        for v in marks
    )
    below = "".join(
        f'<text x="{a:.1f}" y="{STRIP_HEIGHT + 14}" text-anchor="middle" font-size="11" fill="currentColor">'
        f"{escape(name if len(name) <= MOST_LETTERS else name[: MOST_LETTERS - 1] + '…')}</text>"
        for a, name in zip(x, names, strict=False)
    )
    line = "" if len(marks) < 3 else f'<path d="M{EDGE} {y(0):.1f}H{STRIP_WIDTH}" stroke="currentColor" opacity=".3"/>'
    name, tall = escape(title), STRIP_HEIGHT + (20 if names else 0)
    return (
        f'<svg viewBox="0 0 {STRIP_WIDTH} {tall}" width="{STRIP_WIDTH}" style="max-width:100%" role="img" '
        f'aria-label="{name}"><title>{name}</title>{ticks}{below}{line}<path d="{bars}" stroke="{BLUE}" opacity=".55" '
        f'stroke-width="{min(4.0, 0.5 * step):.1f}" fill="none"/><g fill="{BLUE}">{dots}</g></svg>'
    )
