"""The evidence of a task by importance sampling over θ, for fits that have none: those of φ and θ together.

    Z_t(φ) ≈ 1/M Σ_m p(y_t, θ_m | φ) / q(θ_m),      θ_m ~ q, a Student-t at the mode of p(y_t, θ | φ)

is unbiased, whatever q. Draws of φ that are weighted by it, each with one of its θ_m chosen by the terms of the sum,
are therefore weighted exactly, as if Z were known (Andrieu, Roberts 2009, "The pseudo-marginal approach for
efficient Monte Carlo computations"): the noise of the sum costs effective draws, and k-hat sees it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bayesmeta.errors import HierarchyError, NotAvailableError
from bayesmeta.evidence.laplace import Laplace
from bayesmeta.evidence.proposals import centred, log_joint_at, log_student, modes_at, student
from bayesmeta.program import Program
from bayesmeta.tasks import Tasks

__all__ = ["sampled_evidence"]

DRAWS = 64
CHUNK = 20_000  # pairs of a draw and a task at once


def sampled_evidence(
    program: Program, tasks: Tasks, phi: Tensor, *, seed: int = 0, draws: int = DRAWS
) -> tuple[Tensor, Tensor]:
    """log Z_t(φ_s) without bias in Z, and a draw of θ that goes with it.

    Args:
        program: The hierarchy's functions, in any coordinates of θ.
        tasks: The tasks, each with observations.
        phi: Coordinates of φ (S, q).
        seed: Seeds the draws of θ.
        draws: Draws of θ for each φ and task.

    Returns:
        log Z in nats (S, T), and centred coordinates of θ (S, T, p).

    Raises:
        NotAvailableError: A task has no mode in θ.
    """
    evidence = Laplace(program.with_centring(True), tasks)
    generator = torch.Generator().manual_seed(seed)
    parts = [_some(evidence, part, generator, draws) for part in phi.split(max(1, CHUNK // len(tasks)))]
    log_z, theta = (torch.cat(column) for column in zip(*parts, strict=True))
    return log_z, theta


def _some(evidence: Laplace, phi: Tensor, generator: torch.Generator, draws: int) -> tuple[Tensor, Tensor]:
    try:
        mode, root = modes_at(evidence, phi)
    except HierarchyError as error:
        reason = str(error).removesuffix("; use evidence='joint'")
        raise NotAvailableError(
            f"this posterior is one of φ and θ together, and the evidence of a task could not be sampled: {reason}"
        ) from error
    log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    total, chosen = torch.full(mode.shape[:-1], -math.inf, dtype=torch.float64), mode
    for _ in range(draws):
        # a running sum and a running choice among its terms: memory is that of one draw
        z = student(tuple(mode.shape), generator)
        v = mode + (root * z.unsqueeze(-2)).sum(-1)
        term = log_joint_at(evidence, phi, v) - log_student(z) + log_det
        term = torch.where(torch.isfinite(term), term, -math.inf)
        total = torch.logaddexp(total, term)
        take = torch.rand(term.shape, generator=generator, dtype=torch.float64).log() < term - total
        chosen = torch.where(take.unsqueeze(-1), v, chosen)
    return total - math.log(draws), centred(evidence, phi, chosen)
