"""Is a hierarchy a linear mixed model? Found out by evaluating the user's functions, never declared.

The mean of the observations must be affine in θ and in the elements of φ that enter it: its Jacobian at one point
gives its value at points near and far. The scale must be one number per task, whatever θ is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from bayesmeta.classes import base_of
from bayesmeta.evidence.exact import DISTANCES, TOLERANCE, probe_rows, row_of
from bayesmeta.program import Phi, Program, Row, first_rows
from bayesmeta.sites import Meeting
from bayesmeta.tasks import Tasks

__all__ = [
    "Linear",
    "far_points",
    "find_linear",
    "jacobian_at",
    "normal_of",
    "observed_at",
    "random_phi",
    "some_tasks",
]


@dataclass(frozen=True)
class Linear:
    """What was found of a linear mixed model.

    Attributes:
        entering: Which elements of the flattened φ enter the mean, (b,).
        shared: Whether prior and scale are the same for all tasks.
        prior: How p(θ | φ) is had: ``"independent"``, a product of Normals, read off; ``"normal"``, multivariate
            normals among them, read off by their Cholesky factors; ``"general"``, by second-order expansion.
    """

    entering: Tensor
    shared: bool
    prior: Literal["independent", "normal", "general"]


def find_linear(program: Program, tasks: Tasks, also: Sequence[int] = ()) -> Linear | None:
    """The structure of a linear mixed model, or None where the mean is not affine or the scale not one number.

    A few tasks are looked at, and those at the positions `also`.
    """
    entering = _entering(program, probe_rows(tasks) + [row_of(tasks[position]) for position in also])
    if entering is None:
        return None
    met = program.meet(random_phi(program, 1)[0].returned, torch.zeros(program.structure.theta.size), _row(tasks))
    return Linear(entering, _same_for_all(program, tasks, also), _prior_of(program, met))


def _prior_of(program: Program, met: dict[str, Meeting]) -> Literal["independent", "normal", "general"]:
    sites = [base_of(met[name].fn) for name in program.structure.theta.names]
    kinds = {type(site).__name__ for site in sites}
    if kinds == {"Normal"}:
        return "independent"
    single = all(site.batch_shape.numel() == 1 for site in sites if type(site).__name__ == "MultivariateNormal")
    return "normal" if kinds <= {"Normal", "MultivariateNormal"} and single else "general"


def _row(tasks: Tasks) -> Row:
    rows = first_rows(tasks[:1])
    return Row(rows.x[0], rows.y[0], rows.mask[0], {key: value[0] for key, value in rows.context.items()})


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


class Seen(NamedTuple):
    """The observations of a task as they are met at a point: mean, scale and value, (n,) each."""

    mean: Tensor
    scale: Tensor
    value: Tensor


def observed_at(program: Program, z: Tensor, row: Row) -> Seen | None:
    """The observations at z = [φ, θ]: constrained values of φ, θ itself. None where they are not Normal."""
    q = sum(int(torch.Size(site.shape).numel()) for site in program.structure.phi)
    phi = program.phi_at(_phi_values(program, z[:q]))
    met = program.meet(phi.returned, z[q:], row)
    normal = normal_of(met)
    if normal is None:
        return None
    (value,) = (meeting.value for meeting in met.values() if meeting.observed)
    return Seen(normal.loc, normal.scale.expand(normal.loc.shape), value)


def jacobian_at(fn: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """Value (...) and Jacobian (..., m) of a function at z (m,), whatever the function maps over inside.

    The pullback of weights is linear in the weights, and its derivative by them is the Jacobian, a column for each
    element of z. These are torch's plain derivatives; those of `torch.func` load its compiler.
    """
    with torch.enable_grad():
        at = z.detach().clone().requires_grad_(True)
        value = fn(at)
        if not value.requires_grad:
            return value, value.new_zeros(*value.shape, len(z))
        weights = torch.zeros_like(value, requires_grad=True)
        (pulled,) = torch.autograd.grad((value * weights).sum(), at, create_graph=True)
        columns = [
            torch.autograd.grad(element, weights, retain_graph=True, materialize_grads=True)[0]
            for element in pulled.unbind()
        ]
    return value.detach(), torch.stack(columns, -1)


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


def far_points(program: Program, count: int) -> Tensor:
    """Points [φ, θ] (count, q + p), near zero and then farther and farther away."""
    generator = torch.Generator().manual_seed(2)
    points = []
    for distance in (1.0, 1.0, *DISTANCES[::-1])[:count]:
        theta = distance * torch.randn(program.structure.theta.size, generator=generator)
        points.append(torch.cat([_phi_at_distance(program, distance, generator), theta]))
    return torch.stack(points)


def _phi_at_distance(program: Program, distance: float, generator: torch.Generator) -> Tensor:
    """A flat φ whose real elements are of that size: a mean may bend far from zero only."""
    u = [2 * torch.rand(site.size, generator=generator) - 1 for site in program.structure.phi]
    far = [distance * part if site.is_real else part for part, site in zip(u, program.structure.phi, strict=True)]
    return program.structure.phi.flatten(program.phi(torch.cat(far)).values)


def _entering(program: Program, rows: list[Row]) -> Tensor | None:
    """Which elements of φ the mean depends on, (b,); None where it is not affine or the scale not constant."""
    if not program.structure.maskable or not rows or not all(site.is_real for site in program.structure.theta):
        return None
    points = far_points(program, 6)
    q = points.shape[1] - program.structure.theta.size
    entering = torch.zeros(q, dtype=torch.bool)
    for row in rows:
        jacobian = _affine(program, row, points)
        if jacobian is None:
            return None
        entering |= (jacobian[:, :q] != 0).any(0)
    return entering.nonzero().squeeze(-1)


def _affine(program: Program, row: Row, points: Tensor) -> Tensor | None:
    """The Jacobian (n, q + p) of the mean in [φ, θ], if it is the same everywhere and the scale fits."""
    origin, p = points[0], program.structure.theta.size
    base = observed_at(program, origin, row)
    if base is None:
        return None
    _, jacobian = jacobian_at(lambda z: observed_at(program, z, row).mean, origin)  # type: ignore[union-attr]
    for here in points[1:].unbind():
        there = observed_at(program, here, row)
        if there is None or not _constant_scale(program, here[:-p], here[-p:], row, there.scale):
            return None
        expected = base.mean + jacobian @ (here - origin)
        size = 1 + base.mean.abs().max() + (jacobian.abs() @ (here - origin).abs()).max()
        near = bool(((there.mean - expected).abs() <= TOLERANCE * size).all())
        if not near or not torch.equal(there.value, base.value):
            return None
    return jacobian


def _constant_scale(program: Program, flat: Tensor, theta: Tensor, row: Row, scale: Tensor) -> bool:
    """One scale for all observations of the task, and the same at another θ."""
    other = observed_at(program, torch.cat([flat, theta + 1.0]), row)
    return bool((scale == scale[0]).all()) and other is not None and bool((other.scale == scale[0]).all())


def _same_for_all(program: Program, tasks: Tasks, also: Sequence[int]) -> bool:
    """Whether p(θ | φ) and the scale are the same for the tasks looked at; context may always change them."""
    if tasks.context:
        return False
    rows = first_rows(tasks[list(dict.fromkeys([*_spread(tasks), *also]))])
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


def some_tasks(tasks: Tasks) -> Tasks:
    """A spread of tasks over sizes, enough to look at."""
    return tasks[_spread(tasks)]


def _spread(tasks: Tasks, most: int = 12) -> list[int]:
    order = torch.argsort(tasks.sizes, stable=True)
    pick = torch.linspace(0, len(order) - 1, min(most, len(order))).round().long().unique()
    positions: list[int] = order[pick].tolist()
    return positions
