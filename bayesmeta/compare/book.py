"""What was found so far, in memory and in a file, so that a comparison goes on where it stopped."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from bayesmeta.diagnose.comparison import Cell, Comparison
from bayesmeta.errors import BayesmetaWarning, FileFormatError, NotAvailableError

__all__ = ["Book"]

NOTES = 3  # of one learner at one number of shots
Key = tuple[str, int]


class Book:
    """Cells by learner and number of shots.

    Args:
        identities: What each learner is known by again; None for what is not.
        supports: Fingerprints of what is adapted on, by number of shots.
        record: What else must agree for cells to belong together, plain data.
        train_seconds: What learning took, by name.
        path: The file, read where it exists; None for none.

    Raises:
        FileFormatError: The file holds something else, or a comparison on other tasks.
    """

    def __init__(
        self,
        identities: Mapping[str, str | None],
        supports: Mapping[int, str],
        record: Mapping[str, Any],
        train_seconds: Mapping[str, float],
        path: str | PathLike[str] | None,
    ) -> None:
        self.identities, self.shots = dict(identities), tuple(supports)
        self.train_seconds = dict(train_seconds)
        self.cells: dict[Key, Cell] = {}
        self.failed: dict[Key, str] = {}
        self.notes: dict[Key, list[str]] = {}
        self._record = {**record, "supports": {str(k): text for k, text in supports.items()}}
        self._before = Comparison({}, (), ())  # what a file has besides
        self._path = None if path is None else Path(path)
        if self._path is not None and self._path.exists():
            self._read(Comparison.load(self._path))

    def missing(self) -> list[Key]:
        """What is still to be made, one learner after the other."""
        return [key for key in self._wanted() if key not in self.cells and key not in self.failed]

    def enter(self, name: str, shots: int, cell: Cell, said: list[str]) -> None:
        """Take in what was found, and write it to the file."""
        self.cells[name, shots] = cell
        if said:
            self.notes[name, shots] = said[:NOTES]
        if self._path is not None:
            try:
                self._whole().save(self._path)
            except NotAvailableError as error:
                warnings.warn(f"{error}; the comparison goes on without it", BayesmetaWarning, stacklevel=2)
                self._path = None

    def fail(self, name: str, shots: int, reason: str) -> None:
        """Take in why nothing was found: not kept in the file, to be tried again."""
        self.failed[name, shots] = " ".join(reason.split())

    def comparison(self) -> Comparison:
        """What there is of what was asked for."""
        cells = {key: self.cells[key] for key in self._wanted() if key in self.cells}
        notes = {key: self.notes[key] for key in cells if key in self.notes}
        record = {**self._record, "learners": self.identities}
        return Comparison(cells, tuple(self.identities), self.shots, self.train_seconds, self.failed, notes, record)

    def _wanted(self) -> list[Key]:
        return [(name, shots) for name in self.identities for shots in self.shots]

    def _whole(self) -> Comparison:
        """What there is, together with what the file had of other learners and numbers of shots."""
        now, before = self.comparison(), self._before
        return Comparison(
            {**before.cells, **now.cells},
            tuple(dict.fromkeys([*before.learners, *now.learners])),
            tuple(sorted({*before.shots, *now.shots})),
            {**before.train_seconds, **now.train_seconds},
            {},
            {**before.notes, **now.notes},
            {
                **self._record,
                "supports": {**before.record.get("supports", {}), **self._record["supports"]},
                "learners": {**before.record.get("learners", {}), **self.identities},
            },
        )

    def _read(self, found: Comparison) -> None:
        """Take over what a file has of the same tasks, but for learners that have changed since."""
        supports, learners = found.record.get("supports", {}), found.record.get("learners", {})
        odd = [name for name, value in self._record.items() if name != "supports" and found.record.get(name) != value]
        if any(supports.get(k, text) != text for k, text in self._record["supports"].items()):
            odd.append("support")
        if odd:
            raise FileFormatError(
                f"path: {str(self._path)!r} holds a comparison with another {', '.join(odd)}: name another file"
            )
        changed = {name for name, value in self.identities.items() if value is None or learners.get(name) != value}
        self._before = Comparison(
            {key: cell for key, cell in found.cells.items() if key[0] not in changed},
            tuple(name for name in found.learners if name not in changed),
            found.shots,
            found.train_seconds,
            {},
            {key: lines for key, lines in found.notes.items() if key[0] not in changed},
            found.record,
        )
        wanted = set(self._wanted())
        self.cells = {key: cell for key, cell in self._before.cells.items() if key in wanted}
        self.notes = {key: list(lines) for key, lines in self._before.notes.items() if key in wanted}
