"""Bayesian neural networks over tasks: every task has weights of its own, the population what they have in common.

    m_j ~ Normal(0, 1 / √fan_in),    s_j ~ LogNormal(log(r / √fan_in), 1)       for every weight j
    w_tj ~ Normal(m_j, s_j)
    y_ti ~ Normal(c net(x_ti; w_t), σ),  or Bernoulli or Poisson with net(x_ti; w_t) as its logit or log rate

Where a prior sd s_j is learnt to be small the weight is shared by all tasks, where it is large tasks learn it
themselves: which layers adapt is not decided beforehand. (Amit, Meir 2018, "Meta-learning by adjusting priors based
on extended PAC-Bayes theory"; Ravi, Beatson 2019, "Amortized Bayesian meta-learning".)

θ is long, and φ twice as long: fit it by variational inference, `SVI(guide="map", evidence="joint")`, with a point for
φ and a normal for the θ of each task; adapt by gradients or by Laplace's approximation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bayesmeta.errors import OptionError, unknown
from bayesmeta.families.network import Network
from bayesmeta.hierarchy import Hierarchy

__all__ = ["Likelihood", "bnn"]

Likelihood: TypeAlias = Literal["normal", "bernoulli", "poisson"]
Phi = Mapping[str, Any]

SPREAD = 1.0  # sd of log s_j
NOISE, NOISE_SPREAD = 0.1, 1.5  # median of σ as a share of c, sd of its log

_COUNTS: dict[str, Callable[[Tensor], Any]] = {
    "bernoulli": lambda out: dist.Bernoulli(logits=out),
    "poisson": lambda out: dist.Poisson(out.exp()),
}


def bnn(
    net: nn.Module,
    *,
    inputs: int = 1,
    likelihood: Likelihood = "normal",
    noise: Literal["learnt"] | float = "learnt",
    vary: float = 0.3,
    scale: float = 1.0,
) -> Hierarchy:
    """Networks whose weights are a task's own, with a prior mean and sd learnt for every weight.

    φ has the means ``mean.*`` and the sds ``vary.*`` of the parameters, by their names in the module, and ``sigma``
    where the noise is learnt; θ has the parameters ``net.*``.

    Args:
        net: The network, (n, inputs) to (n, k), an ordinary module; y is (n,) for k = 1 and (n, k) else. It gives the
            architecture only, see `Network`.
        inputs: d, the number of input columns. Inputs should be of the order of one.
        likelihood: ``"normal"``, ``"bernoulli"`` (the network gives the logit) or ``"poisson"`` (the log rate).
        noise: ``"learnt"`` or the known sd of Normal observations.
        vary: r, how much weights are expected to differ between tasks, in prior sds of their means.
        scale: c, the size that y is expected to have, which the network's output is multiplied with.

    Raises:
        OptionError: An option out of its range, or one that the likelihood does not have.
        HierarchyError: The network is not a function of x, see `Network`.

    Example:
        >>> from torch import nn
        >>> import bayesmeta as bm
        >>> net = nn.Sequential(nn.Linear(1, 10), nn.Tanh(), nn.Linear(10, 1))
        >>> print(bm.families.bnn(net))
        Hierarchy(hyperprior, task)
          phi  mean.0.weight  Normal     real      10×1
          phi  mean.0.bias    Normal     real      10
          phi  mean.2.weight  Normal     real      1×10
          phi  mean.2.bias    Normal     real      1
          phi  vary.0.weight  LogNormal  positive  10×1
          phi  vary.0.bias    LogNormal  positive  10
          phi  vary.2.weight  LogNormal  positive  1×10
          phi  vary.2.bias    LogNormal  positive  1
          phi  sigma          LogNormal  positive  scalar
          theta  found when the hierarchy first meets tasks
    """
    _check(inputs, likelihood, noise, vary, scale)
    means = Network(net, name="mean")
    outputs = means.width((inputs,))
    known = None if isinstance(noise, str) else float(noise)
    family = _Networks(means, outputs, likelihood, known, vary, scale)
    return Hierarchy(family.hyperprior, family.task)


def _check(inputs: int, likelihood: str, noise: str | float, vary: float, scale: float) -> None:
    if not isinstance(inputs, int) or isinstance(inputs, bool) or inputs < 1:
        raise OptionError(f"inputs must be a whole number of at least 1, got {inputs!r}")
    if likelihood not in ("normal", *_COUNTS):
        raise OptionError(unknown("likelihood", likelihood, ("normal", *_COUNTS)))
    if isinstance(noise, str) and noise != "learnt":
        raise OptionError(f"noise must be 'learnt' or a number, got {noise!r}")
    for name, value in (("noise", noise), ("vary", vary), ("scale", scale)):
        if not isinstance(value, str) and not 0 < value < math.inf:
            raise OptionError(f"{name} must be above 0, got {value!r}")
    if likelihood != "normal" and (noise != "learnt" or scale != 1.0):
        raise OptionError(f"noise and scale are of Normal observations; likelihood={likelihood!r} has neither")


@dataclass(frozen=True)
class _Networks:
    """The functions of the family."""

    means: Network
    outputs: int
    likelihood: str
    known: float | None
    vary: float
    scale: float

    def hyperprior(self) -> dict[str, Any]:
        """φ: mean and sd of every weight, and the noise."""
        phi: dict[str, Any] = {"mean": self.means.sample(), "vary": {}}
        for path, (mean, width) in self.means.priors.items():
            prior = dist.LogNormal(math.log(self.vary * width), SPREAD).expand(mean.shape).to_event(mean.dim())
            phi["vary"][path] = pyro.sample(f"vary.{path}", prior)
        if self.likelihood == "normal":
            phi["sigma"] = self._noise()
        return phi

    def _noise(self) -> Tensor:
        if self.known is not None:
            return torch.tensor(self.known, dtype=torch.float64)
        median = math.log(NOISE * self.scale)
        sigma: Tensor = pyro.sample("sigma", dist.LogNormal(median, NOISE_SPREAD))
        return sigma

    def task(self, phi: Phi, x: Tensor, y: Tensor | None = None) -> Any:
        """The weights of a task, and what is observed of its function."""
        weights = {
            path: pyro.sample(f"net.{path}", dist.Normal(mean, phi["vary"][path]).to_event(mean.dim()))
            for path, mean in phi["mean"].items()
        }
        out = self.means(weights, x.unsqueeze(-1) if x.dim() == 1 else x)
        out = out.squeeze(-1) if self.outputs == 1 else out
        if self.likelihood == "normal":
            observations = dist.Normal(self.scale * out, phi["sigma"])
        else:
            observations = _COUNTS[self.likelihood](out)
        return pyro.sample("y", observations.to_event(out.dim()), obs=y)
