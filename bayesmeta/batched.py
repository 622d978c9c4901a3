"""A log density and its gradient at many points at once: u (S, dim) to (S,) and (S, dim).

What `bayesmeta.density` does for one point, for a fixed number of them: the function is mapped over points by
`torch.func.vmap` while it is recorded, what does not depend on u is computed once, and the graph is compiled if
wanted. The graph holds no data, so that it moves to another device with its inputs, whatever device the user's
functions made their constants on.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from bayesmeta.density import LogDensity, compiled, compiler_found, fold
from bayesmeta.errors import BayesmetaError, BayesmetaWarning, NotAvailableError
from bayesmeta.sites import quiet_pyro
from bayesmeta.threads import one_thread

__all__ = ["Batch", "BatchedDensity", "Mapped", "equal_chunks"]


class Batch(Protocol):
    """What a vectorised sampler asks of a density.

    Attributes:
        dim: Length of a point.
        mode: What evaluates it: ``"compiled"``, ``"traced"`` or ``"vectorised"``.
        device: Where points must lie, and where values and gradients will.
        seconds: Seconds that recording and compiling took.
    """

    dim: int
    mode: str
    device: torch.device
    seconds: float

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Values (S,) and gradients (S, dim) at points u (S, dim)."""
        ...


class Mapped:
    """A `Batch` from a function that takes many points as it is; nothing is recorded.

    Args:
        value_and_grad: Values (S,) and gradients (S, dim) at u (S, dim), on the CPU.
        dim: Length of u.
    """

    mode, seconds, device = "vectorised", 0.0, torch.device("cpu")

    def __init__(self, value_and_grad: Callable[[Tensor], tuple[Tensor, Tensor]], dim: int) -> None:
        self.dim = dim
        self._call = value_and_grad

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Values (S,) and gradients (S, dim) at u (S, dim)."""
        return self._call(u)


class BatchedDensity:
    """A `Batch` from a pure function of one point.

    Args:
        fn: Pure function ``fn(u, *data) -> scalar`` of float64 tensors.
        dim: Length of u.
        data: Tensors handed to `fn` behind u.
        points: How many points there will be.
        chunk: The most points to evaluate at once; fewer need less memory.
        compile: Compile the graph with inductor; otherwise run the recorded graph.
        device: Where to evaluate it.

    Raises:
        NotAvailableError: The function cannot be recorded: it branches on values.
    """

    def __init__(
        self,
        fn: LogDensity,
        dim: int,
        data: Sequence[Tensor] = (),
        *,
        points: int,
        chunk: int | None = None,
        compile: bool = True,
        device: str | torch.device = "cpu",
    ) -> None:
        start = time.perf_counter()
        self.dim, self.points, self.device = dim, points, torch.device(device)
        self._size = equal_chunks(points, chunk or points)
        graph, inputs = _recorded(fn, dim, self._size, data)
        self._inputs = _moved(graph, inputs, self.device)
        self._call: Callable[..., Sequence[Tensor]] = graph
        self.mode = "traced"
        if compile:
            self._compile(graph)
        self.seconds = time.perf_counter() - start

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Values (S,) and gradients (S, dim) at u (S, dim), for S the number of `points`."""
        if len(u) == self._size:
            value, grad = self._call(u, *self._inputs)
            return value, grad
        missing = -len(u) % self._size
        padded = torch.cat([u, u[-1:].expand(missing, -1)]) if missing else u
        parts = [self._call(part.contiguous(), *self._inputs) for part in padded.split(self._size)]
        values, grads = (torch.cat(column)[: len(u)] for column in zip(*parts, strict=True))
        return values, grads

    def _compile(self, graph: GraphModule) -> None:
        if self.device.type == "cpu" and not compiler_found():
            return
        u = torch.zeros(self._size, self.dim, dtype=torch.float64, device=self.device)
        try:
            with one_thread():
                self._call = compiled(graph, (u, *self._inputs))
        except Exception as error:  # inductor and the compiler behind it fail in many ways
            warnings.warn(
                f"the density cannot be compiled for {self._size} points and runs as it was recorded, slower: "
                f"{_reason(error)}",
                BayesmetaWarning,
                stacklevel=4,
            )
            return
        self.mode = "compiled"


def equal_chunks(points: int, most: int) -> int:
    """The size of equal chunks of at most so many points.

    >>> equal_chunks(256, 100), equal_chunks(64, 100)
    (86, 64)
    """
    return -(-points // -(-points // max(1, most)))


def _recorded(fn: LogDensity, dim: int, size: int, data: Sequence[Tensor]) -> tuple[GraphModule, tuple[Tensor, ...]]:
    """The graph of values and gradients at `size` points, and the constants that it takes behind them."""
    u = torch.full((size, dim), 0.1, dtype=torch.float64)

    def value_and_grad(u: Tensor, *data: Tensor) -> tuple[Tensor, Tensor]:
        def one(u: Tensor) -> tuple[Tensor, Tensor]:
            grad, value = torch.func.grad_and_value(fn)(u, *data)
            return value, grad

        return torch.func.vmap(one)(u)

    with quiet_pyro(), torch.no_grad():
        try:
            graph = make_fx(torch.func.functionalize(value_and_grad), tracing_mode="real")(u, *data)
        except BayesmetaError:
            raise
        except RuntimeError as error:
            raise NotAvailableError(f"the density cannot be recorded for many points: {_reason(error)}") from error
        graph.graph.eliminate_dead_code()
        hot, constants = fold(graph)
        return hot, constants.inputs(data)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _moved(graph: GraphModule, inputs: Sequence[Tensor], device: torch.device) -> tuple[Tensor, ...]:
    """The inputs on the device, and the graph making what it makes there."""

    def on_device(value: Any) -> Any:
        return device if isinstance(value, torch.device) else value

    for node in graph.graph.nodes:
        node.args, node.kwargs = pytree.tree_map(on_device, (node.args, dict(node.kwargs)))
    graph.recompile()
    return tuple(tensor.to(device) for tensor in inputs)
