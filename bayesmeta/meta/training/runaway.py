"""Inner loops that run away in the course of training: said, once it is more than a step now and then.

A step whose meta-objective or gradient is not finite is taken back by the loop that trains (`bayesmeta.infer`), and the
next one starts with other episodes. Where that happens again and again, training gets nowhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from bayesmeta.errors import BayesmetaError
from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.training.feed import Part

__all__ = ["Guarded"]

WINDOW = 40  # steps
MOST = 20  # of them may fail


class Guarded:
    """What training climbs, with an eye on it.

    Args:
        climb: Gives value (1,) and gradient (1, q) at u (1, q), on some episodes.
        algorithm: Its settings, for the words of the error.

    Raises:
        BayesmetaError: As many as `MOST` of the last `WINDOW` steps were not finite.
    """

    def __init__(self, climb: Callable[[Tensor, Part], tuple[Tensor, Tensor]], algorithm: Algorithm) -> None:
        self._climb, self._algorithm = climb, algorithm
        self._failed: deque[bool] = deque(maxlen=WINDOW)

    def __call__(self, u: Tensor, part: Part) -> tuple[Tensor, Tensor]:
        """Its value (1,) and gradient (1, q) at u (1, q)."""
        value, grad = self._climb(u, part)
        self._failed.append(not bool(torch.isfinite(value).all() & torch.isfinite(grad).all()))
        if self._failed[-1] and sum(self._failed) >= MOST:
            raise BayesmetaError(self._words(part.step))
        return value, grad

    def _words(self, step: int) -> str:
        settings = self._algorithm
        kept = "" if settings.checkpoint is None else f"; {settings.checkpoint} has what was learnt before"
        return (
            f"the meta-objective or its gradient was not finite at {sum(self._failed)} of the last {len(self._failed)} "
            f"steps, the last of them step {step:,} of {settings.steps:,}: the inner loop runs away; take an "
            f"inner_learning_rate below {settings.inner_learning_rate:g}, fewer inner_steps than "
            f"{settings.inner_steps}, or a learning_rate below {settings.learning_rate:g}{kept}"
        )
