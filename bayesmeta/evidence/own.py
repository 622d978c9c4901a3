"""The evidence that a family brings itself: its `ClosedForm`, mapped over tasks and draws of φ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bayesmeta.closed_form import ClosedForm
from bayesmeta.errors import HierarchyError
from bayesmeta.mapping import chunk_size, over_draws
from bayesmeta.program import Phi, Program, Row
from bayesmeta.tasks import Tasks

__all__ = ["Own"]


class Own:
    """Evidence of tasks by the formulas of their family.

    Args:
        program: The hierarchy's functions, with a closed form among them.
        tasks: The tasks, padded into few batches of similar size.

    Raises:
        HierarchyError: The hierarchy has no closed form, or one that does not go with its task.
    """

    gram = False

    def __init__(self, program: Program, tasks: Tasks) -> None:
        self.form = _form_of(program)
        self.form.check(has_theta=len(program.structure.theta) > 0)
        self.program = program
        self.tasks = tasks
        batches = tasks.padded()
        self.data: Any = [Row.of(batch) for batch in batches]
        self._counts = [len(batch.index) for batch in batches]
        self._where = torch.cat([batch.index for batch in batches])
        self._order = torch.argsort(self._where)
        self.cells = self.form.numbers * sum(batch.mask.numel() for batch in batches)

    @property
    def road(self) -> str:
        """What is done about θ, in a sentence."""
        return self.form.road

    def on(self, tasks: Tasks) -> Own:
        """The same evidence of other tasks."""
        return Own(self.program, tasks)

    def total(self, phi: Phi, data: Any) -> Tensor:
        """Σ_t log Z_t(φ)."""
        return torch.stack([log_z.sum() for log_z in self._log_z(phi, data)]).sum()

    def per_task(self, phi: Phi, data: Any) -> Tensor:
        """log Z_t(φ) in nats, (T,)."""
        return torch.cat(self._log_z(phi, data))[self._order]

    def _log_z(self, phi: Phi, data: Any) -> list[Tensor]:
        log_z = self.program.over_tasks(lambda row: self.form.log_z(phi.returned, row))
        return [log_z(rows) for rows in data]

    def drawn(self, phi: Tensor, generator: torch.Generator) -> Tensor:
        """Draws of θ_t | φ, D_t in centred coordinates (S, T, p), at coordinates of φ (S, q) or (S, T, q)."""
        count, p = len(self.tasks), self.program.structure.theta.size
        if self.form.theta is None:
            return torch.zeros(len(phi), count, 0, dtype=torch.float64)
        z = torch.randn(len(phi), count, p + self.form.extra, generator=generator, dtype=torch.float64)
        chunk = chunk_size(4 * self.cells + count * (p * (p + 2) + phi.shape[-1]))
        theta: Tensor = over_draws(self.program, self._draw(self.form.theta), (phi, z), chunk)
        return theta

    def _draw(self, theta: Callable[[Any, Row, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        program = self.program

        def draw(u: Tensor, z: Tensor) -> Tensor:
            shared = u.dim() == 1
            returned = program.returned(u) if shared else None
            one = program.over_tasks(
                lambda row, z, u: theta(returned if shared else program.returned(u), row, z), randomness="error"
            )
            us = z[:, :0] if shared else u
            parts = zip(self.data, *(t[self._where].split(self._counts) for t in (z, us)), strict=True)
            return torch.cat([one(*part) for part in parts])[self._order]

        return draw


def _form_of(program: Program) -> ClosedForm:
    if program.closed_form is None:
        raise HierarchyError("this hierarchy has no evidence of its own: give it one by Hierarchy(..., evidence=...)")
    return program.closed_form
