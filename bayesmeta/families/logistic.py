"""Logistic mixed models in one line: log odds of tasks about those of their population; yes or no, or so many of m.

    θ_t  ~ Normal(μ + γ'c_t, τ)      or with correlations, Normal(μ + γ'c_t, S S'),  S = diag(τ) L
    y_ti ~ Binomial(m_ti, logit = θ_t[0] + θ_t[1:]'x_ti + β'x_ti)

Up to three coefficients that vary by task are integrated out by quadrature; more are drawn together with φ.
"""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from bayesmeta.errors import DataError
from bayesmeta.families.design import Amount, Chosen, Design, Origin, require_counts
from bayesmeta.hierarchy import Hierarchy
from bayesmeta.tasks import Tasks

__all__ = ["logistic"]


def logistic(
    tasks: Tasks,
    *,
    trials: str | int | None = None,
    intercept: bool = True,
    slopes: Chosen = "all",
    context: Chosen = "all",
    correlated: bool = False,
    origin: Origin = "mean",
    widen: float = 1.0,
) -> Hierarchy:
    """A hierarchy of logistic regressions, its priors scaled by the data.

    φ and θ are those of `linear`, in log odds and without ``sigma``.

    Args:
        tasks: The tasks that it will be fitted to; only columns, means and standard deviations are looked at.
        trials: The column of x, or the context, that says out of how many y were counted; y is 0 or 1 without it.
        intercept: Whether tasks have levels of their own.
        slopes: The columns of x whose slopes vary by task: ``"all"``, ``"none"``, or names or positions. The others
            have the same slope in all tasks.
        context: The contexts that move the level of a task: ``"all"``, ``"none"`` or names.
        correlated: Whether level and slopes may be correlated over tasks.
        origin: Where x is zero for the level: ``"mean"`` of all observations, ``"zero"`` itself, or a number for each
            column. Without an intercept, zero.
        widen: A factor on the scales of all priors.

    Raises:
        DataError: y that are no counts or more than the trials, and as `linear`.
        OptionError: As `linear`.
        UnknownNameError: As `linear`.

    Example:
        >>> import bayesmeta as bm
        >>> batters = bm.data.load("baseball")
        >>> tasks = bm.Tasks.from_frame(batters, task="player", x="at_bats", y="hits")
        >>> posterior = bm.fit(bm.families.logistic(tasks, trials="at_bats"), tasks, progress=False)
        >>> print(posterior.info.evidence, {name: tuple(value.shape[1:]) for name, value in posterior.phi.items()})
        quadrature {'mu': (1,), 'tau': (1,)}
    """
    amount = Amount.of(tasks, trials, "trials")
    design = Design.of(
        tasks,
        intercept=intercept,
        slopes=slopes,
        context=context,
        correlated=correlated,
        origin=origin,
        widen=widen,
        amount=amount,
    )
    total = torch.ones_like(tasks.y) if amount is None else amount.of_all(tasks)
    parts = total[total != total.round()]
    if len(parts):
        raise DataError(f"trials={trials!r} has the value {float(parts[0]):g}; wanted whole numbers")
    require_counts(tasks, "logistic", total)
    level = _log_odds(tasks.y, total)

    def hyperprior() -> dict[str, Tensor]:
        return design.hyperprior(level, unit=1.0)

    def task(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None, **context: Tensor) -> Any:
        theta = pyro.sample("theta", design.prior(phi, context))
        logits = design.predictor(phi, theta, x)
        if amount is None:
            return pyro.sample("y", dist.Bernoulli(logits=logits).to_event(1), obs=y)
        counts = dist.Binomial(total_count=amount.at(x, context), logits=logits)
        return pyro.sample("y", counts.to_event(1), obs=y)

    return Hierarchy(hyperprior, task)


def _log_odds(y: Tensor, total: Tensor) -> float:
    """Those of all observations together, half a success and half a failure added."""
    return math.log((float(y.sum()) + 0.5) / (float((total - y).sum()) + 0.5))
