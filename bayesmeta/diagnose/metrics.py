"""How good predictions were: log score, CRPS, error, coverage, sharpness and calibration, in one table over tasks.

Observations of a task rise and fall together, so every standard error is taken over tasks: the mean over all
observations is a ratio of sums over tasks (Cochran 1977, Sampling techniques, section 6.3).

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
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bayesmeta.diagnose.ranks import Ranks, Reliability, ranked
from bayesmeta.errors import DataError, NotAvailableError, OptionError
from bayesmeta.tasks import Tasks

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
    """

    per_task: pd.DataFrame
    pit: Tensor
    ece: float
    ece_floor: float
    ece_spread: float
    level: float
    reference: Tensor | None = None
    reliability: Reliability | None = None

    @property
    def table(self) -> pd.DataFrame:
        """A row per metric: value, standard error over tasks, and what a perfect prediction would have, if known."""
        rows = {name: (*self._mean(name), math.nan) for name in COLUMNS if name != "mse"}
        mse, error = self._mean("mse")
        rows["rmse"] = math.sqrt(mse), error / (2 * math.sqrt(mse)) if mse else math.nan, math.nan
        rows["coverage"] = (*rows["coverage"][:2], self.level)
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
        if list(self.per_task.index) != list(other.per_task.index) or any(self.per_task["n"] != other.per_task["n"]):
            raise DataError("the two scores are of different tasks or observations; score both on the same query")
        difference = self.per_task[list(COLUMNS)] - other.per_task[list(COLUMNS)]
        rows = {name: _ratio(difference[name], self.per_task["n"]) for name in COLUMNS}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["difference", "standard_error"])

    def plot(self, **options: Any) -> Axes:
        """Whether the prediction is calibrated. See `bayesmeta.plot.calibration`."""
        from bayesmeta.plot.calibration import calibration

        return calibration(self, **options)

    def _mean(self, name: str) -> tuple[float, float]:
        return _ratio(self.per_task[name], self.per_task["n"])

    def __repr__(self) -> str:
        return f"{self._title()}\n{self.table.to_string(float_format=lambda v: f'{v:.4g}')}"

    def _repr_html_(self) -> str:
        return self.table.to_html(float_format=lambda v: f"{v:.4g}", na_rep="") + f"<p>{self._title()}</p>"

    def _title(self) -> str:
        count = int(self.per_task["n"].sum())
        return f"Score of {count:,} observations of {len(self.per_task):,} tasks, intervals of {self.level:.0%}"


def score(predictive: Predicts, y: Any, *, level: float = 0.9, draws: int = 1000, seed: int = 0) -> Score:
    """Judge a prediction by what was observed.

    Args:
        predictive: `adapted.predict(x)`, an environment's `optimal(support, x)`, or anything with their face.
        y: the observations at the same inputs: (T, m), a list of one tensor per task, or a `Tasks`.
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
    if draws < 20:
        raise OptionError(f"draws must be at least 20, got {draws}")
    mean = predictive.mean.double()
    names, observed = _matrix(predictive, y, mean)
    if observed.shape != mean.shape:
        raise DataError(f"y has shape {tuple(observed.shape)}, the prediction {tuple(mean.shape)}")
    there = ~torch.isnan(observed)
    tail = (1 - level) / 2
    lower, upper = predictive.quantile([tail, 1 - tail])
    met = ranked(predictive, y, observed, draws, seed)
    cells = {
        "nll": _pointwise(predictive, y, mean),
        "crps": _crps(predictive, y, met),
        "mse": (observed - mean).square(),
        "coverage": ((lower <= observed) & (observed <= upper)).double(),
        "width": upper - lower,
    }
    per_task = _per_task(cells, there, names)
    per_task["nll_joint"] = -predictive.log_prob(y).numpy() / per_task["n"].to_numpy().clip(min=1)
    per_task = per_task.loc[per_task["n"] > 0, ["n", *COLUMNS]]
    return Score(per_task, met.pit[there], *met.calibration, level, met.reference, met.reliability)


def score_table(scores: Mapping[str, Score], metrics: tuple[str, ...] = SHOWN) -> pd.DataFrame:
    """Predictions side by side: a row each, a column per metric and one for its standard error.

    Args:
        scores: By name, what `score` returned for each.
        metrics: Which metrics, in this order.

    Examples:
        >>> from bayesmeta.data import DKTSines
        >>> env = DKTSines()
        >>> support, query = env.tasks(50, shots=5, query=20, seed=1)
        >>> optimal = score(env.optimal(support, query), query)
        >>> table = score_table({"optimal": optimal, "optimal again": optimal}, ("nll", "rmse"))
        >>> list(table.columns), len(table)
        (['nll', 'nll_se', 'rmse', 'rmse_se'], 2)
    """
    rows = {}
    for name, one in scores.items():
        table = one.table
        values = {metric: table.loc[metric, "value"] for metric in metrics}
        rows[name] = values | {f"{metric}_se": table.loc[metric, "standard_error"] for metric in metrics}
    columns = [column for metric in metrics for column in (metric, f"{metric}_se")]
    return pd.DataFrame.from_dict(rows, orient="index")[columns]


def _matrix(predictive: Predicts, y: Any, mean: Tensor) -> tuple[list[str], Tensor]:
    """Names of the tasks, and the observations (T, m, ...) with NaN where there are none."""
    names = list(getattr(predictive, "names", None) or map(str, range(len(mean))))
    if isinstance(y, Tasks):
        y = [y[name].y for name in names]
    rows = [torch.as_tensor(np.asarray(row), dtype=torch.float64) for row in y]
    if len(rows) != len(names):
        raise DataError(f"y is for {len(rows)} tasks, predicted are {len(names)}")
    out = torch.full_like(mean, math.nan)
    for k, row in enumerate(rows):
        if row.shape[1:] != mean.shape[2:] or len(row) > mean.shape[1]:
            raise DataError(f"task {names[k]!r}: y has shape {tuple(row.shape)}, predicted {tuple(mean.shape[1:])}")
        out[k, : len(row)] = row
    return names, out


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


def _per_task(cells: dict[str, Tensor], there: Tensor, names: list[str]) -> pd.DataFrame:
    count = there.flatten(1).sum(1)
    columns: dict[str, Any] = {"n": count.numpy()}
    for name, values in cells.items():
        total = torch.where(there, values, 0.0).flatten(1).sum(1)
        columns[name] = (total / count.clamp(min=1)).numpy()
    return pd.DataFrame(columns, index=pd.Index(names, name="task"))


def _ratio(means: pd.Series[float], counts: pd.Series[int]) -> tuple[float, float]:
    """The mean over all observations from the tasks' means, and its standard error over tasks."""
    mean, weight = means.to_numpy(dtype=float), counts.to_numpy(dtype=float)
    value = float((mean * weight).sum() / weight.sum())
    if len(mean) < 2:
        return value, math.nan
    spread = float(((weight * (mean - value)) ** 2).sum()) * len(mean) / (len(mean) - 1)
    return value, math.sqrt(spread) / float(weight.sum())
