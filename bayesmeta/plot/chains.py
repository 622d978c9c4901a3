"""Chains drawn by ArviZ, 0.23 or 1.x: from named arrays (chains, draws) to axes with the labels of the house."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bayesmeta.errors import NotAvailableError
from bayesmeta.plot.style import BLUE, SERIES, Grid, grid_of, new_grid, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_ranks", "draw_traces"]

Array = npt.NDArray[np.float64]
COLOURS = (BLUE, *SERIES)


def draw_traces(chains: Mapping[str, Array], diverging: Array | None, ax: Axes | Sequence[Axes] | Grid | None) -> Grid:
    """A row for each number: its density by chain, and its draws in their order. The axes (k, 2).

    Args:
        chains: Draws (chains, draws) by label (k of them).
        diverging: Which transitions diverged (chains, draws), where that is known.
        ax: 2k axes to draw in, row by row; a new figure by default.
    """
    import arviz

    k, count = len(chains), len(next(iter(chains.values())))
    data = _container(chains, diverging)
    if "InferenceData" in vars(arviz):
        panels = new_grid(k, 2, 4.6, 1.9) if ax is None else grid_of(ax, 2 * k).reshape(k, 2)
        with _quiet():
            arviz.plot_trace(data, compact=False, chain_prop={"color": _colours(count)}, axes=panels)
    else:
        _refuse_axes(ax)
        drawn = arviz.plot_trace_dist(data, backend="matplotlib")
        panels = _collected(drawn, k, 2)
    for (left, right), label in zip(panels, chains, strict=True):
        tidy(left).set(title="", xlabel=label, ylabel="density", yticks=[])
        tidy(right).set(title="", xlabel="draw", ylabel=label)
    return panels


def draw_ranks(chains: Mapping[str, Array], columns: int, ax: Axes | Sequence[Axes] | Grid | None) -> Grid:
    """A panel for each number: how the draws of each chain rank among all. The axes (rows, columns).

    Args:
        chains: Draws (chains, draws) by label (k of them).
        columns: How many panels stand in a row.
        ax: k axes to draw in; a new figure by default.
    """
    import arviz

    k, count = len(chains), len(next(iter(chains.values())))
    data = _container(chains, None)
    if "InferenceData" not in vars(arviz):
        _refuse_axes(ax)
        panels = _collected(arviz.plot_rank(data, backend="matplotlib"), 1, k)
        labels = ("rank, scaled", "distribution of ranks, minus uniform")
    else:
        columns = min(k, columns)
        rows = -(-k // columns)
        panels = new_grid(rows, columns, 3.0, 2.6) if ax is None else grid_of(ax, k).reshape(1, k)
        with _quiet():
            arviz.plot_rank(data, colors=_colours(count), ax=panels.reshape(-1)[:k])
        labels = ("rank among all draws", "chain")
    for panel, name in zip(panels.reshape(-1), chains, strict=False):
        tidy(panel).set_xlabel(labels[0], fontsize="medium")
        panel.set_ylabel(labels[1], fontsize="medium")
        panel.set_title(name, fontsize="medium")
    return panels


def _container(chains: Mapping[str, Array], diverging: Array | None) -> Any:
    """The chains for ArviZ, under names v0, v1, ..., which every version takes."""
    import xarray as xr

    from bayesmeta.export.container import to_arviz

    one = next(iter(chains.values()))
    coords = {"chain": np.arange(one.shape[0]), "draw": np.arange(one.shape[1])}
    values = {f"v{k}": (("chain", "draw"), array) for k, array in enumerate(chains.values())}
    groups = {"posterior": xr.Dataset(values, coords=coords)}
    if diverging is not None:
        groups["sample_stats"] = xr.Dataset({"diverging": (("chain", "draw"), diverging)}, coords=coords)
    return to_arviz(groups)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of what ArviZ 0.23 calls that matplotlib will drop."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _colours(chains: int) -> list[str]:
    return [COLOURS[k % len(COLOURS)] for k in range(chains)]


def _refuse_axes(ax: object) -> None:
    if ax is not None:
        raise NotAvailableError("ax: ArviZ 1.x draws chains in a figure of its own; leave ax out")


def _collected(drawn: Any, rows: int, columns: int) -> Grid:
    """The axes of what ArviZ 1.x has drawn, in the order of the variables."""
    drawn.viz["figure"].item().set_layout_engine("constrained")
    plots = drawn.viz["plot"]
    found = [panel for k in range(rows * columns) if f"v{k}" in plots for panel in np.atleast_1d(plots[f"v{k}"].values)]
    return np.array(found, dtype=object).reshape(rows, columns)
