"""A comparison as one file of plain arrays: NumPy's ``.npz``, without pickle, so that opening one runs no code."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from bayesmeta import archive
from bayesmeta.archive import Arrays
from bayesmeta.diagnose.classes import ClassScore
from bayesmeta.diagnose.comparison import Cell, Comparison, Scores
from bayesmeta.diagnose.metrics import Score
from bayesmeta.diagnose.ranks import Reliability

__all__ = ["read", "write"]

FORMAT, WHAT = "bayesmeta comparison 1", "a comparison"
SINGLE = ("reference", "replicates")  # many numbers, for bands in pictures: kept in single precision


def write(comparison: Comparison, path: str | PathLike[str]) -> None:
    """Write a comparison, replacing the file whole.

    Raises:
        NotAvailableError: The file cannot be written.
    """
    arrays: Arrays = {}
    cells = []
    for place, ((name, shots), cell) in enumerate(comparison.cells.items()):
        found, plain = _taken_apart(cell.score)
        arrays |= {f"{place}/{key}": value for key, value in found.items()}
        cells.append([name, shots, cell.adapt_ms, cell.seconds, plain])
    record = {
        "cells": cells,
        "learners": comparison.learners,
        "shots": comparison.shots,
        "train_seconds": dict(comparison.train_seconds),
        "failed": [[name, shots, reason] for (name, shots), reason in comparison.failed.items()],
        "notes": [[name, shots, list(lines)] for (name, shots), lines in comparison.notes.items()],
        "record": dict(comparison.record),
    }
    archive.write(path, FORMAT, record, arrays, compress=True)


def read(path: str | PathLike[str]) -> Comparison:
    """Open a comparison.

    Raises:
        NotAvailableError: There is no such file.
        FileFormatError: The file is something else.
    """
    record, arrays = archive.read(path, FORMAT, WHAT)
    with archive.understood(path, WHAT):
        return _comparison(record, arrays)


def _comparison(record: dict[str, Any], arrays: Arrays) -> Comparison:
    cells = {
        (name, shots): Cell(_put_together(_under(arrays, place), plain), adapt_ms, seconds)
        for place, (name, shots, adapt_ms, seconds, plain) in enumerate(record["cells"])
    }
    return Comparison(
        cells,
        tuple(record["learners"]),
        tuple(record["shots"]),
        record["train_seconds"],
        {(name, shots): reason for name, shots, reason in record["failed"]},
        {(name, shots): lines for name, shots, lines in record["notes"]},
        record["record"],
    )


def _under(arrays: Arrays, place: int) -> Arrays:
    """The arrays of one cell under their own names."""
    begin = f"{place}/"
    return {name.removeprefix(begin): value for name, value in arrays.items() if name.startswith(begin)}


def _taken_apart(score: Scores) -> tuple[Arrays, dict[str, Any]]:
    """A score as arrays and plain data."""
    tensors: dict[str, Tensor | None] = {}
    plain: dict[str, Any] = {
        "tasks": list(map(str, score.per_task.index)),
        "columns": list(map(str, score.per_task.columns)),
        "ece": [score.ece, score.ece_floor, score.ece_spread],
    }
    if isinstance(score, ClassScore):
        plain["classes"] = score.classes
    else:
        plain |= {"level": score.level, "promised": score.promised}
        tensors = {"pit": score.pit, "reference": score.reference}
    if score.reliability is not None:
        tensors |= score.reliability._asdict()
    arrays = {name: _kept(name, value) for name, value in tensors.items() if value is not None}
    return arrays | {"per_task": score.per_task.to_numpy(dtype=np.float64)}, plain


def _kept(name: str, value: Tensor) -> npt.NDArray[Any]:
    return (value.float() if name in SINGLE else value).numpy()


def _put_together(arrays: Arrays, plain: dict[str, Any]) -> Scores:
    """The score again."""
    index = pd.Index(plain["tasks"], name="task")
    per_task = pd.DataFrame(arrays["per_task"], index=index, columns=plain["columns"])
    per_task["n"] = per_task["n"].astype(np.int64)
    tensors = {name: torch.from_numpy(value).double() for name, value in arrays.items() if name != "per_task"}
    found = Reliability(*(tensors[name] for name in Reliability._fields)) if "replicates" in tensors else None
    ece, floor, spread = plain["ece"]
    if "classes" in plain:
        if found is None:
            raise KeyError("replicates")
        return ClassScore(per_task, ece, floor, spread, found, plain["classes"])
    promised = plain.get("promised", plain["level"])
    return Score(
        per_task, tensors["pit"], ece, floor, spread, plain["level"], tensors.get("reference"), found, promised
    )
