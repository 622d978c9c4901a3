"""Networks with weights of a task's own: the linear one against algebra, fits of small ones, options."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

import bayesmeta as bm
from bayesmeta.errors import HierarchyError, OptionError
from bayesmeta.evidence import Gram, choose
from bayesmeta.families import bnn
from bayesmeta.program import Row
from bayesmeta.sites import quiet_pyro


def network(hidden: int = 6, inputs: int = 1, outputs: int = 1) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs))


def curves(count: int, shots: int, seed: int = 0) -> bm.Tasks:
    """Bent lines that differ in height and in where they bend."""
    generator = torch.Generator().manual_seed(seed)
    height, place = 1 + 0.3 * torch.randn(2, count, 1, generator=generator)
    x = 3 * torch.rand(count, shots, generator=generator) - 1.5
    y = height * torch.tanh(2 * x - place + 1) + 0.1 * torch.randn(count, shots, generator=generator)
    return bm.Tasks.from_arrays(x, y, names=[f"{seed}-{k}" for k in range(count)])


def test_a_network_without_a_hidden_layer_is_a_linear_model() -> None:
    """It is found to be one, and its evidence is that of the definition."""
    tasks = bm.Tasks.from_lists([[0.0, 1.0, 2.0], [1.0]], [[1.0, 0.5, 2.0], [0.0]])
    with torch.random.fork_rng(devices=[]):
        hierarchy = bnn(nn.Linear(1, 1), scale=2.0)
    program = hierarchy.program(tasks)
    evidence = choose(program, tasks)
    assert isinstance(evidence, Gram)
    with quiet_pyro():
        phi = program.phi(torch.linspace(-0.5, 0.5, program.structure.phi.size))
        found = evidence.per_task(phi, evidence.data)
    value = phi.values
    mean = torch.cat([value["mean.bias"], value["mean.weight"][0]])
    sd = torch.cat([value["vary.bias"], value["vary.weight"][0]])

    for t, task in enumerate(tasks):
        x = 2.0 * torch.stack([torch.ones_like(task.x), task.x], 1)
        noise = value["sigma"].square() * torch.eye(task.n, dtype=torch.float64)
        law = MultivariateNormal(x @ mean, x @ torch.diag(sd.square()) @ x.T + noise)
        torch.testing.assert_close(found[t], law.log_prob(task.y))


def test_priors_are_those_of_the_docstring() -> None:
    """log p(φ) and log p(θ | φ) of a small network, by hand."""
    from torch.distributions import LogNormal, Normal

    tasks = curves(3, 4)
    program = bnn(network(4), vary=0.5, noise=0.2).program(tasks)
    sizes = {"0.weight": (4, 1, 1.0), "0.bias": (4, None, 1.0), "2.weight": (1, 4, 0.5), "2.bias": (1, None, 0.5)}
    with quiet_pyro():
        phi = program.phi(torch.linspace(-1.0, 1.0, program.structure.phi.size))
        met = program.meet(phi.returned, torch.linspace(-1.0, 1.0, 13), _row(tasks[0]))
    prior, theta = torch.zeros(()).double(), torch.zeros(()).double()
    for path, (_, _, width) in sizes.items():
        mean, vary = phi.values[f"mean.{path}"], phi.values[f"vary.{path}"]
        prior = prior + Normal(0.0, width).log_prob(mean).sum() + vary.log().sum()
        prior = prior + LogNormal(math.log(0.5 * width), 1.0).log_prob(vary).sum()
        theta = theta + Normal(mean, vary).log_prob(met[f"net.{path}"].value).sum()

    assert set(phi.values) == {f"{what}.{path}" for what in ("mean", "vary") for path in sizes}
    torch.testing.assert_close(phi.log_prior, prior)
    torch.testing.assert_close(torch.stack([met[f"net.{path}"].log_prob() for path in sizes]).sum(), theta)


def _row(task: bm.Task) -> Row:
    return Row(task.x, task.y, torch.ones(task.n, dtype=torch.bool), dict(task.context))


@pytest.mark.parametrize(
    ("likelihood", "outputs", "y"),
    [("bernoulli", 1, [1.0, 0.0, 1.0]), ("poisson", 1, [3.0, 0.0, 7.0]), ("normal", 2, [[0.1, 2.0]] * 3)],
)
def test_other_observations(likelihood: Any, outputs: int, y: Any) -> None:
    tasks = bm.Tasks.from_lists([[[0.0, 1.0], [1.0, 0.5], [2.0, 0.0]]] * 2, [y] * 2)
    program = bnn(network(3, 2, outputs), inputs=2, likelihood=likelihood).program(tasks)
    with quiet_pyro():
        phi = program.phi(torch.zeros(program.structure.phi.size))
        value = program.log_joint(phi.returned, torch.zeros(program.structure.theta.size), _row(tasks[0]))

    assert program.structure.vectorised
    assert bool(torch.isfinite(value))
    assert ("sigma" in phi.values) == (likelihood == "normal")


def test_the_network_is_left_as_it_was() -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    bnn(net).program(curves(2, 3))

    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in net.parameters())


@pytest.mark.filterwarnings("ignore:k-hat is above")  # φ is a point: only how its evidence is sampled differs
def test_a_population_of_networks_is_learnt_and_adapted() -> None:
    """Curves of the population are learnt, and four observations of a new one tell the rest of it."""
    tasks, new = curves(8, 6), curves(4, 12, seed=9)
    svi = bm.SVI(guide="map", evidence="joint", steps=150, particles=2, draws=20, importance=False, tolerance=0.0)
    posterior = bm.fit(bnn(network(2)), tasks, svi, progress=False)
    support, query = new.split(4)
    errors = {}
    for name, some in (("support", support), ("population", new.split(0)[0])):
        predicted = posterior.adapt(some, method="laplace").predict(query)
        errors[name] = float((predicted.mean - query.y.reshape(4, -1)).square().mean())

    assert posterior.info.evidence == "joint"
    assert errors["population"] < 0.4
    assert errors["support"] < 0.5 * errors["population"]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"inputs": 0}, "inputs must be a whole number of at least 1, got 0"),
    ({"likelihood": "binomial"}, "unknown likelihood 'binomial'; valid: 'normal', 'bernoulli', 'poisson'"),
    ({"noise": "known"}, "noise must be 'learnt' or a number, got 'known'"),
    ({"noise": -1.0}, "noise must be above 0, got -1.0"),
    ({"vary": 0.0}, "vary must be above 0, got 0.0"),
    ({"likelihood": "poisson", "scale": 2.0}, "noise and scale are of Normal observations"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_what_is_wrong_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        bnn(network(), **options)


def test_a_network_that_takes_other_inputs() -> None:
    with pytest.raises(HierarchyError, match="the network does not take inputs of shape"):
        bnn(network(), inputs=3)
