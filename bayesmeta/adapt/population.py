"""Tasks of which nothing is known yet: θ from the population, p(θ | φ), under every draw of φ."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bayesmeta.adapt.problem import Problem, Result
from bayesmeta.errors import HierarchyError
from bayesmeta.mapping import chunk_size, over_draws
from bayesmeta.program import Program, first_rows
from bayesmeta.tasks import Tasks

__all__ = ["check_population", "draw_theta", "from_population"]


def from_population(problem: Problem) -> Result:
    """Draws of φ as the fit left them, and of θ from p(θ | φ)."""
    check_population(problem.program)
    tasks, draws = len(problem.known), len(problem.phi)
    theta = draw_theta(problem.program, problem.phi, problem.known, problem.seed)
    equal = torch.full((tasks,), -math.inf, dtype=torch.float64)
    size = torch.full((tasks,), float(draws), dtype=torch.float64)
    return Result(problem.phi.unsqueeze(1).expand(-1, tasks, -1), theta, equal, size, equal)


def check_population(program: Program) -> None:
    """Raise a HierarchyError where p(θ | φ) is not known without the observations of a task."""
    if program.structure.prior_sees_rows:
        raise HierarchyError(
            "p(θ | φ) depends on all of a task's inputs or observations, so that θ of a task without observations "
            "cannot be drawn: pass what the prior needs of them, such as their mean or number, as a context of the "
            "tasks"
        )


def draw_theta(program: Program, phi: Tensor, tasks: Tasks, seed: int) -> Tensor:
    """Draws of θ | φ_s in centred coordinates (S, T, p), at coordinates of φ (S, q); no observations are looked at."""
    program, rows = program.with_centring(True), first_rows(tasks)

    def draw(u: Tensor) -> Tensor:
        returned = program.returned(u)
        drawn: Tensor = program.over_tasks(lambda row: program.drawn(returned, row), randomness="different")(rows)
        return drawn

    chunk = chunk_size(8 * len(tasks) * (program.structure.theta.size + 4))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        theta: Tensor = over_draws(program, draw, (phi,), chunk, randomness="different")
    return theta
