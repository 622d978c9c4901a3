"""BMAML: several networks for each task, that gradient steps move together and Stein's push keeps apart.

    w_1..w_M  from shared initialisations, by steps of Stein variational gradient descent on the support

What is learnt are the initialisations of the M particles. The meta-objective is the query's log likelihood under their
mixture, or how far the particles are from where they would be if they had seen the query too and gone on (the chaser
loss; that place is held constant).

Yoon, Kim, Dia, Kim, Bengio and Ahn (2018), Bayesian model-agnostic meta-learning, NeurIPS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bayesmeta.errors import OptionError, unknown
from bayesmeta.infer.options import check_whole
from bayesmeta.meta.distribution.bayesian import LOG_NOISE, Bayesian, check_positive
from bayesmeta.meta.distribution.stein import stein_direction
from bayesmeta.meta.episodes import Episodes, Rows
from bayesmeta.meta.flat import Flat
from bayesmeta.meta.module import Functional, Weights

__all__ = ["BMAML"]

OBJECTIVES = ("likelihood", "chaser")


@dataclass(frozen=True)
class BMAML(Bayesian):
    """Settings of BMAML: those of Bayesian ones, and more; `draws` are its particles.

    Args:
        goal: ``"likelihood"`` or ``"chaser"``: what the meta-objective is. The paper prefers the second; the first says
            more about the size of errors.
        chaser_steps: Steps that the particles to be chased go on for, on support and query.
        apart: How far the particles' initialisations are apart at the beginning, in standard deviations of the elements
            of each tensor of weights, of a single number in its size; the first is the module's own.
    """

    draws: int = 5
    goal: Literal["likelihood", "chaser"] = "likelihood"
    chaser_steps: int = 1
    apart: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("chaser_steps", self.chaser_steps, 1)
        check_positive("apart", self.apart)
        if self.goal not in OBJECTIVES:
            raise OptionError(unknown("goal", self.goal, OBJECTIVES))

    def begin(self, net: Functional) -> Weights:
        """The particles' weights by name (M, ...), and the logarithm of the noise."""
        generator = torch.Generator().manual_seed(0)

        def particles(weight: Tensor) -> Tensor:
            away = torch.randn(self.draws, *weight.shape, generator=generator, dtype=weight.dtype)
            away[0] = 0
            size = weight.std(correction=0) if weight.numel() > 1 else weight.abs()
            return weight + self.apart * size * away

        return super().begin(net) | {name: particles(weight) for name, weight in net.weights.items()}

    def adapted(self, net: Functional, meta: Weights, support: Rows, steps: int) -> Weights:
        """The first of the particles of one task, after so many steps of all."""
        moved = self._moved(net, meta, _particles(net, meta), support, steps)
        return {name: value[0] for name, value in moved.items()}

    def members(self, net: Functional, meta: Weights, support: Rows, steps: int, noise: Tensor) -> Weights:
        """The particles of one task after so many steps (M, ...)."""
        return self._moved(net, meta, _particles(net, meta), support, steps)

    def objective(self, net: Functional, meta: Weights, episode: Episodes) -> Tensor:
        """How far one task's particles are from those to be chased, or its query's surprise, ()."""
        if self.goal == "likelihood":
            moved = self._moved(net, meta, _particles(net, meta), episode.support, self.inner_steps)
            return self.judged(net, meta, moved, episode.query)
        held = {name: value.detach() if name == LOG_NOISE else value for name, value in meta.items()}
        moved = self._moved(net, held, _particles(net, meta), episode.support, self.inner_steps)
        both = Rows(*(torch.cat(parts) for parts in zip(episode.support, episode.query, strict=True)))
        still = {name: value.detach() for name, value in moved.items()}
        chased = self._moved(net, held, still, both, self.chaser_steps)
        distance = torch.stack([(moved[name] - chased[name].detach()).square().sum() for name in moved]).sum()
        if self.loss != "mse":
            return distance
        return distance + self.judged(net, meta, still, episode.query)  # which the noise alone learns from

    def _moved(self, net: Functional, meta: Weights, particles: Weights, rows: Rows, steps: int) -> Weights:
        """Particles (M, ...) after so many steps on some rows."""
        flat, push = Flat(net.weights), self.share(meta, rows)
        slope = torch.func.vmap(torch.func.grad(lambda w: self.risk(net, flat.named(w), rows)))
        at = torch.func.vmap(flat.vector)(particles)
        for _ in range(steps):
            at = at + self.inner_learning_rate * stein_direction(at, -slope(at), push)
        found: Weights = torch.func.vmap(flat.named)(at)
        return found


def _particles(net: Functional, meta: Weights) -> Weights:
    return {name: meta[name] for name in net.weights}
