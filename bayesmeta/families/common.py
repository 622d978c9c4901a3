"""The function that all tasks have in common, itself a Gaussian process: known at some points, Normal in between.

    m(x) = k(x, Z) L⁻ᵀ w,      k(Z, Z) = L L',      w ~ Normal(0, I)

At the points Z, m has exactly the distribution of the process; elsewhere it is the best prediction from its values
there, which loses the variance that the process has left between the points, little where they are dense. φ are w and
the kernel's hyperparameters: m has a posterior, and learnt from few tasks it is smooth and unsure where a network
would bend. After Quiñonero-Candela, Rasmussen 2005, "A unifying view of sparse approximate Gaussian process
regression" (there the subset of regressors).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor

from bayesmeta.families.kernels import Kernel, Prior
from bayesmeta.families.rows_normal import cholesky

__all__ = ["Common", "spread_points"]

NAME = "common"  # of the site of w
JITTER = 1e-6  # this share of the mean variance at the points is added to it
MOST_ROWS = 5_000  # of the inputs, that points are looked for among
ROUNDS = 20


@dataclass(frozen=True, eq=False)
class Common:
    """A common function.

    Attributes:
        kernel: Its covariance.
        points: Z (M, d).
    """

    kernel: Kernel
    points: Tensor

    @property
    def sites(self) -> dict[str, Prior]:
        """w and the hyperparameters, each with its prior."""
        return {**self.kernel.sites, NAME: dist.Normal(0.0, 1.0).expand([len(self.points)]).to_event(1)}

    def weights(self, phi: Mapping[str, Any]) -> Tensor:
        """L⁻ᵀ w (M,), the same for all tasks: `sample` keeps it in φ."""
        covariance = self.kernel.matrix(phi, self.points, self.points)
        ridge = JITTER * self.kernel.variance(phi, self.points).mean()  # one that is zero at a point is none elsewhere
        factor = cholesky(covariance + ridge * torch.eye(len(covariance), dtype=covariance.dtype))
        solved: Tensor = torch.linalg.solve_triangular(factor.mT, phi[NAME].unsqueeze(-1), upper=True)
        return solved.squeeze(-1)

    def sample(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """What the hyperprior returns of it, with the weights; networks of the kernel are sampled already."""
        phi = {name: _drawn(name, prior) for name, prior in self.sites.items()}
        return {**phi, f"{NAME}_weights": self.weights({**known, **phi})}

    def __call__(self, phi: Mapping[str, Any], x: Tensor) -> Tensor:
        """m (n,) at inputs (n, d)."""
        values: Tensor = self.kernel.matrix(phi, x, self.points) @ phi[f"{NAME}_weights"]
        return values


def _drawn(name: str, prior: Prior) -> Any:
    if hasattr(prior, "log_prob"):
        return pyro.sample(name, prior)
    return torch.as_tensor(prior, dtype=torch.float64)


def spread_points(x: Tensor, count: int) -> Tensor:
    """So many points (M, d) where inputs (N, d) are, by k-means; all of them where there are no more."""
    x = x.unique(dim=0)
    if len(x) <= count:
        return x
    generator = torch.Generator().manual_seed(0)
    x = x[torch.randperm(len(x), generator=generator)[:MOST_ROWS]]
    centres = x[:count].clone()
    for _ in range(ROUNDS):
        nearest = torch.cdist(x, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, x)
        sizes = nearest.bincount(minlength=count).unsqueeze(-1)
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
    return centres
