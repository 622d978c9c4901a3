"""Functions of φ over many draws at once: `torch.func.vmap` over draws, in chunks of bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesmeta.program import Program, stacked
from bayesmeta.sites import quiet_pyro
from bayesmeta.threads import one_thread

__all__ = ["chunk_size", "flatten_draws", "mapped", "over_draws"]

CHUNK_NUMBERS = 2_000_000


def chunk_size(numbers_per_draw: int) -> int:
    """How many draws to evaluate at once, so that intermediate tensors stay near `CHUNK_NUMBERS` numbers."""
    return max(1, CHUNK_NUMBERS // max(1, numbers_per_draw))


def over_draws(
    program: Program,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    chunk: int,
    *,
    randomness: str = "error",
) -> Any:
    """`fn` over the leading axis of `args` (pytrees of tensors), chunk by chunk, results concatenated."""
    leaves, spec = pytree.tree_flatten(args)
    count = leaves[0].shape[0]
    parts = []
    with one_thread(), quiet_pyro(), torch.no_grad():
        for start in range(0, count, chunk):
            part = [leaf[start : start + chunk] for leaf in leaves]
            parts.append(mapped(program, fn, pytree.tree_unflatten(part, spec), randomness))
    columns = zip(*(pytree.tree_flatten(part)[0] for part in parts), strict=True)
    joined = [torch.cat(list(column)) for column in columns]
    return pytree.tree_unflatten(joined, pytree.tree_flatten(parts[0])[1])


def mapped(program: Program, fn: Callable[..., Any], args: tuple[Any, ...], randomness: str = "error") -> Any:
    """`fn` over the leading axis of `args` at once, or one after the other where the functions cannot be batched."""
    if program.structure.vectorised:
        return torch.func.vmap(fn, randomness=randomness)(*args)
    leaves, spec = pytree.tree_flatten(args)
    results = [fn(*pytree.tree_unflatten([leaf[i] for leaf in leaves], spec)) for i in range(leaves[0].shape[0])]
    return stacked(results)


def flatten_draws(values: Tensor) -> Tensor:
    """(chains, draws, ...) to (S, ...)."""
    return values.reshape(-1, *values.shape[2:])
