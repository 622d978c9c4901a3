"""The front of adaptation: which observations are new, which method takes them, and what is said about the result."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from bayesmeta.adapt.adapted import Adapted
from bayesmeta.adapt.choice import K_HAT_LIMIT, Chosen, adapt_auto
from bayesmeta.adapt.known import check_like, observations
from bayesmeta.adapt.methods import METHODS, Config, method_of
from bayesmeta.adapt.population import from_population
from bayesmeta.adapt.problem import FEWEST_FOR_K_HAT, Problem, Result
from bayesmeta.errors import BayesmetaWarning, NotAvailableError, OptionError
from bayesmeta.evidence import Own
from bayesmeta.outcomes import require_possible
from bayesmeta.tasks import Tasks

if TYPE_CHECKING:
    from bayesmeta.posterior import Posterior

__all__ = ["adapt", "check_like", "observations"]

SHOWN = 5


def adapt(
    posterior: Posterior,
    tasks: Tasks,
    *,
    method: str | Config = "auto",
    options: Config | Mapping[str, Any] | None = None,
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
        method: One of ``bayesmeta.adapt.METHODS``, or its config, e.g. ``bm.adapt.Gradient(steps=5)``; ``"auto"``
            takes the evidence of the fit, after a joint fit the first that is good enough of ``"exact"``,
            ``"laplace"`` and ``"nuts"``, and says why in `Adapted.reason`.
        options: Settings of the method, as its config or by name: ``{"steps": 5}``.
        draws: How many draws of φ to use, evenly spaced over the posterior's; all by default. Some methods take
            no more than 1,000. Members of an ensemble are used as often as it takes.
        seed: Seeds everything random.
        progress: Show the progress of what takes long.

    Raises:
        DataError: Inputs or context are not shaped as those of the fit, or observations are impossible.
        OptionError: An unknown method or setting, or more draws than there are.
        NotAvailableError: The method does not serve this hierarchy.
    """
    name, config = method_of(method, options)
    check_like(posterior.tasks, tasks)
    require_possible(posterior.collapsed.program, tasks)
    known, before = observations(posterior.tasks, tasks)
    members = posterior.info.inference.get("back_end") == "ensemble"
    pick = _evenly(len(posterior.phi_coordinates), None if members else draws)
    problem = Problem(posterior, pick, known, before, seed, progress)
    if members:
        problem = _over_and_over(problem, draws)
    result, used, reason = _split(problem, name, config)
    if members:
        result = _of_members(result, len(pick))
    _warn(known, result)
    return Adapted(
        problem.program,
        known,
        result.phi,
        result.theta,
        method=used,
        k_hat=result.k_hat,
        effective_size=result.effective_size,
        k_hat_theta=result.k_hat_theta,
        path=result.path,
        reason="; ".join(part for part in (reason, result.note) if part),
    )


def _split(problem: Problem, name: str, config: Any) -> Chosen:
    """The method for tasks of which something is known, the population for the others."""
    empty = torch.nonzero(problem.known.sizes == 0).squeeze(-1)
    if not len(empty) or isinstance(problem.evidence, Own):
        return _by_method(problem, name, config)
    rest = torch.nonzero(problem.known.sizes > 0).squeeze(-1)
    if not len(rest):
        return Chosen(from_population(problem), "population", "nothing is known of these tasks")
    chosen = _by_method(problem.at(rest), name, config)
    unknown = from_population(problem.at(empty).thinned(len(chosen.result.phi)))
    order = torch.argsort(torch.cat([rest, empty]))
    return chosen._replace(result=Result.joined([chosen.result, unknown], order))


def _by_method(problem: Problem, name: str, config: Any) -> Chosen:
    if config is None:
        return adapt_auto(problem)
    if not problem.program.structure.theta.size and name not in ("own", "exact"):
        raise NotAvailableError(f"method={name!r} is about θ, and the task of this hierarchy has none: use 'auto'")
    return Chosen(METHODS[name].run(problem, config), name, "asked for")


def _evenly(available: int, draws: int | None) -> torch.Tensor:
    if draws is None:
        return torch.arange(available)
    if not isinstance(draws, int) or not 1 <= draws <= available:
        raise OptionError(f"draws must lie between 1 and {available}, the number of the posterior, got {draws!r}")
    return torch.linspace(0, available - 1, draws).round().long()


def _over_and_over(problem: Problem, draws: int | None) -> Problem:
    """Members of an ensemble as often as it takes: each is one φ, under which draws of θ shall be many."""
    members, form = len(problem.pick), problem.program.closed_form
    if draws is not None and (not isinstance(draws, int) or draws < 1):
        raise OptionError(f"draws must be a whole number of at least 1, got {draws!r}")
    once = form is not None and form.predictive is not None  # predictions then need no draws of θ
    count = draws or (members if once else max(members, problem.affordable))
    return replace(problem, pick=torch.arange(count) % members)


def _of_members(result: Result, members: int) -> Result:
    """The result of an ensemble: of point estimates there is no k-hat, and no more than there are."""
    repeats = max(1.0, len(result.phi) / members)
    k_hat = torch.full_like(result.k_hat, torch.nan)
    return result._replace(k_hat=k_hat, effective_size=result.effective_size / repeats)


def _warn(tasks: Tasks, result: Result) -> None:
    """Say which tasks the draws cannot follow; too few draws have no k-hat."""
    if len(result.phi) < FEWEST_FOR_K_HAT:
        return
    _warn_of(
        tasks,
        result.k_hat > K_HAT_LIMIT,
        "k-hat is above",
        "what they tell about φ is more than the draws of the fit can follow; refit with them for exact answers",
    )
    _warn_of(
        tasks,
        torch.isfinite(result.k_hat_theta) & (result.k_hat_theta > K_HAT_LIMIT) & (result.k_hat <= K_HAT_LIMIT),
        "k-hat of θ is above",
        "p(θ | φ, D) is not what the method takes it for; use method='nuts' or 'langevin' for exact answers",
    )


def _warn_of(tasks: Tasks, bad: torch.Tensor, what: str, meaning: str) -> None:
    at = torch.nonzero(bad).squeeze(-1)
    if len(at):
        names = [tasks.names[int(i)] for i in at[:SHOWN]]
        warnings.warn(
            f"{what} {K_HAT_LIMIT} for {len(at)} of {len(tasks)} tasks ({names}): {meaning}",
            BayesmetaWarning,
            stacklevel=5,
        )
