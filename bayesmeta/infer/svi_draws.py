"""Draws from a trained guide, their importance weights, and θ of all tasks in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer.autoguide import AutoContinuous
from torch import Tensor, nn

from bayesmeta.infer.svi_amortised import LocalAmortised
from bayesmeta.infer.svi_guides import draw_phi
from bayesmeta.infer.svi_minibatch import Batch
from bayesmeta.infer.svi_start import Start
from bayesmeta.psis import K_HAT, effective_size, psis, resample
from bayesmeta.target import Target
from bayesmeta.tasks import Tasks

__all__ = ["Result", "drawn"]

MEMORY = 100_000_000  # numbers in the draws that come out: .8 GB
WORK = 4_000_000_000  # cells of data x draws that importance weights may cost
FEWEST = 100  # weights that k-hat is computed from
CHUNK = 1_000_000  # numbers that fit a core's cache
BOUNDED = 20  # weights of at least half the largest from which on none is taken to be much larger
HEAVY = 1  # one draw from the heavy-tailed neighbour for so many of the guide


@dataclass(frozen=True)
class Result:
    """Draws u (S, dim), k-hat and effective size where weights were computed, and what was done, in sentences."""

    u: Tensor
    k_hat: float | None
    effective_size: float | None
    log: tuple[str, ...]


def drawn(
    target: Target, start: Start, phi: Any, local: nn.Module | None, draws: int, importance: bool, seed: int
) -> Result:
    """Draws from a guide, corrected by their importance weights where that can be trusted.

    Args:
        target: What the guide was fitted to.
        start: The coordinates it is in.
        phi: The autoguide of φ.
        local: q(θ | φ), where θ is inferred too.
        draws: How many.
        importance: Whether to correct them.
        seed: Seeds the resampling; the draws come from torch's present state.
    """
    log: list[str] = []
    count = max(1, min(draws, MEMORY // target.dim))
    if count < draws:
        log.append(f"{count:,} draws in place of {draws:,}: θ of all tasks is {target.dim:,} numbers a draw")
    continuous = isinstance(phi, AutoContinuous)
    weighed = min(count, int(WORK // max(1, _cells(target)))) if continuous else 0
    heavy = weighed // HEAVY if importance and weighed >= FEWEST else 0
    w, log_q = draw_phi(phi, count, heavy)
    u, log_q = start.phi(w), log_q - start.log_det
    if local is not None:
        theta, log_local = _theta(target, local, w)
        u, log_q = torch.cat([u, theta], -1), log_q + log_local
    if not continuous:
        log.append("φ is a point, the same in all draws (empirical Bayes): importance weights do not apply")
        return Result(u, None, None, tuple(log))
    if weighed < min(FEWEST, count):
        log.append("no k-hat: log p(u, D) of a hundred draws over all tasks would take too long")
        return Result(u, None, None, tuple(log))
    if weighed < count:
        log.append(f"{weighed:,} of the draws could be weighed in reasonable time")
    pick = torch.cat([torch.arange(weighed), torch.arange(count, len(u))])
    return _weighted(target, u[pick], log_q[pick], u[:count], importance, seed, log)


def _weighted(
    target: Target, u: Tensor, log_q: Tensor, own: Tensor, importance: bool, seed: int, log: list[str]
) -> Result:
    """Draws u from the proposal resampled by their weights, or the guide's own where these cannot be trusted."""
    ratios = target.log_prob(u) - log_q
    ratios = torch.where(torch.isfinite(ratios), ratios, -math.inf)
    if not bool(torch.isfinite(ratios).any()):
        return Result(own, math.inf, 0.0, (*log, "no draw of the guide has a finite density"))
    weights, k_hat = _smoothed(ratios)
    size = min(float(effective_size(weights)), float(len(own)))
    said = f"importance weights of {len(u):,} draws: k-hat {k_hat:.2f}, effective size {size:,.0f}"
    if not importance or k_hat >= K_HAT:
        why = "k-hat is too high to correct them" if importance else "as asked for"
        said = f"{said}; the draws are the guide's own, {why}"
        return Result(own, k_hat, size if importance else None, (*log, said))
    picked = resample(weights, seed)
    picked = picked.repeat(math.ceil(len(own) / len(picked)))[: len(own)]
    return Result(u[picked], k_hat, size, (*log, f"{said}; the draws were resampled by them"))


def _smoothed(log_ratios: Tensor) -> tuple[Tensor, float]:
    """Smoothed log weights (S,) and k-hat: of the weights of at least half the largest, where these are many.

    A guide that is right but for a corner of φ gives equal weights and a few that are some times larger: next to
    that body they are a tail that looks as heavy as can be, and yet there is an end to it. Of a Pareto tail of shape
    k about 2^(1/k) draws are within half of the largest, three where k is .7 and twenty where it is .23.
    """
    weights, k_hat = psis(log_ratios)
    large = int((log_ratios > log_ratios.max() - math.log(2)).sum())
    if float(k_hat) >= K_HAT and large >= BOUNDED:
        weights, k_hat = psis(log_ratios, tail=large)
    return weights, float(k_hat)


def _cells(target: Target) -> int:
    evidence: Any = target.evidence
    return int(evidence.cells) + target.dim


def _theta(target: Target, local: nn.Module, w: Tensor) -> tuple[Tensor, Tensor]:
    """Draws of θ (S, T p) given w (S, q), and log q(θ | w) (S,), a chunk of tasks and of draws at a time."""
    tasks, p = target.evidence.tasks, target.program.structure.theta.size
    count, total = len(w), len(tasks)
    theta = torch.empty(count, total, p, dtype=w.dtype)
    log_q = torch.zeros(count, dtype=w.dtype)
    width = 100 * p * (p + w.shape[1])
    step = max(1, min(total, CHUNK // width))
    rows = max(1, CHUNK // (width * step))
    with torch.no_grad():
        for first in range(0, total, step):
            index = torch.arange(first, min(first + step, total))
            given = _of_theta(local, index, tasks)
            for begin in range(0, count, rows):
                part = slice(begin, begin + rows)
                q = given(w[part].unsqueeze(1))
                value = q.sample()
                theta[part, first : first + step] = value
                log_q[part] += q.log_prob(value).sum(-1)
    return theta.reshape(count, -1), log_q


def _of_theta(local: nn.Module, index: Tensor, tasks: Tasks) -> Callable[[Tensor], Any]:
    """q(θ | w) of some tasks, whose rows are read once."""
    if not isinstance(local, LocalAmortised):
        batch = Batch(index, _no_density, None)
        return lambda w: local(w, batch)
    batch = Batch(index, _no_density, tasks[index])
    summary = local.summary(batch)
    return lambda w: local(w, batch, summary)


def _no_density(u: Tensor) -> Tensor:
    raise NotImplementedError("a batch to draw from has no log density")
