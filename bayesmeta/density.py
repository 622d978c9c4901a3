"""A log density and its gradient, from a pure function to fast code.

The user's Pyro functions run once, under `make_fx`, which records one flat graph of tensor operations for the
value and the gradient together. What does not depend on the parameters is computed once and becomes an input,
so that the graph holds no data: inductor's cache on disk then serves the next data set of the same shapes.
Where no C++ compiler is found, the recorded graph runs as it is; where the function branches on values and
cannot be recorded at all, it runs eagerly.
"""

from __future__ import annotations

import copy
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

from bayesmeta.errors import BayesmetaError, BayesmetaWarning
from bayesmeta.sites import quiet_pyro
from bayesmeta.threads import one_thread
from bayesmeta.workspace import Mode, Workspace

__all__ = ["Density", "Recorded", "record_call"]

LogDensity = Callable[..., Tensor]


class Density:
    """log p(u) and its gradient over unconstrained coordinates u (dim,).

    Args:
        fn: Pure function ``fn(u, *data) -> scalar`` of float64 tensors.
        dim: Length of u.
        data: Tensors handed to `fn` behind u.
        compile: Compile the graph with inductor; otherwise run the traced graph.
        trace: Record the graph at all; False runs `fn` eagerly (for functions that branch on values).

    Attributes:
        mode: ``"compiled"``, ``"traced"`` or ``"eager"``: what evaluates it now.
        seconds: Seconds that tracing and compiling took.
    """

    def __init__(
        self,
        fn: LogDensity,
        dim: int,
        data: Sequence[Tensor] = (),
        *,
        compile: bool = True,
        trace: bool = True,
    ) -> None:
        self.dim = dim
        self.mode: Mode = "eager"
        self.nodes = 0
        start = time.perf_counter()
        self._lock = threading.Lock()
        self._fn, self._data = fn, tuple(data)
        self._call: Callable[..., Sequence[Tensor]] = self._eager
        self._inputs: tuple[Tensor, ...] = ()
        self._fold: Fold | None = None
        if trace:
            self._trace(compile)
        self._workspace = Workspace(self.mode)
        self.seconds = time.perf_counter() - start

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log p(u), a scalar, and its gradient (dim,)."""
        with self._workspace:
            value, grad = self._call(u, *self._inputs)
        return value, grad

    def __call__(self, u: Tensor) -> Tensor:
        """log p(u), a scalar."""
        return self.value_and_grad(u)[0]

    def fork(self) -> Density:
        """The same density for another chain: solvers inside it start from where that chain was last."""
        other = copy.copy(self)
        other._workspace = self._workspace.fork()
        return other

    def on(self, data: Sequence[Tensor]) -> Density:
        """The same density of other data of the same shapes: nothing is recorded or compiled again.

        Raises:
            BayesmetaError: The data are not shaped as those that the density was made for.
        """
        if [(t.shape, t.dtype) for t in data] != [(t.shape, t.dtype) for t in self._data]:
            raise BayesmetaError(
                f"a density made for data of shapes {[tuple(t.shape) for t in self._data]} cannot take "
                f"{[tuple(t.shape) for t in data]}: make a new one"
            )
        other = self.fork()
        other._lock, other._data, other.seconds = threading.Lock(), tuple(data), 0.0
        if self._fold is None:
            other._call = other._eager
        else:
            other._inputs = self._fold.inputs(data)
        return other

    def _eager(self, u: Tensor) -> tuple[Tensor, Tensor]:
        with self._lock, quiet_pyro():
            leaf = u.detach().requires_grad_(True)
            value = self._fn(leaf, *self._data)
            (grad,) = torch.autograd.grad(value, leaf)
        return value.detach(), grad

    def _trace(self, compile: bool) -> None:
        try:
            graph, self._fold = record(self._fn, self.dim, self._data)
        except BayesmetaError:
            raise
        except RuntimeError as error:
            return _say("the density cannot be recorded and runs eagerly, much slower", error)
        inputs = self._fold.inputs(self._data)
        self.nodes = len(graph.graph.nodes)
        self._call, self._inputs, self.mode = graph, inputs, "traced"
        if not compile or not compiler_found():
            return None
        try:
            with one_thread():
                self._call = compiled(graph, (torch.zeros(self.dim, dtype=torch.float64), *inputs))
        except Exception as error:  # inductor and the C++ compiler behind it fail in many ways
            return _say("the density cannot be compiled and runs as it was recorded, several times slower", error)
        self.mode = "compiled"
        return None


def _say(what: str, error: Exception) -> None:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    warnings.warn(f"{what}: {reason}", BayesmetaWarning, stacklevel=4)


@dataclass(frozen=True)
class Fold:
    """What of a recorded graph does not depend on u: `inputs` computes it from the data."""

    graph: GraphModule
    moving: set[Node]
    kept: list[Node]
    count: int = 1

    def inputs(self, data: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The constants that the rest of the graph takes behind u."""
        with quiet_pyro():
            values = constants(self.graph, self.moving, data, self.count)
        return tuple(values[node].contiguous() for node in self.kept)


def record(fn: LogDensity, dim: int, data: Sequence[Tensor]) -> tuple[GraphModule, Fold]:
    """The graph of value and gradient as a function of u and constants, and how to compute those from the data."""
    u = torch.full((dim,), 0.1, dtype=torch.float64)

    def value_and_grad(u: Tensor, *data: Tensor) -> tuple[Tensor, Tensor]:
        grad, value = torch.func.grad_and_value(fn)(u, *data)
        return value, grad

    return _recorded(value_and_grad, (u,), data)


def _recorded(fn: Callable[..., Any], moving: tuple[Tensor, ...], data: Sequence[Tensor]) -> tuple[GraphModule, Fold]:
    with quiet_pyro(), torch.no_grad():
        graph = make_fx(torch.func.functionalize(fn), tracing_mode="real")(*moving, *data)
    graph.graph.eliminate_dead_code()
    return fold(graph, len(moving))


class Recorded:
    """A function of some moving tensors and of data, recorded and possibly compiled.

    Called with the moving tensors and with what `inputs` makes of the data.
    """

    def __init__(self, call: Callable[..., Sequence[Tensor]], fold: Fold) -> None:
        self._call, self._fold = call, fold

    def __call__(self, *args: Tensor) -> Sequence[Tensor]:
        """The values of the function."""
        return self._call(*args)

    def inputs(self, data: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the graph takes behind the moving tensors, computed from the data."""
        with quiet_pyro():
            return self._fold.inputs(data)


def record_call(
    fn: Callable[..., Any], moving: tuple[Tensor, ...], data: Sequence[Tensor], *, compile: bool
) -> Recorded:
    """Record ``fn(*moving, *data)``, a flat tuple of tensors, and compile it if wanted and possible."""
    graph, folded = _recorded(fn, moving, data)
    recorded = Recorded(graph, folded)
    if not compile or not compiler_found():
        return recorded
    try:
        with one_thread():
            return Recorded(compiled(graph, (*moving, *recorded.inputs(data))), folded)
    except Exception as error:  # inductor and the C++ compiler behind it fail in many ways
        _say("a part of the density cannot be compiled and runs as it was recorded, several times slower", error)
        return recorded


def fold(graph: GraphModule, count: int = 1) -> tuple[GraphModule, Fold]:
    """Split off everything that does not depend on the first `count` inputs and make it inputs of what remains."""
    moving = depends_on_inputs(graph, count)
    nodes = list(graph.graph.nodes)
    output = nodes[-1]
    hot = torch.fx.Graph()
    kept: dict[Node, Node] = {node: hot.placeholder(f"u_{k}") for k, node in enumerate(nodes[:count])}
    constant: list[Node] = []
    for node in nodes[count:]:
        if node not in moving and any(user in moving or user is output for user in node.users):
            kept[node] = hot.placeholder(f"constant_{len(constant)}")
            constant.append(node)
    for node in nodes[count:-1]:
        if node in moving:
            kept[node] = hot.node_copy(node, lambda n: kept[n])
    hot.output(tuple(kept[node] for node in output.args[0]))
    return GraphModule({}, hot), Fold(graph, moving, constant, count)


def depends_on_inputs(graph: GraphModule, count: int) -> set[Node]:
    """The nodes that change when one of the first inputs does."""
    moving: set[Node] = set()
    for position, node in enumerate(graph.graph.nodes):
        if position < count or any(parent in moving for parent in node.all_input_nodes):
            moving.add(node)
    return moving


def constants(graph: GraphModule, moving: set[Node], data: Sequence[Tensor], count: int = 1) -> dict[Node, Any]:
    """The values of all nodes that do not depend on the first `count` inputs."""
    nodes = list(graph.graph.nodes)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    values: dict[Node, Any] = dict(zip(placeholders[count:], data, strict=True))
    with torch.no_grad():
        for node in nodes:
            if node in moving or node in values or node.op == "output":
                continue
            if node.op == "get_attr":
                values[node] = getattr(graph, node.target)
            else:
                args, kwargs = map_arg((node.args, node.kwargs), lambda n: values[n])
                values[node] = node.target(*args, **kwargs)
    return values


def compiled(graph: GraphModule, inputs: tuple[Tensor, ...]) -> Callable[..., Sequence[Tensor]]:
    """The graph through inductor, for one thread; chains are the parallelism.

    The shape environment is what inductor's cache on disk asks for. Which vector instructions the processor has
    is read from the processor, not found by compiling test programs, which halves the first compile.
    """
    from torch._guards import TracingContext, tracing
    from torch._inductor import compile as inductor
    from torch._inductor import config
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    options = {"cpp.threads": 1, "fx_graph_cache": True, "cpp.vec_isa_ok": True, "size_asserts": False}
    context = TracingContext(FakeTensorMode(shape_env=ShapeEnv()))
    with torch.no_grad(), config.patch(options), tracing(context), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # inductor's own, about torch
        code: Callable[..., Sequence[Tensor]] = inductor(graph, list(inputs))
        code(*inputs)
    return code


@cache
def compiler_found() -> bool:
    """Whether inductor has a C++ compiler to call; says so once where it has none."""
    found = any(shutil.which(name) for name in ("g++", "clang++", "c++"))
    if not found:
        warnings.warn(
            "no C++ compiler was found (g++, clang++): densities run uncompiled, several times slower",
            BayesmetaWarning,
            stacklevel=2,
        )
    return found
