"""Mixed models of counts in one line: log rates of tasks about those of their population.

    θ_t  ~ Normal(μ + γ'c_t, τ)      or with correlations, Normal(μ + γ'c_t, S S'),  S = diag(τ) L
    y_ti ~ Poisson(e_ti exp(θ_t[0] + θ_t[1:]'x_ti + β'x_ti)),      e_ti the exposure

Counts that scatter more than Poisson ones are negative binomial: the same mean m, and variance m + α m².
Up to three coefficients that vary by task are integrated out by quadrature; more are drawn together with φ.
"""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from bayesmeta.families.design import Amount, Chosen, Design, Origin, require_counts
from bayesmeta.hierarchy import Hierarchy
from bayesmeta.tasks import Tasks

__all__ = ["poisson"]


def poisson(
    tasks: Tasks,
    *,
    exposure: str | int | None = None,
    overdispersed: bool = False,
    intercept: bool = True,
    slopes: Chosen = "all",
    context: Chosen = "all",
    correlated: bool = False,
    origin: Origin = "mean",
    widen: float = 1.0,
) -> Hierarchy:
    """A hierarchy of regressions of counts, its priors scaled by the data.

    φ and θ are those of `linear`, in log rates; ``dispersion``, α above, takes the place of ``sigma`` where counts are
    overdispersed.

    Args:
        tasks: The tasks that it will be fitted to; only columns, means and standard deviations are looked at.
        exposure: The column of x, or the context, that rates are multiplied with: a time, an area, a population.
        overdispersed: Whether counts scatter more than Poisson ones.
        intercept: Whether tasks have levels of their own.
        slopes: The columns of x whose slopes vary by task: ``"all"``, ``"none"``, or names or positions. The others
            have the same slope in all tasks.
        context: The contexts that move the level of a task: ``"all"``, ``"none"`` or names.
        correlated: Whether level and slopes may be correlated over tasks.
        origin: Where x is zero for the level: ``"mean"`` of all observations, ``"zero"`` itself, or a number for each
            column. Without an intercept, zero.
        widen: A factor on the scales of all priors.

    Raises:
        DataError: y that are no counts, and as `linear`.
        OptionError: As `linear`.
        UnknownNameError: As `linear`.

    Example:
        >>> import bayesmeta as bm
        >>> counts = bm.data.load("epil")
        >>> tasks = bm.Tasks.from_frame(counts, task="subject", y="y", context="lbase")
        >>> posterior = bm.fit(bm.families.poisson(tasks, overdispersed=True), tasks, progress=False)
        >>> print(posterior.info.evidence, {name: tuple(value.shape[1:]) for name, value in posterior.phi.items()})
        quadrature {'mu': (1,), 'tau': (1,), 'gamma': (1,), 'dispersion': ()}
    """
    amount = Amount.of(tasks, exposure, "exposure")
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
    require_counts(tasks, "poisson")
    total = torch.ones_like(tasks.y) if amount is None else amount.of_all(tasks)
    level = math.log((float(tasks.y.sum()) + 0.5) / float(total.sum()))

    def hyperprior() -> dict[str, Tensor]:
        phi = design.hyperprior(level, unit=1.0)
        if overdispersed:
            phi["dispersion"] = pyro.sample("dispersion", dist.HalfNormal(widen))
        return phi

    def task(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None, **context: Tensor) -> Any:
        theta = pyro.sample("theta", design.prior(phi, context))
        rate = design.predictor(phi, theta, x).exp()
        if amount is not None:
            rate = rate * amount.at(x, context)
        return pyro.sample("y", _counts(rate, phi.get("dispersion")).to_event(1), obs=y)

    return Hierarchy(hyperprior, task)


def _counts(mean: Tensor, dispersion: Tensor | None) -> Any:
    """Counts of that mean (n,), negative binomial where there is a dispersion ()."""
    if dispersion is None:
        return dist.Poisson(mean)
    return dist.GammaPoisson((1 / dispersion).expand(mean.shape), 1 / (dispersion * mean))
