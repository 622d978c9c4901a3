"""A CSV file of observations: its cells as they are written, and the numbers among them that a fit asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd

from bayesmeta.arrays import as_text
from bayesmeta.columns import Columns
from bayesmeta.errors import DataError

__all__ = ["Table", "read_table"]

Cells: TypeAlias = "pd.Series[str]"

_EMPTY = ["", "NA", "NaN", "nan"]  # what counts as empty in a column of numbers
_WORDS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Table:
    """A table, each row labelled by its line in the file.

    Attributes:
        cells: All columns as text, letter by letter.
        numbers: The columns of a fit as numbers, NaN where empty; that of the task as text, unless it is a number too.
        columns: How these are used.
    """

    cells: pd.DataFrame
    numbers: pd.DataFrame
    columns: Columns

    @property
    def tasks(self) -> pd.Series[str]:
        """The name of each row's task."""
        return self.numbers[self.columns.task].map(as_text)

    @property
    def unknown(self) -> pd.Series[bool]:
        """Which rows have no response."""
        return self.numbers[self.columns.y].isna()


def read_table(path: Path, columns: Columns) -> Table:
    """Read a CSV file.

    Args:
        path: The file.
        columns: The columns that a fit asks for; a file without one of them is left to who takes tasks from it.

    Raises:
        DataError: It cannot be read, or has something else than a number where one is wanted; the message names the
            line.
    """
    roles = (columns.y, *columns.inputs, *columns.context)
    try:
        cells = pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False)
        read = pd.read_csv(path, na_values=_EMPTY, keep_default_na=False, skip_blank_lines=False, low_memory=False)
    except (OSError, ValueError) as error:
        raise DataError(f"--data: cannot read {str(path)!r} as CSV: {error}") from error
    if not isinstance(cells.index, pd.RangeIndex):
        raise DataError(
            f"--data: the rows of {str(path)!r} have more cells than its first line has names: name every column, or "
            "take commas at the end of lines away"
        )
    lines = pd.RangeIndex(2, len(cells) + 2)  # without a name that a column may have
    cells.index, read.index = lines, lines
    written = cells.apply(lambda column: column.str.strip() != "").any(axis=1)
    cells, read = cells[written], read[written]
    numbers = {name: _as_numbers(cells[name], read[name], path) for name in roles if name in cells}
    if columns.task in cells and columns.task not in numbers:
        numbers[columns.task] = cells[columns.task].mask(cells[columns.task].str.strip() == "")
    return Table(cells, pd.DataFrame(numbers, index=cells.index), columns)


def _as_numbers(cells: Cells, read: pd.Series[float], path: Path) -> pd.Series[float]:
    """A column as pandas reads numbers, so that they are those of a fit to the same file; words for truth are 1 and 0.

    Args:
        cells: Its text.
        read: The same, as pandas read it.
        path: The file, for the error.
    """
    if pd.api.types.is_numeric_dtype(read.dtype) and not pd.api.types.is_bool_dtype(read.dtype):
        return read.astype(np.float64)
    text = cells.str.strip()
    empty = text.isin(_EMPTY)
    words = text.str.lower().map(_WORDS)
    values = words.where(words.notna(), pd.to_numeric(text.mask(empty), errors="coerce")).astype(np.float64)
    bad = values.isna() & ~empty
    if bad.any():
        line = int(cells.index[int(bad.to_numpy().argmax())])
        raise DataError(
            f"--data: {str(path)!r} has {text.loc[line]!r} in column {cells.name!r}, line {line} ({int(bad.sum())} "
            "lines in all); wanted a number, true or false, or nothing where it is to be predicted"
        )
    return values
