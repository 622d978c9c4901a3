"""A thousand replications of seven hierarchies by two back-ends; and what must not pass does not.

`BAYESMETA_SBC=FOLDER` keeps the ranks in files there, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
from torch import Tensor

import bayesmeta as bm
from bayesmeta import shelf
from bayesmeta.calibrate import sbc
from bayesmeta.calibrate.workers import available_cores
from bayesmeta.diagnose.sbc import Calibration
from tests.scenarios import SCENARIOS

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore::bayesmeta.errors.BayesmetaWarning")]

REPLICATIONS = 1000
NUTS = bm.NUTS(draws=400, tune=500, chains=2)
SHORT = bm.NUTS(draws=200, tune=250, chains=2)  # where a gradient takes a millisecond
SLOW = ("baseball", "beta_binomial", "correlated", "sleepstudy")
AUTO = bm.Auto(draws=1000)
Model = tuple[bm.Hierarchy, bm.Tasks]


def run(name: str, model: Model, config: Any, replications: int = REPLICATIONS, **options: Any) -> Calibration:
    """Ranks, on this process's share of the cores."""
    folder = os.environ.get("BAYESMETA_SBC")
    path = None if folder is None else Path(folder) / f"{name}.npz"
    cores = max(1, available_cores() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    return sbc(*model, config, replications, cores=cores, path=path, progress=False, **options)


# ---------------------------------------------------------------------------------------------------------
# The hierarchies, each at a design of its own


def eight_schools() -> Model:
    errors = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]
    tasks = bm.Tasks.from_lists(None, [[0.0]] * 8, names=list("ABCDEFGH"), context={"sigma": errors})
    return shelf.load_model("eight_schools").hierarchy, tasks


def radon() -> Model:
    """Forty counties with 1 to 40 houses, most with few."""
    rng = np.random.default_rng(0)
    sizes = np.r_[1 + rng.poisson(4, 36), 15, 20, 30, 40]
    floors = [(rng.random((n, 1)) < 0.2).astype(float) for n in sizes]
    context = {"log_uranium": rng.normal(0.0, 0.4, len(sizes))}
    tasks = bm.Tasks.from_lists(floors, [np.zeros(n) for n in sizes], context=context)
    return shelf.load_model("radon").hierarchy, tasks


def sleepstudy() -> Model:
    """Eighteen people on ten days."""
    days = np.tile(np.arange(10.0), (18, 1))
    return shelf.load_model("sleepstudy").hierarchy, bm.Tasks.from_arrays(days, np.full(days.shape, 250.0))


def baseball() -> Model:
    """Eighteen batters, 45 times at bat, logistic."""
    return shelf.load_model("baseball").hierarchy, bm.Tasks.from_arrays(np.full((18, 1), 45.0), np.full((18, 1), 12.0))


def scenario(name: str) -> Callable[[], Model]:
    def model() -> Model:
        found = SCENARIOS[name]()
        return found.hierarchy, found.tasks

    return model


MODELS: dict[str, Callable[[], Model]] = {
    "eight_schools": eight_schools,
    "radon": radon,
    "correlated": scenario("correlated"),
    "sleepstudy": sleepstudy,
    "log_normal": scenario("log_normal"),
    "beta_binomial": scenario("beta_binomial"),
    "baseball": baseball,
}


@pytest.mark.parametrize("back_end", ["auto", "nuts"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_calibrated(name: str, back_end: str) -> None:
    config: Any = AUTO if back_end == "auto" else SHORT if name in SLOW else NUTS
    found = run(f"{name}-{back_end}", MODELS[name](), config)

    assert len(found) >= 0.99 * REPLICATIONS, found.verdict
    assert found.failures(0.001) == [], repr(found)


# ---------------------------------------------------------------------------------------------------------
# What must fail


def centred_schools() -> bm.Hierarchy:
    """Eight schools with all effects sampled as they are: a Student-t of 10,000 degrees is not standardised."""

    def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None, *, sigma: Tensor) -> Tensor:
        mu, tau = phi
        theta = pyro.sample("theta", dist.StudentT(1e4, mu, tau))
        drawn: Tensor = pyro.sample("y", dist.Normal(theta, sigma).expand([len(x)]).to_event(1), obs=y)
        return drawn

    return bm.Hierarchy(eight_schools()[0].hyperprior, task)


def half_blind() -> bm.Hierarchy:
    """Radon that takes the houses' noise for twice what it is."""
    right = radon()[0]

    def task(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None, *, log_uranium: Tensor) -> Any:
        return right.task(phi | {"sigma_y": 2 * phi["sigma_y"]}, x, y, log_uranium=log_uranium)

    return bm.Hierarchy(right.hyperprior, task)


def shifted_prior() -> bm.Hierarchy:
    """Eight schools whose mean effect is 3 in place of 0."""
    right = eight_schools()[0]

    def hyperprior() -> tuple[Tensor, Tensor]:
        return pyro.sample("mu", dist.Normal(3.0, 5.0)), pyro.sample("tau", dist.HalfCauchy(5.0))

    return bm.Hierarchy(hyperprior, right.task)


def test_centred_schools_under_short_chains_fail() -> None:
    short = dataclasses.replace(NUTS, draws=100, tune=150, evidence="joint")

    found = run("centred", (centred_schools(), eight_schools()[1]), short, 300)

    assert found.verdict.level == "failed"


def test_a_plain_laplace_approximation_fails() -> None:
    plain = bm.Laplace(draws=500, starts=2, proposal="normal", importance=False)

    found = run("plain-laplace", eight_schools(), plain, 300)

    assert found.verdict.level == "failed"


@pytest.mark.parametrize(
    ("name", "wrong", "model"),
    [("half-blind", half_blind, radon), ("shifted-prior", shifted_prior, eight_schools)],
    ids=["a wrong likelihood", "a biased prior"],
)
def test_a_hierarchy_that_is_not_that_of_the_data_fails(
    name: str, wrong: Callable[[], bm.Hierarchy], model: Callable[[], Model]
) -> None:
    truth, tasks = model()

    found = run(name, (wrong(), tasks), NUTS, 300, truth=truth)

    assert found.verdict.level == "failed"


def test_the_number_of_cores_changes_nothing_under_quadrature() -> None:
    """Modes are searched from where the last search ended: of the same data set, never of another."""
    one, two = (sbc(*baseball(), SHORT, 6, cores=cores, progress=False) for cores in (1, 2))

    assert np.array_equal(one.ranks, two.ranks)
