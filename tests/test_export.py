"""What ArviZ gets of a posterior: observations drawn anew, the prior, every back-end, and files written earlier."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import arviz
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from scipy import stats
from torch import Tensor

import bayesmeta as bm
from bayesmeta.errors import HierarchyError, OptionError
from bayesmeta.export.fitted import posterior_groups
from bayesmeta.export.groups import ASSUMED
from tests.ensembles import ROUGH, sines
from tests.scenarios import SCENARIOS, normal_normal

EARLIER = Path(__file__).parent / "files" / "eight_tasks_0_1.nc"
LEAST = 1e-3  # p-value that a right distribution has to reach; a wrong one is asked for 1e-6 and less
# ArviZ's schema: https://python.arviz.org/en/stable/schema/schema.html
SCHEMA = {"lp", "step_size", "diverging", "energy", "acceptance_rate", "tree_depth", "n_steps"}


@cache
def fitted(name: str = "normal_normal", draws: int = 1000) -> bm.Posterior:
    scenario = SCENARIOS[name]()
    return bm.fit(scenario.hierarchy, scenario.tasks, bm.Laplace(draws=draws), progress=False)


@cache
def exported(name: str = "normal_normal") -> dict[str, xr.Dataset]:
    return posterior_groups(fitted(name), prior=True)


def p_value(z: Any) -> float:
    return float(stats.kstest(np.asarray(z).ravel(), stats.norm().cdf).pvalue)


# --- observations drawn anew --------------------------------------------------------------------------------


def test_each_draw_predicts_with_its_own_theta() -> None:
    posterior = fitted()
    drawn = exported()["posterior_predictive"]["y"]
    y, theta, sigma = drawn.values[0], posterior.theta["theta"].numpy(), posterior.tasks.context["sigma"].numpy()

    assert drawn.dims == ("chain", "draw", "obs_id")
    assert p_value((y - theta) / sigma) > LEAST
    assert p_value((np.roll(y, 1, 0) - theta) / sigma) < 1e-6


def test_ragged_tasks_are_predicted_in_the_order_of_their_rows() -> None:
    posterior = fitted("plated")
    tasks = posterior.tasks
    y = torch.tensor(exported("plated")["posterior_predictive"]["y"].values[0])
    mean = posterior.theta["theta"][:, tasks.task_index] + posterior.phi["beta"][:, None] * tasks.x

    assert p_value((y - mean) / 0.8) > LEAST
    assert p_value((y.roll(1, 1) - mean) / 0.8) < 1e-6
    assert exported("plated")["posterior_predictive"]["obs_task"].values[4] == "1"


def test_theta_of_a_joint_fit_is_meant_in_its_own_coordinates() -> None:
    """A file of a joint fit has θ in coordinates that are centred by degrees: they must not be taken for values."""
    scenario = SCENARIOS["plated"]()
    config = bm.NUTS(evidence="joint", draws=60, tune=40, chains=1, compile=False, max_treedepth=3)
    posterior = bm.fit(scenario.hierarchy, scenario.tasks, config, progress=False)
    y = torch.tensor(posterior_groups(posterior)["posterior_predictive"]["y"].values[0])
    tasks = posterior.tasks
    mean = posterior.theta["theta"][:, tasks.task_index] + posterior.phi["beta"][:, None] * tasks.x

    assert p_value((y - mean) / 0.8) > LEAST


def test_a_family_with_formulas_predicts_given_what_it_has_seen() -> None:
    hierarchy, tasks = sines()
    posterior = bm.fit(hierarchy, tasks, ROUGH, progress=False)
    drawn = posterior_groups(posterior)["posterior_predictive"]["y"]

    assert dict(drawn.sizes) == {"chain": 1, "draw": 2, "obs_id": tasks.n_observations}
    assert np.isfinite(drawn.values).all()


def test_they_are_left_out_where_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bayesmeta.export.fitted.FEW_NUMBERS", 7999)

    assert "posterior_predictive" not in posterior_groups(fitted())
    assert "posterior_predictive" in posterior_groups(fitted(), posterior_predictive=True)
    assert "posterior_predictive" not in posterior_groups(fitted(), log_likelihood=False)
    assert "posterior_predictive" not in posterior_groups(fitted(), posterior_predictive=False)


def test_a_task_that_draws_nothing_is_said_where_it_was_asked() -> None:
    def hyperprior() -> Tensor:
        mu: Tensor = pyro.sample("mu", dist.Normal(0.0, 1.0))
        return mu

    def task(phi: Tensor, x: Tensor, y: Tensor) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi, 1.0))
        return pyro.sample("y", dist.Normal(theta, 1.0).expand(y.shape).to_event(1), obs=y)

    tasks = bm.Tasks.from_lists(None, [[0.1, 0.3], [0.2]])
    posterior = bm.fit(bm.Hierarchy(hyperprior, task), tasks, bm.Laplace(draws=20), progress=False)

    assert "posterior_predictive" not in posterior_groups(posterior)
    assert "log_likelihood" in posterior_groups(posterior)
    with pytest.raises(HierarchyError, match="task raised AttributeError with y=None"):
        posterior.to_arviz(posterior_predictive=True)


# --- the prior ----------------------------------------------------------------------------------------------


def test_the_prior_stands_beside_the_posterior() -> None:
    found = exported()

    assert dict(found["prior"]["theta"].sizes) == {"chain": 1, "draw": 1000, "task": 8}
    assert dict(found["prior_predictive"]["y"].sizes) == {"chain": 1, "draw": 1000, "obs_id": 8}
    theta, mu, tau = (found["prior"][name].values[0] for name in ("theta", "mu", "tau"))
    assert p_value((theta - mu[:, None]) / tau[:, None]) > LEAST
    assert p_value(mu / 5.0) > LEAST


def test_draws_from_the_prior_may_be_given() -> None:
    posterior = fitted()
    prior = bm.prior(posterior.hierarchy, posterior.tasks, draws=7, seed=2)

    np.testing.assert_array_equal(posterior_groups(posterior, prior=prior)["prior"]["mu"].values[0], prior.phi["mu"])
    with pytest.raises(OptionError, match=r"prior has 3 tasks with 3 observations, .* take posterior\.prior\(\)"):
        posterior.to_arviz(prior=bm.prior(posterior.hierarchy, posterior.tasks[:3], draws=7))


def test_a_prior_by_itself() -> None:
    found = fitted().prior(5).to_arviz()

    assert set(found.groups()) == {"prior", "prior_predictive", "observed_data", "constant_data"}
    assert found.prior.attrs["seed"] == 0


def test_the_log_prior_is_that_of_the_values() -> None:
    """In the units of φ, as ArviZ's sensitivity to the prior asks: no Jacobian of the coordinates."""
    posterior, found = fitted(), exported()["log_prior"]

    np.testing.assert_allclose(found["mu"].values[0], stats.norm(0, 5).logpdf(posterior.phi["mu"]))
    np.testing.assert_allclose(found["tau"].values[0], stats.halfnorm(scale=4.0).logpdf(posterior.phi["tau"]))


@pytest.mark.filterwarnings("ignore")  # ArviZ's own
def test_arviz_finds_how_sensitive_phi_is() -> None:
    found = fitted().to_arviz()

    for component, names in (("prior", None), ("likelihood", ["y_by_task"])):
        sensitivity = arviz.psens(found, component=component, component_var_names=names, var_names=["mu", "tau"])
        assert np.isfinite([float(sensitivity[name]) for name in ("mu", "tau")]).all()


# --- every back-end -----------------------------------------------------------------------------------------

BACK_ENDS: dict[str, Any] = {
    "laplace": bm.Laplace(draws=40),
    "pathfinder": bm.Pathfinder(draws=40),
    "svi": bm.SVI(steps=20, draws=40),
    "ensemble": ROUGH,
    "hmc": bm.HMC(draws=6, tune=10, chains=4, compile=False),
    "pyro": bm.NUTS(engine="pyro", draws=8, tune=8, chains=1, max_treedepth=3, compile=False),
}


SLOW = ("pathfinder", "pyro")  # alike to others from here on


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in SLOW else []) for name in BACK_ENDS]
)
def test_every_back_end_comes_out_alike(name: str, tmp_path: Path) -> None:
    scenario = normal_normal()
    posterior = bm.fit(scenario.hierarchy, scenario.tasks, BACK_ENDS[name], progress=False)
    posterior.save(tmp_path / "fit.nc")
    found, opened = posterior.to_arviz(), arviz.from_netcdf(tmp_path / "fit.nc")
    shape = tuple(posterior.draws.u.shape[:2])

    np.testing.assert_array_equal(found.posterior["mu"], posterior.phi["mu"].reshape(shape))
    np.testing.assert_array_equal(found.posterior["theta"], posterior.theta["theta"].reshape(*shape, 8))
    assert {"posterior_predictive", "log_likelihood", "log_prior", "sample_stats"} <= set(found.groups())
    for group in found.groups():
        xr.testing.assert_equal(opened[group].load(), found[group])
    assert set(found.sample_stats.data_vars) <= SCHEMA
    assert (ASSUMED in found.sample_stats["diverging"].attrs) == (not posterior.draws.stats)
    assert found.posterior.attrs["back_end"] == posterior.info.inference["back_end"]
    assert found.posterior.attrs.get("effective_size") == posterior.info.effective_size
    loaded = bm.load(tmp_path / "fit.nc", posterior.hierarchy)
    assert set(loaded.draws.stats) == set(posterior.draws.stats)


def test_an_updated_posterior_has_the_tasks_of_both() -> None:
    more = normal_normal().tasks[:2].with_names(["new", "newer"])
    found = fitted().update(more).to_arviz()

    assert found.posterior["task"].values.tolist() == [*map(str, range(8)), "new", "newer"]
    assert dict(found.posterior_predictive["y"].sizes) == {"chain": 1, "draw": 1000, "obs_id": 10}
    assert found.posterior.attrs["effective_size"] > 100


# --- files written earlier ----------------------------------------------------------------------------------


def test_a_file_of_an_earlier_release_opens_as_before() -> None:
    """Without the groups that came later."""
    posterior = bm.load(EARLIER, normal_normal().hierarchy)
    with xr.open_dataset(EARLIER, group="posterior", engine="h5netcdf") as written:
        for name in ("mu", "tau"):
            np.testing.assert_array_equal(posterior.phi[name].reshape(2, 30), written[name])
        np.testing.assert_array_equal(posterior.theta["theta"].reshape(2, 30, 8), written["theta"])

    assert set(posterior.draws.stats) >= {"diverging", "energy", "lp"}
    assert len(posterior.adapt(posterior.tasks[:2].with_names(["a", "b"]))) == 2
    assert "posterior_predictive" in posterior.to_arviz().groups()
