"""Ranks of a task among tasks drawn from the population at the same inputs: what `bayesmeta.diagnose.novelty` shows.

Three statistics of the observations y of a task are ranked, φ_s being draws of p(φ | D):

* log 1/S Σ_s Z(φ_s), the predictive density of the task as a whole;
* the mean of log p(θ_s | φ_s), θ_s from p(θ | φ_s, y): small where θ lies far out in the population;
* the mean of log p(y | θ_s, φ_s): small where observations scatter about θ more than in the population does, large
  where they scatter less.

A rank among exchangeable tasks is uniform whatever the statistic, so that few φ_s, and an approximate Z, cost power
at most and never calibration. Ties, as counts have them, are broken at random.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bayesmeta.diagnose.replicates import replicated
from bayesmeta.errors import HierarchyError, NotAvailableError
from bayesmeta.evidence import Collapsed, Exact, Gram, Joint, Laplace, Quadrature
from bayesmeta.evidence.conditional import log_evidence, theta_coordinates
from bayesmeta.likelihood import terms_tasks
from bayesmeta.tasks import Tasks
from bayesmeta.track import bar

if TYPE_CHECKING:
    from bayesmeta.posterior import Posterior

__all__ = ["ranks_of", "strangers_at_a_glance"]

DRAWS, CURVED_DRAWS = 100, 25  # of φ, where Z is a formula, and where modes are looked for
THETA_DRAWS = 10
ROWS = 200_000  # observations of replicates at once
GLANCE_REPLICATES, GLANCE_DRAWS, GLANCE_ROWS = 64, 20, 100_000
FAR_BELOW = 6.0  # standard deviations of log density: p < .003 for one Normal observation, far less for many


def ranks_of(
    posterior: Posterior, tasks: Tasks, replicates: int, *, seed: int, progress: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Ranks in (0, 1) of the three statistics, the log density, and its mean and sd over replicates, each (T,).

    NaN for tasks without observations, and for the last two statistics where tasks have no θ.

    Raises:
        NotAvailableError: A joint fit whose tasks have no mode.
    """
    out = torch.full((6, len(tasks)), math.nan, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    groups = _designs(tasks)
    with bar("drawing tasks of the population", len(groups), progress) as step:
        for number, part in enumerate(_pieces(groups, tasks, replicates)):
            members = [t for group in part for t in group]
            theirs, own = _compared(posterior, tasks, part, replicates, seed + number)
            ranks = _ranked(own, theirs, generator)
            density = theirs[0].clamp(min=torch.finfo(torch.float64).min)
            out[:, members] = torch.stack([*ranks, own[0], density.mean(-1), density.std(-1)])
            step(len(part))
    ranked: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor] = tuple(out.unbind())  # type: ignore[assignment]
    return ranked


def strangers_at_a_glance(posterior: Posterior, tasks: Tasks, seed: int = 0) -> list[str]:
    """Names of tasks so unlikely that a few dozen tasks of the population are enough to tell.

    It takes some 20 milliseconds, for one task or for two hundred of the same inputs, where Z is a formula of
    Gaussians. Elsewhere, or for very many different inputs, nobody is looked at.
    """
    if not isinstance(posterior.collapsed, Gram | Exact):
        return []
    groups = [[t for t in group if tasks.names[t] not in posterior.tasks] for group in _designs(tasks)]
    groups = [group for group in groups if group]
    if GLANCE_REPLICATES * sum(int(tasks.sizes[group[0]]) for group in groups) > GLANCE_ROWS:
        return []
    found: list[str] = []
    for part in _pieces(groups, tasks, GLANCE_REPLICATES):
        members = [t for group in part for t in group]
        theirs, own = _compared(posterior, tasks, part, GLANCE_REPLICATES, seed, glance=True)
        low = theirs[0].mean(-1) - FAR_BELOW * theirs[0].std(-1)
        found += [tasks.names[t] for t, strange in zip(members, (own[0] < low).tolist(), strict=True) if strange]
    return found


def _designs(tasks: Tasks) -> list[list[int]]:
    """Tasks with observations, those of the same inputs and contexts together: they share their replicates."""
    groups: dict[tuple[int | bytes, ...], list[int]] = {}
    for t, task in enumerate(tasks):
        if task.n:
            parts = [task.x, *(task.context[name] for name in sorted(task.context))]
            groups.setdefault((task.n, *(part.numpy().tobytes() for part in parts)), []).append(t)
    return list(groups.values())


def _pieces(groups: Sequence[list[int]], tasks: Tasks, replicates: int) -> Iterator[list[list[int]]]:
    """Groups of tasks, so many at a time that their replicates have about `ROWS` observations."""
    piece: list[list[int]] = []
    rows = 0
    for group in groups:
        more = int(tasks.sizes[group[0]]) * replicates
        if piece and rows + more > ROWS:
            yield piece
            piece, rows = [], 0
        piece.append(group)
        rows += more
    if piece:
        yield piece


def _compared(
    posterior: Posterior, tasks: Tasks, groups: list[list[int]], replicates: int, seed: int, *, glance: bool = False
) -> tuple[Tensor, Tensor]:
    """Statistics of the replicates (3, tasks, replicates) and of the tasks (3, tasks), in the order of the groups."""
    made = replicated(posterior, tasks[[group[0] for group in groups]], replicates, seed=seed)
    members = [t for group in groups for t in group]
    mine = tasks[members].with_names([f"task {k} of {made.names[0]}" for k in range(len(members))])
    each = _statistics(posterior, made + mine, seed, glance)
    theirs = each[:, : len(made)].reshape(-1, len(groups), replicates)
    which = torch.tensor([g for g, group in enumerate(groups) for _ in group])
    return theirs[:, which], each[:, len(made) :]


def _statistics(posterior: Posterior, tasks: Tasks, seed: int, glance: bool) -> Tensor:
    """The statistics of tasks (3, T), or the first alone (1, T)."""
    program = posterior.collapsed.program.with_centring(True)
    try:
        evidence = _evidence(posterior.collapsed, tasks)
        draws = CURVED_DRAWS if isinstance(evidence, Quadrature | Laplace) else DRAWS
        phi = _evenly(posterior.phi_coordinates, GLANCE_DRAWS if glance else draws)
        density = torch.logsumexp(log_evidence(evidence, phi), 0) - math.log(len(phi))
        density = torch.where(torch.isnan(density), -math.inf, density)
        if glance:
            return density.unsqueeze(0)
        if not program.structure.theta.size:
            return torch.stack([density, *torch.full((2, len(tasks)), math.nan, dtype=torch.float64)])
        phi = _evenly(posterior.phi_coordinates, THETA_DRAWS)
        theta = theta_coordinates(evidence, phi, seed)
    except HierarchyError as error:
        raise NotAvailableError(
            f"novelty needs the evidence of tasks under φ, which could not be had: {error}"
        ) from error
    prior, likelihood = terms_tasks(program, tasks, phi, theta)
    return torch.stack([density, prior.mean(0), likelihood.mean(0)])


def _evidence(evidence: Collapsed | Joint, tasks: Tasks) -> Collapsed:
    if isinstance(evidence, Joint):
        return Laplace(evidence.program.with_centring(True), tasks)
    return evidence.on(tasks)


def _evenly(phi: Tensor, count: int) -> Tensor:
    return phi[torch.linspace(0, len(phi) - 1, min(count, len(phi))).round().long()]


def _ranked(own: Tensor, theirs: Tensor, generator: torch.Generator) -> Tensor:
    """Ranks (3, T) in (0, 1) of own statistics (3, T) among (3, T, R), ties broken at random; NaN stays NaN."""
    below = (theirs < own.unsqueeze(-1)).sum(-1)
    equal = (theirs == own.unsqueeze(-1)).sum(-1)
    uniform = torch.rand(own.shape, generator=generator, dtype=torch.float64)
    ranks = (below + uniform * (equal + 1)) / (theirs.shape[-1] + 1)
    return torch.where(torch.isnan(own), math.nan, ranks)
