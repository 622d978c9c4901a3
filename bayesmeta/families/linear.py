"""Linear mixed models in one line: levels and slopes of tasks about those of their population, Normal noise.

    θ_t ~ Normal(μ + γ'c_t, τ)      or with correlations, Normal(μ + γ'c_t, S S'),  S = diag(τ) L
    y_ti ~ Normal(θ_t[0] + θ_t[1:]'x_ti + β'x_ti, σ)

θ is integrated out in closed form, from Gram matrices: however many observations there are, they are read once.
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor

from bayesmeta.errors import DataError
from bayesmeta.families.design import Chosen, Design, Origin, is_flat
from bayesmeta.hierarchy import Hierarchy
from bayesmeta.tasks import Tasks

__all__ = ["linear", "moments"]


def linear(
    tasks: Tasks,
    *,
    intercept: bool = True,
    slopes: Chosen = "all",
    context: Chosen = "all",
    correlated: bool = False,
    origin: Origin = "mean",
    widen: float = 1.0,
) -> Hierarchy:
    """A hierarchy of linear regressions with Normal noise, its priors scaled by the data.

    φ has ``mu`` and ``tau`` (p,) of the coefficients that vary, ``L`` (p, p) where they are correlated, ``beta`` of
    pooled columns, ``gamma`` of contexts, and ``sigma``. θ is ``theta`` (p,): the level, then the slopes that vary,
    in the order of the columns. `bayesmeta.families.design` has the priors.

    Args:
        tasks: The tasks that it will be fitted to; only columns, means and standard deviations are looked at.
        intercept: Whether tasks have levels of their own.
        slopes: The columns of x whose slopes vary by task: ``"all"``, ``"none"``, or names or positions. The others
            have the same slope in all tasks.
        context: The contexts that move the level of a task: ``"all"``, ``"none"`` or names.
        correlated: Whether level and slopes may be correlated over tasks.
        origin: Where x is zero for the level: ``"mean"`` of all observations, ``"zero"`` itself, or a number for each
            column. Without an intercept, zero.
        widen: A factor on the scales of all priors.

    Raises:
        DataError: Inputs that are not columns, several numbers per observation, a column that never changes.
        OptionError: Nothing varies by task, or options that exclude each other.
        UnknownNameError: A column or context that is not there.

    Example:
        >>> import bayesmeta as bm
        >>> days = bm.data.load("sleepstudy")
        >>> tasks = bm.Tasks.from_frame(days, task="Subject", x="Days", y="Reaction")
        >>> posterior = bm.fit(bm.families.linear(tasks), tasks, progress=False)
        >>> print(posterior.info.evidence, {name: tuple(value.shape[1:]) for name, value in posterior.phi.items()})
        exact {'mu': (2,), 'tau': (2,), 'sigma': ()}
    """
    design = Design.of(
        tasks, intercept=intercept, slopes=slopes, context=context, correlated=correlated, origin=origin, widen=widen
    )
    level, unit = moments(tasks, "linear")

    def hyperprior() -> dict[str, Tensor]:
        phi = design.hyperprior(level, unit)
        phi["sigma"] = pyro.sample("sigma", dist.HalfNormal(widen * unit))
        return phi

    def task(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None, **context: Tensor) -> Any:
        theta = pyro.sample("theta", design.prior(phi, context))
        mean = design.predictor(phi, theta, x)
        return pyro.sample("y", dist.Normal(mean, phi["sigma"]).to_event(1), obs=y)

    return Hierarchy(hyperprior, task)


def moments(tasks: Tasks, family: str) -> tuple[float, float]:
    """Mean and sd of all observations, which scale the priors."""
    if tasks.y.dim() != 1:
        raise DataError(
            f"{family} takes one number per observation, y has shape {tuple(tasks.y.shape[1:])} for each; "
            "bm.families.last_layer takes several"
        )
    spread = tasks.y.std(unbiased=False)
    return float(tasks.y.mean()), 1.0 if bool(is_flat(spread, tasks.y)) else float(spread)
