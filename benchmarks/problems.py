"""What is fitted: radon in Minnesota, and simulated hierarchical linear regressions of growing size.

Radon (919 houses, 85 counties, the level varies by county):

    sigma_y, sigma_alpha ~ HalfNormal(1)        mu_alpha, beta ~ Normal(0, 10)
    alpha_t ~ Normal(mu_alpha, sigma_alpha)     y ~ Normal(alpha_t + beta floor, sigma_y)

Linear (T tasks of n observations, two coefficients):

    mu ~ Normal(0, 5)     tau, sigma ~ HalfNormal(1)       (mu and tau one for each coefficient)
    theta_t ~ Normal(mu, tau)                   y ~ Normal(theta_t0 + theta_t1 x, sigma)

Every tool gets the same arrays, through one npz file; rows are sorted by task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["PROBLEMS", "QUICK", "Data", "Problem", "linear", "linear_data", "radon_data", "save"]

OBSERVATIONS = 11
MU, TAU, SIGMA = (1.5, -0.7), (0.7, 0.4), 0.5


@dataclass(frozen=True)
class Data:
    """The observations in long form: row i belongs to task `task[i]`; tasks are numbered from 0."""

    kind: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    task: NDArray[np.int64]

    @property
    def n_tasks(self) -> int:
        """T."""
        return int(self.task[-1]) + 1


@dataclass(frozen=True)
class Problem:
    """A name for the table, how large it is, and how its data are had."""

    name: str
    title: str
    kind: str
    n_tasks: int
    load: Callable[[], Data]


def radon_data() -> Data:
    """The 919 houses that come with the package, as (floor, log radon, county)."""
    import bayesmeta.data

    frame = bayesmeta.data.load("radon")
    county = frame["county"].to_numpy()
    order = np.argsort(county, kind="stable")
    _, task = np.unique(county[order], return_inverse=True)
    floor = frame["floor"].to_numpy(dtype=np.float64)[order]
    log_radon = frame["log_radon"].to_numpy(dtype=np.float64)[order]
    return Data("radon", floor, log_radon, task.astype(np.int64))


def linear_data(n_tasks: int, observations: int = OBSERVATIONS, seed: int = 20) -> Data:
    """Draw tasks from the population `MU`, `TAU`, `SIGMA`, with standard normal inputs.

    Args:
        n_tasks: how many tasks.
        observations: how many observations each task has.
        seed: of NumPy's generator; the same seed gives the same tasks on every machine.
    """
    rng = np.random.default_rng(seed)
    theta = np.asarray(MU) + np.asarray(TAU) * rng.standard_normal((n_tasks, 2))
    x = rng.standard_normal((n_tasks, observations))
    y = theta[:, :1] + theta[:, 1:] * x + SIGMA * rng.standard_normal(x.shape)
    task = np.repeat(np.arange(n_tasks), observations)
    return Data("linear", x.ravel(), y.ravel(), task.astype(np.int64))


def save(data: Data, path: Path) -> None:
    """Write the arrays where every worker reads them."""
    np.savez(path, kind=np.array(data.kind), x=data.x, y=data.y, task=data.task)


def linear(n_tasks: int) -> Problem:
    """The linear regression with so many tasks."""
    title = f"linear regression, {n_tasks:,} tasks"
    return Problem(f"linear-{n_tasks}", title, "linear", n_tasks, lambda: linear_data(n_tasks))


_RADON = Problem("radon", "radon, 85 counties", "radon", 85, radon_data)
PROBLEMS = (_RADON, linear(85), linear(2_000), linear(20_000))
QUICK = (_RADON, linear(20))
