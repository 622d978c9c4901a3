"""Saying what long work is doing: a line or a bar while it goes on, nothing when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Step", "bar", "stage"]


class Step(Protocol):
    """Moves a bar on."""

    def __call__(self, by: int = 1, text: str | None = None) -> None:
        """By so many steps, with another text in front if given."""


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


@contextmanager
def bar(text: str, total: int, progress: bool = True) -> Iterator[Step]:
    """Show a bar with this text on standard error, in a terminal or a notebook, while the block runs.

    Args:
        text: What is being done.
        total: Steps in all.
        progress: With False, and where output goes to a file, nothing is shown.
    """
    if not progress:
        yield _nothing
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(text, total=total)

        def step(by: int = 1, text: str | None = None) -> None:
            shown.update(task, advance=by, **({} if text is None else {"description": text}))  # type: ignore[arg-type]

        yield step


def _nothing(by: int = 1, text: str | None = None) -> None:
    pass
