"""Densities of draws by Gaussian kernels, in one dimension and in two.

Bandwidths by Silverman's rule from the smaller of the standard deviation and the interquartile range, so that heavy
tails do not blur the middle. At the end of a support the kernels are reflected: a standard deviation that may well be
zero keeps its density there.

Silverman, B. W. (1986). Density Estimation for Statistics and Data Analysis. Chapman & Hall, sections 2.10 and 3.4.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from bayesmeta.plot.style import spread

__all__ = ["bandwidth", "contour_heights", "density", "density_of_pairs", "window"]

Array = npt.NDArray[np.float64]

MOST_DRAWS = 4000
TAIL = 0.001  # of the draws on each side that a window may leave out
ROOM = 0.08  # on each side of a window, as a share of its width


def bandwidth(values: Array) -> float:
    """Silverman's bandwidth of draws (S,), in their units; 0 where they are all the same."""
    low, high = np.quantile(values, [0.25, 0.75])
    spreads = [value for value in (float(values.std()), float(high - low) / 1.349) if value > 0]
    return 1.06 * min(spreads) * len(values) ** -0.2 if spreads else 0.0


def window(values: Array, support: tuple[float, float] = (-math.inf, math.inf)) -> tuple[float, float]:
    """From where to where draws (S,) are shown: all but the outermost thousandths, with some room, in their support."""
    low, high = (float(value) for value in np.quantile(values, [TAIL, 1 - TAIL]))
    room = ROOM * (high - low) or 0.5 * abs(high) or 1.0
    return max(low - room, support[0]), min(high + room, support[1])


def density(values: Array, at: Array, support: tuple[float, float] = (-math.inf, math.inf)) -> Array:
    """The density of draws (S,) at points (m,), which integrates to one over the support."""
    values = values[spread(len(values), MOST_DRAWS)]
    width = bandwidth(values)
    images = [values, *(2 * end - values for end in support if math.isfinite(end))]
    found = sum((_kernels(image, at, width).sum(0) for image in images), np.zeros(len(at)))
    found[(at < support[0]) | (at > support[1])] = 0.0
    total: Array = found / len(values)
    return total


def density_of_pairs(x: Array, y: Array, at_x: Array, at_y: Array) -> Array:
    """The density of pairs of draws (S,), (S,) on a lattice (len(at_y), len(at_x)); kernels along the axes."""
    pick = spread(len(x), MOST_DRAWS)
    x, y = x[pick], y[pick]
    shrink = len(x) ** (0.2 - 1 / 6)  # two dimensions want S^(-1/6) where one wants S^(-1/5)
    across, up = _kernels(x, at_x, bandwidth(x) * shrink), _kernels(y, at_y, bandwidth(y) * shrink)
    both: Array = up.T @ across / len(x)
    return both


def contour_heights(lattice: Array, levels: tuple[float, ...]) -> list[float]:
    """The heights of a density on a lattice above which its highest regions of these probabilities lie, ascending."""
    ordered = np.sort(lattice.reshape(-1))[::-1]
    share = np.cumsum(ordered) / ordered.sum()
    heights = [float(ordered[min(int(np.searchsorted(share, level)), len(ordered) - 1)]) for level in levels]
    return sorted(heights)


def _kernels(values: Array, at: Array, width: float) -> Array:
    """Normal densities about draws (S,) at points (m,): (S, m)."""
    z: Array = (at[None, :] - values[:, None]) / width
    kernels: Array = np.exp(-0.5 * z**2) / (width * math.sqrt(2 * math.pi))
    return kernels
