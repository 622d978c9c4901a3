"""How `Tasks` show themselves: a small table, as text and as HTML."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from bayesmeta.tasks import Tasks

__all__ = ["as_html", "as_text"]


def as_text(tasks: Tasks) -> str:
    """A title line and one line per fact."""
    rows = _rows(tasks)
    width = max(len(label) for label, _ in rows)
    return "\n".join([_title(tasks), *(f"  {label:<{width}}  {value}" for label, value in rows)])


def as_html(tasks: Tasks) -> str:
    """The same as an HTML table; names come from the user, so everything is escaped."""
    cells = "".join(
        f"<tr><th style='text-align:left'>{html.escape(label)}</th>"
        f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
        for label, value in _rows(tasks)
    )
    return f"<table><caption>{html.escape(_title(tasks))}</caption><tbody>{cells}</tbody></table>"


def _title(tasks: Tasks) -> str:
    return f"Tasks: {_count(len(tasks), 'task')}, {_count(tasks.n_observations, 'observation')}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _rows(tasks: Tasks) -> list[tuple[str, str]]:
    sizes = tasks.sizes
    columns = tasks.columns
    rows = [
        ("names", _names(tasks.names)),
        ("sizes", f"min {int(sizes.min())}, median {np.median(sizes.numpy()):g}, max {int(sizes.max())}"),
        ("x", _row_shape(tasks.x, columns.x if columns else None)),
        ("y", _row_shape(tasks.y, columns.y if columns else None)),
    ]
    for name, values in tasks.context.items():
        rows.append((f"context {name}", _row_shape(values, None, per="task")))
    return rows


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])}, ..., {names[-1]}"


def _row_shape(values: Tensor, names: str | tuple[str, ...] | None, per: str = "observation") -> str:
    """One row's shape in words, and the columns it came from."""
    shape = tuple(values.shape[1:])
    if shape == (0,):
        return "none"
    words = f"a number per {per}"
    if shape:
        words = f"{' x '.join(map(str, shape))} number{'' if shape == (1,) else 's'} per {per}"
    if not names:
        return words
    return f"{names if isinstance(names, str) else ', '.join(names)} ({words})"
