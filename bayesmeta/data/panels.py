"""Adaptive integrals of many densities over one variable each, all at once, in logarithms.

    log Z_t = log ∫ exp f_t(b) db

Each integral is cut into panels with a Gauss-Legendre rule in each. The Legendre coefficients of the integrand on
a panel say whether it is resolved: where the last ones have not died out, the panel is halved. All panels of all
tasks wait in one list, so that a round costs a few calls on large tensors, and peaks far narrower than the first
panels are found by following the slope of f.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bayesmeta.errors import DataError

__all__ = ["Nodes", "integrate", "legendre"]

ORDER = 16
TAIL = 3  # how many of the last coefficients must have died out
NEGLIGIBLE = -25.0  # nats below the integral of the task
ROUNDS = 60
PANELS = 200_000
NUMBERS = 2_000_000


@dataclass(frozen=True)
class Nodes:
    """Where the integrals were evaluated, and what came out.

    Attributes:
        task: the integral that each node belongs to (K,), ascending.
        at: the nodes (K,).
        log_weight: logarithms of the share of each node in its integral (K,).
        log_z: logarithms of the integrals (T,).
        error: estimated relative errors of the integrals (T,).
    """

    task: Tensor
    at: Tensor
    log_weight: Tensor
    log_z: Tensor
    error: Tensor


def legendre(order: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the Gauss-Legendre rule on [0, 1], (order,) each."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


def integrate(log_f: Callable[[Tensor, Tensor], Tensor], edges: Tensor, tolerance: float = 1e-8) -> Nodes:
    """The integrals of exp f_t over [first, last edge] of each task.

    Where more panels would be needed than `PANELS`, what is there counts, and the error says how much is missing.

    Args:
        log_f: from tasks (K,) and points (K, order) the values f (K, order).
        edges: the ends of the first panels (T, E), ascending in each row; panels without width are left out.
        tolerance: what may be missing on a panel, relative to the integral.

    Raises:
        DataError: A value is not a number.
    """
    unit, weights = legendre(ORDER)
    task = torch.arange(len(edges)).repeat_interleave(edges.shape[1] - 1)
    lower, width = edges[:, :-1].reshape(-1), edges.diff(dim=1).reshape(-1)
    keep = width > 0
    task, lower, width = task[keep], lower[keep], width[keep]
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    log_z = torch.full((len(edges),), -math.inf, dtype=torch.float64)
    done_z, error = log_z.clone(), torch.zeros(len(edges), dtype=torch.float64)
    for turn in range(ROUNDS):
        at = lower[:, None] + width[:, None] * unit
        values = _evaluated(log_f, task, at)
        if bool(torch.isnan(values).any()):
            raise DataError("the density of the observations of a task is not a number: look for NaN and infinite ones")
        terms = values + weights.log() + width.log()[:, None]
        log_z = torch.logaddexp(done_z, _log_sums(torch.logsumexp(terms, 1), task, len(edges)))
        tail = _tail(values - log_z[task][:, None]) * width
        last = turn == ROUNDS - 1 or len(task) > PANELS
        done = _resolved(values, terms, tail, log_z[task], width, tolerance) | torch.tensor(last)
        kept.append((task[done].repeat_interleave(ORDER), at[done].reshape(-1), terms[done].reshape(-1)))
        done_z = torch.logaddexp(done_z, _log_sums(torch.logsumexp(terms[done], 1), task[done], len(edges)))
        error.index_add_(0, task[done], tail[done])
        if bool(done.all()):
            break
        task, half = task[~done].repeat_interleave(2), width[~done] / 2
        lower = torch.stack([lower[~done], lower[~done] + half], 1).reshape(-1)
        width = half.repeat_interleave(2)
    return _nodes(kept, done_z, error)


def _evaluated(log_f: Callable[[Tensor, Tensor], Tensor], task: Tensor, at: Tensor) -> Tensor:
    step = max(1, NUMBERS // (ORDER * 64))
    return torch.cat([log_f(task[k : k + step], at[k : k + step]) for k in range(0, len(task), step)])


def _log_sums(values: Tensor, task: Tensor, count: int) -> Tensor:
    """log Σ exp of the values of each task (count,)."""
    top = torch.full((count,), -math.inf, dtype=values.dtype).scatter_reduce_(0, task, values, "amax")
    shift = torch.where(torch.isfinite(top), top, torch.zeros_like(top))
    return torch.zeros(count, dtype=values.dtype).index_add_(0, task, (values - shift[task]).exp()).log() + shift


def _tail(values: Tensor) -> Tensor:
    """The largest of the last Legendre coefficients of exp(values) on each panel (K,)."""
    return (values.exp() @ _projection()).abs().max(1).values


def _projection() -> Tensor:
    """From values at the nodes to the last coefficients, (order, TAIL)."""
    nodes, weights = np.polynomial.legendre.leggauss(ORDER)
    degrees = np.arange(ORDER - TAIL, ORDER)
    basis = np.polynomial.legendre.legvander(nodes, ORDER - 1)[:, degrees]
    return torch.from_numpy(basis * weights[:, None] * (2 * degrees + 1) / 2)


def _resolved(values: Tensor, terms: Tensor, tail: Tensor, log_z: Tensor, width: Tensor, tolerance: float) -> Tensor:
    """Panels that need not be halved: smooth where they matter, or too far down to hide anything that matters."""
    matters = terms.max(1).values - log_z > NEGLIGIBLE
    hides = _ceiling(values) + width.log() - log_z > NEGLIGIBLE
    return (tail <= tolerance) & (matters | ~hides)


def _ceiling(values: Tensor) -> Tensor:
    """How high f can rise between the nodes of each panel, if it is concave there (K,).

    In a gap a concave function lies below the lines that go on from the nodes on either side.
    """
    unit, _ = legendre(ORDER)
    slope = values.diff(dim=1) / unit.diff()
    gap = torch.diff(unit, prepend=unit.new_zeros(1), append=unit.new_ones(1))
    from_left = values[:, 1:] + slope.clamp(min=0) * gap[2:]
    from_right = values[:, :-1] - slope.clamp(max=0) * gap[:-2]
    inner = torch.minimum(from_left[:, :-2], from_right[:, 2:])
    return torch.cat([inner, from_right[:, :2], from_left[:, -2:]], 1).max(1).values


def _nodes(kept: list[tuple[Tensor, Tensor, Tensor]], log_z: Tensor, error: Tensor) -> Nodes:
    task, at, terms = (torch.cat(parts) for parts in zip(*kept, strict=True))
    share = terms - log_z[task]
    counted = share > NEGLIGIBLE
    task, at, share = task[counted], at[counted], share[counted]
    order = torch.argsort(task, stable=True)
    share = share[order] - _log_sums(share, task, len(log_z))[task[order]]
    return Nodes(task[order], at[order], share, log_z, error)
