"""Kernels: what every covariance function must be, and what each says it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.errors import OptionError
from bayesmeta.families.kernels import (
    Kernel,
    constant,
    deep,
    linear,
    matern52,
    periodic,
    rbf,
    spectral_mixture,
    squared_distance,
)
from bayesmeta.families.network import Network

KERNELS: dict[str, Callable[[], Kernel]] = {
    "rbf": rbf,
    "rbf, a lengthscale each": lambda: rbf(inputs=2),
    "matern52": matern52,
    "periodic": periodic,
    "periodic, a period each": lambda: periodic(inputs=2),
    "spectral mixture": lambda: spectral_mixture(3, inputs=2),
    "linear": linear,
    "linear, an amplitude each": lambda: linear(inputs=2),
    "constant": constant,
    "sum": lambda: matern52() + linear(),
    "product": lambda: periodic(amplitude=1.0) * rbf(),
    "deep": lambda: deep(net(), rbf() + linear()),
}
STATIONARY = ["rbf", "rbf, a lengthscale each", "matern52", "periodic", "spectral mixture", "constant", "product"]


def net(outputs: int = 12) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return nn.Sequential(nn.Linear(2, outputs), nn.Tanh())


def values_of(kernel: Kernel, seed: int = 0) -> dict[str, Any]:
    """Random hyperparameters and weights."""
    generator = torch.Generator().manual_seed(seed)

    def positive(shape: tuple[int, ...]) -> Tensor:
        return torch.exp(0.4 * torch.randn(shape, generator=generator, dtype=torch.float64))

    values: dict[str, Any] = {
        name: prior if isinstance(prior, float) else positive((*prior.batch_shape, *prior.event_shape))
        for name, prior in kernel.sites.items()
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return values | {name: network.sample() for name, network in kernel.networks.items()}


def inputs(n: int = 9, d: int = 2, seed: int = 1) -> Tensor:
    return 2 * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", KERNELS)
class TestEveryKernel:
    """The contract of a kernel."""

    def test_is_symmetric_and_positive_semidefinite(self, name: str) -> None:
        kernel, x = KERNELS[name](), inputs()
        matrix = kernel.matrix(values_of(kernel), x, x)

        assert matrix.dtype == torch.float64
        assert torch.allclose(matrix, matrix.mT, rtol=1e-12)
        assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-10 * float(matrix.diagonal().max())

    def test_has_its_variance_on_the_diagonal(self, name: str) -> None:
        kernel, x = KERNELS[name](), inputs()
        values = values_of(kernel)

        assert torch.allclose(kernel.variance(values, x), kernel.matrix(values, x, x).diagonal(), rtol=1e-12)

    def test_takes_other_inputs_in_columns(self, name: str) -> None:
        kernel, x = KERNELS[name](), inputs()
        values = values_of(kernel)
        matrix = kernel.matrix(values, x[:4], x[4:])

        assert matrix.shape == (4, 5)
        assert torch.allclose(matrix, kernel.matrix(values, x, x)[:4, 4:], rtol=1e-12)

    def test_has_a_finite_gradient_also_where_inputs_coincide(self, name: str) -> None:
        kernel = KERNELS[name]()
        values = values_of(kernel)
        x = torch.cat([inputs(4), inputs(4)]).requires_grad_(True)
        for site in kernel.sites:
            values[site] = torch.as_tensor(values[site], dtype=torch.float64).requires_grad_(True)
        kernel.matrix(values, x, x).sum().backward()

        assert all(bool(torch.isfinite(values[site].grad).all()) for site in kernel.sites)
        assert x.grad is None or bool(torch.isfinite(x.grad).all())

    def test_is_the_same_over_tasks_by_vmap(self, name: str) -> None:
        kernel, x = KERNELS[name](), torch.stack([inputs(seed=k) for k in range(3)])
        values = values_of(kernel)
        together = torch.func.vmap(lambda x: kernel.matrix(values, x, x))(x)

        assert torch.allclose(together, torch.stack([kernel.matrix(values, one, one) for one in x]), rtol=1e-12)


@pytest.mark.parametrize("name", STATIONARY)
def test_stationary_kernels_see_differences_only(name: str) -> None:
    kernel, x = KERNELS[name](), inputs()
    values = values_of(kernel)

    assert torch.allclose(kernel.matrix(values, x, x), kernel.matrix(values, x + 3.0, x + 3.0), rtol=1e-9)


def test_a_linear_kernel_is_not_stationary() -> None:
    x = inputs()

    assert not torch.allclose(
        linear(2.0).matrix({"linear_amplitude": 2.0}, x, x), linear(2.0).matrix({"linear_amplitude": 2.0}, x + 1, x + 1)
    )


@pytest.mark.parametrize(
    ("kernel", "values", "expected"),
    [
        (rbf(), {"rbf_lengthscale": 0.5, "rbf_amplitude": 2.0}, 4 * math.exp(-0.5 * 0.49 / 0.25)),
        (
            matern52(),
            {"matern_lengthscale": 0.5, "matern_amplitude": 2.0},
            4 * (1 + math.sqrt(5) * 1.4 + 5 * 1.4**2 / 3) * math.exp(-math.sqrt(5) * 1.4),
        ),
        (
            periodic(),
            {"periodic_period": 3.0, "periodic_lengthscale": 0.8, "periodic_amplitude": 2.0},
            4 * math.exp(-2 * math.sin(math.pi * 0.7 / 3) ** 2 / 0.64),
        ),
        (
            spectral_mixture(1),
            {"spectral_frequency": 0.3, "spectral_bandwidth": 0.2, "spectral_amplitude": 2.0},
            4 * math.exp(-2 * math.pi**2 * 0.49 * 0.04) * math.cos(2 * math.pi * 0.7 * 0.3),
        ),
        (linear(), {"linear_amplitude": 2.0}, 4 * 0.2 * 0.9),
        (constant(), {"constant_amplitude": 2.0}, 4.0),
    ],
    ids=["rbf", "matern52", "periodic", "spectral mixture", "linear", "constant"],
)
def test_each_is_its_formula(kernel: Kernel, values: dict[str, float], expected: float) -> None:
    a, b = torch.tensor([[0.2]], dtype=torch.float64), torch.tensor([[0.9]], dtype=torch.float64)

    assert float(kernel.matrix(values, a, b)) == pytest.approx(expected, rel=1e-12)


def test_a_matern_function_has_a_finite_second_derivative_in_the_lengthscale_where_inputs_coincide() -> None:
    x = torch.zeros(2, 1, dtype=torch.float64)

    def total(lengthscale: Tensor) -> Tensor:
        return matern52().matrix({"matern_lengthscale": lengthscale, "matern_amplitude": 1.0}, x, x).sum()

    second = torch.func.jacrev(torch.func.grad(total))(torch.tensor(0.7, dtype=torch.float64))

    assert bool(torch.isfinite(second))


def test_distances_over_many_inputs_are_those_over_few() -> None:
    a, b = 100.0 + inputs(6, 20), 100.0 + inputs(4, 20, seed=5)
    lengthscale = torch.linspace(0.5, 2.0, 20, dtype=torch.float64)
    expected = ((a[:, None] - b) / lengthscale).square().sum(-1)

    assert torch.allclose(squared_distance(a, b, lengthscale), expected, rtol=1e-10)


def test_a_lengthscale_for_each_input_is_a_site_of_that_shape() -> None:
    assert rbf(inputs=3).sites["rbf_lengthscale"].event_shape == (3,)
    assert spectral_mixture(4, inputs=2).sites["spectral_frequency"].event_shape == (4, 2)


def test_numbers_and_priors_with_a_shape_stay_as_they_are() -> None:
    prior = dist.LogNormal(torch.zeros(2), 1.0).to_event(1)

    assert rbf(0.7, inputs=2).sites["rbf_lengthscale"] == 0.7
    assert rbf(prior, inputs=2).sites["rbf_lengthscale"] is prior


def test_the_sum_of_two_of_one_name_is_refused_and_of_two_names_is_not() -> None:
    with pytest.raises(bm.BayesmetaError, match=r"same site\(s\) \['rbf_amplitude', 'rbf_lengthscale'\].*name='slow'"):
        rbf() + rbf()

    assert len((rbf() + rbf(name="slow")).sites) == 4


def test_a_network_of_its_own_scale_is_taken_as_it_is() -> None:
    kernel = deep(Network(net(3), name="wide", scale=2.0))

    assert list(kernel.networks) == ["wide"]


@pytest.mark.parametrize("components", [0, 1.5])
def test_a_spectral_mixture_has_a_whole_number_of_components(components: Any) -> None:
    with pytest.raises(bm.BayesmetaError, match="components must be a whole number of at least 1"):
        spectral_mixture(components)


def test_a_spectral_prior_has_an_entry_for_each_component() -> None:
    x = torch.tensor([[0.0, 0.0], [0.3, 0.1]], dtype=torch.float64)
    own = spectral_mixture(2, frequency=torch.tensor([0.5, 2.0]), bandwidth=0.1, amplitude=1.0, inputs=2)
    full = spectral_mixture(2, frequency=torch.tensor([[0.5, 0.5], [2.0, 2.0]]), bandwidth=0.1, amplitude=1.0, inputs=2)

    torch.testing.assert_close(own.matrix(own.sites, x, x), full.matrix(full.sites, x, x))
    with pytest.raises(OptionError, match=r"frequency has shape \(3,\); wanted \(2,\) or \(2, 1\)"):
        spectral_mixture(2, frequency=torch.ones(3))


def test_networks_within_networks_need_names_of_their_own() -> None:
    with torch.random.fork_rng(devices=[]):
        one, two = nn.Linear(2, 2), nn.Linear(2, 2)

    with pytest.raises(OptionError, match="two networks of a kernel are named 'features'"):
        deep(one, deep(two, rbf()))
    assert set(deep(one, deep(two, rbf()), name="outer").networks) == {"features", "outer"}


@pytest.mark.parametrize("make", [rbf, matern52, periodic, linear])
@pytest.mark.parametrize("width", [1, 3])
def test_a_kernel_is_for_as_many_inputs_as_it_says(make: Callable[..., Kernel], width: int) -> None:
    kernel = make(inputs=2)
    values = {name: torch.ones(prior.event_shape) for name, prior in kernel.sites.items()}
    x = torch.zeros(3, width, dtype=torch.float64)

    with pytest.raises(OptionError, match=rf"a kernel is for 2 inputs, and x has {width}: pass inputs={width}"):
        kernel.matrix(values, x, x)
