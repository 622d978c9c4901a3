"""No integral at all: the joint density of φ and every θ, for hierarchies whose tasks have no closed form.

    log p(φ) + Σ_t [ log p(θ_t | φ) + log p(y_t | x_t, θ_t, φ) ]

Normal, log-normal and multivariate normal θ are standardised (θ = loc + scale · u, u standard normal), which
takes the funnel between φ and θ out of the density; every other θ is mapped to the real line by its support.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bayesmeta.program import Phi, Program, Row
from bayesmeta.tasks import Tasks

__all__ = ["Joint"]


class Joint:
    """The joint density over φ and θ of all tasks.

    Args:
        program: The hierarchy's functions.
        tasks: The tasks, padded into few batches of similar size.
        centred: Keep normal θ as they are instead of standardising them.
    """

    gram = False

    def __init__(self, program: Program, tasks: Tasks, *, centred: bool = False) -> None:
        self.program = program.with_centring(centred)
        self.tasks = tasks
        self.road = "joint: φ and the θ of all tasks are sampled together, " + (
            "centred" if centred else "normal θ standardised (non-centred)"
        )
        batches = tasks.padded(exact_sizes=not program.structure.maskable)
        self.data: Any = [Row.of(batch) for batch in batches]
        order = torch.cat([batch.index for batch in batches])
        self._counts = [len(batch.index) for batch in batches]
        self._order = torch.argsort(order)
        self._where = order
        self.cells = sum(batch.mask.numel() for batch in batches)

    def total(self, phi: Phi, v: Tensor, data: Any) -> Tensor:
        """Σ_t log p(y_t, θ_t | φ) at coordinates v (T, p) of θ in the order of the tasks."""

        def one(v: Tensor, row: Row) -> Tensor:
            return self.program.log_joint(phi.returned, v, row)

        parts = v[self._where].split(self._counts)
        terms = [self.program.over_tasks(one)(part, row).sum() for part, row in zip(parts, data, strict=True)]
        return torch.stack(terms).sum()

    def theta(self, phi: Phi, v: Tensor, data: Any) -> dict[str, Tensor]:
        """Constrained θ by site (T, ...) at coordinates v (T, p)."""

        def one(v: Tensor, row: Row) -> dict[str, Tensor]:
            return self.program.values(v, phi.returned, row)

        parts = v[self._where].split(self._counts)
        values = [self.program.over_tasks(one)(part, row) for part, row in zip(parts, data, strict=True)]
        return {name: torch.cat([part[name] for part in values])[self._order] for name in values[0]}
