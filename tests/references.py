"""Hierarchies of posteriordb, written as a user writes them, and what is known of their posteriors.

The data, and draws made with Stan, are read from the folder that BAYESMETA_DATA names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
from torch import Tensor
from torch.distributions import constraints

import bayesmeta as bm
from tests.truth import Array

__all__ = [
    "EIGHT_SCHOOLS",
    "RADON",
    "REFERENCES",
    "Moments",
    "Problem",
    "eight_schools",
    "radon_uranium",
    "radon_variable_intercept",
    "rats",
    "reference_draws",
]


class Problem(NamedTuple):
    """A hierarchy and its tasks."""

    hierarchy: bm.Hierarchy
    tasks: bm.Tasks


class Moments(NamedTuple):
    """Exact means and sds by name; θ as ``theta[1]``, counted over tasks."""

    mean: dict[str, float]
    sd: dict[str, float]


def _numbered(name: str, values: list[float]) -> dict[str, float]:
    return {f"{name}[{k + 1}]": value for k, value in enumerate(values)}


# By quadrature over (mu, log tau), and by algebra.
EIGHT_SCHOOLS = Moments(
    {"mu": 4.3968, "tau": 3.5977, "log tau": 0.8021}
    | _numbered("theta", [6.2119, 4.9402, 3.9270, 4.7571, 3.6155, 4.0426, 6.2967, 4.8543]),
    {"mu": 3.3177, "tau": 3.2200} | _numbered("theta", [5.593, 4.674, 5.263, 4.780, 4.658, 4.827, 5.078, 5.291]),
)
RADON = Moments(
    {"sigma_y": 0.72678, "sigma_alpha": 0.32120, "mu_alpha": 1.49234, "beta": -0.66285},
    {"sigma_y": 0.01771, "sigma_alpha": 0.04473, "mu_alpha": 0.05059, "beta": 0.06793},
)


def folder() -> Path:
    """The folder of posteriordb. Without it the test is skipped, except in CI, where it is meant to be there."""
    root = os.environ.get("BAYESMETA_DATA")
    path = Path(root or "") / "posteriordb"
    if root and path.is_dir():
        return path
    if os.environ.get("CI") == "true":
        pytest.fail("BAYESMETA_DATA names no folder with posteriordb in it, and CI=true")
    pytest.skip("BAYESMETA_DATA names no folder with posteriordb in it")


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder() / "data" / f"{name}.json").read_text())
    return content


def reference_draws(posterior: str) -> dict[str, Array]:
    """Stan's draws by name, each (chains, draws)."""
    with np.load(folder() / "draws_selfrun" / f"{posterior}.npz") as content:
        draws = content["draws"].astype(np.float64)
        return {str(name): draws[..., k] for k, name in enumerate(content["names"])}


# --- eight schools ------------------------------------------------------------------------------------------


def eight_schools(prior_mean: float = 0.0) -> Problem:
    def hyperprior() -> tuple[Tensor, Tensor]:
        mu = pyro.sample("mu", dist.Normal(prior_mean, 5.0))
        return mu, pyro.sample("tau", dist.HalfCauchy(5.0))

    def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None, *, sigma: Tensor) -> Tensor:
        mu, tau = phi
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        return pyro.sample("y", dist.Normal(theta, sigma).expand([len(x)]).to_event(1), obs=y)

    data = _read("eight_schools")
    tasks = bm.Tasks.from_lists(
        None, [[effect] for effect in data["y"]], names=range(1, 9), context={"sigma": data["sigma"]}
    )
    return Problem(bm.Hierarchy(hyperprior, task), tasks)


# --- radon --------------------------------------------------------------------------------------------------


def _houses() -> pd.DataFrame:
    data = _read("radon_mn")
    columns = ("county_idx", "floor_measure", "log_radon", "log_uppm")
    return pd.DataFrame({column: data[column] for column in columns})


def radon_variable_intercept() -> Problem:
    def hyperprior() -> dict[str, Tensor]:
        return {
            "mu_alpha": pyro.sample("mu_alpha", dist.Normal(0.0, 10.0)),
            "beta": pyro.sample("beta", dist.Normal(0.0, 10.0)),
            "sigma_alpha": pyro.sample("sigma_alpha", dist.HalfNormal(1.0)),
            "sigma_y": pyro.sample("sigma_y", dist.HalfNormal(1.0)),
        }

    def task(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        alpha = pyro.sample("alpha", dist.Normal(phi["mu_alpha"], phi["sigma_alpha"]))
        mean = alpha + phi["beta"] * x
        return pyro.sample("y", dist.Normal(mean, phi["sigma_y"]).to_event(1), obs=y)

    tasks = bm.Tasks.from_frame(_houses(), task="county_idx", x="floor_measure", y="log_radon")
    return Problem(bm.Hierarchy(hyperprior, task), tasks)


def radon_uranium() -> Problem:
    """posteriordb's `radon_hierarchical_intercept`: uranium is in the mean of y, not in that of alpha."""

    def hyperprior() -> dict[str, Tensor]:
        return {
            "mu_alpha": pyro.sample("mu_alpha", dist.Normal(0.0, 10.0)),
            "beta": pyro.sample("beta", dist.Normal(0.0, 10.0).expand([2]).to_event(1)),
            "sigma_alpha": pyro.sample("sigma_alpha", dist.HalfNormal(1.0)),
            "sigma_y": pyro.sample("sigma_y", dist.HalfNormal(1.0)),
        }

    def task(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None, *, log_uppm: Tensor) -> Tensor:
        alpha = pyro.sample("alpha", dist.Normal(phi["mu_alpha"], phi["sigma_alpha"]))
        mean = alpha + phi["beta"][0] * log_uppm + phi["beta"][1] * x
        with pyro.plate("houses", len(x)):
            return pyro.sample("y", dist.Normal(mean, phi["sigma_y"]), obs=y)

    tasks = bm.Tasks.from_frame(_houses(), task="county_idx", x="floor_measure", y="log_radon", context="log_uppm")
    return Problem(bm.Hierarchy(hyperprior, task), tasks)


# --- rats ---------------------------------------------------------------------------------------------------


def rats() -> Problem:
    def hyperprior() -> dict[str, Tensor]:
        flat = dist.ImproperUniform(constraints.positive, (), ())
        return {
            "mu_alpha": pyro.sample("mu_alpha", dist.Normal(0.0, 100.0)),
            "mu_beta": pyro.sample("mu_beta", dist.Normal(0.0, 100.0)),
            "sigma_y": pyro.sample("sigma_y", flat),
            "sigma_alpha": pyro.sample("sigma_alpha", flat),
            "sigma_beta": pyro.sample("sigma_beta", flat),
        }

    def task(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        alpha = pyro.sample("alpha", dist.Normal(phi["mu_alpha"], phi["sigma_alpha"]))
        beta = pyro.sample("beta", dist.Normal(phi["mu_beta"], phi["sigma_beta"]))
        return pyro.sample("y", dist.Normal(alpha + beta * (x - 22.0), phi["sigma_y"]).to_event(1), obs=y)

    data = _read("rats_data")
    frame = pd.DataFrame({column: data[column] for column in ("rat", "x", "y")})
    return Problem(bm.Hierarchy(hyperprior, task), bm.Tasks.from_frame(frame, task="rat", x="x", y="y"))


REFERENCES: dict[str, Callable[[], Problem]] = {
    "radon_mn-radon_variable_intercept_noncentered": radon_variable_intercept,
    "radon_mn-radon_hierarchical_intercept_noncentered": radon_uranium,
    "rats_data-rats_model": rats,
}
