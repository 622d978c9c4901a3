"""What a picture holds, as numbers and words: plots are tested by what they drew, not by how it looks.

`record(ax)` collects everything that axes hold. `check(ax)` is what every picture of the house must be: labelled,
finite, with something in it. `resembles(figure, name)` compares a picture without its words, coarsely, with a small
PNG in tests/baselines, so that another font or version of matplotlib changes nothing; with the environment variable
BAYESMETA_WRITE_BASELINES set it writes that PNG instead: look at it before it is committed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import Collection, LineCollection, PathCollection, PolyCollection, QuadMesh
from matplotlib.colors import same_color, to_hex
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.image import AxesImage, imread, imsave
from matplotlib.patches import Patch
from matplotlib.spines import Spine

__all__ = ["BASELINES", "Item", "Kind", "Record", "check", "record", "resembles", "structure"]

Array: TypeAlias = npt.NDArray[np.float64]
Kind: TypeAlias = Literal["line", "points", "bars", "band", "contour", "mesh", "image", "patch", "text"]

BASELINES = Path(__file__).parent / "baselines"
WIDTH = 120  # pixels of a baseline
TOLERANCE = 6.0  # of 255 grey levels, root mean square


@dataclass(frozen=True)
class Item:
    """One thing that was drawn.

    Attributes:
        kind: ``"line"`` (plot, axhline), ``"points"`` (scatter), ``"bars"`` (vlines, hlines: both ends of each, one
            after the other), ``"band"`` (fill_between: its outline), ``"contour"``, ``"mesh"``, ``"image"``,
            ``"patch"`` (bars of a histogram, ellipses: their outline), ``"text"``.
        label: Its label, empty where it has none; the text itself of a text.
        colours: Face and edge as ``#rrggbb``; what has none is left out.
        data: Where it is, (n, 2), in the coordinates of the data; lines that span the axes are in those of the axes.
    """

    kind: Kind
    label: str
    colours: tuple[str, ...]
    data: Array

    @property
    def x(self) -> Array:
        """Horizontal coordinates (n,)."""
        return self.data[:, 0]

    @property
    def y(self) -> Array:
        """Vertical coordinates (n,)."""
        return self.data[:, 1]


@dataclass(frozen=True)
class Record:
    """Everything that axes hold.

    Attributes:
        items: What was drawn, and texts, in no particular order.
        title: All titles, one after the other.
        xlabel: Label of the horizontal axis.
        ylabel: Label of the vertical axis.
        legend: The words of the legend; of the figure, where the axes have none.
        xlim: Left and right end.
        ylim: Lower and upper end.
    """

    items: tuple[Item, ...]
    title: str
    xlabel: str
    ylabel: str
    legend: tuple[str, ...]
    xlim: tuple[float, float]
    ylim: tuple[float, float]

    def of(self, kind: Kind | None = None, colour: str | None = None, label: str | None = None) -> list[Item]:
        """The items of a kind, with a colour, whose label has these words in it."""
        return [
            item
            for item in self.items
            if (kind is None or item.kind == kind)
            and (colour is None or any(same_color(colour, one) for one in item.colours))
            and (label is None or label in item.label)
        ]

    def data(self, kind: Kind | None = None, colour: str | None = None, label: str | None = None) -> Array:
        """The coordinates (n, 2) of all such items together."""
        return np.concatenate([np.zeros((0, 2)), *(item.data for item in self.of(kind, colour, label))])

    @property
    def words(self) -> str:
        """All that can be read: title, labels, legend and texts."""
        texts = [item.label for item in self.of("text")]
        return "\n".join([self.title, self.xlabel, self.ylabel, *self.legend, *texts])


def record(ax: Axes) -> Record:
    """What axes hold. What is invisible is left out."""
    drawn = [item for artist in ax.get_children() if artist.get_visible() for item in _items(ax, artist)]
    titles = [ax.get_title(loc=loc) for loc in ("left", "center", "right")]
    return Record(
        items=tuple(drawn),
        title=" ".join(title for title in titles if title),
        xlabel=ax.get_xlabel(),
        ylabel=ax.get_ylabel(),
        legend=_legend(ax),
        xlim=ax.get_xlim(),
        ylim=ax.get_ylim(),
    )


def check(ax: Axes, *, xlabel: bool = True, ylabel: bool = True) -> Record:
    """Fail unless the axes are labelled, hold something, and hold no NaN; their record.

    Args:
        ax: The axes.
        xlabel: Whether the horizontal axis must have a label (of a grid, only the lowest panels may).
        ylabel: The same of the vertical axis.
    """
    found = record(ax)
    drawn = [item for item in found.items if item.kind != "text" and len(item.data)]
    assert drawn, "nothing was drawn"
    assert found.xlabel or not xlabel, "the horizontal axis has no label"
    assert found.ylabel or not ylabel, "the vertical axis has no label"
    for item in drawn:
        assert np.isfinite(item.data).all(), f"{item.kind} {item.label!r} has NaN or infinite coordinates"
    assert np.isfinite([*found.xlim, *found.ylim]).all()
    assert len(set(found.legend)) == len(found.legend), f"the legend says a thing twice: {found.legend}"
    assert "nan" not in found.words.lower().replace(":", " ").split(), found.words
    return found


# --- what artists are -----------------------------------------------------------------------------------------


def _items(ax: Axes, artist: Any) -> Iterator[Item]:
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

    label = str(artist.get_label() or "")
    label = "" if label.startswith("_") else label
    if isinstance(artist, Line2D):
        yield Item("line", label, _hex(artist.get_color()), np.asarray(artist.get_xydata(), dtype=np.float64))
    elif isinstance(artist, Collection):
        yield _of_collection(artist, label)
    elif isinstance(artist, AxesImage):
        left, right, bottom, top = artist.get_extent()
        yield Item("image", label, (), np.array([[left, bottom], [right, top]], dtype=np.float64))
    elif isinstance(artist, Patch) and not isinstance(artist, Spine) and artist is not ax.patch:
        outline = artist.get_patch_transform().transform_path(artist.get_path()).vertices
        colours = _hex(artist.get_facecolor()) + _hex(artist.get_edgecolor())
        yield Item("patch", label, colours, np.asarray(outline, dtype=np.float64))
    elif isinstance(artist, Text) and artist.get_text() and artist not in (ax.title, ax._left_title, ax._right_title):  # type: ignore[attr-defined]
        yield Item("text", artist.get_text(), _hex(artist.get_color()), np.array([artist.get_position()], dtype=float))


def _of_collection(artist: Collection, label: str) -> Item:
    colours = tuple(dict.fromkeys(_all_hex(artist.get_facecolor()) + _all_hex(artist.get_edgecolor())))
    if isinstance(artist, PathCollection):
        return Item("points", label, colours, np.asarray(np.ma.getdata(artist.get_offsets()), dtype=np.float64))
    if isinstance(artist, QuadMesh):
        return Item("mesh", label, colours, np.asarray(artist.get_coordinates(), dtype=np.float64).reshape(-1, 2))
    outlines = [np.asarray(path.vertices, dtype=np.float64) for path in artist.get_paths()]
    data = np.concatenate([np.zeros((0, 2)), *outlines])
    if isinstance(artist, LineCollection):
        return Item("bars", label, colours, data)
    if isinstance(artist, ContourSet):
        return Item("contour", label, colours, data)
    return Item("band" if isinstance(artist, PolyCollection) else "patch", label, colours, data)


def _hex(colour: Any) -> tuple[str, ...]:
    """A colour as ``#rrggbb``, nothing where it is transparent or none."""
    rgba = np.atleast_1d(np.asarray(colour, dtype=object))
    if isinstance(colour, str) and colour == "none":
        return ()
    return () if len(rgba) == 4 and float(rgba[3]) == 0 else (to_hex(colour),)


def _all_hex(colours: Any) -> tuple[str, ...]:
    rows = np.atleast_2d(np.asarray(colours, dtype=np.float64))
    return tuple(one for row in rows if len(row) for one in _hex(row))


def _legend(ax: Axes) -> tuple[str, ...]:
    found = ax.get_legend()
    figure = ax.get_figure(root=True)
    shown = [found] if found is not None else [] if figure is None else figure.legends
    return tuple(text.get_text() for one in shown for text in one.get_texts())


# --- pictures -------------------------------------------------------------------------------------------------


def resembles(figure: Figure, name: str, tolerance: float = TOLERANCE) -> bool:
    """Whether a figure without its words looks like the PNG of that name in tests/baselines. It is changed by this.

    Raises:
        FileNotFoundError: There is no such PNG yet: run with BAYESMETA_WRITE_BASELINES=1, and look at it.
    """
    found, path = structure(figure), BASELINES / f"{name}.png"
    if os.environ.get("BAYESMETA_WRITE_BASELINES"):
        path.parent.mkdir(exist_ok=True)
        imsave(path, found, cmap="gray", vmin=0, vmax=255)
        return True
    wanted = 255.0 * np.asarray(imread(path), dtype=np.float64)[..., 0]
    return wanted.shape == found.shape and float(np.sqrt(np.square(wanted - found).mean())) <= tolerance


def structure(figure: Figure) -> Array:
    """The figure without words, in grey levels from 0 to 255, `WIDTH` pixels wide (h, w). It is changed by this."""
    figure.set_layout_engine("none")
    for text in (*figure.texts, *figure.legends, getattr(figure, "_suptitle", None)):
        if text is not None:
            text.set_visible(False)
    for ax in figure.axes:
        _without_words(ax)
    figure.set_dpi(4 * WIDTH / figure.get_figwidth())
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    grey: Array = np.asarray(canvas.buffer_rgba(), dtype=np.float64)[..., :3].mean(-1)
    rows, columns = grey.shape[0] // 4, grey.shape[1] // 4
    coarse: Array = grey[: 4 * rows, : 4 * columns].reshape(rows, 4, columns, 4).mean((1, 3))
    return coarse


def _without_words(ax: Axes) -> None:
    for loc in ("left", "center", "right"):
        ax.set_title("", loc=loc)
    ax.set(xlabel="", ylabel="")
    ax.tick_params(which="both", length=0, labelbottom=False, labelleft=False, labeltop=False, labelright=False)
    for text in ax.texts:
        text.set_visible(False)
    if (found := ax.get_legend()) is not None:
        found.set_visible(False)
    if (spec := ax.get_subplotspec()) is not None and (figure := ax.get_figure(root=True)) is not None:
        ax.set_position(spec.get_position(figure).bounds)
