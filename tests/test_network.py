"""Networks as a part of φ: their sites and priors, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.families import Network
from bayesmeta.families.periodic import Periodic


def small() -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # torch fills layers from the global random state
        return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 3))


def linear(inputs: int, outputs: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return nn.Linear(inputs, outputs)


def sampled(network: Network) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trace: Any = poutine.trace(network.sample).get_trace()
    sites = {name: site["fn"] for name, site in trace.nodes.items() if site["type"] == "sample"}
    return trace.nodes["_RETURN"]["value"], sites


def test_each_parameter_is_a_site_with_a_prior_by_its_fan_in() -> None:
    _, sites = sampled(Network(small(), name="f", scale=2.0))

    base = {name: fn.base_dist for name, fn in sites.items()}
    assert list(base) == [f"f.{k}.{what}" for k in (0, 2, 3) for what in ("weight", "bias")]
    assert float(base["f.0.weight"].scale[0, 0]) == float(base["f.0.bias"].scale[0]) == 2 / math.sqrt(2)
    assert float(base["f.3.weight"].scale[0, 0]) == 2 / math.sqrt(4)
    assert base["f.2.weight"].loc.tolist() == [1.0] * 4
    assert base["f.2.weight"].scale.tolist() == [2.0] * 4


def test_it_is_the_module_with_other_weights() -> None:
    net = small()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    network = Network(net)
    weights, _ = sampled(network)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = small().double()
    other.load_state_dict(weights)

    torch.testing.assert_close(network(weights, x), other(x))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert (network.size, network.width((2,))) == (35, 3)
    assert "35 parameters in net.0.weight" in repr(network)


def test_tied_weights_are_one_site() -> None:
    layer = linear(2, 2)
    network = Network(nn.Sequential(layer, nn.Tanh(), layer))
    weights, _ = sampled(network)

    assert sorted(weights) == ["0.bias", "0.weight"]
    x = torch.ones(1, 2, dtype=torch.float64)
    by_hand = (x @ weights["0.weight"].mT + weights["0.bias"]).tanh() @ weights["0.weight"].mT + weights["0.bias"]
    torch.testing.assert_close(network(weights, x), by_hand)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2)), "1 is BatchNorm1d, which keeps statistics"),
        (nn.Sequential(nn.Linear(1, 2), nn.Dropout()), r"1 is Dropout, which is random: leave it out"),
        (nn.Sequential(nn.LazyLinear(2)), "0 is LazyLinear, whose parameters have no shape yet"),
        (nn.Sequential(nn.GRU(1, 2)), "0 is GRU, which torch cannot batch"),
        (lambda x: x, "net must be a torch.nn.Module, got function"),
    ],
)
def test_what_is_no_function_of_x_and_its_parameters_is_refused(net: nn.Module, message: str) -> None:
    with pytest.raises(bm.BayesmetaError, match=message):
        Network(net)


def test_other_errors() -> None:
    assert Network(nn.Sequential(linear(1, 2), nn.Dropout()).eval()).size == 4
    with pytest.raises(bm.BayesmetaError, match="scale must be a number above 0, got 0"):
        Network(small(), scale=0)
    with pytest.raises(bm.BayesmetaError, match=r"does not take inputs of shape \(2, 3\)"):
        Network(small()).width((3,))
    with pytest.raises(bm.BayesmetaError, match=r"must give \(n, features\) for x \(2, 2\), got \(2,\)"):
        Network(nn.Sequential(linear(2, 1), nn.Flatten(0))).width((2,))


def test_a_network_is_fitted_like_any_other_part_of_phi() -> None:
    network = Network(nn.Sequential(linear(1, 2), nn.Tanh()))

    def hyperprior() -> tuple[dict[str, Tensor], Tensor]:
        return network.sample(), pyro.sample("tau", dist.HalfNormal(1.0))

    def task(phi: tuple[dict[str, Tensor], Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        weights, tau = phi
        theta = pyro.sample("theta", dist.Normal(torch.zeros(2), tau).to_event(1))
        return pyro.sample("y", dist.Normal(network(weights, x) @ theta, 0.5).to_event(1), obs=y)

    tasks = bm.Tasks.from_arrays([[[0.0], [1.0], [2.0]]] * 3, [[0.0, 1.0, 0.5], [0.0, -1.0, -1.5], [0.1, 0.4, 1.0]])
    program = bm.Hierarchy(hyperprior, task).program(tasks)

    assert program.structure.phi.names == ("net.0.weight", "net.0.bias", "tau")
    assert program.structure.vectorised
    assert program.structure.maskable


def test_periodic_features() -> None:
    layer = Periodic(4, highest=2.0)
    x = torch.tensor([[0.3], [0.3 + 2 * math.pi / 0.5]])
    out = layer(x)

    assert out.shape == (2, 8)
    torch.testing.assert_close(out[0], out[1])
    torch.testing.assert_close(out[0, :4], torch.sin(0.3 * torch.tensor([0.5, 1.0, 1.5, 2.0])))
    assert Periodic(3, 2)(torch.zeros(7, 2)).shape == (7, 6)
    with pytest.raises(bm.BayesmetaError, match="count must be above 0 and whole, got 0"):
        Periodic(0)


def test_priors_depend_on_the_shape_of_a_layer_and_on_no_random_start() -> None:
    def priors(layer: Any, seed: int) -> dict[str, tuple[Tensor, float]]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Network(layer(), name="f").priors

    for layer in (lambda: nn.GRUCell(2, 3), lambda: nn.MultiheadAttention(4, 2), lambda: nn.Linear(2, 3)):
        one, two = priors(layer, 0), priors(layer, 1)
        assert all(torch.equal(one[name][0], two[name][0]) and one[name][1] == two[name][1] for name in one)
    assert priors(lambda: nn.GRUCell(2, 3), 0)["bias_ih"][1] == 1 / math.sqrt(2)
    assert priors(lambda: nn.ConvTranspose2d(64, 1, 3), 0)["weight"][1] == pytest.approx(1 / math.sqrt(64 * 9))
