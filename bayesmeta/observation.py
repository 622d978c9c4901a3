"""The observed site of a task when it is predicted: run, drawn, and as the Normals of its observations one by one."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from bayesmeta.classes import base_of, class_count
from bayesmeta.closed_form import Mixed
from bayesmeta.drawing import draw
from bayesmeta.errors import BayesmetaWarning, HierarchyError
from bayesmeta.plates import is_factor
from bayesmeta.program import Program, Row
from bayesmeta.sites import Meeting, Values

__all__ = ["drawn", "moments", "normals", "predicted", "total_moments", "warn_slow"]

JOINT_NORMALS = ("JointNormal", "LowRankMultivariateNormal", "MultivariateNormal")


def predicted(program: Program, phi: Any, v: Tensor, row: Row, observed: bool, random: bool) -> Meeting:
    """The observed site at θ coordinates v: drawn afresh, at the observations of the row, or just its distribution."""
    fallback = None if random else lambda name, fn: torch.zeros(fn.shape())
    handler = Values(program.structure.theta.split(v), fallback=fallback)
    try:
        program.run(handler, phi, row.x, row.y if observed else None, row.context)
    except (TypeError, AttributeError) as error:
        if observed:
            raise
        raise HierarchyError(
            f"task raised {type(error).__name__} with y=None, which is how it is asked for a prediction: take the "
            f"number of observations from x ({error})"
        ) from error
    site = program.structure.observed[0]
    if site not in handler.met or (handler.met[site].observed and not observed):
        raise HierarchyError(
            f"with y=None the task does not sample {site!r}: write obs=y, and take the number of observations from x"
        )
    met = handler.met[site]
    if not is_factor(met.fn) and tuple(met.fn.shape()) != tuple(row.y.shape):
        raise HierarchyError(
            f"predictions are of y, with shape {tuple(row.y.shape)} in a task, and site {site!r} has shape "
            f"{tuple(met.fn.shape())}: the task observes {sorted(program.structure.observed)}; write one site that "
            "observes all of y, as one joint distribution"
        )
    return met


def drawn(fn: Any, times: int) -> Tensor:
    """Draws (times, ...) from a distribution that a closed form gives."""
    return torch.stack([fn.sample() if isinstance(fn, Mixed) else draw(fn) for _ in range(times)])


def normals(fn: Any, closed: bool) -> tuple[Tensor, ...]:
    """Means and sds (m,) of the Normals of the observations one by one; or those of K, and their weights, (m, K).

    Args:
        fn: The distribution of all observations of a task.
        closed: Whether it comes from a closed form, whose marginals are Normal.

    Raises:
        NotImplementedError: They are not Normal.
    """
    if isinstance(fn, Mixed):
        if class_count(fn):
            raise NotImplementedError
        loc, scale = (t.movedim(0, -1) for t in (fn.parts.mean, fn.parts.variance.sqrt()))
        return loc, scale, fn.log_weights.exp().expand(loc.shape)
    fn = base_of(fn)
    if closed or type(fn).__name__ in JOINT_NORMALS:
        return fn.mean, fn.variance.sqrt()
    if type(fn).__name__ != "Normal":
        raise NotImplementedError
    return fn.loc, fn.scale.expand(fn.loc.shape)


def moments(fn: Any) -> tuple[Tensor, Tensor]:
    """Mean and variance of each observation: NaN where there is none, infinite where the variance is.

    Raises:
        NotImplementedError: The distribution knows none.
    """
    base = base_of(fn)
    if type(base).__name__ != "StudentT":
        return fn.mean, fn.variance
    df, loc = base.df.expand(base.loc.shape), base.loc  # torch's own looks where df is small, which vmap cannot
    tails = torch.where(df > 1, torch.inf, torch.nan)
    variance = torch.where(df > 2, base.scale.square() * df / (df - 2).clamp(min=1e-300), tails)
    return torch.where(df > 1, loc, torch.nan), variance


def total_moments(moments: tuple[Tensor, ...]) -> Tensor:
    """Mean and standard deviation of an equal mixture, from those of its components (S, ...)."""
    means, variances = moments
    return torch.stack([means.mean(0), (variances.mean(0) + means.var(0, correction=0)).sqrt()])


def warn_slow(error: RuntimeError) -> None:
    """Say that observations are drawn one by one."""
    reason = str(error).strip().splitlines()[0]
    warnings.warn(
        f"observations cannot be drawn for many draws of φ at once and are drawn one by one, much slower: {reason}",
        BayesmetaWarning,
        stacklevel=3,
    )
