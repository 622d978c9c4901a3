"""An ordinary `torch.nn.Module` as a part of φ: each of its parameters a site, with a prior of its own.

    w_ij ~ Normal(0, s / √fan_in),      b_i ~ Normal(0, s / √fan_in)

so that with s = 1 a layer of any width passes on signals of about the size that it gets (Neal 1996, "Bayesian
Learning for Neural Networks"). Parameters that are no layer's weights or biases, such as the scales of a
normalisation, have the prior Normal(their value in the module, s).

The module itself gives the architecture only: its weights are copied from nowhere and changed nowhere.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bayesmeta.errors import HierarchyError, OptionError
from bayesmeta.modules import plain_modules

__all__ = ["Network"]


class Network:
    """A module whose parameters are φ.

    Args:
        net: The module, called with one argument, x (..., d). It must be a function of x and its parameters alone.
        name: What the names of its sites begin with: ``net.0.weight``, ``net.0.bias``, ...
        scale: s, the scale of all priors.

    Raises:
        HierarchyError: The module is not one, has no parameters that can be known yet, or has batch normalisation or
            dropout in it.

    Example:
        >>> from torch import nn
        >>> network = Network(nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 2)))
        >>> network
        Network: 14 parameters in net.0.weight, net.0.bias, net.2.weight, net.2.bias
        >>> def hyperprior():
        ...     return network.sample()
        >>> def task(weights, x, y=None):
        ...     features = network(weights, x)
        ...     ...
    """

    def __init__(self, net: nn.Module, *, name: str = "net", scale: float = 1.0) -> None:
        if not isinstance(net, nn.Module):
            raise HierarchyError(f"net must be a torch.nn.Module, got {type(net).__name__}")
        if not isinstance(scale, int | float) or not 0 < scale < math.inf:
            raise OptionError(f"scale must be a number above 0, got {scale!r}")
        _check_modules(net)
        self.name = name
        self._net = copy.deepcopy(net).double().requires_grad_(False)
        self._priors = {path: (mean, scale * width) for path, mean, width in _priors(self._net)}

    @property
    def size(self) -> int:
        """The number of parameters."""
        return sum(mean.numel() for mean, _ in self._priors.values())

    @property
    def priors(self) -> dict[str, tuple[Tensor, float]]:
        """Mean (of the parameter's shape) and sd of each parameter's prior, by its name in the module."""
        return dict(self._priors)

    def sample(self) -> dict[str, Tensor]:
        """The parameters by their names in the module, each sampled from its prior: for a hyperprior."""
        weights: dict[str, Tensor] = {}
        for path, (mean, width) in self._priors.items():
            prior = dist.Normal(mean, width).to_event(mean.dim())
            weights[path] = pyro.sample(f"{self.name}.{path}", prior)
        return weights

    def __call__(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The module with these parameters, at x."""
        out: Tensor = torch.func.functional_call(self._net, dict(weights), (x,))
        return out

    def width(self, inputs: tuple[int, ...]) -> int:
        """The length of the last axis of what the module makes of x (..., *inputs).

        Raises:
            HierarchyError: The module does not take such x, or does not give one vector for each.
        """
        x = torch.zeros(2, *inputs, dtype=torch.float64)
        try:
            out = self._net(x)
        except RuntimeError as error:
            raise HierarchyError(f"the network does not take inputs of shape {tuple(x.shape)}: {error}") from error
        if not isinstance(out, Tensor) or out.dim() != 2 or len(out) != 2:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise HierarchyError(f"the network must give (n, features) for x {tuple(x.shape)}, got {got}")
        return int(out.shape[1])

    def __repr__(self) -> str:
        names = ", ".join(f"{self.name}.{path}" for path in self._priors)
        return f"Network: {self.size:,} parameters in {names}"


def _check_modules(net: nn.Module) -> None:
    """Raise a HierarchyError where the module is more than a function of x and its parameters."""
    for where, module in plain_modules(net):
        if isinstance(module, nn.modules.batchnorm._BatchNorm) or getattr(module, "track_running_stats", False):
            raise HierarchyError(
                f"{where}, which keeps statistics of what went through it and looks at all rows together: use "
                "LayerNorm or GroupNorm"
            )


def _priors(net: nn.Module) -> Iterator[tuple[str, Tensor, float]]:
    """(name, mean, sd at scale one) of each parameter, tied ones once."""
    modules = dict(net.named_modules())
    for path, parameter in net.named_parameters():
        owner, _, short = path.rpartition(".")
        matrix = parameter if parameter.dim() > 1 else _matrix_of(modules[owner], short)
        if matrix is None:
            mean = torch.zeros_like(parameter) if "bias" in short else parameter.detach().clone()
            yield path, mean, 1.0
        else:
            yield path, torch.zeros_like(parameter), 1 / math.sqrt(_fan_in(modules[owner], matrix))


def _matrix_of(owner: nn.Module, short: str) -> Tensor | None:
    """The weights that a bias goes with: `weight`, or of layers with several `weight_ih` for `bias_ih`."""
    if "bias" not in short:
        return None
    for name in (short.replace("bias", "weight"), "weight"):
        weight = getattr(owner, name, None)
        if isinstance(weight, Tensor):
            return weight if weight.dim() > 1 else None
    return None


def _fan_in(owner: nn.Module, matrix: Tensor) -> int:
    """How many inputs each output of a layer has."""
    if isinstance(owner, nn.modules.conv._ConvTransposeNd):
        return matrix.shape[0] // owner.groups * math.prod(matrix.shape[2:])
    return math.prod(matrix.shape[1:])
