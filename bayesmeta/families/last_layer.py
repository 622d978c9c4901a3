"""A network shared by all tasks, and a Bayesian last layer of each task's own.

    y_i = w' f(x_i) + σ h(x_i) ε_i,      w ~ Normal(m, σ² L L'),      f(x) = (network(x), 1)

φ is the network, m, L and the noise; θ is w, and given φ everything is Gaussian: log Z_t(φ), θ | φ, D_t and the
predictive distribution are in closed form, and cost a Cholesky factor of the smaller of the number of features and of
observations. Maximising the evidence teaches the network features *and* how they vary from task to task. With k
outputs W is matrix-normal, with SS' between outputs in place of σ² (Harrison, Sharma, Pavone 2018, "Meta-learning
priors for efficient online Bayesian regression").

The width of L is counted in units of the noise, as is usual for this family; `scale` is the size that y is expected
to have, and all priors go by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bayesmeta.closed_form import ClosedForm
from bayesmeta.errors import OptionError, unknown
from bayesmeta.families.network import Network
from bayesmeta.families.rows_normal import RowsNormal, cholesky, log_rows, whitened
from bayesmeta.hierarchy import Hierarchy
from bayesmeta.program import Row

__all__ = ["last_layer"]

COVARIANCES = ("full", "diagonal")
# Medians and spreads (of logarithms) of the priors: noise as a share of `scale`, and the width of the last layer in
# units of the noise.
NOISE, NOISE_SPREAD = 0.1, 1.5
WIDTH_SPREAD = 1.5

Phi = Mapping[str, Any]


def last_layer(
    net: nn.Module,
    *,
    inputs: int = 1,
    outputs: int = 1,
    noise: Literal["learnt"] | float | nn.Module = "learnt",
    covariance: Literal["full", "diagonal"] = "full",
    bias: bool = True,
    scale: float = 1.0,
) -> Hierarchy:
    """Features by a network that all tasks share, and a Bayesian linear layer per task.

    Args:
        net: The network, (n, inputs) to (n, features), an ordinary module; see `Network` for the priors it gets.
        inputs: d, the number of input columns.
        outputs: k; y is (n,) for one and (n, k) for several.
        noise: ``"learnt"``, the known sd of the noise, or a network (n, inputs) to (n, 1) whose exponential
            multiplies a learnt sd: noise that depends on x.
        covariance: Of the weights of a task: ``"full"`` or ``"diagonal"``.
        bias: Whether a constant is one of the features.
        scale: The size that y is expected to have, for the priors.

    Returns:
        A hierarchy with evidence in closed form. φ are ``net.*``, ``w_mean``, ``w_scale``, ``w_lower`` and
        ``noise``; θ is ``w`` (p,), or (p k,) for several outputs, output by output within a feature.

    Raises:
        OptionError: An option out of its range.
        HierarchyError: The network is not a function of x that gives features, see `Network`.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh())
        >>> hierarchy = last_layer(net, scale=3.0)
    """
    for name, value in (("inputs", inputs), ("outputs", outputs)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise OptionError(f"{name} must be a whole number of at least 1, got {value!r}")
    if covariance not in COVARIANCES:
        raise OptionError(unknown("covariance", covariance, COVARIANCES))
    for name, number in (("scale", scale), ("noise", noise)):
        if not isinstance(number, str | nn.Module) and not 0 < number < math.inf:
            raise OptionError(f"{name} must be above 0, got {number!r}")
    if isinstance(noise, str) and noise != "learnt":
        raise OptionError(f"noise must be 'learnt', a number or a network, got {noise!r}")
    network = Network(net)
    features = network.width((inputs,)) + bias
    spread = Network(noise, name="noise_net") if isinstance(noise, nn.Module) else None
    known = None if isinstance(noise, str | nn.Module) else float(noise)
    layer = _LastLayer(network, spread, known, features, outputs, covariance == "full", bias, scale)
    form = ClosedForm(
        log_z=layer.log_z,
        theta=layer.theta,
        predictive=layer.predictive,
        road=f"own: the last layer ({features} features) is integrated out in closed form",
        numbers=features,
    )
    return Hierarchy(layer.hyperprior, layer.task, evidence=form)


class _Rows(NamedTuple):
    """What the network says of rows: in units of the noise, except for the mean."""

    mean: Tensor  # f(x) m, (n, k)
    factor: Tensor  # f(x) L, (n, p)
    scale: Tensor  # h(x), (n,)


@dataclass(frozen=True)
class _LastLayer:
    """The functions of the family; p features, k outputs."""

    network: Network
    spread: Network | None
    known: float | None
    features: int
    outputs: int
    full: bool
    bias: bool
    scale: float

    def hyperprior(self) -> dict[str, Any]:
        """φ: network, mean and root of the covariance of w, and the noise."""
        p, k = self.features, self.outputs
        phi: dict[str, Any] = {"net": self.network.sample()}
        if self.spread is not None:
            phi["noise_net"] = self.spread.sample()
        phi["root"] = self._noise()
        phi["mean"] = pyro.sample("w_mean", dist.Normal(0.0, self.scale).expand([p, k]).to_event(2))
        width = math.log(self.scale / (self.known or NOISE * self.scale) / math.sqrt(p))
        sd = pyro.sample("w_scale", dist.LogNormal(width, WIDTH_SPREAD).expand([p]).to_event(1))
        lower = torch.eye(p)
        if self.full and p > 1:
            lower = _unit_lower("w_lower", p, 1 / math.sqrt(p))
        phi["width"] = sd.unsqueeze(-1) * lower
        return phi

    def _noise(self) -> Tensor:
        """S (k, k), the root of the covariance of the noise."""
        k = self.outputs
        if self.known is not None:
            return self.known * torch.eye(k)
        median = math.log(NOISE * self.scale)
        noise = pyro.sample("noise", dist.LogNormal(median, NOISE_SPREAD).expand([k]).to_event(1))
        return noise.unsqueeze(-1) * (_unit_lower("noise_lower", k, 0.5) if k > 1 else torch.eye(1))

    def task(self, phi: Phi, x: Tensor, y: Tensor | None = None) -> Tensor:
        """One task, with w sampled: what the formulas must agree with."""
        p, k = self.features, self.outputs
        root = torch.kron(phi["width"], phi["root"])
        w = pyro.sample("w", dist.MultivariateNormal(phi["mean"].reshape(-1), scale_tril=root))
        rows = self._rows(phi, x)
        mean = self._features(phi, x) @ w.reshape(p, k)
        if k == 1:
            observed = dist.Normal(mean.squeeze(-1), rows.scale * phi["root"].squeeze())
            return pyro.sample("y", observed.to_event(1), obs=y)
        noise = rows.scale[..., None, None] * phi["root"]
        return pyro.sample("y", dist.MultivariateNormal(mean, scale_tril=noise).to_event(1), obs=y)

    def log_z(self, phi: Phi, row: Row) -> Tensor:
        """log p(y | x, φ) of one task."""
        rows = self._rows(phi, row.x)
        return log_rows(self._away(phi, row, rows), rows.factor, rows.scale, phi["root"], row.mask)

    def theta(self, phi: Phi, row: Row, z: Tensor) -> Tensor:
        """A draw of w | φ, y from standard normal numbers (p k,)."""
        mean, lower = self._conditional(phi, row)
        noise = z.reshape(self.features, self.outputs)
        standard = mean + torch.linalg.solve_triangular(lower.mT, noise, upper=True)
        w: Tensor = phi["mean"] + phi["width"] @ standard @ phi["root"].mT
        return w.reshape(-1)

    def predictive(self, phi: Phi, row: Row, x: Tensor) -> RowsNormal:
        """p(y* | φ, y) at inputs x."""
        mean, lower = self._conditional(phi, row)
        rows = self._rows(phi, x)
        loc = rows.mean + rows.factor @ mean @ phi["root"].mT
        factor = torch.linalg.solve_triangular(lower, rows.factor.mT, upper=False).mT
        return RowsNormal(loc.squeeze(-1) if self.outputs == 1 else loc, factor, rows.scale, phi["root"])

    def _conditional(self, phi: Phi, row: Row) -> tuple[Tensor, Tensor]:
        """Mean (p, k) and root of the precision (p, p) of (w - m) in units of its prior, given y."""
        rows = self._rows(phi, row.x)
        inverse = (row.mask.to(rows.factor.dtype) / rows.scale).unsqueeze(-1)
        f, r = rows.factor * inverse, self._away(phi, row, rows) * inverse
        lower = cholesky(f.mT @ f + torch.eye(self.features))
        return torch.cholesky_solve(f.mT @ r, lower), lower

    def _away(self, phi: Phi, row: Row, rows: _Rows) -> Tensor:
        """y less its mean, in units of the noise (n, k)."""
        y = row.y.unsqueeze(-1) if self.outputs == 1 else row.y
        return whitened(y - rows.mean, phi["root"])

    def _rows(self, phi: Phi, x: Tensor) -> _Rows:
        features = self._features(phi, x)
        scale = torch.ones_like(features[..., 0])
        if self.spread is not None:
            scale = self.spread(phi["noise_net"], _columns(x)).squeeze(-1).exp()
        return _Rows(features @ phi["mean"], features @ phi["width"], scale)

    def _features(self, phi: Phi, x: Tensor) -> Tensor:
        out = self.network(phi["net"], _columns(x))
        return torch.cat([out, torch.ones_like(out[..., :1])], -1) if self.bias else out


def _columns(x: Tensor) -> Tensor:
    """Inputs with an axis of columns: a single one may come as (n,)."""
    return x.unsqueeze(-1) if x.dim() == 1 else x


def _unit_lower(name: str, size: int, width: float) -> Tensor:
    """A lower triangular matrix with ones on its diagonal, its other elements one site."""
    row, column = torch.tril_indices(size, size, -1)
    below = pyro.sample(name, dist.Normal(0.0, width).expand([len(row)]).to_event(1))
    out = torch.zeros(size * size, dtype=below.dtype).index_put((row * size + column,), below)
    return out.reshape(size, size) + torch.eye(size, dtype=below.dtype)
