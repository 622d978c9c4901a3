"""Fitting a guide to a target: a start, a Pyro model and guide, training; several times where asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro.distributions import TransformModule
from torch import Tensor, nn

from bayesmeta.errors import BayesmetaError
from bayesmeta.infer.svi_amortised import LocalAmortised
from bayesmeta.infer.svi_guides import DIAGONAL, LocalNormal, PhiGuide, Structured, model_of, phi_guide
from bayesmeta.infer.svi_minibatch import Batch, Minibatches
from bayesmeta.infer.svi_start import LocalStart, Start, find_start
from bayesmeta.infer.svi_train import PathELBO, Trained, train
from bayesmeta.target import Target
from bayesmeta.track import Step, bar, steps_to

if TYPE_CHECKING:
    from bayesmeta.infer.svi import SVI

__all__ = ["Fitted", "fit_guides", "starting_point"]

NETWORK_SHARE = 0.1  # of the learning rate, for the weights of networks
# Adam makes a full step of any gradient, however small: one that starts at the optimum would leave it at once.
# In units of posterior standard deviations there is a size below which a gradient (in nats) is small.
NEGLIGIBLE = 0.1
LOOKED_AT = 1_000  # tasks from which the climb to the mode begins, where there are more
AMORTISE_FROM = 20_000  # tasks from which on a guide of θ is amortised by itself
LAST = 16  # estimates of the ELBO by which restarts are compared


@dataclass
class Fitted:
    """One trained guide: where it started, how it went, and its ELBO (mean and standard error, nats)."""

    start: Start
    guide: nn.Module
    local: nn.Module | None
    trained: Trained
    elbo: float
    error: float
    evaluations: int


def fit_guides(target: Target, config: SVI, seed: int, progress: bool) -> list[Fitted]:
    """One guide for each restart, as many as were trained before an interruption.

    Raises:
        BayesmetaError: The ELBO of none was finite.
    """
    fits: list[Fitted] = []
    with bar("ELBO", config.steps * config.restarts, progress) as step:
        for restart in range(config.restarts):
            fits.append(_fit(target, config, seed + 7919 * restart, step))
            if fits[-1].trained.interrupted:
                break
    usable = [fit for fit in fits if math.isfinite(fit.elbo)]
    if not usable:
        raise BayesmetaError(
            "the ELBO was not finite: the guide reaches where the density is zero or overflows; lower learning_rate, "
            "or use inference='nuts'"
        )
    return usable


def _fit(target: Target, config: SVI, seed: int, step: Step) -> Fitted:
    start = starting_point(target, config, seed)
    local = _local(target, config, start)
    phi = phi_guide(config.guide, target.q, start.scale, config.rank)
    guide: nn.Module = PhiGuide(phi) if local is None else Structured(phi, local, len(target.evidence.tasks))
    batches = Minibatches(
        target,
        config.particles,
        config.batch_size,
        mode=start.centre,
        compile=config.compile,
        look=isinstance(local, LocalAmortised),
    )
    loss, stream = _loss(target, config, start, guide), batches.stream(torch.Generator().manual_seed(seed))
    trained = train(
        loss,
        guide,
        stream,
        steps=config.steps,
        groups=_groups(guide, config.learning_rate),
        schedule=config.schedule,
        patience=config.patience,
        tolerance=config.tolerance,
        clip=config.clip,
        watch=steps_to(step),
    )
    with torch.no_grad():
        last = -np.array([loss(next(stream)).item() for _ in range(LAST)])
    error = float(last.std(ddof=1)) / math.sqrt(LAST)
    return Fitted(start, phi, local, trained, float(last.mean()), error, start.evaluations + batches.evaluations)


def _loss(target: Target, config: SVI, start: Start, guide: nn.Module) -> Callable[[Batch], Tensor]:
    """The negative ELBO of a batch, in nats, over the coordinates u."""
    p = target.program.structure.theta.size if target.is_joint else 0
    model = model_of(target.q, p, len(target.evidence.tasks), start.phi)
    make: Any = PathELBO
    elbo = make(num_particles=config.particles, max_plate_nesting=1 if p else 0, vectorize_particles=True)
    shift = float(start.log_det)

    def loss(batch: Batch) -> Tensor:
        value: Tensor = elbo.differentiable_loss(model, guide, batch)
        return value - shift

    return loss


def starting_point(target: Target, config: SVI, seed: int) -> Start:
    """The mode and the coordinates of the guide; the climb begins on some of the tasks where they are many."""
    count, part = len(target.evidence.tasks), None
    if count > LOOKED_AT:
        index = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:LOOKED_AT]
        part = Minibatches(target, 1).part(index)
    start = find_start(target, part, seed, diagonal=config.guide in DIAGONAL)
    if part is None or start.local is None:
        return start
    return Start(start.centre, start.root, start.scale, _typical(start.local, count), start.evaluations)


def _typical(local: LocalStart, count: int) -> LocalStart:
    """What tasks that were looked at have in common, as the start of all."""
    return LocalStart(*(t.mean(0, keepdim=True).repeat(count, *[1] * (t.dim() - 1)) for t in vars(local).values()))


def _local(target: Target, config: SVI, start: Start) -> LocalNormal | LocalAmortised | None:
    if start.local is None:
        return None
    tasks = target.evidence.tasks
    if config.amortised or (config.amortised is None and len(tasks) >= AMORTISE_FROM):
        return LocalAmortised(tasks, target.q, target.program.structure.theta.size)
    return LocalNormal(start.local)


def _groups(guide: nn.Module, rate: float) -> list[dict[str, Any]]:
    """Parameters of normals, and weights of networks with a lower rate."""
    networks = [m for m in guide.modules() if isinstance(m, LocalAmortised | TransformModule)]
    weights = {id(p) for module in networks for p in module.parameters()}
    slow = [p for p in guide.parameters() if id(p) in weights]
    fast = [p for p in guide.parameters() if id(p) not in weights]
    kinds = ((fast, rate, NEGLIGIBLE), (slow, NETWORK_SHARE * rate, 1e-8))
    return [{"params": parameters, "lr": lr, "eps": eps} for parameters, lr, eps in kinds if parameters]
