"""The prior of θ and the precision of the observations, read off the user's function at one φ.

A product of Normals and a multivariate normal are read off their parameters, anything else that is quadratic in θ off
its expansion (`Linear.prior` says which it is).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bayesmeta.classes import base_of
from bayesmeta.evidence.exact import expansion
from bayesmeta.evidence.gaussian import LOG_2PI, Gaussian, Matrix, dot, inverse_lower, times_upper
from bayesmeta.evidence.gram_narrow import Prior
from bayesmeta.evidence.linear import Linear, normal_of
from bayesmeta.program import Phi, Program, Row
from bayesmeta.sites import Meeting

__all__ = ["first", "locs_and_roots", "read_prior", "weight"]


def read_prior(program: Program, linear: Linear, phi: Phi, rows: Row) -> Prior:
    """The prior at φ: one for all tasks where they share it, else elements over tasks (T,).

    Args:
        program: The hierarchy's functions.
        linear: The structure of the linear mixed model.
        phi: The point.
        rows: One row of data per task, or one in all where tasks share prior and scale.
    """
    read = READERS[linear.prior]
    if linear.shared:
        return read(program, phi, first(rows))
    return Prior(*program.over_tasks(lambda row: tuple(read(program, phi, row)))(rows))


def first(rows: Row) -> Row:
    """The first of rows that all are alike."""
    return Row(rows.x[0], rows.y[0], rows.mask[0], {key: value[0] for key, value in rows.context.items()})


def _general(program: Program, phi: Phi, row: Row) -> Prior:
    """By second-order expansion of log p(θ | φ), whatever its form."""

    def log_prior(v: Tensor) -> Tensor:
        return program.terms(phi.returned, v, row)[0]

    _, slope, precision = expansion(log_prior, program.structure.theta.size)
    centre = [element.detach() for element in Gaussian.of(precision, slope).mean()]
    g, h = torch.func.grad_and_value(log_prior)(torch.stack(centre))
    elements = [list(line.unbind(-1)) for line in precision.unbind(-2)]
    return Prior(centre, h, list(g.unbind(-1)), elements, weight(program, phi, row), [])


def _independent(program: Program, phi: Phi, row: Row) -> Prior:
    """Read off a product of Normals."""
    met = program.meet(phi.returned, torch.zeros(program.structure.theta.size), row)
    sites = [base_of(met[name].fn) for name in program.structure.theta.names]
    loc = torch.cat([site.loc.expand(site.batch_shape).reshape(-1) for site in sites])
    scale = torch.cat([site.scale.expand(site.batch_shape).reshape(-1) for site in sites])
    precision = scale.pow(-2)
    centre = loc.detach()
    away = loc - centre
    h = -(0.5 * away * away * precision + scale.log() + 0.5 * LOG_2PI).sum()
    diagonal, zero = list(precision.unbind(-1)), torch.zeros(())
    p = range(len(diagonal))
    elements = [[diagonal[i] if i == j else zero for j in p] for i in p]
    g = list((away * precision).unbind(-1))
    return Prior(list(centre.unbind(-1)), h, g, elements, weight(program, phi, row, met), [])


def _normal(program: Program, phi: Phi, row: Row) -> Prior:
    """Read off Normals and multivariate normals: their means and the Cholesky factors of their covariances."""
    met = program.meet(phi.returned, torch.zeros(program.structure.theta.size), row)
    locs, roots = locs_and_roots(program, met)
    loc, root = list(torch.cat(locs).unbind(-1)), _block_diagonal(roots)
    p = range(len(loc))
    inverse = inverse_lower(root)
    columns = [[inverse[i][j] if j <= i else torch.zeros(()) for i in p] for j in p]
    precision = [times_upper(inverse, column) for column in columns]
    centre = [element.detach() for element in loc]
    away = [element - constant for element, constant in zip(loc, centre, strict=True)]
    g = [dot(row, away) for row in precision]
    log_det = torch.stack([root[i][i].log() for i in p]).sum()
    h = -(log_det + 0.5 * dot(g, away) + 0.5 * len(loc) * LOG_2PI)
    return Prior(centre, h, g, precision, weight(program, phi, row, met), root)


def weight(program: Program, phi: Phi, row: Row, met: dict[str, Meeting] | None = None) -> Tensor:
    """1/σ² of the observations of a task."""
    met = met or program.meet(phi.returned, torch.zeros(program.structure.theta.size), row)
    weight: Tensor = normal_of(met).scale.reshape(-1)[0].pow(-2)
    return weight


READERS = {"independent": _independent, "normal": _normal, "general": _general}


def locs_and_roots(program: Program, met: dict[str, Meeting]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Means (k,) and lower Cholesky factors (k, k) of the θ sites, all Normal or multivariate normal."""
    sites = [base_of(met[name].fn) for name in program.structure.theta.names]
    locs, roots = zip(*(_loc_and_root(site) for site in sites), strict=True)
    return locs, roots


def _loc_and_root(site: Any) -> tuple[Tensor, Tensor]:
    """Mean (k,) and lower Cholesky factor (k, k) of a θ site that is Normal or multivariate normal."""
    if type(site).__name__ == "MultivariateNormal":
        k = site.event_shape[0]
        return site.loc.reshape(k), site.scale_tril.reshape(k, k)
    loc, scale = (part.expand(site.batch_shape).reshape(-1) for part in (site.loc, site.scale))
    return loc, torch.diag_embed(scale)


def _block_diagonal(blocks: Sequence[Tensor]) -> Matrix:
    """The elements of a block-diagonal matrix, by rows."""
    size, zero = sum(len(block) for block in blocks), torch.zeros(())
    rows: Matrix = []
    for block in blocks:
        before = len(rows)
        for row in block.unbind(-2):
            rest = size - before - len(block)
            rows.append([*[zero] * before, *row.unbind(-1), *[zero] * rest])
    return rows
