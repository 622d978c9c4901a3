"""θ from proposals at the mode: the density of any task at many θ, and draws of θ | φ, D by resampling.

Where p(θ_t | φ, D_t) is not Gaussian, draws come from iterated sampling importance resampling (Andrieu, Lee,
Vihola 2018, "Uniform ergodicity of the iterated conditional SMC and geometric ergodicity of particle Gibbs
samplers"): of several proposals from a Student-t at the mode and the draw before, one is chosen by its weight
p(y, θ | φ) / q(θ). This leaves p(θ_t | φ, D_t) as it is, and what is left of the first choice's error shrinks by
a factor of about (variance of the weights) / (number of proposals) with every round.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from bayesmeta.errors import HierarchyError
from bayesmeta.evidence.modes import Modes
from bayesmeta.mapping import chunk_size, over_draws
from bayesmeta.program import Program, Row
from bayesmeta.sites import quiet_pyro
from bayesmeta.tasks import Tasks

__all__ = ["Curved", "centred", "log_joint_at", "log_student", "modes_at", "no_mode", "resampled", "student"]

FREEDOM = 5.0
PROPOSALS = 8
ROUNDS = 3


class Curved(Protocol):
    """An evidence of tasks that are not Gaussian in θ: what stands at the mode of each."""

    program: Program
    tasks: Tasks
    data: Any
    modes: Modes
    order: Tensor


def modes_at(evidence: Curved, phi: Tensor) -> tuple[Tensor, Tensor]:
    """Modes in standardised θ (S, T, p) and roots of the inverse precision there (S, T, p, p), at φ (S, q).

    Raises:
        HierarchyError: A task has no mode at one of them.
    """
    mode, root = evidence.modes.many(phi, evidence.data)
    mode, root = mode[:, evidence.order], root[:, evidence.order]
    lost = torch.nonzero(~torch.isfinite(mode).all(-1).all(0)).squeeze(-1)
    if len(lost):
        s = int(torch.nonzero(~torch.isfinite(mode[:, lost[0]]).all(-1))[0])
        raise HierarchyError(no_mode(evidence, phi[s], int(lost[0])))
    return mode, root


def no_mode(evidence: Curved, phi: Tensor, task: int) -> str:
    """That a task has no mode at coordinates of φ (q,), and why, in a sentence."""
    program = evidence.modes.program
    with quiet_pyro():
        at = program.phi(phi)
        reason = evidence.modes.reason(at, evidence.data, int(torch.argsort(evidence.order)[task]))
    values = ", ".join(f"{site} = {value.tolist()}" for site, value in at.values.items())
    return (
        f"no mode of log p(y, θ | φ) was found for task {evidence.tasks.names[task]!r} at {values}: {reason}; "
        "use evidence='joint'"
    )


def student(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard multivariate Student-t draws (..., p)."""
    z = torch.randn(shape, generator=generator, dtype=torch.float64)
    # chi-squared with 5 degrees of freedom, as a sum of squares
    squares = torch.randn((*shape[:-1], int(FREEDOM)), generator=generator, dtype=torch.float64).square().sum(-1)
    return z * (FREEDOM / squares).sqrt().unsqueeze(-1)


def log_student(z: Tensor) -> Tensor:
    """log density (...) of a standard multivariate Student-t at z (..., p)."""
    p = z.shape[-1]
    constant = math.lgamma((FREEDOM + p) / 2) - math.lgamma(FREEDOM / 2) - 0.5 * p * math.log(FREEDOM * math.pi)
    return constant - 0.5 * (FREEDOM + p) * torch.log1p(z.square().sum(-1) / FREEDOM)


def log_joint_at(evidence: Curved, phi: Tensor, v: Tensor) -> Tensor:
    """log p(y_t, θ | φ) (S, T) at coordinates φ (S, q) or (S, T, q) and standardised θ (S, T, p)."""
    return _over_tasks(evidence, evidence.modes.log_joint, phi, v)


def centred(evidence: Curved, phi: Tensor, v: Tensor) -> Tensor:
    """Centred coordinates of θ (S, T, p) from standardised ones, at coordinates φ (S, q) or (S, T, q)."""
    program, standardised = evidence.program.with_centring(True), evidence.modes.program

    def moved(returned: Any, v: Tensor, row: Row, observed: bool) -> Tensor:
        return program.coordinates(standardised.values(v, returned, row), returned, row)

    return _over_tasks(evidence, moved, phi, v)


def _over_tasks(evidence: Curved, fn: Callable[[Any, Tensor, Row, bool], Tensor], phi: Tensor, v: Tensor) -> Tensor:
    """`fn(returned, v, row, observed)` over draws and tasks (S, T, ...)."""
    modes, program = evidence.modes, evidence.modes.program
    inverse = torch.argsort(evidence.order)
    counts = [len(row.mask) for row in evidence.data]

    def draw(u: Tensor, v: Tensor) -> Tensor:
        shared = u.dim() == 1
        returned = program.returned(u) if shared else None

        def one(v: Tensor, row: Row, u: Tensor, observed: bool) -> Tensor:
            return fn(returned if shared else program.returned(u), v, row, observed)

        us = torch.zeros(len(inverse), 1) if shared else u[inverse]
        parts = zip(v[inverse].split(counts), evidence.data, us.split(counts), modes.observed, strict=True)
        terms = [
            program.over_tasks(lambda v, row, u, observed=observed: one(v, row, u, observed))(*part)
            for *part, observed in parts
        ]
        return torch.cat(terms)[evidence.order]

    cells = sum(row.mask.numel() for row in evidence.data) + len(inverse) * (phi.shape[-1] + v.shape[-1])
    values: Tensor = over_draws(program, draw, (phi, v), chunk_size(4 * cells))
    return values


def resampled(evidence: Curved, phi: Tensor, mode: Tensor, root: Tensor, generator: torch.Generator) -> Tensor:
    """Draws of standardised θ_t | φ, D_t (S, T, p), at coordinates φ (S, q) or (S, T, q) and the modes there."""
    now = mode
    own = torch.full(mode.shape[:-1], -math.inf, dtype=torch.float64)
    for _ in range(ROUNDS):
        total = own
        for _ in range(PROPOSALS):
            # a running choice among the proposals so far: memory is that of one
            z = student(tuple(mode.shape), generator)
            v = mode + (root * z.unsqueeze(-2)).sum(-1)
            weight = log_joint_at(evidence, phi, v) - log_student(z)
            weight = torch.where(torch.isfinite(weight), weight, -math.inf)
            total = torch.logaddexp(total, weight)
            take = torch.rand(weight.shape, generator=generator, dtype=torch.float64).log() < weight - total
            now, own = torch.where(take.unsqueeze(-1), v, now), torch.where(take, weight, own)
    return now
