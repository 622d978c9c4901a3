"""Sites and their coordinates: what a Pyro function samples, and how values map to the real line.

Every latent site lives in unconstrained coordinates: ``value = biject_to(support)(u)``, and its log density
carries ``log |d value / d u|``. The transform is taken from the distribution met while running, so that a
support may depend on other sites (a uniform whose upper bound is sampled).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro.distributions import constraints
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import IndependentTransform

from bayesmeta.centring import CENTRED, Centring, Placed, base_of, place, place_log_prob
from bayesmeta.drawing import draw
from bayesmeta.errors import HierarchyError

__all__ = [
    "Meeting",
    "Site",
    "Sites",
    "Values",
    "coordinates_shape",
    "element_labels",
    "elementwise_log_prob",
    "quiet_pyro",
]

MIXED = getattr(constraints, "MixtureSameFamilyConstraint", None)
if MIXED is not None:  # a mixture lies where its components lie, which torch does not say (2.13)
    biject_to.register(MIXED, lambda mixed: biject_to(mixed.base_constraint))


@dataclass(frozen=True)
class Site:
    """One sample site: its name, the family of its distribution, its shape, its support and its plates.

    `plates` names each axis of the shape by the plate it belongs to, None where it belongs to none.
    """

    name: str
    family: str
    shape: tuple[int, ...]
    support: Any
    unconstrained_shape: tuple[int, ...]
    plates: tuple[str | None, ...] = ()

    @property
    def size(self) -> int:
        """Number of unconstrained coordinates."""
        return math.prod(self.unconstrained_shape)

    @property
    def is_real(self) -> bool:
        """Whether its coordinates are its values: real support, nothing reshaped."""
        probe = torch.linspace(-2.0, 2.0, self.size).reshape(self.unconstrained_shape)
        return self.shape == self.unconstrained_shape and torch.equal(biject_to(self.support)(probe), probe)

    def describe_support(self) -> str:
        """The support in a word: ``real``, ``positive``, ``corr_cholesky``, ..."""
        return describe_support(self.support)


@dataclass(frozen=True)
class Sites:
    """Latent sites in the order in which they were met, laid out one after the other in one flat vector."""

    items: tuple[Site, ...]
    names: tuple[str, ...] = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(site.name for site in self.items))
        object.__setattr__(self, "size", sum(site.size for site in self.items))

    def __iter__(self) -> Iterator[Site]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def split(self, u: Tensor) -> dict[str, Tensor]:
        """Cut a flat vector (size,) into one unconstrained tensor per site."""
        parts, start = {}, 0
        for site in self.items:
            parts[site.name] = u[start : start + site.size].reshape(site.unconstrained_shape)
            start += site.size
        return parts

    def flatten(self, values: Mapping[str, Tensor]) -> Tensor:
        """Constrained values laid out one after the other (as they are, not unconstrained)."""
        return torch.cat([values[site.name].reshape(-1) for site in self.items])

    def labels(self) -> list[str]:
        """One label per constrained element: ``mu``, ``L[0,1]``, ..."""
        return [label for site in self.items for label in element_labels(site.name, site.shape)]


def element_labels(name: str, shape: tuple[int, ...]) -> list[str]:
    """Names of the elements of a tensor: ``["b[0]", "b[1]"]``; a scalar keeps its own name."""
    if not shape:
        return [name]
    index = torch.cartesian_prod(*[torch.arange(k) for k in shape]).reshape(-1, len(shape))
    return [f"{name}[{','.join(str(int(i)) for i in row)}]" for row in index]


def coordinates_shape(transform: Any, shape: tuple[int, ...]) -> torch.Size:
    """The shape of the coordinates of a value of that shape, under the transform of its support.

    Where a transform works element by element it is the same, and torch need not be asked, whose answer loads its
    symbolic shapes, slowly.
    """
    base = transform
    while isinstance(base, IndependentTransform):
        base = base.base_transform
    if base.domain.event_dim == base.codomain.event_dim == 0:
        return torch.Size(shape)
    return torch.Size(transform.inverse_shape(torch.Size(shape)))


def describe_support(support: Any) -> str:
    """A constraint in a word."""
    if isinstance(support, constraints.independent):
        return describe_support(support.base_constraint)
    known = {constraints.real: "real", constraints.positive: "positive", constraints.nonnegative: "positive"}
    if support in known:
        return known[support]
    return type(support).__name__.removeprefix("_").replace("CorrCholesky", "corr_cholesky").lower()


@dataclass(frozen=True)
class Meeting:
    """What was seen of one site in one run: its distribution, its value and its log density terms.

    `placed` tells of the coordinates that a latent site was given, if it was; `plates` are the names and (negative)
    batch axes of the plates that the site stands in.
    """

    name: str
    fn: Any
    value: Tensor
    observed: bool
    scale: Any = 1.0
    mask: Any = None
    placed: Placed | None = None
    plates: tuple[tuple[str, int], ...] = ()

    def log_prob(self) -> Tensor:
        """Log density of the site, summed; in the coordinates it was given in, if it was, with their Jacobian."""
        if self.placed is None:
            return self._sum(self.fn.log_prob(self.value))
        terms, log_jacobian = place_log_prob(self.fn, self.placed)
        return self._sum(terms) if log_jacobian is None else self._sum(terms) + log_jacobian

    def _sum(self, terms: Tensor) -> Tensor:
        total: Tensor = scale_and_mask(terms, self.scale, self.mask).sum()
        return total

    def rows_log_prob(self) -> Tensor:
        """Log density before any sum over an `Independent`: its leading axis runs over the observations."""
        terms: Tensor = scale_and_mask(elementwise_log_prob(self.fn, self.value), self.scale, self.mask)
        return terms


def elementwise_log_prob(fn: Any, value: Tensor) -> Tensor:
    """Log density at the base of (nested) `Independent` distributions."""
    terms: Tensor = base_of(fn).log_prob(value)
    return terms


class Values(Messenger):
    """A Pyro handler that gives each latent site its value and keeps what every site said.

    Args:
        values: Value by site name, unconstrained or constrained.
        constrained: Whether `values` are values, or coordinates to be mapped through `biject_to(support)`.
        centring: How coordinates of normal sites are meant, for all or by site (centred where a site is not named);
            a site under a scale or mask is always centred.
        fallback: Called as ``fallback(name, fn)`` for a latent site that has no value; without it, the site
            is drawn from its distribution.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor] | None = None,
        *,
        constrained: bool = False,
        centring: Centring | Mapping[str, Centring] = CENTRED,
        fallback: Callable[[str, Any], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.values = values or {}
        self.constrained = constrained
        self.centring = centring
        self.fallback = fallback
        self.met: dict[str, Meeting] = {}
        self._placed: dict[str, Placed] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if _is_subsample(msg):
            _check_whole(msg)
            return
        if msg["is_observed"]:
            return
        name = msg["name"]
        if name not in self.values:
            msg["value"] = draw(msg["fn"]) if self.fallback is None else self.fallback(name, msg["fn"])
        elif self.constrained:
            msg["value"] = self.values[name]
        else:
            self._placed[name] = place(msg["fn"], self.values[name], self._centring_of(msg))
            msg["value"] = self._placed[name].value

    def _centring_of(self, msg: Any) -> Centring:
        if msg["mask"] is not None or not _unscaled(msg["scale"]):
            return CENTRED
        if isinstance(self.centring, Mapping):
            return self.centring.get(msg["name"], CENTRED)
        return self.centring

    def _pyro_post_sample(self, msg: Any) -> None:
        if _is_subsample(msg) or hidden(msg):
            return
        name = msg["name"]
        if name in self.met:
            raise HierarchyError(
                f"two sites are named {name!r}; only the last would count: give each a name of its own"
            )
        self.met[name] = Meeting(
            name,
            msg["fn"],
            msg["value"],
            bool(msg["is_observed"]),
            msg["scale"],
            msg["mask"],
            self._placed.get(name),
            tuple((frame.name, frame.dim) for frame in msg["cond_indep_stack"] if frame.vectorized),
        )

    def _pyro_param(self, msg: Any) -> None:
        raise HierarchyError(
            f"the model calls pyro.param({msg['name']!r}); a hierarchy has no free parameters: "
            "give it a prior with pyro.sample in the hyperprior"
        )


def _unscaled(scale: Any) -> bool:
    return isinstance(scale, (int, float)) and scale == 1


def hidden(msg: Any) -> bool:
    """Whether a site only records a value: `pyro.deterministic`, or what a reparametrisation leaves behind."""
    masked = getattr(msg["fn"], "_mask", None) is False
    return bool(msg["infer"].get("_deterministic", False)) or (msg["is_observed"] and masked)


def _is_subsample(msg: Any) -> bool:
    return type(msg["fn"]).__name__ == "_Subsample"


def _check_whole(msg: Any) -> None:
    """A density is of all rows; `msg` is what Pyro sends when a plate is entered."""
    size, some = msg["fn"].size, msg["fn"].subsample_size
    if some is not None and some < size:
        raise HierarchyError(
            f"plate {msg['name']!r} takes {some} of {size} rows at random, and the density would be another at every "
            "look: leave subsample_size out; SVI(batch_size=...) takes some of the tasks at a time"
        )


@contextmanager
def quiet_pyro() -> Iterator[None]:
    """Run user functions in double precision and without Pyro's validation; restores both afterwards."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with pyro.validation_enabled(False):
            yield
    finally:
        torch.set_default_dtype(dtype)
