"""What pooling does to θ: each task alone, all tasks as one, and the middle of the population.

Where the evidence is exact, log p(y_t, θ | φ) is b_t'θ - θ'P_tθ / 2 and log p(θ | φ) is g_t'θ - θ'Λ_tθ / 2,
up to constants. What the observations say alone is the difference, A_t = P_t - Λ_t and c_t = b_t - g_t:

    alone        A_t⁻¹ c_t             no pooling: least squares, given what φ adds to the mean (a slope)
    together     (Σ A_t)⁻¹ Σ c_t       complete pooling: one θ for all tasks
    population   Λ_t⁻¹ g_t             the mean of p(θ | φ) in the context of the task

Elsewhere the first two are where the likelihood of θ peaks, found by a search (`bayesmeta.plot.alone`), and the
third is the median of p(θ | φ), by draws unless θ is Normal. All are had at one φ: the mean of its draws in
unconstrained coordinates, or of the members of an ensemble the first, as they are no draws of one distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from bayesmeta.evidence import Exact, Gram
from bayesmeta.evidence.conditional import constrained, theta_values
from bayesmeta.evidence.pilot import normal_sites
from bayesmeta.mapping import chunk_size, over_draws
from bayesmeta.plot.alone import SINGULAR, Frame, alone, together
from bayesmeta.program import Program, first_rows
from bayesmeta.sites import quiet_pyro
from bayesmeta.tasks import Tasks

if TYPE_CHECKING:
    from bayesmeta.posterior import Posterior

__all__ = ["Pooling", "pooling"]

MOST_COORDINATES = 32  # of θ, for which a search for the peak of a task's likelihood is sensible
START_DRAWS = 32
POPULATION_DRAWS = 4001


@dataclass(frozen=True)
class Pooling:
    """Estimates of a θ site, each (T, ...); NaN where observations do not determine θ.

    Attributes:
        alone: No pooling, from the task's own observations.
        together: Complete pooling, the same for every task.
        population: The middle of the population in the task's context.
        middle: What that is: the mean, or the median.
    """

    alone: Tensor
    together: Tensor
    population: Tensor
    middle: Literal["mean", "median"] = "mean"


def pooling(posterior: Posterior, site: str, pick: Tensor | None = None) -> Pooling:
    """The estimates of a site for some tasks of the fit, by their positions; for all by default."""
    pick = torch.arange(len(posterior.tasks)) if pick is None else pick
    phi = posterior.phi_coordinates
    u = phi[:1] if posterior.draws.members is not None else phi.mean(0, keepdim=True)
    if isinstance(posterior.collapsed, (Gram, Exact)):
        return _exact(posterior, posterior.collapsed, site, u, pick)
    return _searched(posterior, site, u, pick)


# --- by formulas --------------------------------------------------------------------------------------------


def _exact(posterior: Posterior, evidence: Gram | Exact, site: str, u: Tensor, pick: Tensor) -> Pooling:
    precision, b = _conditional(evidence, u)
    tasks = posterior.tasks
    nothing = Tasks.without_observations(tasks.names, like=tasks, context=tasks.context or None)
    prior_precision, g = _conditional(evidence.on(nothing), u)
    own, c = precision - prior_precision, b - g

    def values(v: Tensor) -> Tensor:
        return theta_values(evidence, u, v.unsqueeze(0))[site][0][pick]

    return Pooling(
        alone=values(_solve(own, c)),
        together=values(_solve(own.sum(0, keepdim=True), c.sum(0, keepdim=True)).expand_as(c)),
        population=values(_solve(prior_precision, g)),
        middle=_middle(evidence.program),
    )


def _conditional(evidence: Gram | Exact, u: Tensor) -> tuple[Tensor, Tensor]:
    """P (T, p, p) and b (T, p) at one φ, coordinates (1, q)."""
    program = evidence.program
    found: tuple[Tensor, Tensor] = over_draws(
        program, lambda u: evidence.conditional(program.phi(u), evidence.data), (u,), 1
    )
    return found[0][0], found[1][0]


def _solve(precision: Tensor, b: Tensor) -> Tensor:
    """P⁻¹b (T, p), NaN where P is singular."""
    eigenvalues = torch.linalg.eigvalsh(precision)
    sound = eigenvalues[:, 0] > SINGULAR * eigenvalues[:, -1].clamp(min=torch.finfo(b.dtype).tiny)
    safe = torch.where(sound[:, None, None], precision, torch.eye(b.shape[-1], dtype=b.dtype))
    solution: Tensor = torch.linalg.solve(safe, b.unsqueeze(-1)).squeeze(-1)
    return solution.masked_fill(~sound[:, None], torch.nan)


# --- by a search and by draws -------------------------------------------------------------------------------


def _searched(posterior: Posterior, site: str, u: Tensor, pick: Tensor) -> Pooling:
    program = posterior.collapsed.program.with_centring(True)
    some = posterior.tasks[pick.tolist()]
    every = torch.full((len(some), program.structure.theta.size), torch.nan, dtype=torch.float64)
    own, one = every, every[0]
    if program.structure.theta.size <= MOST_COORDINATES:
        frame = _frame(posterior, program, some, pick)
        own = alone(program, some, u[0], frame)
        one = together(program, posterior.tasks, u[0], frame)

    def values(v: Tensor) -> Tensor:
        there = ~torch.isnan(v).any(-1)
        found = constrained(program, some, u.expand(len(v), -1), v.nan_to_num(0.0))[site]
        return torch.where(there.reshape(*there.shape, *(1,) * (found.dim() - 2)), found, torch.nan)

    normal = _normal_median(program, some, u)
    return Pooling(
        alone=values(own.unsqueeze(0))[0],
        together=values(one.expand_as(every).unsqueeze(0))[0],
        population=values(_drawn(program, u, some)).median(0).values if normal is None else normal[site],
        middle="median" if normal is None else _middle(program),
    )


def _middle(program: Program) -> Literal["mean", "median"]:
    """What standardised coordinates of zero are of Normal θ, or of those that are so in other coordinates."""
    return "mean" if all(site.is_real for site in program.structure.theta) else "median"


def _normal_median(program: Program, tasks: Tasks, u: Tensor) -> dict[str, Tensor] | None:
    """The median of every θ site by task, where all are Normal in some coordinates: at standardised ones of zero."""
    with quiet_pyro():
        if set(normal_sites(program, tasks)) != set(program.structure.theta.names):
            return None
    standardised, rows = program.with_centring(False), first_rows(tasks)
    zero = torch.zeros(len(tasks), program.structure.theta.size, dtype=torch.float64)

    def values(u: Tensor) -> dict[str, Tensor]:
        returned = program.returned(u)
        found: dict[str, Tensor] = program.over_tasks(lambda v, row: standardised.values(v, returned, row))(zero, rows)
        return found

    found: dict[str, Tensor] = over_draws(program, values, (u,), 1)
    return {name: value[0] for name, value in found.items()}


def _frame(posterior: Posterior, program: Program, tasks: Tasks, pick: Tensor) -> Frame:
    """Starts at the posterior means of θ, and the spread of θ over tasks and draws, in centred coordinates."""
    draws = torch.linspace(0, len(posterior.phi_coordinates) - 1, START_DRAWS).round().long().unique()
    theta = {name: values[draws][:, pick] for name, values in posterior.theta.items()}
    rows = first_rows(tasks)

    def draw(u: Tensor, theta: dict[str, Tensor]) -> Tensor:
        returned = program.returned(u)
        one: Tensor = program.over_tasks(lambda theta, row: program.coordinates(theta, returned, row))(theta, rows)
        return one

    v: Tensor = over_draws(program, draw, (posterior.phi_coordinates[draws], theta), len(draws))
    spread = v.flatten(0, 1).std(0, correction=0)
    return Frame(v.mean(0), torch.where(spread > 0, spread, 1.0))


def _drawn(program: Program, u: Tensor, tasks: Tasks) -> Tensor:
    """Draws of θ | φ in centred coordinates (S, T, p): where that can be, all tasks by the same random numbers.

    Lines through medians of tasks of similar contexts are then as smooth as the population.
    """
    rows = first_rows(tasks)
    chunk = chunk_size(8 * len(tasks) * (program.structure.theta.size + 4))

    def by(randomness: str) -> Tensor:
        def draw(u: Tensor) -> Tensor:
            returned = program.returned(u)
            one: Tensor = program.over_tasks(lambda row: program.drawn(returned, row), randomness=randomness)(rows)
            return one

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found: Tensor = over_draws(program, draw, (u.expand(POPULATION_DRAWS, -1),), chunk, randomness="different")
        return found

    try:
        return by("same")
    except RuntimeError:  # a sampler that does not let tasks share random numbers
        return by("different")
