"""Is a hierarchy a linear mixed model? Found out by evaluating the user's functions, never declared.

The mean of the observations must be affine in θ and in the elements of φ that enter it: its Jacobian at one point
gives its value at points near and far. The scale must be one number per task, whatever θ is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayesmeta.evidence.exact import DISTANCES, TOLERANCE, probe_rows
from bayesmeta.program import Phi, Program, Row, first_rows
from bayesmeta.sites import Meeting
from bayesmeta.tasks import Tasks

__all__ = ["Linear", "base_of", "find_linear", "mean_and_scale", "normal_of", "random_phi", "some_tasks"]


@dataclass(frozen=True)
class Linear:
    """What was found of a linear mixed model.

    Attributes:
        entering: Which elements of the flattened φ enter the mean, (b,).
        shared: Whether prior and scale are the same for all tasks.
        independent: Whether p(θ | φ) is a product of Normals, whose precision can be read off.
    """

    entering: Tensor
    shared: bool
    independent: bool


def find_linear(program: Program, tasks: Tasks) -> Linear | None:
    """The structure of a linear mixed model, or None where the mean is not affine or the scale not one number."""
    entering = _entering(program, probe_rows(tasks))
    if entering is None:
        return None
    met = program.meet(random_phi(program, 1)[0].returned, torch.zeros(program.structure.theta.size), _row(tasks))
    independent = all(type(base_of(met[name].fn)).__name__ == "Normal" for name in program.structure.theta.names)
    return Linear(entering, _same_for_all(program, tasks), independent)


def _row(tasks: Tasks) -> Row:
    rows = first_rows(tasks[:1])
    return Row(rows.x[0], rows.y[0], rows.mask[0], {key: value[0] for key, value in rows.context.items()})


def base_of(fn: Any) -> Any:
    """A distribution without the wrappers that only declare or expand its shape."""
    while type(fn).__name__ in ("Independent", "ExpandedDistribution"):
        fn = fn.base_dist
    return fn


def normal_of(met: dict[str, Meeting]) -> Any:
    """The Normal of the only observed site, or None where the likelihood is anything else."""
    sites = [meeting for meeting in met.values() if meeting.observed]
    if len(sites) != 1 or sites[0].value.dim() != 1:
        return None
    site = sites[0]
    unscaled = isinstance(site.scale, (int, float)) and site.scale == 1 and site.mask is None
    fn = base_of(site.fn)
    same_shape = type(fn).__name__ == "Normal" and fn.loc.shape == site.value.shape
    return fn if unscaled and same_shape else None


def mean_and_scale(program: Program, z: Tensor, row: Row) -> tuple[Tensor, Tensor] | None:
    """Mean and scale (n,) of the observations at z = [φ, θ]: constrained values of φ, θ itself."""
    q = sum(int(torch.Size(site.shape).numel()) for site in program.structure.phi)
    phi = program.phi_at(_phi_values(program, z[:q]))
    normal = normal_of(program.meet(phi.returned, z[q:], row))
    return None if normal is None else (normal.loc, normal.scale.expand(normal.loc.shape))


def _phi_values(program: Program, flat: Tensor) -> dict[str, Tensor]:
    values, start = {}, 0
    for site in program.structure.phi:
        count = torch.Size(site.shape).numel()
        values[site.name] = flat[start : start + count].reshape(site.shape)
        start += count
    return values


def random_phi(program: Program, count: int, seed: int = 1) -> list[Phi]:
    """Points of φ, uniform in [-1, 1] per unconstrained coordinate."""
    generator = torch.Generator().manual_seed(seed)
    size = program.structure.phi.size
    return [program.phi(2 * torch.rand(size, generator=generator) - 1) for _ in range(count)]


def _entering(program: Program, rows: list[Row]) -> Tensor | None:
    """Which elements of φ the mean depends on, (b,); None where it is not affine or the scale not constant."""
    if not program.structure.maskable or not rows or not all(site.is_real for site in program.structure.theta):
        return None
    flats = [program.structure.phi.flatten(phi.values) for phi in random_phi(program, 6)]
    generator = torch.Generator().manual_seed(2)
    entering = torch.zeros(len(flats[0]), dtype=torch.bool)
    for row in rows:
        jacobian = _affine(program, row, flats, generator)
        if jacobian is None:
            return None
        entering |= (jacobian[:, : len(flats[0])] != 0).any(0)
    return entering.nonzero().squeeze(-1)


def _affine(program: Program, row: Row, flats: list[Tensor], generator: torch.Generator) -> Tensor | None:
    """The Jacobian (n, q + p) of the mean in [φ, θ], if it is the same everywhere and the scale fits."""
    p = program.structure.theta.size
    origin = torch.cat([flats[0], torch.randn(p, generator=generator)])
    if mean_and_scale(program, origin, row) is None:
        return None
    jacobian: Tensor = torch.func.jacrev(lambda z: mean_and_scale(program, z, row)[0])(origin)  # type: ignore[index]
    base = mean_and_scale(program, origin, row)
    for flat, distance in zip(flats[1:], (1.0, *DISTANCES), strict=True):
        theta = distance * torch.randn(p, generator=generator)
        here = torch.cat([flat, theta])
        mean = mean_and_scale(program, here, row)
        if base is None or mean is None or not _constant_scale(program, flat, theta, row, mean[1]):
            return None
        expected = base[0] + jacobian @ (here - origin)
        size = 1 + base[0].abs().max() + (jacobian.abs() @ (here - origin).abs()).max()
        if not bool(((mean[0] - expected).abs() <= TOLERANCE * size).all()):
            return None
    return jacobian


def _constant_scale(program: Program, flat: Tensor, theta: Tensor, row: Row, scale: Tensor) -> bool:
    """One scale for all observations of the task, and the same at another θ."""
    other = mean_and_scale(program, torch.cat([flat, theta + 1.0]), row)
    return bool((scale == scale[0]).all()) and other is not None and bool((other[1] == scale[0]).all())


def _same_for_all(program: Program, tasks: Tasks) -> bool:
    """Whether p(θ | φ) and the scale are the same for all tasks: certain without context and inputs' help."""
    if tasks.context:
        return False
    picked = some_tasks(tasks)
    rows = first_rows(picked)
    p = program.structure.theta.size
    for phi in random_phi(program, 2):
        for v in (torch.zeros(p), torch.ones(p)):
            prior = program.over_tasks(lambda row, phi=phi, v=v: program.terms(phi.returned, v, row)[0])(rows)
            scale = program.over_tasks(
                lambda row, phi=phi, v=v: normal_of(program.meet(phi.returned, v, row)).scale.reshape(-1)[0]
            )(rows)
            if not bool((prior == prior[0]).all() and (scale == scale[0]).all()):
                return False
    return True


def some_tasks(tasks: Tasks, most: int = 12) -> Tasks:
    """A spread of tasks over sizes, enough to look at."""
    order = torch.argsort(tasks.sizes, stable=True)
    pick = torch.linspace(0, len(order) - 1, min(most, len(order))).round().long().unique()
    return tasks[order[pick].tolist()]
