"""What is known of a data set, and the check that a frame is that data set."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from bayesmeta.errors import FileFormatError

__all__ = ["Entry", "checked"]


@dataclass(frozen=True)
class Entry:
    """A data set in words and counts.

    Attributes:
        name: the name it is loaded by.
        title: one line.
        columns: what each column holds, in the frame's order.
        task: the column that says which task a row belongs to.
        n_rows: the number of rows.
        n_tasks: the number of tasks.
        source: where the numbers were taken from.
        licence: the terms they come under.
        citation: what to cite.
        note: what a careful user should know; empty if there is nothing.
        n_empty: the number of empty cells, which are NaN in the frame.
    """

    name: str
    title: str
    columns: Mapping[str, str]
    task: str
    n_rows: int
    n_tasks: int
    source: str
    licence: str
    citation: str
    note: str = ""
    n_empty: int = 0

    def text(self) -> str:
        """The entry for a reader."""
        columns = [f"  {column}: {meaning}" for column, meaning in self.columns.items()]
        facts = {"source": self.source, "licence": self.licence, "cite": self.citation, "note": self.note}
        return "\n".join(
            [
                f"{self.name}: {self.title}",
                f"{self.n_rows:,} rows, {self.n_tasks:,} tasks ({self.task})",
                *columns,
                *(textwrap.fill(f"{key}: {fact}", 100, subsequent_indent="  ") for key, fact in facts.items() if fact),
            ]
        )


def checked(frame: pd.DataFrame, entry: Entry, where: str) -> pd.DataFrame:
    """The frame, if its columns, rows and tasks are those of the entry; `where` names the file."""
    wanted = {
        "columns": list(entry.columns),
        "rows": entry.n_rows,
        "tasks": entry.n_tasks,
        "empty cells": entry.n_empty,
    }
    got = {
        "columns": list(frame.columns),
        "rows": len(frame),
        "tasks": frame[entry.task].nunique() if entry.task in frame else 0,
        "empty cells": int(frame.isna().to_numpy().sum()),
    }
    for what, value in wanted.items():
        if got[what] != value:
            raise FileFormatError(
                f"{where} is not the data set {entry.name!r}: {what}: got {got[what]}, wanted {value}. "
                "Replace the file by an unchanged copy"
            )
    return frame
