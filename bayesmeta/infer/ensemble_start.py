"""Where the members of an ensemble start: at draws from p(φ), and how large a step is for each coordinate.

Networks need it: near zero all their units are alike, and from a draw of the prior they are not. The spread of a
coordinate over draws from the prior is its unit: what a good first step is differs between the weights of a network,
an intercept of 250 and the logarithm of a scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bayesmeta.errors import BayesmetaError
from bayesmeta.infer.ensemble_density import MembersDensity
from bayesmeta.infer.ensemble_feed import Part
from bayesmeta.program import Program
from bayesmeta.sites import quiet_pyro

__all__ = ["prior_draws", "scales", "starts"]

DRAWS = 64
TRIES = 12
NEARER = 0.7  # each try starts so much nearer to the middle of the prior
NORMAL_QUARTILES = 1.349  # from the lower to the upper one, in standard deviations


def prior_draws(program: Program, members: int, seed: int) -> Tensor:
    """Coordinates of draws from p(φ) (S, q), at least as many as there are members."""
    with quiet_pyro(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = torch.stack([program.drawn_phi() for _ in range(max(DRAWS, members))])
    return torch.where(torch.isfinite(drawn), drawn, 0.0)


def scales(draws: Tensor) -> Tensor:
    """Standard deviations (q,) of draws (S, q), by their quartiles: tails may be as heavy as they like."""
    lower, upper = torch.quantile(draws, torch.tensor([0.25, 0.75], dtype=draws.dtype), dim=0)
    spread = (upper - lower) / NORMAL_QUARTILES
    return torch.where(spread > 0, spread, 1.0).clamp(1e-6, 1e6)


def starts(density: MembersDensity, part: Part, draws: Tensor, members: int) -> Tensor:
    """Points (M, q) of finite density and gradient: draws from the prior, nearer to its middle where need be.

    Raises:
        BayesmetaError: There is none for some member.
    """
    middle = draws.median(0).values
    u = draws[:members].clone()
    for attempt in range(TRIES):
        value, grad = density(u, part)
        failed = ~(torch.isfinite(value) & torch.isfinite(grad).all(1))
        if not bool(failed.any()):
            return u
        again = draws.roll(attempt + 1, 0)[:members]
        u = torch.where(failed.unsqueeze(1), middle + NEARER ** (attempt + 1) * (again - middle), u)
    raise BayesmetaError(
        f"no starting point of finite evidence was found in {TRIES} draws from the prior: look for observations that "
        "are impossible under the task, or for a hyperprior so wide that tasks overflow"
    )
