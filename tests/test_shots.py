"""What a shot is worth, against formulas for Normal levels whose population is known."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.errors import DataError, OptionError, UnknownNameError
from tests.scenarios import beta_binomial, normal_normal

TAU, SIGMA = 2.0, 0.8


@cache
def fitted() -> bm.Posterior:
    """A population that is known but for its mean, which 400 tasks tell."""

    def hyperprior() -> Tensor:
        return pyro.sample("mu", dist.Normal(0.0, 5.0))

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi, TAU))
        return pyro.sample("y", dist.Normal(theta * x, SIGMA).to_event(1), obs=y)

    rng = np.random.default_rng(0)
    theta = rng.normal(1.0, TAU, 400)
    tasks = bm.Tasks.from_arrays(np.ones((400, 6)), theta[:, None] + SIGMA * rng.normal(size=(400, 6)))
    return bm.fit(bm.Hierarchy(hyperprior, task), tasks, bm.Laplace(draws=500), progress=False)


def theta_sd(shots: int) -> float:
    return float((TAU**-2 + shots * SIGMA**-2) ** -0.5)


@cache
def found() -> bm.Shots:
    return fitted().shots(x=torch.ones(20), query=torch.ones(5), shots=[0, 1, 2, 5, 20], tasks=300, draws=300)


# --- the formulas -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shots", [0, 1, 2, 5, 20])
def test_sd_error_and_density_are_as_computed(shots: int) -> None:
    row, sd = found().table.loc[shots], math.hypot(theta_sd(shots), SIGMA)

    assert row["sd theta"] == pytest.approx(theta_sd(shots), rel=0.03)
    assert row["sd"] == pytest.approx(sd, rel=0.03)
    assert abs(row["rmse"] - sd) < 4 * row["rmse_se"]
    assert abs(row["nll"] - (math.log(sd) + 0.5 * math.log(2 * math.pi) + 0.5)) < 4 * row["nll_se"]
    assert abs(row["coverage"] - 0.9) < 4 * row["coverage_se"]
    # the check can fail: one shot less or more
    other = math.hypot(theta_sd(shots + 1 if shots < 3 else 1), SIGMA)
    assert row["sd"] != pytest.approx(other, rel=0.03)


def test_the_floor_is_the_noise() -> None:
    assert found().floor == pytest.approx(SIGMA)
    assert float(found().table["sd"].min()) > SIGMA


def test_how_many_shots_are_needed() -> None:
    some = found()

    assert some.needed(sd=1.0) == 2
    assert some.needed(sd=0.7 * SIGMA) is None
    assert some.needed(sd=0.4, of="theta") == 5
    assert some.needed(rmse=10.0) == 0
    assert some.needed(nll=1.35) in (2, 5)


def test_a_population_that_is_not_what_it_says_is_not_covered() -> None:
    """Intervals are honest about simulated tasks; those of draws of θ that are too narrow are not."""
    posterior = fitted()
    narrow = bm.Posterior(posterior.hierarchy, posterior.tasks, posterior.collapsed, posterior.draws, posterior.info)
    adapt = narrow.adapt

    def narrower(tasks: bm.Tasks, **options: Any) -> bm.Adapted:
        adapted = adapt(tasks, **options)
        if int(tasks.sizes.max()):
            theta = adapted.theta_coordinates
            adapted.theta_coordinates = theta.mean(0) + 0.2 * (theta - theta.mean(0))
        return adapted

    narrow.adapt = narrower  # type: ignore[method-assign]
    row = narrow.shots(x=torch.ones(2), shots=[1], tasks=200, draws=200).table.loc[1]

    assert row["coverage"] < 0.9 - 4 * row["coverage_se"]


# --- inputs, contexts, families -----------------------------------------------------------------------------


def test_inputs_are_used_in_their_order_and_queries_apart() -> None:
    """An observation at x = 0 tells nothing about a slope; at a query x = 0 nothing is to be known."""
    empty = fitted().shots(x=torch.tensor([0.0, 1.0]), query=torch.tensor([0.0, 3.0]), shots=[1, 2], tasks=100)

    assert empty.table.loc[1, "sd theta"] == pytest.approx(TAU, rel=0.05)
    assert empty.table.loc[2, "sd theta"] == pytest.approx(theta_sd(1), rel=0.05)
    assert empty.table.loc[2, "sd"] == pytest.approx((SIGMA + math.hypot(3 * theta_sd(1), SIGMA)) / 2, rel=0.05)


def test_inputs_and_contexts_of_the_fit_are_the_default() -> None:
    scenario = normal_normal()
    posterior = bm.fit(scenario.hierarchy, scenario.tasks, bm.Laplace(draws=200), progress=False)
    mixed: Any = posterior.shots(shots=[1, 4], tasks=80)
    precise: Any = posterior.shots(shots=[1, 4], tasks=80, context={"sigma": 0.2})

    assert mixed.floor == pytest.approx(float(scenario.tasks.context["sigma"].mean()), rel=1e-6)
    assert precise.floor == pytest.approx(0.2)
    assert precise.table.loc[1, "sd theta"] < mixed.table.loc[4, "sd theta"]


def test_counts_and_several_theta() -> None:
    scenario = beta_binomial()
    posterior = bm.fit(scenario.hierarchy, scenario.tasks, bm.Laplace(draws=100), progress=False)
    few: Any = posterior.shots(x=torch.full((4,), 10.0), shots=[1, 4], tasks=20, draws=50)

    assert few.table.loc[4, "sd theta"] < few.table.loc[1, "sd theta"]
    assert few.table.loc[4, "nll"] < few.table.loc[1, "nll"] + 0.2


def test_it_shows_itself() -> None:
    shown = repr(found())

    assert shown.startswith("Shots: 300 simulated tasks; with θ known the sd would be 0.8\n")
    assert "rmse" in shown
    assert "rmse_se" not in shown
    assert "<table" in found()._repr_html_()
    assert found().table.index.name == "shots"


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"shots": []}, OptionError, "shots must be whole numbers of at least 0"),
        ({"shots": [1, -1]}, OptionError, "shots must be whole numbers of at least 0"),
        ({"tasks": 1}, OptionError, "tasks must be a whole number of at least 2, got 1"),
        ({"x": torch.ones(3), "shots": [5]}, DataError, "x has 3 rows, and 5 shots need as many"),
        ({"x": torch.ones(3, 2), "shots": [1]}, DataError, r"x has shape \(3, 2\); wanted rows as in the fit, \(m"),
        ({"x": torch.tensor(1.0), "shots": [1]}, DataError, r"x has shape \(\); wanted rows as in the fit"),
        ({"query": torch.ones(3, 2), "shots": [1]}, DataError, r"query has shape \(3, 2\)"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fitted().shots(**options)


def test_needed_takes_one_measure() -> None:
    with pytest.raises(OptionError, match="exactly one of sd, rmse and nll, got none"):
        found().needed()
    with pytest.raises(OptionError, match=r"exactly one of sd, rmse and nll, got \['nll', 'sd'\]"):
        found().needed(sd=1.0, nll=1.0)
    with pytest.raises(OptionError, match="of='theta' goes with sd, got rmse"):
        found().needed(rmse=1.0, of="theta")
    with pytest.raises(UnknownNameError, match="unknown element of θ 'beta'; valid: 'theta'"):
        found().needed(sd=1.0, of="beta")
