"""What a solver that runs inside a log density keeps from one evaluation to the next.

A density whose tasks have a mode to be found asks for it at every point. Where it was last is the best place to
start, and the recorded step towards it need not be recorded again: both belong to whoever evaluates the density
again and again. `with Workspace(...):` around the evaluations provides them; without it a solver starts anew.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from types import TracebackType
from typing import Any, Literal

__all__ = ["Mode", "Workspace", "current"]

Mode = Literal["eager", "traced", "compiled"]


class Workspace:
    """Memory of the solvers inside one density, for one chain of evaluations at points near each other.

    Args:
        mode: How solvers evaluate their steps: as they are, recorded, or recorded and compiled.
        patient: Whether a search that does not arrive is made once more, with care.

    Attributes:
        mode: As given.
        patient: As given.
        recorded: Recorded steps; forks share them.
        last: Where solvers stopped last; never shared.
    """

    def __init__(self, mode: Mode = "eager", *, patient: bool = True) -> None:
        self.mode: Mode = mode
        self.patient = patient
        self.recorded: dict[Hashable, Any] = {}
        self.last: dict[Hashable, Any] = {}

    def fork(self) -> Workspace:
        """Another chain's workspace: what was recorded is shared, where solvers stopped is not."""
        other = Workspace(self.mode, patient=self.patient)
        other.recorded = self.recorded
        return other

    def __enter__(self) -> Workspace:
        _stack().append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _stack().pop()


_local = threading.local()


def _stack() -> list[Workspace]:
    if not hasattr(_local, "stack"):
        _local.stack = []
    found: list[Workspace] = _local.stack
    return found


def current() -> Workspace | None:
    """The innermost workspace of this thread."""
    stack = _stack()
    return stack[-1] if stack else None
