"""Evidence and p(θ | φ, D) under many draws of φ at once, in chunks of bounded memory."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor

from bayesmeta.evidence.exact import Exact
from bayesmeta.evidence.gaussian import Gaussian
from bayesmeta.evidence.gram import Gram
from bayesmeta.evidence.joint import Joint
from bayesmeta.evidence.laplace import Laplace
from bayesmeta.evidence.own import Own
from bayesmeta.evidence.proposals import centred, modes_at, resampled
from bayesmeta.evidence.quadrature import Quadrature
from bayesmeta.mapping import chunk_size, over_draws
from bayesmeta.program import Program, Row, first_rows
from bayesmeta.tasks import Tasks

Collapsed: TypeAlias = Gram | Exact | Quadrature | Laplace | Own

__all__ = ["Collapsed", "constrained", "log_evidence", "theta_coordinates", "theta_values"]


def log_evidence(evidence: Collapsed, phi: Tensor) -> Tensor:
    """log Z_t(φ_s) in nats (S, T), at coordinates of φ (S, q)."""
    program = evidence.program
    at: tuple[Tensor, ...] = ()
    if isinstance(evidence, Quadrature | Laplace):
        at = evidence.modes.many(phi, evidence.data)

    def per_task(u: Tensor, *at: Tensor) -> Tensor:
        if isinstance(evidence, Quadrature | Laplace):
            return evidence.per_task(program.phi(u), evidence.data, (at[0], at[1]))
        return evidence.per_task(program.phi(u), evidence.data)

    out: Tensor = over_draws(program, per_task, (phi, *at), chunk_size(4 * evidence.cells))
    return out


def theta_coordinates(evidence: Collapsed, phi: Tensor, seed: int, pick: Tensor | None = None) -> Tensor:
    """Draws of θ_t | φ, D_t in their coordinates (S, T, p): centred ones.

    Where that is a Gaussian, from it, or by the formula of a family that has one; elsewhere by
    `bayesmeta.evidence.proposals`.

    Args:
        evidence: Evidence of the tasks.
        phi: Coordinates of φ (S, q).
        seed: Seeds the draws.
        pick: Which draw of φ each row of each task takes (S, T); by default row s takes draw s.
    """
    program = evidence.program
    p = program.structure.theta.size
    generator = torch.Generator().manual_seed(seed)
    if isinstance(evidence, (Quadrature, Laplace)):
        return _from_modes(evidence, phi, generator, pick)
    if isinstance(evidence, Own):
        return evidence.drawn(phi if pick is None else phi[pick], generator)
    chunk = chunk_size(4 * evidence.cells + len(evidence.tasks) * p * (p + 2))
    if pick is None:
        z = torch.randn(len(phi), len(evidence.tasks), p, generator=generator, dtype=torch.float64)

        def drawn(u: Tensor, z: Tensor) -> Tensor:
            precision, b = evidence.conditional(program.phi(u), evidence.data)
            return Gaussian.of(precision, b).sample(z)

        theta: Tensor = over_draws(program, drawn, (phi, z), chunk)
        return theta
    precision, b = over_draws(program, lambda u: evidence.conditional(program.phi(u), evidence.data), (phi,), chunk)
    task = torch.arange(len(evidence.tasks)).expand(pick.shape)
    z = torch.randn(*pick.shape, p, generator=generator, dtype=torch.float64)
    return Gaussian.of(precision[pick, task], b[pick, task]).sample(z)


def _from_modes(evidence: Quadrature | Laplace, phi: Tensor, generator: torch.Generator, pick: Tensor | None) -> Tensor:
    mode, root = modes_at(evidence, phi)
    if pick is not None:
        task = torch.arange(len(evidence.tasks)).expand(pick.shape)
        mode, root, phi = mode[pick, task], root[pick, task], phi[pick]
    return centred(evidence, phi, resampled(evidence, phi, mode, root, generator))


def theta_values(evidence: Collapsed | Joint, phi: Tensor, v: Tensor) -> dict[str, Tensor]:
    """Constrained θ by site (S, T, ...) of the tasks of the fit, at coordinates φ (S, q) and θ (S, T, p)."""
    program = evidence.program
    if not isinstance(evidence, Joint):
        return constrained(program, evidence.tasks, phi, v)
    chunk = chunk_size(4 * sum(row.mask.numel() for row in evidence.data))
    values: dict[str, Tensor] = over_draws(
        program, lambda u, v: evidence.theta(program.phi(u), v, evidence.data), (phi, v), chunk
    )
    return values


def constrained(program: Program, tasks: Tasks, phi: Tensor, v: Tensor) -> dict[str, Tensor]:
    """Constrained θ by site (S, T, ...) at coordinates φ (S, q) or (S, T, q), and centred ones of θ (S, T, p).

    Needs no observations: the support of θ is all that matters, and one row of each task is enough to see it.
    """
    structure = program.structure
    if all(site.is_real for site in structure.theta):
        parts = v.split([site.size for site in structure.theta], -1)
        return {
            site.name: part.reshape(*v.shape[:-1], *site.shape)
            for site, part in zip(structure.theta, parts, strict=True)
        }
    rows = first_rows(tasks)
    per_task = phi.dim() == 3

    def one(u: Tensor, v: Tensor, row: Row) -> dict[str, Tensor]:
        return program.values(v, program.returned(u), row)

    def draw(u: Tensor, v: Tensor) -> Any:
        if per_task:
            return program.over_tasks(one)(u, v, rows)
        return program.over_tasks(lambda v, row: one(u, v, row))(v, rows)

    cells = len(tasks) * (program.structure.theta.size + rows.x.shape[1:].numel() + 2)
    values: dict[str, Tensor] = over_draws(program, draw, (phi, v), chunk_size(4 * cells))
    return values
