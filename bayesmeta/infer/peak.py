"""The point that inference starts from: where φ is likeliest, and each θ given it.

Where θ is integrated out that is the highest mode of log p(φ | D). The mode of φ and θ together is no place to start
from: with every θ at its mean, the density grows without end as their spread goes to zero. So φ is taken at the mode
of its own density, with θ integrated out by Laplace's approximation, and each θ at its mode given that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bayesmeta.evidence import Laplace
from bayesmeta.evidence.choice import one_mode
from bayesmeta.infer.climb import climb, finite_starts
from bayesmeta.target import Target
from bayesmeta.workspace import Workspace

__all__ = ["peak"]

STARTS = 4
LOOKED_AT = 4  # random φ at which tasks are looked at
MOST_COORDINATES = 20  # of a θ that is integrated out for the start: Newton's steps take their cube


def peak(target: Target, seed: int) -> tuple[Tensor, int]:
    """The point (dim,), and the number of gradients that it took.

    Raises:
        BayesmetaError: No point of finite density was found.
    """
    found = _by_phi(target, seed) if target.is_joint else None
    return _highest(target, seed) if found is None else found


def _by_phi(target: Target, seed: int) -> tuple[Tensor, int] | None:
    """φ at the mode of its own density and θ at its mode given φ (dim,); None where a task has several modes."""
    program, tasks = target.program.with_centring(True), target.evidence.tasks
    if program.structure.theta.size > MOST_COORDINATES or not program.structure.vectorised:
        return None
    evidence = Laplace(program, tasks)
    somewhere = 2 * torch.rand(LOOKED_AT, target.q, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
    with Workspace(patient=False):
        if not one_mode(evidence, somewhere):
            return None
    phi, evaluations = _highest(Target(evidence), seed)

    def of_theta(v: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = target.value_and_grad(torch.cat([phi.expand(len(v), -1), v], -1))
        return value, grad[:, target.q :]

    found = climb(of_theta, torch.zeros(1, target.dim - target.q, dtype=phi.dtype), keep=False)
    return torch.cat([phi, found.mode[0]]), evaluations + found.evaluations


def _highest(target: Target, seed: int) -> tuple[Tensor, int]:
    """The highest mode (dim,) that was found from a few random points, and the number of gradients."""
    starts = finite_starts(target.value_and_grad, STARTS, target.dim, torch.Generator().manual_seed(seed))
    found = climb(target.value_and_grad, starts)
    return found.mode[found.height.argmax()], found.evaluations
