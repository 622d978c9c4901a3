"""Each task read once: its linear model by automatic differentiation, and the Gram matrix of that."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesmeta.evidence.exact import TOLERANCE
from bayesmeta.evidence.gram_blocks import Blocks
from bayesmeta.evidence.linear import Linear, Seen, far_points, jacobian_at, observed_at, random_phi
from bayesmeta.program import Program, Row, first_rows
from bayesmeta.tasks import Tasks

__all__ = ["log_prior", "reduce", "rounding"]

CHUNK_CELLS = 4_000_000
LOOKED_AT = 100  # tasks


def reduce(program: Program, tasks: Tasks, linear: Linear) -> tuple[Blocks, Tensor]:
    """The blocks, and for each task whether it is what they make of it."""
    p, m = program.structure.theta.size, len(linear.entering) + 1
    gram = torch.zeros(len(tasks), p + m, p + m)
    fits = torch.zeros(len(tasks), dtype=torch.bool)
    scale, prior = torch.zeros(len(tasks), 2), torch.zeros(len(tasks))
    probes = far_points(program, 3)
    for batch in tasks.padded():
        step = max(1, CHUNK_CELLS // max(1, batch.mask.shape[1] * (p + m)))
        for start in range(0, len(batch.index), step):
            some = batch.some(slice(start, start + step))
            at, row = some.index, Row.of(some)
            over_tasks = program.over_tasks(lambda r, *read: _design(program, r, linear.entering, probes, *read))
            design, fits[at], scale[at] = over_tasks(row, *_mean_and_jacobian(program, row, probes[0]))
            gram[at] = design.mT @ design
            prior[at] = log_prior(program, row)
    by_first_row = log_prior(program, first_rows(tasks))
    fits &= (prior - by_first_row).abs() <= TOLERANCE * (1 + prior.abs())
    if linear.shared:
        fits &= (scale == scale[0]).all(1) & (by_first_row == by_first_row[0])
    rows = first_rows(tasks[:1] if linear.shared else tasks)
    n = tasks.sizes.to(gram.dtype)
    gram = gram.permute(1, 2, 0)
    ww, aa, aw = gram[p:, p:].contiguous(), gram[:p, :p].contiguous(), gram[:p, p:].contiguous()
    return Blocks(aa, aw, ww, n, ww.sum(-1), n.sum(), rows), fits


def rounding(program: Program, tasks: Tasks, linear: Linear, blocks: Blocks) -> float:
    """About how many nats of Σ log Z rounding takes: ε Σ (y - c)² / σ², as r'r is a difference of sums of that size.

    σ² is the variance that least squares leave in some tasks; 0 where none has observations to spare.
    """
    k = program.structure.theta.size + len(linear.entering)
    ample = (tasks.sizes > k).nonzero().squeeze(-1)
    if not len(ample):
        return 0.0
    some = tasks[ample[torch.linspace(0, len(ample) - 1, min(len(ample), LOOKED_AT)).long()].tolist()]
    probes, residual, spare = far_points(program, 3), torch.zeros(()), 0
    for batch in some.padded(exact_sizes=True):
        row = Row.of(batch)
        over_tasks = program.over_tasks(lambda r, *read: _design(program, r, linear.entering, probes, *read))
        design, _, _ = over_tasks(row, *_mean_and_jacobian(program, row, probes[0]))
        slopes, y = design[..., :-1], design[..., -1:]
        left = y - slopes @ torch.linalg.lstsq(slopes, y, driver="gelsd").solution
        residual = residual + left.square().sum()
        spare += len(design) * (design.shape[1] - k)
    return float(torch.finfo(y.dtype).eps * blocks.ww[-1, -1].sum() * spare / residual)


def log_prior(program: Program, rows: Row) -> Tensor:
    """log p(θ | φ) of each task at one random point (T,)."""
    (phi,) = random_phi(program, 1, seed=3)
    v = torch.linspace(-1.0, 2.0, program.structure.theta.size)

    def one(row: Row) -> Tensor:
        met = program.meet(phi.returned, v, row)
        return torch.stack([met[name].log_prob() for name in program.structure.theta.names]).sum()

    terms: Tensor = program.over_tasks(one)(rows)
    return terms


def _mean_and_jacobian(program: Program, rows: Row, z: Tensor) -> tuple[Tensor, Tensor]:
    """The means (T, n) of the observations of many tasks at z = [φ, θ], and their Jacobians (T, n, q + p)."""

    def mean(z: Tensor, row: Row) -> Tensor:
        found = observed_at(program, z, row)
        return found.mean if found else torch.zeros(0)

    return jacobian_at(lambda z: program.over_tasks(lambda row: mean(z, row))(rows), z)


def _design(
    program: Program, row: Row, entering: Tensor, probes: Tensor, loc: Tensor, jacobian: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """[A, B, y - c] of one task, (n, p + b + 1), zero where padded; whether it gives the mean at other points.

    `probes` are points [φ, θ]: A, B and c are read off the mean and Jacobian at the first. The scales at the others
    are the third result (2,).
    """
    q = probes.shape[1] - program.structure.theta.size
    constant = loc - jacobian @ probes[0]
    slopes = torch.cat([jacobian[:, q:], jacobian[:, entering]], 1)
    fits, scales, value = [], [], None
    for probe in probes[1:].unbind():
        there = torch.cat([probe[q:], probe[entering]])
        loc, scale, y = observed_at(program, probe, row) or Seen(loc, torch.full_like(loc, torch.nan), loc)
        value = y if value is None else value
        size = 1 + constant.abs() + slopes.abs() @ there.abs()
        near = (loc - constant - slopes @ there).abs() <= TOLERANCE * size
        fits.append((near & (scale == scale[0]) & (y == value) | ~row.mask).all())
        scales.append(scale[0])
    design = torch.cat([slopes, (loc if value is None else value).sub(constant).unsqueeze(-1)], -1)
    design = design * row.mask.unsqueeze(-1)
    return design, torch.stack(fits).all(), torch.stack(scales)
