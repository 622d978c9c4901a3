"""Checkpoints of training: one file of plain arrays, from which it goes on as if it had never stopped.

The file is NumPy's ``.npz``, without pickle: opening one runs no code. It is written beside the old one and then put
in its place, so that there is a whole one at any time. What it belongs to stands in it: the hierarchy, the tasks,
the settings and the seed; another run will not go on from it.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesmeta import archive
from bayesmeta.errors import FileFormatError
from bayesmeta.fingerprint import differences
from bayesmeta.infer.ensemble_train import History, State

__all__ = ["read", "write"]

FORMAT, WHAT = "bayesmeta ensemble 1", "a checkpoint of training"


def write(path: Path, state: State, history: History, run: dict[str, Any]) -> None:
    """Write a checkpoint.

    Args:
        path: The file, replaced as a whole.
        state: Where training stands.
        history: What was watched until then.
        run: What the file belongs to, plain data.

    Raises:
        NotAvailableError: The file cannot be written.
    """
    members = len(state.u)
    arrays: dict[str, Any] = {item.name: np.asarray(getattr(state, item.name)) for item in fields(State)}
    arrays["evidence"] = _stacked(history.evidence, members)
    arrays["validation"] = _stacked(history.validation, members)
    arrays["looks"] = np.array(history.looks, dtype=np.int64)
    archive.write(path, FORMAT, run, arrays, argument="checkpoint")


def read(path: Path, run: dict[str, Any]) -> tuple[State, History] | None:
    """The checkpoint in a file, None where there is no file.

    Raises:
        FileFormatError: The file is no checkpoint, or one of another run.
    """
    if not path.exists():
        return None
    run = json.loads(json.dumps(run))
    record, arrays = archive.read(path, FORMAT, WHAT, argument="checkpoint")
    with archive.understood(path, WHAT, argument="checkpoint"):
        history = History(_rows(arrays["evidence"]), _rows(arrays["validation"]), arrays["looks"].tolist())
        state = State(**{item.name: _value(arrays[item.name]) for item in fields(State)})
        wrong = _differences(record, run)
    if wrong:
        raise FileFormatError(
            f"checkpoint: {str(path)!r} belongs to another run: {'; '.join(wrong)}. Delete it, or name another file"
        )
    return state, history


def _differences(record: dict[str, Any], run: dict[str, Any]) -> list[str]:
    """What differs between the run that a file is of and this one, a few words each."""
    if record["tasks"] != run["tasks"]:
        return ["the tasks are others"]
    wrong = differences(record["hierarchy"], run["hierarchy"]) if "hierarchy" in run else []
    for name, value in run["settings"].items():
        before = record["settings"].get(name)
        if before != value:
            wrong.append(f"{name} was {before!r} and is {value!r}")
    return wrong


def _stacked(values: list[Tensor], members: int) -> Any:
    return torch.stack(values).numpy() if values else np.zeros((0, members))


def _rows(values: Any) -> list[Tensor]:
    return list(torch.from_numpy(values))


def _value(array: Any) -> Any:
    return torch.from_numpy(array) if array.ndim else int(array)
