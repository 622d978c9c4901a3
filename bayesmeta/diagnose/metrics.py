"""How good predictions were: log score, CRPS, error, coverage, sharpness and calibration, in one table over tasks.

Standard errors are over tasks, because observations of a task rise and fall together.

    nll         mean of -log p(y) of each observation on its own, in nats; lower is better, as for all but coverage
    nll_joint   the same of all observations of a task together, per observation: what is wrong about their
                dependence shows here alone
    crps        continuous ranked probability score, in units of y
    rmse        root of the mean squared error of the predicted mean
    coverage    share of observations inside the central interval
    width       mean width of that interval
    ece         expected calibration error, beside the value that a perfect prediction of so few observations has
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, overload

import pandas as pd
import torch
from torch import Tensor

from bayesmeta.diagnose.classes import ClassScore, PredictsClasses, judged, probabilities_of
from bayesmeta.diagnose.over_tasks import means_by_task, names_of, observed_matrix, ratio, ratio_difference
from bayesmeta.diagnose.ranks import Ranks, Reliability, ranked
from bayesmeta.errors import DataError, NotAvailableError, OptionError
from bayesmeta.infer.options import check_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Predicts", "Score", "score", "score_table"]

COLUMNS = ("nll", "nll_joint", "crps", "mse", "coverage", "width")
SHOWN = ("nll", "nll_joint", "crps", "rmse", "coverage", "width", "ece")


class Predicts(Protocol):
    """What can be scored. `cdf(y)` and `crps(y)`, where they are there, take the place of draws."""

    @property
    def mean(self) -> Tensor:
        """Mean (T, m)."""

    def quantile(self, q: float | list[float]) -> Tensor:
        """Quantiles (len(q), T, m)."""

    def sample(self, n: int = 1000, seed: int = 0) -> Tensor:
        """Joint draws of each task's observations (n, T, m)."""

    def log_prob(self, y: Any, *, pointwise: bool = False) -> Tensor:
        """Log density of observations y, (T,), or (T, m) of each on its own."""


@dataclass(frozen=True, eq=False, repr=False)
class Score:
    """How good a prediction was.

    Attributes:
        per_task: a row per task with its number of observations n and the mean over them of each metric.
        pit: where each observation lies in its predictive distribution (N,): uniform if that is right. Of discrete
            observations, a random point of the step (Czado, Gneiting and Held 2009).
        ece: expected calibration error: of probabilities where all observations are 0 or 1, of `pit` otherwise.
        ece_floor: the mean of `ece` over data drawn from the prediction itself: what a perfect one has.
        ece_spread: the standard deviation of it.
        level: probability of the intervals behind `coverage` and `width`.
        reference: share of `pit` below .01, .02, ... .99 in data sets drawn from the prediction itself (R, 99): what a
            perfect prediction would have, the dependence of observations of a task included.
        reliability: of outcomes that are all 0 or 1, what was predicted and what came; else None.
        promised: the share of observations in their intervals in data drawn from the prediction itself: `level`, and
            more where observations are discrete.
    """

    per_task: pd.DataFrame
    pit: Tensor
    ece: float
    ece_floor: float
    ece_spread: float
    level: float
    reference: Tensor | None = None
    reliability: Reliability | None = None
    promised: float = math.nan

    @property
    def table(self) -> pd.DataFrame:
        """A row per metric: value, standard error over tasks, and what a perfect prediction would have, if known."""
        rows = {name: (*self._mean(name), math.nan) for name in COLUMNS if name != "mse"}
        mse, error = self._mean("mse")
        rows["rmse"] = math.sqrt(mse), error / (2 * math.sqrt(mse)) if mse else math.nan, math.nan
        rows["coverage"] = (*rows["coverage"][:2], self.level if math.isnan(self.promised) else self.promised)
        rows["ece"] = self.ece, self.ece_spread, self.ece_floor
        table = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "standard_error", "perfect"])
        return table.loc[list(SHOWN)]

    def __getitem__(self, metric: str) -> float:
        return float(self.table.loc[metric, "value"])  # type: ignore[arg-type]

    def minus(self, other: Score) -> pd.DataFrame:
        """This less another prediction of the same observations, with the standard error of the paired difference.

        A metric per row; far sharper than the two standard errors on their own, because both met the same tasks.

        Raises:
            DataError: The other one is of other tasks.
        """
        return ratio_difference(self.per_task, other.per_task, COLUMNS)

    def plot(self, **options: Any) -> Axes:
        """Whether the prediction is calibrated. See `bayesmeta.plot.calibration`."""
        from bayesmeta.plot.calibration import calibration

        return calibration(self, **options)

    def _mean(self, name: str) -> tuple[float, float]:
        return ratio(self.per_task[name], self.per_task["n"])

    def __repr__(self) -> str:
        return f"{self._title()}\n{self.table.to_string(float_format=lambda v: f'{v:.4g}')}"

    def _repr_html_(self) -> str:
        return self.table.to_html(float_format=lambda v: f"{v:.4g}", na_rep="") + f"<p>{self._title()}</p>"

    def _title(self) -> str:
        count = int(self.per_task["n"].sum())
        return f"Score of {count:,} observations of {len(self.per_task):,} tasks, intervals of {self.level:.0%}"


@overload
def score(predictive: Predicts, y: Any, *, level: float = 0.9, draws: int = 1000, seed: int = 0) -> Score: ...
@overload
def score(
    predictive: PredictsClasses | Tensor, y: Any, *, level: float = 0.9, draws: int = 1000, seed: int = 0
) -> ClassScore: ...
def score(
    predictive: Predicts | PredictsClasses | Tensor,
    y: Any,
    *,
    level: float = 0.9,
    draws: int = 1000,
    seed: int = 0,
) -> Score | ClassScore:
    """Judge a prediction by what was observed.

    In the table of a score the standard error of `ece` is no error over tasks: it is how much the `ece` of perfect
    predictions varies.

    Args:
        predictive: `adapted.predict(x)`, an environment's `optimal(support, x)`, or anything with their face. What has
            `probabilities` of classes, and these themselves as a tensor (T, m, classes), are judged as a `ClassScore`.
        y: the observations at the same inputs: (T, m), a list of one tensor per task, or a `Tasks`; of classes their
            numbers, from 0.
        level: probability of the central intervals.
        draws: for calibration, and for the CRPS where it is not in closed form.
        seed: seeds those draws.

    Raises:
        OptionError: The level is not between 0 and 1, or there are fewer than 20 draws.
        DataError: The observations are not shaped as the prediction.

    Examples:
        >>> from bayesmeta.data import DKTSines
        >>> env = DKTSines()
        >>> support, query = env.tasks(50, shots=5, query=20, seed=1)
        >>> result = score(env.optimal(support, query), query, level=0.95)
        >>> result.per_task.shape, bool(abs(result["coverage"] - 0.95) < 0.03)
        ((50, 7), True)
    """
    if not 0 < level < 1:
        raise OptionError(f"level must lie between 0 and 1, got {level!r}")
    check_whole("draws", draws, 20)
    if (p := probabilities_of(predictive)) is not None:
        return judged(p, names_of(predictive, len(p)), y, seed)
    return _score(predictive, y, level, draws, seed)  # type: ignore[arg-type]


def _score(predictive: Predicts, y: Any, level: float, draws: int, seed: int) -> Score:
    mean = predictive.mean.double()
    names = names_of(predictive, len(mean))
    observed = observed_matrix(names, y, mean)
    if observed.shape != mean.shape:
        raise DataError(f"y has shape {tuple(observed.shape)}, the prediction {tuple(mean.shape)}")
    there = ~torch.isnan(observed)
    tail = (1 - level) / 2
    lower, upper = predictive.quantile([tail, 1 - tail])
    met = ranked(predictive, y, observed, draws, seed, (lower, upper))
    cells = {
        "nll": _pointwise(predictive, y, mean),
        "crps": _crps(predictive, y, met),
        "mse": (observed - mean).square(),
        "coverage": ((lower <= observed) & (observed <= upper)).double(),
        "width": upper - lower,
    }
    per_task = means_by_task(cells, there, names)
    per_task["nll_joint"] = -predictive.log_prob(y).numpy() / per_task["n"].to_numpy().clip(min=1)
    per_task = per_task.loc[per_task["n"] > 0, ["n", *COLUMNS]]
    promised = level if math.isnan(met.coverage) else met.coverage
    return Score(per_task, met.pit[there], *met.calibration, level, met.reference, met.reliability, promised)


def score_table(
    scores: Mapping[str, Score] | Mapping[str, ClassScore], metrics: tuple[str, ...] | None = None
) -> pd.DataFrame:
    """Predictions side by side: a row each, a column per metric and one for its standard error.

    Args:
        scores: By name, what `score` returned for each.
        metrics: Which metrics, in this order; all by default.

    Examples:
        >>> from bayesmeta.data import DKTSines
        >>> env = DKTSines()
        >>> support, query = env.tasks(50, shots=5, query=20, seed=1)
        >>> optimal = score(env.optimal(support, query), query)
        >>> table = score_table({"optimal": optimal, "optimal again": optimal}, ("nll", "rmse"))
        >>> list(table.columns), len(table)
        (['nll', 'nll_se', 'rmse', 'rmse_se'], 2)
    """
    rows: dict[str, Any] = {}
    for name, one in scores.items():
        table = one.table
        metrics = metrics or tuple(map(str, table.index))
        values = {metric: table.loc[metric, "value"] for metric in metrics}
        rows[name] = values | {f"{metric}_se": table.loc[metric, "standard_error"] for metric in metrics}
    columns = [column for metric in metrics or () for column in (metric, f"{metric}_se")]
    return pd.DataFrame.from_dict(rows, orient="index")[columns]


def _pointwise(predictive: Predicts, y: Any, mean: Tensor) -> Tensor:
    """-log p of each observation, NaN where all of a task are one joint event; shared out over its columns if any."""
    try:
        values = -predictive.log_prob(y, pointwise=True)
    except NotAvailableError:
        return torch.full_like(mean, math.nan)
    columns = mean.shape[values.dim() :]
    return values.reshape(*values.shape, *(1,) * len(columns)).expand_as(mean) / math.prod(columns)


def _crps(predictive: Predicts, y: Any, met: Ranks) -> Tensor:
    if hasattr(predictive, "crps"):
        try:
            exact: Tensor = predictive.crps(y)
            return exact
        except NotAvailableError:
            return met.crps
    return met.crps
