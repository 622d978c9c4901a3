"""Pictures inside a page: a matplotlib figure as a data URI, sharp where that is small, pixels where it is not."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bayesmeta.report.html import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MOST_BYTES", "drawn", "embedded", "new_figure", "taken"]

MOST_BYTES = 120_000  # of a drawing; beyond it pixels are smaller
DOTS_PER_INCH = 144
PIXELS_PER_INCH = 120  # of a page: text of ten points is then as large as the text around it


def new_figure(width: float = 7.2, height: float = 4.4) -> Figure:
    """A figure of that size in inches, which pyplot knows nothing of, so that none is left open."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def drawn(draw: Callable[[Any], object], alt: str, caption: str, *, width: float = 7.2, height: float = 4.4) -> str:
    """A picture with its caption, drawn by a function of the axes.

    Args:
        draw: Draws in the axes that it is given.
        alt: What the picture shows, for those who do not see it.
        caption: What stands below it.
        width: Width in inches.
        height: Height in inches.
    """
    made = new_figure(width, height)
    draw(made.add_subplot())
    return _figure(made, alt, caption)


def taken(draw: Callable[[], Any], alt: str, caption: str) -> str:
    """A picture with its caption, drawn by a function that makes a figure of its own and returns axes of it."""
    import matplotlib.pyplot as plt
    import numpy as np

    axes = np.asarray(draw(), dtype=object).reshape(-1)
    made = axes[0].figure
    try:
        return _figure(made, alt, caption)
    finally:
        plt.close(made)


def _figure(made: Figure, alt: str, caption: str) -> str:
    return figure(embedded(made), alt, caption, width=round(PIXELS_PER_INCH * made.get_figwidth()))


def embedded(made: Figure) -> str:
    """A figure as a data URI: SVG, or PNG where the SVG would be large."""
    drawing = _saved(made, "svg", metadata={"Date": None})
    if len(drawing) <= MOST_BYTES:
        return _uri("image/svg+xml", drawing)
    return _uri("image/png", _saved(made, "png", dpi=DOTS_PER_INCH))


def _saved(made: Figure, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    made.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
