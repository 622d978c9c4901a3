"""Plated Pyro models brought in: the same hierarchy as the one written by hand, or a sentence that says why not."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroSample
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import bayesmeta as bm
from bayesmeta.arguments import sources
from bayesmeta.constant import constant
from bayesmeta.density import Density
from bayesmeta.errors import BayesmetaError, BayesmetaWarning, HierarchyError, UnknownNameError
from bayesmeta.evidence import Exact, Gram, Joint, choose
from bayesmeta.hierarchy import Hierarchy
from bayesmeta.plates import Axis, without_axes
from bayesmeta.predict import Predictive
from bayesmeta.program import Program, Row
from bayesmeta.sites import quiet_pyro
from tests.plated_models import PAIRS, houses, matrix, population, radon, radon_by_hand, schools, schools_tasks

NAMES = list(PAIRS)
FEW = bm.Laplace(draws=100)
# One of each kind: the other models have the same densities.
ROADS = ["radon", "patients", "correlated", "schools", "schools-reparametrised", "baseball", "rows-by-tasks", "factors"]


@cache
def programs(name: str) -> tuple[Program, Program]:
    """The program of the plated model, and of the hierarchy by hand."""
    pair = PAIRS[name]()
    return pair.plated.program(pair.tasks), pair.by_hand.program(pair.tasks)


def points(ours: Program, theirs: Program, count: int = 3) -> list[tuple[Tensor, Tensor]]:
    """Coordinates of the same φ in both orders of its sites."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        u = 0.7 * torch.randn(ours.structure.phi.size, generator=generator, dtype=torch.float64)
        parts = ours.structure.phi.split(u)
        found.append((u, torch.cat([parts[name].reshape(-1) for name in theirs.structure.phi.names])))
    return found


def total(evidence: Any, u: Tensor) -> Tensor:
    with quiet_pyro():
        result: Tensor = evidence.total(evidence.program.phi(u), evidence.data)
    return result


def traced(model: Callable[..., Any], *args: Any, **values: Tensor) -> Any:
    """The trace of a Pyro model, some of its sites at given values."""
    with torch.random.fork_rng(devices=[]):
        return pyro.poutine.trace(pyro.poutine.condition(model, values)).get_trace(*args)


# ---------------------------------------------------------------------------------------------------------
# The same as by hand


@pytest.mark.parametrize("name", NAMES)
def test_the_sites_are_those_of_the_hierarchy_by_hand(name: str) -> None:
    ours, theirs = (program.structure for program in programs(name))

    assert set(ours.phi.names) == set(theirs.phi.names)
    assert [(site.name, site.family, site.shape, site.plates) for site in ours.theta] == [
        (site.name, site.family, site.shape, site.plates) for site in theirs.theta
    ]
    assert ours.observed == theirs.observed
    assert (ours.maskable, ours.vectorised) == (theirs.maskable, theirs.vectorised)


@pytest.mark.parametrize("name", NAMES)
def test_every_density_of_every_task_is_that_by_hand(name: str) -> None:
    ours, theirs = programs(name)
    batches = PAIRS[name]().tasks.padded(exact_sizes=not ours.structure.maskable)
    v = torch.linspace(-0.9, 0.8, ours.structure.theta.size, dtype=torch.float64)
    for u, other in points(ours, theirs):
        with quiet_pyro():
            one, two = ours.phi(u), theirs.phi(other)
            torch.testing.assert_close(one.log_prior, two.log_prior)
            for row in map(Row.of, batches):
                found, expected = (
                    program.over_tasks(lambda row, p=program, phi=phi: p.terms(phi.returned, v, row))(row)
                    for program, phi in ((ours, one), (theirs, two))
                )
                torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_predictions_at_the_same_draws_are_those_by_hand(name: str) -> None:
    """At five inputs for each of two tasks, whatever number of observations the model has in the fit."""
    pair, (ours, theirs) = PAIRS[name](), programs(name)
    some = pair.tasks[:2]
    xs = [task.x[torch.zeros(5, dtype=torch.long)] for task in some]
    query = bm.Tasks.from_lists(xs, [np.ones(5)] * 2, names=some.names, context=some.context or None)
    us = points(ours, theirs, 4)
    theta = torch.linspace(-0.5, 0.5, 8 * ours.structure.theta.size, dtype=torch.float64).reshape(4, 2, -1)
    found, expected = (
        Predictive(program, query, torch.stack(u).unsqueeze(1).expand(-1, 2, -1), theta, "exact")
        for program, u in zip((ours, theirs), zip(*us, strict=True), strict=True)
    )
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.sample(50, seed=1), expected.sample(50, seed=1))
    torch.testing.assert_close(found.log_prob(query), expected.log_prob(query))


@cache
def evidences(name: str) -> tuple[Any, Any]:
    tasks = PAIRS[name]().tasks
    ours, theirs = (choose(program, tasks, "auto") for program in programs(name))
    return ours, theirs


@pytest.mark.parametrize("name", ROADS)
def test_the_evidence_and_its_road_are_those_by_hand(name: str) -> None:
    ours, theirs = evidences(name)
    assert ours.road == theirs.road
    if not isinstance(ours, Exact | Gram) or not isinstance(theirs, Exact | Gram):
        assert type(ours) is type(theirs)
        return
    for u, other in points(ours.program, theirs.program):
        torch.testing.assert_close(total(ours, u), total(theirs, other))


def test_the_gram_road_is_found() -> None:
    assert isinstance(evidences("radon")[0], Gram)
    assert isinstance(evidences("correlated")[0], Gram)
    assert isinstance(evidences("schools")[0], Gram)


@pytest.mark.parametrize("name", ["radon", "sizes-from-values", "logistic"])
def test_the_density_is_recorded_although_the_model_asks_for_numbers(name: str) -> None:
    """`np.unique`, `int(county.max())`: a warning, that it runs eagerly, would be an error here."""
    tasks, program = PAIRS[name]().tasks, programs(name)[0]
    row = Row.of(tasks.padded()[0])
    q, p = program.structure.phi.size, program.structure.theta.size

    def log_density(u: Tensor, x: Tensor, y: Tensor) -> Tensor:
        phi = program.phi(u[:q])
        terms: Tensor = program.over_tasks(lambda row: program.log_joint(phi.returned, u[q:], row))(
            row._replace(x=x, y=y)
        )
        return phi.log_prior + terms.sum()

    density = Density(log_density, q + p, [row.x, row.y], compile=False)
    assert density.mode == "traced"
    u = torch.linspace(-0.5, 0.5, q + p, dtype=torch.float64)
    with quiet_pyro():
        torch.testing.assert_close(density(u), log_density(u, row.x, row.y))


@cache
def fits(name: str) -> tuple[bm.Posterior, bm.Posterior]:
    """The plated model and the hierarchy by hand, fitted with the same seed; few draws, whatever the verdict."""
    pair = PAIRS[name]()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the draws are", BayesmetaWarning)
        one, two = (bm.fit(h, pair.tasks, FEW, progress=False) for h in (pair.plated, pair.by_hand))
    return one, two


def new_tasks() -> bm.Tasks:
    xs = [torch.tensor([[0.0, 0.3], [1.0, -0.2], [1.0, 1.5]]), torch.tensor([[1.0, 0.0]])]
    return bm.Tasks.from_lists(xs, [[0.4, 1.2, -0.1], [2.0]], names=["new", "small"], context={"uranium": [0.3, -1.0]})


def test_fits_and_predictions_for_new_tasks_are_those_by_hand() -> None:
    """The same densities, the same seeds: the same draws."""
    ours, theirs = fits("radon-with-uranium")
    for name in ours.phi:
        torch.testing.assert_close(ours.phi[name], theirs.phi[name])
    torch.testing.assert_close(ours.theta["alpha"], theirs.theta["alpha"])
    query = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    adapted = [posterior.adapt(new_tasks()).predict(query) for posterior in (ours, theirs)]
    torch.testing.assert_close(adapted[0].mean, adapted[1].mean)
    torch.testing.assert_close(adapted[0].sd, adapted[1].sd)
    assert adapted[0].mean.shape == (2, 2)
    assert not torch.equal(adapted[0].mean[0], adapted[0].mean[1])


def test_predictions_from_a_model_that_has_to_have_its_observations() -> None:
    ours, theirs = fits("baseball")
    names, query = ["a", "d"], torch.full((3, 1), 20.0)
    support = PAIRS["baseball"]().tasks[names]
    means = [posterior.adapt(support).predict(query).mean for posterior in (ours, theirs)]
    assert means[0].shape == (2, 3)
    assert bool(torch.isfinite(means[0]).all())
    torch.testing.assert_close(means[0], means[1])


def test_a_school_with_several_results_and_many_predictions() -> None:
    """The model has one observation a school; a new school may have any number."""
    ours, theirs = fits("schools")
    one = bm.Tasks.from_lists(None, [[5.0, 9.0, 2.0]], names=["new"], context={"sigma": [4.0]})
    predicted = [p.adapt(one).predict(torch.zeros(4, 0)) for p in (ours, theirs)]
    torch.testing.assert_close(predicted[0].mean, predicted[1].mean)
    assert predicted[0].mean.shape == (1, 4)
    nothing = bm.Tasks.without_observations(["zero"], like=ours.tasks, context={"sigma": [4.0]})
    torch.testing.assert_close(*(p.adapt(nothing).predict(torch.zeros(1, 0)).mean for p in (ours, theirs)))


def test_saved_and_loaded(tmp_path: Path) -> None:
    posterior, _ = fits("radon")
    posterior.save(tmp_path / "radon.nc")
    pair = PAIRS["radon"]()
    again = bm.load(tmp_path / "radon.nc", pair.plated)
    torch.testing.assert_close(again.phi, posterior.phi)
    torch.testing.assert_close(again.theta, posterior.theta)

    def other(county_idx: Tensor, floor: Tensor, log_radon: Tensor | None = None) -> None:
        with pyro.poutine.scale(scale=2.0):
            radon(county_idx, floor, log_radon)

    with pytest.raises(BayesmetaError, match="fitted with another hierarchy"):
        bm.load(tmp_path / "radon.nc", Hierarchy.from_plated(other, "county"))


def test_the_joint_model_of_a_plated_hierarchy() -> None:
    pair = PAIRS["radon"]()
    ours = traced(pair.plated.joint(pair.tasks))
    values = {name: ours.nodes[name]["value"] for name in ("mu", "tau", "beta", "sigma", "alpha")}
    assert values["alpha"].shape == (len(pair.tasks),)
    torch.testing.assert_close(ours.log_prob_sum(), traced(pair.by_hand.joint(pair.tasks), **values).log_prob_sum())


def test_the_real_radon_data() -> None:
    """85 counties, 1 to 116 houses: log Z of both at the same φ, to rounding."""
    tasks = bm.Tasks.from_frame(bm.data.load("radon"), task="county", x=["floor"], y="log_radon", context="log_uranium")

    def task(phi: Any, x: Tensor, y: Tensor | None = None, *, log_uranium: Tensor) -> Tensor:
        return radon_by_hand(phi, x, y, uranium=log_uranium)

    hierarchies = Hierarchy.from_plated(radon, "county"), Hierarchy(population, task)
    ours, theirs = (choose(hierarchy.program(tasks), tasks) for hierarchy in hierarchies)
    assert isinstance(ours, Gram)
    for u, other in points(ours.program, theirs.program):
        torch.testing.assert_close(total(ours, u), total(theirs, other), rtol=1e-12, atol=0.0)


class Net(PyroModule):
    """A linear map with a prior on its weights, shared by all counties, and a level for each."""

    def __init__(self) -> None:
        super().__init__()
        linear: Any = PyroModule[torch.nn.Linear]
        self.line = linear(2, 1)
        self.line.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
        self.line.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

    def forward(self, county: Tensor, X: Tensor, y: Tensor | None = None) -> None:
        """The model."""
        mean = self.line(X).squeeze(-1)
        with pyro.plate("county", len(county.unique())):
            alpha = pyro.sample("alpha", dist.Normal(0.0, 0.5))
        with pyro.plate("houses", len(X)):
            pyro.sample("y", dist.Normal(mean + alpha[county], 1.0), obs=y)


def test_a_pyro_module() -> None:
    with torch.random.fork_rng(devices=[]):
        net = Net()
    program = Hierarchy.from_plated(net, "county").program(houses())
    assert program.structure.phi.names == ("line.weight", "line.bias")
    assert program.structure.theta.names == ("alpha",)
    assert isinstance(choose(program, houses()), Gram)


def test_effects_crossed_with_the_tasks_are_phi() -> None:
    def model(county: Tensor, floor: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("floors", 2):
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
        with pyro.plate("county", len(county.unique())):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("houses", len(county)):
            pyro.sample("y", dist.Normal(a[county] + b[floor], 1.0), obs=y)

    hierarchy = Hierarchy.from_plated(model, "county", arguments={"floor": ("floor", torch.long)})
    structure = hierarchy.program(houses()).structure
    assert [(site.name, site.shape, site.plates) for site in structure.phi] == [("b", (2,), ("floors",))]


def test_observations_of_several_numbers() -> None:
    def model(unit: Tensor, x: Tensor, y: Tensor | None = None) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("unit", len(unit.unique())):
            a = pyro.sample("a", dist.Normal(mu, 1.0).expand([2]).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(a[unit] + x.unsqueeze(-1), 1.0).to_event(1), obs=y)

    tasks = bm.Tasks.from_lists([np.zeros(3), np.ones(2)], [np.zeros((3, 2)), np.ones((2, 2))])
    structure = Hierarchy.from_plated(model, "unit").program(tasks).structure
    assert [site.shape for site in structure.theta] == [(2,)]
    assert structure.maskable


def test_a_hierarchy_travels_to_other_processes() -> None:
    pair = PAIRS["radon"]()
    hierarchy = pair.plated
    hierarchy.program(pair.tasks)
    copy = pickle.loads(pickle.dumps(hierarchy))
    copy.program(pair.tasks)
    assert repr(copy) == repr(hierarchy)


# ---------------------------------------------------------------------------------------------------------
# How it shows itself


def test_repr_says_where_it_came_from() -> None:
    pair = PAIRS["radon"]()
    hierarchy = pair.plated
    assert repr(hierarchy).splitlines() == [
        "Hierarchy.from_plated(radon, plate='county')",
        "  phi and theta are found when the hierarchy first meets tasks",
    ]
    assert "first meets tasks" in hierarchy._repr_html_()
    hierarchy.program(pair.tasks)
    assert repr(hierarchy).splitlines() == [
        "Hierarchy.from_plated(radon, plate='county')",
        "  phi       mu     Normal      real      scalar",
        "  phi       tau    HalfNormal  positive  scalar",
        "  phi       beta   Normal      real      scalar",
        "  phi       sigma  HalfNormal  positive  scalar",
        "  theta     alpha  Normal      real      scalar",
        "  observed  y",
    ]


def test_without_tasks_there_are_no_functions() -> None:
    with pytest.raises(HierarchyError, match=r"from_plated\(radon.* finds φ and θ when it first meets tasks"):
        PAIRS["radon"]().plated.hyperprior()


def test_a_model_must_be_a_function_and_the_plate_a_name() -> None:
    with pytest.raises(HierarchyError, match="model must be a function, got int"):
        Hierarchy.from_plated(3, "county")  # type: ignore[arg-type]
    with pytest.raises(HierarchyError, match="plate must be the name of a plate of the model, got 85"):
        Hierarchy.from_plated(radon, 85)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------
# What cannot be brought in


def fails(model: Callable[..., Any], match: str, error: type[BayesmetaError] = HierarchyError, **options: Any) -> None:
    with pytest.raises(error, match=match):
        Hierarchy.from_plated(model, options.pop("plate", "county"), **options).program(houses())


def counties(
    mean: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda alpha, county, floor: alpha[county],
    prior: Callable[[Tensor, Tensor], Any] = lambda mu, count: dist.Normal(mu, 1.0),
    hyper: Callable[[int], Any] = lambda count: dist.Normal(0.0, 1.0),
    also: Callable[[Tensor, Tensor], Any] = lambda alpha, county: None,
) -> Callable[..., None]:
    """A small plated model, one part of which may be wrong."""

    def model(county: Tensor, floor: Tensor, y: Tensor | None = None) -> None:
        count = len(county.unique())
        mu = pyro.sample("mu", hyper(count))
        with pyro.plate("county", count):
            alpha = pyro.sample("alpha", prior(mu, torch.tensor(float(count))))
        also(alpha, county)
        with pyro.plate("houses", len(county)):
            pyro.sample("y", dist.Normal(mean(alpha, county, floor), 1.0), obs=y)

    return model


def test_the_small_model_is_right_where_nothing_is_wrong() -> None:
    program = Hierarchy.from_plated(counties(), "county").program(houses())
    assert program.structure.theta.names == ("alpha",)


@pytest.mark.parametrize(
    "mean",
    [
        lambda alpha, county, floor: alpha[county] - alpha.mean(),
        lambda alpha, county, floor: alpha.sum() + 0 * floor,
        lambda alpha, county, floor: alpha[county] + floor - floor.mean(),
        lambda alpha, county, floor: alpha.flip(0)[county],
    ],
    ids=["mean-of-theta", "sum-of-theta", "centred-data", "wrong-county"],
)
def test_a_likelihood_that_couples_tasks(mean: Callable[..., Tensor]) -> None:
    fails(counties(mean), r"tasks of plate 'county' are not independent given φ: .* log density of site 'y' is .*")


def test_a_prior_that_couples_tasks() -> None:
    fails(counties(prior=lambda mu, count: dist.Normal(mu, count)), "not independent given φ: .* of site 'alpha' is")


def test_a_factor_that_couples_tasks() -> None:
    fails(
        counties(also=lambda alpha, county: pyro.factor("sum to zero", -alpha.sum().square())),
        "not independent given φ: .* of site 'sum to zero' is",
    )


def test_phi_that_depends_on_the_number_of_tasks() -> None:
    fails(
        counties(hyper=lambda count: dist.Normal(0.0, float(count))),
        r"site 'mu' stands outside plate 'county', but its log density is .* it depends on θ, or on the data or the nu",
    )


def test_phi_that_depends_on_theta() -> None:
    fails(
        counties(also=lambda alpha, county: pyro.sample("z", dist.Normal(alpha[0], 1.0))),
        "site 'z' stands outside plate 'county', but its log density is .* it depends on θ",
    )


def test_a_theta_outside_the_plate() -> None:
    """As in Pyro's example of the eight schools: a vector over schools without a plate."""
    fails(
        counties(also=lambda alpha, county: pyro.sample("eta", dist.Normal(torch.zeros(len(alpha)), 1.0).to_event(1))),
        r"site 'eta' stands outside plate 'county', but has shape \(5,\) for some tasks and \(1,\) for one of them",
    )


def test_a_latent_value_per_observation() -> None:
    fails(
        counties(also=lambda alpha, county: pyro.sample("e", dist.Normal(torch.zeros(len(county)), 1.0).to_event(1))),
        r"site 'e' stands outside plate 'county', but has shape \(16,\) .* must be integrated out",
    )


def test_a_discrete_site() -> None:
    def also(alpha: Tensor, county: Tensor) -> None:
        with pyro.plate("each", len(county)):
            pyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})

    fails(counties(also=also), r"site 'z' is discrete \(Bernoulli\).*sum it out")


def test_a_plate_that_is_not_there() -> None:
    fails(counties(), r"unknown plate 'countys'; valid: 'county', 'houses'; did", UnknownNameError, plate="countys")


def test_a_plate_without_theta() -> None:
    fails(counties(), r"no latent site stands in plate 'houses': θ is .*\['mu', 'alpha'\]", plate="houses")


def test_nothing_outside_the_plate() -> None:
    def model(county: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("county", len(county.unique())):
            alpha = pyro.sample("alpha", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(alpha[county], 1.0).to_event(1), obs=y)

    fails(model, r"all latent sites, \['alpha'\], stand in plate 'county'.*sample φ outside")


@pytest.mark.parametrize("options", [{"subsample_size": 2}, {"subsample": torch.arange(2)}], ids=["size", "given"])
def test_a_subsample(options: dict[str, Any]) -> None:
    def model(county: Tensor, y: Tensor | None = None) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("county", len(county.unique()), **options):
            alpha = pyro.sample("alpha", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(alpha[county], 1.0).to_event(1), obs=y)

    fails(model, "plate 'county' takes a subsample of its members: leave")


def test_a_plate_that_is_a_loop() -> None:
    def model(county: Tensor, y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        for k in pyro.plate("county", len(county.unique())):
            alpha = pyro.sample(f"alpha_{k}", dist.Normal(mu, 1.0))
            mine = y[county == k]
            pyro.sample(f"y_{k}", dist.Normal(alpha, 1.0).expand([len(mine)]).to_event(1), obs=mine)

    fails(model, "plate 'county' is a loop over its members .* write it as one block")


def test_free_parameters() -> None:
    fails(counties(also=lambda alpha, county: pyro.param("w", torch.ones(()))), r"calls pyro\.param\('w'\)")


def test_data_from_outside_the_arguments() -> None:
    data = houses()

    def model(floor: Tensor, y: Tensor | None = None) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("county", 5):
            alpha = pyro.sample("alpha", dist.Normal(mu, 1.0))
        with pyro.plate("houses", 16):
            pyro.sample("y", dist.Normal(alpha[data.task_index] + floor, 1.0), obs=y)

    fails(model, r"the model raised \w+ on 1 task\(s\) \(floor \(\d,\), y \(\d,\)\): .* not come from outside")

    def nothing() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("county", 5):
            alpha = pyro.sample("alpha", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(alpha[data.task_index], 1.0).to_event(1), obs=data.y)

    fails(nothing, "the observations are no argument of the model")


def test_standard_errors_from_outside_the_arguments() -> None:
    """Eight of them, whether there are eight schools or one."""
    eight = schools_tasks()

    def model(J: int, y: Tensor | None = None) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        with pyro.plate("J", J):
            theta = pyro.sample("theta", dist.Normal(mu, 1.0))
        pyro.sample("obs", dist.Normal(theta, eight.context["sigma"]).to_event(1), obs=y)

    with pytest.raises(
        HierarchyError, match=r"'obs' has shape \(8,\) for task 'A' alone, .* shape \(1,\): what has one"
    ):
        Hierarchy.from_plated(model, "J").program(eight)


def test_a_column_used_as_an_index() -> None:
    def model(county: Tensor, floor: Tensor, y: Tensor | None = None) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with pyro.plate("county", len(county.unique())):
            alpha = pyro.sample("alpha", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(alpha[county] + mu[floor], 1.0).to_event(1), obs=y)

    fails(model, r"the model raised IndexError on 5 task\(s\) .*arguments=\{'floor': \('floor', torch.long\)\}")
    program = Hierarchy.from_plated(model, "county", arguments={"floor": ("floor", torch.long)}).program(houses())
    assert program.structure.phi.names == ("mu",)


def test_observations_of_another_shape() -> None:
    def model(county: Tensor, y: Tensor | None = None) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("county", len(county.unique())):
            alpha = pyro.sample("alpha", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(alpha[county].unsqueeze(-1), 1.0), obs=y)

    fails(model, r"observed site 'y' has shape \(16, 1\), but its observations have shape \(16,\)")


def test_no_task_with_observations() -> None:
    empty = bm.Tasks.without_observations(["a"], like=houses(), context={"uranium": [1.0]})
    with pytest.raises(HierarchyError, match="running it on tasks with observations, and none has any"):
        Hierarchy.from_plated(radon, "county").program(empty)


# ---------------------------------------------------------------------------------------------------------
# What arguments take


def roles(model: Callable[..., Any], plate: str, tasks: bm.Tasks, **arguments: Any) -> dict[str, Any]:
    return {
        name: source.name or (source.role if source.column is None else f"x[{source.column}]")
        for name, source in sources(model, plate, tasks, arguments).items()
    }


def test_arguments_are_known_by_their_names() -> None:
    def model(
        county: Tensor, COUNTY_idx: Tensor, n_counties: int, N: int, floor: Tensor, Age: Tensor, uranium: Tensor,
        X: Tensor, scale: float = 2.0, log_radon_obs: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Nothing."""

    assert roles(model, "county", houses()) == {
        "county": "task index",
        "COUNTY_idx": "task index",
        "n_counties": "number of tasks",
        "N": "number of observations",
        "floor": "x[0]",
        "Age": "x[1]",
        "uranium": "uranium",
        "X": "x",
        "log_radon_obs": "y",
    }


def test_arguments_of_tasks_without_names() -> None:
    tasks = bm.Tasks.from_lists([[0.0, 1.0], [2.0]], [[1.0, 2.0], [3.0]])
    assert roles(lambda idx, num_units, dose, response=None: None, "unit", tasks) == {
        "idx": "task index",
        "num_units": "number of tasks",
        "dose": "x",
        "response": "y",
    }


def test_arguments_that_the_user_says() -> None:
    def model(which: Tensor, a: Tensor, b: float, c: Tensor, measured: Tensor) -> None:
        """Nothing."""

    said = {"which": "task index", "a": "x[1]", "b": 3.0, "c": ("floor", torch.long), "measured": "y"}
    assert roles(model, "county", houses(), **said) == {
        "which": "task index",
        "a": "x[1]",
        "b": "constant",
        "c": "x[0]",
        "measured": "y",
    }


def test_arguments_that_nothing_goes_by_the_name_of() -> None:
    def model(county: Tensor, mystery: Tensor, riddle: Tensor, y: Tensor | None = None) -> None:
        """Nothing."""

    with pytest.raises(
        HierarchyError,
        match=r"arguments \['mystery', 'riddle'\] of the model are not known by name: the tasks have inputs "
        r"\['floor', 'age'\], observations 'log_radon', context \['uranium'\]; say what each one takes",
    ):
        sources(model, "county", houses(), {})
    with pytest.raises(UnknownNameError, match=r"arguments\['riddle'\]: unknown column or role 'flor'.*'floor'"):
        sources(model, "county", houses(), {"riddle": "flor"})
    with pytest.raises(UnknownNameError, match=r"unknown argument 'ridle'; valid: .*did you mean 'riddle'"):
        sources(model, "county", houses(), {"ridle": "floor"})


def test_one_column_as_a_matrix_or_a_vector() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"g": list("aabbb"), "dose": rng.normal(size=5), "y": rng.normal(size=5)})
    tasks = bm.Tasks.from_frame(frame, task="g", x=["dose"], y="y")

    def vector(group: Tensor, x: Tensor, y: Tensor | None = None) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("group", len(group.unique())):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(theta[group] + x, 1.0), obs=y)

    one, two = (choose(Hierarchy.from_plated(m, "group").program(tasks), tasks) for m in (matrix(), vector))
    assert isinstance(one, Gram)
    u = torch.tensor([0.3, -0.2], dtype=torch.float64)
    torch.testing.assert_close(total(one, u), total(two, u))


# ---------------------------------------------------------------------------------------------------------
# Handlers


TAKEN: dict[str, Callable[[], Any]] = {
    "Normal": lambda: dist.Normal(torch.randn(2, 3, 4), torch.rand(2, 3, 4)),
    "Normal, an event": lambda: dist.Normal(torch.randn(2, 3, 4), 1.0).to_event(1),
    "Normal, two events": lambda: dist.Normal(torch.randn(2, 3, 4), 1.0).to_event(2),
    "LogNormal": lambda: dist.LogNormal(torch.randn(2, 3, 4), 1.0),
    "HalfNormal": lambda: dist.HalfNormal(torch.rand(2, 3, 4)),
    "HalfCauchy": lambda: dist.HalfCauchy(torch.rand(2, 3, 4)),
    "Gamma": lambda: dist.Gamma(torch.rand(2, 3, 4), torch.rand(2, 3, 4)),
    "InverseGamma": lambda: dist.InverseGamma(torch.rand(2, 3, 4), torch.rand(2, 3, 4)),
    "Beta": lambda: dist.Beta(torch.rand(2, 3, 4), torch.rand(2, 3, 4)),
    "Uniform": lambda: dist.Uniform(torch.zeros(2, 3, 4), 1 + torch.rand(2, 3, 4)),
    "StudentT": lambda: dist.StudentT(4.0, torch.randn(2, 3, 4), torch.rand(2, 3, 4)),
    "Exponential": lambda: dist.Exponential(torch.rand(2, 3, 4)),
    "Laplace": lambda: dist.Laplace(torch.randn(2, 3, 4), 1.0),
    "Bernoulli, logits": lambda: dist.Bernoulli(logits=torch.randn(2, 3, 4)),
    "Bernoulli, probs": lambda: dist.Bernoulli(torch.rand(2, 3, 4)),
    "Binomial": lambda: dist.Binomial(torch.full((2, 3, 4), 5.0), logits=torch.randn(2, 3, 4)),
    "NegativeBinomial": lambda: dist.NegativeBinomial(torch.rand(2, 3, 4), logits=torch.randn(2, 3, 4)),
    "Poisson": lambda: dist.Poisson(torch.rand(2, 3, 4)),
    "Dirichlet": lambda: dist.Dirichlet(torch.rand(2, 3, 1, 5)).expand([2, 3, 4]),
    "MultivariateNormal, factor": lambda: dist.MultivariateNormal(
        torch.randn(2, 3, 4, 2), scale_tril=torch.tensor([[1.0, 0.0], [0.5, 2.0]])
    ),
    "MultivariateNormal, covariance": lambda: dist.MultivariateNormal(
        torch.zeros(2), torch.eye(2) + torch.rand(2, 3, 4, 1, 1)
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_an_axis_is_taken_off_a_distribution(name: str) -> None:
    """The density is that of the first entry along the axis, and the sizes of the others stay."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = TAKEN[name]()
        value = whole.sample()
    axis = 1 - len(whole.shape())  # the one of size 3
    made = without_axes(whole, [Axis(axis, 3)])
    assert type(made) is type(whole)
    part = value.select(axis, 0)
    everywhere = part.unsqueeze(axis).expand(value.shape)
    expected = whole.log_prob(everywhere)
    if expected.dim() >= 2 and expected.shape[1] == 3:
        torch.testing.assert_close(made.log_prob(part), expected.select(1, 0))
    else:
        base = whole.base_dist.log_prob(everywhere).select(1, 0)
        torch.testing.assert_close(made.log_prob(part).sum(), base.sum())


def test_a_distribution_that_is_more_than_its_parameters_keeps_its_axis() -> None:
    mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(3, 2)), dist.Normal(torch.zeros(3, 2), 1.0))
    assert without_axes(mixture, [Axis(-1, 3)]) is None
    assert without_axes(dist.LKJCholesky(2, torch.ones(3)), [Axis(-3, 3)]) is None


def test_a_theta_that_keeps_its_axis_is_fitted_all_the_same() -> None:
    def model(county: Tensor, floor: Tensor, y: Tensor | None = None) -> None:
        eta = pyro.sample("eta", dist.LogNormal(0.0, 1.0))
        with pyro.plate("county", len(county.unique())):
            L = pyro.sample("L", dist.LKJCholesky(2, eta))
        with pyro.plate("houses", len(county)):
            pyro.sample("y", dist.Normal(L[county, 1, 0] * floor, 1.0), obs=y)

    def task(eta: Tensor, x: Tensor, y: Tensor | None = None, *, uranium: Tensor) -> Tensor:
        L = pyro.sample("L", dist.LKJCholesky(2, eta))
        return pyro.sample("y", dist.Normal(L[1, 0] * x[:, 0], 1.0).to_event(1), obs=y)

    by_hand = Hierarchy(lambda: pyro.sample("eta", dist.LogNormal(0.0, 1.0)), task).program(houses())
    program = Hierarchy.from_plated(model, "county").program(houses())
    assert program.structure.theta.items[0].shape == (1, 2, 2)
    u, v = (torch.tensor([value], dtype=torch.float64) for value in (0.4, 0.2))
    row = Row.of(houses().padded()[0])
    with quiet_pyro():
        found, expected = (
            p.over_tasks(lambda row, p=p: p.log_joint(p.phi(u).returned, v, row))(row) for p in (program, by_hand)
        )
    torch.testing.assert_close(found, expected)


def test_constants_are_known_under_every_transform() -> None:
    index = constant(lambda: torch.tensor([0, 2, 2]))

    def f(theta: Tensor) -> Tensor:
        size = len(np.unique(index)) + int(index.max()) + index.max().item()
        return (theta[index] * size).sum()

    theta = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    expected = torch.tensor([6.0, 0.0, 12.0], dtype=torch.float64)
    torch.testing.assert_close(torch.func.grad(f)(theta), expected)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(f))(theta.expand(2, -1))[1], expected)
    graph: Any = make_fx(torch.func.grad(f))(theta)
    torch.testing.assert_close(graph(theta), expected)
    assert type(theta[index]) is Tensor


def test_the_models_run_in_plain_pyro_as_well() -> None:
    """They are ordinary models: nothing of the library is in them."""
    tasks, eight = houses(), schools_tasks()
    one = traced(radon, tasks.task_index, tasks.x[:, 0], tasks.y)
    two = traced(schools, 8, eight.context["sigma"], eight.y)
    assert one.nodes["alpha"]["value"].shape == (5,)
    assert two.nodes["theta"]["value"].shape == (8,)


def test_the_joint_density_is_that_of_the_model_itself() -> None:
    """Σ_t log p(y_t, θ_t | φ) + log p(φ) against a trace of the plain model on all the data."""
    pair, tasks = PAIRS["radon"](), houses()
    program = programs("radon")[0]
    values = {"mu": 0.3, "tau": 0.8, "beta": -0.6, "sigma": 0.9}
    alpha = torch.linspace(-1.0, 1.5, len(tasks), dtype=torch.float64)
    data = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()} | {"alpha": alpha}
    with quiet_pyro():
        expected = traced(pair.model, tasks.task_index, tasks.x[:, 0], tasks.y, **data).log_prob_sum()
        phi = program.phi_at({name: data[name] for name in values})
        found = phi.log_prior
        for value, task in zip(alpha, tasks, strict=True):
            row = Row(task.x, task.y, torch.ones(task.n, dtype=torch.bool), dict(task.context))
            found = found + program.log_joint(phi.returned, value.reshape(1), row)
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:the draws are")
def test_joint_sampling_of_a_plated_model() -> None:
    pair = PAIRS["schools"]()
    inference = bm.NUTS(draws=20, tune=40, chains=2, compile=False, evidence="joint", max_treedepth=4)
    posterior = bm.fit(pair.plated, pair.tasks, inference, progress=False)
    assert isinstance(posterior.collapsed, Joint)
    assert posterior.theta["theta"].shape[-1] == 8
