"""Leave one task out: how well each task is predicted from all the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bayesmeta.diagnose.loo import pointwise
from bayesmeta.plot import loo as draw_loo
from bayesmeta.report.data import number
from bayesmeta.report.html import Section, paragraph, table
from bayesmeta.report.pictures import drawn
from bayesmeta.report.subject import Subject, collected

__all__ = ["section"]

TITLE = "Leave one task out"
WORST = 8
MOST_NAMED = 5


def section(subject: Subject) -> Section:
    """What each task would have been thought to be like, had it not been seen."""
    if subject.joint:
        why = (
            "Not shown: θ was sampled together with φ here, and leaving a task out needs its evidence, which would "
            "have to be sampled for every task. posterior.loo() does it."
        )
        return Section("loo", TITLE, (paragraph(why),))
    with collected():  # what it warns of is said in words of the page
        found = subject.light.loo(refit=False, seed=subject.seed)
    weighted = not np.isneginf(np.asarray(found.pareto_k, dtype=np.float64)).all()
    return Section("loo", TITLE, (*_words(subject, found), *([_picture(found)] if weighted else [])))


def _words(subject: Subject, found: Any) -> list[str]:
    each, k_hat = pointwise(found), np.asarray(found.pareto_k, dtype=np.float64)
    values = np.asarray(each, dtype=np.float64)
    sizes = subject.tasks.sizes.numpy()
    error = float(np.sqrt(len(values)) * values.std())
    good = float(found.good_k)
    names = [str(name) for name in each.coords["task"].values]
    lead = (
        f"The log density of each task as predicted from all the others adds up to {values.sum():.1f} nats "
        f"(standard error {error:.1f}), {values.sum() / max(1, sizes.sum()):.3f} per observation. The larger it is, "
        f"the better; it compares hierarchies on the same data. {_trust(names, k_hat, good)}"
    )
    worst = np.argsort(values / np.maximum(sizes, 1))[: min(WORST, len(values))]
    rows = [
        (names[t], f"{sizes[t]:,}", number(values[t]), number(values[t] / max(1, sizes[t])), f"{k_hat[t]:.2f}")
        for t in worst
    ]
    head = (subject.noun, "observations", "log density", "per observation", "k-hat")
    return [paragraph(lead), table(head, rows, numbers=range(1, 5), caption="Tasks predicted worst, per observation")]


def _trust(names: list[str], k_hat: npt.NDArray[np.float64], good: float) -> str:
    """For which tasks the draws can tell."""
    if np.isneginf(k_hat).all():
        return "φ is a single point here, which was moved without each task by Newton steps."
    bad = [name for name, value in zip(names, k_hat, strict=True) if not value <= good]
    if not bad:
        return f"The draws can tell it for every task (k-hat below {good:.2f})."
    named = ", ".join(bad[:MOST_NAMED]) + (f" and {len(bad) - MOST_NAMED:,} more" if len(bad) > MOST_NAMED else "")
    return (
        f"For {named} the draws cannot tell it well (k-hat above {good:.2f}): without so informative a task the "
        "population would be another. posterior.loo() finds that population."
    )


def _picture(found: Any) -> str:
    alt = f"k-hat of each of {len(found.pareto_k):,} tasks left out, one dot per task, with the limit."
    caption = "How much the population would change without each task: above the limit, more than draws can tell."
    return drawn(lambda ax: draw_loo(found, what="k_hat", ax=ax), alt, caption, height=3.8)
