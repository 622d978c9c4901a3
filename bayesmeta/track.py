"""Saying what long work is doing: a line or a bar while it goes on, nothing when it is done.

In a terminal by rich. In a notebook by one output that is written over and empty in the end: rich would leave blank
lines behind there, and ask for ipywidgets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any, Protocol

__all__ = ["Step", "bar", "stage", "steps_to"]

BETWEEN = 0.1  # seconds between two looks of a bar in a notebook


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
    from rich.text import Text

    console = Console(stderr=True)
    if console.is_jupyter:
        with _written_over() as write:
            write(f"{escape(text)} …")
            yield
        return
    with console.status(Text(text)):
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

    console = Console(stderr=True)
    if console.is_jupyter:
        with _written_over() as write:
            yield _notebook_bar(text, total, write)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(text, total=total)

        def step(by: int = 1, text: str | None = None) -> None:
            shown.update(task, advance=by, **({} if text is None else {"description": text}))  # type: ignore[arg-type]

        yield step


@contextmanager
def _written_over() -> Iterator[Callable[[str], None]]:
    """An output of a notebook that takes HTML in place of what it showed, and is empty when the block is done."""
    from IPython import display

    shown: Any = display.display(display.HTML(""), display_id=True)
    try:
        yield lambda html: shown.update(display.HTML(html))
    finally:
        shown.update(display.HTML(""))


def _notebook_bar(text: str, total: int, write: Callable[[str], None]) -> Step:
    """A step that redraws a bar, now and then."""
    done, label, due = 0, text, 0.0

    def step(by: int = 1, text: str | None = None) -> None:
        nonlocal done, label, due
        done, label = done + by, label if text is None else text
        if (now := time.monotonic()) >= due:
            due = now + BETWEEN
            write(f'{escape(label)} <progress value="{done}" max="{total}"></progress> {done:,}/{total:,}')

    step(0)
    return step


def steps_to(step: Step) -> Callable[[int, str], None]:
    """Moves a bar on to a number of steps in all, with a text."""
    before = 0

    def watch(done: int, text: str) -> None:
        nonlocal before
        step(done - before, text)
        before = done

    return watch


def _nothing(by: int = 1, text: str | None = None) -> None:
    pass
