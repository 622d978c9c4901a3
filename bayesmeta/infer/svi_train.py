"""Training a guide: stochastic gradients of the evidence lower bound, until it no longer rises.

    ELBO = E_q[ log p(u, D) - log q(u) ]

is estimated by Pyro's `Trace_ELBO` over vectorised particles. Its gradient has a part, the score of q at fixed
draws, whose expectation is zero and which alone keeps the noise from vanishing where q is exact; it is left out
(Roeder, Wu, Duvenaud 2017, "Sticking the landing").

The learning rate runs down a schedule over all steps. Once the smoothed ELBO no longer rises, the rest of the
schedule is run through in `patience` steps: training ends early, never abruptly. The parameters are averaged over
the second half of the schedule (Polyak, Juditsky 1992).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pyro.distributions import Delta, TransformedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from bayesmeta.infer.svi_minibatch import Batch

__all__ = ["SCHEDULES", "PathELBO", "Trained", "plateau", "slope", "smoothed", "train"]

Array = npt.NDArray[np.float64]
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda s: 0.5 * (1 + math.cos(math.pi * s)),
    "exponential": lambda s: math.exp(-5.0 * s),
    "constant": lambda s: 1.0,
}
"""The learning rate over the share s of the schedule that is done, from 1."""
AVERAGED = 0.5  # parameters are averaged from this share of the schedule on
BETAS = (0.9, 0.99)


class PathELBO(Trace_ELBO):
    """Pyro's `Trace_ELBO` whose gradient has no score of q.

    A site of the guide whose distribution depends on earlier sites gives under ``infer={"score": ...}`` the same
    distribution with these held constant: only parameters have a score.
    """

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> tuple[Any, Tensor]:
        loss, surrogate = super()._differentiable_loss_particle(model_trace, guide_trace)  # type: ignore[no-untyped-call]
        for _, site in guide_trace.iter_stochastic_nodes():
            if isinstance(site["fn"], Delta | TransformedDistribution):  # a flow would have to be inverted for it
                continue
            q = site["infer"].get("score", site["fn"])
            score = scale_and_mask(q.log_prob(site["value"].detach()), site["scale"], site["mask"]).sum()
            surrogate = surrogate - (score - score.detach())
        return loss, surrogate


@dataclass
class Trained:
    """What training left: the ELBO by step, why it ended, and whether it was interrupted.

    Attributes:
        elbo: The estimate at each step, in nats.
        stopped: The step at which the ELBO was found to rise no longer, if it was.
        interrupted: Whether Ctrl-C ended it.
    """

    elbo: list[float] = field(default_factory=list)
    stopped: int | None = None
    interrupted: bool = False

    @property
    def failed(self) -> int:
        """Steps that were left out for a gradient that was not finite."""
        return int(np.isnan(self.elbo).sum())

    def note(self, loss: float) -> None:
        """The loss of one more step."""
        self.elbo.append(-loss)


def train(
    loss: Callable[[Batch], Tensor],
    guide: nn.Module,
    batches: Iterator[Batch],
    *,
    steps: int,
    groups: Sequence[dict[str, Any]],
    schedule: str,
    patience: int,
    tolerance: float,
    clip: float,
    watch: Callable[[int, str], object],
) -> Trained:
    """Fit the parameters of a guide in place; what was learnt so far is kept when interrupted.

    Args:
        loss: The negative ELBO of a batch, differentiable.
        guide: The guide, whose parameters are averaged at the end.
        batches: Batches without end.
        steps: Gradient steps at most.
        groups: Parameters and their learning rates, as `torch.optim.Adam` takes them.
        schedule: A name in `SCHEDULES`.
        patience: Steps that the smoothed ELBO is averaged over, and that the end of the schedule takes.
        tolerance: Rise of the smoothed ELBO, relative to its noise, below which training ends; 0 for never.
        clip: Largest norm of the gradient; a longer one is shortened to it.
        watch: Called with the steps done and a few words.
    """
    optimiser = torch.optim.Adam([dict(group) for group in groups], betas=BETAS)
    clock = _Clock(1 / steps)
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda _: SCHEDULES[schedule](clock.done))
    trained, average = Trained(), _Average(list(guide.parameters()))
    with _until_interrupted(trained):
        while not clock.over:
            trained.note(_step(optimiser, loss(next(batches)), average.parameters, clip))
            clock.tick()
            rates.step()
            if clock.done > AVERAGED:
                average.add()
            step = len(trained.elbo)
            if step % max(1, patience // 4) == 0:
                if trained.stopped is None and plateau(trained.elbo, patience, tolerance):
                    trained.stopped = step
                    clock.end_within(patience)
                watch(step, f"ELBO {_recent(trained.elbo, patience):,.2f}")
    average.take()
    return trained


def _step(optimiser: torch.optim.Optimizer, value: Tensor, parameters: Sequence[Tensor], clip: float) -> float:
    """One step down the gradient of a loss; its value, or NaN where that or the gradient was not finite."""
    optimiser.zero_grad()
    value.backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
    if not bool(torch.isfinite(norm) & torch.isfinite(value)):
        return math.nan
    optimiser.step()
    return value.item()


@dataclass
class _Clock:
    """The share of a schedule that is done, moved on by `pace` at each tick."""

    pace: float
    done: float = 0.0

    @property
    def over(self) -> bool:
        return self.done >= 1 - 1e-9

    def tick(self) -> None:
        self.done = min(1.0, self.done + self.pace)

    def end_within(self, ticks: int) -> None:
        self.pace = max(self.pace, (1 - self.done) / ticks)


class _Average:
    """The running mean of parameters."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters, self.count = parameters, 0
        self.mean: list[Tensor] = []

    def add(self) -> None:
        """Count in the parameters as they are now."""
        self.count += 1
        if self.count == 1:
            self.mean = [parameter.detach().clone() for parameter in self.parameters]
        for mean, parameter in zip(self.mean, self.parameters, strict=True):
            mean.lerp_(parameter.detach(), 1 / self.count)

    def take(self) -> None:
        """Set the parameters to their mean, if anything was counted."""
        with torch.no_grad():
            for mean, parameter in zip(self.mean, self.parameters, strict=False):
                parameter.copy_(mean)


@contextlib.contextmanager
def _until_interrupted(trained: Trained) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        trained.interrupted = True


def _recent(elbo: Sequence[float], window: int) -> float:
    return float(np.nanmean(elbo[-window:]))


def plateau(elbo: Sequence[float], window: int, tolerance: float) -> bool:
    """Whether the mean ELBO of the last `window` steps is above that of the window before by less than its noise.

    The rise is compared with `tolerance` times the standard deviation of single estimates, at least .1 nat: the
    size of the ELBO itself says nothing, as it grows with the data.
    """
    if len(elbo) < 2 * window or tolerance == 0:
        return False
    before, last = np.array(elbo[-2 * window : -window]), np.array(elbo[-window:])
    noise = max(0.1, float(np.nanstd(last)))
    return bool(np.nanmean(last) - np.nanmean(before) < tolerance * noise)


def smoothed(elbo: Array, window: int) -> Array:
    """The mean of up to `window` estimates up to each step."""
    filled = np.where(np.isfinite(elbo), elbo, 0.0)
    total = np.concatenate([[0.0], np.cumsum(filled)])
    count = np.concatenate([[0], np.cumsum(np.isfinite(elbo))])
    end = np.arange(1, len(elbo) + 1)
    begin = np.maximum(0, end - window)
    return np.asarray((total[end] - total[begin]) / np.maximum(count[end] - count[begin], 1))


def slope(elbo: Array, window: int) -> Array:
    """Nats per step: how much the smoothed ELBO rose over the last `window` steps; 0 for the first step."""
    smooth = smoothed(elbo, window)
    end = np.arange(len(smooth))
    begin = np.maximum(0, end - window)
    return np.asarray((smooth[end] - smooth[begin]) / np.maximum(end - begin, 1))
