"""log p(y | θ, φ) of the observations of a fit under its draws, per observation and per task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bayesmeta.evidence.conditional import log_evidence
from bayesmeta.evidence.joint import Joint
from bayesmeta.mapping import chunk_size, over_draws
from bayesmeta.program import Program, Row
from bayesmeta.tasks import Padded, Tasks

if TYPE_CHECKING:
    from bayesmeta.posterior import Posterior

__all__ = ["evidence_per_task", "log_likelihood_rows", "log_likelihood_tasks", "terms_tasks"]


def evidence_per_task(posterior: Posterior) -> Tensor:
    """What each task adds to the log density (S, T): log Z_t(φ), or log p(y_t | θ_t, φ) where θ is sampled."""
    evidence = posterior.collapsed
    if not isinstance(evidence, Joint):
        return log_evidence(evidence, posterior.phi_coordinates)
    return log_likelihood_tasks(
        evidence.program, posterior.tasks, posterior.phi_coordinates, posterior.theta_coordinates
    )


def log_likelihood_tasks(program: Program, tasks: Tasks, phi: Tensor, theta: Tensor) -> Tensor:
    """log p(y_t | θ_t, φ) (S, T), at coordinates φ (S, q) and θ (S, T, p)."""
    return terms_tasks(program, tasks, phi, theta)[1]


def terms_tasks(program: Program, tasks: Tasks, phi: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """log p(θ_t | φ), with its Jacobian, and log p(y_t | θ_t, φ), each (S, T), at φ (S, q) and θ (S, T, p)."""
    out = torch.empty(2, len(phi), len(tasks), dtype=torch.float64)
    for batch in tasks.padded(exact_sizes=not program.structure.maskable):

        def one(u: Tensor, v: Tensor, row: Row) -> Tensor:
            return torch.stack(program.terms(program.returned(u), v, row))

        out[:, :, batch.index] = _over_both(program, one, phi, theta, batch).movedim(-1, 0)
    return out[0], out[1]


def log_likelihood_rows(posterior: Posterior) -> Tensor | None:
    """log p(y_i | θ, φ) of every observation (S, N); None where a task's observations are one joint event."""
    program, tasks = posterior.collapsed.program, posterior.tasks
    if not program.structure.maskable:
        return None
    phi, theta = posterior.phi_coordinates, posterior.theta_coordinates
    out = torch.empty(len(phi), tasks.n_observations, dtype=torch.float64)
    for batch in tasks.padded():

        def one(u: Tensor, v: Tensor, row: Row) -> Tensor:
            met = program.meet(program.returned(u), v, row)
            terms = [met[name].rows_log_prob() for name in program.structure.observed]
            return torch.stack([term.reshape(len(term), -1).sum(1) for term in terms]).sum(0)

        terms = _over_both(program, one, phi, theta, batch)
        place = tasks.offsets[batch.index].unsqueeze(-1) + torch.arange(batch.mask.shape[1])
        out[:, place[batch.mask]] = terms[:, batch.mask]
    return out


def _over_both(program: Program, fn: object, phi: Tensor, theta: Tensor, batch: Padded) -> Tensor:
    """`fn(u, v, row)` over draws and the tasks of a batch."""
    rows = program.rows(batch)

    def draw(u: Tensor, v: Tensor) -> Tensor:
        result: Tensor = program.over_tasks(lambda v, row: fn(u, v, row))(v, rows)  # type: ignore[operator]
        return result

    chunk = chunk_size(4 * batch.mask.numel())
    result: Tensor = over_draws(program, draw, (phi, theta[:, batch.index]), chunk)
    return result
