"""`hierarchy.joint(tasks)` is an ordinary Pyro model: its density is ours, and Pyro's own inference runs on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import ClippedAdam
from torch import Tensor

import bayesmeta as bm
from bayesmeta.errors import BayesmetaWarning, NotAvailableError
from bayesmeta.evidence import Joint
from bayesmeta.sites import quiet_pyro
from tests import test_hierarchy as plain
from tests.evidences import HARD, NORMAL, hierarchy_of, ragged
from tests.scenarios import SCENARIOS, correlated, normal_normal, quadrature

pytestmark = pytest.mark.changes_rng


@pytest.fixture(autouse=True)
def own_randomness() -> Iterator[None]:
    """Pyro draws from the global generator, and keeps what it learns in the param store."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
        pyro.clear_param_store()


def hierarchies() -> dict[str, tuple[bm.Hierarchy, bm.Tasks]]:
    """The scenarios, tasks that cannot be padded, and tasks with two sites of θ."""
    found = {name: (make().hierarchy, make().tasks) for name, make in SCENARIOS.items()}
    unpadded = hierarchy_of(HARD["correlated-errors"])
    return found | {"unpadded": (unpadded, ragged()), "two sites": (two_sites(), ragged())}


def two_sites() -> bm.Hierarchy:
    """A positive θ on which the other depends."""

    def hyperprior() -> Tensor:
        return pyro.sample("mu", dist.Normal(0.0, 1.0))

    def task(mu: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        scale = pyro.sample("scale", dist.Gamma(2.0, 1.0))
        weights = pyro.sample("weights", dist.Normal(mu, scale).expand([2]).to_event(1))
        return pyro.sample("y", dist.Normal(weights[0] + weights[1] * x, scale).to_event(1), obs=y)

    return bm.Hierarchy(hyperprior, task)


CASES = hierarchies()


def traced(model: Callable[[], Any]) -> Any:
    return poutine.trace(model).get_trace()


def values_of(trace: Any, names: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: trace.nodes[name]["value"] for name in names}


@pytest.mark.parametrize("name", CASES)
def test_the_density_of_the_model_is_that_of_the_joint_evidence(name: str) -> None:
    hierarchy, tasks = CASES[name]
    program = hierarchy.program(tasks)
    structure = program.structure
    joint = Joint(program, tasks, centring=True)
    for _ in range(3):
        trace = traced(hierarchy.joint(tasks))
        values = values_of(trace, (*structure.phi.names, *structure.theta.names))
        with quiet_pyro():
            phi = program.phi_at({site: values[site] for site in structure.phi.names})
            by_task = [{site: values[site][t] for site in structure.theta.names} for t in range(len(tasks))]
            terms = [
                sum(program.terms(phi.returned, program.coordinates(theta, phi.returned, row), row))
                - _log_jacobian(program, theta)
                for theta, row in zip(by_task, _rows(tasks), strict=True)
            ]
            expected = phi.log_prior + torch.stack([torch.as_tensor(term) for term in terms]).sum()
            v = torch.stack(
                [
                    program.coordinates(theta, phi.returned, row)
                    for theta, row in zip(by_task, _rows(tasks), strict=True)
                ]
            )
            jacobian = sum(_log_jacobian(program, theta) for theta in by_task)
            by_evidence = phi.log_prior + joint.total(phi, v, joint.data) - jacobian
        log_density = torch.as_tensor(trace.log_prob_sum())
        torch.testing.assert_close(log_density, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(log_density, by_evidence, rtol=1e-10, atol=1e-10)


def _rows(tasks: bm.Tasks) -> list[Any]:
    from bayesmeta.evidence.exact import row_of

    return [row_of(task) for task in tasks]


def _log_jacobian(program: Any, theta: dict[str, Tensor]) -> Tensor:
    """log |dθ / dv| at values of θ: the trace has densities of values, not of coordinates."""
    total = torch.zeros(())
    for site in program.structure.theta:
        transform = torch.distributions.biject_to(site.support)
        total = total + transform.log_abs_det_jacobian(transform.inv(theta[site.name]), theta[site.name]).sum()
    return total


@pytest.mark.parametrize("name", CASES)
def test_sites_have_the_task_axis_in_front(name: str) -> None:
    hierarchy, tasks = CASES[name]
    structure = hierarchy.program(tasks).structure
    trace = traced(hierarchy.joint(tasks))

    for site in structure.theta:
        node = trace.nodes[site.name]
        assert node["value"].shape == (len(tasks), *site.shape)
        assert [frame.name for frame in node["cond_indep_stack"]] == ["task"]
        assert node["value"].dtype == torch.float64
    (observed,) = structure.observed
    y = trace.nodes[observed]["value"]
    assert trace.nodes[observed]["is_observed"]
    assert y.shape == (len(tasks), int(tasks.sizes.max()))
    for t, task in enumerate(tasks):
        assert torch.equal(y[t, : task.n], task.y)
    returned = trace.nodes["_RETURN"]["value"]
    assert set(returned) == set(structure.theta.names)


def test_what_is_padded_has_no_say() -> None:
    """The density of ragged tasks together is that of each alone; with one observation changed it is another."""
    scenario = correlated()
    hierarchy, tasks = scenario.hierarchy, scenario.tasks
    trace = traced(hierarchy.joint(tasks))
    names = hierarchy.program(tasks).structure.phi.names
    phi, theta = values_of(trace, names), trace.nodes["theta"]["value"]
    trace.compute_log_prob()
    together = trace.nodes["y"]["log_prob"] + trace.nodes["theta"]["log_prob"]
    for t in range(len(tasks)):
        one = traced(poutine.condition(hierarchy.joint(tasks[[t]]), data=phi | {"theta": theta[t : t + 1]}))
        one.compute_log_prob()
        alone = one.nodes["y"]["log_prob_sum"] + one.nodes["theta"]["log_prob_sum"]
        torch.testing.assert_close(alone, together[t], rtol=1e-10, atol=1e-10)
    assert together.shape == (len(tasks),)


def test_other_observations_have_another_density() -> None:
    hierarchy, tasks = normal_normal().hierarchy, normal_normal().tasks
    shifted = bm.Tasks.from_lists(None, [task.y + 1 for task in tasks], context=dict(tasks.context))
    plain = traced(hierarchy.joint(tasks))
    at = values_of(plain, ("mu", "tau", "theta"))
    moved = traced(poutine.condition(hierarchy.joint(shifted), data=at))
    likelihood = hierarchy.joint(tasks)
    given = traced(poutine.condition(likelihood, data=at))
    given.nodes["y"]["value"] = moved.nodes["y"]["value"]

    for trace in (plain, moved, given):
        trace.compute_log_prob()
    assert float(moved.nodes["y"]["log_prob_sum"] - plain.nodes["y"]["log_prob_sum"]) != 0
    torch.testing.assert_close(given.nodes["y"]["log_prob_sum"], moved.nodes["y"]["log_prob_sum"])


# ---------------------------------------------------------------------------------------------------------
# Prior draws


def test_draws_of_theta_have_the_moments_of_their_prior() -> None:
    scenario = correlated()
    values = scenario.points[0]
    at = {site: torch.as_tensor(np.asarray(value, dtype=float)) for site, value in values.items()}
    model = poutine.condition(scenario.hierarchy.joint(scenario.tasks), data=at)
    draws = torch.stack([traced(model).nodes["theta"]["value"] for _ in range(1500)])

    assert scenario.linear is not None
    for t, task in enumerate(scenario.tasks):
        prior = scenario.linear(values, task)
        error = np.sqrt(np.diag(prior.V) / 1500)
        assert bool((np.abs(draws[:, t].mean(0).numpy() - prior.m) < 4 * error).all())
        np.testing.assert_allclose(np.cov(draws[:, t].numpy().T), prior.V, atol=4 * 2 * 1.0 / math.sqrt(1500))
    # tasks are drawn independently of each other
    between = np.corrcoef(draws[:, :, 0].numpy().T)
    assert np.abs(between - np.eye(len(between))).max() < 4 / math.sqrt(1500)


def test_draws_of_a_dependent_site_follow_the_first() -> None:
    hierarchy, tasks = CASES["two sites"]
    model = poutine.condition(hierarchy.joint(tasks), data={"mu": torch.tensor(0.0)})
    traces = [traced(model) for _ in range(800)]
    scale = torch.stack([trace.nodes["scale"]["value"] for trace in traces])
    weights = torch.stack([trace.nodes["weights"]["value"] for trace in traces])
    standard = weights / scale.unsqueeze(-1)

    assert scale.shape == (800, 4)
    assert weights.shape == (800, 4, 2)
    assert bool((scale > 0).all())
    assert abs(float(scale.mean()) - 2.0) < 4 * math.sqrt(2 / 3200)
    assert abs(float(standard.var()) - 1.0) < 4 * math.sqrt(2 / 6400)
    assert abs(float(standard.mean())) < 4 / math.sqrt(6400)


# ---------------------------------------------------------------------------------------------------------
# Pyro's own inference


@pytest.fixture(scope="module")
def drawn() -> dict[str, Tensor]:
    """A short run of Pyro's NUTS on the normal-normal scenario."""
    with torch.random.fork_rng(devices=[]):
        pyro.set_rng_seed(0)
        mcmc = MCMC(NUTS(normal_normal().hierarchy.joint(normal_normal().tasks)), 150, 100, disable_progbar=True)
        mcmc.run()
        samples: dict[str, Tensor] = mcmc.get_samples()
    return samples


def test_nuts_runs_and_finds_the_population(drawn: dict[str, Tensor]) -> None:
    exact = quadrature(normal_normal())
    assert {site: tuple(value.shape) for site, value in drawn.items()} == {
        "mu": (150,),
        "tau": (150,),
        "theta": (150, 8),
    }
    for site in ("mu", "tau"):
        ess = float(pyro.ops.stats.effective_sample_size(drawn[site].unsqueeze(0)))
        assert ess > 25
        assert abs(float(drawn[site].mean()) - exact.mean[site]) < 4 * exact.sd[site] / math.sqrt(ess)
    np.testing.assert_allclose(drawn["theta"].mean(0), exact.theta_mean[:, 0], atol=1.0)
    # the check can fail: theta of the wrong tasks
    assert np.abs(drawn["theta"].mean(0).numpy() - exact.theta_mean[::-1, 0]).max() > 2.0


def test_predictive_draws_new_observations(drawn: dict[str, Tensor]) -> None:
    tasks = normal_normal().tasks
    model = poutine.uncondition(normal_normal().hierarchy.joint(tasks))
    y = Predictive(model, posterior_samples=drawn, return_sites=("y",))()["y"]

    assert y.shape == (150, 8, 1)
    residual = (y.squeeze(-1) - drawn["theta"]) / tasks.context["sigma"]
    assert abs(float(residual.mean())) < 4 / math.sqrt(1200)
    assert abs(float(residual.var()) - 1) < 4 * math.sqrt(2 / 1200)


def test_predictive_from_the_prior_leaves_shorter_tasks_empty_at_the_end() -> None:
    tasks = ragged()
    model = poutine.uncondition(hierarchy_of(NORMAL["phi-coefficient"]).joint(tasks))
    drawn = Predictive(model, num_samples=7)()

    assert set(drawn) == {"mu", "tau", "sigma", "theta", "y"}
    assert drawn["theta"].shape == (7, 4)
    assert drawn["y"].shape == (7, 4, 5)
    for t, task in enumerate(tasks):
        assert bool(drawn["y"][:, t, : task.n].isfinite().all())
    again = traced(poutine.condition(model, data={"y": drawn["y"][0]}))
    assert math.isfinite(float(again.log_prob_sum()))


@pytest.mark.parametrize("name", ["normal_normal", "beta_binomial", "correlated"])
def test_svi_runs_with_an_automatic_guide(name: str) -> None:
    hierarchy, tasks = CASES[name]
    model = hierarchy.joint(tasks)
    guide = AutoNormal(model)
    svi = SVI(model, guide, ClippedAdam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step() for _ in range(60)]

    assert np.isfinite(losses).all()
    assert np.mean(losses[-15:]) < np.mean(losses[:15])
    theta = guide.median()["theta"]
    assert theta.shape[0] == len(tasks)
    assert theta.dtype == torch.float64


def test_a_discrete_likelihood_runs_under_nuts() -> None:
    hierarchy, tasks = CASES["beta_binomial"]
    mcmc = MCMC(NUTS(hierarchy.joint(tasks)), 15, 15, disable_progbar=True)
    mcmc.run()
    theta = mcmc.get_samples()["theta"]

    assert theta.shape == (15, len(tasks))
    assert bool(((theta > 0) & (theta < 1)).all())


# ---------------------------------------------------------------------------------------------------------
# Limits, and global state


def test_running_it_over_several_particles_at_once_is_refused() -> None:
    model = normal_normal().hierarchy.joint(normal_normal().tasks)
    guide = AutoNormal(model)
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    with pytest.raises(NotAvailableError, match=r"one plate of tasks, \(8,\), and cannot be expanded to \(3, 8\)"):
        SVI(model, guide, ClippedAdam({"lr": 0.05}), elbo).step()


@pytest.mark.parametrize("validate", [True, False])
def test_the_model_leaves_global_state_as_it_was(validate: bool) -> None:
    model = normal_normal().hierarchy.joint(normal_normal().tasks)
    with pyro.validation_enabled(validate):
        before = (torch.get_default_dtype(), torch.distributions.Distribution._validate_args, torch.get_num_threads())
        traced(model).log_prob_sum()
        after = (torch.get_default_dtype(), torch.distributions.Distribution._validate_args, torch.get_num_threads())
    assert after == before


def test_tasks_that_cannot_be_vectorised_are_run_one_by_one() -> None:
    data = plain.tasks()
    with pytest.warns(BayesmetaWarning, match="cannot be vectorised"):
        looped = bm.Hierarchy(plain.hyperprior, plain.branching).joint(data)
    mapped = traced(bm.Hierarchy(plain.hyperprior, plain.task).joint(data))
    at = values_of(mapped, ("mu", "tau", "theta"))

    again = traced(poutine.condition(looped, data=at))
    torch.testing.assert_close(torch.as_tensor(again.log_prob_sum()), torch.as_tensor(mapped.log_prob_sum()))
    assert traced(looped).nodes["theta"]["value"].shape == (3,)


def test_a_support_that_depends_on_phi_is_refused() -> None:
    def hyperprior() -> Tensor:
        return pyro.sample("b", dist.LogNormal(0.0, 1.0))

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Uniform(0.0, phi))
        return pyro.sample("y", dist.Normal(theta + 0 * x, 1.0).to_event(1), obs=y)

    with pytest.raises(NotAvailableError, match=r"what θ site 'theta' may be depends on φ.*theta_unit"):
        bm.Hierarchy(hyperprior, task).joint(bm.Tasks.from_lists([[0.0], [1.0]], [[0.2], [0.1]]))


def test_a_task_without_observations_adds_its_prior_alone() -> None:
    def hyperprior() -> Tensor:
        return pyro.sample("mu", dist.Normal(0.0, 1.0))

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi, 1.0))
        return pyro.sample("y", dist.MultivariateNormal(theta + 0 * x, torch.eye(len(x))), obs=y)

    some = bm.Tasks.from_lists([[0.0, 1.0]] * 2, [[1.0, 2.0], [0.5, 0.1]])
    more = some + bm.Tasks.without_observations(["none"], like=some)
    hierarchy = bm.Hierarchy(hyperprior, task)
    values = {"mu": torch.tensor(0.4), "theta": torch.tensor([0.7, -0.1, 0.7])}
    density = []
    for tasks in (some, more):
        given = values | {"theta": values["theta"][: len(tasks)]}
        density.append(traced(poutine.condition(hierarchy.joint(tasks), given)).log_prob_sum())

    assert float(density[1] - density[0]) == pytest.approx(float(dist.Normal(0.4, 1.0).log_prob(torch.tensor(0.7))))
