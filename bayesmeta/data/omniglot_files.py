"""Omniglot: 1,623 characters of 50 alphabets, each drawn once by 20 people.

Lake, Salakhutdinov and Tenenbaum (2015), Human-level concept learning through probabilistic program induction,
Science 350, 1332-1338. Its authors part it into 964 characters of 30 background alphabets, to learn from, and 659 of 20
evaluation alphabets, to be judged by. The images come as drawings of 105 x 105 pixels, ink or paper; smaller ones
are the area average of the original, to 256 levels of grey, with ink as 1 and paper as 0.

Read from the folder that BAYESMETA_DATA names, or from the authors' zip files, which are fetched once.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bayesmeta.data.images import Images
from bayesmeta.data.remote import FOLDER, registered, retrieved
from bayesmeta.errors import FileFormatError, OptionError, unknown

__all__ = ["omniglot", "read_zip", "shrunk"]

Bytes = npt.NDArray[np.uint8]
SIDE = 105  # pixels of an original
DRAWERS = 20
TYPICAL = 28  # pixels: what the literature learns from
AT_ONCE = 1_000  # images
GREY = 128  # below it is ink
URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"


@dataclass(frozen=True)
class _Split:
    """Checksums of one half: of the two files that the data folder may have, and of the authors' zip."""

    small: str
    original: str
    zip: str


# The zips' checksums are those that TensorFlow Datasets registers (tensorflow_datasets/url_checksums/omniglot.txt).
SPLITS = {
    "background": _Split(
        "4d1019d76ca8ae09358bbbb5ff789582d86981f9460a3a39ffdb8f58c274bbe5",
        "989ac6aa58acb01f8fa002555b9d53b2d7d9f31b653c83ecb85c287b160a556e",
        "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
    ),
    "evaluation": _Split(
        "c54fa3366f4937724f021c2ed2bc47da7e6dfd5089b53981d0891a74da812ccb",
        "5f2c371ebbccde941121f18ea721b001c04f92b343149a26849a71fbde74de48",
        "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
    ),
}


def omniglot(split: Literal["background", "evaluation"] = "background", *, size: int = TYPICAL) -> Images:
    """Handwritten characters, 20 drawings of each: one half of Omniglot, images of size x size with ink as 1.

    Classes are named ``"Greek/character01"``, by alphabet and number.

    Args:
        split: ``"background"``, 964 characters of 30 alphabets, to learn from; ``"evaluation"``, 659 characters of 20
            others, to be judged by.
        size: Side in pixels, up to 105, which is that of the originals.

    Raises:
        OptionError: An unknown half, or a side out of range.
        FileFormatError: A file is not the registered one.
        NotAvailableError: The images are neither in the data folder nor within reach.
    """
    if split not in SPLITS:
        raise OptionError(unknown("split", split, SPLITS))
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= SIDE:
        raise OptionError(f"size must be a whole number of pixels from 1 to {SIDE}, got {size!r}")
    images, names = _read(split, size)
    labels = np.arange(len(names)).repeat(images.shape[1])
    pixels = images.reshape(-1, size, size)
    return Images.from_arrays(pixels, labels, names=names, title=f"Omniglot, {split} characters")


def _read(split: str, size: int) -> tuple[Bytes, list[str]]:
    """Images (characters, drawers, size, size) and the names of the characters."""
    files = SPLITS[split]
    small = f"omniglot/omniglot_{split}_{TYPICAL}x{TYPICAL}.npz"
    original = f"omniglot/omniglot_{split}_{SIDE}x{SIDE}_packbits.npz"
    found = _in_folder(small, files.small) if size == TYPICAL else None
    if found is not None:
        return found["images"], _names(found)
    found = _in_folder(original, files.original)
    if found is not None:
        bits = np.unpackbits(found["images_packed"], axis=-1, count=SIDE * SIDE)
        return shrunk(bits.reshape(*bits.shape[:2], SIDE, SIDE), size), _names(found)
    path = retrieved(f"omniglot-{split}", f"{URL}/images_{split}.zip", files.zip, original)
    drawings, names = read_zip(path)
    return shrunk(drawings, size), names


def _in_folder(location: str, sha256: str) -> dict[str, npt.NDArray[Any]] | None:
    """The arrays of a file in the data folder, if it is there."""
    folder = os.environ.get(FOLDER)
    path = Path(folder or ".") / location
    if not folder or not path.is_file():
        return None
    registered(path, "omniglot", sha256)
    with np.load(path) as arrays:
        return dict(arrays)


def _names(arrays: Mapping[str, npt.NDArray[Any]]) -> list[str]:
    pairs = zip(arrays["alphabet"], arrays["character"], strict=True)
    return [f"{alphabet}/{character}" for alphabet, character in pairs]


def shrunk(bits: Bytes, size: int) -> Bytes:
    """Drawings of zeros and ones (..., 105, 105) as grey images (..., size, size): the mean of what a pixel covers."""
    if size == SIDE:
        return bits * np.uint8(255)
    ends = np.arange(size + 1) * SIDE / size
    covered = np.minimum(ends[1:, None], np.arange(SIDE) + 1) - np.maximum(ends[:-1, None], np.arange(SIDE))
    share = np.clip(covered, 0, None) * size / SIDE
    flat = bits.reshape(-1, SIDE, SIDE)
    parts = [np.rint(255 * (share @ flat[k : k + AT_ONCE] @ share.T)) for k in range(0, len(flat), AT_ONCE)]
    return np.concatenate(parts).astype(np.uint8).reshape(*bits.shape[:-2], size, size)


def read_zip(path: Path) -> tuple[Bytes, list[str]]:
    """The drawings in one of the authors' zips, ink as 1 (characters, 20, 105, 105), and the characters' names.

    In it ``images_background/Greek/character01/0394_01.png`` is how the first person drew the first letter: characters
    come in the order of the first number, drawers in that of the second.

    Raises:
        FileFormatError: The file is no such zip.
    """
    from PIL import Image

    found: dict[str, dict[str, Bytes]] = {}
    names = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                parts = PurePosixPath(entry).parts
                if len(parts) == 4 and entry.endswith(".png"):
                    number, _, drawer = parts[3].removesuffix(".png").partition("_")
                    image = Image.open(io.BytesIO(archive.read(entry))).convert("L")
                    found.setdefault(number, {})[drawer] = (np.asarray(image) < GREY).astype(np.uint8)
                    names[number] = f"{parts[1]}/{parts[2]}"
    except (zipfile.BadZipFile, OSError) as error:
        raise FileFormatError(f"{path} is no zip of PNG images ({error}); delete it and try again") from error
    order = sorted(found)
    drawings = [found[number][drawer] for number in order for drawer in sorted(found[number])]
    if {len(drawn) for drawn in found.values()} != {DRAWERS} or {drawn.shape for drawn in drawings} != {(SIDE, SIDE)}:
        raise FileFormatError(
            f"{path} is not one of Omniglot's: wanted {DRAWERS} drawings of {SIDE} x {SIDE} pixels of each character"
        )
    return np.stack(drawings).reshape(-1, DRAWERS, SIDE, SIDE), [names[number] for number in order]
