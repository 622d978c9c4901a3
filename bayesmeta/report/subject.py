"""What a report is about: a posterior, the same with no more draws than a page needs, and its words."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bayesmeta.evidence import Joint
from bayesmeta.plot.style import noun
from bayesmeta.tasks import Tasks

if TYPE_CHECKING:
    from bayesmeta.posterior import Posterior

__all__ = ["Subject", "collected", "lighter"]

MOST_DRAWS, FEWEST_DRAWS = 1000, 100
NUMBERS = 20_000_000  # of θ, over draws and tasks


@dataclass(frozen=True)
class Subject:
    """What a report is about.

    Attributes:
        posterior: The posterior.
        story: What its model says of itself; empty where it says nothing.
        seed: Seeds everything random.
    """

    posterior: Posterior
    story: str
    seed: int

    @property
    def tasks(self) -> Tasks:
        """The tasks of the fit."""
        return self.posterior.tasks

    @property
    def noun(self) -> str:
        """What a task is called."""
        return noun(self.posterior)

    @property
    def joint(self) -> bool:
        """Whether θ was sampled together with φ."""
        return isinstance(self.posterior.collapsed, Joint)

    @property
    def ensemble(self) -> bool:
        """Whether φ is a handful of point estimates rather than draws."""
        return self.posterior.info.inference.get("back_end") == "ensemble"

    @cached_property
    def light(self) -> Posterior:
        """The posterior with an even spread of its draws: a thousand, fewer where tasks are very many."""
        theta = max(1, self.posterior.collapsed.program.structure.theta.size) * len(self.tasks)
        return lighter(self.posterior, min(MOST_DRAWS, max(FEWEST_DRAWS, NUMBERS // theta)))

    def some(self, most: int) -> Tasks:
        """At most so many of the tasks that have observations, of all sizes, in the order of the fit."""
        sizes = self.tasks.sizes
        order = torch.argsort(sizes, stable=True)
        order = order[sizes[order] > 0]
        if len(order) > most:
            order = order[torch.linspace(0, len(order) - 1, most).round().long()]
        kept: Tensor = order.sort().values
        return self.tasks[kept]


def lighter(posterior: Posterior, most: int) -> Posterior:
    """The posterior with an even spread of so many of its draws at most, as many of each chain."""
    draws = posterior.draws
    chains, length = draws.u.shape[:2]
    per_chain = max(1, most // chains)
    if length <= per_chain:
        return posterior
    kept = torch.linspace(0, length - 1, per_chain).round().long()
    stats = {name: values[:, kept.numpy()] for name, values in draws.stats.items()}
    fewer = replace(draws, u=draws.u[:, kept], stats=stats)
    return type(posterior)(posterior.hierarchy, posterior.tasks, posterior.collapsed, fewer, posterior.info)


@contextmanager
def collected() -> Iterator[list[str]]:
    """Gather the warnings of the block, to be said on the page rather than on the screen."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
    found += dict.fromkeys(str(one.message) for one in caught)
