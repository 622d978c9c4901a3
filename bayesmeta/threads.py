"""How many threads torch uses inside one operation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["one_thread"]


@contextmanager
def one_thread() -> Iterator[None]:
    """One intra-op thread, in a `with` or as a decorator; the number is put back afterwards.

    Two threads that share small tensors on two busy cores wait for each other: densities, adaptation and
    prediction were 10 to 100 times slower by it. Chains and chunks are the parallelism.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
