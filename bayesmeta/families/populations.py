"""Distributions over several populations: their means in an order, and θ from any of them.

A mixture is the same however its components are numbered, and a sampler that finds one numbering in one chain and
another in the next has found nothing. Here components are numbered by one element of their means, ascending, and
the order is part of the prior's support: of K independent rows, sorted,

    p(m) = K! Π_k Normal(m_k; loc, scale)        where m_1j < m_2j < ... < m_Kj
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.distributions.transforms import OrderedTransform
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import Transform

from bayesmeta.drawing import draw

__all__ = ["OrderedRows", "Populations", "pick"]


class OrderedRows(TorchDistribution):
    """K rows of independent normals, sorted by one element.

    Args:
        loc: Mean of a row (p,).
        scale: Its standard deviations (p,).
        count: K.
        element: Which element ascends.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (as Pyro declares it)

    def __init__(self, loc: Tensor, scale: Tensor, count: int, element: int) -> None:
        self.loc, self.scale, self.count, self.element = loc, scale, count, element
        super().__init__(torch.Size(), torch.Size((count, loc.shape[-1])), validate_args=False)

    @property
    def support(self) -> Any:
        """Rows whose element ascends."""
        return _Ascending(self.loc, self.scale, self.element)

    def log_prob(self, value: Tensor) -> Tensor:
        """The density of the sorted rows, ()."""
        z = (value - self.loc) / self.scale
        each = -0.5 * (z.square() + math.log(2 * math.pi)) - self.scale.log()
        return each.sum((-1, -2)) + math.lgamma(self.count + 1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Rows, sorted."""
        rows = self.loc + self.scale * torch.randn(*sample_shape, *self.event_shape, dtype=self.loc.dtype)
        order = rows[..., self.element].argsort(-1)
        return torch.take_along_dim(rows, order.unsqueeze(-1), -2)


class _Ascending(constraints.Constraint):
    """Matrices (K, p) of which one column ascends; coordinates are counted from `loc` in units of `scale`."""

    event_dim = 2

    def __init__(self, loc: Tensor, scale: Tensor, element: int) -> None:
        self.loc, self.scale, self.element = loc, scale, element

    def check(self, value: Tensor) -> Tensor:
        column = value[..., self.element]
        return (column[..., 1:] > column[..., :-1]).all(-1)


class _Sorting(Transform):
    """From any matrix (K, p) to one of which a column ascends: the sums of what its exponentials add."""

    domain = constraints.independent(constraints.real, 2)
    bijective = True

    def __init__(self, support: _Ascending) -> None:
        super().__init__()
        self.support = support
        self.codomain = support
        self.ordered = OrderedTransform()

    def _call(self, x: Tensor) -> Tensor:
        return self.support.loc + self.support.scale * self._with(x, self.ordered(x[..., self.support.element]))

    def _inverse(self, y: Tensor) -> Tensor:
        z = (y - self.support.loc) / self.support.scale
        return self._with(z, self.ordered.inv(z[..., self.support.element]))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log |dy / dx|, ()."""
        steps: Tensor = x[..., 1:, self.support.element].sum(-1)
        return steps + x.shape[-2] * self.support.scale.log().sum(-1)

    def _with(self, matrix: Tensor, column: Tensor) -> Tensor:
        """The matrix with this column in place of its own; nothing is written to."""
        chosen = torch.arange(matrix.shape[-1]) == self.support.element
        return torch.where(chosen, column.unsqueeze(-1), matrix)


biject_to.register(_Ascending, _Sorting)


class Populations(TorchDistribution):
    """θ of a task that comes from one of K populations, nobody knows which.

    Args:
        weights: How common each is (K,), summing to one.
        populations: Their distributions: batch shape (K,), event shape (p,).
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (as Pyro declares it)
    support = constraints.real_vector

    def __init__(self, weights: Tensor, populations: Any) -> None:
        self.weights, self.populations = weights, populations
        super().__init__(torch.Size(), populations.event_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log Σ_k w_k p_k(θ), ()."""
        each = self.populations.log_prob(value.unsqueeze(-2)) + self.weights.log()
        return torch.logsumexp(each, -1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """A draw from a population that is drawn by its weight."""
        chosen = pick(self.weights, torch.rand(*sample_shape, 1, dtype=self.weights.dtype))
        each = draw(self.populations.expand(torch.Size(sample_shape) + self.populations.batch_shape))
        return (chosen.unsqueeze(-1) * each).sum(-2)


def pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """One of K as a row of zeros with a single one (..., K), by weights (..., K) and a uniform number (..., 1)."""
    below = (weights.cumsum(-1)[..., :-1] < uniform).sum(-1, keepdim=True)
    return (torch.arange(weights.shape[-1]) == below).to(weights.dtype)
