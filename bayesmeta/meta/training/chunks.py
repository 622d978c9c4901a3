"""Tasks a few at a time: as many as fit into memory go through one call, whatever their number is.

What a call keeps grows with its tasks: images times channels, times inner steps where a gradient goes through them. It
is measured on two tasks, by adding up the tensors that are alive at once; where two take more than the machine has,
that is said before they do.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from bayesmeta.errors import BayesmetaError
from bayesmeta.meta.module import Functional

__all__ = ["BUDGET", "at_once", "in_chunks", "parts", "peak_bytes"]

BUDGET = 2**29
"""Bytes that the tasks of one call may take together."""

MEASURED = 2  # tasks whose memory is measured: one alone takes other ways through some operations
SHARE = 0.6  # of the machine's memory that those two may take
AMPLE = 64  # times what goes in: what a call without convolutions takes at most, all but surely


def in_chunks(
    net: Functional,
    function: Callable[..., Any],
    args: Sequence[Any],
    kind: Hashable,
    *,
    chunk: int | None = None,
    out_dims: int = 0,
) -> Any:
    """`function` of each task, its results stacked, a few tasks at a time.

    Args:
        net: The network that it evaluates.
        function: From what belongs to one task to tensors.
        args: For all tasks: tensors (T, ...), or tuples and dicts of them.
        kind: What is done: what takes as much memory has the same name.
        chunk: Tasks of one call; by default as many as fit into `BUDGET`.
        out_dims: Where the axis of tasks goes.
    """
    size = at_once(net, torch.func.vmap(function), args, kind) if chunk is None else chunk
    return torch.func.vmap(function, out_dims=out_dims, chunk_size=max(1, size))(*args)


def at_once(net: Functional, function: Callable[..., Any], args: Sequence[Any], kind: Hashable) -> int:
    """How many tasks may go through one call of `function`, which takes what belongs to several tasks.

    Raises:
        BayesmetaError: Two tasks take more memory than the machine has.
    """
    leaves = tree_leaves(tuple(args))
    count = len(leaves[0])
    into = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
    held = sum(weight.numel() * weight.element_size() for weight in net.weights.values())
    if count < 2 or (not net.convolves and AMPLE * (into + count * held) <= BUDGET):
        return count
    key = (kind, *(leaf.shape[1:] for leaf in leaves))
    if key not in net.peaks:
        net.peaks[key] = peak_bytes(function, tree_map(lambda leaf: leaf[:MEASURED], tuple(args))) // MEASURED
    return min(count, max(1, BUDGET // max(1, net.peaks[key])))


def parts(count: int, chunk: int) -> list[slice]:
    """`count` tasks in parts of `chunk` at most, all but equal: of two sizes at most."""
    number = -(-count // max(1, chunk))
    ends = [count * k // number for k in range(number + 1)]
    return [slice(begin, end) for begin, end in pairwise(ends)]


def peak_bytes(function: Callable[..., Any], args: Sequence[Any]) -> int:
    """The most bytes that tensors made by a call were alive with at once.

    Raises:
        BayesmetaError: They are more than a share of the machine's memory.
    """
    with _Alive(SHARE * _memory()) as alive:
        function(*args)
    peak: int = alive.peak
    return peak


def _memory() -> float:
    """The machine's memory in bytes; infinite where the system does not say."""
    names = getattr(os, "sysconf_names", {})
    if not {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(names):
        return math.inf
    return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")


class _Alive(TorchDispatchMode):
    """Adds up the storages that operations make, and takes them off when they are gone; stops beyond `most` bytes."""

    def __init__(self, most: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._most = most
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return out

    def _add(self, storage: Any) -> None:
        name = storage._cdata
        if name in self._known:
            return
        self._known.add(name)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        if self.now > self._most:
            raise BayesmetaError(
                f"{MEASURED} tasks take more than {self._most / 2**30:.1f} GiB, {SHARE:.0%} of this machine's memory. "
                "Take fewer rows a task, a smaller network or recompute=True; or with LLAMA, of fewer weights: "
                "uncertain=('head',), with the name of the last layer"
            )
        weakref.finalize(storage, self._drop, name, size)

    def _drop(self, name: int, size: int) -> None:
        self._known.discard(name)
        self.now -= size
