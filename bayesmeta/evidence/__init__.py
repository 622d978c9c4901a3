"""The evidence of a task, log Z_t(φ) = log ∫ p(y_t | x_t, θ, φ) p(θ | φ) dθ: one method a file.

| method | when |
|---|---|
| `Gram` | linear mixed models: exact, and the observations are read once |
| `Exact` | log p(y, θ | φ) quadratic in θ: exact |
| `Quadrature` | smooth tasks with at most three θ: adaptive Gauss-Hermite, its error measured |
| `Laplace` | any smooth task: an approximation, its error measured; only where it is asked for |
| `Joint` | always: nothing is integrated out, φ and θ are sampled together |
| `Own` | families that bring a formula of their own, `Hierarchy(..., evidence=ClosedForm(...))` |

`choose` takes a family's own, else the first that is valid; validity is detected from the model.
"""

from __future__ import annotations

from bayesmeta.errors import HierarchyError, OptionError, unknown
from bayesmeta.evidence import choice
from bayesmeta.evidence.accuracy import evidence_error
from bayesmeta.evidence.conditional import Collapsed
from bayesmeta.evidence.exact import Exact, is_quadratic, is_quadratic_everywhere
from bayesmeta.evidence.gram import Gram
from bayesmeta.evidence.joint import Joint
from bayesmeta.evidence.laplace import Laplace
from bayesmeta.evidence.own import Own
from bayesmeta.evidence.quadrature import Quadrature
from bayesmeta.program import Program
from bayesmeta.tasks import Tasks

__all__ = [
    "METHODS",
    "Collapsed",
    "Exact",
    "Gram",
    "Joint",
    "Laplace",
    "Own",
    "Quadrature",
    "choose",
    "collapse",
    "evidence_error",
    "kind",
]

METHODS = ("auto", "exact", "quadrature", "laplace", "joint")


def collapse(program: Program, tasks: Tasks) -> Gram | Exact | None:
    """The exact evidence of these tasks, by Gram matrices where that can be; None where there is none."""
    if not is_quadratic(program, tasks):
        return None
    gram = Gram.find(program, tasks)
    if gram is not None:
        return gram
    return Exact(program, tasks) if is_quadratic_everywhere(program, tasks) else None


def choose(program: Program, tasks: Tasks, method: str = "auto") -> Collapsed | Joint:
    """The evidence by name: one of `METHODS`, ``"auto"`` for the first that is valid of exact, quadrature, joint.

    A family's own evidence comes before all of them: ``"auto"`` takes it where there is one, ``"own"`` insists.

    Raises:
        OptionError: An unknown method.
        HierarchyError: ``"exact"`` for a hierarchy whose tasks are not linear-Gaussian, ``"quadrature"`` for more
            than three θ, either that or ``"laplace"`` for tasks without a mode; ``"own"`` where there is none,
            another where the task samples no θ.
    """
    if method == "own" or (method == "auto" and program.closed_form is not None):
        return Own(program, tasks)
    if method not in METHODS:
        raise OptionError(unknown("evidence", method, METHODS))
    if not len(program.structure.theta):
        raise HierarchyError(f"evidence={method!r} is about θ, and this task samples none: use evidence='auto'")
    if method == "joint":
        return Joint(program, tasks)
    if method == "quadrature":
        return choice.quadrature(program, tasks)
    if method == "laplace":
        return choice.laplace(program, tasks)
    found = collapse(program, tasks)
    if found is not None:
        return found
    if method == "exact":
        raise HierarchyError(
            "evidence='exact' needs tasks whose log p(y, θ | φ) is quadratic in θ (Normal observations with a "
            "mean linear in θ, Normal θ); this hierarchy's is not: use evidence='auto', 'quadrature' or 'joint'"
        )
    return choice.find_quadrature(program, tasks) or Joint(program, tasks)


def kind(evidence: Collapsed | Joint) -> str:
    """The method of `choose` that an evidence is of."""
    names = {Gram: "exact", Exact: "exact", Quadrature: "quadrature", Laplace: "laplace", Joint: "joint", Own: "own"}
    return names[type(evidence)]
