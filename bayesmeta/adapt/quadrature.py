"""Adaptation by quadrature: log Z_new(φ) by adaptive Gauss-Hermite rules for up to three θ, whatever the fit was.

θ is drawn from proposals at its mode: see `bayesmeta.evidence.proposals`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch

from bayesmeta.adapt.collapsed import adapt_collapsed
from bayesmeta.adapt.problem import Problem, Result
from bayesmeta.errors import BayesmetaWarning, NotAvailableError
from bayesmeta.evidence.accuracy import doubling
from bayesmeta.evidence.quadrature import LADDER, MOST_DIMENSIONS
from bayesmeta.evidence.quadrature import Quadrature as Evidence
from bayesmeta.infer.options import check_whole
from bayesmeta.tasks import Tasks

__all__ = ["Quadrature", "run"]

POINTS, MOST_TASKS = 4, 20
# Largest change of log Z of a task by doubling the nodes, in nats: to choose a rule, and beyond which it is said.
ENOUGH, TOO_MUCH = 2e-3, 5e-2


@dataclass(frozen=True)
class Quadrature:
    """Settings of adaptation by quadrature.

    Args:
        nodes: Nodes per dimension of θ; None takes those of the fit, or as few as serve these tasks.
    """

    nodes: int | None = None

    def __post_init__(self) -> None:
        if self.nodes is not None:
            check_whole("nodes", self.nodes, 1)


def run(problem: Problem, config: Quadrature) -> Result:
    """Draws of φ and θ of each task.

    Raises:
        NotAvailableError: θ has more than three coordinates, or the task cannot be vectorised.
    """
    structure = problem.program.structure
    if structure.theta.size > MOST_DIMENSIONS or not structure.vectorised:
        reason = (
            f"θ of at most {MOST_DIMENSIONS} coordinates, this one has {structure.theta.size}"
            if structure.vectorised
            else "a task function that can be vectorised, this one branches on values"
        )
        raise NotAvailableError(f"method='quadrature' needs {reason}: use method='laplace', 'nuts' or 'auto'")
    fitted = problem.evidence
    if config.nodes is None and isinstance(fitted, Evidence):
        return adapt_collapsed(problem, fitted)
    return adapt_collapsed(problem, Evidence(problem.program, problem.known, config.nodes or _nodes(problem)))


def _nodes(problem: Problem) -> int:
    """As few nodes as serve some of the tasks at a few draws of φ; the most there are, with a warning, if none do."""
    few = problem.thinned(POINTS).phi
    tasks = _some(problem.known)
    ladder = LADDER[problem.program.structure.theta.size]
    for nodes in ladder:
        change = float(doubling(Evidence(problem.program, tasks, nodes), few).abs().max())
        if change <= ENOUGH:
            return nodes
    if not change <= TOO_MUCH:
        warnings.warn(
            f"log Z of a task changes by {change:.2g} nats when {ladder[-1]} nodes per dimension are doubled: its "
            "density has a kink or several peaks, and method='nuts' is the safer choice",
            BayesmetaWarning,
            stacklevel=5,
        )
    return ladder[-1]


def _some(tasks: Tasks) -> Tasks:
    """A few tasks of all sizes."""
    order = torch.argsort(tasks.sizes, stable=True)
    return tasks[order[torch.linspace(0, len(order) - 1, min(len(order), MOST_TASKS)).round().long()].tolist()]
