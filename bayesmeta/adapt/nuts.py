"""Adaptation by NUTS, for tasks without a closed form.

The draws of φ make p(θ_new | D_new, D) a mixture whose density is known up to a constant,

    p(θ, D_new | D) ≈ 1/S Σ_s p(θ | φ_s) p(D_new | θ, φ_s)

so NUTS runs over θ of the new task alone, and the φ that goes with a draw of θ is drawn from the terms of the
sum. No evidence is needed: Z_new(φ_s), for k-hat, is the mean of a term over the draws of θ, relative to the
sum. Tasks are independent given D under this density and are sampled side by side as one.

A task of the fit goes on from its own draws under the fit: they are weighted by the likelihood of what is new.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesmeta.adapt.problem import Problem, Result, weigh
from bayesmeta.density import Density
from bayesmeta.draws import Draws
from bayesmeta.errors import BayesmetaWarning
from bayesmeta.infer import nuts as sampler
from bayesmeta.infer.options import check_whole
from bayesmeta.likelihood import log_likelihood_tasks
from bayesmeta.mapping import chunk_size, flatten_draws, over_draws
from bayesmeta.program import Program, Row, first_rows
from bayesmeta.psis import effective_size, psis
from bayesmeta.summary import r_hat
from bayesmeta.tasks import Tasks

__all__ = ["NUTS", "continued", "run"]

R_HAT = 1.05  # above it chains are said not to have come together
DIVERGENT = 0.01  # share of divergences that is said


@dataclass(frozen=True)
class NUTS:
    """Settings of adaptation by NUTS.

    Args:
        draws: The most draws of θ to take.
        tune: Warm-up iterations per chain.
        chains: Number of chains.
        components: The most draws of φ in the mixture that is sampled.
        tasks_at_once: How many tasks are sampled side by side as one density.
    """

    draws: int = 1000
    tune: int = 400
    chains: int = 2
    components: int = 400
    tasks_at_once: int = 25

    def __post_init__(self) -> None:
        least = {"draws": 1, "tune": 0, "chains": 1, "components": 1, "tasks_at_once": 1}
        for name, value in least.items():
            check_whole(name, getattr(self, name), value)


def run(problem: Problem, config: NUTS) -> Result:
    """Draws of φ and θ of each task; as many as draws of φ are used, `config.draws` at most."""
    problem = problem.thinned(config.draws)
    new = torch.nonzero(~problem.seen).squeeze(-1)
    seen = torch.nonzero(problem.seen).squeeze(-1)
    parts = [_by_nuts(problem.at(part), config) for part in new.split(config.tasks_at_once) if len(part)]
    if len(seen):
        parts.append(continued(problem.at(seen)))
    return Result.joined(parts, torch.argsort(torch.cat([new, seen])))


class _Mixture:
    """The terms of the mixture over draws of φ, of tasks in the order of their batches."""

    def __init__(self, program: Program, tasks: Tasks, components: Tensor) -> None:
        batches = tasks.padded(exact_sizes=not program.structure.maskable)
        self.program = program
        self.components = components
        self.rows = [Row.of(batch) for batch in batches]
        self.back = torch.argsort(torch.cat([batch.index for batch in batches]))
        self.leaves, self._spec = pytree.tree_flatten(self.rows)
        self.p = program.structure.theta.size

    def terms(self, v: Tensor, phi: Tensor, rows: list[Row]) -> Tensor:
        """log p(θ_t, y_t | φ_s) (S, T) at coordinates of θ (T, p)."""
        program = self.program
        counts = [len(row.mask) for row in rows]

        def draw(u: Tensor) -> Tensor:
            returned = program.returned(u)
            parts = [
                program.over_tasks(lambda v, row: program.log_joint(returned, v, row))(piece, row)
                for piece, row in zip(v.split(counts), rows, strict=True)
            ]
            return torch.cat(parts)

        result: Tensor = program.over_tasks(draw)(phi)
        return result

    def log_density(self, v: Tensor, phi: Tensor, *leaves: Tensor) -> Tensor:
        """The log of the mixture, summed over tasks, at v (T·p,)."""
        rows = pytree.tree_unflatten(list(leaves), self._spec)
        return torch.logsumexp(self.terms(v.reshape(-1, self.p), phi, rows), 0).sum()

    def responsibility(self, v: Tensor) -> Tensor:
        """The share (S, C, T), in logs, that each draw of φ has in the mixture at draws v (S, T, p)."""
        chunk = chunk_size(v[0].numel() * len(self.components))
        terms = over_draws(self.program, lambda v: self.terms(v, self.components, self.rows), (v,), chunk)
        return torch.log_softmax(terms, 1)


def _by_nuts(problem: Problem, config: NUTS) -> Result:
    """New tasks: NUTS over their θ under the mixture of draws of φ."""
    components = problem.thinned(config.components).phi
    mixture = _Mixture(problem.program, problem.known, components)
    vectorised = problem.program.structure.vectorised
    density = Density(
        mixture.log_density,
        len(problem.known) * mixture.p,
        [components, *mixture.leaves],
        compile=False,
        trace=vectorised,
    )
    draws = len(problem.phi)
    settings = sampler.NUTS(
        draws=math.ceil(draws / config.chains), tune=config.tune, chains=config.chains, compile=False
    )
    drawn = sampler.sample(density, settings, seed=problem.seed, progress=problem.progress)
    if drawn.interrupted:
        raise KeyboardInterrupt("adaptation was interrupted; no task was finished")
    v = flatten_draws(drawn.u)[:draws].reshape(draws, -1, mixture.p)
    share = mixture.responsibility(v)
    generator = torch.Generator().manual_seed(problem.seed)
    gumbel = -torch.empty_like(share).exponential_(generator=generator).log()
    chosen = components[(share + gumbel).argmax(1)]
    smoothed, k_hat = psis(torch.logsumexp(share, 0))
    back = mixture.back
    exact = torch.full_like(k_hat, -math.inf)
    note = _judged(drawn, problem, mixture)
    return Result(chosen[:, back], v[:, back], k_hat[back], effective_size(smoothed)[back], exact, note=note)


def _judged(drawn: Draws, problem: Problem, mixture: _Mixture) -> str:
    """What the chains say of themselves, where it is not good: also said as a warning."""
    chains = drawn.u.reshape(*drawn.u.shape[:2], -1, mixture.p)[:, :, mixture.back].numpy()
    worst = [max((r_hat(chains[:, :, t, k]) for k in range(mixture.p)), default=1.0) for t in range(chains.shape[2])]
    apart = [name for name, value in zip(problem.known.names, worst, strict=True) if not value <= R_HAT]
    divergences = int(drawn.stats["diverging"].sum()) if "diverging" in drawn.stats else 0
    parts = []
    if apart:
        parts.append(f"chains of θ have not come together for task(s) {apart[:5]}, R-hat up to {max(worst):.2f}")
    if divergences > DIVERGENT * drawn.u.shape[0] * drawn.u.shape[1]:
        parts.append(f"{divergences} divergences")
    if not parts:
        return ""
    note = f"{' and '.join(parts)}: more tune and draws are needed, or θ has modes far apart"
    warnings.warn(note, BayesmetaWarning, stacklevel=2)
    return note


def continued(problem: Problem) -> Result:
    """Tasks of the fit: their own draws, weighted by log p(new | θ) = log p(all | θ) - log p(before | θ)."""
    posterior, program, phi = problem.posterior, problem.program, problem.phi
    at = [posterior.tasks.index(name) for name in problem.known.names]
    rows = first_rows(problem.known)

    def draw(u: Tensor, values: dict[str, Tensor]) -> Tensor:
        returned = program.returned(u)
        moved: Tensor = program.over_tasks(lambda values, row: program.coordinates(values, returned, row))(values, rows)
        return moved

    values = {name: value[problem.pick][:, at] for name, value in posterior.theta.items()}
    theta: Tensor = over_draws(program, draw, (phi, values), 1000)
    now, then = (log_likelihood_tasks(program, tasks, phi, theta) for tasks in (problem.known, problem.before))
    pick, k_hat, size = weigh(now - then, problem)
    task = torch.arange(len(at)).expand(pick.shape)
    return Result(phi[pick], theta[pick, task], k_hat, size, torch.full_like(k_hat, -math.inf))
