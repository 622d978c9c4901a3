"""Which method adapts best, found out and said: what ``method="auto"`` does.

The evidence of the fit, where θ was integrated out. After a joint fit: its own draws of θ for tasks of which nothing
new is known; for the others the closed form where there is one; else
Laplace's method, corrected, for every task where searches from several starts end at one mode and k-hat says that
its proposals follow; else NUTS. A network's weights are too many for any of them: gradient steps, or Langevin steps
where k-hat says that no Gaussian describes where those end.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bayesmeta.adapt import exact, gradient, langevin, laplace, nuts
from bayesmeta.adapt.collapsed import adapt_collapsed
from bayesmeta.adapt.curvature import Root
from bayesmeta.adapt.density import TaskDensity
from bayesmeta.adapt.ensemble import MOST_CORRECTED
from bayesmeta.adapt.problem import Problem, Result
from bayesmeta.errors import HierarchyError
from bayesmeta.evidence import Joint, kind

__all__ = ["Chosen", "adapt_auto", "one_mode"]

POINTS, STARTS = 4, 4
# Peaks nearer than this, in posterior standard deviations, are one; those of so many nats less are none.
SAME_MODE, NEGLIGIBLE = 0.2, 7.0
K_HAT_LIMIT = 0.7
SHOWN = 3


class Chosen(NamedTuple):
    """What came of a choice: the draws, the method's name, and why, in a sentence."""

    result: Result
    method: str
    reason: str


def adapt_auto(problem: Problem) -> Chosen:
    """Draws by the method that suits."""
    evidence = problem.evidence
    if not isinstance(evidence, Joint):
        name = kind(evidence)
        if name == "laplace":
            return Chosen(laplace.run(problem, laplace.Laplace()), name, "as in the fit, and corrected")
        return Chosen(adapt_collapsed(problem, evidence), name, "as in the fit")
    unchanged = problem.seen & problem.unchanged
    if bool(unchanged.any()):
        return _as_fitted(problem, unchanged)
    structure = problem.program.structure
    if structure.theta.size > MOST_CORRECTED and structure.vectorised:
        return _many(problem)
    closed = exact.find_evidence(problem)
    if closed is not None:
        why = "the fit was joint, but log p(y, θ | φ) is quadratic in θ"
        return Chosen(adapt_collapsed(problem, closed), "exact", why)
    if not structure.vectorised:
        return Chosen(nuts.run(problem, nuts.NUTS()), "nuts", "the task cannot be vectorised, as Laplace's method asks")
    return _laplace_or_nuts(problem)


def _as_fitted(problem: Problem, unchanged: Tensor) -> Chosen:
    """Tasks of a joint fit (T,) of which nothing new is known keep the θ that it drew; the others are adapted."""
    kept, rest = torch.nonzero(unchanged).squeeze(-1), torch.nonzero(~unchanged).squeeze(-1)
    own, why = nuts.continued(problem.at(kept)), "nothing new is known: θ as the joint fit drew it"
    if not len(rest):
        return Chosen(own, "joint", why)
    chosen = adapt_auto(problem.at(rest))
    count = len(chosen.result.phi)
    own = own.rows(torch.linspace(0, len(own.phi) - 1, count).round().long())
    joined = Result.joined([own, chosen.result], torch.argsort(torch.cat([kept, rest])))
    return Chosen(joined, f"joint, {chosen.method}", f"{chosen.reason}; of {len(kept)} tasks {why}")


def _many(problem: Problem) -> Chosen:
    """Many coordinates of θ: gradient steps, and Langevin steps where no Gaussian describes where these end."""
    why = f"θ has {problem.program.structure.theta.size} coordinates, too many for proposals or NUTS"
    found = gradient.run(problem, gradient.Gradient())
    if bool(((found.k_hat_theta <= K_HAT_LIMIT) | (found.k_hat > K_HAT_LIMIT)).all()):
        return Chosen(found, "gradient", why)
    walked = langevin.run(problem, langevin.Langevin())
    return Chosen(walked, "langevin", f"{why}, and no Gaussian about where gradient steps end")


def _laplace_or_nuts(problem: Problem) -> Chosen:
    """Laplace's method for the tasks that it is good for, NUTS for the others."""
    try:
        good = one_mode(problem)
        found = laplace.run(problem, laplace.Laplace()) if bool(good.any()) else None
    except (HierarchyError, RuntimeError):  # no derivatives, or none that are finite
        good, found = torch.zeros(len(problem.known), dtype=torch.bool), None
    if found is not None:
        follows = (found.k_hat_theta <= K_HAT_LIMIT) | (found.k_hat > K_HAT_LIMIT)  # a refit is due, not NUTS
        good = good & follows & torch.isfinite(found.theta).all(-1).all(0)
    if found is not None and bool(good.all()):
        return Chosen(found, "laplace", f"one mode, and k-hat of θ at most {float(found.k_hat_theta.max()):.2f}")
    bad = torch.nonzero(~good).squeeze(-1)
    by_nuts = nuts.run(problem.at(bad), nuts.NUTS())
    names = ", ".join(repr(problem.known.names[int(i)]) for i in bad[:SHOWN]) + (", ..." if len(bad) > SHOWN else "")
    why = f"for {names}, Laplace's method would not do: several modes, or k-hat above {K_HAT_LIMIT}"
    if found is None or not bool(good.any()):
        return Chosen(by_nuts, "nuts", why)
    kept = torch.nonzero(good).squeeze(-1)
    some = found.tasks(kept).rows(torch.linspace(0, len(found.phi) - 1, len(by_nuts.phi)).round().long())
    order = torch.argsort(torch.cat([kept, bad]))
    return Chosen(Result.joined([some, by_nuts], order), "laplace, nuts", f"NUTS {why}")


def one_mode(problem: Problem) -> Tensor:
    """Whether searches for the mode of θ from several starts agree, at a few draws of φ, bool (T,)."""
    few = problem.thinned(POINTS).phi
    density = TaskDensity(problem.program, problem.known, few.repeat(STARTS, 1))
    start = torch.randn(density.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start[: len(few)] = 0.0
    found = laplace.laplace_at(density, laplace.top_of(density.value_and_grad, 1.5 * start), seed=0)
    by_start = (STARTS, len(few))
    mode, height = found.centre.unflatten(0, by_start), found.log_z.unflatten(0, by_start)
    if not isinstance(found.spread, Root):
        return torch.ones(len(problem.known), dtype=torch.bool)
    sd = found.spread.root.square().sum(-1).sqrt().unflatten(0, by_start)
    best = height.argmax(0, keepdim=True)[..., None].expand(1, *mode.shape[1:])
    near = ((mode - mode.gather(0, best)).abs() <= SAME_MODE * sd.gather(0, best)).all(-1)
    agree: Tensor = (near | (height < height.amax(0) - NEGLIGIBLE)).all(0).all(0)
    return agree
