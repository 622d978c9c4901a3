"""Observations drawn anew: y | θ_s, φ_s at the inputs of tasks, one draw of each observation under each draw s.

Row s of the result goes with draw s, so that draws of φ, θ and y together are draws of all three.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bayesmeta.mapping import over_draws
from bayesmeta.predict import Predictive
from bayesmeta.program import Program, first_rows
from bayesmeta.tasks import Tasks

__all__ = ["centred_theta", "replicas"]

MOST_AT_ONCE = 20_000_000  # numbers of φ, θ and y of the tasks that are drawn together


def replicas(
    program: Program, tasks: Tasks, phi: Tensor, theta: Tensor, *, seed: int, support: Tasks | None = None
) -> Tensor:
    """One draw of every observation of the tasks under every draw of φ and θ (S, N, ...).

    Args:
        program: The hierarchy.
        tasks: Their inputs, contexts and sizes; the observations are not looked at.
        phi: Coordinates of φ (S, q).
        theta: Centred coordinates of θ (S, T, p).
        seed: Seeds the draws; torch's random state is as before afterwards.
        support: What is known of the tasks, for families whose predictions depend on it beside θ.
    """
    out = torch.empty(len(phi), tasks.n_observations, *tasks.y.shape[1:], dtype=torch.float64)
    for piece, index in enumerate(_pieces(tasks, len(phi), phi.shape[1] + theta.shape[2])):
        part = tasks[index]
        each = phi.unsqueeze(1).expand(-1, len(index), -1)
        given = None if support is None else support[index]
        drawn = Predictive(program, part, each, theta[:, index], "replicas", given).per_draw(_seed(seed, piece))
        real = torch.arange(drawn.shape[2]) < part.sizes.unsqueeze(-1)
        place = tasks.offsets[index].unsqueeze(-1) + torch.arange(drawn.shape[2])
        out[:, place[real]] = drawn[:, real]
    return out


def _pieces(tasks: Tasks, draws: int, coordinates: int) -> Iterator[list[int]]:
    """Positions of tasks of similar sizes, as many at a time as keep memory bounded."""
    for batch in tasks[tasks.sizes > 0].padded() if bool((tasks.sizes > 0).any()) else ():
        positions = torch.nonzero(tasks.sizes > 0).squeeze(-1)[batch.index].tolist()
        step = max(1, MOST_AT_ONCE // (draws * (coordinates + batch.y[0].numel())))
        for start in range(0, len(positions), step):
            yield positions[start : start + step]


def _seed(seed: int, piece: int) -> int:
    return int(np.random.SeedSequence([seed, piece]).generate_state(1)[0])


def centred_theta(program: Program, tasks: Tasks, phi: Tensor, values: dict[str, Tensor]) -> Tensor:
    """Centred coordinates of θ (S, T, p), from its values by site (S, T, ...) and coordinates of φ (S, q)."""
    program, rows = program.with_centring(True), first_rows(tasks)

    def draw(u: Tensor, values: dict[str, Tensor]) -> Tensor:
        returned = program.returned(u)
        back: Tensor = program.over_tasks(lambda values, row: program.coordinates(values, returned, row))(values, rows)
        return back

    theta: Tensor = over_draws(program, draw, (phi, values), 1000)
    return theta
