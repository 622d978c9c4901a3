"""Saying what long work is doing: a line while a stage runs, nothing when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["stage"]


@contextmanager
def stage(text: str, progress: bool = True) -> Iterator[None]:
    """Show a spinner with this text on standard error, in a terminal or a notebook, while the block runs.

    Args:
        text: What is being done.
        progress: With False, and where output goes to a file, nothing is shown.
    """
    if not progress:
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield
