"""The choice of centring: right where what is right is known, the same in any units, and safe where it cannot tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.errors import BayesmetaWarning
from bayesmeta.evidence import Joint, pilot, rough
from bayesmeta.evidence.exact import Exact
from bayesmeta.infer import nuts
from bayesmeta.sites import quiet_pyro
from bayesmeta.target import Target
from tests.evidences import COUNTS, differences, gallery, hierarchy_of, ragged
from tests.scenarios import SCENARIOS, normal_normal, quadrature
from tests.test_hierarchy import branching, hyperprior
from tests.test_hierarchy import tasks as plain_tasks

UNITS = 1000.0


def lines(units: float = 1.0) -> bm.Hierarchy:
    """Regressions with two coefficients, which may be measured in other units than the data's."""

    def hyperprior() -> dict[str, Tensor]:
        return {
            "mu": pyro.sample("mu", dist.Normal(torch.zeros(2), 2.0 * units).to_event(1)),
            "tau": pyro.sample("tau", dist.HalfNormal(torch.full((2,), units)).to_event(1)),
            "sigma": pyro.sample("sigma", dist.HalfNormal(1.0)),
        }

    def task(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        w = pyro.sample("w", dist.Normal(phi["mu"], phi["tau"]).to_event(1)) / units
        return pyro.sample("y", dist.Normal(w[0] + w[1] * x, phi["sigma"]).to_event(1), obs=y)

    return bm.Hierarchy(hyperprior, task)


def simulated(sizes: list[int], tau: float, sigma: float, seed: int = 0) -> bm.Tasks:
    rng = np.random.default_rng(seed)
    xs = [rng.normal(size=n) for n in sizes]
    pairs = np.array([1.0, -0.5]) + tau * rng.normal(size=(len(sizes), 2))
    ys = [a + b * x + sigma * rng.normal(size=len(x)) for (a, b), x in zip(pairs, xs, strict=True)]
    return bm.Tasks.from_lists(xs, ys)


POOR_AND_RICH = [1, 2] * 10 + [80] * 20


def chosen(hierarchy: bm.Hierarchy, tasks: bm.Tasks) -> Joint:
    return Joint(hierarchy.program(tasks), tasks)


# ---------------------------------------------------------------------------------------------------------
# Where the right choice is known


def test_eight_schools_are_not_centred() -> None:
    schools = gallery("eight_schools")
    joint = chosen(schools.hierarchy, schools.load())

    assert joint.program.centring == {"theta": 0.0}
    assert joint.road.endswith("theta standardised (non-centred), by how much the data of each task say")


def test_tasks_with_many_precise_observations_are_centred() -> None:
    joint = chosen(lines(), simulated([11] * 40, tau=1.0, sigma=0.2))

    assert joint.program.centring == {"w": 1.0}
    assert "w centred, by how much" in joint.road


def test_of_ragged_tasks_the_rich_are_centred_and_the_poor_are_not() -> None:
    tasks = simulated(POOR_AND_RICH, tau=0.3, sigma=1.0)
    degrees = chosen(lines(), tasks).centring["w"]

    assert degrees.shape == (40, 2)
    assert float(degrees[tasks.sizes == 80].min()) > 0.75
    assert float(degrees[tasks.sizes == 1].max()) < 0.4


def test_counties_are_centred_the_more_houses_they_have() -> None:
    radon = gallery("radon")
    tasks = radon.load()
    degrees = chosen(radon.hierarchy, tasks).centring["alpha"]
    order = torch.argsort(tasks.sizes, stable=True)

    assert bool((degrees[order].diff() >= -0.011).all())
    assert float(degrees.min()) < 0.05
    assert float(degrees.max()) > 0.8


def test_the_degree_is_the_share_of_the_prior_variance_that_the_data_take_away() -> None:
    """normal_normal: at the mode of φ it is tau² / (tau² + sigma_t²)."""
    scenario = normal_normal()
    tasks, program = scenario.tasks, scenario.hierarchy.program(scenario.tasks)
    with quiet_pyro():
        u = rough.rough_mode(program.with_centring(False), tasks)
        assert u is not None
        tau = float(program.phi(u).values["tau"])
    share = tau**2 / (tau**2 + tasks.context["sigma"].square())
    expected = share ** (1 + 1 / (2 * share.square().sum()))

    degree = Joint(program, tasks).degrees["theta"]
    torch.testing.assert_close(degree.scale, expected, atol=0.0051, rtol=0)
    torch.testing.assert_close(degree.loc, degree.scale * tau ** (degree.scale - 1))


def test_at_this_degree_coordinates_depend_least_on_phi() -> None:
    """Within the exact p(θ | φ, D): neither does the mean of u move with mu, nor its sd with tau."""
    tau, sigma, y = 0.02, 0.03, 1.3
    share = tau**2 / (tau**2 + sigma**2)

    def moments(mu: float, log_tau: float, scale: float, loc: float) -> tuple[float, float]:
        """Mean and log sd of u = loc mu + (θ - mu) s^(scale - 1)."""
        s = math.exp(log_tau)
        k = s**2 / (s**2 + sigma**2)
        return loc * mu + k * (y - mu) * s ** (scale - 1), math.log(sigma * math.sqrt(k) * s ** (scale - 1))

    def slopes(scale: float, loc: float) -> tuple[float, float]:
        """Of the mean in mu, in posterior sd of u, and of the log sd in log tau."""
        step, at = 1e-5, math.log(tau)
        by_mu = (moments(step, at, scale, loc)[0] - moments(-step, at, scale, loc)[0]) / (2 * step)
        by_tau = (moments(0, at + step, scale, loc)[1] - moments(0, at - step, scale, loc)[1]) / (2 * step)
        return by_mu * tau ** (1 - scale), by_tau

    assert slopes(share, share * tau ** (share - 1)) == pytest.approx((0.0, 0.0), abs=1e-8)
    # the check can fail: centred, standardised, and Gorinova's form, which depends on the units
    for scale, loc in ((1.0, 1.0), (0.0, 0.0), (share, share)):
        assert max(abs(slope) for slope in slopes(scale, loc)) > 0.2


def test_units_make_no_difference() -> None:
    tasks = simulated(POOR_AND_RICH, tau=0.3, sigma=1.0)
    ours, theirs = (chosen(lines(units), tasks).centring["w"] for units in (1.0, UNITS))

    torch.testing.assert_close(ours, theirs, atol=0.03, rtol=0)


def counts(name: str) -> bm.Tasks:
    """Ten tasks with two counts, ten with 300."""
    rng = np.random.default_rng(0)
    xs, ys = [], []
    for n in (2,) * 10 + (300,) * 10:
        x = 0.3 * rng.normal(size=n)
        eta = 0.7 * rng.normal() + x
        xs.append(x)
        ys.append(rng.poisson(np.exp(eta)) if name == "poisson" else rng.random(n) < 1 / (1 + np.exp(-eta)))
    return bm.Tasks.from_lists(xs, [np.asarray(y, dtype=float) for y in ys])


@pytest.mark.parametrize("name", ["bernoulli", "poisson"])
def test_counts_are_centred_by_how_many_there_are(name: str) -> None:
    degrees = chosen(hierarchy_of(COUNTS[name]), counts(name)).centring["theta"]

    assert float(degrees[10:].min()) > 0.9
    assert float(degrees[:10].max()) < 0.8
    assert float(degrees[:10].min()) < 0.5


def test_a_site_that_is_not_normal_is_left_alone() -> None:
    scenario = SCENARIOS["beta_binomial"]()
    joint = chosen(scenario.hierarchy, scenario.tasks)

    assert joint.centring == {}
    assert joint.road == "joint: φ and the θ of all tasks are sampled together"


def test_of_very_many_tasks_some_of_all_sizes_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = simulated(POOR_AND_RICH, tau=0.3, sigma=1.0)
    monkeypatch.setattr(pilot, "MOST_LEARNT", 8)
    monkeypatch.setattr(pilot, "CELLS", 5_000)
    degrees = chosen(lines(), tasks).centring["w"]

    assert len(degrees.unique(dim=0)) <= 8
    assert float(degrees[tasks.sizes == 80].min()) > 0.75
    assert float(degrees[tasks.sizes == 1].max()) < 0.4


# ---------------------------------------------------------------------------------------------------------
# The rough mode


@pytest.mark.parametrize("name", ["normal_normal", "beta_binomial"])
def test_the_rough_mode_lies_amid_the_posterior(name: str) -> None:
    scenario = SCENARIOS[name]()
    exact = quadrature(scenario)
    with quiet_pyro():
        program = scenario.hierarchy.program(scenario.tasks).with_centring(False)
        u = rough.rough_mode(program, scenario.tasks)
        assert u is not None
        for site, value in program.phi(u).values.items():
            assert abs(float(value) - exact.mean[site]) < exact.sd[site]


def test_the_gradient_in_phi_is_exact_for_gaussian_tasks() -> None:
    """Against the exact evidence, differentiated by differences."""
    scenario = SCENARIOS["correlated"]()
    program = scenario.hierarchy.program(scenario.tasks).with_centring(False)
    target = Target(Exact(program, scenario.tasks))
    rows = rough.one_batch(program, scenario.tasks)
    with quiet_pyro():
        u = torch.linspace(-0.5, 0.5, target.dim)
        phi = program.phi(u)
        modes = [rough.modes_of_theta(program, phi.returned, row, torch.zeros(len(row.mask), 2)) for row in rows]
        ours = rough._gradient(program, u, rows, modes)
        theirs = differences(lambda u: float(target.fn(u, *target.leaves)), u)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_climbing_finds_the_top_of_a_narrow_ridge_and_stops_where_there_is_no_value() -> None:
    scales = torch.tensor([0.01, 0.1, 1.0], dtype=torch.float64)
    top = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)

    def ridge(u: Tensor) -> tuple[float, Tensor]:
        z = (u - top) / scales
        return -0.5 * float(z.square().sum()), -z / scales

    def nowhere(u: Tensor) -> tuple[float, Tensor]:
        return -math.inf, torch.zeros_like(u)

    start = torch.zeros(3, dtype=torch.float64)
    with quiet_pyro():
        found = rough.climb(ridge, start, steps=100)
        assert found is not None
        assert ridge(found)[0] > -0.05
        assert ridge(start)[0] < -500
        assert rough.climb(nowhere, start) is None


# ---------------------------------------------------------------------------------------------------------
# Where it cannot tell


def impossible(x: Tensor) -> Tensor:
    """Has no second derivative."""
    return _Once.apply(x)  # type: ignore[no-any-return, no-untyped-call]


class _Once(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise NotImplementedError("no derivative of this derivative")
        return outer[0]


HOPELESS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no second derivative": (lambda theta: impossible(theta), "its second derivatives in θ failed"),
    "no value": (lambda theta: theta * math.nan, "no mode of φ was found"),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_where_nothing_is_found_out_theta_is_standardised_and_the_road_says_why(name: str) -> None:
    spoil, why = HOPELESS[name]
    hierarchy = hierarchy_of(lambda theta, x, phi: dist.Normal(spoil(theta) + 0 * x, 1.0).to_event(1))
    program = hierarchy_of(lambda theta, x, phi: dist.Normal(theta + 0 * x, 1.0).to_event(1)).program(ragged())
    program.task = hierarchy.task
    joint = Joint(program, ragged())

    assert joint.program.centring == {"theta": 0.0}
    assert f"standardised (non-centred); how much each task says was not found out: {why}" in joint.road


def test_of_a_theta_of_very_many_coordinates_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pilot, "MOST_COORDINATES", 1)
    joint = chosen(lines(), simulated([5] * 4, tau=1.0, sigma=0.2))

    assert joint.program.centring == {"w": 0.0}
    assert "θ has 2 coordinates, 1 at most are looked at" in joint.road


def test_a_task_that_branches_on_values_is_looked_at_one_by_one() -> None:
    tasks = plain_tasks()
    with pytest.warns(BayesmetaWarning, match="cannot be vectorised"):
        looped = bm.Hierarchy(hyperprior, branching).program(tasks)
    from tests.test_hierarchy import task

    mapped = bm.Hierarchy(hyperprior, task).program(tasks)
    torch.testing.assert_close(Joint(looped, tasks).centring["theta"], Joint(mapped, tasks).centring["theta"])


def test_the_pilot_leaves_the_users_randomness_and_threads_alone() -> None:
    scenario = normal_normal()
    program = scenario.hierarchy.program(scenario.tasks)
    before = (torch.random.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads())
    first, second = Joint(program, scenario.tasks), Joint(program, scenario.tasks)

    after = (torch.random.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads())
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert torch.equal(first.centring["theta"], second.centring["theta"])


# ---------------------------------------------------------------------------------------------------------
# What it is worth


def efficiency(hierarchy: bm.Hierarchy, tasks: bm.Tasks, centring: Any) -> float:
    """The least effective size over φ, per leapfrog step."""
    import arviz

    target = Target(Joint(hierarchy.program(tasks), tasks, centring))
    config = nuts.NUTS(draws=400, tune=300, chains=2, compile=False)
    draws = nuts.sample(target.density(compile=False), config, seed=1, progress=False)
    sizes = [float(arviz.ess(draws.u[..., k].numpy())) for k in range(target.q)]
    return min(sizes) / float(draws.stats["n_steps"].sum())


def worth(name: str) -> tuple[bm.Hierarchy, bm.Tasks]:
    if name == "poor":
        schools = gallery("eight_schools")
        return schools.hierarchy, schools.load()
    if name == "rich":
        return lines(), simulated([11] * 40, tau=1.0, sigma=0.2)
    return lines(), simulated(POOR_AND_RICH, tau=0.3, sigma=1.0)


@pytest.mark.long
@pytest.mark.parametrize(("name", "wrong"), [("poor", [True]), ("rich", [False]), ("ragged", [True, False])])
def test_the_wrong_centring_costs_effective_draws(name: str, wrong: list[bool]) -> None:
    hierarchy, tasks = worth(name)
    ours = efficiency(hierarchy, tasks, "auto")
    for centring in wrong:
        assert efficiency(hierarchy, tasks, centring) < 0.5 * ours
