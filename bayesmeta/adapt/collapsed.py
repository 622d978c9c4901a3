"""Adaptation where θ is integrated out: draws of φ are weighted by Z_new(φ_s), and θ is drawn given each.

Where log p(y, θ | φ) is quadratic both are in closed form; elsewhere Z_new comes from quadrature or Laplace's
approximation, as in the fit, and θ from proposals at its mode.

For a task of the fit, whose observations φ has seen, the weights are Z(D_t and D_new) / Z(D_t).
"""

from __future__ import annotations

import torch
from torch import Tensor

from bayesmeta.evidence import Collapsed
from bayesmeta.evidence.conditional import log_evidence, theta_coordinates
from bayesmeta.psis import effective_size, psis, resample
from bayesmeta.tasks import Tasks
from bayesmeta.threads import one_thread

__all__ = ["adapt_collapsed"]

CHUNK_NUMBERS = 4_000_000


@one_thread()
def adapt_collapsed(
    evidence: Collapsed, phi: Tensor, known: Tasks, before: Tasks, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draws of (φ, θ) for each task.

    Args:
        evidence: Evidence of the fit; says how tasks are reduced.
        phi: Coordinates of draws of p(φ | D), (S, q).
        known: All observations known of each task (T,).
        before: Those of them that φ has already seen; empty for new tasks.
        seed: Seeds resampling and draws.

    Returns:
        φ (S, T, q), θ (S, T, p), k-hat (T,), effective size (T,).
    """
    p = evidence.program.structure.theta.size
    chunk = max(1, CHUNK_NUMBERS // (len(phi) * (p * p + 2 * p + 2)))
    parts = []
    for start in range(0, len(known), chunk):
        piece = slice(start, start + chunk)
        parts.append(_some(evidence, phi, known[piece], before[piece], seed + start))
    phis, thetas, k_hats, sizes = zip(*parts, strict=True)
    return torch.cat(phis, 1), torch.cat(thetas, 1), torch.cat(k_hats), torch.cat(sizes)


def _some(
    evidence: Collapsed, phi: Tensor, known: Tasks, before: Tasks, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    now = evidence.on(known)
    log_weights = log_evidence(now, phi)
    seen = torch.nonzero(before.sizes > 0).squeeze(-1)
    if len(seen):
        log_weights[:, seen] -= log_evidence(evidence.on(before[seen.tolist()]), phi)
    unchanged = known.sizes == before.sizes
    log_weights[:, unchanged] = 0.0
    smoothed, k_hat = psis(log_weights)
    pick = resample(smoothed, seed)
    pick[:, unchanged] = torch.arange(len(phi)).unsqueeze(-1)
    theta = theta_coordinates(now, phi, seed, pick)
    return phi[pick], theta, k_hat, effective_size(smoothed)
