"""The data: how many tasks of what sizes, and what stands in their columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bayesmeta.plot.style import BLUE, input_label, response_label, tidy
from bayesmeta.report.html import Section, facts, paragraph, table
from bayesmeta.report.pictures import drawn
from bayesmeta.report.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["counted", "number", "section"]


def number(value: float) -> str:
    """Four digits of a number, all of a large whole one, or a dash for what there is not."""
    if np.isnan(value):
        return "–"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"


def counted(count: int, noun: str) -> str:
    """So many of a thing.

    >>> counted(1, "task"), counted(2000, "task")
    ('1 task', '2,000 tasks')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def section(subject: Subject) -> Section:
    """What was fitted to."""
    tasks, noun = subject.tasks, subject.noun
    sizes = tasks.sizes.double()
    a_task = f"A task is a {noun}. " if noun != "task" else ""
    empty = int((sizes == 0).sum())
    parts = [
        paragraph(
            f"{a_task}Of {counted(len(tasks), 'task')} there {'is' if tasks.n_observations == 1 else 'are'} "
            f"{counted(tasks.n_observations, 'observation')} in all."
            + (f" Of {counted(empty, 'task')} nothing was observed." if empty else "")
        ),
        facts(
            [
                ("tasks", _names(tasks.names)),
                ("observations per task", _sizes(sizes)),
                ("fingerprint", tasks.fingerprint()[:16]),
            ]
        ),
    ]
    if tasks.n_observations:
        head = ("column", "role", "mean", "sd", "least", "median", "greatest")
        parts.append(table(head, _columns(subject), numbers=range(2, 7), caption="What was observed"))
    if len(torch.unique(tasks.sizes)) > 1:
        alt = f"Histogram of the number of observations per task: {_sizes(sizes)}."
        caption = "How many observations the tasks have."
        parts.append(drawn(lambda ax: _draw_sizes(ax, tasks.sizes), alt, caption, height=2.6))
    return Section("data", "The data", tuple(parts))


def _names(names: tuple[str, ...]) -> str:
    if len(names) <= 12:
        return ", ".join(names)
    return f"{', '.join(names[:6])}, … , {', '.join(names[-2:])}"


def _sizes(sizes: Tensor) -> str:
    low, middle, high = float(sizes.min()), float(sizes.median()), float(sizes.max())
    return f"{low:,.0f} each" if low == high else f"{low:,.0f} to {high:,.0f}, half of them at most {middle:,.0f}"


def _columns(subject: Subject) -> list[tuple[str, ...]]:
    """A row for each column of observations, inputs and contexts, of several numbers one for each."""
    tasks = subject.tasks
    found = _split(response_label(tasks), "response", tasks.y, None)
    labels = [input_label(tasks, k) for k in range(tasks.x.shape[1])] if tasks.x.dim() == 2 else None
    found += _split(input_label(tasks), "input", tasks.x, labels)
    for name, values in tasks.context.items():
        found += _split(name, "context (one per task)", values, None)
    return found[:MOST_COLUMNS]


MOST_COLUMNS = 30


def _split(name: str, role: str, values: Tensor, labels: list[str] | None) -> list[tuple[str, ...]]:
    flat = values.double().reshape(len(values), -1)
    if not flat.numel():
        return []
    several = flat.shape[1] > 1
    titles = labels or [f"{name}[{k}]" if several else name for k in range(flat.shape[1])]
    return [(title, role, *_moments(column)) for title, column in zip(titles, flat.T, strict=False)]


def _moments(column: Tensor) -> tuple[str, ...]:
    spread = float(column.std()) if len(column) > 1 else float("nan")
    values = (float(column.mean()), spread, float(column.min()), float(np.median(column.numpy())), float(column.max()))
    return tuple(map(number, values))


def _draw_sizes(ax: Axes, sizes: Tensor) -> None:
    top = int(sizes.max())
    edges = np.arange(-0.5, top + 1.5) if top <= 40 else np.histogram_bin_edges(sizes.numpy(), 40)
    ax.hist(sizes.numpy(), list(edges), color=BLUE, edgecolor="white", linewidth=0.5)
    ax.set_xlabel("observations per task")
    ax.set_ylabel("tasks")
    ax.locator_params(axis="y", integer=True)
    tidy(ax)
