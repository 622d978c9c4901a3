"""A posterior brought up to date with new tasks, without a refit: p(φ | D, D_new) from draws of p(φ | D).

    p(φ | D, D_new) ∝ p(φ | D) Π_t Z_t(φ),      t over the new tasks

so the draws of φ are weighted by the evidence of what is new, Pareto-smoothed, and resampled. Weights belong to the
draws of the last fit or move and are carried on from update to update, as Ibis does (Chopin 2002, "A sequential
particle filter method for static models"): resampled draws are never weighted again, so that errors do not add up.
Where k-hat or the effective size says that the weights no longer do, the draws are moved by adaptive importance
sampling on the evidence of all tasks together (`bayesmeta.infer.move`), which begins a new count.

A joint posterior has no evidence: that of a new task is sampled (`bayesmeta.evidence.sampled`), each draw keeps the θ
that it has, and where weights do not do, a refit is due.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bayesmeta.adapt.known import check_like, observations
from bayesmeta.centring import CENTRED, Degree
from bayesmeta.diagnose.verdict import LEVELS, Verdict
from bayesmeta.draws import Draws, Info, versions
from bayesmeta.errors import BayesmetaWarning, DataError, NotAvailableError, OptionError
from bayesmeta.evidence import Collapsed, Joint, evidence_error
from bayesmeta.evidence.conditional import log_evidence
from bayesmeta.evidence.sampled import sampled_evidence
from bayesmeta.infer.move import MOST_DIMENSIONS, Moved, move
from bayesmeta.likelihood import log_likelihood_tasks
from bayesmeta.mapping import flatten_draws
from bayesmeta.outcomes import require_possible
from bayesmeta.posterior import Posterior
from bayesmeta.psis import K_HAT, effective_size, psis, resample
from bayesmeta.streams import seed_of
from bayesmeta.summary import ess
from bayesmeta.target import Target
from bayesmeta.tasks import Tasks

__all__ = ["Weighted", "update"]

# Effective draws below which it is worth a move, and below which a posterior that cannot be moved is not good
# enough; of few draws there are, these shares of them.
WORTH_A_MOVE, SHARE = 1000.0, 0.25
ENOUGH, LEAST_SHARE = 400.0, 0.1


@dataclass(frozen=True)
class Weighted:
    """Draws of the last fit or move, with the weights of all that came since.

    Attributes:
        u: Coordinates (N, dim), those of θ with them where θ was sampled.
        log_weights: Log weights (N,), neither smoothed nor normalised.
        efficiency: Effective draws among them before they were weighted, as a share of N.
    """

    u: Tensor
    log_weights: Tensor
    efficiency: float = 1.0

    @staticmethod
    def of(posterior: Posterior) -> Weighted:
        """The draws of a fit, all of the same weight."""
        u = flatten_draws(posterior.draws.u)
        return Weighted(u, torch.zeros(len(u), dtype=torch.float64), _efficiency(posterior))

    def smoothed(self) -> tuple[Tensor, float, float]:
        """Normalised log weights (N,), k-hat and effective size."""
        if not bool(torch.isfinite(self.log_weights).any()):
            return torch.full_like(self.log_weights, -math.log(len(self.u))), math.inf, 0.0
        weights, k_hat = psis(self.log_weights)
        return weights, float(k_hat), self.efficiency * float(effective_size(weights))

    def times(self, gain: Tensor) -> Weighted:
        """The same draws, their log weights higher by `gain` (N,)."""
        return replace(self, log_weights=torch.where(torch.isfinite(gain), self.log_weights + gain, -math.inf))


def update(
    posterior: Posterior, tasks: Tasks, *, move: bool = True, seed: int = 0, progress: bool = False
) -> Posterior:
    """The posterior of the tasks of the fit and of new ones together, without a refit.

    A task whose name is new is added to the population. Observations of a task of the fit, known by its name, are
    added to those it has; exactly those that the fit has seen add nothing.

    Args:
        posterior: The posterior so far; it stays as it is.
        tasks: Tasks with observations.
        move: Let the draws be moved where weights do not do; with False they are only weighted.
        seed: Seeds resampling and proposals.
        progress: Show a bar while draws are moved.

    Returns:
        A posterior over all tasks, with as many draws, all in one chain. Its `info` says what was done, its verdict
        whether it can be trusted; a `BayesmetaWarning` where a refit is due.

    Raises:
        DataError: A task has no observations, or is not shaped as those of the fit.
        NotAvailableError: φ is a single point; or the fit was a joint one, and a task has no mode in θ.
    """
    begin = time.perf_counter()
    _check(posterior, tasks, seed)
    known, before = observations(posterior.tasks, tasks)
    changed = (known.sizes != before.sizes).nonzero().squeeze(-1).tolist()
    if not changed:
        return posterior
    if bool((posterior.phi_coordinates == posterior.phi_coordinates[0]).all()):
        raise NotAvailableError(
            "φ is a single point, which no weights can move: fit again to all tasks, "
            "bm.fit(hierarchy, posterior.tasks + tasks), or use a back-end that gives more than a point"
        )
    known, before = known[changed], before[changed]
    together = _together(posterior.tasks, known)
    weighted = posterior.weighted or Weighted.of(posterior)
    old = posterior.collapsed
    new: Collapsed | Joint
    if isinstance(old, Joint):
        new, weighted = _joint(old, together, weighted, known, before, seed)
    else:
        new, weighted = old.on(together), weighted.times(_gain(old, known, before, weighted.u))
    return _finished(posterior, new, weighted, len(known), move, seed, progress, begin)


def _check(posterior: Posterior, tasks: Tasks, seed: int) -> None:
    check_like(posterior.tasks, tasks)
    require_possible(posterior.collapsed.program, tasks)
    if not isinstance(seed, int) or seed < 0:
        raise OptionError(f"seed must be a whole number of at least 0, got {seed!r}")
    lost = torch.nonzero(~torch.isfinite(tasks.y.unsqueeze(-1).flatten(1)).all(1)).squeeze(-1)
    if len(lost):
        name = tasks.names[int(tasks.task_index[int(lost[0])])]
        raise DataError(f"y of task {name!r} is not finite in {len(lost)} rows in all: leave out what is not observed")
    empty = [tasks.names[int(i)] for i in torch.nonzero(tasks.sizes == 0)[:5]]
    if empty:
        raise DataError(
            f"task(s) {empty} have no observations and tell nothing about the population: leave them out; "
            "posterior.adapt predicts them"
        )


def _together(old: Tasks, known: Tasks) -> Tasks:
    """The tasks of the fit in their order, with what is known of them now, and the new ones behind."""
    more = {task.name: task for task in known}
    if not any(name in old for name in more):
        return old + known
    all_of = [more.get(task.name, task) for task in old]
    all_of += [task for task in known if task.name not in old]
    context = {key: torch.stack([task.context[key] for task in all_of]) for key in old.context}
    names = [task.name for task in all_of]
    joined = Tasks.from_lists([t.x for t in all_of], [t.y for t in all_of], names=names, context=context or None)
    return replace(joined, columns=old.columns)


def _gain(evidence: Collapsed, known: Tasks, before: Tasks, u: Tensor) -> Tensor:
    """What is new adds to log p(φ, D), at coordinates of φ (N, q): (N,)."""
    gain = log_evidence(evidence.on(known), u).sum(1)
    seen = before.sizes > 0
    return gain - log_evidence(evidence.on(before[seen]), u).sum(1) if bool(seen.any()) else gain


def _joint(
    old: Joint, together: Tasks, weighted: Weighted, known: Tasks, before: Tasks, seed: int
) -> tuple[Joint, Weighted]:
    """The joint density of all tasks, and draws with the θ of new tasks behind, weighted by what is new."""
    q, p = old.program.structure.phi.size, old.program.structure.theta.size
    phi, theta = weighted.u[:, :q], weighted.u[:, q:].reshape(len(weighted.u), len(old.tasks), p)
    seen, fresh = before.sizes > 0, before.sizes == 0
    if bool(seen.any()):
        part = old.take(torch.tensor([old.tasks.index(name) for name in known[seen].names]))
        at = theta[:, [old.tasks.index(name) for name in known[seen].names]]
        more = log_likelihood_tasks(part.program, known[seen], phi, at)
        weighted = weighted.times((more - log_likelihood_tasks(part.program, before[seen], phi, at)).sum(1))
    degrees = old.degrees
    if bool(fresh.any()):
        # θ of tasks that come one after another are independent, whatever the seeds
        log_z, drawn = sampled_evidence(old.program, known[fresh], phi, seed=seed_of(seed, len(old.tasks)))
        weighted = replace(weighted.times(log_z.sum(1)), u=torch.cat([weighted.u, drawn.flatten(1)], 1))
        degrees = {name: _extended(degree, int(fresh.sum())) for name, degree in degrees.items()}
    return Joint(old.program.with_centring(True), together, degrees), weighted


def _extended(degree: Degree, count: int) -> Degree:
    """Degrees of centring with those of so many tasks more, which are centred."""

    def longer(values: Tensor) -> Tensor:
        return torch.cat([values, torch.full((count, *values.shape[1:]), CENTRED, dtype=values.dtype)])

    return Degree(longer(degree.scale), longer(degree.loc))


def _finished(
    old: Posterior,
    evidence: Collapsed | Joint,
    weighted: Weighted,
    count: int,
    may_move: bool,
    seed: int,
    progress: bool,
    begin: float,
) -> Posterior:
    """Weights that do are resampled; others send the draws on their way, where they can go."""
    draws = flatten_draws(old.draws.u).shape[0]
    weights, k_hat, size = weighted.smoothed()
    log = [f"{count} task{'s' * (count > 1)} more: k-hat {k_hat:.2f}, effective size {size:,.0f}"]
    even = k_hat < K_HAT and size >= min(WORTH_A_MOVE, SHARE * draws)
    found: Moved | None = None
    if not even and may_move and not isinstance(evidence, Joint) and weighted.u.shape[1] <= MOST_DIMENSIONS:
        found = move(Target(evidence), weighted.u, weighted.log_weights, draws=draws, seed=seed, progress=progress)
        log += found.log
        weights, k_hat, size = found.smoothed, found.k_hat, found.effective_size
        weighted = Weighted(found.u, found.log_weights)
    u = weighted.u[_picked(weights, draws, seed)]
    seconds = time.perf_counter() - begin
    drawn = Draws(
        u.unsqueeze(0),
        interrupted=found is not None and found.interrupted,
        seconds=seconds,
        k_hat=k_hat,
        effective_size=min(size, float(draws)),
        log=tuple(log),
    )
    info = _info(old.info, evidence, drawn, seed)
    posterior = Posterior(old.hierarchy, evidence.tasks, evidence, drawn, info, weighted=weighted).judged()
    if found is None:
        _carry(old.verdict, posterior)
    if not (k_hat < K_HAT and size >= min(ENOUGH, LEAST_SHARE * draws)):
        _warn(log)
    return posterior


def _picked(log_weights: Tensor, draws: int, seed: int) -> Tensor:
    """Indices (draws,) of draws to keep, each as often as its weight says."""
    picked = [resample(log_weights, seed + k) for k in range(math.ceil(draws / len(log_weights)))]
    return torch.cat(picked)[:draws]


def _info(old: Info, evidence: Collapsed | Joint, draws: Draws, seed: int) -> Info:
    phi = flatten_draws(draws.u)[:, : evidence.program.structure.phi.size]
    return replace(
        old,
        road=evidence.road,
        gram=evidence.gram,
        seconds={"setup": 0.0, "compile": 0.0, "sample": draws.seconds, "total": draws.seconds},
        density=draws.density,
        interrupted=draws.interrupted,
        seed=seed,
        versions=versions(),
        k_hat=draws.k_hat,
        effective_size=draws.effective_size,
        log=(*old.log, *draws.log),
        evidence_error=evidence_error(evidence, phi),
    )


def _carry(old: Verdict, posterior: Posterior) -> None:
    """What was wrong with the draws before they were weighted is wrong with them still."""
    now = {finding.check: LEVELS.index(finding.level) for finding in posterior.verdict.findings}
    kept = [finding for finding in old.findings if LEVELS.index(finding.level) > now.get(finding.check, 0)]
    worse = {finding.check for finding in kept}
    own = [finding for finding in posterior.verdict.findings if finding.check not in worse]
    posterior.info = replace(posterior.info, verdict=Verdict((*own, *kept)).plain())


def _efficiency(posterior: Posterior) -> float:
    """Effective draws as a share of those that there are."""
    u, size = posterior.draws.u, posterior.info.effective_size
    count = u.shape[0] * u.shape[1]
    if size is None:
        sizes = [ess(u[..., k].numpy()) for k in range(min(posterior.phi_coordinates.shape[1], MOST_DIMENSIONS))]
        size = min((one for one in sizes if math.isfinite(one)), default=float(count))
    return min(1.0, size / count)


def _warn(log: Sequence[str]) -> None:
    warnings.warn(
        f"the draws could not follow what the new tasks tell ({log[-1]}): a refit to all of them is due, "
        "bm.fit(hierarchy, updated.tasks)",
        BayesmetaWarning,
        stacklevel=5,
    )
