"""The demonstration on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from bayesmeta.demo import tables
from bayesmeta.demo.result import Result

__all__ = ["show"]


def show(result: Result, console: Console | None = None) -> None:
    """Print the tables, how to read them, and how long each part took."""
    console = console or Console()
    for table in (tables.examples(result), tables.scores(result)):
        console.print(_rich(table))
    for sentence in (tables.reading(result), *tables.timing(result)):
        console.print(sentence, markup=False, highlight=False)


def _rich(table: tables.Table) -> RichTable:
    shown = RichTable(title=escape(table.title), title_justify="left", title_style="bold")
    for k, heading in enumerate(table.head):
        shown.add_column(escape(heading), justify="right" if k in table.numbers else "left")
    for row in table.rows:
        shown.add_row(*(escape(cell) for cell in row))
    return shown
