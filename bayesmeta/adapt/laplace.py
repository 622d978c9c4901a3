"""Adaptation by Laplace's method: the mode of θ under each draw of φ, its curvature, and what they miss put right.

Newton's method where θ has few coordinates, L-BFGS where it has many. Draws are then proposed about the mode and
weighted: see `bayesmeta.adapt.ensemble`. Valid for any smooth task with one mode, whatever the fit was.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayesmeta.adapt.curvature import DENSE, Root, curvature_at
from bayesmeta.adapt.density import TaskDensity
from bayesmeta.adapt.ensemble import Found, adapt_about, proposals_for
from bayesmeta.adapt.problem import Problem, Result, distinct, in_pieces
from bayesmeta.adapt.steps import ValueAndGrad
from bayesmeta.errors import OptionError
from bayesmeta.evidence.gaussian import LOG_2PI
from bayesmeta.evidence.laplace import Laplace as Evidence
from bayesmeta.infer.climb import climb
from bayesmeta.infer.options import check_whole

__all__ = ["Laplace", "laplace_at", "run", "top_of"]

NEWTON_MOST = 8
STEPS = 200


@dataclass(frozen=True)
class Laplace:
    """Settings of adaptation by Laplace's method.

    Args:
        correct: Weigh proposals about each mode, which makes the answer exact where k-hat is below 0.7. By default
            where θ has 50 coordinates at most.
        proposals: How many to make about each mode.
    """

    correct: bool | None = None
    proposals: int = 8

    def __post_init__(self) -> None:
        check_whole("proposals", self.proposals, 1)
        if self.correct not in (None, True, False):
            raise OptionError(f"correct must be True, False or None, got {self.correct!r}")


def run(problem: Problem, config: Laplace) -> Result:
    """Draws of φ and θ of each task; fewer than there are of φ, where θ has many coordinates."""
    p = problem.program.structure.theta.size
    problem = problem.thinned(problem.affordable) if p > DENSE else problem
    proposals = proposals_for(p, config.correct, config.proposals)
    numbers = p * (proposals + 4) + p * min(p, DENSE)
    return in_pieces(
        problem, numbers, lambda piece: adapt_about(piece, lambda density: find(density, problem.seed), proposals)
    )


def find(density: TaskDensity, seed: int) -> Found:
    """The mode of each task under each draw of φ, and Laplace's log Z there."""
    if density.p <= NEWTON_MOST and density.program.structure.vectorised:
        evidence = Evidence(density.program.with_centring(True), density.tasks)
        phi, place = distinct(density.phi)
        mode, root = evidence.modes.many(phi, evidence.data)
        mode, spread = mode[:, evidence.order][place], Root(root[:, evidence.order][place])
        if bool(torch.isfinite(mode).all()):
            log_z = density.value(mode) + spread.log_det() + 0.5 * density.p * LOG_2PI
            return Found(mode, spread, log_z)
    mode = top_of(density.value_and_grad, torch.zeros(density.shape, dtype=torch.float64))
    return laplace_at(density, mode, seed)


def top_of(fn: ValueAndGrad, start: Tensor, steps: int = STEPS) -> Tensor:
    """The highest point (S, T, p) that L-BFGS comes to from a start."""

    def flat(v: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = fn(v.reshape(start.shape))
        return value.reshape(-1), grad.reshape(len(v), -1)

    return climb(flat, start.reshape(-1, start.shape[-1]), steps=steps, keep=False).mode.reshape(start.shape)


def laplace_at(density: TaskDensity, v: Tensor, seed: int) -> Found:
    """The Gaussian that has the density's height and curvature at points v (S, T, p), and its integral."""
    value, _, spread = curvature_at(density, v, seed)
    return Found(v, spread, value + spread.log_det() + 0.5 * density.p * LOG_2PI)
