"""Adaptation in closed form: tasks whose log p(y, θ | φ) is quadratic in θ, and families that know their evidence.

log Z_new(φ) and θ | φ, D_new are had exactly, whatever the fit did about θ: a joint fit of a linear-Gaussian
hierarchy is adapted exactly too.
"""

from __future__ import annotations

from dataclasses import dataclass

from bayesmeta.adapt.collapsed import adapt_collapsed
from bayesmeta.adapt.problem import Problem, Result
from bayesmeta.errors import NotAvailableError
from bayesmeta.evidence import Collapsed, collapse, kind

__all__ = ["Exact", "find_evidence", "run"]


@dataclass(frozen=True)
class Exact:
    """Adaptation in closed form has no settings."""


def run(problem: Problem, config: Exact) -> Result:
    """Draws of φ and θ of each task.

    Raises:
        NotAvailableError: log p(y, θ | φ) of these tasks is not quadratic in θ.
    """
    evidence = find_evidence(problem)
    if evidence is None:
        raise NotAvailableError(
            "method='exact' needs tasks whose log p(y, θ | φ) is quadratic in θ (Normal observations with a mean "
            "linear in θ, Normal θ); that of these tasks is not: use method='laplace', 'nuts' or 'auto'"
        )
    return adapt_collapsed(problem, evidence)


def find_evidence(problem: Problem) -> Collapsed | None:
    """The evidence of the fit where that is exact, else one found on these tasks; None where there is none."""
    evidence = problem.evidence
    if kind(evidence) in ("exact", "own"):
        return evidence  # type: ignore[return-value]  # a joint one is of neither kind
    return collapse(problem.program, problem.known)
