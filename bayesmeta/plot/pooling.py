"""What pooling does to θ: each task alone, all tasks as one, and the mean of the population.

Where the evidence is exact, log p(y_t, θ | φ) is b_t'θ - θ'P_tθ / 2 and log p(θ | φ) is g_t'θ - θ'Λ_tθ / 2,
up to constants. What the observations say alone is the difference, A_t = P_t - Λ_t and c_t = b_t - g_t:

    alone        A_t⁻¹ c_t             no pooling: least squares, given what φ adds to the mean (a slope)
    together     (Σ A_t)⁻¹ Σ c_t       complete pooling: one θ for all tasks
    population   Λ_t⁻¹ g_t             the mean of p(θ | φ) in the context of the task

all at one φ, the mean of its draws in unconstrained coordinates. After a joint fit there are none of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bayesmeta.evidence import Exact, Gram
from bayesmeta.evidence.conditional import theta_values
from bayesmeta.mapping import over_draws
from bayesmeta.tasks import Tasks

if TYPE_CHECKING:
    from bayesmeta.posterior import Posterior

__all__ = ["Pooling", "pooling"]

SINGULAR = 1e-10  # smallest to largest eigenvalue of what still determines θ


@dataclass(frozen=True)
class Pooling:
    """Estimates of a θ site, each (T, ...); NaN where the task's observations do not determine θ.

    Attributes:
        alone: No pooling, from the task's own observations.
        together: Complete pooling, the same for every task.
        population: The mean of the population in the task's context.
    """

    alone: Tensor
    together: Tensor
    population: Tensor


def pooling(posterior: Posterior, site: str) -> Pooling | None:
    """The estimates of a site for the tasks of the fit; None where the evidence is not exact."""
    evidence = posterior.collapsed
    if not isinstance(evidence, (Gram, Exact)):
        return None
    u = posterior.phi_coordinates.mean(0, keepdim=True)
    precision, b = _conditional(evidence, u)
    tasks = posterior.tasks
    nothing = Tasks.without_observations(tasks.names, like=tasks, context=tasks.context or None)
    prior_precision, g = _conditional(evidence.on(nothing), u)
    own, c = precision - prior_precision, b - g

    def values(v: Tensor) -> Tensor:
        return theta_values(evidence, u, v.unsqueeze(0))[site][0]

    return Pooling(
        alone=values(_solve(own, c)),
        together=values(_solve(own.sum(0, keepdim=True), c.sum(0, keepdim=True)).expand_as(c)),
        population=values(_solve(prior_precision, g)),
    )


def _conditional(evidence: Gram | Exact, u: Tensor) -> tuple[Tensor, Tensor]:
    """P (T, p, p) and b (T, p) at one φ, coordinates (1, q)."""
    program = evidence.program
    found: tuple[Tensor, Tensor] = over_draws(
        program, lambda u: evidence.conditional(program.phi(u), evidence.data), (u,), 1
    )
    return found[0][0], found[1][0]


def _solve(precision: Tensor, b: Tensor) -> Tensor:
    """P⁻¹b (T, p), NaN where P is singular."""
    eigenvalues = torch.linalg.eigvalsh(precision)
    sound = eigenvalues[:, 0] > SINGULAR * eigenvalues[:, -1].clamp(min=torch.finfo(b.dtype).tiny)
    safe = torch.where(sound[:, None, None], precision, torch.eye(b.shape[-1], dtype=b.dtype))
    solution: Tensor = torch.linalg.solve(safe, b.unsqueeze(-1)).squeeze(-1)
    return solution.masked_fill(~sound[:, None], torch.nan)
