"""Leave one task out where φ is a point: each task is predicted from where φ would be without it, Newton steps away.

    elpd = Σ_t log Z_t(φ_-t),       ∇ log p(φ_-t, D) - ∇ log Z_t(φ_-t) = ∇ log p(φ, D)
    φ_-t ← φ_-t + (H - H_t)⁻¹ [ ∇ log p(φ_-t, D) - ∇ log p(φ, D) - ∇ log Z_t(φ_-t) ]

with H = -∇² log p(φ, D) and H_t = -∇² log Z_t(φ) at the point φ. Where that is a mode, φ_-t is the mode without the
task; for another point, such as MAML's, it is how far the task pulls. There are no weights, and no k-hat: it is given
as -inf.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bayesmeta.errors import NotAvailableError
from bayesmeta.evidence import Collapsed, Joint
from bayesmeta.evidence.conditional import log_evidence
from bayesmeta.infer.laplace import LARGEST, hessian
from bayesmeta.target import Target

if TYPE_CHECKING:
    from bayesmeta.posterior import Posterior

__all__ = ["left_of_point"]

STEP = 1e-2  # of differences, in units of how well the tasks determine a direction of φ
MOST_CURVED = 12  # coordinates of φ up to which a task's own curvature is found
FLATTEST = 1e-6  # curvatures count as this share of the largest at least
LEAST_LEFT = 0.05  # of the curvature remains when a task is left out, at least
STEPS = 12


def left_of_point(posterior: Posterior) -> tuple[Tensor, Tensor]:
    """log p(D_t | φ_-t) of each task, and log p(D_t | φ), in nats (T,).

    Raises:
        NotAvailableError: θ was sampled along, or φ has too many coordinates.
    """
    evidence, u = posterior.collapsed, posterior.phi_coordinates[0]
    if isinstance(evidence, Joint) or len(u) > LARGEST:
        raise NotAvailableError(
            f"φ is a single point of {len(u):,} coordinates in this posterior, which shows nothing of what it would be "
            "without a task: fit by a back-end that draws φ"
        )
    target = Target(evidence)
    root = _root(-hessian(target, u))
    slope, curvature = _derivatives(evidence, u, root)
    inverse = _inverse(torch.eye(len(u), dtype=u.dtype) - curvature)
    pieces = [evidence.on(posterior.tasks[[t]]) for t in range(len(slope))]
    pull = target.value_and_grad(u.unsqueeze(0))[1]
    moved = u.expand(len(slope), -1)
    for step in range(STEPS):
        if step:
            slope = torch.cat([_slopes(one, point, root) for one, point in zip(pieces, moved, strict=True)])
        rest = (target.value_and_grad(moved)[1] - pull) @ root - slope
        further = moved + (inverse @ rest.unsqueeze(-1)).squeeze(-1) @ root.mT
        moved = torch.where(torch.isfinite(further).all(1, keepdim=True), further, moved)
    elpd = torch.cat([log_evidence(one, point.unsqueeze(0))[0] for one, point in zip(pieces, moved, strict=True)])
    return elpd, log_evidence(evidence, u.unsqueeze(0))[0]


def _inverse(matrices: Tensor) -> Tensor:
    """Inverses (T, q, q) of symmetric matrices, whose eigenvalues count as `LEAST_LEFT` at least."""
    values, vectors = torch.linalg.eigh(matrices)
    inverse: Tensor = (vectors / values.clamp(min=LEAST_LEFT).unsqueeze(-2)) @ vectors.mT
    return inverse


def _slopes(evidence: Collapsed, u: Tensor, root: Tensor) -> Tensor:
    """∇ log Z_t (T, q) along the columns of the root."""
    steps = STEP * root.mT
    ahead, behind = log_evidence(evidence, torch.cat([u + steps, u - steps])).chunk(2)
    return (ahead - behind).mT / (2 * STEP)


def _root(precision: Tensor) -> Tensor:
    """R (q, q) with RR' = H⁻¹, the size of curvatures without their sign where H is not positive definite."""
    values, vectors = torch.linalg.eigh(precision)
    size = values.abs()
    root: Tensor = vectors / size.clamp(min=FLATTEST * float(size.max())).sqrt()
    return root


def _derivatives(evidence: Collapsed, u: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """∇ log Z_t (T, q) and -∇² log Z_t (T, q, q) along the columns of the root, by central differences."""
    q = len(u)
    steps = STEP * torch.eye(q, dtype=u.dtype)
    pairs = [(i, j) for i in range(q) for j in range(i)] if q <= MOST_CURVED else []
    mixed = [sign * steps[i] + other * steps[j] for i, j in pairs for sign, other in _SIGNS]
    w = torch.cat([torch.zeros(1, q, dtype=u.dtype), steps, -steps, *(row.unsqueeze(0) for row in mixed)])
    seen = log_evidence(evidence, u + w @ root.mT)
    middle, ahead, behind = seen[0], seen[1 : q + 1], seen[q + 1 : 2 * q + 1]
    curvature = torch.zeros(seen.shape[1], q, q, dtype=u.dtype)
    if q <= MOST_CURVED:
        curvature[:, torch.arange(q), torch.arange(q)] = (2 * middle - ahead - behind).mT / STEP**2
    for k, (i, j) in enumerate(pairs):
        four = seen[2 * q + 1 + 4 * k : 2 * q + 5 + 4 * k]
        curvature[:, i, j] = curvature[:, j, i] = -(four[0] - four[1] - four[2] + four[3]) / (4 * STEP**2)
    return (ahead - behind).mT / (2 * STEP), curvature


_SIGNS = ((1, 1), (1, -1), (-1, 1), (-1, -1))
