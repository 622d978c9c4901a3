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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from bayesmeta.evidence import Exact, Gram
from bayesmeta.evidence.conditional import constrained
from bayesmeta.evidence.pilot import normal_sites
from bayesmeta.mapping import chunk_size, over_draws
from bayesmeta.plot.alone import Frame, alone, solved, together
from bayesmeta.program import Program, first_rows
from bayesmeta.sites import quiet_pyro
from bayesmeta.tasks import Tasks

if TYPE_CHECKING:
    from bayesmeta.posterior import Posterior

__all__ = ["Drawn", "Pooling", "pooling"]

MOST_COORDINATES = 32  # of θ, for which a search for the peak of a task's likelihood is sensible
START_DRAWS = 32
POPULATION_DRAWS = 4001
FEW_DRAWS = 101  # where they are taken one by one


@dataclass(frozen=True)
class Pooling:
    """Estimates of a θ site, each (T, ...); NaN in elements that observations leave open.

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


class Drawn(NamedTuple):
    """Draws of θ of some tasks by site (S, T, ...), with the coordinates of φ that go with them (S, q)."""

    theta: Mapping[str, Tensor]
    phi: Tensor


def pooling(posterior: Posterior, site: str, pick: Tensor, drawn: Drawn) -> Pooling:
    """The estimates of a site for the tasks of the fit at these positions, and draws of their θ."""
    phi = posterior.phi_coordinates
    u = phi[:1] if posterior.draws.members is not None else phi.mean(0, keepdim=True)
    if isinstance(posterior.collapsed, (Gram, Exact)):
        return _exact(posterior, posterior.collapsed, site, u, pick)
    return _searched(posterior, site, u, pick, drawn)


# --- by formulas --------------------------------------------------------------------------------------------


def _exact(posterior: Posterior, evidence: Gram | Exact, site: str, u: Tensor, pick: Tensor) -> Pooling:
    precision, b = _conditional(evidence, u)
    tasks = posterior.tasks
    nothing = Tasks.without_observations(tasks.names, like=tasks, context=tasks.context or None)
    prior_precision, g = _conditional(evidence.on(nothing), u)
    own, c = precision - prior_precision, b - g
    some, program = tasks[pick.tolist()], evidence.program
    together = solved(own.sum(0, keepdim=True), c.sum(0, keepdim=True)).expand(len(pick), -1)
    return Pooling(
        alone=_values(program, some, u, solved(own[pick], c[pick]), site),
        together=_values(program, some, u, together, site),
        population=_values(program, some, u, solved(prior_precision[pick], g[pick]), site),
        middle=_middle(program),
    )


def _conditional(evidence: Gram | Exact, u: Tensor) -> tuple[Tensor, Tensor]:
    """P (T, p, p) and b (T, p) at one φ, coordinates (1, q)."""
    program = evidence.program
    found: tuple[Tensor, Tensor] = over_draws(
        program, lambda u: evidence.conditional(program.phi(u), evidence.data), (u,), 1
    )
    return found[0][0], found[1][0]


def _values(program: Program, tasks: Tasks, u: Tensor, v: Tensor, site: str) -> Tensor:
    """A site (T, ...) at one φ, coordinates (1, q), and coordinates of θ (T, p); NaN where these are."""
    found = constrained(program, tasks, u, v.nan_to_num(0.0).unsqueeze(0))[site][0]
    start = 0
    for one in program.structure.theta:
        if one.name == site:
            there = ~torch.isnan(v[:, start : start + one.size])
            if one.shape == one.unconstrained_shape:
                return torch.where(there.reshape(found.shape), found, torch.nan)
            return torch.where(there.all(-1).reshape(-1, *(1,) * len(one.shape)), found, torch.nan)
        start += one.size
    return found


# --- by a search and by draws -------------------------------------------------------------------------------


def _searched(posterior: Posterior, site: str, u: Tensor, pick: Tensor, drawn: Drawn) -> Pooling:
    program = posterior.collapsed.program.with_centring(True)
    some = posterior.tasks[pick.tolist()]
    every = torch.full((len(some), program.structure.theta.size), torch.nan, dtype=torch.float64)
    own, one = every, every[0]
    if program.structure.theta.size <= MOST_COORDINATES:
        frame = _frame(program, some, drawn)
        own = alone(program, some, u[0], frame)
        one = together(program, posterior.tasks, u[0], frame)

    normal = _normal_median(program, some, u)
    return Pooling(
        alone=_values(program, some, u, own, site),
        together=_values(program, some, u, one.expand_as(every), site),
        population=_drawn_median(program, u, some, site) if normal is None else normal[site],
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


def _frame(program: Program, tasks: Tasks, drawn: Drawn) -> Frame:
    """Starts at the posterior means of θ, and the spread of θ over tasks and draws, in centred coordinates."""
    draws = torch.linspace(0, len(drawn.phi) - 1, START_DRAWS).round().long().unique()
    some = {name: values[draws] for name, values in drawn.theta.items()}
    rows = first_rows(tasks)

    def draw(u: Tensor, theta: dict[str, Tensor]) -> Tensor:
        returned = program.returned(u)
        one: Tensor = program.over_tasks(lambda theta, row: program.coordinates(theta, returned, row))(theta, rows)
        return one

    v: Tensor = over_draws(program, draw, (drawn.phi[draws], some), len(draws))
    spread = v.flatten(0, 1).std(0, correction=0)
    return Frame(v.mean(0), torch.where(spread > 0, spread, 1.0))


def _drawn_median(program: Program, u: Tensor, tasks: Tasks, site: str) -> Tensor:
    """The median of a θ site given φ (T, ...), by draws: where that can be, all tasks by the same random numbers.

    Lines through medians of tasks of similar contexts are then as smooth as the population.
    """
    rows = first_rows(tasks)
    chunk = chunk_size(8 * len(tasks) * (program.structure.theta.size + 4))
    count = POPULATION_DRAWS if program.structure.vectorised else FEW_DRAWS

    def by(randomness: str) -> Tensor:
        def draw(u: Tensor) -> Tensor:
            returned = program.returned(u)
            one: Tensor = program.over_tasks(lambda row: program.drawn(returned, row), randomness=randomness)(rows)
            return one

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found: Tensor = over_draws(program, draw, (u.expand(count, -1),), chunk, randomness="different")
        return found

    try:
        v, same = by("same"), program.structure.vectorised
    except RuntimeError:  # a sampler that does not let tasks share random numbers
        v, same = by("different"), False
    drawn = constrained(program, tasks, u.expand(len(v), -1), v)[site]
    if same or tasks.context:
        return drawn.median(0).values
    return drawn.flatten(0, 1).median(0).values.expand(drawn.shape[1:])
