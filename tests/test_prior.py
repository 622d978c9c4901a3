"""Draws from the prior against distributions written by hand: φ, θ given φ, y given both, each row with its own."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

import bayesmeta as bm
from bayesmeta import shelf
from bayesmeta.errors import DataError, HierarchyError, OptionError
from tests.ensembles import network, waves
from tests.scenarios import normal_normal, plated

DRAWS = 2000
LEAST = 1e-3  # p-value that a right distribution has to reach; a wrong one is asked for 1e-6 and less


@cache
def before() -> Any:
    scenario = plated()
    return bm.prior(scenario.hierarchy, scenario.tasks, draws=DRAWS, seed=4)


def p_value(values: Any, distribution: Any) -> float:
    return float(stats.kstest(np.asarray(values).ravel(), distribution.cdf).pvalue)


# --- the draws ----------------------------------------------------------------------------------------------


def test_phi_has_the_distribution_of_the_hyperprior() -> None:
    phi = before().phi

    assert phi["beta"].shape == (DRAWS,)
    assert p_value(phi["beta"], stats.norm(0, 1)) > LEAST
    assert p_value(phi["tau"], stats.lognorm(0.5)) > LEAST
    assert p_value(phi["tau"], stats.lognorm(0.8)) < 1e-6
    assert abs(np.corrcoef(phi["beta"], phi["tau"])[0, 1]) < 4 / np.sqrt(DRAWS)


def test_theta_goes_with_the_phi_of_its_row() -> None:
    phi, theta = before().phi, before().theta["theta"]
    z = (theta - 1.0) / phi["tau"][:, None]

    assert theta.shape == (DRAWS, 8)
    assert p_value(z, stats.norm()) > LEAST
    assert p_value((theta - 1.0) / phi["tau"].roll(1)[:, None], stats.norm()) < 1e-6
    apart = np.corrcoef(z.T)[np.triu_indices(8, 1)]
    assert np.abs(apart).max() < 5 / np.sqrt(DRAWS)


def test_observations_go_with_theta_and_phi_and_their_inputs() -> None:
    prior = before()
    index, x = prior.tasks.task_index, prior.tasks.x
    mean = prior.theta["theta"][:, index] + prior.phi["beta"][:, None] * x
    z = (prior.y - mean) / 0.8

    assert prior.y.shape == (DRAWS, prior.tasks.n_observations)
    assert p_value(z, stats.norm()) > LEAST
    assert np.abs(np.corrcoef(z.T)[np.triu_indices(len(x), 1)]).max() < 5 / np.sqrt(DRAWS)
    for wrong in ((prior.y.roll(1, 0) - mean) / 0.8, (prior.y.roll(1, 1) - mean) / 0.8):
        assert p_value(wrong, stats.norm()) < 1e-6


def test_what_was_observed_does_not_matter() -> None:
    scenario = plated()
    other = bm.Tasks.from_lists([task.x for task in scenario.tasks], [task.y + 50.0 for task in scenario.tasks])

    assert torch.equal(
        bm.prior(scenario.hierarchy, other, 50, 4).y, bm.prior(scenario.hierarchy, scenario.tasks, 50, 4).y
    )


def test_the_seed_is_all_that_matters() -> None:
    hierarchy, tasks = normal_normal().hierarchy, normal_normal().tasks
    one, other = bm.prior(hierarchy, tasks, 20, 1), bm.prior(hierarchy, tasks, 20, 1)
    y = other.y  # asked for before θ

    assert torch.equal(one.theta["theta"], other.theta["theta"])
    assert torch.equal(one.y, y)
    assert not torch.equal(one.y, bm.prior(hierarchy, tasks, 20, 2).y)
    fitted = bm.fit(hierarchy, tasks, bm.Laplace(draws=10), progress=False)
    assert torch.equal(fitted.prior(20, 1).y, y)
    assert repr(one) == "Prior: 20 draws of φ (mu, tau), θ (theta) and y of 8 tasks"


def test_tasks_without_observations_have_none() -> None:
    like = normal_normal()
    tasks = bm.Tasks.without_observations(["new", "newer"], like=like.tasks, context={"sigma": [1.0, 2.0]})
    prior = bm.prior(like.hierarchy, tasks, 5)

    assert prior.y.shape == (5, 0)
    assert prior.theta["theta"].shape == (5, 2)
    mixed = bm.Tasks.from_lists(None, [[], [0.5]], context={"sigma": [1.0, 2.0]}, allow_empty=True)
    assert bm.prior(like.hierarchy, mixed, 5).y.shape == (5, 1)


# --- other hierarchies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in shelf.names("model") if not shelf.is_network(shelf.path_of("model", n))])
def test_the_models_of_the_gallery_draw_observations(name: str) -> None:
    model = shelf.load_model(shelf.path_of("model", name))
    tasks = model.tasks()
    tasks = tasks[: min(len(tasks), 5)]
    prior = bm.prior(model.hierarchy, tasks, 10)

    assert prior.y.shape == (10, *tasks.y.shape)
    assert prior.y.isfinite().all()
    assert bool((prior.y.std(0) > 0).any())


def test_a_gaussian_process_draws_curves() -> None:
    """No θ at all: the observations of a task have the covariance of the kernel and the noise."""
    hierarchy = bm.families.gp(bm.families.kernels.rbf())
    tasks = waves(1, 3)
    prior = bm.prior(hierarchy, tasks, 40)

    assert prior.theta == {}
    assert prior.y.shape == (40, tasks.n_observations)
    assert prior.y.isfinite().all()


def test_a_network_under_a_last_layer() -> None:
    tasks = waves(0, 3)
    prior = bm.prior(bm.families.last_layer(network(4)), tasks, 7)

    assert prior.y.shape == (7, tasks.n_observations)
    assert prior.y.isfinite().all()


def test_a_hierarchy_from_a_plated_model() -> None:
    def model(room: Tensor, y: Tensor | None = None) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        with pyro.plate("room", len(room.unique())):
            theta = pyro.sample("theta", dist.Normal(mu, 0.1))
        with pyro.plate("rows", len(room)):
            pyro.sample("obs", dist.Normal(theta[room], 0.1), obs=y)

    tasks = bm.Tasks.from_lists(None, [[0.1, 0.2], [0.3]])
    hierarchy = bm.Hierarchy.from_plated(model, "room", arguments={"room": ("task index", torch.long)})
    prior = bm.prior(hierarchy, tasks, 300)

    assert float((prior.y - prior.phi["mu"][:, None]).std()) == pytest.approx(0.1 * np.sqrt(2), rel=0.1)


def test_functions_that_cannot_be_batched_are_run_one_by_one() -> None:
    def hyperprior() -> Tensor:
        mu: Tensor = pyro.sample("mu", dist.Normal(0.0, 1.0))
        return mu if float(mu) > 0 else mu - 10.0

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi, 0.1))
        return pyro.sample("y", dist.Normal(theta, 0.1).expand([len(x)]).to_event(1), obs=y)

    with pytest.warns(bm.BayesmetaWarning, match="the hierarchy cannot be vectorised"):
        prior = bm.prior(bm.Hierarchy(hyperprior, task), bm.Tasks.from_lists(None, [[1.0], [2.0, 3.0]]), 30)
    mu = prior.phi["mu"]

    torch.testing.assert_close(prior.theta["theta"], (mu - 10.0 * (mu <= 0))[:, None].expand(-1, 2), atol=0.5, rtol=0)
    assert len(mu.unique()) == 30


def test_a_distribution_whose_sampler_cannot_be_batched() -> None:
    def hyperprior() -> Tensor:
        mu: Tensor = pyro.sample("mu", dist.VonMises(0.0, 4.0))
        return mu

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.VonMises(phi, 4.0))
        return pyro.sample("y", dist.Normal(theta, 0.1).expand([len(x)]).to_event(1), obs=y)

    prior = bm.prior(bm.Hierarchy(hyperprior, task), bm.Tasks.from_lists(None, [[1.0], [2.0, 3.0]]), 30)

    assert len(prior.phi["mu"].unique()) == 30
    assert len(prior.theta["theta"].unique()) == 60


# --- what cannot be drawn -----------------------------------------------------------------------------------


def with_factors(where: str) -> bm.Hierarchy:
    def hyperprior() -> Tensor:
        mu: Tensor = pyro.sample("mu", dist.Normal(0.0, 1.0))
        if where == "hyperprior":
            pyro.factor("shrink", -mu.abs())
        return mu

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi, 1.0))
        if where == "task":
            pyro.factor("soft", -theta.abs())
        return pyro.sample("y", dist.Normal(theta, 1.0).expand([len(x)]).to_event(1), obs=y)

    return bm.Hierarchy(hyperprior, task)


def test_factors_are_refused() -> None:
    tasks = bm.Tasks.from_lists(None, [[0.1], [0.2, 0.3]])
    with pytest.raises(HierarchyError, match=r"the hyperprior observes \['shrink'\] .* φ cannot be drawn from it"):
        bm.prior(with_factors("hyperprior"), tasks)
    with pytest.raises(HierarchyError, match=r"the task has factors \['soft'\] .* θ and y cannot be drawn from it"):
        bm.prior(with_factors("task"), tasks)
    assert len(bm.prior(with_factors("nowhere"), tasks, 3)) == 3


def test_a_prior_without_bounds_says_so() -> None:
    def hyperprior() -> Tensor:
        mu: Tensor = pyro.sample("mu", dist.Normal(0.0, 1e5))
        return mu

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi, 1.0))
        return pyro.sample("y", dist.Normal(theta.exp(), 1.0).expand([len(x)]).to_event(1), obs=y)

    prior = bm.prior(bm.Hierarchy(hyperprior, task), bm.Tasks.from_lists(None, [[1.0]]), 40)
    with pytest.warns(bm.BayesmetaWarning, match=r"% of the observations drawn from the prior are not finite"):
        assert not prior.y.isfinite().all()


def test_bad_arguments_are_named() -> None:
    hierarchy, tasks = normal_normal().hierarchy, normal_normal().tasks
    with pytest.raises(OptionError, match="draws must be a whole number of at least 1, got 0"):
        bm.prior(hierarchy, tasks, 0)
    with pytest.raises(OptionError, match="seed must be a whole number of at least 0, got -1"):
        bm.prior(hierarchy, tasks, seed=-1)
    with pytest.raises(DataError, match="tasks must be a Tasks, got list"):
        bm.prior(hierarchy, [1.0])  # type: ignore[arg-type]


def test_too_many_numbers_are_not_drawn() -> None:
    """60,000 tasks: φ is had, θ and y only of so few draws as memory holds."""
    tasks = bm.Tasks.from_arrays(None, np.zeros((60_000, 1)), context={"sigma": np.ones(60_000)})
    prior = bm.prior(normal_normal().hierarchy, tasks, 1000)

    assert prior.phi["mu"].shape == (1000,)
    wrong = r"1,000 draws of θ of 60,000 tasks are 60,000,000 numbers, more than 50,000,000: take draws=833, or some of"
    with pytest.raises(OptionError, match=wrong):
        prior.theta  # noqa: B018  (it is drawn when asked for)
