"""The results on disk: rows are saved one by one, so that an interrupted run goes on where it was."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["SCHEMA", "Store", "machine"]

SCHEMA = 1
Row = dict[str, Any]


@dataclass
class Store:
    """The rows of a file, and what was left out and why.

    Attributes:
        path: the JSON file.
        rows: measurements; (problem, tool, cache, repeat) names one.
        left_out: "tool on problem": the reason.
    """

    path: Path
    rows: list[Row] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> Store:
        """What the file holds; an empty store if there is none.

        Raises:
            ValueError: the file was written by another version of the benchmark.
        """
        if not path.exists():
            return cls(path)
        held = json.loads(path.read_text())
        if held.get("schema") != SCHEMA:
            raise ValueError(f"{path} has schema {held.get('schema')}, this is {SCHEMA}; move it away")
        return cls(path, held["rows"], held["left_out"])

    def forget(self, which: Callable[[Row], bool]) -> None:
        """Drop the rows for which `which` is true."""
        self.rows = [row for row in self.rows if not which(row)]

    def find(self, **key: Any) -> list[Row]:
        """The rows that have all of these values."""
        return [row for row in self.rows if all(row.get(name) == value for name, value in key.items())]

    def add(self, row: Row) -> None:
        """Put a row in the place of the one with its key, and save."""
        key = {name: row[name] for name in ("problem", "tool", "cache", "repeat")}
        known = self.find(**key)
        self.forget(lambda row: row in known)
        self.rows.append(row)
        self.save()

    def save(self) -> None:
        """Write all of it; the old file stays whole until the new one is."""
        content = {"schema": SCHEMA, "machine": machine(), "left_out": self.left_out, "rows": self.rows}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".tmp")
        draft.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        draft.replace(self.path)


def machine() -> dict[str, Any]:
    """Processor, cores, memory, Python: what the seconds depend on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": ".".join(str(part) for part in sys.version_info[:3]),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
