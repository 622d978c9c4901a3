"""Where variational inference starts: at the mode, in coordinates scaled by the curvature there.

A guide that starts as a standard normal around zero has far to go where a mean is 250 and a scale .02. So the mode
is found first (`bayesmeta.infer.peak`), and φ is written as

    u = m + L w,        m the mode,  L a root of the inverse Hessian there

with the guide over w. Gradient steps are then steps in posterior standard deviations, for every model alike, and
the guides start at the Laplace approximation. For a diagonal guide L is diagonal, for that is the family: a rotation
would make it another. Where θ is inferred too, the Hessian is an arrow: one block (p, p) per task, a border for φ,
all had from 2(p + q) gradients; it gives θ_t given φ for a start as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayesmeta.infer.climb import climb
from bayesmeta.infer.peak import peak
from bayesmeta.target import Target

__all__ = ["LocalStart", "Start", "curvature", "find_start"]

STEP = 1e-4  # of the differences of gradients that give the Hessian


@dataclass(frozen=True)
class LocalStart:
    """θ_t given φ about the mode, for the tasks that were looked at (T, ...).

    Attributes:
        mean: Mode of θ (T, p).
        slope: How the mode moves with w (T, p, q).
        root: Lower Cholesky factor of its covariance (T, p, p).
    """

    mean: Tensor
    slope: Tensor
    root: Tensor


@dataclass(frozen=True)
class Start:
    """Coordinates of φ for the guide, u = centre + root w.

    Attributes:
        centre: The mode (q,).
        root: Invertible (q, q).
        scale: Standard deviation of w that the guide starts with.
        local: The start for θ, where θ is inferred too.
        evaluations: Gradients that it took.
    """

    centre: Tensor
    root: Tensor
    scale: float
    local: LocalStart | None
    evaluations: int

    @property
    def log_det(self) -> Tensor:
        """log |det root|, ()."""
        value: Tensor = torch.linalg.slogdet(self.root).logabsdet
        return value

    def phi(self, w: Tensor) -> Tensor:
        """Coordinates of φ (..., q) at w (..., q)."""
        return self.centre + w @ self.root.mT


def find_start(target: Target, part: Target | None, seed: int, *, diagonal: bool) -> Start:
    """The mode of a target and the curvature there.

    Args:
        target: The target.
        part: The same of some of its tasks, where these are very many. The climb then begins on them. Where θ is
            integrated out it goes on over all tasks; where θ is inferred too it ends there, and the curvature is
            scaled up to all tasks.
        seed: Seeds the random points that the climb starts from.
        diagonal: Scale coordinates one by one, each by its sd given the others.

    Raises:
        BayesmetaError: No point of finite density was found.
    """
    mode, evaluations = peak(part or target, seed)
    share = 1.0
    if part is not None and target.is_joint:
        share, target = len(target.evidence.tasks) / len(part.evidence.tasks), part
    elif part is not None:
        found = climb(target.value_and_grad, mode.unsqueeze(0))
        mode, evaluations = found.mode[0], evaluations + found.evaluations
    hessian, border, blocks = curvature(target, mode)
    local, precision = None, hessian
    if target.is_joint:
        roots, usable = _inverse_roots(blocks)
        gain = roots @ (roots.mT @ border)  # P⁻¹ H_θφ: how the mode of θ_t moves with φ, but for the sign
        precision = hessian - (border.mT @ gain).sum(0)
        local = LocalStart(mode[target.q :].reshape(border.shape[:2]), -gain, _lower(roots, usable))
    root, scale = _root(share * precision, share * hessian, diagonal)
    if local is not None:
        local = LocalStart(local.mean, local.slope @ root, local.root)
    return Start(mode[: target.q], root, scale, local, evaluations + 2 * (target.q + border.shape[1]))


def curvature(target: Target, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The negative Hessian at a point: of φ (q, q), between θ_t and φ (T, p, q), and of each θ_t (T, p, p).

    T = 0 where θ is integrated out. One step moves an element of every θ_t at once: tasks do not see each other.
    """
    q, rest = target.q, target.dim - target.q
    count = len(target.evidence.tasks) if rest else 0
    p = rest // count if count else 0
    directions = torch.zeros(q + p, target.dim, dtype=at.dtype)
    directions[:q, :q] = torch.eye(q, dtype=at.dtype)
    directions[q:, q:] = torch.eye(p, dtype=at.dtype).repeat(1, count)
    points = torch.cat([at + STEP * directions, at - STEP * directions])
    _, grads = target.value_and_grad(points)
    change = -(grads[: q + p] - grads[q + p :]) / (2 * STEP)
    phi, border, blocks = change[:q, :q], change[:q, q:], change[q:, q:]
    border = border.reshape(q, count, p).permute(1, 2, 0)
    blocks = blocks.reshape(p, count, p).permute(1, 0, 2)
    return (phi + phi.mT) / 2, border, (blocks + blocks.mT) / 2


def _inverse_roots(precision: Tensor) -> tuple[Tensor, Tensor]:
    """R (..., p, p) with RR' = P⁻¹, curvatures that are not positive taken for 1; and which P were positive (...)."""
    safe = torch.where(torch.isfinite(precision), precision, 0.0)
    values, vectors = torch.linalg.eigh(safe)
    positive = values > 1e-10 * values.abs().amax(-1, keepdim=True).clamp(min=1e-10)
    return vectors / torch.where(positive, values, 1.0).sqrt().unsqueeze(-2), positive.all(-1)


def _lower(roots: Tensor, usable: Tensor) -> Tensor:
    """Lower Cholesky factors of RR', the identity where the curvature was not positive."""
    identity = torch.eye(roots.shape[-1], dtype=roots.dtype)
    covariance = torch.where(usable[..., None, None], roots @ roots.mT, identity)
    factor: Tensor = torch.linalg.cholesky(covariance)
    return factor


def _root(precision: Tensor, given: Tensor, diagonal: bool) -> tuple[Tensor, float]:
    """A root of the covariance and the scale to start with: careful where the Hessian is not positive definite."""
    root, usable = _inverse_roots(precision)
    if not diagonal:
        return root, 1.0 if bool(usable) else 0.1
    element = given.diagonal()
    fine = torch.isfinite(element) & (element > 0)
    return torch.diag(torch.where(fine, element, 1.0).rsqrt()), 1.0 if bool(fine.all()) else 0.1
