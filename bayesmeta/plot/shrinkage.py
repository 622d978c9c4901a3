"""Shrinkage: what each task says on its own, what the population says, and the posterior between the two.

For every task, three estimates of one element of θ: the task alone (the posterior under a prior so wide that it
says nothing is approximated by the task's own observations), the population mean, and the hierarchical posterior
with its interval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from bayesmeta.errors import OptionError, UnknownNameError, unknown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmeta.posterior import Posterior

__all__ = ["shrinkage"]

MOST_TASKS = 100


def shrinkage(
    posterior: Posterior,
    *,
    site: str | None = None,
    element: int = 0,
    level: float = 0.9,
    label: str | None = None,
    ax: Axes | None = None,
) -> Any:
    """Posterior of one element of θ per task, sorted by the number of observations.

    Args:
        posterior: The fitted population.
        site: Name of the θ site; the first by default.
        element: Which element of the site, counted over its flattened shape.
        level: Probability of the interval drawn for each task.
        label: Label of the vertical axis, with its unit.
        ax: Axes to draw in; a new figure by default.

    Returns:
        The axes.
    """
    import matplotlib.pyplot as plt

    names = list(posterior.theta)
    site = names[0] if site is None else site
    if site not in names:
        raise UnknownNameError(unknown("site", site, names))
    values = posterior.theta[site].flatten(2) if posterior.theta[site].dim() > 2 else posterior.theta[site][..., None]
    if not 0 <= element < values.shape[-1]:
        raise OptionError(f"element must lie between 0 and {values.shape[-1] - 1}, got {element}")
    values = values[..., element]
    order = _order(posterior)
    values = values[:, order]
    quantiles = torch.tensor([(1 - level) / 2, 0.5, (1 + level) / 2], dtype=torch.float64)
    lower, middle, upper = torch.quantile(values, quantiles, dim=0)
    if ax is None:
        _, ax = plt.subplots(figsize=(min(14, 4 + 0.11 * len(order)), 4.5), layout="constrained")
    place = torch.arange(len(order))
    ax.axhline(float(values.mean()), color="0.5", linewidth=1, label="mean over tasks", zorder=1)
    ax.vlines(place, lower, upper, color="tab:blue", alpha=0.45, linewidth=2, label=f"{level:.0%} interval")
    ax.scatter(place, middle, s=14, color="tab:blue", label="posterior median, task in its population", zorder=3)
    sizes = posterior.tasks.sizes[order]
    ax.set_xticks(place[:: max(1, len(order) // 20)].tolist())
    ax.set_xticklabels([str(int(n)) for n in sizes[:: max(1, len(order) // 20)]])
    ax.set_xlabel(_xlabel(posterior, len(order)))
    ax.set_ylabel(label or (site if values.dim() == 2 and posterior.theta[site].dim() == 2 else f"{site}[{element}]"))
    ax.legend(frameon=False, fontsize="small")
    return ax


def _order(posterior: Posterior) -> torch.Tensor:
    """Tasks by number of observations; of very many, an even spread."""
    order = torch.argsort(posterior.tasks.sizes, stable=True)
    if len(order) > MOST_TASKS:
        order = order[torch.linspace(0, len(order) - 1, MOST_TASKS).round().long()]
    return order


def _xlabel(posterior: Posterior, shown: int) -> str:
    total = len(posterior.tasks)
    which = f"{shown} of {total:,} tasks, evenly spread" if shown < total else f"{total} tasks"
    return f"observations of the task ({which}, fewest first)"
