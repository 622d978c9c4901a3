"""Exact moments by brute force: a density in numpy, importance sampled from a Student-t about its mode.

Nothing of bayesmeta takes part. With smooth densities of a handful of coordinates and 10⁵ draws the Monte Carlo
error is a few thousandths of an sd, and the effective size says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from tests.truth import Array

__all__ = ["Weighted", "importance"]


class Weighted(NamedTuple):
    """Draws (S, q) with weights (S,) that sum to one."""

    u: Array
    weights: Array

    @property
    def effective(self) -> float:
        """Kish's effective size."""
        return float(1 / (self.weights**2).sum())

    def moments(self, of: Callable[[Array], Array]) -> tuple[float, float]:
        """Mean and sd of a function of the draws."""
        values = of(self.u)
        mean = float(self.weights @ values)
        return mean, float(np.sqrt(self.weights @ (values - mean) ** 2))


def importance(log_density: Callable[[Array], Array], start: list[float], draws: int, seed: int = 0) -> Weighted:
    """Draws from a density.

    Args:
        log_density: from points (S, q) to (S,).
        start: where to look for the mode, (q,).
        draws: how many; a second round is proposed from the moments of the first.
        seed: of NumPy's generator.
    """
    found = optimize.minimize(lambda u: -float(log_density(u[None])[0]), start, method="BFGS", options={"gtol": 1e-4})
    centre, covariance = found.x, _covariance(log_density, found.x)
    rng = np.random.default_rng(seed)
    for count in (draws // 4, draws):
        proposal = stats.multivariate_t(centre, covariance, df=6, seed=rng)
        u = proposal.rvs(count)
        log_weights = log_density(u) - proposal.logpdf(u)
        weights = np.exp(log_weights - log_weights.max())
        weights /= weights.sum()
        centre = weights @ u
        covariance = (u - centre).T @ ((u - centre) * weights[:, None])
    return Weighted(u, weights)


def _covariance(log_density: Callable[[Array], Array], mode: Array, step: float = 1e-3) -> Array:
    """The inverse of minus the Hessian, by central differences."""
    q = len(mode)
    eye = step * np.eye(q)
    corners = [mode + a * eye[i] + b * eye[j] for i in range(q) for j in range(q) for a in (1, -1) for b in (1, -1)]
    values = log_density(np.array(corners)).reshape(q, q, 4)
    hessian = (values[..., 0] - values[..., 1] - values[..., 2] + values[..., 3]) / (4 * step**2)
    return np.asarray(np.linalg.inv(-hessian))
