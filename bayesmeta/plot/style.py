"""How every picture of the house looks: its colours, new axes, spines and legends, and how it says what it left out.

Nothing here changes matplotlib's settings or its back-end; matplotlib is loaded when the first axes are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from bayesmeta.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmeta.posterior import Posterior
    from bayesmeta.tasks import Tasks

__all__ = [
    "BLACK",
    "BLUE",
    "GREY",
    "LIGHT",
    "PALE",
    "RED",
    "SERIES",
    "Grid",
    "check_level",
    "grid_legend",
    "grid_of",
    "hide_empty",
    "input_label",
    "legend",
    "new_axes",
    "new_grid",
    "noun",
    "percent",
    "plain",
    "response_label",
    "short",
    "spread",
    "thinned",
    "tidy",
]

Grid: TypeAlias = npt.NDArray[np.object_]  # of Axes

BLUE = "#1f5fa8"  # the posterior: what the hierarchy says
GREY = "#5f5f5f"  # what is compared with it: a task alone, the prior
RED = "#b8392b"  # what is wrong or apart: outside a band, all tasks as one, strangers
BLACK = "#111111"  # data, truth and lines of reference
PALE = "#d9d9d9"  # bands of what may be
LIGHT = "#c9c9c9"  # what stands in the background
SERIES = (RED, "#c77d0a", "#7a4fa3", "#1b8a6b", "#8a5a36", "#c2468f")  # several of a kind, in this order


# --- axes -----------------------------------------------------------------------------------------------------


def new_axes(width: float = 6.4, height: float = 4.6) -> Axes:
    """Axes of a new figure of that size in inches."""
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def new_grid(
    rows: int, columns: int, width: float, height: float, *, sharex: bool = False, sharey: bool = False
) -> Grid:
    """Axes (rows, columns) of a new figure, each panel of that size in inches."""
    import matplotlib.pyplot as plt

    size = (width * columns, height * rows)
    _, panels = plt.subplots(
        rows, columns, figsize=size, layout="constrained", sharex=sharex, sharey=sharey, squeeze=False
    )
    return np.asarray(panels, dtype=object)


def grid_of(ax: Axes | Sequence[Axes] | Grid, count: int) -> Grid:
    """Axes given by the user for `count` panels, one after the other (count,).

    Raises:
        OptionError: They are not as many.
    """
    given = np.atleast_1d(np.asarray(ax, dtype=object)).reshape(-1)
    if len(given) != count:
        raise OptionError(
            f"ax: got {len(given)} axes for {count} panels; pass one for each, as in plt.subplots(1, {count})[1], or "
            "leave ax out for a new figure"
        )
    return given


def hide_empty(panels: Grid, used: int) -> None:
    """Leave out the panels of a grid beyond those that are used."""
    for panel in panels.reshape(-1)[used:]:
        panel.set_axis_off()


def tidy(ax: Axes) -> Axes:
    """The axes without the upper and the right spine."""
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def legend(ax: Axes, where: Literal["above", "below", "inside"] = "above", columns: int = 2) -> None:
    """The legend, without a frame; above or below the axes it hides no data. Nothing where nothing has a label."""
    if not ax.get_legend_handles_labels()[0]:
        return
    if where == "inside":
        ax.legend(frameon=False, fontsize="small")
    elif where == "above":
        ax.legend(frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)
    else:
        ax.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=columns)


def grid_legend(panels: Grid, *, whole: bool, columns: int = 3) -> None:
    """One legend for all panels of a grid: below a figure that is theirs as a whole, else above the first of them."""
    found: dict[str, Any] = {}
    for panel in panels.reshape(-1):
        handles, labels = panel.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    handles, labels = list(found.values()), list(found)
    first = panels.reshape(-1)[0]
    if not labels:
        return
    if whole:
        first.figure.legend(handles, labels, frameon=False, fontsize="small", loc="outside lower center", ncols=columns)
    else:
        first.legend(handles, labels, frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0.0, 1.0))


# --- thinning -------------------------------------------------------------------------------------------------


def spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """Positions of at most so many of `count` things in a row, evenly spread, the first and the last among them.

    >>> spread(3, 5).tolist(), spread(10, 4).tolist()
    ([0, 1, 2], [0, 3, 6, 9])
    """
    if count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(np.int64)


def thinned(shown: int, count: int, what: str = "tasks") -> str:
    """The words for what was left out, empty where nothing was: set them behind a label or a title.

    >>> thinned(100, 10_000)
    ' (100 of 10,000 tasks, evenly spread)'
    >>> thinned(3, 3)
    ''
    """
    return "" if shown >= count else f" ({shown:,} of {count:,} {what}, evenly spread)"


# --- words ----------------------------------------------------------------------------------------------------


def noun(posterior: Posterior) -> str:
    """What a task is called: the name of the column that the tasks came from, or "task"."""
    columns = posterior.tasks.columns
    return "task" if columns is None else columns.task


def response_label(tasks: Tasks) -> str:
    """What is observed: the name of the response column, or "y"."""
    return "y" if tasks.columns is None else tasks.columns.y


def input_label(tasks: Tasks, column: int = 0) -> str:
    """What an input is called: the name of its column, or "x", or "x[1]" where there are several."""
    if tasks.columns is not None and column < len(tasks.columns.inputs):
        return tasks.columns.inputs[column]
    return "x" if tasks.x.dim() == 1 or tasks.x.shape[-1] == 1 else f"x[{column}]"


def short(name: str, most: int = 24) -> str:
    """A user's name, its end left out where it is too long for a tick or a title, as matplotlib writes it plain.

    >>> short("a" * 30)
    'aaaaaaaaaaaaaaaaaaaaaaa…'
    """
    return plain(name if len(name) <= most else f"{name[: most - 1]}…")


def plain(text: str) -> str:
    r"""A user's name as matplotlib writes it letter by letter: two dollar signs are no formula.

    >>> print(plain("cost ($) per unit ($)"))
    cost (\$) per unit (\$)
    """
    return text.replace("$", r"\$")


def percent(share: float) -> str:
    """A share in per cent, with as many digits as it needs.

    >>> percent(0.9), percent(0.995)
    ('90%', '99.5%')
    """
    return f"{100 * share:.4g}%"


def check_level(levels: float | Iterable[float], name: str = "level") -> None:
    """Raise an OptionError unless every level is a probability between 0 and 1."""
    for level in [levels] if isinstance(levels, int | float) else levels:
        if not 0 < level < 1:
            raise OptionError(f"{name} must lie between 0 and 1, got {level!r}")
