"""How much each further observation brings: prediction of new tasks against the number of shots, before any is seen.

New tasks are drawn from the population that a posterior describes, φ from its draws, θ and observations from the
task; each is adapted to its first k observations and predicted at others. What comes out is what a user may expect
of k shots, if the population is what the posterior says that it is.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bayesmeta.adapt import Adapted
from bayesmeta.diagnose.replicates import at_most, newcomers
from bayesmeta.errors import BayesmetaWarning, DataError, NotAvailableError, OptionError, UnknownNameError, unknown
from bayesmeta.predict import Predictive
from bayesmeta.sites import element_labels
from bayesmeta.tasks import Tasks
from bayesmeta.track import bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmeta.posterior import Posterior

__all__ = ["Shots", "shots"]

QUERIES = 10
DRAWS = 500
LEVEL = 0.9


@dataclass(frozen=True, eq=False, repr=False)
class Shots:
    """What k observations of a new task are worth, by simulation.

    Attributes:
        table: One row per number of shots (the index): ``rmse`` of the predictive mean, the mean predictive ``sd``,
            ``nll``, the negative log predictive density per observation in nats, ``coverage`` of the 90 % interval,
            each with its standard error over tasks (``rmse_se``, ...), and the mean posterior sd of each element of
            θ (``sd theta``). The coverage says whether adaptation keeps what it promises.
        floor: The mean predictive sd if θ were known: no number of shots goes below it. NaN where tasks have no θ.
        tasks: How many tasks were simulated.
    """

    table: pd.DataFrame
    floor: float
    tasks: int

    def needed(
        self, *, sd: float | None = None, rmse: float | None = None, nll: float | None = None, of: str | None = None
    ) -> int | None:
        """The fewest of the shots looked at that bring a measure to a value or below; None if none of them does.

        Args:
            sd: Predictive standard deviation of an observation; with `of`, the posterior sd of that element of θ.
            rmse: Root mean squared error of the predictive mean.
            nll: Negative log predictive density per observation, in nats.
            of: An element of θ by its label, such as ``"theta"`` or ``"beta[1]"``.

        Raises:
            OptionError: Not exactly one of `sd`, `rmse`, `nll` is given.
            UnknownNameError: There is no such element of θ.
        """
        given = {name: value for name, value in (("sd", sd), ("rmse", rmse), ("nll", nll)) if value is not None}
        if len(given) != 1:
            raise OptionError(f"needed takes exactly one of sd, rmse and nll, got {sorted(given) or 'none'}")
        ((name, value),) = given.items()
        enough = self.table[self._column(name, of)] <= value
        return int(self.table.index[enough].min()) if bool(enough.any()) else None

    def _column(self, name: str, of: str | None) -> str:
        if of is None:
            return name
        labels = [column.removeprefix("sd ") for column in self.table.columns if column.startswith("sd ")]
        if name != "sd":
            raise OptionError(f"of={of!r} goes with sd, got {name}")
        if of not in labels:
            raise UnknownNameError(unknown("element of θ", of, labels))
        return f"sd {of}"

    def _shown(self) -> pd.DataFrame:
        return self.table[[column for column in self.table.columns if not column.endswith("_se")]]

    def plot(self, **options: Any) -> Axes:
        """A measure against the number of shots. See `bayesmeta.plot.shots`."""
        from bayesmeta.plot.shots import shots

        return shots(self, **options)

    def __repr__(self) -> str:
        head = f"Shots: {self.tasks:,} simulated tasks; with θ known the sd would be {self.floor:.3g}"
        return f"{head}\n{self._shown().to_string(float_format=lambda v: f'{v:.3g}')}"

    def _repr_html_(self) -> str:
        head = f"{self.tasks:,} simulated tasks; with θ known the sd would be {self.floor:.3g}"
        return f"<p><b>Shots</b>: {head}</p>" + self.table.to_html(float_format=lambda v: f"{v:.4g}")


class _Simulated(NamedTuple):
    """Tasks of the population: observations in the order in which they are shown, and those to predict."""

    support: Tasks
    query: Tasks
    floor: float


def shots(
    posterior: Posterior,
    *,
    x: Any = None,
    query: Any = None,
    context: Mapping[str, Any] | None = None,
    shots: Sequence[int] = (1, 2, 3, 5, 10),
    tasks: int = 200,
    draws: int = DRAWS,
    method: Any = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Shots:
    """Expected error, sd and log density of predictions of a new task, by the number of its observations.

    Args:
        posterior: The population.
        x: Inputs in the order in which a new task is observed there, (m, ...) with m at least the largest number of
            shots. By default inputs of the fit, taken at random for each simulated task.
        query: Inputs to predict at (m, ...). By default those of `x`, observed once more; without `x`, some of the
            fit.
        context: Context of the new tasks by name, one value for all. By default contexts of the fit in turn.
        shots: Numbers of observations to look at; 0 is prediction from the population alone.
        tasks: How many tasks to simulate.
        draws: Draws of φ to adapt with, at most.
        method: How to adapt: see `Posterior.adapt`.
        seed: Seeds everything random.
        progress: Show a bar.

    Raises:
        OptionError: No shots, or negative ones, or fewer than two tasks.
        DataError: `x` or `query` is not shaped as the inputs of the fit, or `x` has too few rows.
    """
    counts = sorted(set(shots))
    if not counts or not all(isinstance(k, (int, np.integer)) and k >= 0 for k in counts):
        raise OptionError(f"shots must be whole numbers of at least 0, got {list(shots)!r}")
    if not isinstance(tasks, (int, np.integer)) or tasks < 2:
        raise OptionError(f"tasks must be a whole number of at least 2, got {tasks!r}")
    simulated = _simulated(posterior, x, query, context, counts[-1], tasks, seed)
    rows = {}
    with bar("adapting to simulated tasks", len(counts), progress) as step, warnings.catch_warnings():
        warnings.simplefilter("ignore", BayesmetaWarning)  # k-hats of tasks that nobody has
        for count in counts:
            adapted = posterior.adapt(
                _first(simulated.support, count),
                method=method,
                draws=at_most(posterior, draws),
                strangers="ignore",
                seed=seed,
                progress=False,
            )
            rows[count] = _measured(adapted, simulated.query)
            step(1)
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "shots"
    return Shots(table, simulated.floor, tasks)


def _simulated(
    posterior: Posterior, x: Any, query: Any, context: Mapping[str, Any] | None, most: int, count: int, seed: int
) -> _Simulated:
    generator = torch.Generator().manual_seed(seed)
    support = _inputs(posterior.tasks, x, count, most, generator, "x")
    if support[0].shape[0] < most:
        raise DataError(f"x has {support[0].shape[0]} rows, and {most} shots need as many")
    again = x if query is None else query
    asked = _inputs(posterior.tasks, again, count, QUERIES, generator, "query")
    nobody = newcomers(posterior, count, _contexts(posterior.tasks, context, count), draws=None, seed=seed)
    known = _one_draw_each(nobody, generator)
    xs = [torch.cat(both) for both in zip(support, asked, strict=True)]
    y = known.predict(xs).sample(1, seed=seed)[0]
    n = len(support[0])
    context = dict(nobody.tasks.context) or None

    def observed(xs: list[Tensor], ys: Tensor) -> Tasks:
        return Tasks.from_lists(xs, list(ys), names=nobody.names, context=context)

    inside = observed(support, y[:, :n]) if n else nobody.tasks
    return _Simulated(inside, observed(asked, y[:, n:]), _floor(known, asked))


def _inputs(fit: Tasks, x: Any, count: int, rows: int, generator: torch.Generator, name: str) -> list[Tensor]:
    """Inputs of each simulated task: the same ones for all, or rows of the fit at random."""
    if x is None:
        pick = torch.randint(fit.n_observations, (count, rows), generator=generator)
        return list(fit.x[pick])
    given = torch.as_tensor(x, dtype=torch.float64)
    if given.shape[1:] != fit.x.shape[1:] or given.dim() == 0:
        raise DataError(f"{name} has shape {tuple(given.shape)}; wanted rows as in the fit, (m, {fit.x.shape[1:]})")
    return [given] * count


def _contexts(fit: Tasks, context: Mapping[str, Any] | None, count: int) -> dict[str, Tensor]:
    if context is None:
        return {name: value[torch.arange(count) % len(fit)] for name, value in fit.context.items()}
    one = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in context.items()}
    return {name: value.expand(count, *value.shape) for name, value in one.items()}


def _one_draw_each(nobody: Adapted, generator: torch.Generator) -> Adapted:
    """The same tasks, each with one draw of φ and θ of its own: what is true of it."""
    draws, count = nobody.phi_coordinates.shape[:2]
    pick = torch.randperm(draws, generator=generator)[torch.arange(count) % draws]
    task = torch.arange(count)
    none, one = torch.full((count,), -math.inf, dtype=torch.float64), torch.ones(count, dtype=torch.float64)
    return Adapted(
        nobody._program,
        nobody.tasks,
        nobody.phi_coordinates[pick, task].unsqueeze(0),
        nobody.theta_coordinates[pick, task].unsqueeze(0),
        method="simulated",
        k_hat=none,
        effective_size=one,
    )


def _floor(known: Adapted, asked: list[Tensor]) -> float:
    """The mean predictive sd where θ is known."""
    if not known.theta_coordinates.shape[-1]:
        return math.nan
    query = known.predict(asked).query
    truth = Predictive(known._program, query, known.phi_coordinates, known.theta_coordinates, "simulated")
    return float(truth.sd.mean())


def _first(tasks: Tasks, count: int) -> Tasks:
    """The first observations of each task."""
    if not count:
        return Tasks.without_observations(tasks.names, like=tasks, context=tasks.context or None)
    xs, ys = [task.x[:count] for task in tasks], [task.y[:count] for task in tasks]
    return Tasks.from_lists(xs, ys, names=tasks.names, context=tasks.context or None)


def _measured(adapted: Adapted, query: Tasks) -> dict[str, float]:
    """One row of the table."""
    predicted = adapted.predict(query)
    y = torch.stack([task.y for task in query])
    lower, upper = predicted.interval(LEVEL)
    square = (y - predicted.mean).square().flatten(1).mean(1)
    row = _with_error("rmse", square)
    root = math.sqrt(row["rmse"])
    row = {"rmse": root, "rmse_se": row["rmse_se"] / max(2 * root, 1e-300)}
    row |= _with_error("sd", predicted.sd.flatten(1).mean(1))
    row |= _with_error("nll", -_log_prob(predicted, query) / y.shape[1])
    row |= _with_error("coverage", ((y >= lower) & (y <= upper)).double().flatten(1).mean(1))
    for name, values in adapted.theta.items():
        sd = values.std(0).reshape(values.shape[1], -1).mean(0)
        labels = element_labels(name, values.shape[2:])
        row |= {f"sd {label}": float(one) for label, one in zip(labels, sd, strict=True)}
    return row


def _log_prob(predicted: Predictive, query: Tasks) -> Tensor:
    """Log predictive density of the observations of each task, one by one and added up (T,)."""
    try:
        return predicted.log_prob(query, pointwise=True).flatten(1).sum(1)
    except NotAvailableError:
        return predicted.log_prob(query)


def _with_error(name: str, values: Tensor) -> dict[str, float]:
    return {name: float(values.mean()), f"{name}_se": float(values.std()) / math.sqrt(len(values))}
