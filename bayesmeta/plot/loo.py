"""Leave one task out: which tasks the population does not predict, and which the draws cannot leave out.

k-hat tells, task by task, whether draws of φ given all tasks say what φ is without this one: it is small for a task
that moves the population little. Tasks that were refitted have the k-hat of the draws without them. The other picture
is the log density of each task given all others, where tasks unlike the rest lie deep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from bayesmeta.errors import DataError, OptionError, unknown
from bayesmeta.plot.style import BLACK, BLUE, GREY, RED, legend, new_axes, short, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]

__all__ = ["loo"]

MOST_TICKS = 25
MOST_NAMED = 6
FAILS = 1.0  # from here on, the mean of the weights does not even exist
LOWEST, HIGHEST = -0.5, 10.0  # of k-hats drawn: beyond, they differ in nothing that matters
WHAT = ("k_hat", "elpd")


def loo(
    result: Any, *, what: Literal["k_hat", "elpd"] = "k_hat", label: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw k-hat of each task with its limits, or the log density of each task given all others.

    Args:
        result: What `posterior.loo()` returned; a posterior is asked for it.
        what: ``"k_hat"`` or ``"elpd"``.
        label: Label of the vertical axis.
        ax: Axes to draw in; a new figure by default.

    Returns:
        The axes.

    Raises:
        OptionError: An unknown `what`.
        DataError: It is not by task.
    """
    if what not in WHAT:
        raise OptionError(unknown("what", what, WHAT))
    found = result.loo() if hasattr(result, "loo") else result
    names, elpd, k_hat, refitted = _read(found)
    ax = new_axes(min(9.5, 5.0 + 0.05 * len(names)), 4.4) if ax is None else ax
    if what == "k_hat":
        _draw_k_hat(ax, names, k_hat, refitted, float(_entry(found, "good_k")))
        ax.set_ylabel(label or "Pareto k-hat of leaving the task out")
    else:
        _draw_elpd(ax, names, elpd)
        ax.set_ylabel(label or "log density given all other tasks (nats)")
        total, error = float(elpd.sum()), float(np.sqrt(len(elpd)) * elpd.std())
        ax.set_title(f"sum {total:.1f}, standard error {error:.1f} nats", loc="left", fontsize="medium", pad=22)
    _ticks(ax, names)
    legend(ax, columns=3)
    _enlarge(ax)
    return tidy(ax)


def _read(found: Any) -> tuple[list[str], Array, Array, set[str]]:
    """Names, log densities and k-hats by task, and the names of those refitted."""
    from bayesmeta.diagnose.loo import pointwise

    if not hasattr(found, "pareto_k"):
        raise DataError(
            f"result is a {type(found).__name__}; wanted a posterior, or what posterior.loo() returned, with a k-hat "
            "by task"
        )
    elpd, k_hat = pointwise(found), _entry(found, "pareto_k")
    names = [str(name) for name in elpd.coords["task"].values] if "task" in elpd.coords else []
    if not names:
        raise DataError("result is not by task: make it by posterior.loo()")
    k = np.asarray(k_hat, dtype=np.float64)
    return names, np.asarray(elpd, dtype=np.float64), k, set(k_hat.attrs.get("refitted", ()))


def _entry(found: Any, name: str) -> Any:
    """An entry of an `ELPDData` of ArviZ 0.x, a pandas series, or 1.x."""
    import pandas as pd

    return found[name] if isinstance(found, pd.Series) else getattr(found, name)


def _draw_k_hat(ax: Axes, names: list[str], k_hat: Array, refitted: set[str], good_k: float) -> None:
    shown = np.clip(np.nan_to_num(k_hat, nan=np.inf), LOWEST, HIGHEST)  # one that is no number tells as little
    again = np.array([name in refitted for name in names])
    bad = shown > good_k
    places = np.arange(len(names))
    kinds = (
        (~bad & ~again, BLUE, BLUE, "draws tell"),
        (~bad & again, "white", BLUE, "refitted without it"),
        (bad, RED, RED, "draws cannot tell"),
    )
    for which, face, edge, name in kinds:
        if which.any():
            style = _dots(len(names))
            ax.scatter(places[which], shown[which], facecolors=face, edgecolors=edge, label=name, **style)
    ax.axhline(good_k, color=BLACK, linewidth=0.9, linestyle="--", zorder=1, label=f"limit {good_k:.2f}")
    if shown.max() > 0.75 * FAILS:
        ax.axhline(FAILS, color=GREY, linewidth=0.9, linestyle=":", zorder=1, label="1: no mean of the weights")
    ax.set_ylim(min(-0.1, float(shown.min()) - 0.05), max(good_k + 0.15, float(shown.max()) + 0.1))
    _name(ax, names, shown, np.flatnonzero(bad), -shown)


def _draw_elpd(ax: Axes, names: list[str], elpd: Array) -> None:
    ax.scatter(np.arange(len(names)), elpd, color=BLUE, **_dots(len(names)))
    ax.axhline(float(elpd.mean()), color=BLACK, linewidth=0.9, linestyle="--", zorder=1, label="mean")
    lower, upper = np.quantile(elpd, [0.25, 0.75])
    _name(ax, names, elpd, np.flatnonzero(elpd < lower - 3 * (upper - lower)), elpd)


def _name(ax: Axes, names: list[str], values: Array, odd: npt.NDArray[np.intp], key: Array) -> None:
    """The names of those that stand out, where names are not below the axis."""
    if len(names) <= MOST_TICKS:
        return
    named: list[int] = []
    for t in odd[np.argsort(key[odd], kind="stable")].tolist():
        if len(named) == MOST_NAMED or any(_touch(t, other, values) for other in named):
            continue
        named.append(t)
        left = t > 0.75 * len(names)
        at, side = ((-5, 0), "right") if left else ((5, 0), "left")
        ax.annotate(
            short(names[t]), (t, float(values[t])), at, textcoords="offset points", ha=side, va="center", fontsize=8
        )


def _touch(t: int, other: int, values: Array) -> bool:
    """Whether the names of two tasks would lie on each other."""
    return abs(t - other) < 0.12 * len(values) and abs(values[t] - values[other]) < 0.04 * float(np.ptp(values))


def _dots(count: int) -> dict[str, Any]:
    """How dots are drawn: small ones without an edge where there are many."""
    if count <= 100:
        return {"s": 24.0}
    return {"s": max(2.0, 2400.0 / count), "linewidths": 0.0 if count > 1000 else 0.5}


def _enlarge(ax: Axes) -> None:
    """Dots in the legend that are seen, however small those of the picture are."""
    from matplotlib.collections import PathCollection

    found = ax.get_legend()
    for handle in [] if found is None else found.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([24.0])


def _ticks(ax: Axes, names: list[str]) -> None:
    if len(names) > MOST_TICKS:
        ax.set_xlabel(f"task, in the order of the fit ({len(names):,})")
        return
    crowded = sum(map(len, names)) > 60
    ax.set_xlim(-0.7, len(names) - 0.3)
    ax.set_xticks(
        range(len(names)), list(map(short, names)), rotation=45 if crowded else 0, ha="right" if crowded else "center"
    )
    ax.set_xlabel("task left out")
