"""The evidence of a task, log Z_t(φ) = log ∫ p(y_t | x_t, θ, φ) p(θ | φ) dθ: one method a file.

| method | when |
|---|---|
| `Gram` | linear mixed models: exact, and the observations are read once |
| `Exact` | log p(y, θ | φ) quadratic in θ: exact |
| `Joint` | always: nothing is integrated out, φ and θ are sampled together |

`choose` takes the first that is valid; validity is detected from the model.
"""

from __future__ import annotations

from typing import TypeAlias

from bayesmeta.errors import HierarchyError, OptionError, unknown
from bayesmeta.evidence.exact import Exact, is_quadratic, is_quadratic_everywhere
from bayesmeta.evidence.gram import Gram
from bayesmeta.evidence.joint import Joint
from bayesmeta.program import Program
from bayesmeta.tasks import Tasks

__all__ = ["METHODS", "Collapsed", "Exact", "Gram", "Joint", "choose", "collapse"]

METHODS = ("auto", "exact", "joint")

Collapsed: TypeAlias = Gram | Exact


def collapse(program: Program, tasks: Tasks) -> Collapsed | None:
    """The exact evidence of these tasks, by Gram matrices where that can be; None where there is none."""
    if not is_quadratic(program, tasks):
        return None
    gram = Gram.find(program, tasks)
    if gram is not None:
        return gram
    return Exact(program, tasks) if is_quadratic_everywhere(program, tasks) else None


def choose(program: Program, tasks: Tasks, method: str = "auto") -> Collapsed | Joint:
    """The evidence by name: ``"exact"``, ``"joint"``, or ``"auto"`` for the first that is valid.

    Raises:
        OptionError: An unknown method.
        HierarchyError: ``"exact"`` for a hierarchy whose tasks are not linear-Gaussian.
    """
    if method not in METHODS:
        raise OptionError(unknown("evidence", method, METHODS))
    if method == "joint":
        return Joint(program, tasks)
    found = collapse(program, tasks)
    if found is not None:
        return found
    if method == "exact":
        raise HierarchyError(
            "evidence='exact' needs tasks whose log p(y, θ | φ) is quadratic in θ (Normal observations with a "
            "mean linear in θ, Normal θ); this hierarchy's is not: use evidence='auto' or 'joint'"
        )
    return Joint(program, tasks)
