"""A short look at the tasks before they are sampled jointly: which degree of centring does each of them want?

Given φ, the data of a task take the share

    κ = 1 - var(θ | y, φ) / var(θ | φ)

of the prior variance of an element of θ away. At degree κ neither the posterior location of its coordinate moves
with the prior mean, nor its posterior width with the prior scale, to first order; of an element that is correlated
with others under the posterior this is true of its marginal variance. (`bayesmeta.centring` has the coordinates
and their sources.)

κ is taken at a rough mode of log p(φ | D), in standardised coordinates, where the prior variance is one; a hundred
tasks of all sizes are enough for the mode, and κ is then found for every task (of some, where tasks are very many).

2 Σ_t κ_t² is what T normal tasks tell about the logarithm of the prior scale (its Fisher information). Where it is
small, that scale may be far smaller than at the mode, and the funnel is back with any centring at all; the degree
is therefore κ^(1 + 1 / (2 Σ κ²)): κ where the scale is known, and zero where nothing is known.

Where no mode is found the coordinates are standardised, which is safe for the funnel.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from bayesmeta.centring import CENTRED, Degree, base_of
from bayesmeta.errors import BayesmetaError
from bayesmeta.evidence.rough import LEAST_PRECISION, decrement, eigen, modes_of_theta, one_batch, rough_mode
from bayesmeta.program import Program, Row
from bayesmeta.sites import quiet_pyro
from bayesmeta.tasks import Tasks
from bayesmeta.threads import one_thread

__all__ = ["Pilot", "normal_sites", "pilot"]

# For the mode of φ.
MOST_TASKS = 100
LEAST_TASKS = 10
MOST_COORDINATES = 64
# Of more tasks than this, some of all sizes are looked at, and each of the others is taken to be like its neighbour.
MOST_LEARNT = 5_000
# Observations looked at together, counting each coordinate.
CELLS = 1_000_000
# A coordinate this close to an end for every task and element is at it: the density is then simpler.
NEAR_AN_END = 0.05


class Pilot(NamedTuple):
    """Degrees by normal site of θ, each (T, ...), and what is to be said about how they were found."""

    degrees: dict[str, Degree]
    why: str


def normal_sites(program: Program, tasks: Tasks) -> list[str]:
    """Names of the θ sites whose coordinates need not be centred."""
    program = program.with_centring(False)
    first = one_batch(program, tasks[[0]])[0]
    row = Row(first.x[0], first.y[0], first.mask[0], {name: value[0] for name, value in first.context.items()})
    phi = program.returned(torch.zeros(program.structure.phi.size))
    met = program.meet(phi, torch.zeros(program.structure.theta.size), row)
    placed = {name: met[name].placed for name in program.structure.theta.names}
    return [name for name, one in placed.items() if one is not None and one.centring != CENTRED]


@one_thread()
def pilot(program: Program, tasks: Tasks) -> Pilot:
    """The degrees of centring of the normal sites of θ, by task and element."""
    program = program.with_centring(False)
    with quiet_pyro(), torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        names = normal_sites(program, tasks)
        if not names:
            return Pilot({}, "")
        try:
            found, why = _degrees(program, tasks, names)
        except RuntimeError as error:
            if isinstance(error, BayesmetaError):
                raise
            found, why = None, f"its second derivatives in θ failed ({str(error).strip().splitlines()[0]})"
    if found is None:
        found = {name: _standardised(program, tasks, name) for name in names}
        return Pilot(found, f"; how much each task says was not found out: {why}")
    return Pilot(found, ", by how much the data of each task say")


def _standardised(program: Program, tasks: Tasks, name: str) -> Degree:
    zero = torch.zeros(len(tasks), *_shape(program, name), dtype=torch.float64)
    return Degree(zero, zero)


def _shape(program: Program, name: str) -> tuple[int, ...]:
    return next(site.shape for site in program.structure.theta if site.name == name)


def _degrees(program: Program, tasks: Tasks, names: list[str]) -> tuple[dict[str, Degree] | None, str]:
    if program.structure.theta.size > MOST_COORDINATES:
        return None, f"θ has {program.structure.theta.size} coordinates, {MOST_COORDINATES} at most are looked at"
    few = max(LEAST_TASKS, _at_once(tasks, 2 * program.structure.theta.size, MOST_TASKS))
    u = rough_mode(program, tasks[_some(tasks, few)])
    if u is None:
        return None, "no mode of φ was found"
    phi = program.returned(u)
    some = _some(tasks, MOST_LEARNT)
    pieces = torch.tensor(some).split(_at_once(tasks, program.structure.theta.size, len(some)))
    parts = [_learnt(program, phi, tasks[piece.tolist()], names) for piece in pieces]
    like = _nearest(tasks, some)
    return {
        name: _degree(*(torch.cat([part[name][k] for part in parts])[like] for k in range(2))) for name in names
    }, ""


def _degree(share: Tensor, scale: Tensor) -> Degree:
    """The degree (T, ...) of elements whose data take away this share of the variance, of prior scale near `scale`."""
    information = 2 * share.clamp(0, 1).square().sum(0)
    degree = (100 * share.clamp(0, 1) ** (1 + 1 / information.clamp(min=1e-3))).round() / 100
    if bool((degree <= NEAR_AN_END).all()):
        degree = torch.zeros_like(degree)
    elif bool((degree >= 1 - NEAR_AN_END).all()):
        degree = torch.ones_like(degree)
    return Degree(degree, degree * scale ** (degree - 1))


def _at_once(tasks: Tasks, copies: int, most: int) -> int:
    """How many tasks to look at together, so that memory stays bounded."""
    return min(most, max(1, CELLS // (copies * max(1, int(tasks.sizes.max())))))


def _some(tasks: Tasks, most: int) -> list[int]:
    """Positions of at most that many tasks, of all sizes alike, ascending in size."""
    order = torch.argsort(tasks.sizes, stable=True)
    return [int(i) for i in order[torch.linspace(0, len(tasks) - 1, min(most, len(tasks))).round().long()]]


def _nearest(tasks: Tasks, some: list[int]) -> Tensor:
    """For each task, which of some tasks is next to it in the order of sizes (T,)."""
    rank = torch.argsort(torch.argsort(tasks.sizes, stable=True))
    return (rank * ((len(some) - 1) / max(1, len(tasks) - 1))).round().long()


# ---------------------------------------------------------------------------------------------------------
# What the data of each task say about its θ


def _learnt(program: Program, phi: object, tasks: Tasks, names: list[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """By site: the share of prior variance that is taken away, and the prior scale, each (T, ...)."""
    share: dict[str, Tensor] = {name: torch.zeros(len(tasks), *_shape(program, name)) for name in names}
    scale = {name: torch.ones_like(value) for name, value in share.items()}
    for batch in tasks.padded(exact_sizes=not program.structure.maskable):
        row = Row.of(batch)
        modes = modes_of_theta(program, phi, row, torch.zeros(len(batch.index), program.structure.theta.size))
        eigenvalues, vectors = eigen(modes.precision)
        variance = (vectors.square() / eigenvalues.clamp(min=LEAST_PRECISION).unsqueeze(-2)).sum(-1)
        variance[~(decrement(modes) < 1)] = 1.0  # the mode was not found
        scales = program.over_tasks(lambda v, row: _scales(program, phi, v, row, names))(modes.v, row)
        for name, part in _split(program, 1 - variance).items():
            if name in share:
                share[name][batch.index], scale[name][batch.index] = part, scales[name]
    return {name: (share[name], scale[name]) for name in names}


def _split(program: Program, flat: Tensor) -> dict[str, Tensor]:
    """Numbers by coordinate (T, p), by site (T, ...)."""
    sites = program.structure.theta
    parts = flat.split([site.size for site in sites], -1)
    return {
        site.name: part.reshape(len(flat), *site.unconstrained_shape) for site, part in zip(sites, parts, strict=True)
    }


def _scales(program: Program, phi: object, v: Tensor, row: Row, names: list[str]) -> dict[str, Tensor]:
    """The prior scale of each element of the normal sites of one task."""
    met = program.meet(phi, v, row)
    found = {}
    for name in names:
        base = base_of(met[name].fn)
        tril = getattr(base, "scale_tril", None)
        scale = base.scale if tril is None else torch.diagonal(tril, dim1=-2, dim2=-1)
        found[name] = scale.expand(_shape(program, name)).clone()
    return found
