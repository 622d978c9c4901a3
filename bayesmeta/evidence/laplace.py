"""The evidence of any smooth task by Laplace's approximation.

    log Z ≈ f(m) + (p log 2π - log det P(m)) / 2,      f(v) = log p(y, v | φ),  P = -∇²f,  m its mode

The mode is found outside the differentiated graph. Inside, it is one more Newton step from there,
m = v + P⁻¹ ∇f(v; φ) with v and P held constant: the step is zero, but its derivative in φ is that of the mode,
so that the first derivative of log Z is right (implicit differentiation; second derivatives are not).

It is an approximation, of the order of 1/n in the observations of a task. How wrong it is is measured, by
importance sampling at the mode: see `bayesmeta.evidence.accuracy`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bayesmeta.evidence.gaussian import LOG_2PI, Gaussian
from bayesmeta.evidence.modes import At, Modes
from bayesmeta.program import Phi, Program, Row
from bayesmeta.tasks import Tasks

__all__ = ["Laplace"]

# The error of log det P is of the first order in the distance from the mode, which one step squares.
TOLERANCE = 1e-6


class Laplace:
    """Evidence of tasks by Laplace's approximation.

    Args:
        program: The hierarchy's functions.
        tasks: The tasks, padded into few batches of similar size.
    """

    road = "laplace: θ is integrated out by Laplace's approximation at the mode of each task"
    gram = False

    def __init__(self, program: Program, tasks: Tasks) -> None:
        self.program = program
        self.tasks = tasks
        batches = tasks.padded(exact_sizes=not program.structure.maskable)
        self.data: Any = [Row.of(batch) for batch in batches]
        self.modes = Modes(program, self.data, [bool(batch.mask.any()) for batch in batches], TOLERANCE)
        self.order = torch.argsort(torch.cat([batch.index for batch in batches]))
        p = program.structure.theta.size
        self.cells = sum(batch.mask.numel() for batch in batches) * (p + 2)

    def on(self, tasks: Tasks) -> Laplace:
        """The same evidence of other tasks."""
        return Laplace(self.program, tasks)

    def total(self, phi: Phi, data: Any, at: At | None = None) -> Tensor:
        """Σ_t log Z_t(φ); modes and roots are looked for unless they are given."""
        return torch.stack([log_z.sum() for log_z in self._log_z(phi, data, at)]).sum()

    def per_task(self, phi: Phi, data: Any, at: At | None = None) -> Tensor:
        """log Z_t(φ) in nats, (T,)."""
        return torch.cat(self._log_z(phi, data, at))[self.order]

    def _log_z(self, phi: Phi, data: Any, at: At | None) -> list[Tensor]:
        """log Z of the tasks of each batch."""
        modes, roots = self.modes.at(phi, data) if at is None else at
        program = self.modes.program

        def one(row: Row, mode: Tensor, root: Tensor, observed: bool) -> tuple[Tensor, Tensor]:
            def f(v: Tensor) -> Tensor:
                return self.modes.log_joint(phi.returned, v, row, observed)

            gradient = torch.func.grad(f)
            white = (root * gradient(mode).unsqueeze(-1)).sum(-2)
            mode = mode + (root * white).sum(-1)
            hessian = torch.func.jacrev(gradient)(mode)
            return f(mode), -0.5 * (hessian + hessian.mT)

        counts = [len(row.mask) for row in data]
        parts = zip(data, modes.split(counts), roots.split(counts), self.modes.observed, strict=True)
        peaks = [
            program.over_tasks(lambda row, mode, root, observed=observed: one(row, mode, root, observed))(*part)
            for *part, observed in parts
        ]
        return [_log_z(peak, precision) for peak, precision in peaks]


def _log_z(peak: Tensor, precision: Tensor) -> Tensor:
    gaussian = Gaussian.of(precision, torch.zeros_like(precision[..., 0]))
    return peak + 0.5 * (precision.shape[-1] * LOG_2PI - gaussian.log_det())
