"""For the tests of calibration: a Gaussian hierarchy, its exact draws as a back-end, and wrong ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.diagnose.bands import IntArray
from bayesmeta.diagnose.sbc import rank
from bayesmeta.draws import Draws
from bayesmeta.target import Target

__all__ = ["Conjugate", "conjugate_ranks", "design", "gaussian", "run"]


@dataclass(frozen=True)
class Conjugate:
    """Exact draws of a posterior over φ that is Gaussian, or wrong ones.

    Args:
        draws: How many.
        stretch: What their sd is multiplied by.
        shift: What is added to them, in sds.
        evidence: As of every back-end.
    """

    draws: int = 150
    stretch: float = 1.0
    shift: float = 0.0
    evidence: str = "auto"


def run(target: Target, config: Conjugate, *, seed: int = 0, progress: bool = True) -> Draws:
    """Draw, by one Newton step from zero."""
    points = torch.cat([torch.zeros(1, target.dim), torch.eye(target.dim)]).to(torch.float64)
    grads = target.value_and_grad(points)[1]
    covariance = torch.linalg.inv(grads[:1] - grads[1:])
    z = torch.randn(
        config.draws, target.dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ) @ torch.linalg.cholesky(covariance).mT.to(torch.float64)
    sd = covariance.diagonal().sqrt()
    return Draws((covariance @ grads[0] + config.shift * sd + config.stretch * z).unsqueeze(0))


def gaussian(prior_mean: float = 0.0, noise: float = 1.0) -> bm.Hierarchy:
    """mu ~ N(prior_mean, 1), theta ~ N(mu, 1), y ~ N(theta, noise)."""

    def hyperprior() -> Tensor:
        mu: Tensor = pyro.sample("mu", dist.Normal(prior_mean, 1.0))
        return mu

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi, 1.0))
        drawn: Tensor = pyro.sample("y", dist.Normal(theta, noise).expand([len(x)]).to_event(1), obs=y)
        return drawn

    return bm.Hierarchy(hyperprior, task)


def design() -> bm.Tasks:
    """Five ragged tasks; what is observed does not matter."""
    return bm.Tasks.from_lists(None, [[0.5] * n for n in (3, 1, 6, 2, 4)], names=list("ABCDE"))


def conjugate_ranks(
    n: int, draws: int, *, shift: float = 0.0, stretch: float = 1.0, dropped: bool = False, seed: int = 0
) -> dict[str, IntArray]:
    """Ranks of mu and of the log likelihood among exact draws, in numpy: mu ~ N(0, 1), four y ~ N(mu, 1).

    Args:
        n: Replications.
        draws: Draws that are ranked among.
        shift: Added to the draws, in posterior sds.
        stretch: What their sd is multiplied by.
        dropped: Draw from the prior, as if the likelihood had been forgotten.
        seed: Seeds all.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        mu = rng.normal()
        y = mu + rng.normal(size=4)
        mean, sd = (0.0, 1.0) if dropped else (y.sum() / 5, 5**-0.5)
        sample = mean + sd * (shift + stretch * rng.normal(size=draws))
        values = np.concatenate([[mu], sample])
        log_likelihood = -0.5 * ((y - values[:, None]) ** 2).sum(1)
        both = np.stack([values, log_likelihood], 1)
        found.append(rank(both[0], both[1:], draws, rng))
    ranks = np.array(found)
    return {"mu": ranks[:, 0], "log likelihood": ranks[:, 1]}
