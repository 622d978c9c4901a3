"""Which numbers of a posterior are drawn: sites, elements and tasks, as the user names them or as many as fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from pyro.distributions import constraints
from torch import Tensor

from bayesmeta.errors import NotAvailableError, OptionError, UnknownNameError, unknown
from bayesmeta.plot.style import spread
from bayesmeta.sites import Site, element_labels

if TYPE_CHECKING:
    from bayesmeta.adapt import Adapted
    from bayesmeta.posterior import Posterior
    from bayesmeta.tasks import Tasks

__all__ = [
    "Element",
    "elements_of",
    "enough_draws",
    "of_the_fit",
    "one_site",
    "picked_elements",
    "picked_tasks",
    "support_of",
]

Array = npt.NDArray[np.float64]

ENOUGH_DRAWS = 1000


@dataclass(frozen=True)
class Element:
    """One number of a site.

    Attributes:
        site: The site it belongs to.
        index: Which one, counted over the flattened shape.
        label: Its name: ``mu``, ``L[0,1]``.
    """

    site: Site
    index: int
    label: str

    def of(self, values: Mapping[str, Tensor]) -> Array:
        """Its draws (S,), or (S, T) of a θ, among draws by site (S, ...) or (S, T, ...)."""
        tensor = values[self.site.name]
        lead = tensor.shape[: tensor.dim() - len(self.site.shape)]
        column: Array = tensor.reshape(*lead, -1)[..., self.index].numpy()
        return column


def one_site(sites: Sequence[Site], name: str | None, what: str = "site") -> Site:
    """The site of that name, the first by default.

    Raises:
        NotAvailableError: There is none at all.
        UnknownNameError: None has that name.
    """
    names = [site.name for site in sites]
    if not names:
        raise NotAvailableError("the task of this hierarchy has no θ, so that there is nothing of it to draw")
    if name is not None and name not in names:
        raise UnknownNameError(unknown(what, name, names))
    return sites[0 if name is None else names.index(name)]


def elements_of(site: Site) -> list[Element]:
    """All numbers of a site."""
    return [Element(site, k, label) for k, label in enumerate(element_labels(site.name, site.shape))]


def picked_elements(
    site: Site, wanted: int | Sequence[int] | None, most: int, at_most: int | None = None
) -> list[Element]:
    """The numbers of a site that are asked for; without a wish the first ones, as many as fit.

    Raises:
        OptionError: There is no such number, one is asked for twice, or more than `at_most` are.
    """
    known = elements_of(site)
    if wanted is None:
        return known[:most]
    asked = [wanted] if isinstance(wanted, int) else list(wanted)
    if at_most is not None and len(asked) > at_most:
        raise OptionError(f"elements: at most {at_most} can be drawn in one picture, got {asked}")
    for element in asked:
        if isinstance(element, bool) or not isinstance(element, int) or not 0 <= element < len(known):
            raise OptionError(f"elements must lie between 0 and {len(known) - 1}, got {element!r}")
    if not asked or len(set(asked)) < len(asked):
        raise OptionError(f"elements must name some, each once, got {asked}")
    return [known[element] for element in asked]


def picked_tasks(tasks: Tasks, names: str | Sequence[str] | None, most: int) -> list[int]:
    """Positions of the tasks asked for; without a wish an even spread, from the smallest task to the largest.

    Raises:
        UnknownNameError: There is no such task.
        OptionError: None is asked for.
    """
    if names is None:
        order = torch.argsort(tasks.sizes, stable=True)
        return [int(order[place]) for place in spread(len(tasks), most)]
    found = [tasks.index(name) for name in ([names] if isinstance(names, str) else names)]
    if not found:
        raise OptionError("names: got no task at all; name some, or leave it out for an even spread of all")
    return found


def of_the_fit(posterior: Posterior, positions: Sequence[int], seed: int) -> Adapted:
    """θ of some tasks of the fit, by enough draws for a picture; those of all tasks might not fit into memory."""
    some = posterior.tasks[list(positions)]
    return posterior.adapt(some, draws=enough_draws(posterior), strangers="ignore", seed=seed)


def enough_draws(posterior: Posterior) -> int | None:
    """How many draws of φ a picture needs at most; None where they are members of an ensemble, of which all count."""
    members = posterior.info.inference.get("back_end") == "ensemble"
    return None if members else min(ENOUGH_DRAWS, len(posterior.phi_coordinates))


def support_of(site: Site, *draws: Array) -> tuple[float, float]:
    """Where the numbers of a site can lie at all, lower and upper end; infinite where no draw is kept by it."""
    ends = _ends(site.support)
    inside = all(len(values) == 0 or (values.min() >= ends[0] and values.max() <= ends[1]) for values in draws)
    return ends if inside else (-math.inf, math.inf)


def _ends(support: Any) -> tuple[float, float]:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.simplex:
        return 0.0, 1.0
    if support is constraints.corr_cholesky:
        return -1.0, 1.0
    lower, upper = (getattr(support, name, default) for name, default in _BOUNDS)
    return _number(lower, -math.inf), _number(upper, math.inf)


_BOUNDS = (("lower_bound", -math.inf), ("upper_bound", math.inf))


def _number(bound: Any, default: float) -> float:
    """A bound that is one number; one for each element, or that depends on something, is none."""
    return float(bound) if not isinstance(bound, Tensor) or bound.numel() == 1 else default
