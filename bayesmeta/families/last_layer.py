"""A network shared by all tasks, and a Bayesian last layer of each task's own.

    y_i = w' f(x_i) + σ h(x_i) ε_i,      w ~ Normal(m, σ² L L'),      f(x) = (network(x), 1)

φ is the network, m, L and the noise; θ is w, and given φ everything is Gaussian: log Z_t(φ), θ | φ, D_t and the
predictive distribution are in closed form, and cost a Cholesky factor of the smaller of the number of features and of
observations. Maximising the evidence teaches the network features *and* how they vary from task to task. With k
outputs W is matrix-normal, with SS' between outputs in place of σ² (Harrison, Sharma, Pavone 2018, "Meta-learning
priors for efficient online Bayesian regression").

Where w is far from normal, or the noise is not the same in all tasks, tasks may come from K populations, each with m,
L, σ and h of its own, on features that all share. Which one is summed over: log Z is the log of the sum of K, and
predictions are mixtures of K.

L is counted in units of the noise, as is usual for this family; `scale` is the size that y is expected to have, and
all priors go by it.
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

from bayesmeta.closed_form import ClosedForm, Mixed
from bayesmeta.errors import HierarchyError, OptionError, unknown
from bayesmeta.families.class_layer import class_layer
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
MEAN_SPREAD = 2.0  # of the mean of a weight, in units of its expected size
SHARE = 2.0  # of the Dirichlet prior of the populations
EDGE = 1e-12  # labels stay this far from the ends of their cells

Phi = Mapping[str, Any]


def last_layer(
    net: nn.Module | Network,
    *,
    inputs: int | tuple[int, ...] = 1,
    outputs: int = 1,
    classes: int | None = None,
    exchangeable: bool = False,
    noise: Literal["learnt"] | float | nn.Module = "learnt",
    covariance: Literal["full", "diagonal"] = "full",
    bias: bool = True,
    populations: int = 1,
    scale: float = 1.0,
) -> Hierarchy:
    """Features by a network that all tasks share, and a Bayesian linear layer per task.

    Args:
        net: The network, (n, inputs) to (n, features), an ordinary module; or a `Network`, for priors of another
            scale.
        inputs: d, the number of input columns, or the shape of an input: ``(1, 28, 28)``.
        outputs: k; y is (n,) for one and (n, k) for several.
        classes: N; y is then a class, 0 to N-1, and the layer a logistic regression: see
            `bayesmeta.families.class_layer`. Of the other options `exchangeable`, `bias` and `scale` go with it.
        exchangeable: Whether classes are numbered anyhow, another way in each task, as in few-shot learning.
        noise: ``"learnt"``, the known sd of the noise, or a network (n, inputs) to (n, 1) whose softplus
            multiplies a learnt sd: noise that depends on x. With populations it may give (n, populations).
        covariance: Of the weights of a task: ``"full"`` or ``"diagonal"``.
        bias: Whether a constant is one of the features.
        populations: K, the populations that tasks come from.
        scale: The size that y is expected to have, for the priors; of classes, that of log odds.

    Returns:
        A hierarchy with evidence in closed form, of classes by Laplace's approximation. φ are ``net.*``, ``w_mean``,
        ``w_scale``, ``w_lower``, ``noise`` and ``share``; θ is ``w`` (p,), or (p k,) for several outputs, output by
        output within a feature, and ``label``, whose standard normal probability says which population it is. With
        classes φ are ``net.*``, ``w_mean`` and ``w_scale``, and θ is ``w`` (p, N).

    Raises:
        OptionError: An option out of its range.
        HierarchyError: The network is not a function of x that gives features, see `Network`.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh())
        >>> hierarchy = last_layer(net, scale=3.0)
    """
    _check(inputs, outputs, populations, covariance, noise, scale)
    network = net if isinstance(net, Network) else Network(net)
    shape = (inputs,) if isinstance(inputs, int) else tuple(inputs)
    if classes is not None:
        _check_classes(classes, (outputs, populations, covariance, noise))
        return class_layer(network, shape, classes, bias=bias, scale=scale, exchangeable=exchangeable)
    if exchangeable:
        raise OptionError("exchangeable=True is about classes: say how many there are, classes=N, or leave it out")
    features = network.width(shape) + bias
    spread = Network(noise, name="noise_net") if isinstance(noise, nn.Module) else None
    if spread is not None and (given := spread.width(shape)) not in (1, populations):
        raise HierarchyError(f"the noise network gives {given} numbers for each x, wanted 1 or {populations}")
    known = None if isinstance(noise, str | nn.Module) else float(noise)
    layer = _LastLayer(network, spread, known, features, outputs, populations, covariance == "full", bias, scale)
    form = ClosedForm(
        log_z=layer.log_z,
        theta=layer.theta,
        predictive=layer.predictive,
        road=f"own: the last layer ({features} features) is integrated out in closed form",
        numbers=features * populations,
    )
    return Hierarchy(layer.hyperprior, layer.task, evidence=form)


def _check(inputs: Any, outputs: Any, populations: Any, covariance: Any, noise: Any, scale: Any) -> None:
    """Raise an OptionError for an option out of its range."""
    sides = [("inputs", side) for side in (inputs if isinstance(inputs, tuple) else (inputs,))]
    for name, value in (*sides, ("outputs", outputs), ("populations", populations)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise OptionError(f"{name} must be a whole number of at least 1, got {value!r}")
    if covariance not in COVARIANCES:
        raise OptionError(unknown("covariance", covariance, COVARIANCES))
    if not _is_positive(scale):
        raise OptionError(f"scale must be a number above 0, got {scale!r}")
    if noise != "learnt" and not isinstance(noise, nn.Module) and not _is_positive(noise):
        raise OptionError(f"noise must be 'learnt', a number above 0 or a network, got {noise!r}")


def _check_classes(classes: Any, others: tuple[Any, ...]) -> None:
    """Raise an OptionError unless there are two classes at least, and the options of other observations are as ever."""
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 2:
        raise OptionError(f"classes must be a whole number of at least 2, got {classes!r}")
    if others != (1, 1, "full", "learnt"):
        raise OptionError("outputs, populations, covariance and noise are for observations that are numbers: leave out")


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


class _Rows(NamedTuple):
    """What the network says of rows: in units of the noise, except for the mean."""

    mean: Tensor  # f(x) m, (K, n, k)
    factor: Tensor  # f(x) L, (K, n, p)
    scale: Tensor  # h(x), (K, n)


@dataclass(frozen=True)
class _LastLayer:
    """The functions of the family; p features, k outputs. With K > 1 populations, they come first of all axes."""

    network: Network
    spread: Network | None
    known: float | None
    features: int
    outputs: int
    populations: int
    full: bool
    bias: bool
    scale: float

    @property
    def lead(self) -> tuple[int, ...]:
        """The axis of populations, where there are several."""
        return () if self.populations == 1 else (self.populations,)

    def hyperprior(self) -> dict[str, Any]:
        """φ: network, mean and root of the covariance of w, the noise, and how common each population is."""
        p, k, lead = self.features, self.outputs, self.lead
        phi: dict[str, Any] = {"net": self.network.sample()}
        if self.spread is not None:
            phi["noise_net"] = self.spread.sample()
        if lead:
            phi["share"] = pyro.sample("share", dist.Dirichlet(torch.full(lead, SHARE)))
        phi["root"] = self._noise()
        size = self.scale / math.sqrt(p)  # of one weight, for p features of size one to add up to the scale
        mean = dist.Normal(0.0, MEAN_SPREAD * size)
        phi["mean"] = pyro.sample("w_mean", mean.expand([*lead, p, k]).to_event(2 + len(lead)))
        width = math.log(size / (self.known or NOISE * self.scale))
        sd = pyro.sample("w_scale", dist.LogNormal(width, WIDTH_SPREAD).expand([*lead, p]).to_event(1 + len(lead)))
        lower = torch.eye(p)
        if self.full and p > 1:
            lower = _unit_lower("w_lower", lead, p, 1 / math.sqrt(p))
        phi["width"] = sd.unsqueeze(-1) * lower
        return phi

    def _noise(self) -> Tensor:
        """S (K, k, k), the root of the covariance of the noise."""
        k, lead = self.outputs, self.lead
        if self.known is not None:
            return self.known * torch.eye(k).expand(*lead, k, k)
        prior = dist.LogNormal(math.log(NOISE * self.scale), NOISE_SPREAD)
        noise = pyro.sample("noise", prior.expand([*lead, k]).to_event(1 + len(lead)))
        return noise.unsqueeze(-1) * (_unit_lower("noise_lower", lead, k, 0.5) if k > 1 else torch.eye(1))

    def task(self, phi: Phi, x: Tensor, y: Tensor | None = None) -> Tensor:
        """One task, with its population and w sampled: what the formulas must agree with."""
        mean, width, root = phi["mean"], phi["width"], phi["root"]
        scale = self._noise_at(phi, x)
        if self.lead:
            label = pyro.sample("label", dist.Normal(0.0, 1.0))
            chosen = _one_of(torch.special.ndtr(label), phi["share"])
            mean, width, root = (torch.tensordot(chosen, t, 1) for t in (mean, width, root))
            scale = chosen @ scale
        prior = dist.MultivariateNormal(mean.reshape(-1), scale_tril=torch.kron(width, root))
        w = pyro.sample("w", prior).reshape(self.features, self.outputs)
        mean = self._features(phi, x) @ w
        if self.outputs == 1:
            return pyro.sample("y", dist.Normal(mean.squeeze(-1), scale * root.squeeze()).to_event(1), obs=y)
        noise = scale[..., None, None] * root
        return pyro.sample("y", dist.MultivariateNormal(mean, scale_tril=noise).to_event(1), obs=y)

    def log_z(self, phi: Phi, row: Row) -> Tensor:
        """log p(y | x, φ) of one task."""
        rows = self._rows(phi, row.x)
        each = log_rows(self._away(phi, row, rows), rows.factor, rows.scale, phi["root"], row.mask)
        return torch.logsumexp(each + phi["share"].log(), 0) if self.lead else each

    def theta(self, phi: Phi, row: Row, z: Tensor) -> Tensor:
        """A draw of w | φ, y from standard normal numbers (p k,); before it the label, where there is one."""
        mean, lower = self._conditional(phi, row)
        offset, width, root = phi["mean"], phi["width"], phi["root"]
        label = z[:0]
        if self.lead:
            chosen, label = _drawn_label(z[0], self._log_shares(phi, row).exp(), phi["share"])
            mean, lower, offset, width, root = (
                torch.tensordot(chosen, t, 1) for t in (mean, lower, offset, width, root)
            )
        noise = z[len(label) :].reshape(self.features, self.outputs)
        standard = mean + torch.linalg.solve_triangular(lower.mT, noise, upper=True)
        return torch.cat([label, (offset + width @ standard @ root.mT).reshape(-1)])

    def predictive(self, phi: Phi, row: Row, x: Tensor) -> RowsNormal | Mixed:
        """p(y* | φ, y) at inputs x."""
        mean, lower = self._conditional(phi, row)
        rows = self._rows(phi, x)
        loc = rows.mean + rows.factor @ mean @ phi["root"].mT
        factor = torch.linalg.solve_triangular(lower, rows.factor.mT, upper=False).mT
        parts = RowsNormal(loc.squeeze(-1) if self.outputs == 1 else loc, factor, rows.scale, phi["root"])
        return Mixed(self._log_shares(phi, row), parts) if self.lead else parts

    def _log_shares(self, phi: Phi, row: Row) -> Tensor:
        """log p(population | φ, y), (K,)."""
        rows = self._rows(phi, row.x)
        each = log_rows(self._away(phi, row, rows), rows.factor, rows.scale, phi["root"], row.mask)
        return torch.log_softmax(each + phi["share"].log(), 0)

    def _conditional(self, phi: Phi, row: Row) -> tuple[Tensor, Tensor]:
        """Mean (K, p, k) and root of the precision (K, p, p) of (w - m) in units of its prior, given y."""
        rows = self._rows(phi, row.x)
        inverse = (row.mask.to(rows.factor.dtype) / rows.scale).unsqueeze(-1)
        f, r = rows.factor * inverse, self._away(phi, row, rows) * inverse
        lower = cholesky(f.mT @ f + torch.eye(self.features))
        return torch.cholesky_solve(f.mT @ r, lower), lower

    def _away(self, phi: Phi, row: Row, rows: _Rows) -> Tensor:
        """y less its mean, in units of the noise (K, n, k)."""
        y = row.y.unsqueeze(-1) if self.outputs == 1 else row.y
        return whitened(y - rows.mean, phi["root"])

    def _rows(self, phi: Phi, x: Tensor) -> _Rows:
        features = self._features(phi, x)
        return _Rows(features @ phi["mean"], features @ phi["width"], self._noise_at(phi, x))

    def _noise_at(self, phi: Phi, x: Tensor) -> Tensor:
        """h at inputs x (K, n)."""
        if self.spread is None:
            return torch.ones(*self.lead, len(x))
        # softplus, not exp: a network that is piecewise linear then goes on linearly beyond the data
        scale = torch.nn.functional.softplus(self.spread(phi["noise_net"], _columns(x))) / math.log(2)
        return scale.mT.expand(*self.lead, len(x)) if self.lead else scale.squeeze(-1)

    def _features(self, phi: Phi, x: Tensor) -> Tensor:
        out = self.network(phi["net"], _columns(x))
        return torch.cat([out, torch.ones_like(out[..., :1])], -1) if self.bias else out


def _columns(x: Tensor) -> Tensor:
    """Inputs with an axis of columns: a single one may come as (n,)."""
    return x.unsqueeze(-1) if x.dim() == 1 else x


def _unit_lower(name: str, lead: tuple[int, ...], size: int, width: float) -> Tensor:
    """Lower triangular matrices (*lead, size, size) with ones on the diagonal, their other elements one site."""
    row, column = torch.tril_indices(size, size, -1)
    prior = dist.Normal(0.0, width).expand([*lead, len(row)])
    below = pyro.sample(name, prior.to_event(1 + len(lead)))
    index = torch.full((size, size), len(row))
    index[row, column] = torch.arange(len(row))
    padded = torch.cat([below, torch.zeros(*lead, 1, dtype=below.dtype)], -1)
    return padded[..., index] + torch.eye(size, dtype=below.dtype)


def _one_of(level: Tensor, share: Tensor) -> Tensor:
    """Which of K cells of [0, 1], as wide as their shares, a level lies in: one-hot (K,)."""
    cell = (level > share.cumsum(0)[:-1]).sum(0)
    return torch.nn.functional.one_hot(cell, len(share)).to(share.dtype)


def _drawn_label(z: Tensor, share: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    """A population drawn by its shares (K,), one-hot, and its label (1,): where in its cell of the prior is chance."""
    level = torch.special.ndtr(z)
    chosen = _one_of(level, share)
    below, below_prior = (t.cumsum(0) - t for t in (share, prior))
    within = ((level - chosen @ below) / (chosen @ share)).clamp(EDGE, 1 - EDGE)
    label = torch.special.ndtri(chosen @ below_prior + chosen @ prior * within)
    return chosen, label.unsqueeze(0)
