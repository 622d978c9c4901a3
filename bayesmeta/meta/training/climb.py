"""The meta-objective as training climbs it: recorded once for episodes of the same shapes, and compiled if wanted.

What an inner loop costs, for small networks, is Python and the bookkeeping of derivatives of derivatives. The value and
the gradient of a whole batch of tasks are therefore recorded as one flat graph of tensor operations, which is run again
with the data of the next batch, several times as fast, and several times again once compiled.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.episodes import Episodes, Rows, check_rows
from bayesmeta.meta.flat import Flat
from bayesmeta.meta.module import Functional
from bayesmeta.meta.training.chunks import at_once, parts
from bayesmeta.meta.training.feed import Part
from bayesmeta.recordings import Recordings

__all__ = ["Climb"]

RECORDED_FROM = 400  # steps


class Climb:
    """Minus the meta-objective of one set of meta-parameters.

    Args:
        algorithm: The algorithm with its settings.
        net: The network.
        flat: Its meta-parameters as a vector.

    Attributes:
        chunk: Tasks that went through one call at most; None before the first.
    """

    def __init__(self, algorithm: Algorithm, net: Functional, flat: Flat) -> None:
        self.chunk: int | None = None
        self._algorithm, self._net, self._flat = algorithm, net, flat
        self._last = algorithm.at(1.0)
        wanted = algorithm.compile or algorithm.steps >= RECORDED_FROM
        again = getattr(algorithm, "recompute", False)  # which torch cannot record
        self._recordings = Recordings(wanted=wanted and not again, compile=algorithm.compile)

    @property
    def mode(self) -> str:
        """What evaluates it: ``"compiled"``, ``"traced"`` or ``"eager"``."""
        return self._recordings.mode

    def __call__(self, u: Tensor, part: Part) -> tuple[Tensor, Tensor]:
        """Its value (1,) and gradient (1, q) at u (1, q), on some episodes."""
        stage = self._algorithm.at(part.step / self._algorithm.steps)
        leaves = (*part.episodes.support, *part.episodes.query, part.episodes.noise, part.weight)
        for rows in (part.episodes.support, part.episodes.query):
            check_rows(self._net, rows)
        value, grad, total = u.new_zeros(()), torch.zeros_like(u[0]), len(part.weight)
        for some in self._parts(u[0], leaves):
            found = tuple(leaf[some] for leaf in leaves)
            if bool((found[-1] > 0).any()):
                share = len(found[-1]) / total
                piece, slope = self._piece(stage, u[0], found)
                value, grad = value + share * piece, grad + share * slope
        return -value.unsqueeze(0), -grad.unsqueeze(0)

    def _parts(self, u: Tensor, leaves: tuple[Tensor, ...]) -> list[slice]:
        """The tasks of a batch in parts, each of which fits into memory."""
        chunk = self._algorithm.chunk
        if chunk is None:

            def whole(*leaves: Tensor) -> tuple[Tensor, Tensor]:
                return self._value_and_grad(self._last, u, *leaves)

            chunk = at_once(self._net, whole, leaves, "training")
        found = parts(len(leaves[0]), chunk)
        self.chunk = max(self.chunk or 0, *(part.stop - part.start for part in found))
        return found

    def _piece(self, stage: Algorithm, u: Tensor, leaves: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """The objective and its gradient for some tasks, by the recorded graph where there is one."""
        graph = None
        if stage == self._last:
            key = tuple(leaf.shape for leaf in leaves)
            graph = self._recordings.find(key, partial(self._value_and_grad, self._last), (u, *leaves))
        value, grad = self._value_and_grad(stage, u, *leaves) if graph is None else graph(u, *leaves)
        return value.detach(), grad.detach()

    def _value_and_grad(self, stage: Algorithm, u: Tensor, *leaves: Tensor) -> tuple[Tensor, Tensor]:
        episodes = Episodes(Rows(*leaves[:3]), Rows(*leaves[3:6]), leaves[6])
        value, grad = stage.value_and_grad(self._net, self._flat.named(u), episodes, leaves[7])
        return value, self._flat.vector(grad)
