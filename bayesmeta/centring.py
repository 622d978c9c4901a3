"""Coordinates of a normal site between its value and its standardised value: the degree of centring.

For θ ~ Normal(m, s) the coordinate u of degree c is

    u ~ Normal(b m, s^c),      θ = m + s z,      z = (u - b m) s^-c

Centred (c = b = 1) u is θ itself; not centred (c = b = 0) it is the standard normal z, whose prior does not
depend on φ. The one suits tasks whose data say much about θ, the other those whose data say little; between
them the posteriors of u and φ are least dependent at c = 1 - var(θ | y, φ) / s², the share of its prior variance
that the data take away (Papaspiliopoulos, Roberts, Sköld 2007, "A general framework for the parametrization of
hierarchical models"). Gorinova, Moore, Hoffman (2020, "Automatic reparameterisation of probabilistic programs")
have b = c, which depends on the units of θ; with b = c ŝ^(c - 1), ŝ a typical s, it does not.

A log-normal site is one whose logarithm is normal. Of a multivariate normal one, each element is normal given
those before it, m_i = loc_i + Σ_{j<i} L_ij z_j and s_i = L_ii, and has a degree of its own.

Pyro's `LocScaleReparam(centered)` has the same u with b = c. It is not used here, because it works on sites by
name in a Pyro model, learns its degrees as `pyro.param` through SVI, and knows no multivariate normal; here a
degree is a number by task and element, goes through `torch.func.vmap` as the rows of a task do, and needs no
guide.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import torch
from pyro.distributions import Independent
from torch import Tensor
from torch.distributions import biject_to

__all__ = ["CENTRED", "STANDARDISED", "Centring", "Degree", "Placed", "base_of", "is_normal", "place", "place_log_prob"]

CENTRED = 1.0
STANDARDISED = 0.0
NORMAL = ("Normal", "LogNormal", "MultivariateNormal")
# Below it, a scale counts as this one in s^-c: c = 0 must stay harmless where a scale underflows to zero.
LEAST_SCALE = 1e-300


class Degree(NamedTuple):
    """A degree by element: u ~ Normal(loc · m, s ^ scale); both of the shape of the site, or scalars."""

    scale: Tensor
    loc: Tensor


# 1.0 for centred, 0.0 for standardised, both known while a density is recorded; or a degree by element.
Centring: TypeAlias = float | Degree


class Placed(NamedTuple):
    """A site at its coordinates u: its value, how u is meant, and z where u is not the value itself."""

    value: Tensor
    u: Tensor
    centring: Centring
    z: Tensor | None


def base_of(fn: Any) -> Any:
    """The distribution inside (nested) `Independent` ones."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn


def is_normal(fn: Any) -> bool:
    """Whether a site of this distribution can be anything but centred."""
    return type(base_of(fn)).__name__ in NORMAL


def place(fn: Any, u: Tensor, centring: Centring) -> Placed:
    """The value of a site at unconstrained coordinates u."""
    base = base_of(fn)
    name = type(base).__name__
    if centring == CENTRED or name not in NORMAL:
        return Placed(biject_to(fn.support)(u), u, CENTRED, None)
    if name == "MultivariateNormal":
        z = u if centring == STANDARDISED else _standardised_in_turn(base, u, _degree(centring, u))
        return Placed(base.loc + (base.scale_tril * z.unsqueeze(-2)).sum(-1), u, centring, z)
    z = u if centring == STANDARDISED else _standardised(base.loc, base.scale, u, _degree(centring, u))
    value = base.loc + base.scale * z
    return Placed(value.exp() if name == "LogNormal" else value, u, centring, z)


def place_log_prob(fn: Any, placed: Placed) -> tuple[Tensor, Tensor | None]:
    """Log density of a site over its batch shape, and the log Jacobian of its coordinates u, summed.

    They are kept apart because a scale or mask on the site is one on its density alone. Coordinates that are not
    centred have a density of their own, and None to add.
    """
    value, u, centring, z = placed
    if z is None:
        return fn.log_prob(value), biject_to(fn.support).log_abs_det_jacobian(u, value).sum()
    base = base_of(fn)
    several = type(base).__name__ == "MultivariateNormal"
    terms = -0.5 * (z.square() + math.log(2 * math.pi))
    if centring != STANDARDISED:
        scale = torch.diagonal(base.scale_tril, dim1=-2, dim2=-1) if several else base.scale
        terms = terms - _degree(centring, u).scale * _log(scale)
    return terms.sum(-1) if several else terms, None


def _degree(centring: Centring, u: Tensor) -> Degree:
    if isinstance(centring, Degree):
        return centring
    return Degree(u.new_tensor(centring), u.new_tensor(centring))


def _log(scale: Tensor) -> Tensor:
    return scale.clamp(min=LEAST_SCALE).log()


def _standardised(mean: Tensor, scale: Tensor, u: Tensor, degree: Degree) -> Tensor:
    return (u - degree.loc * mean) * torch.exp(-degree.scale * _log(scale))


def _standardised_in_turn(fn: Any, u: Tensor, degree: Degree) -> Tensor:
    """z of a multivariate normal, one element after another."""
    root, loc = fn.scale_tril, fn.loc
    inverse = torch.exp(-degree.scale * _log(torch.diagonal(root, dim1=-2, dim2=-1)))
    weight = degree.loc.expand(u.shape)
    z: list[Tensor] = []
    for i in range(u.shape[-1]):
        mean = loc[..., i]
        if z:
            mean = mean + (root[..., i, :i] * torch.stack(z, -1)).sum(-1)
        z.append((u[..., i] - weight[..., i] * mean) * inverse[..., i])
    return torch.stack(z, -1)
