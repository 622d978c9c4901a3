"""The meta-objective as training climbs it: recorded once for episodes of the same shapes, and compiled if wanted.

What an inner loop costs, for small networks, is Python and the bookkeeping of derivatives of derivatives. The value and
the gradient of a whole batch of tasks are therefore recorded as one flat graph of tensor operations, which is run again
with the data of the next batch, several times as fast, and several times again once compiled.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from bayesmeta.density import Recorded, record_call
from bayesmeta.errors import BayesmetaError
from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.episodes import Episodes, Rows
from bayesmeta.meta.feed import Part
from bayesmeta.meta.flat import Flat
from bayesmeta.meta.module import Functional

__all__ = ["Climb"]

MOST_RECORDED = 12
RECORDED_FROM = 400  # steps


class Climb:
    """Minus the meta-objective of one set of meta-parameters.

    Args:
        algorithm: The algorithm with its settings.
        net: The network.
        flat: Its meta-parameters as a vector.

    Attributes:
        mode: What evaluates it: ``"compiled"``, ``"traced"`` or ``"eager"``.
    """

    def __init__(self, algorithm: Algorithm, net: Functional, flat: Flat) -> None:
        self.mode = "eager"
        self._algorithm, self._net, self._flat = algorithm, net, flat
        self._last = algorithm.at(1.0)
        self._recorded: dict[Hashable, tuple[Recorded, tuple[Tensor, ...]]] = {}
        self._recordable = algorithm.compile or algorithm.steps >= RECORDED_FROM

    def __call__(self, u: Tensor, part: Part) -> tuple[Tensor, Tensor]:
        """Its value (1,) and gradient (1, q) at u (1, q), on some episodes."""
        stage = self._algorithm.at(part.step / self._algorithm.steps)
        leaves = (*part.episodes.support, *part.episodes.query, part.episodes.noise, part.weight)
        found = self._known(u[0], leaves) if stage == self._last else None
        if found is None:
            value, grad = self._value_and_grad(stage, u[0], *leaves)
        else:
            call, constants = found
            with torch.no_grad():
                value, grad = call(u[0], *leaves, *constants)
        return -value.detach().unsqueeze(0), -grad.detach().unsqueeze(0)

    def _value_and_grad(self, stage: Algorithm, u: Tensor, *leaves: Tensor) -> tuple[Tensor, Tensor]:
        episodes = Episodes(Rows(*leaves[:3]), Rows(*leaves[3:6]), leaves[6])
        value, grad = stage.value_and_grad(self._net, self._flat.named(u), episodes, leaves[7])
        return value, self._flat.vector(grad)

    def _known(self, u: Tensor, leaves: tuple[Tensor, ...]) -> tuple[Recorded, tuple[Tensor, ...]] | None:
        """The graph for episodes of these shapes and its constants, recorded where there is none yet and shall be."""
        key = tuple(leaf.shape for leaf in leaves)
        if key not in self._recorded and self._recordable and len(self._recorded) < MOST_RECORDED:
            made = self._record(u, leaves)
            if made is None:
                self._recordable = False
                return None
            self._recorded[key] = made, made.inputs(())
        return self._recorded.get(key)

    def _record(self, u: Tensor, leaves: tuple[Tensor, ...]) -> Recorded | None:
        def both(u: Tensor, *leaves: Tensor) -> tuple[Tensor, Tensor]:
            return self._value_and_grad(self._last, u, *leaves)

        try:
            recorded = record_call(both, (u, *leaves), (), compile=self._algorithm.compile)
        except BayesmetaError:
            raise
        except RuntimeError:  # a loss or a module that looks at values
            return None
        self.mode = "compiled" if self._algorithm.compile else "traced"
        return recorded
