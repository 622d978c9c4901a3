"""Exact answers of small hierarchies, in numpy and scipy, without any code of bayesmeta.

A linear-Gaussian task at one φ has log Z and the moments of θ in closed form (`evidence_of`, `moments_of`).
Where φ is two numbers, `quadrature` sums over a grid of them: exact moments of φ and θ under p(φ | D).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

import bayesmeta as bm

__all__ = ["Array", "Exact", "Linear", "PhiValues", "Scenario", "evidence_of", "moments_of", "quadrature"]

Array = npt.NDArray[np.float64]
PhiValues = Mapping[str, Any]  # constrained values by site: floats or arrays


class Linear(NamedTuple):
    """One task at one φ: v ~ N(m, V) and z | v ~ N(A v + c, R); all may have leading axes over many φ.

    z is y, or its logarithm; `log_jacobian` is log |dz / dy|. v are the unconstrained coordinates of θ.
    """

    m: Array  # (..., p)
    V: Array  # (..., p, p)
    A: Array  # (n, p)
    c: Array  # (..., n)
    R: Array  # (..., n, n)
    z: Array  # (n,)
    log_jacobian: float = 0.0


@dataclass(frozen=True)
class Scenario:
    """A hierarchy, its tasks, and its exact answers.

    Attributes:
        name: Its name.
        hierarchy: The model as a user writes it.
        tasks: Its tasks.
        road: The evidence that `auto` must find: ``"gram"``, ``"exact"``, ``"quadrature"`` or ``"joint"``.
        points: A few φ, by site, to compare at.
        log_z: log Z of a task at φ, over leading axes of φ.
        moments: Mean and variance (..., p) of θ given φ and the task, over leading axes of φ.
        linear: The task as a linear-Gaussian model, where it is one.
        log_prior: log p(φ) of the constrained values, where φ is two numbers.
        box: Where to look for φ, in unconstrained coordinates: (site, positive, lower, upper).
    """

    name: str
    hierarchy: bm.Hierarchy
    tasks: bm.Tasks
    road: str
    points: tuple[PhiValues, ...]
    log_z: Callable[[PhiValues, bm.Task], Array]
    moments: Callable[[PhiValues, bm.Task], tuple[Array, Array]]
    linear: Callable[[PhiValues, bm.Task], Linear] | None = None
    log_prior: Callable[[PhiValues], Array] | None = None
    box: tuple[tuple[str, bool, float, float], ...] = ()


class Exact(NamedTuple):
    """Moments under p(φ | D): of each φ, of its logarithm where it is positive, and of each element of θ."""

    mean: dict[str, float]
    sd: dict[str, float]
    mean_log: dict[str, float]
    theta_mean: Array  # (T, p)
    theta_sd: Array  # (T, p)


def evidence_of(linear: Linear) -> Array:
    """log N(z; A m + c, A V A' + R) and the Jacobian: by scipy at one φ, by the formula at many."""
    mean = (linear.A @ linear.m[..., None])[..., 0] + linear.c
    covariance = linear.A @ linear.V @ linear.A.T + linear.R
    if mean.ndim == 1:
        value = stats.multivariate_normal(mean, covariance).logpdf(linear.z)
        return np.asarray(value + linear.log_jacobian)
    residual = (linear.z - mean)[..., None]
    distance = (residual * np.linalg.solve(covariance, residual)).sum((-1, -2))
    constant = len(linear.z) * np.log(2 * np.pi) + np.linalg.slogdet(covariance)[1]
    return np.asarray(-0.5 * (distance + constant) + linear.log_jacobian)


def moments_of(linear: Linear) -> tuple[Array, Array]:
    """Mean (..., p) and covariance (..., p, p) of v given z, from the joint Gaussian of v and z."""
    cross = linear.V @ linear.A.T
    covariance = linear.A @ cross + linear.R
    gain = np.swapaxes(np.linalg.solve(covariance, np.swapaxes(cross, -1, -2)), -1, -2)
    residual = linear.z - (linear.A @ linear.m[..., None])[..., 0] - linear.c
    mean = linear.m + (gain @ residual[..., None])[..., 0]
    return mean, linear.V - gain @ np.swapaxes(cross, -1, -2)


def quadrature(scenario: Scenario, tasks: bm.Tasks | None = None) -> Exact:
    """Exact moments under p(φ | D) by the trapezoidal rule on a grid over two unconstrained coordinates.

    Args:
        scenario: One with `log_prior` and `box`.
        tasks: D, in place of the scenario's own tasks.
    """
    tasks = scenario.tasks if tasks is None else tasks
    box = [(lower, upper) for _, _, lower, upper in scenario.box]
    for points in (61, 61, 241):
        axes = [np.linspace(lower, upper, points) for lower, upper in box]
        grid = list(np.meshgrid(*axes, indexing="ij"))
        phi = {site: np.exp(u) if positive else u for (site, positive, _, _), u in zip(scenario.box, grid, strict=True)}
        log_density = _log_posterior(scenario, tasks, phi, grid)
        box = _support(log_density - log_density.max(), axes)
    weights = np.exp(log_density - log_density.max())
    weights /= weights.sum()
    return _moments(scenario, tasks, phi, weights)


def _log_posterior(scenario: Scenario, tasks: bm.Tasks, phi: PhiValues, grid: list[Array]) -> Array:
    assert scenario.log_prior is not None
    total = np.array(scenario.log_prior(phi))
    for (_, positive, _, _), u in zip(scenario.box, grid, strict=True):
        total += u if positive else 0.0
    for task in tasks:
        total += scenario.log_z(phi, task)
    return total


def _support(log_density: Array, axes: list[Array]) -> list[tuple[float, float]]:
    """Where the density is within e^-40 of its peak, and one step more on each side."""
    found = []
    for k, axis in enumerate(axes):
        inside = np.flatnonzero((log_density > -40).any(axis=1 - k))
        step = axis[1] - axis[0]
        found.append((float(axis[inside[0]] - step), float(axis[inside[-1]] + step)))
    return found


def _moments(scenario: Scenario, tasks: bm.Tasks, phi: PhiValues, weights: Array) -> Exact:
    def expect(values: Array) -> Any:
        extra = values.ndim - weights.ndim
        return (values * weights.reshape(weights.shape + (1,) * extra)).sum((0, 1))

    mean = {site: float(expect(value)) for site, value in phi.items()}
    sd = {site: float(np.sqrt(expect((value - mean[site]) ** 2))) for site, value in phi.items()}
    mean_log = {site: float(expect(np.log(phi[site]))) for site, positive, _, _ in scenario.box if positive}
    rows = []
    for task in tasks:
        m, v = scenario.moments(phi, task)
        centre = expect(m)
        rows.append((centre, np.sqrt(expect(v + (m - centre) ** 2))))
    theta_mean, theta_sd = (np.stack(column) for column in zip(*rows, strict=True))
    return Exact(mean, sd, mean_log, theta_mean, theta_sd)
