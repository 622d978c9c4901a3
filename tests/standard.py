"""When draws are right: effective draws first, then errors in Monte Carlo standard errors, then in sds.

`compare` measures draws of several quantities against exact moments, `joint_z` against other draws of the same;
`Verdict.failures` says in words what is wrong, and is empty where nothing is.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

import bayesmeta as bm
from tests.truth import Array

__all__ = ["Verdict", "chains_of", "compare", "joint_z", "limit", "mcse", "over_confident", "shifted"]

ERRORS = 4.0  # |error| in Monte Carlo standard errors
MEAN = 0.02  # |error of the mean| in sds
SPREAD = 0.02  # |sd / exact sd - 1|


class Verdict(NamedTuple):
    """The worst over all quantities.

    Attributes:
        ess: the fewest effective draws, of means and in the bulk.
        z: the largest error of a mean or sd, in its Monte Carlo standard errors.
        mean: the largest error of a mean, in exact sds.
        spread: the largest relative error of an sd.
    """

    ess: float
    z: float
    mean: float
    spread: float

    def failures(self, least_ess: float, *, mean: float = MEAN, spread: float = SPREAD) -> list[str]:
        """What is not within the standard."""
        found = []
        if not self.ess >= least_ess:
            found.append(f"ess {self.ess:.0f} < {least_ess:.0f}")
        if not self.z < ERRORS:
            found.append(f"error of {self.z:.1f} standard errors")
        if not self.mean < mean:
            found.append(f"mean off by {self.mean:.3f} sd")
        if not self.spread <= spread:
            found.append(f"sd off by {self.spread:.1%}")
        return found


def chains_of(posterior: bm.Posterior, level: str = "phi") -> dict[str, Array]:
    """Draws of every element of φ or θ, each (chains, draws); ``alpha[AITKIN]``, ``theta[308,1]``."""
    table = posterior.phi if level == "phi" else posterior.theta
    chains, draws = posterior.draws.u.shape[:2]
    columns = [values.reshape(chains, draws, -1) for values in table.values()]
    flat = [column[..., k].numpy() for column in columns for k in range(column.shape[-1])]
    return dict(zip(posterior.summary(level).index, flat, strict=True))


def mcse(chains: Array, method: str) -> float:
    """Monte Carlo standard error of the ``"mean"`` or the ``"sd"`` of one quantity (chains, draws)."""
    return float(np.asarray(_arviz("mcse", chains, method)))


def compare(draws: dict[str, Array], mean: dict[str, float], sd: dict[str, float]) -> Verdict:
    """Draws (chains, draws) by name against exact means and sds."""
    ess, z, off, spread = [], [], [], []
    for name, chains in draws.items():
        ess += [float(_arviz("ess", chains, "mean")), float(_arviz("ess", chains, "bulk"))]
        error, stretch = chains.mean() - mean[name], chains.std(ddof=1) - sd[name]
        z += [abs(error) / mcse(chains, "mean"), abs(stretch) / mcse(chains, "sd")]
        off.append(abs(error) / sd[name])
        spread.append(abs(stretch) / sd[name])
    return Verdict(min(ess), max(z), max(off), max(spread))


def joint_z(ours: dict[str, Array], theirs: dict[str, Array]) -> float:
    """The largest difference of means or sds between two sets of draws, in standard errors of both together."""
    worst = 0.0
    for name, chains in theirs.items():
        for method, of in (("mean", np.mean), ("sd", np.std)):
            error = abs(float(of(ours[name])) - float(of(chains)))
            worst = max(worst, error / np.hypot(mcse(ours[name], method), mcse(chains, method)))
    return worst


def limit(comparisons: int, chance: float = 0.001) -> float:
    """What the largest of so many |z| exceeds with that probability at most (Bonferroni)."""
    return float(stats.norm.isf(chance / (2 * comparisons)))


def shifted(draws: dict[str, Array], by: float) -> dict[str, Array]:
    """Draws that are biased by so many sds."""
    return {name: chains + by * chains.std() for name, chains in draws.items()}


def over_confident(draws: dict[str, Array], factor: float) -> dict[str, Array]:
    """Draws with the right mean and too small an sd."""
    return {name: chains.mean() + factor * (chains - chains.mean()) for name, chains in draws.items()}


def _arviz(name: str, chains: Array, method: str) -> Any:
    import arviz

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(arviz, name)(chains, method=method)
