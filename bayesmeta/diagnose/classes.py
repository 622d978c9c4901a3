"""How good predicted probabilities of classes were: accuracy, log score, Brier score and calibration, over tasks.

    accuracy    share of observations whose likeliest class was theirs; higher is better
    nll         mean of -log p(class), in nats; lower is better, as for the two below
    brier       mean of Σ over classes of (p(c) - [class is c])²: 0 for right and certain, 2 for wrong and certain
    ece         expected calibration error: how far the probability of the likeliest class is off the share of
                observations that it was right for, in 15 bins of that probability, beside the value that a perfect
                prediction of so few observations has

If the probabilities mean what they say, accuracy is their mean, nll their entropy and brier Σ p(1 - p) on average:
these stand beside as what a perfect prediction of that sharpness would have.

Guo, Pleiss, Sun and Weinberger (2017), On calibration of modern neural networks, ICML; Brier (1950), Verification of
forecasts expressed in terms of probability, Monthly Weather Review 78.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bayesmeta.diagnose.over_tasks import means_by_task, names_of, observed_matrix, ratio, ratio_difference
from bayesmeta.diagnose.ranks import BINS, REFERENCES, Reliability
from bayesmeta.errors import DataError, NotAvailableError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ClassScore", "PredictsClasses", "class_score", "judged", "probabilities_of"]

COLUMNS = ("accuracy", "nll", "brier")
SHOWN = (*COLUMNS, "ece")
LEAST = 1e-300  # a probability of zero counts as this
NUMBERS = 200_000_000  # drawn at most for the floor of the calibration error
FEWEST = 20
OFF = 1e-3  # that probabilities may sum to off one


class PredictsClasses(Protocol):
    """What is scored as classes; with `names` where tasks have any."""

    @property
    def probabilities(self) -> Tensor:
        """Probabilities of the classes (T, m, classes)."""


@dataclass(frozen=True, eq=False, repr=False)
class ClassScore:
    """How good predicted probabilities of classes were.

    Attributes:
        per_task: A row per task with its number of observations n and the mean over them of accuracy, nll, brier, and
            of what a perfect prediction would have of each (``perfect_accuracy``, ...).
        ece: Expected calibration error of the likeliest class.
        ece_floor: The mean of `ece` over outcomes drawn from the prediction itself: what a perfect one has.
        ece_spread: The standard deviation of it.
        reliability: Probability of the likeliest class and share of observations that it was right for, in bins.
        classes: How many classes a task has.
    """

    per_task: pd.DataFrame
    ece: float
    ece_floor: float
    ece_spread: float
    reliability: Reliability
    classes: int

    @property
    def table(self) -> pd.DataFrame:
        """A row per metric: value, standard error over tasks, and what a perfect prediction would have."""
        rows = {name: (*self._mean(name), self._mean(f"perfect_{name}")[0]) for name in COLUMNS}
        rows["ece"] = self.ece, self.ece_spread, self.ece_floor
        return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "standard_error", "perfect"])

    def __getitem__(self, metric: str) -> float:
        return float(self.table.loc[metric, "value"])  # type: ignore[arg-type]

    def minus(self, other: ClassScore) -> pd.DataFrame:
        """This less another prediction of the same observations, with the standard error of the paired difference.

        A metric per row; far sharper than the two standard errors on their own, because both met the same tasks.

        Raises:
            DataError: The other one is of other tasks.
        """
        return ratio_difference(self.per_task, other.per_task, COLUMNS)

    def plot(self, **options: Any) -> Axes:
        """Whether probabilities mean what they say. See `bayesmeta.plot.calibration`."""
        from bayesmeta.plot.calibration import calibration

        return calibration(self, **{"kind": "reliability", **options})

    def _mean(self, name: str) -> tuple[float, float]:
        return ratio(self.per_task[name], self.per_task["n"])

    def __repr__(self) -> str:
        return f"{self._title()}\n{self.table.to_string(float_format=lambda v: f'{v:.4g}')}"

    def _repr_html_(self) -> str:
        return self.table.to_html(float_format=lambda v: f"{v:.4g}", na_rep="") + f"<p>{self._title()}</p>"

    def _title(self) -> str:
        count = int(self.per_task["n"].sum())
        return f"Score of {count:,} observations of {len(self.per_task):,} tasks, {self.classes} classes each"


def probabilities_of(predictive: Any) -> Tensor | None:
    """Probabilities of classes (T, m, classes), None where something else is predicted."""
    if isinstance(predictive, (Tensor, np.ndarray)):
        return torch.as_tensor(predictive, dtype=torch.float64)
    try:
        found = getattr(predictive, "probabilities", None)
    except NotAvailableError:
        return None
    return None if found is None else found.double()


def class_score(predictive: PredictsClasses | Tensor, y: Any, *, seed: int = 0) -> ClassScore:
    """Judge probabilities of classes by what was observed.

    Args:
        predictive: A prediction with `probabilities`, or these themselves (T, m, classes).
        y: The classes at the same inputs, 0, 1, ...: (T, m), a list of one tensor per task, or a `Tasks`.
        seed: Seeds the outcomes that are drawn for the floor of the calibration error. They are drawn one by one:
            that outcomes of a task may be right or wrong together is left out.

    Raises:
        DataError: Classes that are none, probabilities that are none, or shapes that do not match.

    Examples:
        >>> import torch
        >>> result = class_score(torch.tensor([[[0.9, 0.1], [0.3, 0.7]]]), [[0, 1]])
        >>> round(result["nll"], 3), result["accuracy"]
        (0.231, 1.0)
    """
    p = probabilities_of(predictive)
    if p is None:
        raise DataError(f"predictive: got {type(predictive).__name__}; wanted probabilities of classes")
    return judged(p, names_of(predictive, len(p)), y, seed)


def judged(p: Tensor, names: Sequence[str], y: Any, seed: int) -> ClassScore:
    """The score of probabilities (T, m, classes) of tasks of these names. See `class_score`."""
    if p.dim() != 3:
        raise DataError(f"predictive: got shape {tuple(p.shape)}; wanted probabilities of classes (T, m, classes)")
    observed = observed_matrix(names, y, p[..., 0])
    there = ~torch.isnan(observed)
    _check(p[there], observed[there])
    label = observed.nan_to_num().long().clamp(0, p.shape[-1] - 1)
    confidence, likeliest = p.max(-1)
    right = (likeliest == label).double()
    per_task = means_by_task(_cells(p, label, right, confidence), there, names)
    found = _reliability(confidence[there], right[there], seed)
    floor = _error(found.replicates - found.probability, found.size)
    return ClassScore(
        per_task.loc[per_task["n"] > 0],
        float(_error(found.share - found.probability, found.size)),
        float(floor.mean()),
        float(floor.std()),
        found,
        p.shape[-1],
    )


def _check(p: Tensor, observed: Tensor) -> None:
    """Raise unless probabilities (N, classes) and classes (N,) are what they should be."""
    if not len(p):
        raise DataError("y is empty: there is nothing to judge the prediction by")
    classes = p.shape[-1]
    odd = (observed != observed.round()) | (observed < 0) | (observed >= classes)
    if bool(odd.any()):
        raise DataError(f"y has {float(observed[odd][0]):g}; wanted classes as whole numbers from 0 to {classes - 1}")
    bad = ~((p >= -OFF).all(-1) & ((p.sum(-1) - 1).abs() < OFF))
    if bool(bad.any()):
        first = [round(value, 4) for value in p[bad][0].tolist()]
        raise DataError(
            f"probabilities of {int(bad.sum())} of {len(p)} observations are not at least 0 with a sum of 1, such as "
            f"{first[:5]}: of logits take torch.softmax(logits, -1)"
        )


def _cells(p: Tensor, label: Tensor, right: Tensor, confidence: Tensor) -> dict[str, Tensor]:
    """What each observation adds to the metrics (T, m), and what it would add on average if p were right."""
    chosen = p.gather(-1, label.unsqueeze(-1)).squeeze(-1)
    square = p.square().sum(-1)
    log_p = p.clamp(min=LEAST).log()
    return {
        "accuracy": right,
        "nll": -chosen.clamp(min=LEAST).log(),
        "brier": square - 2 * chosen + 1,
        "perfect_accuracy": confidence,
        "perfect_nll": -(p * log_p).sum(-1),
        "perfect_brier": 1 - square,
    }


def _reliability(confidence: Tensor, right: Tensor, seed: int) -> Reliability:
    """Bins of the probability of the likeliest class (N,), with outcomes drawn from it beside those that came."""
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    size = torch.bincount(bins, minlength=BINS).double()

    def share(values: Tensor) -> Tensor:
        return torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, values) / size

    generator = torch.Generator().manual_seed(seed)
    count = max(FEWEST, min(REFERENCES, NUMBERS // len(confidence)))
    drawn = [
        share((torch.rand(len(confidence), generator=generator, dtype=torch.float64) < confidence).double())
        for _ in range(count)
    ]
    return Reliability(share(confidence), share(right), size, torch.stack(drawn))


def _error(gap: Tensor, size: Tensor) -> Tensor:
    """Σ over bins of their size times |gap|, over N: (...,) of gaps (..., B), NaN in bins that are empty."""
    return (gap.abs().nan_to_num() * size).sum(-1) / size.sum()
