"""What is ranked: φ, θ of some tasks, and log densities of the data, of a true value and of draws alike.

All are computed from values of φ and θ through the user's functions, and not by the evidence that the fit used,
so that a term lost there shows. `log p(φ, D)` is the density that was in fact sampled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bayesmeta.mapping import chunk_size, over_draws
from bayesmeta.program import Program, Row
from bayesmeta.sites import Values
from bayesmeta.summary import labels
from bayesmeta.target import Target
from bayesmeta.tasks import Tasks

__all__ = ["LOG_COLLAPSED", "LOG_JOINT", "LOG_LIKELIHOOD", "Quantities"]

LOG_JOINT = "log p(φ, θ, D)"
LOG_LIKELIHOOD = "log p(D | φ, θ)"
LOG_COLLAPSED = "log p(φ, D)"


class Quantities:
    """The quantities of a hierarchy on tasks of one design.

    Args:
        program: The hierarchy's functions, in centred coordinates.
        tasks: The design.
        collapsed: Whether θ was integrated out, so that log p(φ, D) is known.
        theta: Number of tasks whose θ is ranked: the smallest, the largest, and an even spread of sizes between.
        phi: A few draws of φ by site (k, ...): elements that are the same in all (a diagonal of ones) are left out.

    Attributes:
        names: Their names (Q,).
    """

    def __init__(self, program: Program, tasks: Tasks, *, collapsed: bool, theta: int, phi: dict[str, Tensor]) -> None:
        self.program = program
        self.collapsed = collapsed
        self.pick = _spread(tasks, theta)
        flat = _flat(phi, program.structure.phi.names)
        self.kept = (flat != flat[0]).any(0)
        names = [label for site in program.structure.phi for label in labels(site)]
        of_phi = [name for name, kept in zip(names, self.kept.tolist(), strict=True) if kept]
        picked = tuple(tasks.names[k] for k in self.pick.tolist())
        of_theta = [label for site in program.structure.theta for label in labels(site, picked)] if picked else []
        densities = [LOG_JOINT, LOG_LIKELIHOOD, *([LOG_COLLAPSED] if collapsed else [])]
        self.names: tuple[str, ...] = (*of_phi, *of_theta, *densities)

    def of(self, target: Target, tasks: Tasks, u: Tensor, phi: dict[str, Tensor], theta: dict[str, Tensor]) -> Tensor:
        """The quantities (S, Q) of φ, in coordinates u (S, q) and by site (S, ...), and of θ by site (S, T, ...)."""
        structure = self.program.structure
        columns = [_flat(phi, structure.phi.names)[:, self.kept]]
        columns += [_flat({"": theta[name][:, self.pick]}, ("",)) for name in structure.theta.names]
        log_prior, log_likelihood = self._terms(tasks, phi, theta)
        columns += [(log_prior + log_likelihood).unsqueeze(-1), log_likelihood.unsqueeze(-1)]
        if self.collapsed:
            columns.append(target.log_prob(u).unsqueeze(-1))
        return torch.cat(columns, 1)

    def _terms(self, tasks: Tasks, phi: dict[str, Tensor], theta: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """log p(φ, θ) and log p(D | φ, θ), each (S,), of values as they are, without Jacobians."""
        program = self.program
        log_prior: Tensor = over_draws(program, lambda phi: program.phi_at(phi).log_prior, (phi,), 10_000)
        log_likelihood = torch.zeros_like(log_prior)
        for batch in tasks.padded(exact_sizes=not program.structure.maskable):
            rows, here = Row.of(batch), {name: values[:, batch.index] for name, values in theta.items()}

            def draw(phi: dict[str, Tensor], theta: dict[str, Tensor], rows: Row = rows) -> tuple[Tensor, Tensor]:
                returned = program.phi_at(phi).returned
                terms: tuple[Tensor, Tensor] = program.over_tasks(
                    lambda theta, row: _task_terms(program, returned, theta, row)
                )(theta, rows)
                return terms

            prior, likelihood = over_draws(program, draw, (phi, here), chunk_size(4 * batch.mask.numel()))
            log_prior, log_likelihood = log_prior + prior.sum(1), log_likelihood + likelihood.sum(1)
        return log_prior, log_likelihood


def _task_terms(program: Program, phi: Any, theta: dict[str, Tensor], row: Row) -> tuple[Tensor, Tensor]:
    """log p(θ | φ) and log p(y | θ, φ) of one task at values of θ."""
    handler, structure = Values(theta, constrained=True), program.structure
    program.run(handler, phi, row.x, row.y, row.context)
    prior = sum((handler.met[name].log_prob() for name in structure.theta.names), torch.zeros(()))
    terms = [program.observed_log_prob(handler.met[name], row.mask) for name in structure.observed]
    return prior, torch.stack(terms).sum()


def _flat(values: dict[str, Tensor], names: tuple[str, ...]) -> Tensor:
    """(S, ...) by site to (S, elements), site after site."""
    return torch.cat([values[name].reshape(len(values[name]), -1) for name in names], 1)


def _spread(tasks: Tasks, count: int) -> Tensor:
    """Positions of so many tasks, an even spread over their sizes."""
    order = torch.argsort(tasks.sizes, stable=True)
    picked: Tensor = order[torch.linspace(0, len(order) - 1, min(count, len(order))).round().long()].unique()
    return picked
