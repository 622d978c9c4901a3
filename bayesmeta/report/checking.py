"""Predictive checks: could the data have come from the fitted model?

Observations are drawn anew for the tasks of the fit, from their own θ and φ, hundreds of times. What they look like,
by a histogram and by a few numbers, is laid beside what was observed. The data were used twice, to fit and to check,
so that a tail probability is closer to one half than it ought to be: a small one is all the more to be believed
(Gelman, Meng and Stern 1996, "Posterior predictive assessment of model fitness via realized discrepancies").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from bayesmeta import plot
from bayesmeta.plot.style import BLACK, BLUE, legend, plain, response_label, tidy
from bayesmeta.report.data import number
from bayesmeta.report.html import Section, paragraph, table
from bayesmeta.report.pictures import drawn, taken
from bayesmeta.report.subject import Subject, collected
from bayesmeta.tasks import Tasks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["replicate", "section", "statistics"]

Array = npt.NDArray[np.float64]
TITLE = "Predictive checks"
MOST_TASKS = 300
MOST_CELLS = 20_000  # observations, padded
REPLICATES = 400
BINS = (8, 40)
PANELS = 8


def section(subject: Subject) -> Section:
    """The data beside data of the model."""
    if subject.tasks.y.dim() > 1 or not subject.tasks.n_observations:
        several = subject.tasks.y.dim() > 1
        why = "observations have several numbers each" if several else "nothing was observed"
        return Section("checks", TITLE, (paragraph(f"Not shown: {why}."),))
    most = max(1, MOST_CELLS // int(subject.tasks.sizes.max()))
    tasks = subject.some(min(MOST_TASKS, most))
    with collected():
        drawn_anew = replicate(subject, tasks)
    if not np.isfinite(drawn_anew).all():
        return Section("checks", TITLE, (paragraph("Not shown: some observations drawn anew are not finite."),))
    observed = tasks.y.numpy()
    every = len(tasks) == len(subject.tasks)
    which = "the tasks" if every else f"{len(tasks):,} of the {len(subject.tasks):,} tasks, of all sizes"
    lead = (
        f"The observations of {which} were drawn anew from the fitted model, {len(drawn_anew):,} times. Where the "
        "model is right, what was observed looks like one of them. A tail probability below .02 or so says where it "
        "is not."
    )
    rows = statistics(observed, drawn_anew, tasks)
    head = ("statistic", "observed", "drawn anew: 5 %", "95 %", "tail probability")
    shown = table(head, rows, numbers=range(1, 5), long=(0,), caption="What was observed beside what the model makes")
    pictures = (_picture(subject, observed, drawn_anew), _by_task(subject))
    return Section("checks", TITLE, (paragraph(lead), shown, *pictures))


def replicate(subject: Subject, tasks: Tasks) -> Array:
    """Observations of tasks of the fit drawn anew (R, N), in the order of ``tasks.y``."""
    adapted = subject.light.adapt(tasks, strangers="ignore", seed=subject.seed)
    draws = adapted.predict(tasks).sample(REPLICATES, seed=subject.seed)
    kept = torch.arange(draws.shape[-1]) < tasks.sizes.unsqueeze(-1)
    return np.asarray(draws[:, kept].numpy(), dtype=np.float64)


# --- numbers --------------------------------------------------------------------------------------------------


def statistics(observed: Array, drawn_anew: Array, tasks: Tasks) -> list[tuple[str, ...]]:
    """A row for each statistic: of the data (N,), of data drawn anew (R, N), and how far out the former lies."""
    rows: list[tuple[str, ...]] = []
    for name, of in _statistics(observed, tasks).items():
        value, values = float(of(observed[None])[0]), of(drawn_anew)
        if (values == value).all():
            continue
        low, high = np.quantile(values, [0.05, 0.95])
        rows.append((name, number(value), number(float(low)), number(float(high)), f"{_tail(value, values):.3f}"))
    return rows


def _tail(value: float, values: Array) -> float:
    """The two-sided tail probability of a value among draws, its ties counted half."""
    slack = 1e-9 * max(1.0, abs(value))
    ties = np.abs(values - value) <= slack
    below = np.mean((values < value) & ~ties) + 0.5 * ties.mean()
    return float(2 * min(below, 1 - below))


Statistic = Callable[[Array], Array]


def _statistics(observed: Array, tasks: Tasks) -> dict[str, Statistic]:
    """What is compared, each from (R, N) to (R,): by the kind of observations, and between tasks if there are some."""
    binary = bool(np.isin(observed, (0, 1)).all())
    counts = not binary and bool((observed == observed.round()).all() and (observed >= 0).all())
    found: dict[str, Statistic] = {"share of ones" if binary else "mean": lambda y: y.mean(1)}
    if not binary:
        found["standard deviation"] = lambda y: y.std(1)
        found["least"] = lambda y: y.min(1)
        found["greatest"] = lambda y: y.max(1)
    if counts:
        found["share of zeros"] = lambda y: (y == 0).mean(1)
    if len(tasks) > 2 and bool((tasks.sizes > 1).any()):
        found["standard deviation of the tasks' means"] = lambda y: _means(y, tasks).std(1)
    if not binary and bool((tasks.sizes > 1).any()):
        found["standard deviation within tasks"] = lambda y: _within(y, tasks)
    return found


def _means(y: Array, tasks: Tasks) -> Array:
    """Means of the tasks (R, T)."""
    starts = tasks.offsets[:-1].numpy()
    return np.asarray(np.add.reduceat(y, starts, axis=1) / tasks.sizes.numpy())


def _within(y: Array, tasks: Tasks) -> Array:
    """Root of the mean squared distance to the mean of the own task (R,), by degrees of freedom."""
    apart = y - _means(y, tasks)[:, tasks.task_index.numpy()]
    free = int((tasks.sizes - 1).sum())
    return np.asarray(np.sqrt((apart**2).sum(1) / free))


# --- picture --------------------------------------------------------------------------------------------------


def _picture(subject: Subject, observed: Array, drawn_anew: Array) -> str:
    name = response_label(subject.tasks)
    alt = f"Histogram of {name} as observed, with the range of histograms of data drawn from the fitted model."
    caption = f"{name}: steps, as observed; bands, where 90 % of the data sets drawn from the model lie, bin by bin."
    return drawn(lambda ax: _draw(ax, observed, drawn_anew, plain(name)), alt, caption, height=3.6)


def _by_task(subject: Subject) -> str:
    count = min(PANELS, len(subject.tasks))
    alt = f"Observations of {count} tasks with what is predicted of them, one panel for each."
    caption = f"{count} of {len(subject.tasks):,} tasks, from few observations to many, with what is predicted of them."
    return taken(lambda: plot.tasks(subject.light, most=PANELS, seed=subject.seed), alt, caption)


def _draw(ax: Axes, observed: Array, drawn_anew: Array, name: str) -> None:
    edges = _edges(observed, drawn_anew)
    counts = np.stack([np.histogram(row, edges)[0] for row in drawn_anew])
    low, high = np.quantile(counts, [0.05, 0.95], axis=0)
    label = "drawn from the model: 90 % of data sets"
    ax.stairs(high, edges, baseline=low, fill=True, color=BLUE, alpha=0.35, label=label)
    ax.stairs(np.histogram(observed, edges)[0], edges, color=BLACK, linewidth=1.4, label="observed")
    ax.set_xlabel(name)
    ax.set_ylabel("observations")
    if np.isin(observed, (0, 1)).all():
        ax.set_xticks([0, 1])
    ax.set_ylim(bottom=0)
    legend(ax)
    tidy(ax)


def _edges(observed: Array, drawn_anew: Array) -> Array:
    """Edges of bins over all but the far tails, the more the more observations; of whole numbers around them."""
    whole = bool((observed == observed.round()).all() and (drawn_anew == drawn_anew.round()).all())
    low, high = (float(v) for v in np.quantile(drawn_anew, [0.0005, 0.9995]))
    low, high = min(low, float(observed.min())), max(high, float(observed.max()))
    bins = int(np.clip(2 * np.sqrt(len(observed)), *BINS))
    if whole:
        width = max(1.0, np.ceil((high - low + 1) / bins))
        return np.asarray(np.arange(np.floor(low) - 0.5, np.ceil(high) + 0.5 + width, width))
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, bins + 1)
