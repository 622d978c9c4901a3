"""Adaptation by gradient steps: each draw of φ gives θ an initialisation and a prior, and a few steps fine-tune it.

    θ ← θ + rate · ∇ [ log p(y | θ, φ_s) + log p(θ | φ_s) ]

from the prior mean of θ | φ_s, in coordinates in which the prior of a normal θ is standard normal, so that one rate
serves parameters of any scale. Learning an initialisation that a few such steps adapt is what MAML does, and it is
inference in a hierarchy (Grant, Finn, Levine, Darrell, Griffiths 2018, "Recasting gradient-based meta-learning as
hierarchical Bayes"); here there is one initialisation for every draw of φ, and the ensemble is weighted by how well
each predicts the task: by its evidence. The curvature where the steps end says how wide θ is there, and proposals
about it are weighted as in `bayesmeta.adapt.ensemble`: k-hat shows too few steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bayesmeta.adapt.density import TaskDensity
from bayesmeta.adapt.ensemble import Found, adapt_about, proposals_for
from bayesmeta.adapt.laplace import laplace_at, top_of
from bayesmeta.adapt.population import draw_theta
from bayesmeta.adapt.problem import Problem, Result, in_pieces
from bayesmeta.adapt.steps import OPTIMISERS, Optimiser, ascend, best_rate
from bayesmeta.errors import OptionError, unknown
from bayesmeta.evidence.pilot import normal_sites
from bayesmeta.infer.options import check_whole
from bayesmeta.sites import quiet_pyro
from bayesmeta.tasks import Tasks

__all__ = ["Gradient", "run"]

STARTS = ("prior", "zero", "draw")
SPREADS = ("auto", "corrected", "laplace", "none")
WEIGHTS = ("evidence", "equal")
PRIOR_STEPS = 50
TRIED = 8  # paths that a learning rate is tried on
PROPOSALS = 8


@dataclass(frozen=True)
class Gradient:
    """Settings of adaptation by gradient steps.

    Args:
        steps: How many.
        optimiser: ``"lbfgs"``, ``"adam"``, or ``"sgd"``: plain gradient steps on all observations.
        learning_rate: Of ``"adam"`` and ``"sgd"``, in units of prior standard deviations; None finds one.
        start: ``"prior"``: the mode of p(θ | φ), which for a normal θ is its mean; ``"zero"`` of the coordinates;
            ``"draw"``: one from p(θ | φ).
        spread: How wide θ is about where the steps end. ``"laplace"``: as the curvature there says;
            ``"corrected"``: the same, as proposals that are weighted; ``"none"``: not at all, the points alone;
            ``"auto"``: corrected up to 50 coordinates of θ, beyond as the curvature says.
        weights: Of the draws of φ: their ``"evidence"``, or ``"equal"``, which is not Bayes' rule.
        held_out: Share of each task's observations to hold out in a first run, which chooses the number of steps
            after which they are predicted best; the steps are then taken on all observations. Zero: no such run.
        members: The most draws of φ to start from; None for 1,000, fewer where φ and θ are long.
        path: Keep every step: `Adapted.path`.
    """

    steps: int = 50
    optimiser: Optimiser = "lbfgs"
    learning_rate: float | None = None
    start: Literal["prior", "zero", "draw"] = "prior"
    spread: Literal["auto", "corrected", "laplace", "none"] = "auto"
    weights: Literal["evidence", "equal"] = "evidence"
    held_out: float = 0.0
    members: int | None = None
    path: bool = False

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, 0)
        if self.members is not None:
            check_whole("members", self.members, 1)
        choices = {"optimiser": OPTIMISERS, "start": STARTS, "spread": SPREADS, "weights": WEIGHTS}
        for name, valid in choices.items():
            if getattr(self, name) not in valid:
                raise OptionError(unknown(name, getattr(self, name), valid))
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise OptionError(f"learning_rate must be positive, or None to find one, got {self.learning_rate!r}")
        if self.learning_rate is not None and self.optimiser == "lbfgs":
            raise OptionError("learning_rate is for optimiser='adam' or 'sgd': L-BFGS finds the length of its steps")
        if not 0 <= self.held_out < 1:
            raise OptionError(f"held_out is a share of the observations in [0, 1), got {self.held_out!r}")


def run(problem: Problem, config: Gradient) -> Result:
    """Draws of φ and θ of each task; as many as there are members."""
    problem = problem.thinned(config.members or problem.affordable)
    p = problem.program.structure.theta.size
    correct = {"auto": None, "corrected": True, "laplace": False, "none": False}[config.spread]
    proposals = proposals_for(p, correct, PROPOSALS)
    kept = 3 * (config.steps + 1) if config.path or config.held_out else 24
    numbers = p * (proposals + kept + min(p, 64) + 4)

    def piece(part: Problem) -> Result:
        return adapt_about(part, lambda density: _find(density, config, part.seed), proposals)

    return in_pieces(problem, numbers, piece)


def _find(density: TaskDensity, config: Gradient, seed: int) -> Found:
    """Where the steps end for each task and draw of φ, and how wide θ is there."""
    start = _start(density, config.start, seed)
    keep = config.path or config.held_out > 0
    count = _steps_for(density, start, config, seed)
    path = _path(density, start, config, keep)
    end = path[count, :, torch.arange(density.shape[1])].movedim(0, 1) if keep else path[0]
    if config.path:
        stopped = torch.minimum(torch.arange(len(path)).unsqueeze(-1), count)
        path = path[stopped, :, torch.arange(density.shape[1])].movedim(-2, 1)
    found = laplace_at(density, end, seed)
    spread = None if config.spread == "none" else found.spread
    weighted = config.weights == "evidence"
    note = _told(count) if config.held_out else ""
    return Found(end, spread, found.log_z, weighted, path if config.path else None, note)


def _told(count: Tensor) -> str:
    least, most = int(count.min()), int(count.max())
    return f"stopped after {least if least == most else f'{least} to {most}'} steps, by what was held out"


def _path(density: TaskDensity, start: Tensor, config: Gradient, keep: bool = True) -> Tensor:
    rate = config.learning_rate
    if config.optimiser == "adam" and rate is None:
        few = torch.linspace(0, len(start) - 1, min(len(start), TRIED)).round().long()
        rate = best_rate(density.under(density.phi[few]).value_and_grad, start[few], config.steps)
    return ascend(density.value_and_grad, start, config.steps, config.optimiser, rate, keep=keep)


def _start(density: TaskDensity, where: str, seed: int) -> Tensor:
    """Where to begin, in standardised coordinates (S, T, p)."""
    zero = torch.zeros(density.shape, dtype=torch.float64)
    if where == "zero":
        return zero
    if where == "draw":
        return _drawn(density, seed)
    flat = float(density.prior_and_grad(zero)[1].abs().max()) < 1e-9
    return zero if flat else top_of(density.prior_and_grad, zero, PRIOR_STEPS)


def _drawn(density: TaskDensity, seed: int) -> Tensor:
    """θ drawn from p(θ | φ): standard normal in standardised coordinates, where a site has them."""
    with quiet_pyro():
        normal = normal_sites(density.program, density.tasks)
    sites = density.program.structure.theta
    is_normal = torch.cat([torch.full((site.size,), site.name in normal) for site in sites])
    z = torch.randn(density.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.where(is_normal, z, draw_theta(density.program, density.phi, density.tasks, seed))


def _steps_for(density: TaskDensity, start: Tensor, config: Gradient, seed: int) -> Tensor:
    """After how many steps to stop (T,): where an ensemble without some observations predicts these best."""
    tasks = density.tasks
    count = torch.full((len(tasks),), config.steps)
    held = (config.held_out * tasks.sizes).ceil().long().clamp(max=tasks.sizes - 1)
    if not bool(held.any()):
        return count
    fewer = density.on(_without(tasks, held, seed))
    path = _path(fewer, start, config)
    gain = torch.stack([density.terms(v)[1] - fewer.terms(v)[1] for v in path])
    predicted = torch.logsumexp(torch.where(torch.isfinite(gain), gain, -torch.inf), 1)
    return torch.where(held > 0, predicted.argmax(0), count)


def _without(tasks: Tasks, held: Tensor, seed: int) -> Tasks:
    """The tasks without so many of their observations (T,), taken at random."""
    generator = torch.Generator().manual_seed(seed)
    xs, ys = [], []
    for task, out in zip(tasks, held.tolist(), strict=True):
        kept = torch.randperm(task.n, generator=generator)[out:].sort().values
        xs.append(task.x[kept])
        ys.append(task.y[kept])
    return Tasks.from_lists(xs, ys, names=tasks.names, context=tasks.context or None)
