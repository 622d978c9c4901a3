"""What all workers of the benchmark of meta-gradients share: the tasks, the network, the plain loop, and the watch.

A task is a sine wave with ten support and ten query points; the network is 1-40-40-1 with ReLU, in float32. The truth
is a loop over tasks in float64 by `torch.autograd`: every worker says how far its own gradient is from it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.workers.common import Arrays, Clock, peak_mb, say

__all__ = ["RATE", "Case", "awake", "case", "flat", "gradient_of", "measured", "network", "squared"]

RATE, SUPPORT, WIDTH = 0.01, 10, 40
WARM_UP, SECONDS, LEAST = 3, 3.0, 7


@dataclass(frozen=True)
class Case:
    """Inputs (T, n, 1) and observations (T, n) of support and query, and the number of inner steps."""

    xs: Tensor
    ys: Tensor
    xq: Tensor
    yq: Tensor
    steps: int

    def to(self, dtype: torch.dtype) -> Case:
        """The same in another precision."""
        return Case(self.xs.to(dtype), self.ys.to(dtype), self.xq.to(dtype), self.yq.to(dtype), self.steps)


def case(data: Arrays) -> Case:
    """The tasks of a problem whose kind is ``"sines-STEPS"``."""
    x, y = (torch.from_numpy(values).float() for values in data.by_task)
    s, q = slice(0, SUPPORT), slice(SUPPORT, None)
    return Case(x[:, s, None], y[:, s], x[:, q, None], y[:, q], int(data.kind.rpartition("-")[2]))


def network() -> nn.Sequential:
    """The same network everywhere."""
    rng = np.random.default_rng(7)
    net = nn.Sequential(nn.Linear(1, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))
    with torch.no_grad():
        for weight in net.parameters():
            fan_in = weight.shape[-1] if weight.dim() == 2 else WIDTH
            weight.copy_(torch.from_numpy(rng.uniform(-1, 1, tuple(weight.shape)) / np.sqrt(fan_in)))
    return net


def squared(out: Tensor, y: Tensor) -> Tensor:
    """The mean squared error of outputs (n, 1) for y (n,)."""
    return (out.squeeze(-1) - y).square().mean()


def flat(values: Any) -> Tensor:
    """Tensors as one vector."""
    return torch.cat([value.detach().reshape(-1) for value in values])


def gradient_of(net: nn.Module) -> Tensor:
    """The gradients that lie at a module's parameters, as one vector."""
    return flat(weight.grad for weight in net.parameters())


def awake() -> None:
    """Make torch load what it loads when it is first asked for a derivative: part of the imports, for every tool."""
    torch.func.vmap(torch.func.grad(torch.square))(torch.ones(2))
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0).zero_grad()


def measured(compute: Callable[[], Tensor], found: Case, clock: Clock, tools: list[str], **facts: Any) -> None:
    """Time a meta-gradient, compare it with the truth, and print the line that the parent reads."""
    imports = facts.pop("import_mb", None) or peak_mb()
    started = time.perf_counter()
    grad = compute()
    first = time.perf_counter() - started
    counts = facts.pop("threads", (1,))
    taken, busy = {}, {}
    for count in counts:
        torch.set_num_threads(count)
        wall, processor = _milliseconds(compute)
        taken[str(count)], busy[str(count)] = round(wall, 4), round(processor, 4)
    clock.mark("measure")
    peak = peak_mb()  # before the truth is computed
    truth = _truth(found.to(torch.float64))
    off = float((grad.double() - truth).abs().max() / truth.abs().max())
    best = min(taken.values())
    found_facts = {"ms": best, "ms_by_threads": taken, "first_ms": round(1000 * first, 3), "off": off}
    found_facts["processor_ms"] = busy[str(counts[0])]
    say(clock, tools, **found_facts, import_mb=round(imports), work_mb=round(peak - imports, 1), **facts)


def _milliseconds(compute: Callable[[], Tensor]) -> tuple[float, float]:
    """The median time of a call, after some to warm up, by the clock and of the processor."""
    for _ in range(WARM_UP):
        compute()
    taken: list[float] = []
    busy: list[float] = []
    while len(taken) < LEAST or sum(taken) < SECONDS:
        start, begin = time.perf_counter(), time.process_time()
        compute()
        taken.append(time.perf_counter() - start)
        busy.append(time.process_time() - begin)
    return 1000 * statistics.median(taken), 1000 * statistics.median(busy)


def _truth(found: Case) -> Tensor:
    """The gradient of the mean query loss after adaptation, by a loop over tasks (q,)."""
    net = network().double()
    leaves = {name: weight.detach().requires_grad_(True) for name, weight in net.named_parameters()}
    total = torch.zeros((), dtype=torch.float64)
    for xs, ys, xq, yq in zip(found.xs, found.ys, found.xq, found.yq, strict=True):
        weights = dict(leaves)
        for _ in range(found.steps):
            loss = squared(torch.func.functional_call(net, weights, (xs,)), ys)
            slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            weights = {name: weights[name] - RATE * slope for name, slope in zip(weights, slopes, strict=True)}
        total = total + squared(torch.func.functional_call(net, weights, (xq,)), yq) / len(found.xs)
    return flat(torch.autograd.grad(total, list(leaves.values())))
