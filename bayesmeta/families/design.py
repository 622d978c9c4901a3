"""The linear predictor that `linear`, `logistic` and `poisson` share: which coefficients vary, and how far.

    η_i = θ[0] + Σ_j θ[j] (x_ij - o_j) + Σ_k β_k (x_ik - o_k),      θ_t ~ Normal(μ + [γ'(c_t - c̄), 0, ...], τ)

θ has the level of a task and the slopes of the columns that vary; the slopes β of the others are pooled. What holds
for a whole task, its context c_t, moves its level. o is the mean of each column unless another origin is asked for:
the level of a task is then its mean in the middle of the data, which is what data tell of.

Priors are weak on the scale of the data: with u the unit of the predictor (the sd of y; 1 for log odds and log
rates) and s_j the sd of column j,

    μ[0] ~ Normal(level of all data, 2.5 u)      μ[j], β_j ~ Normal(0, 2.5 u / s_j)
    τ[0] ~ HalfNormal(u)                         τ[j]      ~ HalfNormal(u / s_j)
    γ_k  ~ Normal(0, 2.5 u / sd(c_k))

2.5 standard deviations of y per standard deviation of x is more than nearly any effect (Gelman, Jakulin, Pittau, Su
2008, "A weakly informative default prior distribution for logistic and other regression models").
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from bayesmeta.errors import DataError, OptionError, UnknownNameError, unknown
from bayesmeta.tasks import Tasks

__all__ = ["Amount", "Chosen", "Design", "Origin", "is_flat", "require_counts"]

WIDTH = 2.5
ROUNDING = 16.0  # roundings, in which the mean of a constant column differs from it
CONCENTRATION = 2.0  # of the LKJ prior of correlations: mildly towards none

Chosen: TypeAlias = Literal["all", "none"] | Sequence[str | int]
Origin: TypeAlias = Literal["mean", "zero"] | float | Sequence[float]


@dataclass(frozen=True)
class Design:
    """A linear predictor for one task of n observations.

    Attributes:
        intercept: Whether θ begins with the level of the task.
        varying: Columns of x whose slopes are in θ.
        pooled: Columns of x whose slopes β are the same in all tasks.
        contexts: Names of the contexts that move the level.
        origin: What is taken off each column (d,).
        middle: What is taken off the contexts (c,).
        scale: The sd of each column (d,); 1 over it is the scale of its slope.
        context_scale: The same for the contexts (c,).
        reach: How much wider the prior of the level is for an origin away from the data.
        correlated: Whether the elements of θ are correlated.
        widen: A factor on the scales of all priors.
    """

    intercept: bool
    varying: tuple[int, ...]
    pooled: tuple[int, ...]
    contexts: tuple[str, ...]
    origin: Tensor
    middle: Tensor
    scale: Tensor
    context_scale: Tensor
    reach: float
    correlated: bool
    widen: float

    @staticmethod
    def of(
        tasks: Tasks,
        *,
        intercept: bool = True,
        slopes: Chosen = "all",
        context: Chosen = "all",
        correlated: bool = False,
        origin: Origin = "mean",
        widen: float = 1.0,
        amount: Amount | None = None,
    ) -> Design:
        """The predictor of these tasks; `amount` stands in a column or context that is then no predictor.

        Raises:
            DataError: Inputs that are not columns, a column or context that never changes.
            OptionError: Nothing that varies by task, or options that exclude each other.
            UnknownNameError: A column or context that is not there.
        """
        names = _column_names(tasks)
        own = [j for j in range(len(names)) if amount is None or j != amount.column]
        varying = [j for j in _columns(names, slopes, "slopes") if j in own]
        contexts = _contexts(tasks, context, amount)
        _check(intercept, varying, contexts, correlated, widen)
        x = tasks.x.reshape(tasks.n_observations, len(names))
        at = _origin(x, origin if intercept else "zero")
        scale = _scales(x, names, own, intercept)
        away = (at - x.mean(0)) / scale
        c = _flat_context(tasks.context, contexts, len(tasks))
        return Design(
            intercept=intercept,
            varying=tuple(varying),
            pooled=tuple(j for j in own if j not in varying),
            contexts=contexts,
            origin=at,
            middle=c.mean(0),
            scale=scale,
            context_scale=_context_scales(c, contexts),
            reach=float((1 + away[own].square().sum()).sqrt()),
            correlated=correlated,
            widen=float(widen),
        )

    @property
    def size(self) -> int:
        """p, the coefficients in θ."""
        return int(self.intercept) + len(self.varying)

    def hyperprior(self, level: float, unit: float) -> dict[str, Tensor]:
        """Sample what the coefficients have in common.

        Args:
            level: Where the prior of the mean level is centred.
            unit: The scale of the predictor.
        """
        loc, scale = self.scales(level, unit)
        phi = {
            "mu": pyro.sample("mu", dist.Normal(loc, WIDTH * scale).to_event(1)),
            "tau": pyro.sample("tau", dist.HalfNormal(scale).to_event(1)),
        }
        if self.correlated:
            phi["L"] = pyro.sample("L", dist.LKJCholesky(self.size, CONCENTRATION))
        return phi | self.shared(unit)

    def shared(self, unit: float) -> dict[str, Tensor]:
        """Sample the coefficients that are the same in all tasks: β of pooled columns, γ of contexts."""
        phi, unit = {}, WIDTH * self.widen * unit
        if self.pooled:
            scale = unit / self.scale[list(self.pooled)]
            phi["beta"] = pyro.sample("beta", dist.Normal(torch.zeros_like(scale), scale).to_event(1))
        if self.contexts:
            scale = unit / self.context_scale
            phi["gamma"] = pyro.sample("gamma", dist.Normal(torch.zeros_like(scale), scale).to_event(1))
        return phi

    def scales(self, level: float, unit: float) -> tuple[Tensor, Tensor]:
        """Where the coefficients of θ are centred, and the scale of each, (p,) both."""
        slopes = self.widen * unit / self.scale[list(self.varying)]
        if not self.intercept:
            return torch.zeros_like(slopes), slopes
        own = self.scale.new_tensor([self.widen * unit * self.reach])
        return torch.cat([own.new_tensor([level]), torch.zeros_like(slopes)]), torch.cat([own, slopes])

    def prior(self, phi: Mapping[str, Tensor], context: Mapping[str, Tensor]) -> Any:
        """p(θ | φ) of a task with this context."""
        mean = phi["mu"] + self.shift(phi, context)
        if self.correlated:
            return dist.MultivariateNormal(mean, scale_tril=phi["tau"].unsqueeze(-1) * phi["L"])
        return dist.Normal(mean, phi["tau"]).to_event(1)

    def shift(self, phi: Mapping[str, Tensor], context: Mapping[str, Tensor]) -> Tensor:
        """What the context of a task adds to the mean of θ (p,)."""
        if not self.contexts:
            return torch.zeros(self.size, dtype=torch.float64)
        c = torch.cat([context[name].reshape(-1) for name in self.contexts])
        level = (phi["gamma"] * (c - self.middle)).sum(-1, keepdim=True)
        return torch.cat([level, level.new_zeros(self.size - 1)])

    def columns(self, x: Tensor) -> Tensor:
        """What θ is multiplied with (n, p), at inputs x (n,) or (n, d)."""
        centred = self._centred(x)
        slopes = centred[:, list(self.varying)]
        return torch.cat([torch.ones_like(centred[:, :1]), slopes], 1) if self.intercept else slopes

    def offset(self, phi: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """What pooled columns add to the predictor (n,)."""
        if not self.pooled:
            return x.new_zeros(len(x))
        return (self._centred(x)[:, list(self.pooled)] * phi["beta"]).sum(-1)

    def predictor(self, phi: Mapping[str, Tensor], theta: Tensor, x: Tensor) -> Tensor:
        """η (n,) at inputs x (n,) or (n, d)."""
        return (self.columns(x) * theta).sum(-1) + self.offset(phi, x)

    def _centred(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(-1) if x.dim() == 1 else x
        # a column of zeros stands for tasks without inputs
        return x - self.origin if len(self.origin) else x.new_zeros(len(x), 1)


@dataclass(frozen=True)
class Amount:
    """A number that belongs to an observation and is no predictor: how many trials, how long exposed.

    Attributes:
        name: As the user gave it.
        column: Its column of x, or None where it is a context.
    """

    name: str | int
    column: int | None

    @staticmethod
    def of(tasks: Tasks, name: str | int | None, what: str) -> Amount | None:
        """The column of x or the context of that name; None for None.

        Raises:
            UnknownNameError: Neither is there.
            DataError: It is not positive.
        """
        if name is None:
            return None
        names = _column_names(tasks)
        if isinstance(name, str) and name in tasks.context:
            found = Amount(name, None)
            values = tasks.context[name]
        else:
            (column,) = _columns(names, [name], what, extra=tasks.context)
            found = Amount(name, column)
            values = tasks.x.reshape(tasks.n_observations, len(names))[:, column]
        if values.dim() > 1:
            raise DataError(f"{what}={name!r} has shape {tuple(values.shape[1:])} for each task; wanted one number")
        if not bool((values > 0).all()):
            raise DataError(f"{what}={name!r} has the value {float(values.min()):g}; all must be above zero")
        return found

    def at(self, x: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        """The numbers (n,) of one task with inputs x (n,) or (n, d)."""
        if self.column is None:
            return context[str(self.name)].expand(len(x))
        return x if x.dim() == 1 else x[:, self.column]

    def of_all(self, tasks: Tasks) -> Tensor:
        """The numbers (N,) of all observations."""
        if self.column is None:
            return tasks.context[str(self.name)][tasks.task_index]
        return self.at(tasks.x, {})


def require_counts(tasks: Tasks, family: str, most: Tensor | float | None = None) -> None:
    """Raise a DataError unless y are whole numbers from zero to `most`."""
    y = tasks.y
    if y.dim() != 1:
        raise DataError(f"{family} takes one number per observation, y has shape {tuple(y.shape[1:])} for each")
    wrong = (y != y.round()) | (y < 0) | (y > (torch.inf if most is None else most))
    if bool(wrong.any()):
        where = int(wrong.nonzero()[0])
        task = tasks.names[int(tasks.task_index[where])]
        limit = "" if most is None else " and no more than the trials (1, unless trials=... names them)"
        raise DataError(
            f"{family} takes counts, whole and not negative{limit}; y of task {task!r} has {float(y[where]):g}"
        )


# ---------------------------------------------------------------------------------------------------------
# Columns and their scales


def _column_names(tasks: Tasks) -> tuple[str, ...]:
    if tasks.x.dim() > 2:
        raise DataError(
            f"x has shape {tuple(tasks.x.shape[1:])} per observation; a linear predictor takes a number or a row of "
            "them: use bm.families.last_layer, whose network takes anything"
        )
    width = 1 if tasks.x.dim() == 1 else tasks.x.shape[1]
    if tasks.columns is not None and len(tasks.columns.inputs) == width:
        return tasks.columns.inputs
    return tuple(f"x[{j}]" for j in range(width))


def _columns(
    names: Sequence[str], chosen: Chosen, what: str, extra: Mapping[str, Tensor] | Sequence[str] = ()
) -> list[int]:
    """Positions of chosen columns, in the order of x."""
    if isinstance(chosen, str) and chosen in ("all", "none"):
        return list(range(len(names))) if chosen == "all" else []
    if isinstance(chosen, str) or not isinstance(chosen, Sequence):
        raise OptionError(f"{what} must be 'all', 'none' or a list of columns, got {chosen!r}: write {[chosen]!r}")
    found = set()
    for one in chosen:
        if isinstance(one, (int, np.integer)) and 0 <= one < len(names):
            found.add(int(one))
        elif one in names:
            found.add(list(names).index(str(one)))
        else:
            raise UnknownNameError(f"{what}: {unknown('column', one, [*names, *extra])}")
    return sorted(found)


def _contexts(tasks: Tasks, chosen: Chosen, amount: Amount | None) -> tuple[str, ...]:
    names = [
        name for name in sorted(tasks.context) if amount is None or amount.column is not None or name != amount.name
    ]
    picked = _columns(names, chosen, "context")
    return tuple(names[j] for j in picked)


def _check(intercept: bool, varying: Sequence[int], contexts: Sequence[str], correlated: bool, widen: float) -> None:
    size = int(intercept) + len(varying)
    if not size:
        raise OptionError("nothing varies by task: give intercept=True, or slopes that vary")
    if contexts and not intercept:
        raise OptionError(f"context {list(contexts)} moves the level of a task: give intercept=True or context='none'")
    if correlated and size < 2:
        raise OptionError("correlated=True needs at least two coefficients that vary by task, here is one")
    if not isinstance(widen, (int, float)) or not 0 < widen < math.inf:
        raise OptionError(f"widen must be a number above zero, got {widen!r}")


def _origin(x: Tensor, origin: Origin) -> Tensor:
    if isinstance(origin, str):
        if origin not in ("mean", "zero"):
            raise OptionError(f"origin must be 'mean', 'zero' or one number per column, got {origin!r}")
        return x.mean(0) if origin == "mean" else torch.zeros(x.shape[1], dtype=torch.float64)
    given = torch.as_tensor([origin] if isinstance(origin, (int, float)) else list(origin), dtype=torch.float64)
    if len(given) != x.shape[1]:
        raise OptionError(f"origin has {len(given)} numbers, x has {x.shape[1]} columns: give one for each")
    if not bool(torch.isfinite(given).all()):
        raise OptionError(f"origin must be finite, got {origin!r}")
    return given


def _scales(x: Tensor, names: Sequence[str], own: Sequence[int], intercept: bool) -> Tensor:
    """The sd of each column; without an intercept, of a constant column its size."""
    if not len(x):
        raise DataError("the tasks have no observations, whose scales priors are in: pass the tasks of the fit")
    sd = _sd(x)
    flat = is_flat(sd, x)
    for j in own:
        if bool(flat[j]) and (intercept or not bool((x[:, j] != 0).any())):
            what = "zero" if not intercept else f"{float(x[0, j]):g}"
            raise DataError(
                f"column {names[j]!r} is {what} throughout, and nothing can be learnt of its slope: leave it out of "
                "the tasks" + (", or give intercept=False to use it in place of one" if intercept else "")
            )
    return torch.where(flat, x.abs().amax(0).clamp(min=1e-300), sd)


def _flat_context(context: Mapping[str, Tensor], names: Sequence[str], count: int) -> Tensor:
    parts = [context[name].reshape(count, -1) for name in names]
    return torch.cat(parts, 1) if parts else torch.zeros(count, 0, dtype=torch.float64)


def _context_scales(c: Tensor, names: Sequence[str]) -> Tensor:
    sd = _sd(c)
    if bool(is_flat(sd, c).any()):
        raise DataError(
            f"one of the contexts {list(names)} is the same in all tasks, and nothing can be learnt of its effect: "
            "name those that are meant, context=[...]"
        )
    return sd


def is_flat(sd: Tensor, values: Tensor) -> Tensor:
    """Whether columns (N, d) with these standard deviations (d,) are constant, in any unit: up to rounding."""
    size = values.abs().amax(0) if len(values) else torch.zeros_like(sd)
    return sd <= ROUNDING * torch.finfo(values.dtype).eps * size


def _sd(values: Tensor) -> Tensor:
    """The standard deviation of each column; of no columns, none."""
    return (values - values.mean(0)).square().mean(0).sqrt()
