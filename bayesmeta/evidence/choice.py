"""Whether tasks can be integrated out by quadrature, and with how many nodes: found out by doing it.

At a few φ, every task looked at must have one mode that is found from anywhere, and twice the nodes must change
next to nothing. A kink makes quadrature converge so slowly that it is seen; a second peak is seen where a search
from another start ends there. The φ are those that the posterior is about: its mode under the coarsest rule, found
in a few dozen gradients, and draws from the Gaussian there. Far from the data every rule errs, and it does not matter.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesmeta.evidence.accuracy import doubling
from bayesmeta.evidence.conditional import log_evidence
from bayesmeta.evidence.laplace import Laplace
from bayesmeta.evidence.proposals import modes_at
from bayesmeta.evidence.quadrature import LADDER, MOST_DIMENSIONS, Quadrature
from bayesmeta.evidence.rough import climb
from bayesmeta.mapping import over_draws
from bayesmeta.program import Program
from bayesmeta.sites import quiet_pyro
from bayesmeta.tasks import Tasks
from bayesmeta.workspace import Workspace

__all__ = ["find_quadrature", "laplace", "one_mode", "plausible", "quadrature"]

CANDIDATES, POINTS, STARTS = 32, 4, 4
CLIMBS, ENOUGH, STEP = 30, 0.1, 0.01
# Largest change by doubling the nodes, in nats: of one task, and of all together. An error of log p(φ, D) with an sd
# of e over φ moves a posterior mean by e sds at most.
TASK_ERROR, TOTAL_ERROR = 2e-3, 1e-2
SAME_MODE = 0.05  # in posterior standard deviations
CHECK_CELLS = 4_000_000


def find_quadrature(program: Program, tasks: Tasks) -> Quadrature | None:
    """Quadrature with as few nodes as serve these tasks, or None where it is not valid."""
    p = program.structure.theta.size
    if p > MOST_DIMENSIONS or not program.structure.vectorised:
        return None
    some = _spread(tasks, LADDER[p][0], p)
    coarse = Quadrature(program, some, LADDER[p][0])
    phi = plausible(coarse)
    if not len(phi) or not one_mode(coarse, phi):
        return None
    for nodes in LADDER[p]:
        few = _spread(some, nodes, p)
        change = doubling(Quadrature(program, few, nodes), phi)
        worst, total = float(change.abs().max()), float(change.sum(1).abs().max()) * len(tasks) / len(few)
        if worst <= TASK_ERROR and total <= TOTAL_ERROR:
            return Quadrature(program, tasks, nodes)
    return None


def quadrature(program: Program, tasks: Tasks) -> Quadrature:
    """Quadrature because it was asked for: with as few nodes as serve, or as many as there may be.

    Raises:
        HierarchyError: θ has too many coordinates, or a task has no mode.
    """
    found = find_quadrature(program, tasks)
    if found is None:
        found = Quadrature(program, tasks)
        _require_modes(found)
    return found


def laplace(program: Program, tasks: Tasks) -> Laplace:
    """Laplace's approximation because it was asked for.

    Raises:
        HierarchyError: A task has no mode.
    """
    found = Laplace(program, tasks)
    _require_modes(found)
    return found


def plausible(evidence: Quadrature | Laplace) -> Tensor:
    """Coordinates of φ (4, q): the mode of p(φ | D) and draws about it, else the best of random ones."""
    # where searches for modes go astray φ is far from what the data are about: not worth a second search
    with Workspace(patient=False), quiet_pyro():
        random = _best_of_random(evidence)
        top = climb(lambda u: _value_and_grad(evidence, u), random[0], CLIMBS, ENOUGH) if len(random) else None
        if top is None:
            return random
        drawn = _about(evidence, top)
        u = torch.cat([top.unsqueeze(0), drawn])
        return u[torch.isfinite(log_evidence(evidence, u).sum(1))]


def _best_of_random(evidence: Quadrature | Laplace) -> Tensor:
    """Of random coordinates of φ about zero, those of the largest log p(φ, D) that can be evaluated, best first."""
    program = evidence.program
    generator = torch.Generator().manual_seed(0)
    u = 4 * torch.rand(CANDIDATES, program.structure.phi.size, generator=generator, dtype=torch.float64) - 2
    prior: Tensor = over_draws(program, lambda u: program.phi(u).log_prior, (u,), CANDIDATES)
    value = prior + log_evidence(evidence, u).sum(1)
    value = torch.where(torch.isfinite(value), value, -torch.inf)
    best = value.argsort(descending=True)[:POINTS]
    return u[best[torch.isfinite(value[best])]]


def _value_and_grad(evidence: Quadrature | Laplace, u: Tensor) -> tuple[float, Tensor]:
    """log p(φ, D) and its gradient at coordinates u (q,)."""
    mode, root = evidence.modes.many(u.unsqueeze(0), evidence.data)
    with torch.enable_grad():
        leaf = u.detach().requires_grad_(True)
        phi = evidence.program.phi(leaf)
        value = phi.log_prior + evidence.total(phi, evidence.data, (mode[0], root[0]))
        (grad,) = torch.autograd.grad(value, leaf)
    return float(value.detach()), grad


def _about(evidence: Quadrature | Laplace, top: Tensor) -> Tensor:
    """Draws (3, q) from the Gaussian at a mode, no wider than a unit where log p(φ, D) is flat."""
    shift = STEP * torch.eye(len(top), dtype=torch.float64)
    slopes = [_value_and_grad(evidence, top + d)[1] - _value_and_grad(evidence, top - d)[1] for d in shift]
    hessian = torch.stack(slopes).nan_to_num(0.0, 0.0, 0.0) / (2 * STEP)
    values, vectors = torch.linalg.eigh(-0.5 * (hessian + hessian.mT))
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(POINTS - 1, len(top), generator=generator, dtype=torch.float64)
    drawn: Tensor = top + (z / values.clamp(min=1.0).sqrt()) @ vectors.mT
    return drawn


def _require_modes(evidence: Quadrature | Laplace) -> None:
    """Raise a HierarchyError unless every task has a mode at the origin of φ and where φ is plausible."""
    some = evidence.on(_spread(evidence.tasks, 1, evidence.program.structure.theta.size))
    # plausible points are some where there are modes: the origin is one that was not chosen
    origin = torch.zeros(1, evidence.program.structure.phi.size, dtype=torch.float64)
    modes_at(some, torch.cat([origin, plausible(some)]))


def one_mode(evidence: Quadrature | Laplace, phi: Tensor) -> bool:
    """Whether searches from several starts end at one mode, for every task and φ."""
    modes, program = evidence.modes, evidence.program
    with quiet_pyro():
        flat: Tensor = over_draws(program, lambda u: program.structure.phi.flatten(program.phi(u).values), (phi,), 100)
        shape = (STARTS, len(flat), len(evidence.tasks), program.structure.theta.size)
        generator = torch.Generator().manual_seed(1)
        start = 1.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
        leaves = pytree.tree_flatten(evidence.data)[0]
        many = flat.expand(STARTS, *flat.shape)
        with torch.no_grad():
            found = modes.solve(many.flatten(0, 1), start.flatten(0, 1), leaves)
    mode = found.mode.unflatten(0, (STARTS, len(flat)))
    spread = found.root.square().sum(-1).sqrt().unflatten(0, (STARTS, len(flat)))[0]
    return bool(((mode - mode[0]).abs() <= SAME_MODE * spread).all())


def _spread(tasks: Tasks, nodes: int, p: int) -> Tasks:
    """Tasks of all sizes, so many that a look at them with twice these nodes stays cheap."""
    cells = max(1.0, float(tasks.sizes.double().mean())) * (2 * nodes) ** p * POINTS
    most = max(2, int(CHECK_CELLS / cells))
    if len(tasks) <= most:
        return tasks
    order = torch.argsort(tasks.sizes, stable=True)
    pick = torch.linspace(0, len(order) - 1, most).round().long().unique()
    return tasks[order[pick].sort().values.tolist()]
