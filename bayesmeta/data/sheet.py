"""How image sets show themselves: a small table, and a contact sheet with a row of images for each of some classes."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from bayesmeta.data.images import Images

__all__ = ["as_html", "as_text", "contact_sheet"]

CLASSES, EACH = 8, 10  # of the sheet
GAP = 1  # pixels between two images
NARROW = 400  # pixels: smaller sheets are shown enlarged


def as_text(images: Images) -> str:
    """A title line and one line per fact."""
    rows = _rows(images)
    width = max(len(label) for label, _ in rows)
    return "\n".join([f"Images: {images.title}", *(f"  {label:<{width}}  {value}" for label, value in rows)])


def as_html(images: Images) -> str:
    """The same as an HTML table above a contact sheet; names come from the user, so everything is escaped."""
    cells = "".join(
        f"<tr><th style='text-align:left'>{html.escape(label)}</th>"
        f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
        for label, value in _rows(images)
    )
    sheet = contact_sheet(images)
    width = sheet.shape[1] * max(1, NARROW // sheet.shape[1])
    picture = base64.b64encode(_png(sheet)).decode()
    shown = html.escape(", ".join(images.names[:CLASSES]))
    return (
        f"<table><caption>Images: {html.escape(images.title)}</caption><tbody>{cells}</tbody></table>"
        f"<img src='data:image/png;base64,{picture}' style='width:{width}px;image-rendering:pixelated' "
        f"alt='A row of images of each of these classes: {shown}'>"
    )


def contact_sheet(images: Images, classes: int = CLASSES, each: int = EACH) -> Tensor:
    """The first images of the first classes, a row each: grey (H, W) or colours (H, W, 3), uint8."""
    channels, height, width = images.shape
    names = images.names[:classes]
    found = torch.ones(len(names), each, channels, height + GAP, width + GAP, dtype=torch.float64)
    for row, name in enumerate(names):
        some = images.of(name, each)
        found[row, : len(some), :, :height, :width] = some.clamp(0, 1)
    sheet = found.permute(0, 3, 1, 4, 2).reshape(len(names) * (height + GAP), each * (width + GAP), channels)
    grey = channels != 3
    values = (255 * (sheet.mean(-1) if grey else sheet)).round().to(torch.uint8)
    return values[:-GAP, :-GAP]


def _png(sheet: Tensor) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(sheet.contiguous().numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def _rows(images: Images) -> list[tuple[str, str]]:
    sizes, names = images.sizes, images.names
    low, high = int(sizes.min()), int(sizes.max())
    of_each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    some = ", ".join(names) if len(names) <= 10 else f"{', '.join(names[:2])}, ..., {names[-1]}"
    return [
        ("classes", f"{len(names):,}: {some}"),
        ("images", f"{of_each} of each class, {int(sizes.sum()):,} in all"),
        ("pixels", " x ".join(map(str, images.shape))),
    ]
