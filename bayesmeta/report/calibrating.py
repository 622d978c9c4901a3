"""Calibration: every task predicted before anything of it was seen, from the population that the others make.

Draws of φ are weighted by 1 / Z_t(φ_s), Pareto-smoothed, as in leave-one-task-out; θ is drawn from p(θ | φ_s), and
the observations of the task are placed in the distribution that comes of it. No task is fitted again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bayesmeta.diagnose.metrics import Score, score
from bayesmeta.plot import calibration as draw_calibration
from bayesmeta.predict import Predictive
from bayesmeta.psis import psis, resample
from bayesmeta.report.data import number
from bayesmeta.report.html import Section, paragraph, table
from bayesmeta.report.pictures import drawn
from bayesmeta.report.subject import Subject, collected
from bayesmeta.tasks import Tasks

__all__ = ["score_of_new_tasks", "section"]

TITLE = "Calibration on tasks not seen"
MOST_TASKS = 200
MOST_CELLS = 20_000  # observations, padded
WORDS = {
    "nll": "minus log density per observation (nats, lower is better)",
    "crps": "ranked probability score (units of the response, lower is better)",
    "rmse": "root mean squared error of the mean (units of the response)",
    "coverage": "share of observations inside their 90 % interval",
    "width": "mean width of that interval (units of the response)",
    "ece": "expected calibration error",
}


def section(subject: Subject) -> Section:
    """Whether predictions of new tasks mean what they say."""
    why = _not_shown(subject)
    if why:
        return Section("calibration", TITLE, (paragraph(why),))
    tasks = _some(subject)
    with collected():
        found = score_of_new_tasks(subject, tasks)
    binary = bool(torch.isin(tasks.y, torch.tensor([0.0, 1.0], dtype=tasks.y.dtype)).all())
    parts = [paragraph(_lead(subject, tasks)), _table(found, binary), _reliability(found) if binary else _places(found)]
    return Section("calibration", TITLE, tuple(parts))


def _places(found: Score) -> str:
    alt = (
        "Difference between the distribution of the places of the observations in their predictions and the uniform "
        "distribution, with the band that right predictions stay in."
    )
    caption = (
        "Where the observations lie in their predictions. Right predictions keep the line inside the band; an arch "
        "above zero means values lower than predicted, an S that intervals are too narrow or too wide."
    )
    return drawn(lambda ax: draw_calibration(found, ax=ax), alt, caption, height=4.6)


def _reliability(found: Score) -> str:
    alt = "Share of ones among observations of about the same predicted probability, against that probability."
    caption = (
        "How often a one was observed where it was predicted with what probability; right predictions are in the band."
    )
    return drawn(lambda ax: draw_calibration(found, kind="reliability", ax=ax), alt, caption, height=4.6)


def _not_shown(subject: Subject) -> str:
    """Why there is nothing to show; empty where there is."""
    if subject.joint:
        return (
            "Not shown: θ was sampled together with φ here, so that what the others say of a task is not at hand. "
            "bm.score on tasks kept from the fit, or bm.sbc, tells."
        )
    if subject.ensemble:
        return "Not shown: φ is a handful of point estimates, which cannot be weighted. bm.score on new tasks tells."
    if subject.tasks.y.dim() > 1:
        return "Not shown: observations of several numbers each have no single place in their prediction."
    if len(subject.tasks) < 3:
        return "Not shown: with fewer than three tasks there is no population without one of them."
    return ""


def _some(subject: Subject) -> Tasks:
    """Tasks of all sizes, as many as are quick."""
    most = max(1, MOST_CELLS // int(subject.tasks.sizes.max().clamp(min=1)))
    return subject.some(min(MOST_TASKS, most))


def score_of_new_tasks(subject: Subject, tasks: Tasks) -> Score:
    """The score of the zero-shot prediction of each of these tasks of the fit, from all the others."""
    light = subject.light
    weights, _ = psis(-light.evidence(tasks))
    pick = resample(weights, subject.seed)
    names = [f"{name} (not seen)" for name in tasks.names]
    unseen = Tasks.without_observations(names, like=tasks, context=tasks.context or None)
    drawn_from = light.adapt(unseen, strangers="ignore", seed=subject.seed)
    at = torch.arange(len(tasks)).expand(pick.shape)
    phi, theta = (_picked(values, pick, at) for values in (drawn_from.phi_coordinates, drawn_from.theta_coordinates))
    program = light.collapsed.program.with_centring(True)
    predicted = Predictive(program, tasks, phi, theta, "leave one out", drawn_from.tasks)
    return score(predicted, tasks, seed=subject.seed)


def _picked(values: Tensor, pick: Tensor, at: Tensor) -> Tensor:
    """Row s of each task replaced by the row that was drawn for it: (S, T, ...) at (S, T)."""
    return values[pick, at]


def _lead(subject: Subject, tasks: Tasks) -> str:
    every = len(tasks) == len(subject.tasks)
    which = "Each task" if every else f"Each of {len(tasks):,} tasks, of all sizes among {len(subject.tasks):,},"
    return (
        f"{which} was predicted from the population that the other tasks make, before anything of it was seen. "
        "The column error has standard errors, taken over tasks."
    )


def _table(found: Score, binary: bool) -> str:
    """The measures; of outcomes 0 and 1 those that need no interval."""
    columns = found.table[["value", "standard_error", "perfect"]]
    shown = {name: words for name, words in WORDS.items() if not (binary and name in ("coverage", "width"))}
    rows = [(words, *map(number, columns.loc[name].to_numpy(dtype=float))) for name, words in shown.items()]
    head = ("measure", "value", "error", "if right")
    return table(head, rows, numbers=(1, 2, 3), long=(0,), caption="How good these predictions were")
