"""Adaptation where θ is integrated out: draws of φ are weighted by Z_new(φ_s), and θ is drawn given each.

Where log p(y, θ | φ) is quadratic both are in closed form; elsewhere Z_new comes from quadrature or Laplace's
approximation, as in the fit, and θ from proposals at its mode.

For a task of the fit, whose observations φ has seen, the weights are Z(D_t and D_new) / Z(D_t).
"""

from __future__ import annotations

import math

import torch

from bayesmeta.adapt.problem import Problem, Result, distinct, in_pieces, weigh
from bayesmeta.evidence import Collapsed
from bayesmeta.evidence.conditional import log_evidence, theta_coordinates
from bayesmeta.threads import one_thread

__all__ = ["adapt_collapsed"]


@one_thread()
def adapt_collapsed(problem: Problem, evidence: Collapsed) -> Result:
    """Draws of (φ, θ) for each task, by an evidence that says how tasks are reduced."""
    p = problem.program.structure.theta.size
    return in_pieces(problem, p * p + 2 * p + 2, lambda piece: _some(piece, evidence))


def _some(problem: Problem, evidence: Collapsed) -> Result:
    phi, place = distinct(problem.phi)
    now = evidence.on(problem.known)
    log_weights = log_evidence(now, phi)
    seen = torch.nonzero(problem.seen).squeeze(-1)
    if len(seen):
        log_weights[:, seen] -= log_evidence(evidence.on(problem.before[seen.tolist()]), phi)
    pick, k_hat, size = weigh(log_weights[place], problem)
    pick = place[pick]
    theta = theta_coordinates(now, phi, problem.seed, pick)
    return Result(phi[pick], theta, k_hat, size, torch.full_like(k_hat, -math.inf))
