"""The evidence of a smooth task with few θ, by adaptive Gauss-Hermite quadrature about the mode.

    log Z = log Σ_k w_k exp( f(m + R z_k) + z_k'z_k / 2 ) + log det R + p/2 log 2π,      f(v) = log p(y, v | φ)

z_k and w_k are the nodes and weights of the standard normal in p dimensions, m is the mode of f and RR' the inverse
of its negative Hessian there (Liu, Pierce 1994, "A note on Gauss-Hermite quadrature"; Pinheiro, Bates 1995). The
integral does not depend on m and R, nor does its derivative in φ; both are constants where φ is differentiated,
and what is wrong by that is of the size of the error of the quadrature. That error is what doubling the nodes
changes: see `bayesmeta.evidence.accuracy`.

f is taken over standardised θ, where a vanishing spread of the tasks is no difficulty.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesmeta.errors import HierarchyError
from bayesmeta.evidence.gaussian import LOG_2PI
from bayesmeta.evidence.modes import At, Modes
from bayesmeta.program import Phi, Program, Row
from bayesmeta.tasks import Tasks

__all__ = ["LADDER", "MOST_DIMENSIONS", "Quadrature"]

MOST_DIMENSIONS = 3
LADDER = {1: (7, 11, 17, 25), 2: (5, 7, 11, 17), 3: (5, 7, 9, 11)}
"""Nodes per dimension to try, by dim θ, coarse to fine."""

# The nodes move with the mode found, and the error with them: far less than the error itself, this near.
TOLERANCE = 2e-3


class Quadrature:
    """Evidence of tasks by adaptive Gauss-Hermite quadrature.

    Args:
        program: The hierarchy's functions.
        tasks: The tasks, padded into few batches of similar size.
        nodes: Nodes per dimension of θ; by default the finest of `LADDER`.

    Raises:
        HierarchyError: θ has more than three coordinates.
    """

    gram = False

    def __init__(self, program: Program, tasks: Tasks, nodes: int | None = None) -> None:
        p = program.structure.theta.size
        if p > MOST_DIMENSIONS:
            raise HierarchyError(
                f"evidence='quadrature' is for θ of at most {MOST_DIMENSIONS} coordinates, this one has {p}: "
                "use evidence='laplace' or 'joint'"
            )
        self.program = program
        self.tasks = tasks
        self.nodes = LADDER[p][-1] if nodes is None else nodes
        batches = tasks.padded(exact_sizes=not program.structure.maskable)
        self.data: Any = [Row.of(batch) for batch in batches]
        self.modes = Modes(program, self.data, [bool(batch.mask.any()) for batch in batches], TOLERANCE)
        self.order = torch.argsort(torch.cat([batch.index for batch in batches]))
        self._z, self._log_w = _grid(self.nodes, p)
        self.cells = sum(batch.mask.numel() for batch in batches) * len(self._z)

    @property
    def road(self) -> str:
        """What is done about θ, in a sentence."""
        p = self.program.structure.theta.size
        per_dimension = " per dimension" if p > 1 else ""
        return (
            f"quadrature: θ is integrated out by adaptive Gauss-Hermite quadrature, {self.nodes} nodes{per_dimension}"
        )

    def on(self, tasks: Tasks) -> Quadrature:
        """The same evidence of other tasks."""
        return Quadrature(self.program, tasks, self.nodes)

    def with_nodes(self, nodes: int) -> Quadrature:
        """The same evidence with other nodes per dimension."""
        return Quadrature(self.program, self.tasks, nodes)

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

        def one(row: Row, mode: Tensor, root: Tensor, observed: bool) -> Tensor:
            v = mode + (self._z.unsqueeze(-2) * root).sum(-1)
            f = program.over_tasks(lambda v: self.modes.log_joint(phi.returned, v, row, observed))(v)
            return torch.logsumexp(f + self._log_w, 0) + root.diagonal().log().sum()

        counts = [len(row.mask) for row in data]
        parts = zip(data, modes.split(counts), roots.split(counts), self.modes.observed, strict=True)
        return [
            program.over_tasks(lambda row, mode, root, observed=observed: one(row, mode, root, observed))(*part)
            for *part, observed in parts
        ]


@cache
def _grid(nodes: int, p: int) -> tuple[Tensor, Tensor]:
    """The product rule: points z (K, p), and log of weight times √(2π)^p exp(z'z/2), (K,)."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    z = torch.tensor(list(itertools.product(x, repeat=p)), dtype=torch.float64)
    log_w = torch.tensor(list(itertools.product(np.log(w / w.sum()), repeat=p)), dtype=torch.float64).sum(-1)
    return z, log_w + 0.5 * z.square().sum(-1) + 0.5 * p * LOG_2PI
