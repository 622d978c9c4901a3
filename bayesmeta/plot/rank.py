"""Ranks of the draws of each chain among those of all, through ArviZ: uniform where chains have mixed.

Vehtari, A., Gelman, A., Simpson, D., Carpenter, B. and Bürkner, P.-C. (2021). Rank-normalization, folding, and
localization: an improved R-hat for assessing convergence of MCMC. Bayesian Analysis 16, 667-718.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from bayesmeta.errors import NotAvailableError
from bayesmeta.plot.chains import draw_ranks
from bayesmeta.plot.style import Grid, hide_empty
from bayesmeta.plot.trace import chains_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmeta.posterior import Posterior

__all__ = ["rank"]

MOST, COLUMNS = 12, 4


def rank(
    posterior: Posterior,
    *,
    level: Literal["phi", "theta"] = "phi",
    sites: str | Sequence[str] | None = None,
    ax: Axes | Sequence[Axes] | Grid | None = None,
) -> Grid:
    """Draw for each number of φ, or of θ, how the draws of each chain rank among those of all chains.

    Of more than 12 numbers an even spread is drawn, and the title says so.

    Args:
        posterior: The fitted population.
        level: ``"phi"``, or ``"theta"`` for the tasks of the fit.
        sites: Names of sites; all by default.
        ax: Axes to draw in, one for each number; a new figure by default.

    Returns:
        The axes (rows, columns).

    Raises:
        UnknownNameError: No such site.
        OptionError: Another level, or not as many axes as panels.
        NotAvailableError: There is one chain only, or too few draws.
    """
    if posterior.draws.u.shape[0] < 2:
        back_end = posterior.info.inference.get("back_end")
        raise NotAvailableError(
            f"the draws of {back_end!r} are one chain, and ranks compare several: fit with inference='nuts', or look "
            "at posterior.verdict and plot.phi"
        )
    chains, left = chains_of(posterior, level, sites, MOST)
    panels = draw_ranks(chains, COLUMNS, ax)
    hide_empty(panels, len(chains))
    if ax is None and left:
        panels.reshape(-1)[0].figure.suptitle(left.strip(" ()"), fontsize="medium")
    return panels
