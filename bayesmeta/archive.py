"""Files of ours: plain arrays with a record beside them, in NumPy's ``.npz``, written whole and read without pickle.

So that opening a stranger's file runs no code, and an interruption in the midst of writing leaves the old file.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from bayesmeta.errors import BayesmetaError, FileFormatError, NotAvailableError

__all__ = ["Arrays", "read", "understood", "write", "written_whole"]

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]
RECORD = "record"  # the record's name among the arrays


@contextlib.contextmanager
def written_whole(target: Path, argument: str = "path") -> Iterator[Path]:
    """A path to write to, which takes the place of `target` when the block ends; one that fails leaves the old file.

    Args:
        target: The file.
        argument: How the user calls the path, for the error.

    Raises:
        NotAvailableError: The file cannot be written.
    """
    partial = target.with_name(target.name + ".part")
    try:
        yield partial
        partial.replace(target)
    except OSError as error:
        raise NotAvailableError(f"{argument}: cannot write {str(target)!r}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def write(
    path: str | PathLike[str],
    kind: str,
    record: Mapping[str, Any],
    arrays: Mapping[str, npt.NDArray[Any]],
    *,
    argument: str = "path",
    compress: bool = False,
) -> None:
    """Write a file, replacing an older one whole.

    Args:
        path: The file; folders on the way are made.
        kind: What it is, with a number that is raised when it changes: ``"bayesmeta learner 1"``.
        record: What JSON can hold.
        arrays: The rest, by name.
        argument: How the user calls the path, for the error.
        compress: Smaller, and slower.

    Raises:
        NotAvailableError: The file cannot be written.
    """
    everything: dict[str, Any] = {RECORD: np.array(json.dumps({"format": kind, **record})), **arrays}
    with written_whole(Path(path), argument) as partial:
        partial.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            (np.savez_compressed if compress else np.savez)(file, **everything)


def read(path: str | PathLike[str], kind: str, what: str, *, argument: str = "path") -> tuple[dict[str, Any], Arrays]:
    """The record and the arrays of a file.

    Args:
        path: The file.
        kind: The `kind` that it must have been written as.
        what: The same in words, for the error: ``"a learner"``.
        argument: How the user calls the path, for the error.

    Raises:
        NotAvailableError: There is no such file.
        FileFormatError: The file is something else.
    """
    if not Path(path).is_file():
        raise NotAvailableError(f"{argument}: there is no file {str(path)!r}")
    with understood(path, what, argument=argument):
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        record = json.loads(str(arrays.pop(RECORD)))
        if record["format"] != kind:
            raise FileFormatError(
                f"{argument}: {str(path)!r} has format {record['format']!r}, this version reads {kind!r}"
            )
    return record, arrays


@contextlib.contextmanager
def understood(path: str | PathLike[str], what: str, *, argument: str = "path") -> Iterator[None]:
    """Where a file is taken apart: whatever is missing or odd in it is said as a FileFormatError."""
    try:
        yield
    except BayesmetaError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile) as error:
        raise FileFormatError(
            f"{argument}: {str(path)!r} is not {what} saved by bayesmeta ({type(error).__name__}: {error}): name "
            "another file"
        ) from error
