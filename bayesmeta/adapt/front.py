"""The front of adaptation: which observations are new, and which method takes them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from bayesmeta.adapt.adapted import Adapted
from bayesmeta.adapt.collapsed import adapt_collapsed
from bayesmeta.adapt.nuts import adapt_nuts
from bayesmeta.errors import BayesmetaWarning, DataError, NotAvailableError, OptionError, unknown
from bayesmeta.evidence import Joint, kind
from bayesmeta.tasks import Tasks

if TYPE_CHECKING:
    from bayesmeta.posterior import Posterior

__all__ = ["METHODS", "adapt", "check_like", "observations"]

METHODS = ("auto", "exact", "quadrature", "laplace", "nuts")
K_HAT_LIMIT = 0.7


def adapt(
    posterior: Posterior,
    tasks: Tasks,
    *,
    method: str = "auto",
    draws: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Adapted:
    """θ of tasks given their observations and the population, each task on its own, without a refit.

    A task whose name is new is adapted to its observations; without any, it is predicted from the population
    (zero-shot). A task of the fit, known by its name, goes on from what the fit knows of it: its observations
    here are added to those of the fit. Handing over exactly the observations of the fit, or none, adds nothing
    and gives its θ under the fit. Both kinds mix in one call.

    Args:
        posterior: The fitted population.
        tasks: The tasks with their support observations.
        method: ``"nuts"``, the name of the fit's evidence (``"exact"``, ``"quadrature"``, ``"laplace"``), or
            ``"auto"``: the evidence of the fit, ``"nuts"`` where that is joint.
        draws: How many draws of φ to use, evenly spaced over the posterior's; all by default.
        seed: Seeds everything random.
        progress: Show the progress of ``"nuts"``.

    Raises:
        DataError: Inputs or context are not shaped as those of the fit.
        OptionError: An unknown method, or more draws than there are.
        NotAvailableError: The fit has another evidence than that.
    """
    _check(posterior, tasks, method)
    known, before = observations(posterior.tasks, tasks)
    pick = _evenly(len(posterior.phi_coordinates), draws)
    evidence = posterior.collapsed
    if method not in ("auto", "nuts", kind(evidence)):
        raise NotAvailableError(
            f"method={method!r} needs a fit with evidence={method!r}, this one has {kind(evidence)!r}; use "
            "method='nuts' or 'auto'"
        )
    if isinstance(evidence, Joint) or method == "nuts":
        used = "nuts"
        result = adapt_nuts(posterior, pick, known, before, seed, progress)
    else:
        used = kind(evidence)
        result = adapt_collapsed(evidence, posterior.phi_coordinates[pick], known, before, seed)
    phi, theta, k_hat, size = result
    _warn(known, k_hat)
    program = evidence.program.with_centring(True)
    return Adapted(program, known, phi, theta, method=used, k_hat=k_hat, effective_size=size)


def _check(posterior: Posterior, tasks: Tasks, method: str) -> None:
    if method not in METHODS:
        raise OptionError(unknown("method", method, METHODS))
    check_like(posterior.tasks, tasks)


def check_like(fit: Tasks, tasks: Tasks) -> None:
    """Raise a DataError unless tasks have inputs, observations and contexts shaped as those of the fit."""
    if not isinstance(tasks, Tasks):
        raise DataError(f"tasks must be a Tasks, got {type(tasks).__name__}")
    if tasks.x.shape[1:] != fit.x.shape[1:]:
        like = "" if tasks.n_observations else "; Tasks.without_observations(names, like=posterior.tasks) does"
        raise DataError(
            f"x has shape {tuple(tasks.x.shape[1:])} per observation, in the fit it had {tuple(fit.x.shape[1:])}{like}"
        )
    if tasks.n_observations and tasks.y.shape[1:] != fit.y.shape[1:]:
        raise DataError(
            f"y has shape {tuple(tasks.y.shape[1:])} per observation, in the fit it had {tuple(fit.y.shape[1:])}"
        )
    if set(tasks.context) != set(fit.context):
        raise DataError(f"context must be {sorted(fit.context)} as in the fit, got {sorted(tasks.context)}")


def observations(fit: Tasks, tasks: Tasks) -> tuple[Tasks, Tasks]:
    """All that is known of each task, and the part of it that the fit has seen."""
    nothing = Tasks.without_observations(tasks.names, like=tasks, context=tasks.context or None)
    seen = [name for name in tasks.names if name in fit]
    if not seen:
        return tasks, nothing
    xs, ys, old_xs, old_ys = [], [], [], []
    for task in tasks:
        old = fit[task.name] if task.name in seen else None
        if old is not None and not all(_equal(task.context[key], old.context[key]) for key in old.context):
            raise DataError(
                f"the context of task {task.name!r} is not that of the fit, which has seen a task of this name: pass "
                "the same context, or give another task another name"
            )
        keep = old is not None and not (_equal(task.x, old.x) and _equal(task.y, old.y))
        x, y = (task.x, task.y) if old is None else (old.x, old.y)
        if old is not None and keep and task.n:
            x, y = torch.cat([old.x, task.x]), torch.cat([old.y, task.y])
        xs.append(x)
        ys.append(y)
        old_xs.append(x[:0] if old is None else old.x)
        old_ys.append(y[:0] if old is None else old.y)
    context = tasks.context or None
    known = Tasks.from_lists(xs, ys, names=tasks.names, context=context, allow_empty=True)
    before = Tasks.from_lists(old_xs, old_ys, names=tasks.names, context=context, allow_empty=True)
    return known, before


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _evenly(available: int, draws: int | None) -> torch.Tensor:
    if draws is None:
        return torch.arange(available)
    if not isinstance(draws, int) or not 1 <= draws <= available:
        raise OptionError(f"draws must lie between 1 and {available}, the number of the posterior, got {draws!r}")
    return torch.linspace(0, available - 1, draws).round().long()


def _warn(tasks: Tasks, k_hat: torch.Tensor) -> None:
    bad = torch.nonzero(k_hat > K_HAT_LIMIT).squeeze(-1)
    if len(bad) and float(k_hat[bad].max()) < float("inf"):
        names = [tasks.names[int(i)] for i in bad[:5]]
        warnings.warn(
            f"k-hat is above {K_HAT_LIMIT} for {len(bad)} of {len(tasks)} tasks ({names}): what they tell about φ "
            "is more than the draws of the fit can follow; refit with them for exact answers",
            BayesmetaWarning,
            stacklevel=4,
        )
