"""Data from the prior: φ* from the hyperprior, θ* and y* of every task from the task, at the design of given tasks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from pyro.poutine import block
from torch import Tensor
from torch.distributions import biject_to

from bayesmeta.errors import DataError, HierarchyError
from bayesmeta.evidence.exact import row_of
from bayesmeta.program import Program, Row
from bayesmeta.sites import Values, quiet_pyro
from bayesmeta.tasks import Tasks

__all__ = ["Simulated", "check_simulates", "simulate"]


class Simulated(NamedTuple):
    """One draw of everything.

    Attributes:
        u: Unconstrained coordinates of φ* (q,).
        phi: φ* by site.
        theta: θ* by site, each (T, ...).
        tasks: The tasks of the design with the observations y*.
    """

    u: Tensor
    phi: dict[str, Tensor]
    theta: dict[str, Tensor]
    tasks: Tasks


def simulate(program: Program, tasks: Tasks, seed: int) -> Simulated:
    """Draw φ*, θ* and y* with the inputs, contexts and sizes of these tasks.

    Torch's random state is as before afterwards.

    Raises:
        DataError: The observations drawn are not all finite.
    """
    with quiet_pyro(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        u, phi, returned = _draw_phi(program)
        theta, y = _draw_tasks(program, returned, tasks)
    if not bool(torch.isfinite(y).all()):
        shown = ", ".join(f"{name} = {value.tolist()}" for name, value in phi.items())
        raise DataError(f"the observations drawn from the prior are not all finite, at {shown}: narrow the hyperprior")
    return Simulated(u, phi, theta, replace(tasks, y=y))


def _draw_phi(program: Program) -> tuple[Tensor, dict[str, Tensor], Any]:
    handler = Values()
    with block(), handler:
        returned = program.hyperprior()
    met = [handler.met[name] for name in program.structure.phi.names]
    u = torch.cat([biject_to(site.fn.support).inv(site.value).reshape(-1) for site in met])
    return u, {site.name: site.value for site in met}, returned


def _draw_tasks(program: Program, returned: Any, tasks: Tasks) -> tuple[dict[str, Tensor], Tensor]:
    """θ* by site (T, ...), and y* of all tasks one after the other (N, ...)."""
    (observed,) = program.structure.observed
    names = program.structure.theta.names

    def one(row: Row) -> tuple[dict[str, Tensor], Tensor]:
        handler = Values()
        program.run(handler, returned, row.x, None, row.context)
        return {name: handler.met[name].value for name in names}, handler.met[observed].value.to(torch.float64)

    y, parts, order = torch.zeros_like(tasks.y), [], []
    for batch in tasks.padded(exact_sizes=not program.structure.maskable):
        theta, drawn = program.over_tasks(one, randomness="different")(Row.of(batch))
        place = tasks.offsets[batch.index].unsqueeze(-1) + torch.arange(batch.mask.shape[1])
        y[place[batch.mask]] = drawn[batch.mask]
        parts.append(theta)
        order.append(batch.index)
    back = torch.argsort(torch.cat(order))
    return {name: torch.cat([part[name] for part in parts])[back] for name in names}, y


def check_simulates(program: Program, tasks: Tasks) -> None:
    """Whether the hierarchy, run forwards, draws from the density that it has.

    Raises:
        HierarchyError: It has factors or several observed sites, observes something other than y itself, or does
            not draw observations with ``y=None``.
    """
    with quiet_pyro(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _check_hyperprior(program)
        _check_observed(program, tasks)
        _check_draws(program, tasks)


def _check_hyperprior(program: Program) -> None:
    handler = Values()
    with block(), handler:
        program.hyperprior()
    observed = [name for name, site in handler.met.items() if site.observed]
    if observed:
        raise HierarchyError(
            f"the hyperprior observes {observed} (an obs=, or a pyro.factor), so that φ cannot be drawn from it: "
            "simulation-based calibration needs a hyperprior that only samples"
        )


def _check_observed(program: Program, tasks: Tasks) -> None:
    names = program.structure.observed
    row = row_of(tasks[0])
    phi = program.phi(torch.zeros(program.structure.phi.size))
    met = program.meet(phi.returned, torch.zeros(program.structure.theta.size), row)
    if len(names) != 1 or met[names[0]].value.shape != row.y.shape or not torch.equal(met[names[0]].value, row.y):
        raise HierarchyError(
            f"the task observes {list(names)}; to draw observations from it, it must have one observed site, and "
            "that must be given y itself (obs=y), without pyro.factor"
        )


def _check_draws(program: Program, tasks: Tasks) -> None:
    name = program.structure.observed[0]
    handler, task = Values(), tasks[0]
    try:
        program.run(handler, _draw_phi(program)[2], task.x, None, task.context)
    except (TypeError, AttributeError) as error:
        raise HierarchyError(
            f"task raised {type(error).__name__} with y=None, which is how it is asked to draw observations: take "
            f"their number from x ({error})"
        ) from error
    site = handler.met.get(name)
    if site is None or site.observed or site.value.shape != task.y.shape:
        raise HierarchyError(
            f"with y=None the task does not draw {name!r} in the shape {tuple(task.y.shape)} of its observations: "
            "write obs=y, and take the number of observations from x"
        )
