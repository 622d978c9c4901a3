"""Graphs of one function, one for each shape of what it is given: recorded when first needed, where that can be.

Training asks the same function thousands of times, of batches that have a handful of shapes. Recorded, and compiled if
wanted, a step costs what its tensor operations cost and not what the functions of the user do.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from bayesmeta.density import record_call
from bayesmeta.errors import BayesmetaError

__all__ = ["MOST", "Graph", "Recordings"]

MOST = 12
"""Shapes of which graphs are kept; what comes beyond them does without."""

Graph: TypeAlias = Callable[..., Sequence[Tensor]]


class Recordings:
    """Graphs by shape.

    Args:
        wanted: Whether steps are so many that a recording, some seconds, is worth it.
        compile: Compile what is recorded.

    Attributes:
        mode: What evaluates the function: ``"compiled"``, ``"traced"`` or ``"eager"``.
    """

    def __init__(self, *, wanted: bool, compile: bool) -> None:
        self.mode = "eager"
        self._wanted, self._compile = wanted, compile
        self._known: dict[Hashable, Graph] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, key: Hashable, fn: Callable[..., Any], args: tuple[Tensor, ...]) -> Graph | None:
        """What to call in place of `fn`, without gradients; None where there is no recording.

        A function that cannot be recorded, because it looks at values, is not tried again.

        Args:
            key: What a graph is fixed to: the shapes of `args`, and what else `fn` holds.
            fn: From `args` to a flat tuple of tensors. It is kept with its recording, so that what solvers inside it
                refer to lives on.
            args: Tensors.

        Raises:
            BayesmetaError: What `fn` itself found wrong.
        """
        if key not in self._known and self._wanted and len(self._known) < MOST:
            made = self._record(fn, args)
            if made is None:
                self._wanted = False
                return None
            self._known[key] = made
        return self._known.get(key)

    def _record(self, fn: Callable[..., Any], args: tuple[Tensor, ...]) -> Graph | None:
        try:
            recorded = record_call(fn, args, (), compile=self._compile)
        except BayesmetaError:
            raise
        except RuntimeError:
            return None
        self.mode = "compiled" if self._compile else "traced"
        return _Recording(fn, recorded, recorded.inputs(()))


class _Recording:
    """A graph with its constants, and the function that it is of."""

    def __init__(self, fn: Callable[..., Any], call: Graph, constants: tuple[Tensor, ...]) -> None:
        self.fn, self._call, self._constants = fn, call, constants

    def __call__(self, *args: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            return self._call(*args, *self._constants)
