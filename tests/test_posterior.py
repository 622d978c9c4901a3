"""The posterior as users see it: draws by site, tables, log Z, and what ArviZ gets."""

from __future__ import annotations

import math
import sys
import warnings
from functools import cache
from types import ModuleType
from typing import Any

import arviz
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from scipy import stats
from torch import Tensor

import bayesmeta as bm
from bayesmeta.errors import DataError, HierarchyError, NotAvailableError
from bayesmeta.evidence import Joint
from bayesmeta.export.fitted import posterior_groups
from tests.fitted import TINY, tiny
from tests.scenarios import SCENARIOS, normal_normal

LEAN = {"posterior", "sample_stats", "observed_data", "constant_data"}
GROUPS = LEAN | {"log_likelihood", "log_prior", "posterior_predictive"}
COLUMNS = ["mean", "sd", "q05", "q50", "q95", "mcse_mean", "ess_bulk", "ess_tail", "r_hat"]


@cache
def plates() -> bm.Posterior:
    """φ and θ in plates, a vector in neither, an observed site that is called obs, context, and columns."""

    def hyperprior() -> tuple[Tensor, Tensor]:
        with pyro.plate("feature", 2):
            return pyro.sample("mu", dist.Normal(0.0, 2.0)), pyro.sample("tau", dist.HalfNormal(1.0))

    def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None, *, size: Tensor) -> Tensor:
        mu, tau = phi
        with pyro.plate("feature", 2):
            weight = pyro.sample("weight", dist.Normal(mu, tau))
        noise = pyro.sample("noise", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            return pyro.sample("obs", dist.Normal(x @ weight + size * noise.sum(), 0.5), obs=y)

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(9, 3)), columns=["age", "dose", "response"])
    frame["town"] = [*"aaa", "b", *"ccccc"]
    frame["size"] = frame["town"].map({"a": 1.0, "b": 2.0, "c": 0.5})
    tasks = bm.Tasks.from_frame(frame, task="town", x=["age", "dose"], y="response", context="size")
    return bm.fit(bm.Hierarchy(hyperprior, task), tasks, TINY, progress=False)


# --- draws --------------------------------------------------------------------------------------------------


def test_draws_by_site() -> None:
    posterior = plates()

    assert {name: tuple(v.shape) for name, v in posterior.phi.items()} == {"mu": (60, 2), "tau": (60, 2)}
    shapes = {name: tuple(v.shape) for name, v in posterior.theta.items()}
    assert shapes == {"weight": (60, 3, 2), "noise": (60, 3, 3)}
    for values in (*posterior.phi.values(), *posterior.theta.values()):
        assert values.dtype == torch.float64
        assert values.isfinite().all()
    assert (posterior.phi["tau"] > 0).all()
    assert posterior.phi_coordinates.shape == (60, 4)
    assert posterior.theta_coordinates.shape == (60, 3, 5)
    assert posterior.tasks.names == ("a", "b", "c")


def test_theta_of_a_joint_fit_is_what_was_sampled() -> None:
    """u ~ Normal(b mu, tau^c), each task with degrees c and b of centring; see bayesmeta.centring."""
    posterior = tiny("normal_normal", "joint")
    evidence = posterior._evidence
    assert isinstance(evidence, Joint)
    c, b = evidence.degrees["theta"]
    mu, tau = posterior.phi["mu"][:, None], posterior.phi["tau"][:, None]
    z = (posterior.draws.u[..., 2:].reshape(60, 8) - b * mu) * tau**-c

    assert float(c.max()) > 0.1
    torch.testing.assert_close(posterior.theta["theta"], mu + tau * z)


def test_theta_is_drawn_once() -> None:
    posterior = tiny("normal_normal")
    assert posterior.theta["theta"] is posterior.theta["theta"]


# --- tables -------------------------------------------------------------------------------------------------


def test_the_summary_has_a_row_for_each_element() -> None:
    posterior = plates()
    table = posterior.summary()

    assert list(table.index) == ["mu[0]", "mu[1]", "tau[0]", "tau[1]"]
    assert list(table.columns) == COLUMNS
    np.testing.assert_allclose(table["mean"], torch.cat([posterior.phi["mu"], posterior.phi["tau"]], 1).mean(0))
    theta = posterior.summary("theta")
    assert list(theta.index)[:3] == ["weight[a,0]", "weight[a,1]", "weight[b,0]"]
    assert list(theta.index)[-1] == "noise[c,2]"
    scalar = tiny("normal_normal").summary("theta")
    assert list(scalar.index) == [f"theta[{k}]" for k in range(8)]
    last = posterior.theta["noise"][:, 2, 2].numpy()
    row: Any = theta.T.to_dict()["noise[c,2]"]
    assert [row["q05"], row["q50"]] == pytest.approx(np.quantile(last, [0.05, 0.5]).tolist())


def test_the_summary_is_arvizs() -> None:
    posterior = tiny("normal_normal")
    theirs = arviz.summary(posterior.to_arviz(), var_names=["mu", "tau"], round_to="none")
    ours = posterior.summary()

    for our_name, their_name in (("mean", "mean"), ("sd", "sd"), ("ess_bulk", "ess_bulk"), ("r_hat", "r_hat")):
        np.testing.assert_allclose(ours[our_name], theirs[their_name], rtol=1e-10)


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(NotAvailableError, match="level must be 'phi' or 'theta', got 'both'"):
        plates().summary("both")


def test_it_shows_itself() -> None:
    posterior = plates()
    text, page = repr(posterior), posterior._repr_html_()

    for shown in (text, page):
        assert "3 tasks" in shown
        assert "2 chains" in shown
        assert "Gram" in shown
        assert "tau[1]" in shown
    assert text.startswith("Posterior of 3 tasks, 2 chains x 30 draws")
    assert page.startswith("<div>")


def test_html_is_escaped() -> None:
    scenario = normal_normal()
    tasks = scenario.tasks.with_names([f"<b>{k}</b>" for k in range(8)])
    posterior = bm.fit(scenario.hierarchy, tasks, TINY, progress=False)

    assert "<b>3</b>" not in posterior.adapt(tasks[:4])._repr_html_()
    assert "<b>3</b>" not in tasks._repr_html_()


# --- log Z --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["normal_normal", "plated", "log_normal"])
def test_the_evidence_of_tasks_is_that_under_each_draw(name: str) -> None:
    scenario, posterior = SCENARIOS[name](), tiny(name)
    phi = {site: values.numpy() for site, values in posterior.phi.items()}
    tasks = scenario.tasks[[3, 0]].with_names(["new", "newer"])
    exact = np.stack([scenario.log_z(phi, task) for task in tasks], 1)

    assert posterior.evidence(tasks).shape == (60, 2)
    np.testing.assert_allclose(posterior.evidence(tasks), exact, rtol=1e-9, atol=1e-9)
    nothing = bm.Tasks.without_observations(
        ["later"], like=scenario.tasks, context={key: [1.0] for key in scenario.tasks.context}
    )
    np.testing.assert_allclose(posterior.evidence(nothing), 0.0, atol=1e-9)


def test_the_evidence_of_other_data_is_refused() -> None:
    posterior = tiny("normal_normal")
    wrong = normal_normal().tasks
    with pytest.raises(DataError, match="tasks must be a Tasks, got list"):
        posterior.evidence([1.0])  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"x has shape \(2,\) per observation, in the fit it had \(0,\)"):
        posterior.evidence(bm.Tasks.from_arrays(np.zeros((1, 2, 2)), np.zeros((1, 2)), context={"sigma": [1.0]}))
    with pytest.raises(DataError, match=r"context must be \['sigma'\] as in the fit, got \[\]"):
        posterior.evidence(bm.Tasks.from_lists(None, [[1.0]]))
    with pytest.raises(NotAvailableError, match=r"fitted jointly .* log Z needs a fit with evidence='exact'"):
        tiny("normal_normal", "joint").evidence(wrong)


# --- ArviZ --------------------------------------------------------------------------------------------------


def test_groups_dims_and_coords() -> None:
    posterior = plates()
    found = posterior.to_arviz()

    assert isinstance(found, arviz.InferenceData)
    assert set(found.groups()) == GROUPS
    main = found.posterior
    assert {name: value.dims for name, value in main.data_vars.items()} == {
        "mu": ("chain", "draw", "feature"),
        "tau": ("chain", "draw", "feature"),
        "weight": ("chain", "draw", "task", "feature"),
        "noise": ("chain", "draw", "task", "noise_dim_0"),
    }
    assert main["task"].values.tolist() == ["a", "b", "c"]
    assert main["feature"].values.tolist() == [0, 1]
    assert main["noise_dim_0"].values.tolist() == [0, 1, 2]
    torch.testing.assert_close(torch.tensor(main["weight"].values).reshape(60, 3, 2), posterior.theta["weight"])
    assert found.observed_data["obs"].dims == ("obs_id",)
    assert found.observed_data["obs_task"].values.tolist() == [*"aaa", "b", *"ccccc"]
    np.testing.assert_array_equal(found.observed_data["obs"], posterior.tasks.y)
    constant = found.constant_data
    assert constant["x"].dims == ("obs_id", "x_dim_0")
    assert constant["x_dim_0"].values.tolist() == ["age", "dose"]
    assert constant["context_size"].dims == ("task",)
    assert constant["context_size"].values.tolist() == [1.0, 2.0, 0.5]
    assert set(found.sample_stats.data_vars) >= {"diverging", "energy", "lp", "step_size", "tree_depth", "n_steps"}


def test_one_county_of_a_fit_is_found_by_its_name() -> None:
    posterior = plates()
    chosen = posterior.to_arviz().posterior["weight"].sel(task="b", feature=1)

    np.testing.assert_array_equal(chosen.values.ravel(), posterior.theta["weight"][:, 1, 1])


def test_names_that_are_taken() -> None:
    """A plate with the name of a site or of an axis of the result keeps a name of its own."""

    def hyperprior() -> Tensor:
        with pyro.plate("mu", 2):
            mu: Tensor = pyro.sample("mu", dist.Normal(0.0, 1.0))
        return mu

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        with pyro.plate("task", 2):
            theta = pyro.sample("theta", dist.Normal(phi, 1.0))
        return pyro.sample("y", dist.Normal(theta.sum(), 1.0).expand([len(x)]).to_event(1), obs=y)

    tasks = bm.Tasks.from_lists(None, [[0.3], [0.1, 0.2]])
    found = bm.fit(bm.Hierarchy(hyperprior, task), tasks, TINY, progress=False).to_arviz().posterior

    assert found["mu"].dims == ("chain", "draw", "mu_dim_0")
    assert found["theta"].dims == ("chain", "draw", "task", "theta_dim_0")

    def taken() -> Tensor:
        draw: Tensor = pyro.sample("draw", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return draw

    with pytest.raises(HierarchyError, match="a site is named 'draw', as an axis of every result is: rename"):
        bm.fit(bm.Hierarchy(taken, task), tasks, TINY, progress=False)


def test_the_log_likelihood_is_that_of_the_draws() -> None:
    posterior = tiny("normal_normal")
    group = posterior.to_arviz().log_likelihood
    theta = posterior.theta["theta"].numpy().reshape(2, 30, 8)
    y, sigma = posterior.tasks.y.numpy(), posterior.tasks.context["sigma"].numpy()

    np.testing.assert_allclose(group["y"], stats.norm(theta, sigma).logpdf(y), rtol=1e-10)
    assert group["y"].dims == ("chain", "draw", "obs_id")
    by_task = posterior.evidence(posterior.tasks).reshape(2, 30, 8)
    np.testing.assert_allclose(group["y_by_task"], by_task, rtol=1e-10)
    assert group["y_by_task"].dims == ("chain", "draw", "task")


def test_the_log_likelihood_of_ragged_tasks_is_in_the_order_of_their_rows() -> None:
    posterior = tiny("plated")
    group = posterior.to_arviz().log_likelihood
    tasks = posterior.tasks
    level = posterior.theta["theta"][:, tasks.task_index].numpy()
    mean = level + posterior.phi["beta"].numpy()[:, None] * tasks.x.numpy()

    exact = stats.norm(mean, 0.8).logpdf(tasks.y.numpy())
    np.testing.assert_allclose(group["y"].values.reshape(60, -1), exact, rtol=1e-9)
    joint = tiny("plated", "joint").to_arviz().log_likelihood
    summed = xr.DataArray(joint["y"].values, dims=("chain", "draw", "obs")).groupby(
        xr.DataArray(tasks.task_index.numpy(), dims="obs", name="task")
    )
    np.testing.assert_allclose(joint["y_by_task"], summed.sum().transpose("chain", "draw", "task"), rtol=1e-9)


def test_the_log_likelihood_can_be_left_out() -> None:
    assert set(plates().to_arviz(log_likelihood=False).groups()) == LEAN


def test_arviz_works_on_it() -> None:
    found = tiny("normal_normal").to_arviz()

    assert arviz.ess(found)["theta"].shape == (8,)
    assert arviz.rhat(found)["mu"].shape == ()
    assert len(arviz.summary(found)) == 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 60 draws are few for PSIS
        loo = arviz.loo(found, var_name="y", pointwise=True)
        by_task = arviz.loo(found, var_name="y_by_task")
    assert loo.n_data_points == by_task.n_data_points == 8
    assert math.isfinite(loo.elpd_loo)
    assert math.isfinite(by_task.elpd_loo)
    assert arviz.extract(found, num_samples=7, rng=0)["theta"].shape == (8, 7)


# --- ArviZ from 1.0 on --------------------------------------------------------------------------------------


def test_arviz_1_gets_a_data_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """ArviZ 1.x has no InferenceData: a module without one stands in for it."""
    posterior = plates()
    old: Any = posterior.to_arviz()
    monkeypatch.setitem(sys.modules, "arviz", ModuleType("arviz"))
    new = posterior.to_arviz()

    assert isinstance(new, xr.DataTree)
    assert set(new.children) == GROUPS
    for name in GROUPS:
        xr.testing.assert_identical(new[name].to_dataset(), old[name])


def test_groups_are_plain_datasets() -> None:
    parts = posterior_groups(plates())
    assert set(parts) == GROUPS
    assert all(isinstance(part, xr.Dataset) for part in parts.values())
