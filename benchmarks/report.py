"""Medians of the repeats, as tables for the terminal and for a page of markdown."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.store import Store, machine

__all__ = ["Sheet", "as_text", "at", "markdown", "medians", "number", "of", "remarks", "show"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Sheet:
    """A table before it is drawn: every cell is text."""

    title: str
    header: tuple[str, ...]
    rows: list[list[str]]


def medians(store: Store) -> list[Row]:
    """One row for each (problem, tool, cache): medians of what is a number, the first of what is not."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in store.rows:
        if row["ok"]:
            groups.setdefault((row["problem"], row["tool"], row["cache"]), []).append(row)
    return [_median(rows) for rows in groups.values()]


def _median(rows: list[Row]) -> Row:
    merged: Row = {"runs": len(rows)}
    for name in rows[0]:
        values = [row.get(name) for row in rows]
        numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
        merged[name] = statistics.median(numbers) if len(numbers) == len(values) else values[0]
    return merged


def of(rows: list[Row], problem: str, tool: str) -> list[Row]:
    """The rows of a tool on a problem."""
    return [row for row in rows if row["problem"] == problem and row["tool"] == tool]


def at(rows: list[Row], problem: str, tool: str, cache: str) -> Row | None:
    """The row with the cache in this state, if there is one."""
    return next((row for row in of(rows, problem, tool) if row["cache"] == cache), None)


def number(value: Any) -> str:
    """Three figures or so, without exponents."""
    if value is None:
        return "–"
    if isinstance(value, str) or value == int(value):
        return f"{value:,.0f}" if not isinstance(value, str) else value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def show(pages: list[Sheet], store: Store, console: Console) -> None:
    """Draw the tables on the terminal, with what was left out and what failed."""
    for page in pages:
        table = Table(title=page.title, title_justify="left")
        for i, name in enumerate(page.header):
            table.add_column(name, justify="left" if i < 2 else "right")
        for line in page.rows:
            table.add_row(*line)
        console.print(table)
    for remark in remarks(store):
        console.print(f"- {remark}", markup=False)


def remarks(store: Store) -> list[str]:
    """What was left out, what failed, and whether the machine was quiet."""
    lines = [f"Left out: {name}: {reason}" for name, reason in store.left_out.items()]
    failed = [row for row in store.rows if not row["ok"]]
    lines += [f"Failed: {row['tool']} on {row['problem']}, cache {row['cache']}: {row['error']}" for row in failed]
    busy = [row.get("busy_before") or 0.0 for row in store.rows]
    if busy and max(busy) > 0.15:
        share = sum(value > 0.15 for value in busy)
        lines.append(f"The machine was not quiet: others kept it busy before {share} of {len(busy)} runs.")
    return lines


def as_text(page: Sheet) -> str:
    """The table in markdown."""
    ruler = ["---"] * 2 + ["---:"] * (len(page.header) - 2)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (page.header, ruler, *page.rows))


def markdown(pages: list[Sheet], store: Store, title: str, command: str, notes: str) -> str:
    """The same tables as a page, with the command, the machine and the versions."""
    parts = [f"# {title}", f"Made by `{command}`.", notes]
    for page in pages:
        parts.append(f"## {page.title}\n\n{as_text(page)}")
    found = remarks(store)
    if found:
        parts.append("## Remarks\n\n" + "\n".join(f"- {line}" for line in found))
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine().items())
    parts.append(f"## Machine and versions\n\n{facts}.\n\n{_versions(store)}.")
    return "\n\n".join(parts) + "\n"


def _versions(store: Store) -> str:
    versions: dict[str, str] = {}
    for row in store.rows:
        versions |= row.get("versions", {})
    return ", ".join(f"{name} {versions[name]}" for name in sorted(versions))
