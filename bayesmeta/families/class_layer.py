"""A network shared by all tasks, and a Bayesian logistic regression of each task's own: N classes by learnt features.

    p(y_i = c) ∝ exp(w_c' f(x_i)),      w_c ~ Normal(m_c, diag(s²)),      f(x) = (network(x), 1)

φ is the network, m and s; θ are the weights of all classes. Where the classes of a task are numbered anyhow, they have
one prior in common, whose mean would move all of them alike and change no probability: m is zero then.

log Z_t(φ) is that of Laplace's approximation, exact to the order of one over the observations of a task, at the cost of
N Cholesky factors of the size of the observations, whatever the number of features. Draws of θ begin at the normal of
that approximation, which is too wide where observations are few, and go on by slice sampling under p(θ | φ, D_t).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from bayesmeta.closed_form import ClosedForm, Mixed
from bayesmeta.families.class_laplace import Data, fitted, log_likelihood, root_of_precision, weights_drawn
from bayesmeta.families.network import Network
from bayesmeta.families.slicing import numbers, sliced
from bayesmeta.hierarchy import Hierarchy
from bayesmeta.program import Row

__all__ = ["class_layer"]

WIDTH_SPREAD = 1.5  # of the logarithm of s
MEAN_SPREAD = 2.0  # of m, in units of the expected size of a weight
DRAWS = 32  # of the weights, that a prediction averages over
SLICES = 6  # steps of a draw away from the normal it begins at

Phi = Mapping[str, Any]


def class_layer(
    network: Network, inputs: tuple[int, ...], classes: int, *, bias: bool, scale: float, exchangeable: bool
) -> Hierarchy:
    """The hierarchy of `last_layer` with `classes`.

    Args:
        network: Gives features (n, features) of x (n, *inputs).
        inputs: The shape of an input.
        classes: N; observations are 0 to N-1.
        bias: Whether a constant is one of the features.
        scale: The size that log odds are expected to have.
        exchangeable: Whether classes are numbered anyhow, so that m is zero.
    """
    features = network.width(inputs) + bias
    size = features * classes
    count = size + numbers(size, SLICES)
    layer = _ClassLayer(network, features, classes, bias, scale, exchangeable, _normal_numbers(count))
    form = ClosedForm(
        log_z=layer.log_z,
        theta=layer.theta,
        predictive=layer.predictive,
        road=f"own: the last layer ({features} features of {classes} classes) is integrated out by Laplace's "
        "approximation",
        extra=count - size,
        numbers=features + DRAWS * classes,
    )
    return Hierarchy(layer.hyperprior, layer.task, evidence=form)


@dataclass(frozen=True, eq=False)
class _ClassLayer:
    """The functions of the family; p features, N classes."""

    network: Network
    features: int
    classes: int
    bias: bool
    scale: float
    exchangeable: bool
    normals: Tensor  # (DRAWS, what a draw of θ takes)

    def hyperprior(self) -> dict[str, Any]:
        """φ: the network, and the mean and the size of the weights."""
        phi: dict[str, Any] = {"net": self.network.sample()}
        size = self.scale / math.sqrt(self.features)
        if not self.exchangeable:
            prior = dist.Normal(0.0, MEAN_SPREAD * size).expand([self.features, self.classes])
            phi["mean"] = pyro.sample("w_mean", prior.to_event(2))
        width = dist.LogNormal(math.log(size), WIDTH_SPREAD)
        return phi | {"width": pyro.sample("w_scale", width.expand([self.features]).to_event(1))}

    def task(self, phi: Phi, x: Tensor, y: Tensor | None = None) -> Tensor:
        """One task, with its weights sampled: what the formulas must agree with."""
        spread = phi["width"].unsqueeze(-1).expand(self.features, self.classes)
        w = pyro.sample("w", dist.Normal(self._mean(phi), spread).to_event(2))
        return pyro.sample("y", dist.Categorical(logits=self._features(phi, x) @ w).to_event(1), obs=y)

    def log_z(self, phi: Phi, row: Row) -> Tensor:
        """log p(y | x, φ) of one task, by Laplace's approximation."""
        return fitted(self._data(phi, row)).log_z

    def theta(self, phi: Phi, row: Row, z: Tensor) -> Tensor:
        """A draw of w | φ, y (p N,) from standard normal numbers."""
        return self._drawn(phi, row, z.unsqueeze(0)).reshape(-1)

    def predictive(self, phi: Phi, row: Row, x: Tensor) -> Mixed:
        """p(y* | φ, y) at inputs x: the mixture of `DRAWS` draws of w, from the same numbers at every call."""
        logits = self._features(phi, x) @ self._drawn(phi, row, self.normals)
        return Mixed(logits.new_full((DRAWS,), -math.log(DRAWS)), dist.Categorical(logits=logits).to_event(1))

    def _drawn(self, phi: Phi, row: Row, z: Tensor) -> Tensor:
        """Draws of w (S, p, N) from standard normal numbers (S, `numbers` more than p N)."""
        data = self._data(phi, row)
        found, shape = fitted(data), (len(z), self.features, self.classes)
        size = self.features * self.classes
        begin = weights_drawn(found, root_of_precision(data, found.share), z[:, :size])

        def likelihood(v: Tensor) -> Tensor:
            return log_likelihood(data, data.rows @ v.reshape(shape))

        v = sliced(likelihood, begin.reshape(len(z), size), z[:, size:], SLICES)
        w: Tensor = self._mean(phi) + phi["width"].unsqueeze(-1) * v.reshape(shape)
        return w

    def _data(self, phi: Phi, row: Row) -> Data:
        features = self._features(phi, row.x)
        y = (row.y.unsqueeze(-1) == torch.arange(self.classes)).to(features.dtype)
        return Data(features * phi["width"], y, features @ self._mean(phi), row.mask)

    def _mean(self, phi: Phi) -> Tensor:
        mean: Tensor = phi["mean"] if "mean" in phi else torch.zeros(self.features, self.classes, dtype=torch.float64)
        return mean

    def _features(self, phi: Phi, x: Tensor) -> Tensor:
        out = self.network(phi["net"], x.unsqueeze(-1) if x.dim() == 1 else x)
        return torch.cat([out, torch.ones_like(out[..., :1])], -1) if self.bias else out


def _normal_numbers(size: int) -> Tensor:
    """Standard normal numbers (DRAWS, size), the second half the first with its sign changed."""
    half = torch.randn(DRAWS // 2, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.cat([half, -half])
