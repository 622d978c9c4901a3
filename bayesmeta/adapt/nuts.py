"""Adaptation by NUTS, for tasks without a closed form.

The draws of φ make p(θ_new | D_new, D) a mixture whose density is known up to a constant,

    p(θ, D_new | D) ≈ 1/S Σ_s p(θ | φ_s) p(D_new | θ, φ_s)

so NUTS runs over θ of the new task alone, and the φ that goes with a draw of θ is drawn from the terms of the
sum. No evidence is needed: Z_new(φ_s), for k-hat, is the mean of a term over the draws of θ, relative to the
sum. Tasks are independent given D under this density and are sampled side by side as one.

A task of the fit goes on from its own joint draws: they are weighted by the likelihood of what is new.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesmeta.density import Density
from bayesmeta.infer.nuts import NUTS, sample
from bayesmeta.likelihood import log_likelihood_tasks
from bayesmeta.mapping import chunk_size, flatten_draws, over_draws
from bayesmeta.program import Program, Row, first_rows
from bayesmeta.psis import effective_size, psis, resample
from bayesmeta.tasks import Tasks

if TYPE_CHECKING:
    from bayesmeta.posterior import Posterior

__all__ = ["adapt_nuts"]

COMPONENTS = 400
DRAWS = 1000
TASKS_AT_ONCE = 25

Result = tuple[Tensor, Tensor, Tensor, Tensor]


def adapt_nuts(posterior: Posterior, pick: Tensor, known: Tasks, before: Tasks, seed: int, progress: bool) -> Result:
    """Draws of φ and θ of each task.

    Args:
        posterior: The fitted population.
        pick: Which of its draws to use.
        known: All observations known of each task (T,).
        before: Those of them that the fit has seen.
        seed: Seeds everything random.
        progress: Show the sampler's progress bar.

    Returns:
        φ (S, T, q), θ in centred coordinates (S, T, p), k-hat (T,) and effective size of the draws of φ (T,).
        S is the number of draws picked, 1,000 at most.
    """
    pick = pick[torch.linspace(0, len(pick) - 1, min(len(pick), DRAWS)).round().long()]
    phi = posterior.phi_coordinates[pick]
    structure = posterior.collapsed.program.structure
    shape = (len(pick), len(known))
    out = (
        torch.empty(*shape, structure.phi.size, dtype=torch.float64),
        torch.empty(*shape, structure.theta.size, dtype=torch.float64),
        torch.empty(len(known), dtype=torch.float64),
        torch.empty(len(known), dtype=torch.float64),
    )
    _put(out, (before.sizes > 0).nonzero().squeeze(-1), lambda at: _continued(posterior, pick, known[at], before[at]))
    new = before.sizes == 0
    program = posterior.collapsed.program.with_centring(True)
    unseen = (new & (known.sizes == 0)).nonzero().squeeze(-1)
    _put(out, unseen, lambda at: _from_population(program, phi, known[at], seed))
    for part in (new & (known.sizes > 0)).nonzero().squeeze(-1).split(TASKS_AT_ONCE):
        _put(out, part, lambda at: _by_nuts(program, phi, known[at], seed, progress))
    return out


def _put(out: Result, at: Tensor, make: Callable[[list[int]], Result]) -> None:
    if len(at):
        phi, theta, k_hat, size = make(at.tolist())
        out[0][:, at], out[1][:, at], out[2][at], out[3][at] = phi, theta, k_hat, size


def _by_nuts(program: Program, phi: Tensor, tasks: Tasks, seed: int, progress: bool) -> Result:
    """New tasks with observations: NUTS over their θ under the mixture of draws of φ."""
    components = phi[torch.linspace(0, len(phi) - 1, min(len(phi), COMPONENTS)).round().long()]
    rows = [Row.of(batch) for batch in tasks.padded(exact_sizes=not program.structure.maskable)]
    order = torch.cat([batch.index for batch in tasks.padded(exact_sizes=not program.structure.maskable)])
    leaves, spec = pytree.tree_flatten(rows)
    p = program.structure.theta.size

    def terms(v: Tensor, phi: Tensor, rows: list[Row]) -> Tensor:
        """log p(θ_t, y_t | φ_s) (S, T), tasks in the order of the batches."""

        def draw(u: Tensor) -> Tensor:
            returned = program.returned(u)
            counts = [len(row.mask) for row in rows]
            parts = [
                program.over_tasks(lambda v, row: program.log_joint(returned, v, row))(piece, row)
                for piece, row in zip(v.split(counts), rows, strict=True)
            ]
            return torch.cat(parts)

        result: Tensor = program.over_tasks(draw)(phi)
        return result

    def log_density(v: Tensor, phi: Tensor, *leaves: Tensor) -> Tensor:
        unpacked = pytree.tree_unflatten(list(leaves), spec)
        return torch.logsumexp(terms(v.reshape(-1, p), phi, unpacked), 0).sum()

    vectorised = program.structure.vectorised
    density = Density(log_density, len(tasks) * p, [components, *leaves], compile=False, trace=vectorised)
    config = NUTS(draws=math.ceil(len(phi) / 2), tune=400, chains=2, compile=False)
    drawn = sample(density, config, seed=seed, progress=progress)
    if drawn.interrupted:
        raise KeyboardInterrupt("adaptation was interrupted; no task was finished")
    v = flatten_draws(drawn.u)[: len(phi)].reshape(len(phi), -1, p)
    at_draws = over_draws(
        program, lambda v: terms(v, components, rows), (v,), chunk_size(v[0].numel() * len(components))
    )
    responsibility = torch.log_softmax(at_draws, 1)
    generator = torch.Generator().manual_seed(seed)
    gumbel = -torch.empty_like(responsibility).exponential_(generator=generator).log()
    chosen = components[(responsibility + gumbel).argmax(1)]
    smoothed, k_hat = psis(torch.logsumexp(responsibility, 0))
    back = torch.argsort(order)
    return chosen[:, back], v[:, back], k_hat[back], effective_size(smoothed)[back]


def _from_population(program: Program, phi: Tensor, tasks: Tasks, seed: int) -> Result:
    """Tasks without observations: θ from p(θ | φ) under every draw of φ."""
    rows = first_rows(tasks)

    def draw(u: Tensor) -> Tensor:
        returned = program.returned(u)
        drawn: Tensor = program.over_tasks(lambda row: program.drawn(returned, row), randomness="different")(rows)
        return drawn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        theta: Tensor = over_draws(program, draw, (phi,), 1000, randomness="different")
    return phi.unsqueeze(1).expand(-1, len(tasks), -1), theta, *_unweighted(phi, len(tasks))


def _continued(posterior: Posterior, pick: Tensor, known: Tasks, before: Tasks) -> Result:
    """Tasks of the fit: their own joint draws, weighted by log p(new | θ) = log p(all | θ) - log p(before | θ)."""
    phi = posterior.phi_coordinates[pick]
    program = posterior.collapsed.program.with_centring(True)
    at = [posterior.tasks.index(name) for name in known.names]
    rows = first_rows(known)

    def draw(u: Tensor, values: dict[str, Tensor]) -> Tensor:
        returned = program.returned(u)
        moved: Tensor = program.over_tasks(lambda values, row: program.coordinates(values, returned, row))(values, rows)
        return moved

    values = {name: value[pick][:, at] for name, value in posterior.theta.items()}
    theta = over_draws(program, draw, (phi, values), 1000)
    gain = log_likelihood_tasks(program, known, phi, theta) - log_likelihood_tasks(program, before, phi, theta)
    gain[:, known.sizes == before.sizes] = 0.0
    smoothed, k_hat = psis(gain)
    index = resample(smoothed, 0)
    task = torch.arange(len(at)).expand(index.shape)
    return phi[index], theta[index, task], k_hat, effective_size(smoothed)


def _unweighted(phi: Tensor, count: int) -> tuple[Tensor, Tensor]:
    return torch.full((count,), -math.inf, dtype=torch.float64), torch.full(
        (count,), float(len(phi)), dtype=torch.float64
    )
