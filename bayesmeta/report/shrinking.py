"""θ of the tasks: how far each is drawn to the population, in pictures, and all of them in a table to look up."""

from __future__ import annotations

import math

import torch

from bayesmeta import plot
from bayesmeta.report.data import number
from bayesmeta.report.html import Section, paragraph, table
from bayesmeta.report.pictures import drawn
from bayesmeta.report.subject import Subject
from bayesmeta.sites import Site, element_labels

__all__ = ["section"]

TITLE = "The tasks: θ"
MOST_PICTURES, OF_LONG = 4, 2  # of θ of a few numbers, and of many
FEW = 6
LEAST_PLACES = 6  # that a context must have to be drawn along
MOST_ROWS = 400
LEVEL = 0.9


def section(subject: Subject) -> Section:
    """What is known of each task."""
    sites = list(subject.posterior.collapsed.program.structure.theta)
    if not sites:
        why = "Not shown: the tasks of this hierarchy have no θ of their own; what is theirs is integrated out."
        return Section("theta", TITLE, (paragraph(why),))
    elements = [(site, k) for site in sites for k in range(math.prod(site.shape))]
    lead = (
        f"What is known of each {subject.noun} by its own observations and by those of all the others. One with few "
        "observations is drawn far towards the population, one with many keeps its own estimate."
    )
    parts = [paragraph(lead)]
    most = MOST_PICTURES if len(elements) <= FEW else OF_LONG
    if len(elements) > most:
        parts.append(paragraph(f"The first {most} of the {len(elements):,} numbers that make up θ are drawn."))
    parts += [_picture(subject, site, k, None) for site, k in elements[:most]]
    scalars = {name: values for name, values in subject.tasks.context.items() if values.dim() == 1}
    contexts = [name for name, values in scalars.items() if len(values.unique()) >= LEAST_PLACES]
    if contexts:
        parts.append(_picture(subject, *elements[0], contexts[0]))
    parts += _table(subject, elements)
    return Section("theta", TITLE, tuple(parts))


def _picture(subject: Subject, site: Site, element: int, along: str | None) -> str:
    name = element_labels(site.name, site.shape)[element]
    equal = len(subject.tasks.sizes.unique()) == 1
    order = "task by task" if equal else "in the order of their number of observations"
    order = order if along is None else f"along {along}"
    alt = f"{name} of the tasks, {order}: median and {LEVEL:.0%} interval of each in its population."
    caption = (
        f"{name}, {order}. Dots and bars: median and {LEVEL:.0%} interval; what else is drawn is in the legend."
        if along is None
        else f"{name} {order}{'' if equal else '; larger rings have more observations'}."
    )
    return drawn(
        lambda ax: plot.shrinkage(subject.light, site=site.name, element=element, level=LEVEL, along=along, ax=ax),
        alt,
        caption,
    )


def _table(subject: Subject, elements: list[tuple[Site, int]]) -> list[str]:
    """Each task's θ behind a line to click on; nothing where that would be a book."""
    tasks = subject.tasks
    if len(tasks) * len(elements) > MOST_ROWS:
        text = f'The θ of all {len(tasks):,} tasks are in posterior.summary("theta").'
        return [paragraph(text, note=True)]
    rows = []
    tail = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    for site, k in elements:
        draws = subject.light.theta[site.name].reshape(-1, len(tasks), math.prod(site.shape))[..., k]
        low, high = torch.quantile(draws, tail, dim=0)
        label = element_labels(site.name, site.shape)[k]
        for t, name in enumerate(tasks.names):
            column = draws[:, t]
            spread = float(column.std()) if len(column) > 1 else math.nan
            values = (float(column.mean()), spread, float(low[t]), float(high[t]))
            rows.append((name, label, f"{int(tasks.sizes[t]):,}", *map(number, values)))
    head = (subject.noun, "θ", "observations", "mean", "sd", "q05", "q95")
    shown = table(head, rows, numbers=range(2, 7), caption="θ of every task")
    return [f"<details><summary>θ of all {len(tasks):,} tasks as numbers</summary>{shown}</details>"]
