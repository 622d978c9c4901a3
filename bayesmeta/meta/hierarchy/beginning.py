"""Where the inner loop of a hierarchy begins: at the top of p(θ | φ), in θ's unconstrained coordinates.

For a normal θ that is its mean. For another it is the mode, found outside the differentiated graph; one more Newton
step inside moves nothing, and its derivative in φ is that of the mode.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bayesmeta.evidence.modes import Modes
from bayesmeta.evidence.pilot import normal_sites
from bayesmeta.program import Phi, Program, Row
from bayesmeta.sites import quiet_pyro
from bayesmeta.tasks import Tasks

__all__ = ["Beginning"]

TOLERANCE = 1e-6  # of the search, in prior standard deviations, which one step squares


class Beginning:
    """The initialisation that a φ gives to the θ of each task.

    Args:
        program: The hierarchy's functions.
        tasks: Some tasks, by which it is found out whether θ is normal.
        rows: Rows of tasks, as those that it will be asked about.
    """

    def __init__(self, program: Program, tasks: Tasks, rows: Row) -> None:
        self._standard, self._centred = program.with_centring(False), program.with_centring(True)
        with quiet_pyro():
            normal = set(normal_sites(program, tasks)) == set(program.structure.theta.names)
        self._modes = None if normal else Modes(program, [rows], [False], TOLERANCE)

    def __call__(self, phi: Phi, rows: Row) -> Tensor:
        """Unconstrained coordinates of θ (B, p) for the tasks of these rows; differentiable in φ."""
        program = self._standard
        count, p = len(rows.mask), program.structure.theta.size

        def moved(z: Tensor, row: Row) -> Tensor:
            return self._centred.coordinates(program.values(z, phi.returned, row), phi.returned, row)

        if self._modes is None:
            at: Any = torch.zeros(count, p, dtype=torch.float64)
        else:
            at = program.over_tasks(lambda mode, root, row: self._step(phi.returned, mode, root, row))(
                *self._modes.at(phi, [rows]), rows
            )
        coordinates: Tensor = program.over_tasks(moved)(at, rows)
        return coordinates

    def _step(self, returned: Any, mode: Tensor, root: Tensor, row: Row) -> Tensor:
        """The mode (p,) of one task after one Newton step of log p(θ | φ)."""
        slope = torch.func.grad(lambda z: self._standard.terms(returned, z, row)[0])(mode)
        white = (root * slope.unsqueeze(-1)).sum(-2)
        moved: Tensor = mode + (root * white).sum(-1)
        return moved
