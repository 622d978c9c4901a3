"""A network shared by all tasks, and a Bayesian logistic regression of each task's own: N classes by learnt features.

    p(y_i = c) ∝ exp(w_c' f(x_i)),      w_c ~ Normal(0, diag(s²)),      f(x) = (network(x), 1)

φ is the network and s; θ are the weights of all classes. The classes of a task are numbered anyhow, so that they have
one prior in common, and its mean would move all of them alike, which changes no probability: it is zero. log Z_t(φ) is
that of Laplace's approximation, exact to the order of one over the observations of a task, at the cost of N Cholesky
factors of the size of the observations, whatever the number of features.
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
from bayesmeta.families.class_laplace import Fitted, fitted, root_of_precision, weights_drawn
from bayesmeta.families.network import Network
from bayesmeta.hierarchy import Hierarchy
from bayesmeta.program import Row

__all__ = ["class_layer"]

WIDTH_SPREAD = 1.5  # of the logarithm of s
DRAWS = 64  # of the weights, that a prediction averages over

Phi = Mapping[str, Any]


def class_layer(network: Network, inputs: tuple[int, ...], classes: int, bias: bool, scale: float) -> Hierarchy:
    """The hierarchy of `last_layer` with `classes`.

    Args:
        network: Gives features (n, features) of x (n, *inputs).
        inputs: The shape of an input.
        classes: N; observations are 0 to N-1.
        bias: Whether a constant is one of the features.
        scale: The size that log odds are expected to have.
    """
    features = network.width(inputs) + bias
    layer = _ClassLayer(network, features, classes, bias, scale, _normal_numbers(features * classes))
    form = ClosedForm(
        log_z=layer.log_z,
        theta=layer.theta,
        predictive=layer.predictive,
        road=f"own: the last layer ({features} features of {classes} classes) is integrated out by Laplace's "
        "approximation",
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
    normals: Tensor  # (DRAWS, p N)

    def hyperprior(self) -> dict[str, Any]:
        """φ: the network, and how large the weights of a feature are."""
        width = math.log(self.scale / math.sqrt(self.features))
        return {
            "net": self.network.sample(),
            "width": pyro.sample("w_scale", dist.LogNormal(width, WIDTH_SPREAD).expand([self.features]).to_event(1)),
        }

    def task(self, phi: Phi, x: Tensor, y: Tensor | None = None) -> Tensor:
        """One task, with its weights sampled: what the formulas must agree with."""
        spread = phi["width"].unsqueeze(-1).expand(self.features, self.classes)
        w = pyro.sample("w", dist.Normal(0.0, spread).to_event(2))
        return pyro.sample("y", dist.Categorical(logits=self._features(phi, x) @ w).to_event(1), obs=y)

    def log_z(self, phi: Phi, row: Row) -> Tensor:
        """log p(y | x, φ) of one task, by Laplace's approximation."""
        return self._fitted(phi, row)[1].log_z

    def theta(self, phi: Phi, row: Row, z: Tensor) -> Tensor:
        """A draw of w | φ, y (p N,) from standard normal numbers (p N,)."""
        return self._drawn(phi, row, z.unsqueeze(0)).reshape(-1)

    def predictive(self, phi: Phi, row: Row, x: Tensor) -> Mixed:
        """p(y* | φ, y) at inputs x: the mixture of `DRAWS` draws of w, the same ones at every call."""
        logits = self._features(phi, x) @ self._drawn(phi, row, self.normals)
        return Mixed(logits.new_full((DRAWS,), -math.log(DRAWS)), dist.Categorical(logits=logits).to_event(1))

    def _drawn(self, phi: Phi, row: Row, z: Tensor) -> Tensor:
        """Draws of w (S, p, N) from standard normal numbers (S, p N)."""
        rows, found = self._fitted(phi, row)
        root = root_of_precision(rows, found.share, row.mask)
        return phi["width"].unsqueeze(-1) * weights_drawn(found, root, z)

    def _fitted(self, phi: Phi, row: Row) -> tuple[Tensor, Fitted]:
        rows = self._features(phi, row.x) * phi["width"]
        y = (row.y.unsqueeze(-1) == torch.arange(self.classes)).to(rows.dtype)
        return rows, fitted(rows, y, row.mask)

    def _features(self, phi: Phi, x: Tensor) -> Tensor:
        out = self.network(phi["net"], x.unsqueeze(-1) if x.dim() == 1 else x)
        return torch.cat([out, torch.ones_like(out[..., :1])], -1) if self.bias else out


def _normal_numbers(size: int) -> Tensor:
    """Standard normal numbers (DRAWS, size), the second half the first with its sign changed."""
    half = torch.randn(DRAWS // 2, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.cat([half, -half])
