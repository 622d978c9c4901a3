"""Chains as they were drawn, through ArviZ: chains that have mixed look alike, and none drifts or sticks.

Draws of a back-end that makes no chains (importance sampling, variational inference) are independent of each other:
their trace is without any order, and says nothing about whether they are right; their verdict does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from bayesmeta.errors import NotAvailableError, OptionError, UnknownNameError, unknown
from bayesmeta.plot.chains import draw_traces
from bayesmeta.plot.style import Grid, plain, spread, thinned
from bayesmeta.summary import labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmeta.posterior import Posterior

__all__ = ["chains_of", "trace"]

Array = npt.NDArray[np.float64]

MOST = 8
FEWEST_DRAWS = 4


def trace(
    posterior: Posterior,
    *,
    level: Literal["phi", "theta"] = "phi",
    sites: str | Sequence[str] | None = None,
    ax: Axes | Sequence[Axes] | Grid | None = None,
) -> Grid:
    """Draw each number of φ, or of θ, with its density by chain and its draws in their order.

    Of more than 8 numbers an even spread is drawn, and the title says so; numbers that never change are left out.

    Args:
        posterior: The fitted population.
        level: ``"phi"``, or ``"theta"`` for the tasks of the fit.
        sites: Names of sites; all by default.
        ax: Axes to draw in, two for each number; a new figure by default.

    Returns:
        The axes (k, 2): densities on the left, draws on the right.

    Raises:
        UnknownNameError: No such site.
        OptionError: Another level, or not as many axes as panels.
        NotAvailableError: There are fewer than 4 draws, or all are the same.
    """
    chains, left = chains_of(posterior, level, sites, MOST)
    panels = draw_traces(chains, posterior.draws.stats.get("diverging"), ax)
    if ax is None:
        kind = "independent draws, which form no chain" if _independent(posterior) else "a line for each chain"
        panels[0, 0].figure.suptitle(kind + left, fontsize="medium")
    return panels


def chains_of(
    posterior: Posterior, level: str, sites: str | Sequence[str] | None, most: int
) -> tuple[dict[str, Array], str]:
    """Draws (chains, draws) by label of at most so many numbers, evenly spread, and what was left out, in words."""
    if level not in ("phi", "theta"):
        raise OptionError(unknown("level", level, ("phi", "theta")))
    structure = posterior.collapsed.program.structure
    known = {site.name: site for site in (structure.phi if level == "phi" else structure.theta)}
    names = list(known) if sites is None else [sites] if isinstance(sites, str) else list(sites)
    for name in names:
        if name not in known:
            raise UnknownNameError(unknown("site", name, known))
    values = posterior.phi if level == "phi" else posterior.theta
    tasks = None if level == "phi" else posterior.tasks.names
    shape = tuple(posterior.draws.u.shape[:2])
    if shape[1] < FEWEST_DRAWS:
        raise NotAvailableError(f"there are {shape[1]} draws in a chain; a trace needs {FEWEST_DRAWS} at least")
    flat = {name: values[name].reshape(len(values[name]), -1).numpy() for name in names}
    columns = [(name, k) for name in names for k in _moving(flat[name])]
    if not columns:
        raise NotAvailableError("all draws are the same, a point: there is no chain to draw")
    pick = [columns[place] for place in spread(len(columns), most)]
    words = {name: list(map(plain, labels(known[name], tasks))) for name in {name for name, _ in pick}}
    found = {words[name][k]: flat[name][:, k].reshape(shape) for name, k in pick}
    return found, thinned(len(pick), len(columns), "numbers")


def _moving(flat: Array) -> list[int]:
    """Which numbers of (S, k) change from draw to draw."""
    return [int(k) for k in np.flatnonzero(np.ptp(flat, axis=0) > 0)]


def _independent(posterior: Posterior) -> bool:
    return posterior.info.effective_size is not None or "energy" not in posterior.draws.stats
