"""Summary tables of draws, with effective sizes and R-hat from ArviZ."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from bayesmeta.sites import Site, element_labels

__all__ = ["ess", "labels", "r_hat", "summarise"]

Array = npt.NDArray[np.float64]
COLUMNS = ("mean", "sd", "q05", "q50", "q95", "mcse_mean", "ess_bulk", "ess_tail", "r_hat")


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
    rows: dict[str, list[float]] = {}
    for name, tensor in values.items():
        flat = tensor.reshape(shape[0], shape[1], -1).numpy()
        for k, label in enumerate(labels[name]):
            rows[label] = _row(flat[..., k], effective_size)
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS))


def _row(chains: Array, effective_size: float | None) -> list[float]:
    q05, q50, q95 = (float(q) for q in np.quantile(chains, [0.05, 0.5, 0.95]))
    sd = float(chains.std(ddof=1)) if chains.size > 1 else float("nan")
    if effective_size is not None:
        mcse = sd / np.sqrt(effective_size)
        return [float(chains.mean()), sd, q05, q50, q95, mcse, effective_size, effective_size, float("nan")]
    bulk, tail = ess(chains, "bulk"), ess(chains, "tail")
    mcse = sd / np.sqrt(ess(chains, "mean")) if chains.size > 1 else float("nan")
    return [float(chains.mean()), sd, q05, q50, q95, float(mcse), bulk, tail, r_hat(chains)]


def ess(chains: Array, method: str = "bulk") -> float:
    """Effective number of draws of one quantity (chains, draws): ``"bulk"``, ``"tail"`` or ``"mean"``.

    NaN with fewer than four draws per chain. Vehtari, Gelman, Simpson, Carpenter, Bürkner 2021.
    """
    return _from_arviz("ess", chains, method=method)


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
