"""A folder of images as an image set: each folder that has images in it is a class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bayesmeta.data.images import Images
from bayesmeta.errors import DataError, OptionError
from bayesmeta.track import bar

__all__ = ["image_folder"]

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MODES = {1: "L", 3: "RGB"}
DEEP = ("I", "F")  # what modes of more than 8 bits begin with


def image_folder(
    path: str | os.PathLike[str], *, size: int | tuple[int, int], channels: int = 3, progress: bool = True
) -> Images:
    """Images in folders, one folder for each class.

    A class is a folder with images in it, at any depth, and has its path as its name: ``birds/robin``. Images are
    turned as their camera says, cut to the proportions of `size` about their middle, and brought to it. What does not
    end like an image, or is hidden, is left alone.

    Args:
        path: The folder.
        size: Side in pixels, or (height, width).
        channels: 3 for colours, 1 for grey.
        progress: Show a progress bar.

    Raises:
        DataError: No such folder, no image in it, or a file that cannot be read as one of 8 bits a colour.
        OptionError: A size or number of channels that cannot be.

    Example:
        >>> images = image_folder("photos", size=84)  # doctest: +SKIP
        >>> train, validation, test = images.split(0.6, 0.2)  # doctest: +SKIP
    """
    height, width = _sides(size)
    if channels not in MODES:
        raise OptionError(f"channels must be 1 for grey or 3 for colours, got {channels!r}")
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root} is no folder; wanted one with a folder of images for each class")
    files = sorted(file for file in root.rglob("*") if _is_image(file.relative_to(root)) and file.is_file())
    if not files:
        raise DataError(f"{root} has no images in folders of it; wanted a folder for each class, with files {ENDINGS}")
    with bar("reading images", len(files), progress) as step:
        pixels = np.empty((len(files), height, width, channels), np.uint8)
        for k, file in enumerate(files):
            pixels[k] = _read(file, (width, height), MODES[channels]).reshape(height, width, channels)
            step()
    labels = [file.parent.relative_to(root).as_posix() for file in files]
    return Images.from_arrays(pixels.transpose(0, 3, 1, 2), labels, title=f"images of {root.name}")


def _sides(size: object) -> tuple[int, int]:
    """Height and width."""
    sides = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list | tuple) else ()
    if len(sides) != 2 or any(not isinstance(side, int) or isinstance(side, bool) or side < 1 for side in sides):
        raise OptionError(f"size must be a side in pixels, at least 1, or (height, width), got {size!r}")
    return sides[0], sides[1]


def _is_image(file: Path) -> bool:
    """By its name, for a path within the folder."""
    hidden = any(part.startswith(".") for part in file.parts)
    return len(file.parts) > 1 and file.suffix.lower() in ENDINGS and not hidden


def _read(file: Path, size: tuple[int, int], mode: str) -> npt.NDArray[Any]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            if image.mode.startswith(DEEP):
                raise DataError(f"{file} has more than 8 bits a colour ({image.mode}); save it with 8")
            upright = ImageOps.exif_transpose(image).convert(mode)
            return np.asarray(ImageOps.fit(upright, size, Image.Resampling.BILINEAR))
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{file} cannot be read as an image ({error}); repair it, or take it out") from error
