"""Covariance functions of Gaussian processes, with a prior on each of their hyperparameters.

    k(x, x') = Cov[f(x), f(x')]

A kernel says which sites its hyperparameters are and computes covariances from their values; it keeps none. Kernels
add and multiply: ``periodic() + linear()``, ``rbf() * periodic(amplitude=1.0)``. A number in place of a prior fixes
a hyperparameter. Where two kernels of a sum have the same name, one must be given another: their sites would meet.

Sources: Rasmussen, Williams 2006, "Gaussian Processes for Machine Learning", chapter 4 (squared exponential,
Matérn, periodic, linear); Wilson, Adams 2013, "Gaussian Process Kernels for Pattern Discovery and Extrapolation"
(spectral mixture); Wilson, Hu, Salakhutdinov, Xing 2016, "Deep Kernel Learning" (deep).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from bayesmeta.errors import OptionError
from bayesmeta.families.network import Network

__all__ = [
    "Kernel",
    "Prior",
    "as_network",
    "constant",
    "deep",
    "linear",
    "matern52",
    "periodic",
    "rbf",
    "spectral_mixture",
]

Prior: TypeAlias = Any  # a Pyro distribution, or a number for a hyperparameter that is known
Values: TypeAlias = Mapping[str, Any]

TINY = 1e-30  # keeps the derivative of a distance finite where it is zero
WIDE = 8  # from so many inputs on, squared distances come from a matrix product


@dataclass(frozen=True, eq=False)
class Kernel:
    """A covariance function.

    Attributes:
        sites: The hyperparameters by name: a prior with the shape of the hyperparameter, or a number.
        matrix: ``matrix(values, a, b)``: covariances (n, m) of inputs a (n, d) and b (m, d), at values of the
            hyperparameters by name.
        variance: ``variance(values, a)``: the diagonal (n,) of ``matrix(values, a, a)``.
        networks: The networks it looks through, by name; their weights are among the values, too.
    """

    sites: Mapping[str, Prior]
    matrix: Callable[[Values, Tensor, Tensor], Tensor]
    variance: Callable[[Values, Tensor], Tensor]
    networks: Mapping[str, Network] = field(default_factory=dict)

    def __add__(self, other: Kernel) -> Kernel:
        return _combined(self, other, "sum", torch.add)

    def __mul__(self, other: Kernel) -> Kernel:
        return _combined(self, other, "product", torch.mul)


def rbf(lengthscale: Prior = None, amplitude: Prior = None, *, inputs: int | None = None, name: str = "rbf") -> Kernel:
    """amplitude² exp(-|x - x'|² / 2ℓ²): very smooth functions.

    Args:
        lengthscale: Prior of ℓ, over how far the function changes; log-normal with median 1 by default.
        amplitude: Prior of the function's standard deviation; log-normal with median 1 by default.
        inputs: The number of inputs, to give each a lengthscale of its own; None for one in all.
        name: What the names of its sites begin with.
    """
    sites = {f"{name}_lengthscale": _prior(lengthscale, 1.0, inputs)}
    return _stationary(
        name, amplitude, sites, lambda values, a, b: torch.exp(-0.5 * squared_distance(a, b, values["lengthscale"]))
    )


def matern52(
    lengthscale: Prior = None, amplitude: Prior = None, *, inputs: int | None = None, name: str = "matern"
) -> Kernel:
    """amplitude² (1 + √5 r + 5r²/3) exp(-√5 r), r = |x - x'| / ℓ: functions with two derivatives, no more.

    Args:
        lengthscale: Prior of ℓ, over how far the function changes; log-normal with median 1 by default.
        amplitude: Prior of the function's standard deviation; log-normal with median 1 by default.
        inputs: The number of inputs, to give each a lengthscale of its own; None for one in all.
        name: What the names of its sites begin with.
    """

    def correlation(values: Values, a: Tensor, b: Tensor) -> Tensor:
        r = (5 * squared_distance(a, b, values["lengthscale"])).clamp(min=TINY).sqrt()
        return (1 + r + r * r / 3) * torch.exp(-r)

    return _stationary(name, amplitude, {f"{name}_lengthscale": _prior(lengthscale, 1.0, inputs)}, correlation)


def periodic(
    period: Prior = None,
    lengthscale: Prior = None,
    amplitude: Prior = None,
    *,
    inputs: int | None = None,
    name: str = "periodic",
) -> Kernel:
    """amplitude² exp(-2 Σ_d sin²(π (x_d - x'_d) / period) / ℓ²): functions that repeat for ever.

    Args:
        period: Prior of the period; log-normal with median 1 by default.
        lengthscale: Prior of ℓ, how much the function varies within a period: large ones give a pure sine;
            log-normal with median 1 by default.
        amplitude: Prior of the function's standard deviation; log-normal with median 1 by default.
        inputs: The number of inputs, to give each a period and a lengthscale of its own; None for one in all.
        name: What the names of its sites begin with.
    """
    sites = {
        f"{name}_period": _prior(period, 1.0, inputs),
        f"{name}_lengthscale": _prior(lengthscale, 1.0, inputs),
    }

    def correlation(values: Values, a: Tensor, b: Tensor) -> Tensor:
        phase = _differences(a, b) * (math.pi / _per_input(values["period"], a))
        return torch.exp(-2 * (torch.sin(phase) / _per_input(values["lengthscale"], a)).square().sum(-1))

    return _stationary(name, amplitude, sites, correlation)


def spectral_mixture(
    components: int = 1,
    *,
    frequency: Prior = None,
    bandwidth: Prior = None,
    amplitude: Prior = None,
    inputs: int = 1,
    name: str = "spectral",
) -> Kernel:
    """Σ_q amplitude_q² Π_d exp(-2π² (x_d - x'_d)² bandwidth_qd²) cos(2π (x_d - x'_d) frequency_qd).

    A mixture of normal bumps in the spectrum: any stationary kernel, given enough of them. One of a small bandwidth
    is a sine, which keeps its phase over distances of 1 / (2π bandwidth).

    Args:
        components: How many bumps.
        frequency: Prior of the centre of each, in periods per unit of x, for all inputs (Q,) or each (Q, d); log-normal
            with median 0.5 by default.
        bandwidth: Prior of the standard deviation of each, likewise; log-normal with median 0.1 by default.
        amplitude: Prior of the standard deviation of each one's function; log-normal with median 1 by default.
        inputs: The number of inputs d.
        name: What the names of its sites begin with.

    Raises:
        OptionError: `components` or `inputs` is no whole number of at least 1, or a prior has another shape.
    """
    for what, value in (("components", components), ("inputs", inputs)):
        if not isinstance(value, int) or value < 1:
            raise OptionError(f"{what} must be a whole number of at least 1, got {value!r}")
    sites = {
        f"{name}_frequency": _by_component("frequency", _prior(frequency, 0.5, components, inputs), components, inputs),
        f"{name}_bandwidth": _by_component(
            "bandwidth", _prior(bandwidth, 0.1, components, inputs, spread=2.0), components, inputs
        ),
        f"{name}_amplitude": _prior(amplitude, 1.0, components),
    }

    def matrix(values: Values, a: Tensor, b: Tensor) -> Tensor:
        _check_inputs(inputs, a)
        away = 2 * math.pi * _differences(a, b)
        frequency, bandwidth = (
            _of_components(values[f"{name}_{k}"]).expand(components, inputs) for k in ("frequency", "bandwidth")
        )
        power = _full(values[f"{name}_amplitude"], components).square()
        waves = [
            power[q]
            * torch.exp(-0.5 * (away * bandwidth[q]).square().sum(-1))
            * torch.cos(away * frequency[q]).prod(-1)
            for q in range(components)
        ]
        return torch.stack(waves).sum(0)

    def variance(values: Values, a: Tensor) -> Tensor:
        return _full(values[f"{name}_amplitude"], components).square().sum().expand(len(a))

    return Kernel(sites, matrix, variance)


def _by_component(what: str, prior: Prior, components: int, inputs: int) -> Prior:
    """The prior, or an OptionError where its shape is not one for each component, or for each of their inputs."""
    if hasattr(prior, "log_prob"):
        shape = tuple(prior.batch_shape + prior.event_shape)
    else:
        shape = tuple(torch.as_tensor(prior).shape)
    if shape not in ((), (components,), (components, 1), (components, inputs)):
        raise OptionError(f"{what} has shape {shape}; wanted ({components},) or ({components}, {inputs})")
    return prior


def _of_components(value: Any) -> Tensor:
    """A hyperparameter of each component, with an axis for the inputs."""
    tensor = torch.as_tensor(value, dtype=torch.float64)
    return tensor.unsqueeze(-1) if tensor.dim() == 1 else tensor


def linear(amplitude: Prior = None, *, inputs: int | None = None, name: str = "linear") -> Kernel:
    """amplitude² x'x: straight lines through zero, their slopes Normal; with `constant`, through anywhere.

    Args:
        amplitude: Prior of the standard deviation of the slopes; log-normal with median 1 by default.
        inputs: The number of inputs, to give the slope of each an amplitude of its own; None for one in all.
        name: What the name of its site begins with.
    """
    site = f"{name}_amplitude"

    def matrix(values: Values, a: Tensor, b: Tensor) -> Tensor:
        return (a * _per_input(values[site], a)) @ (b * _per_input(values[site], a)).mT

    def variance(values: Values, a: Tensor) -> Tensor:
        return (a * _per_input(values[site], a)).square().sum(-1)

    return Kernel({site: _prior(amplitude, 1.0, inputs)}, matrix, variance)


def constant(amplitude: Prior = None, *, name: str = "constant") -> Kernel:
    """amplitude²: a level of each task's own.

    Args:
        amplitude: Prior of the standard deviation of the levels; log-normal with median 1 by default.
        name: What the name of its site begins with.
    """
    return _stationary(name, amplitude, {}, lambda values, a, b: torch.ones(len(a), len(b), dtype=a.dtype))


def deep(network: nn.Module | Network, kernel: Kernel | None = None, *, name: str = "features") -> Kernel:
    """A kernel of what a network makes of x: k(net(x), net(x')). The network's weights are part of φ.

    Args:
        network: Takes x (n, d) to features (n, k); a module, or a `Network` with a scale of its own.
        kernel: The kernel of the features, `rbf()` by default.
        name: What the names of the module's sites begin with.
    """
    inner = rbf() if kernel is None else kernel
    net = as_network(network, name)
    if net.name in inner.networks:
        raise OptionError(
            f"two networks of a kernel are named {net.name!r}, and would have the same weights: give one another name, "
            "as in deep(net, name='outer')"
        )

    def features(values: Values, x: Tensor) -> Tensor:
        return net(values[net.name], x)

    def matrix(values: Values, a: Tensor, b: Tensor) -> Tensor:
        return inner.matrix(values, features(values, a), features(values, b))

    def variance(values: Values, a: Tensor) -> Tensor:
        return inner.variance(values, features(values, a))

    return Kernel(inner.sites, matrix, variance, {net.name: net, **inner.networks})


def as_network(network: nn.Module | Network, name: str, scale: float = 1.0) -> Network:
    """A module as a part of φ under that name, with priors of that scale; a `Network` as it is."""
    return network if isinstance(network, Network) else Network(network, name=name, scale=scale)


def squared_distance(a: Tensor, b: Tensor, lengthscale: Any) -> Tensor:
    """Squared distances (n, m) of a (n, d) and b (m, d) in units of a lengthscale () or (d,)."""
    scale = _per_input(lengthscale, a)
    if a.shape[-1] < WIDE:
        return (_differences(a, b) / scale).square().sum(-1)
    a, b = a / scale, b / scale
    centre = a.mean(0, keepdim=True).detach()  # less is lost where the squares are small
    a, b = a - centre, b - centre
    squares = a.square().sum(-1).unsqueeze(-1) + b.square().sum(-1)
    return (squares - 2 * a @ b.mT).clamp(min=0.0)


def _stationary(
    name: str, amplitude: Prior, sites: Mapping[str, Prior], correlation: Callable[[Values, Tensor, Tensor], Tensor]
) -> Kernel:
    """amplitude² times a correlation, which takes the hyperparameters by their names without the kernel's."""
    site = f"{name}_amplitude"

    def matrix(values: Values, a: Tensor, b: Tensor) -> Tensor:
        own = {other.removeprefix(f"{name}_"): values[other] for other in sites}
        return _full(values[site]).square() * correlation(own, a, b)

    def variance(values: Values, a: Tensor) -> Tensor:
        return _full(values[site]).square().expand(len(a))

    return Kernel({**sites, site: _prior(amplitude, 1.0)}, matrix, variance)


def _combined(one: Kernel, two: Kernel, what: str, join: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    both = sorted({*one.sites, *one.networks} & {*two.sites, *two.networks})
    if both:
        raise OptionError(
            f"two kernels of a {what} have the same site(s) {both}: give one another name, as in rbf(name='slow')"
        )

    def matrix(values: Values, a: Tensor, b: Tensor) -> Tensor:
        return join(one.matrix(values, a, b), two.matrix(values, a, b))

    def variance(values: Values, a: Tensor) -> Tensor:
        return join(one.variance(values, a), two.variance(values, a))

    return Kernel({**one.sites, **two.sites}, matrix, variance, {**one.networks, **two.networks})


def _differences(a: Tensor, b: Tensor) -> Tensor:
    """(n, m, d)."""
    return a.unsqueeze(-2) - b.unsqueeze(-3)


def _per_input(value: Any, x: Tensor) -> Tensor:
    """A hyperparameter, one number or one for each input of x (n, d)."""
    full = _full(value)
    if full.dim() and full.shape[-1] > 1:
        _check_inputs(full.shape[-1], x)
    return full


def _check_inputs(inputs: int, x: Tensor) -> None:
    if x.shape[-1] != inputs:
        raise OptionError(f"a kernel is for {inputs} inputs, and x has {x.shape[-1]}: pass inputs={x.shape[-1]} to it")


def _full(value: Any, *shape: int) -> Tensor:
    """A hyperparameter as a tensor of that shape."""
    full = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
    return full.double().expand(shape) if shape else full


def _prior(prior: Prior, median: float, *shape: int | None, spread: float = 1.0) -> Prior:
    """A prior for each element of a shape; a number, or a prior that has a shape, as it is.

    Where there is none, log-normal with that median, `spread` the standard deviation of the logarithm.
    """
    if prior is None:
        prior = dist.LogNormal(math.log(median), spread)
    wanted = tuple(size for size in shape if size is not None)
    if not wanted or not hasattr(prior, "log_prob") or prior.batch_shape or prior.event_shape:
        return prior
    return prior.expand(wanted).to_event(len(wanted))
