"""Data that does not come with the package: from the folder BAYESMETA_DATA names, or fetched once and cached.

A data set has one file in that folder, and, where its bytes are known, one original on the web at a fixed
commit. Each is read only if its SHA-256 is the registered one, and both give the same frame.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bayesmeta.data.entry import Entry, checked
from bayesmeta.errors import FileFormatError, NotAvailableError

__all__ = ["FOLDER", "Remote", "Source", "cache_folder", "fetch", "registered", "retrieved", "roads"]

FOLDER = "BAYESMETA_DATA"


@dataclass(frozen=True)
class Source:
    """One file.

    Attributes:
        location: a path inside the data folder, or a URL.
        sha256: the file's checksum.
        read: how its text becomes the data set's frame.
    """

    location: str
    sha256: str
    read: Callable[[Path], pd.DataFrame]


@dataclass(frozen=True)
class Remote:
    """A data set outside the package: its file in the data folder, and its original if that is known."""

    entry: Entry
    folder: Source
    original: Source | None = None


def fetch(remote: Remote) -> pd.DataFrame:
    """The data set, from the data folder if it is there, else from the cache, else from its original."""
    folder = os.environ.get(FOLDER)
    path = Path(folder) / remote.folder.location if folder else None
    if path is not None and path.is_file():
        source = remote.folder
        registered(path, remote.entry.name, source.sha256)
    elif remote.original is not None:
        source = remote.original
        path = retrieved(remote.entry.name, source.location, source.sha256, remote.folder.location)
    else:
        raise NotAvailableError(
            f"data set {remote.entry.name!r} is only read from a folder: set {FOLDER} to one that holds "
            f"{remote.folder.location} (got {FOLDER}={folder!r}); no original with a known checksum is "
            "registered"
        )
    return checked(source.read(path), remote.entry, str(path))


def roads(remote: Remote) -> str:
    """Where the data set is read from, in words."""
    folder = f"{remote.folder.location} in the folder {FOLDER} names (SHA-256 {remote.folder.sha256})"
    if remote.original is None:
        return f"{folder}, and from nowhere else: no original with a known checksum is registered"
    original = f"{remote.original.location} (SHA-256 {remote.original.sha256})"
    return f"{folder}; else {original}, kept in {cache_folder()}"


def cache_folder() -> Path:
    """Where fetched files are kept."""
    import pooch

    return Path(pooch.os_cache("bayesmeta"))


def registered(path: Path, name: str, sha256: str) -> None:
    """Raise a FileFormatError unless a file of the data folder is the one that was registered."""
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise FileFormatError(
            f"{path} is not the registered file of data set {name!r}: its SHA-256 is not {sha256}. Replace it by an "
            f"unchanged copy, or unset {FOLDER}"
        )


def retrieved(name: str, location: str, sha256: str, file: str) -> Path:
    """The original of a data set in the cache, fetched if it is not there yet.

    Args:
        name: The data set.
        location: The original's URL.
        sha256: Its checksum.
        file: The path inside the data folder that would do instead.

    Raises:
        FileFormatError: What came is not the registered file.
        NotAvailableError: It is out of reach.
    """
    import pooch  # here, because few need it and it loads an HTTP client

    try:
        file = pooch.retrieve(
            location,
            known_hash=f"sha256:{sha256}",
            fname=f"{name}-{sha256[:12]}{Path(location).suffix}",
            path=cache_folder(),
        )
    except ValueError as error:
        raise FileFormatError(
            f"{location} is not the registered original of data set {name!r}: its SHA-256 is not "
            f"{sha256}. It was not kept; try again, and report it if it happens twice"
        ) from error
    except OSError as error:  # requests' errors are OSErrors
        raise NotAvailableError(
            f"data set {name!r} could not be fetched from {location} ({type(error).__name__}: "
            f"{error}). "
            f"Either connect and try again (it is then kept in {cache_folder()}), or set {FOLDER} to a "
            f"folder that holds {file}"
        ) from error
    return Path(file)
