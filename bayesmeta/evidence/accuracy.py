"""How far an approximate log Z is off, measured.

Quadrature: what twice the nodes per dimension change. Laplace: importance sampling at the mode, with draws from a
Student-t, gives log Z without bias; the Pareto k-hat of its weights says whether that can be trusted (Vehtari,
Simpson, Gelman, Yao, Gabry 2024, "Pareto smoothed importance sampling").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bayesmeta.evidence.conditional import Collapsed, log_evidence
from bayesmeta.evidence.joint import Joint
from bayesmeta.evidence.laplace import Laplace
from bayesmeta.evidence.proposals import log_joint_at, log_student, modes_at, student
from bayesmeta.evidence.quadrature import Quadrature
from bayesmeta.psis import psis

__all__ = ["doubling", "evidence_error", "importance"]

POINTS = 20
DRAWS = 1000
CELLS = 2_000_000  # observations times nodes of tasks looked at together


def doubling(evidence: Quadrature, phi: Tensor) -> Tensor:
    """What twice the nodes change of log Z_t(φ_s), in nats (S, T), at coordinates of φ (S, q)."""
    count, p = len(evidence.tasks), evidence.program.structure.theta.size
    cells = max(1.0, float(evidence.tasks.sizes.double().mean())) * (2 * evidence.nodes) ** p
    step = max(1, int(CELLS / cells))
    parts = [evidence.on(evidence.tasks[start : start + step]) for start in range(0, count, step)]
    changes = [log_evidence(part.with_nodes(2 * part.nodes), phi) - log_evidence(part, phi) for part in parts]
    return torch.cat(changes, 1)


def importance(
    evidence: Laplace | Quadrature, phi: Tensor, *, draws: int = DRAWS, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """log Z_t(φ_s) by importance sampling at the mode, less the evidence's own.

    Args:
        evidence: Evidence of the tasks.
        phi: Coordinates of φ (S, q).
        draws: Draws of θ per task and φ.
        seed: Seeds them.

    Returns:
        The correction in nats (S, T), and the Pareto k-hat of the weights (S, T).
    """
    mode, root = modes_at(evidence, phi)
    generator = torch.Generator().manual_seed(seed)
    corrections, k_hats = [], []
    for s in range(len(phi)):
        z = student((draws, *mode.shape[1:]), generator)
        v = mode[s] + (root[s] * z.unsqueeze(-2)).sum(-1)
        log_q = log_student(z) - root[s].diagonal(dim1=-2, dim2=-1).log().sum(-1)
        weights = log_joint_at(evidence, phi[s : s + 1].expand(draws, -1), v) - log_q
        corrections.append(torch.logsumexp(weights, 0) - math.log(draws))
        k_hats.append(psis(weights)[1])
    return torch.stack(corrections) - log_evidence(evidence, phi), torch.stack(k_hats)


def evidence_error(evidence: Collapsed | Joint, phi: Tensor) -> dict[str, float]:
    """How far log Z may be off at draws of φ (S, q), of which a few are looked at; empty where it is exact.

    Returns:
        For quadrature ``doubling``, the largest change of Σ_t log Z_t, and ``doubling_task``, that of one task;
        for Laplace ``bias``, the mean correction of Σ_t log Z_t by importance sampling, ``bias_spread``, its sd
        over φ, which is what distorts p(φ | D), ``bias_task``, the largest of one task, and ``k_hat``, the
        largest. All but k-hat are in nats.
    """
    some = phi[torch.linspace(0, len(phi) - 1, min(len(phi), POINTS)).round().long()]
    if isinstance(evidence, Quadrature):
        change = doubling(evidence, some)
        return {"doubling": _most(change.sum(1)), "doubling_task": _most(change)}
    if isinstance(evidence, Laplace):
        bias, k_hat = importance(evidence, some)
        total = bias.sum(1)
        spread = float(total.std()) if len(some) > 1 else 0.0
        measured = {"bias": float(total.mean()), "bias_spread": spread, "bias_task": _most(bias)}
        return {**measured, "k_hat": float(k_hat.max())}
    return {}


def _most(values: Tensor) -> float:
    return float(values.abs().max())
