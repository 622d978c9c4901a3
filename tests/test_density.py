"""The density against Pyro's own potential; compiled, traced and eager alike; data as inputs; loud fallbacks."""

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor
from torch.utils import _pytree as pytree

import bayesmeta as bm
from bayesmeta import density as density_module
from bayesmeta import shelf
from bayesmeta.density import Density, compiler_found, record
from bayesmeta.errors import BayesmetaError, BayesmetaWarning
from bayesmeta.evidence import Collapsed, Exact, Joint, choose
from bayesmeta.fit import log_density
from bayesmeta.program import Program
from bayesmeta.sites import quiet_pyro
from bayesmeta.target import Target
from bayesmeta.threads import one_thread
from tests.evidences import GALLERY, HARD, differences, gallery, hierarchy_of, ragged
from tests.scenarios import SCENARIOS
from tests.test_hierarchy import branching, hyperprior, task, tasks

NAMES = sorted(path.stem for path in Path(GALLERY).glob("*.py") if not shelf.is_network(path))
Potential = Callable[[dict[str, Tensor]], Tensor]


def points(dim: int, count: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64)


def centred(name: str) -> tuple[Program, Density, bm.Tasks]:
    """The joint density of a gallery model, θ as it is, uncompiled."""
    model = gallery(name)
    tasks = model.load()
    program = model.hierarchy.program(tasks)
    return program, log_density(Joint(program, tasks, centring=True), compile=False), tasks


def by_site(program: Program, tasks: bm.Tasks, u: Tensor) -> dict[str, Tensor]:
    """Coordinates by site, θ sites with the task axis in front, as Pyro has them."""
    structure = program.structure
    v = u[structure.phi.size :].reshape(len(tasks), structure.theta.size)
    parts = v.split([site.size for site in structure.theta], 1)
    theta = {
        site.name: part.reshape(len(tasks), *site.unconstrained_shape)
        for site, part in zip(structure.theta, parts, strict=True)
    }
    return structure.phi.split(u[: structure.phi.size]) | theta


def pyros(model: Callable[[], Any]) -> Potential:
    with quiet_pyro(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        potential: Potential = initialize_model(model)[1]
    return potential


def same_as_pyro(density: Density, program: Program, tasks: bm.Tasks, potential: Potential) -> None:
    """Value and gradient to 1e-10 at some points; the potential of another point is told apart."""
    for u in points(density.dim):
        leaf = u.clone().requires_grad_(True)
        with quiet_pyro():
            expected = -potential(by_site(program, tasks, leaf))
            (slope,) = torch.autograd.grad(expected, leaf)
        expected = expected.detach()
        value, gradient = density.value_and_grad(u)
        assert float((value - expected).abs() / expected.abs()) < 1e-10
        assert float((gradient - slope).abs().max() / slope.abs().max()) < 1e-10
        assert float((density(1.01 * u) - expected).abs() / expected.abs()) > 1e-8


# ---------------------------------------------------------------------------------------------------------
# Pyro's own potential. The plated versions are written by hand, as a Pyro user would write them.


def plated_eight_schools(schools: bm.Tasks) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", 8):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, schools.context["sigma"]), obs=schools.y)


def plated_radon(counties: bm.Tasks) -> None:
    mu_alpha = pyro.sample("mu_alpha", dist.Normal(0.0, 10.0))
    gamma = pyro.sample("gamma", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 10.0))
    sigma_alpha = pyro.sample("sigma_alpha", dist.HalfNormal(1.0))
    sigma_y = pyro.sample("sigma_y", dist.HalfNormal(1.0))
    with pyro.plate("county", len(counties)):
        alpha = pyro.sample("alpha", dist.Normal(mu_alpha + gamma * counties.context["log_uranium"], sigma_alpha))
    with pyro.plate("house", counties.n_observations):
        mean = alpha[counties.task_index] + beta * counties.x[:, 0]
        pyro.sample("y", dist.Normal(mean, sigma_y), obs=counties.y)


def plated_sleepstudy(people: bm.Tasks) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.tensor([250.0, 10.0]), torch.tensor([100.0, 20.0])).to_event(1))
    tau = pyro.sample("tau", dist.HalfNormal(torch.tensor([50.0, 20.0])).to_event(1))
    factor = pyro.sample("L", dist.LKJCholesky(2, 2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(50.0))
    with pyro.plate("person", len(people)):
        theta = pyro.sample("theta", dist.MultivariateNormal(mu, scale_tril=torch.diag(tau) @ factor))
    with pyro.plate("row", people.n_observations):
        own = theta[people.task_index]
        pyro.sample("y", dist.Normal(own[:, 0] + own[:, 1] * people.x, sigma), obs=people.y)


def plated_baseball(batters: bm.Tasks) -> None:
    mu = pyro.sample("mu", dist.Normal(-1.0, 1.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    with pyro.plate("batter", len(batters)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Binomial(batters.x, logits=theta), obs=batters.y)


PLATED: dict[str, Callable[[bm.Tasks], None]] = {
    "baseball": plated_baseball,
    "eight_schools": plated_eight_schools,
    "radon": plated_radon,
    "sleepstudy": plated_sleepstudy,
}


@pytest.mark.parametrize("name", sorted(PLATED))
def test_the_density_is_pyros_of_the_model_plated_by_hand(name: str) -> None:
    program, density, tasks = centred(name)
    same_as_pyro(density, program, tasks, pyros(lambda: PLATED[name](tasks)))


@pytest.mark.parametrize("name", NAMES)
def test_the_density_is_pyros_of_the_joint_model(name: str) -> None:
    program, density, tasks = centred(name)
    same_as_pyro(density, program, tasks, pyros(gallery(name).hierarchy.joint(tasks)))


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_standardised_coordinates_have_the_density_of_the_centred_ones_and_their_jacobian(name: str) -> None:
    scenario = SCENARIOS[name]()
    program, tasks = scenario.hierarchy.program(scenario.tasks), scenario.tasks
    plain, moved = Joint(program, tasks, centring=True), Joint(program, tasks)
    by_plain, by_moved = (log_density(evidence, compile=False) for evidence in (plain, moved))
    q, p = program.structure.phi.size, program.structure.theta.size

    def centre(u: Tensor) -> Tensor:
        """The centred coordinates of standardised ones."""
        with quiet_pyro():
            phi = program.phi(u[:q])
            theta = moved.theta(phi, u[q:].reshape(len(tasks), p), moved.data)["theta"]
            support = next(iter(program.structure.theta)).support
            return torch.cat([u[:q], torch.distributions.biject_to(support).inv(theta).reshape(-1)])

    for u in points(by_moved.dim):
        jacobian = torch.linalg.slogdet(torch.func.jacrev(centre)(u)).logabsdet
        torch.testing.assert_close(by_moved(u), by_plain(centre(u)) + jacobian, rtol=1e-10, atol=1e-10)
        if name != "beta_binomial":  # never standardised
            assert abs(float(jacobian)) > 1e-3


def test_the_collapsed_density_is_the_joint_one_integrated() -> None:
    """log p(φ) + Σ log Z, with log Z by hand."""
    for name in ("normal_normal", "log_normal"):
        scenario = SCENARIOS[name]()
        program = scenario.hierarchy.program(scenario.tasks)
        density = log_density(_collapsed(program, scenario.tasks), compile=False)
        assert scenario.log_prior is not None
        for u in points(density.dim):
            mu, tau = float(u[0]), float(u[1].exp())
            values = {"mu": mu, "tau": tau}
            expected = float(scenario.log_prior(values)) + float(u[1])
            expected += sum(float(scenario.log_z(values, one)) for one in scenario.tasks)
            assert float(density(u)) == pytest.approx(expected, rel=1e-10)


def _collapsed(program: Program, tasks: bm.Tasks) -> Collapsed:
    evidence = choose(program, tasks)
    assert not isinstance(evidence, Joint)
    return evidence


# ---------------------------------------------------------------------------------------------------------
# Three ways to evaluate one density


def evidences(name: str) -> list[Collapsed | Joint]:
    """Each kind of evidence that a gallery model has, of its first eight tasks: a graph of more is no other."""
    model = gallery(name)
    tasks = model.load()[:8]
    program = model.hierarchy.program(tasks)
    found = choose(program, tasks)
    if isinstance(found, Joint):
        return [found]
    few = [Exact(program, tasks)] if name == "eight_schools" else []  # it is slow to record
    return [found, *few, Joint(program, tasks)]


def alike(name: str, compile: bool) -> None:
    for evidence in evidences(name):
        fast = log_density(evidence, compile=compile)
        assert fast.mode == ("compiled" if compile else "traced")
        slow = eager(evidence)
        assert slow.mode == "eager"
        for u in points(fast.dim):
            value, gradient = fast.value_and_grad(u)
            expected, slope = slow.value_and_grad(u)
            assert (value.shape, gradient.shape) == ((), (fast.dim,))
            assert float((value - expected).abs()) <= 1e-10 * (1 + float(expected.abs()))
            assert float((gradient - slope).abs().max()) <= 1e-10 * (1 + float(slope.abs().max()))
        assert float((fast(points(fast.dim)[0]) - slow(points(slow.dim)[1])).abs()) > 1e-6


def eager(evidence: Collapsed | Joint) -> Density:
    """The same density without a graph."""
    traced = log_density(evidence, compile=False)
    leaves, _ = pytree.tree_flatten(evidence.data)
    return Density(traced._fn, traced.dim, leaves, trace=False)


@pytest.mark.parametrize("name", NAMES)
def test_the_traced_graph_is_the_eager_density(name: str) -> None:
    alike(name, compile=False)


def test_the_compiled_graph_is_the_eager_density() -> None:
    alike("eight_schools", compile=True)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"eight_schools"}))
def test_the_compiled_graph_of_each_gallery_model_is_the_eager_density(name: str) -> None:
    alike(name, compile=True)


def test_the_gradient_is_that_of_finite_differences() -> None:
    for evidence in evidences("eight_schools"):
        density = log_density(evidence, compile=False)
        (u,) = points(density.dim, 1)
        expected = differences(lambda u, density=density: float(density(u)), u)  # type: ignore[misc]
        torch.testing.assert_close(density.value_and_grad(u)[1], expected, rtol=1e-8, atol=1e-8)


def test_data_whose_covariance_is_factored_inside_the_task_can_be_recorded() -> None:
    tasks = ragged()
    program = hierarchy_of(HARD["correlated-errors"]).program(tasks)
    density = log_density(choose(program, tasks), compile=False)
    assert density.mode == "traced"
    (u,) = points(density.dim, 1)
    expected = differences(lambda u: float(density(u)), u)
    torch.testing.assert_close(density.value_and_grad(u)[1], expected, rtol=1e-8, atol=1e-8)


# ---------------------------------------------------------------------------------------------------------
# The graph holds no data


def graph_of(evidence: Collapsed | Joint) -> tuple[str, tuple[Tensor, ...]]:
    density = log_density(evidence, compile=False)
    data = pytree.tree_flatten(evidence.data)[0]
    graph, folded = record(density._fn, density.dim, data)
    inputs = folded.inputs(data)
    return graph.code, inputs


@pytest.mark.parametrize("road", ["gram", "exact", "joint"])
def test_two_data_sets_of_one_shape_have_one_graph(road: str) -> None:
    make: dict[str, Callable[[Program, bm.Tasks], Collapsed | Joint]] = {
        "gram": _collapsed,
        "exact": Exact,
        "joint": Joint,
    }
    codes, inputs = [], []
    for seed in (0, 1):
        data = ragged(sizes=(4, 2, 5, 3), seed=seed)
        program = bm.Hierarchy(hyperprior, task).program(data)
        code, constants = graph_of(make[road](program, data))
        codes.append(code)
        inputs.append(constants)
    assert codes[0] == codes[1]
    assert [tensor.shape for tensor in inputs[0]] == [tensor.shape for tensor in inputs[1]]
    assert any(not torch.equal(a, b) for a, b in zip(*inputs, strict=True))


@pytest.mark.parametrize("trace", [True, False])
def test_a_density_takes_other_data_of_the_same_shapes(trace: bool) -> None:
    first, second = (ragged(sizes=(4, 2, 5, 3), seed=seed) for seed in (0, 1))
    program = bm.Hierarchy(hyperprior, task).program(first)
    made = [Target(Exact(program, data)) for data in (first, second)]
    densities = [Density(target.fn, target.dim, target.leaves, compile=False, trace=trace) for target in made]
    (u,) = points(densities[0].dim, 1)

    moved = densities[0].on(made[1].leaves)

    torch.testing.assert_close(moved(u), densities[1](u), rtol=1e-13, atol=0.0)
    assert not torch.equal(moved(u), densities[0](u))
    with pytest.raises(BayesmetaError, match="cannot take"):
        moved.on(Target(Exact(program, ragged(sizes=(4, 2), seed=0))).leaves)


def test_a_number_read_from_the_data_would_be_seen_in_the_graph() -> None:
    """What the test above looks for: here it is."""

    def code(y: Tensor) -> str:
        number = float(y.sum())
        return record(lambda u: (u * number).sum(), 2, ())[0].code

    assert code(torch.ones(3, dtype=torch.float64)) != code(torch.zeros(3, dtype=torch.float64))


def test_what_does_not_depend_on_the_parameters_is_computed_once() -> None:
    calls = torch.linspace(1.0, 2.0, 5, dtype=torch.float64)

    def fn(u: Tensor, y: Tensor) -> Tensor:
        return (u.sum() - y.exp().sin().sum() + calls.cos().prod()).square() * -0.5

    graph, folded = record(fn, 2, (calls,))
    inputs = folded.inputs((calls,))
    names = {str(node.target).split(".")[1] for node in graph.graph.nodes if node.op == "call_function"}
    assert "sum" in names
    assert not names & {"exp", "sin", "cos", "prod"}
    assert not [node for node in graph.graph.nodes if node.op == "get_attr"]
    u = torch.tensor([0.3, -0.2], dtype=torch.float64)
    value, gradient = graph(u, *inputs)
    torch.testing.assert_close(value, fn(u, calls))
    torch.testing.assert_close(gradient, torch.func.grad(fn)(u, calls))


def test_a_gradient_that_is_constant_comes_out_too() -> None:
    slope = torch.tensor([2.0, -3.0], dtype=torch.float64)
    density = Density(lambda u, slope: (slope * u).sum(), 2, (slope,), compile=False)
    value, gradient = density.value_and_grad(torch.tensor([1.0, 1.0], dtype=torch.float64))

    assert float(value) == -1.0
    assert torch.equal(gradient, slope)


# ---------------------------------------------------------------------------------------------------------
# Fallbacks, each said


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Whether there is a compiler is asked anew, and again after the test."""
    compiler_found.cache_clear()
    yield
    compiler_found.cache_clear()


def parabola(u: Tensor) -> Tensor:
    return -0.5 * u.square().sum()


@pytest.mark.usefixtures("forgotten")
def test_without_a_compiler_the_recorded_graph_runs_and_that_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.warns(BayesmetaWarning, match=r"no C\+\+ compiler was found.*several times slower"):
        density = Density(parabola, 3)
    assert density.mode == "traced"
    assert float(density(torch.ones(3, dtype=torch.float64))) == -1.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Density(parabola, 3).mode == "traced"


@pytest.mark.usefixtures("forgotten")
def test_nothing_is_said_about_a_missing_compiler_that_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert Density(parabola, 3, compile=False).mode == "traced"


def test_a_compiler_that_fails_leaves_the_recorded_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Any:
        raise OSError("g++: cannot execute cc1plus")

    monkeypatch.setattr(density_module, "compiled", broken)
    monkeypatch.setattr(density_module, "compiler_found", lambda: True)
    with pytest.warns(BayesmetaWarning, match="cannot be compiled and runs as it was recorded.*cc1plus"):
        density = Density(parabola, 3)
    assert density.mode == "traced"
    assert float(density(torch.ones(3, dtype=torch.float64))) == -1.5


def test_a_density_that_branches_on_values_runs_eagerly() -> None:
    def kinked(u: Tensor) -> Tensor:
        return -u.square().sum() if u.sum() > 0 else -2 * u.square().sum()

    with pytest.warns(BayesmetaWarning, match="cannot be recorded and runs eagerly, much slower"):
        density = Density(kinked, 2)
    assert density.mode == "eager"
    for sign, expected in ((1.0, -2.0), (-1.0, -4.0)):
        value, gradient = density.value_and_grad(torch.full((2,), sign, dtype=torch.float64))
        assert float(value) == expected
        torch.testing.assert_close(gradient, torch.full((2,), sign * expected, dtype=torch.float64))


def branching_on_phi(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
    """The same as `task`, by a branch on φ."""
    mu, tau = phi
    return task((mu, tau), x, y) if mu > 0 else task((1 * mu, tau), x, y)


def branching_prior() -> tuple[Tensor, Tensor]:
    mu, tau = hyperprior()
    return (mu, tau) if mu > 0 else (1 * mu, tau)


@pytest.mark.parametrize(
    ("prior", "function"),
    [(hyperprior, branching), (hyperprior, branching_on_phi), (branching_prior, task)],
    ids=["on-data", "on-phi", "in-the-hyperprior"],
)
def test_a_hierarchy_that_branches_on_values_has_the_right_density(
    prior: Callable[[], Any], function: Callable[..., Any]
) -> None:
    data = tasks()
    with pytest.warns(BayesmetaWarning, match=r"cannot be vectorised.*use torch\.where"):
        program = bm.Hierarchy(prior, function).program(data)
    plain = bm.Hierarchy(hyperprior, task).program(data)
    for make in (_collapsed, Exact, Joint):
        looped = log_density(make(program, data))
        mapped = log_density(make(plain, data), compile=False)
        assert looped.mode == "eager"
        for u in points(looped.dim):
            for mine, theirs in zip(looped.value_and_grad(u), mapped.value_and_grad(u), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


# ---------------------------------------------------------------------------------------------------------
# Global state and threads


def state() -> tuple[Any, ...]:
    checks = torch.distributions.Distribution._validate_args
    return torch.get_default_dtype(), checks, torch.get_num_threads(), torch.is_grad_enabled()


@pytest.mark.parametrize("trace", [True, False])
def test_a_density_leaves_global_state_as_it_was(trace: bool) -> None:
    seen = []

    def fn(u: Tensor) -> Tensor:
        seen.append((torch.tensor(0.5).dtype, torch.distributions.Distribution._validate_args))
        return parabola(u)

    before = state()
    density = Density(fn, 2, compile=False, trace=trace)
    assert state() == before
    density(torch.zeros(2, dtype=torch.float64))
    assert state() == before
    assert seen[0] == (torch.float64, False)
    assert len(seen) == 1


@pytest.mark.parametrize("trace", [True, False])
def test_a_user_function_that_raises_leaves_global_state_as_it_was(trace: bool) -> None:
    def fn(u: Tensor) -> Tensor:
        raise ZeroDivisionError("in the user's function")

    before = state()
    with pytest.raises(ZeroDivisionError, match="in the user's function"):
        Density(fn, 2, trace=trace).value_and_grad(torch.zeros(2, dtype=torch.float64))
    assert state() == before


def test_one_thread_while_densities_are_evaluated() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError, match="division"), one_thread():
            1 / 0  # noqa: B018
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("trace", [True, False])
def test_a_density_is_evaluated_by_several_threads_at_once(trace: bool) -> None:
    tasks = ragged()
    program = bm.Hierarchy(hyperprior, task).program(tasks)
    density = log_density(Joint(program, tasks), compile=False)
    density = density if trace else eager(Joint(program, tasks))
    at = points(density.dim, 20)
    expected = [density.value_and_grad(u) for u in at]
    found: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def work(k: int) -> None:
        found[k] = [density.value_and_grad(u) for u in at]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for pairs in found.values():
        for mine, theirs in zip(pairs, expected, strict=True):
            assert torch.equal(mine[0], theirs[0])
            assert torch.equal(mine[1], theirs[1])
    assert np.all([np.isfinite(float(value)) for value, _ in expected])
