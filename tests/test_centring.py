"""Degrees of centring: whatever they are, the density of θ is the same but for the Jacobian of its coordinates."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.reparam import LocScaleReparam
from torch import Tensor
from torch.distributions import biject_to

import bayesmeta as bm
from bayesmeta.centring import CENTRED, STANDARDISED, Centring, Degree, is_normal, place, place_log_prob
from bayesmeta.errors import BayesmetaWarning, HierarchyError, OptionError, UnknownNameError
from bayesmeta.evidence import Exact, Joint
from bayesmeta.likelihood import evidence_per_task, log_likelihood_rows
from bayesmeta.program import Row
from bayesmeta.sites import Values, quiet_pyro
from bayesmeta.target import Target
from tests.evidences import HARD, hierarchy_of, ragged
from tests.sbc_models import gaussian
from tests.scenarios import SCENARIOS, correlated, normal_normal
from tests.test_sites import ALL

Make = Callable[[], Any]

ROOT_2 = torch.tensor([[1.4, 0.0], [-0.7, 0.4]], dtype=torch.float64)
ROOT_3 = torch.tensor([[1.4, 0.0, 0.0], [-0.7, 0.4, 0.0], [0.3, 1.1, 2.0]], dtype=torch.float64)
NORMAL: dict[str, Make] = {
    "normal": lambda: dist.Normal(1.0, 2.0),
    "normal-vector": lambda: dist.Normal(torch.arange(3.0), 0.2).to_event(1),
    "normal-scales": lambda: dist.Normal(1.0, torch.tensor([0.1, 1.0, 9.0])).to_event(1),
    "multivariate": lambda: dist.MultivariateNormal(torch.arange(2.0), scale_tril=ROOT_2),
    "multivariate-3": lambda: dist.MultivariateNormal(torch.arange(3.0), scale_tril=ROOT_3),
    "multivariate-batch": lambda: dist.MultivariateNormal(torch.arange(8.0).reshape(4, 2), scale_tril=ROOT_2).to_event(
        1
    ),
    "log-normal": lambda: dist.LogNormal(0.5, 0.7),
    "log-normal-vector": lambda: dist.LogNormal(torch.arange(3.0), 0.7).to_event(1),
}
CENTRINGS: dict[str, Callable[[torch.Size], Centring]] = {
    "centred": lambda shape: CENTRED,
    "standardised": lambda shape: STANDARDISED,
    "half": lambda shape: 0.5,
    "by element": lambda shape: Degree(torch.rand(shape), torch.rand(shape)),
    "ends": lambda shape: Degree(torch.randint(2, shape).double(), torch.randint(2, shape).double()),
}


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    with quiet_pyro(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


# ---------------------------------------------------------------------------------------------------------
# One site


@pytest.mark.parametrize("how", CENTRINGS)
@pytest.mark.parametrize("name", NORMAL)
def test_coordinates_have_the_density_of_their_value_and_the_jacobian(name: str, how: str) -> None:
    fn = NORMAL[name]()
    shape = torch.Size(fn.shape())
    u, centring = torch.randn(shape), CENTRINGS[how](shape)
    placed = place(fn, u, centring)
    jacobian = torch.func.jacrev(lambda u: place(fn, u, centring).value)(u).reshape(u.numel(), u.numel())

    terms, log_jacobian = place_log_prob(fn, placed)
    ours = terms.sum() + (0.0 if log_jacobian is None else log_jacobian)
    expected = fn.log_prob(placed.value).sum() + torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NORMAL)
def test_the_ends_are_the_value_itself_and_standard_normal(name: str) -> None:
    fn = NORMAL[name]()
    u = torch.randn(torch.Size(fn.shape()))
    one, zero = torch.ones_like(u), torch.zeros_like(u)

    by_value = place(fn, u, CENTRED).value
    torch.testing.assert_close(by_value, biject_to(fn.support)(u))
    torch.testing.assert_close(place(fn, u, Degree(one, one)).value, by_value, rtol=1e-12, atol=1e-12)
    standard = place(fn, u, STANDARDISED)
    torch.testing.assert_close(place(fn, u, Degree(zero, zero)).value, standard.value)
    terms, log_jacobian = place_log_prob(fn, standard)
    assert log_jacobian is None
    torch.testing.assert_close(terms.sum(), dist.Normal(0.0, 1.0).log_prob(u).sum())


def test_a_batch_of_multivariate_normals_is_standardised_one_by_one() -> None:
    root = torch.tril(torch.randn(4, 2, 2)) + 3 * torch.eye(2)
    fn = dist.MultivariateNormal(torch.randn(4, 2), scale_tril=root).to_event(1)
    u = torch.randn(4, 2)
    expected = fn.base_dist.loc + (root @ u.unsqueeze(-1)).squeeze(-1)

    torch.testing.assert_close(place(fn, u, STANDARDISED).value, expected)


@pytest.mark.parametrize("degree", [0.2, 0.7])
def test_a_number_is_pyros_own_degree(degree: float) -> None:
    fn = dist.Normal(torch.tensor(3.0), torch.tensor(0.2))
    u = torch.tensor(0.7)
    reparam = pyro.poutine.reparam(config={"site": LocScaleReparam(centered=degree)})
    with pyro.poutine.trace() as tracer, reparam, pyro.poutine.condition(data={"site_decentered": u}):
        value = pyro.sample("site", fn)

    ours = place(fn, u, degree)
    torch.testing.assert_close(ours.value, value)
    inner: Any = tracer.trace.nodes["site_decentered"]
    torch.testing.assert_close(place_log_prob(fn, ours)[0], inner["fn"].log_prob(u))


@pytest.mark.parametrize("name", sorted(name for name in ALL if not is_normal(ALL[name]())))
def test_what_is_not_normal_is_always_centred(name: str) -> None:
    fn = ALL[name]()
    u = torch.randn(biject_to(fn.support).inverse_shape(torch.Size(fn.shape())))
    centred = place(fn, u, CENTRED)

    for centring in (STANDARDISED, 0.5):
        placed = place(fn, u, centring)
        torch.testing.assert_close(placed.value, centred.value)
        assert placed.centring == CENTRED
        for ours, theirs in zip(place_log_prob(fn, placed), place_log_prob(fn, centred), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("log_scale", [-2.0, -30.0, -200.0, -800.0])
@pytest.mark.parametrize("family", ["normal", "multivariate"])
def test_standardised_elements_have_finite_gradients_whatever_the_scale(family: str, log_scale: float) -> None:
    """-800: the scale underflows to zero."""
    degree = Degree(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 0.0]))

    def log_density(at: Tensor, u: Tensor, degree: Degree) -> Tensor:
        scale = at.exp().expand(2)
        fn: Any = dist.Normal(1.0, scale).to_event(1)
        if family == "multivariate":
            fn = dist.MultivariateNormal(torch.ones(2), scale_tril=torch.diag(scale))
        placed = place(fn, u, degree)
        return place_log_prob(fn, placed)[0].sum() - (placed.value - 2.0).square().sum()

    gradient = torch.func.grad(log_density, argnums=(0, 1))
    for part in gradient(torch.tensor(log_scale), torch.tensor([0.3, -1.0]), degree):
        assert bool(part.isfinite().all())
    # partly centred, it falls steeply as the scale goes to zero, but is a number down to e^-200
    if log_scale >= -200:
        partly = Degree(torch.tensor([0.3, 0.9]), torch.tensor([0.3, 0.9]))
        for part in gradient(torch.tensor(log_scale), torch.tensor([0.3, -1.0]), partly):
            assert bool(part.isfinite().all())


def test_a_site_under_a_scale_or_mask_is_centred_whatever_its_degree() -> None:
    def model() -> None:
        with pyro.poutine.scale(scale=2.0):
            pyro.sample("scaled", dist.Normal(1.0, 2.0))
        with pyro.poutine.mask(mask=False):
            pyro.sample("masked", dist.Normal(1.0, 2.0))
        pyro.sample("plain", dist.Normal(1.0, 2.0))

    u = {name: torch.tensor(0.5) for name in ("scaled", "masked", "plain")}
    handler = Values(u, centring=dict.fromkeys(u, 0.3))
    with handler:
        model()
    assert {name: met.placed.centring for name, met in handler.met.items() if met.placed is not None} == {
        "scaled": CENTRED,
        "masked": CENTRED,
        "plain": 0.3,
    }


# ---------------------------------------------------------------------------------------------------------
# Whole joint densities


def in_a_plate() -> bm.Hierarchy:
    """θ in a plate of the task, one that depends on another θ, and a positive one."""

    def hyperprior() -> dict[str, Tensor]:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        return {"mu": mu, "tau": pyro.sample("tau", dist.HalfNormal(1.0))}

    def task(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        rate = pyro.sample("rate", dist.LogNormal(phi["mu"], phi["tau"]))
        with pyro.plate("knots", 3):
            weights = pyro.sample("weights", dist.Normal(phi["mu"], rate))
        shape = pyro.sample("shape", dist.Gamma(2.0, 1.0))
        return pyro.sample("y", dist.Normal(weights.sum() + rate * x, shape).to_event(1), obs=y)

    return bm.Hierarchy(hyperprior, task)


def cases() -> dict[str, tuple[bm.Hierarchy, bm.Tasks]]:
    found = {name: (SCENARIOS[name]().hierarchy, SCENARIOS[name]().tasks) for name in ("normal_normal", "correlated")}
    found["log_normal"] = (SCENARIOS["log_normal"]().hierarchy, SCENARIOS["log_normal"]().tasks)
    return found | {"plate": (in_a_plate(), ragged()), "unpadded": (hierarchy_of(HARD["correlated-errors"]), ragged())}


CASES = cases()


@pytest.mark.parametrize("how", ["auto", "standardised", "number", "by task", "by element"])
@pytest.mark.parametrize("name", CASES)
def test_joint_densities_of_the_same_theta_agree_under_all_degrees(name: str, how: str) -> None:
    hierarchy, tasks = CASES[name]
    program = hierarchy.program(tasks)
    shapes = Joint(program, tasks, False).centring
    centring: dict[str, Any] = {
        "auto": "auto",
        "standardised": False,
        "number": 0.3,
        "by task": {site: torch.rand(len(tasks)) for site in shapes},
        "by element": {site: torch.rand(value.shape) for site, value in shapes.items()},
    }
    plain, moved = Joint(program, tasks, centring=True), Joint(program, tasks, centring[how])
    by_plain, by_moved = Target(plain), Target(moved)
    q, p = by_plain.q, program.structure.theta.size

    def centre(u: Tensor) -> Tensor:
        phi = program.phi(u[:q])
        theta = moved.theta(phi, u[q:].reshape(len(tasks), p), moved.data)
        parts = [
            biject_to(site.support).inv(theta[site.name]).reshape(len(tasks), -1) for site in program.structure.theta
        ]
        return torch.cat([u[:q], torch.cat(parts, 1).reshape(-1)])

    for _ in range(2):
        u = torch.randn(by_moved.dim)
        jacobian = torch.linalg.slogdet(torch.func.jacrev(centre)(u)).logabsdet
        ours, theirs = by_moved.fn(u, *by_moved.leaves), by_plain.fn(centre(u), *by_plain.leaves)
        torch.testing.assert_close(ours, theirs + jacobian, rtol=1e-10, atol=1e-10)
        assert abs(float(jacobian)) > 1e-3  # the check can fail


def test_each_task_has_its_own_degree() -> None:
    hierarchy, tasks = CASES["normal_normal"]
    program = hierarchy.program(tasks)
    ends = torch.tensor([0.0, 1.0] * 4)
    joint = Joint(program, tasks, {"theta": ends})
    v = torch.randn(8, 1)
    phi = program.phi(torch.tensor([3.0, -1.0]))
    theta = joint.theta(phi, v, joint.data)["theta"]

    expected = torch.where(ends == 1, v[:, 0], 3.0 + math.exp(-1) * v[:, 0])
    torch.testing.assert_close(theta, expected)
    torch.testing.assert_close(joint.centring["theta"], ends)


def test_degrees_are_constants_of_the_recorded_density() -> None:
    hierarchy, tasks = CASES["normal_normal"]
    program = hierarchy.program(tasks)
    nodes = {
        how: Target(Joint(program, tasks, centring)).density(compile=False).nodes
        for how, centring in (("centred", True), ("partly", 0.4), ("by task", {"theta": torch.rand(8)}))
    }
    assert nodes["by task"] == nodes["partly"]
    assert nodes["partly"] <= nodes["centred"] + 40


def test_a_recorded_density_serves_no_other_centring() -> None:
    hierarchy, tasks = CASES["normal_normal"]
    program = hierarchy.program(tasks)
    first = Target(Joint(program, tasks, False))
    recorded = first.density(compile=False)
    other = first.on(Joint(program, tasks, True))
    u = torch.randn(first.dim)

    assert first.on(Joint(program, tasks, False)).density(compile=False).value_and_grad(u)[0] == recorded(u)
    torch.testing.assert_close(other.density(compile=False)(u), other.fn(u, *other.leaves))
    assert abs(float(other.density(compile=False)(u) - recorded(u))) > 1e-3
    by_task = [Target(Joint(program, tasks, {"theta": torch.rand(8)})) for _ in range(2)]
    known = by_task[0].density(compile=False)
    again = by_task[0].on(by_task[1].evidence).density(compile=False)
    torch.testing.assert_close(again(u), by_task[1].fn(u, *by_task[1].leaves))
    assert abs(float(again(u) - known(u))) > 1e-3


def test_a_recorded_density_serves_no_other_order_of_tasks() -> None:
    """Two buckets of the same shapes: what is recorded knows where each row of them belongs."""
    y = [[float(t)] * (600 if t >= 12 else 1) for t in range(16)]
    mixed = [k for t in range(4) for k in (3 * t, 12 + t, 3 * t + 1, 3 * t + 2)]
    tasks = bm.Tasks.from_lists(None, y)
    program = gaussian().program(tasks)
    first, other = (Target(Joint(program, some, False)) for some in (tasks, tasks[mixed]))
    recorded, again = first.density(compile=False), first.on(other.evidence).density(compile=False)
    u = torch.linspace(-1.0, 1.0, first.dim)

    assert len(first.evidence.data) == 2
    assert [leaf.shape for leaf in first.leaves] == [leaf.shape for leaf in other.leaves]
    torch.testing.assert_close(again(u), other.fn(u, *other.leaves))
    assert abs(float(recorded.on(other.leaves)(u) - again(u))) > 1  # which the other one would not be
    first.on(Joint(program, tasks[:], False)).density(compile=False)
    assert len(first._recorded) == 2  # the same order needs no other


def test_a_density_recorded_with_observations_serves_no_tasks_without() -> None:
    """Rows made up for these may be impossible, here by a division by zero."""

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi, 1.0))
        drawn: Tensor = pyro.sample("y", dist.Normal(theta + 1 / x, 1.0).to_event(1), obs=y)
        return drawn

    hierarchy = bm.Hierarchy(gaussian().hyperprior, task)
    tasks = bm.Tasks.from_lists([[2.0], [3.0]], [[1.0], [4.0]])
    none = bm.Tasks.without_observations(["a", "b"], like=tasks)
    program = hierarchy.program(tasks)
    first, other = (Target(Exact(program, some)) for some in (tasks, none))
    recorded, again = first.density(compile=False), first.on(other.evidence).density(compile=False)

    assert math.isclose(float(again(torch.zeros(1))), -0.5 * math.log(2 * math.pi))
    assert math.isnan(float(recorded.on(other.leaves)(torch.zeros(1))))


def test_some_of_the_tasks_keep_their_degrees() -> None:
    hierarchy, tasks = CASES["correlated"]
    program = hierarchy.program(tasks)
    joint = Joint(program, tasks, {"theta": torch.rand(7, 2)})
    index = torch.tensor([5, 0, 3])
    part = joint.take(index)
    again = Joint(program, tasks[index], part.degrees)
    target, same = Target(part), Target(again)
    u = torch.randn(target.dim)

    torch.testing.assert_close(part.centring["theta"], joint.centring["theta"][index])
    torch.testing.assert_close(target.fn(u, *target.leaves), same.fn(u, *same.leaves))
    (batch,) = part.tasks.padded()
    torch.testing.assert_close(part.program.rows(batch).degrees["theta"].scale, part.centring["theta"])


def test_ends_throughout_are_numbers_which_makes_the_density_simpler() -> None:
    hierarchy, tasks = CASES["normal_normal"]
    program = hierarchy.program(tasks)
    for end in (0.0, 1.0):
        joint = Joint(program, tasks, {"theta": torch.full((8,), end)})
        assert joint.program.centring == {"theta": end}
        assert not joint.data[0].degrees
        assert torch.equal(joint.centring["theta"], torch.full((8,), end))
        assert ("centred" if end else "standardised (non-centred)") in joint.road
    assert (
        "theta partly centred (degree 0.20 to 0.90, median"
        in Joint(program, tasks, {"theta": torch.linspace(0.2, 0.9, 8)}).road
    )


@pytest.mark.parametrize(
    ("centring", "error", "message"),
    [
        (1.2, OptionError, r"centring of 'theta' must lie between 0 \(standardised\) and 1 \(centred\), got 1.2"),
        ({"theta": [0.1, 0.2]}, OptionError, r"shape \(2,\); wanted a number, one by task \(8,\)"),
        ({"theta": math.nan}, OptionError, "must lie between 0"),
        ({"thet": 0.5}, UnknownNameError, "unknown normal site of θ 'thet'; valid: 'theta'"),
        ("partly", OptionError, r"'auto', True, False, a number in \[0, 1\], or degrees by site, got 'partly'"),
    ],
)
def test_degrees_that_cannot_be_are_refused(centring: Any, error: type[Exception], message: str) -> None:
    hierarchy, tasks = CASES["normal_normal"]
    with pytest.raises(error, match=message):
        Joint(hierarchy.program(tasks), tasks, centring)


def test_a_site_that_is_not_normal_has_no_degree() -> None:
    hierarchy, tasks = CASES["plate"]
    program = hierarchy.program(tasks)

    assert set(Joint(program, tasks, 0.5).centring) == {"rate", "weights"}
    assert torch.equal(Joint(program, tasks, {"rate": 1.0}).centring["weights"], torch.zeros(4, 3))
    with pytest.raises(UnknownNameError, match="unknown normal site of θ 'shape'"):
        Joint(program, tasks, {"shape": 0.5})


def test_rows_without_degrees_are_refused() -> None:
    hierarchy, tasks = CASES["normal_normal"]
    program = Joint(hierarchy.program(tasks), tasks, {"theta": torch.rand(8)}).program
    (batch,) = tasks.padded()
    phi = program.returned(torch.zeros(2))
    with pytest.raises(
        HierarchyError, match=r"the coordinates of \['theta'\] have a degree.*take rows from program.rows"
    ):
        program.over_tasks(lambda v, row: program.log_joint(phi, v, row))(torch.zeros(8, 1), Row.of(batch))
    centred = program.with_centring(True)
    centred.over_tasks(lambda v, row: centred.log_joint(phi, v, row))(torch.zeros(8, 1), Row.of(batch))


# ---------------------------------------------------------------------------------------------------------
# A posterior in such coordinates


@pytest.fixture(scope="module")
def posterior() -> bm.Posterior:
    scenario = correlated()
    config = bm.NUTS(draws=15, tune=25, chains=2, evidence="joint", compile=False, max_treedepth=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BayesmetaWarning)  # so few draws are not fine
        return bm.fit(scenario.hierarchy, scenario.tasks, config, progress=False)


def joint_of(posterior: bm.Posterior) -> Joint:
    assert isinstance(posterior.collapsed, Joint)
    return posterior.collapsed


def test_a_fit_tells_what_it_chose(posterior: bm.Posterior) -> None:
    degrees = joint_of(posterior).centring["theta"]

    assert degrees.shape == (7, 2)
    assert 0 <= float(degrees.min()) < 0.5 < float(degrees.max()) <= 1
    assert "theta partly centred (degree 0.00 to" in posterior.info.road
    assert "by how much the data of each task say" in posterior.info.road


def test_theta_and_likelihood_are_those_of_the_values(posterior: bm.Posterior) -> None:
    """Against the densities by hand at the constrained values."""
    scenario = correlated()
    theta, phi = posterior.theta["theta"], posterior.phi
    s, t = 11, 4
    task = scenario.tasks[t]
    y = dist.Normal(task.x @ theta[s, t] + task.context["offset"], phi["sigma"][s]).log_prob(task.y)

    torch.testing.assert_close(evidence_per_task(posterior)[s, t], y.sum())
    rows = log_likelihood_rows(posterior)
    assert rows is not None
    start = int(scenario.tasks.offsets[t])
    torch.testing.assert_close(rows[s, start : start + task.n], y)


def test_the_densities_of_the_draws_are_those_of_the_sampler(posterior: bm.Posterior) -> None:
    target = Target(posterior.collapsed)
    lp = torch.as_tensor(posterior.draws.stats["lp"])
    torch.testing.assert_close(target.log_prob(posterior.draws.u[0, :5]), lp[0, :5])


def test_degrees_are_saved_with_the_draws(posterior: bm.Posterior, tmp_path: Path) -> None:
    posterior.save(tmp_path / "fit.nc")
    loaded = bm.load(tmp_path / "fit.nc", posterior.hierarchy)

    for ours, theirs in zip(joint_of(loaded).degrees["theta"], joint_of(posterior).degrees["theta"], strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(loaded.theta["theta"], posterior.theta["theta"])
    assert loaded.info.road == posterior.info.road
    tasks = posterior.tasks[[1, 4]]
    ours, theirs = (one.adapt(tasks, seed=3).theta["theta"] for one in (loaded, posterior))
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(ours.mean(0), posterior.theta["theta"][:, [1, 4]].mean(0))


def test_draws_saved_without_degrees_are_standardised() -> None:
    """As files written before there were degrees."""
    from bayesmeta.load import _joint

    scenario = normal_normal()
    import xarray as xr

    joint = _joint(
        scenario.hierarchy.program(scenario.tasks), scenario.tasks, {"unconstrained_posterior": xr.Dataset()}
    )
    assert torch.equal(joint.centring["theta"], torch.zeros(8))
