"""What is drawn, as plain numbers: the predictive band, observations, and densities of θ before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bayesmeta.adapt import Adapted
from bayesmeta.explore.density import density, window
from bayesmeta.explore.quantity import Quantity
from bayesmeta.explore.state import State
from bayesmeta.explore.subject import Element, Subject
from bayesmeta.plot.style import spread
from bayesmeta.tasks import Tasks

__all__ = ["Curve", "band", "densities", "limits", "observations", "of_element"]

Curve = dict[str, list[float | None]]

MOST_SEEN = 400
BEYOND = 1.0  # ranges of the data by which a band may stretch the picture


def band(subject: Subject, adapted: Adapted, state: State, level: float) -> Curve:
    """Mean and interval of an observation over the horizontal axis; of yes or no, of its probability."""
    columns, k = subject.columns, state.column
    at = columns[k].grid() if columns else [0.0]
    rows = [(*state.held[:k], value, *state.held[k + 1 :]) if columns else () for value in at]
    predicted = adapted.predict(subject.rows(rows))
    lower, upper = predicted.mean_interval(level) if subject.outcome.is_binary else predicted.interval(level)
    return {"x": list(at), "mean": plain(predicted.mean[0]), "lower": plain(lower[0]), "upper": plain(upper[0])}


def observations(task: Tasks) -> dict[str, Any]:
    """Observations of one task that cannot be moved; of very many an even spread."""
    x = task.x.unsqueeze(-1) if task.x.dim() == 1 else task.x
    pick = torch.from_numpy(spread(len(task.y), MOST_SEEN))
    return {"x": x[pick].tolist(), "y": task.y[pick].tolist(), "count": len(task.y)}


def limits(outcome: Quantity, bands: Sequence[Curve], y: Sequence[float]) -> list[float]:
    """Ends of the vertical axis: the data of all tasks and of this one, and bands as far as they are near them."""
    if outcome.is_binary:
        return [-0.08, 1.08]
    room = BEYOND * (outcome.high - outcome.low)
    ends = [value for one in bands for name in ("lower", "upper") for value in one[name] if value is not None]
    near = [min(max(value, outcome.low - room), outcome.high + room) for value in ends]
    every = [outcome.low, outcome.high, *near, *y]
    return [min(every), max(every)]


def of_element(adapted: Adapted, element: Element) -> Tensor:
    """Draws of one element of θ of all tasks (S, T)."""
    values = adapted.theta[element.site]
    return values.reshape(*values.shape[:2], -1)[..., element.place].double()


def densities(element: Element, after: Tensor, before: Tensor, fit: Tensor) -> dict[str, Any]:
    """Densities of draws (S,) after and before, over the same points, and the means of the tasks of the fit."""
    at = window(before, after, element.support)
    return {
        "label": element.label,
        "x": at.tolist(),
        "after": plain(density(after, at, element.support)),
        "before": plain(density(before, at, element.support)),
        "rug": plain(fit),
    }


def plain(values: Tensor) -> list[float | None]:
    """Numbers as JSON has them: None for what is not finite."""
    return [value if math.isfinite(value) else None for value in values.tolist()]
