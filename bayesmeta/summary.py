"""Summary tables of draws, with effective sizes and R-hat from ArviZ."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bayesmeta.sites import Site, Sites, element_labels

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ess", "labels", "overview", "r_hat", "summarise"]

Array = npt.NDArray[np.float64]
COLUMNS = ("mean", "sd", "q05", "q50", "q95", "mcse_mean", "ess_bulk", "ess_tail", "r_hat")
TAIL = (0.05, 0.95)  # the quantiles whose effective sizes count in the tails
MOST_ROWS = 40  # of an overview: beyond it sites of many elements are one row each
FEW_ELEMENTS = 6  # that a site may have to keep a row for each


def labels(site: Site, tasks: tuple[str, ...] | None = None) -> list[str]:
    """Names of the flattened elements of a site; with tasks, of (T, ...)."""
    if tasks is None:
        return element_labels(site.name, site.shape)
    inner = [label.removeprefix(site.name).strip("[]") for label in element_labels(site.name, site.shape)]
    return [f"{site.name}[{task}{',' + part if part else ''}]" for task in tasks for part in inner]


def summarise(
    values: Mapping[str, Tensor],
    shape: Sequence[int],
    labels: Mapping[str, Sequence[str]],
    effective_size: float | None = None,
) -> pd.DataFrame:
    """One row per scalar element.

    Args:
        values: Draws by site (S, ...).
        shape: (chains, draws), whose product is S.
        labels: The names of the flattened elements of each site.
        effective_size: Effective number of draws where they come from importance weights: they form no chain, so
            that R-hat is NaN and effective sizes are this number.
    """
    import pandas as pd

    parts = [_rows(tensor, shape, labels[name], effective_size) for name, tensor in values.items()]
    return pd.concat(parts) if parts else pd.DataFrame(columns=list(COLUMNS))


def overview(
    values: Mapping[str, Tensor], shape: Sequence[int], sites: Sites, effective_size: float | None = None
) -> pd.DataFrame:
    """`summarise`, but at most a few dozen rows: where elements are more, each large site is one row.

    Such a row has the mean, sd and quantiles of all its elements' draws taken together, and no effective size.
    """
    import pandas as pd

    if sum(site.size for site in sites) <= MOST_ROWS:
        return summarise(values, shape, {site.name: labels(site) for site in sites}, effective_size)
    parts = []
    for site in sites:
        numbers = values[site.name]
        if numbers[0].numel() <= FEW_ELEMENTS:
            parts.append(_rows(numbers, shape, labels(site), effective_size))
        else:
            name = f"{site.name} ({'×'.join(map(str, site.shape))})"
            parts.append(_rows(numbers.reshape(-1, 1), (1, numbers.numel()), [name], float("nan")))
    return pd.concat(parts)


def _rows(
    tensor: Tensor, shape: Sequence[int], names: Sequence[str], effective_size: float | None = None
) -> pd.DataFrame:
    """The rows of one site's elements, from draws (S, ...)."""
    import pandas as pd

    draws = tensor.reshape(shape[0] * shape[1], -1).numpy()
    table = pd.DataFrame(index=pd.Index(names), columns=list(COLUMNS), dtype=np.float64)
    table["mean"] = draws.mean(0)
    table["sd"] = draws.std(0, ddof=1) if len(draws) > 1 else np.nan
    for name, level in (("q05", 0.05), ("q50", 0.5), ("q95", 0.95)):
        table[name] = np.quantile(draws, level, axis=0)
    if effective_size is not None:
        table["ess_bulk"] = table["ess_tail"] = effective_size
        table["mcse_mean"] = table["sd"] / np.sqrt(effective_size)
        return table
    chains = [draws[:, k].reshape(shape[0], shape[1]) for k in range(draws.shape[1])]
    table["ess_bulk"] = [ess(chain, "bulk") for chain in chains]
    table["ess_tail"] = [ess(chain, "tail") for chain in chains]
    table["r_hat"] = [r_hat(chain) for chain in chains]
    table["mcse_mean"] = table["sd"] / np.sqrt([ess(chain, "mean") for chain in chains])
    return table


def ess(chains: Array, method: str = "bulk") -> float:
    """Effective number of draws of one quantity (chains, draws): ``"bulk"``, ``"tail"`` or ``"mean"``.

    NaN with fewer than four draws per chain. Vehtari, Gelman, Simpson, Carpenter, Bürkner 2021.
    """
    tail = {"prob": TAIL} if method == "tail" else {}  # which ArviZ 1.x wants to be told
    return _from_arviz("ess", chains, method=method, **tail)


def r_hat(chains: Array) -> float:
    """Rank-normalised split R-hat of one quantity (chains, draws); NaN with fewer than four draws."""
    return _from_arviz("rhat", chains)


def _from_arviz(name: str, chains: Array, **options: Any) -> float:
    import arviz

    if chains.shape[1] < 4:
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if chains.shape[0] == 1:  # ArviZ wants two chains for R-hat; the halves of one serve
            half = chains.shape[1] // 2
            chains = np.stack([chains[0, :half], chains[0, -half:]])
        return float(np.asarray(getattr(arviz, name)(chains, **options)))
