"""Guides: q(φ) by one of Pyro's autoguides, and q(θ_t | φ), a normal for each task whose mean follows φ.

All of φ is one site "phi", in the coordinates w in which its mode is 0 and its curvature the identity. The guide of
θ stands in a plate over tasks, and takes the minibatch as an argument, the same object that the model takes: an
autoguide of a model with a plate would draw indices of its own and replace those of the model by them (Pyro issue
3468), so that no autoguide here ever sees the plate.

    q(θ_t | φ) = Normal(m_t + A_t w, C_t C_t'),        diagonal of C_t times exp(b_t'w)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import (
    ComposeTransformModule,
    Permute,
    Spline,
    affine_autoregressive,
)
from pyro.infer.autoguide import (
    AutoContinuous,
    AutoDelta,
    AutoDiagonalNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormalizingFlow,
)
from pyro.infer.autoguide.initialization import init_to_value
from pyro.nn import PyroModule
from torch import Tensor, nn

from bayesmeta.infer.svi_minibatch import Batch
from bayesmeta.infer.svi_start import LocalStart

__all__ = ["DIAGONAL", "GUIDES", "Local", "LocalNormal", "PhiGuide", "Structured", "draw_phi", "model_of", "phi_guide"]

GUIDES = ("meanfield", "fullrank", "lowrank", "flow", "map")
DIAGONAL = ("meanfield", "lowrank")  # guides that are the same family in scaled coordinates, but not in rotated ones
DF = 3.0  # of the Student-t that weights are kept bounded by
MOMENTS = 1_000  # draws that its moments are taken from at least
BINS = 12
BOUND = 8.0  # of splines, in standard deviations: the flow is a normal's tail beyond it


class Local(Protocol):
    """q(θ | φ) of the tasks of a batch."""

    def __call__(self, w: Tensor, batch: Batch) -> Any:
        """The distribution of θ, batch shape (..., B), event shape (p,), at w (..., 1, q)."""


class PhiGuide(nn.Module):
    """q(w) alone, as the guide where θ is integrated out."""

    def __init__(self, phi: Any) -> None:
        super().__init__()
        self.phi = phi

    def forward(self, batch: Batch) -> None:
        """Sample the site "phi"."""
        self.phi()


class Structured(PyroModule):
    """q(w) Π q(θ_t | w) over the tasks of a batch.

    Args:
        phi: The guide of the site "phi".
        local: q(θ | φ).
        count: T, the tasks in all.
    """

    def __init__(self, phi: Any, local: Local, count: int) -> None:
        super().__init__()
        self.phi, self.local, self.count = phi, local, count

    def forward(self, batch: Batch) -> None:
        """Sample "phi", and "theta" of the tasks of the batch."""
        w = self.phi()["phi"]
        infer: Any = {"score": self.local(w.detach(), batch)}
        with pyro.plate("task", self.count, subsample=batch.index, dim=-1):
            pyro.sample("theta", self.local(w, batch), infer=infer)


class LocalNormal(nn.Module):
    """A normal per task with parameters of its own.

    Args:
        start: Where it starts, for each of the T tasks.
    """

    def __init__(self, start: LocalStart) -> None:
        super().__init__()
        count, p, q = start.slope.shape
        self.mean = nn.Parameter(start.mean.clone())
        self.slope = nn.Parameter(start.slope.clone())
        self.log_scale = nn.Parameter(start.root.diagonal(dim1=-2, dim2=-1).log())
        self.log_slope = nn.Parameter(torch.zeros(count, p, q, dtype=start.mean.dtype))
        self.lower = nn.Parameter(start.root.tril(-1))

    def forward(self, w: Tensor, batch: Batch) -> Any:
        """The normal of the tasks of a batch, at w (..., 1, q)."""
        at, column = batch.index, w.unsqueeze(-1)
        mean = self.mean[at] + (self.slope[at] @ column).squeeze(-1)
        log_scale = self.log_scale[at] + (self.log_slope[at] @ column).squeeze(-1)
        return normal(mean, log_scale, self.lower[at])


def normal(mean: Tensor, log_scale: Tensor, lower: Tensor) -> Any:
    """A normal over θ (..., p) from its mean, the log diagonal of its Cholesky factor, and what is below that."""
    if mean.shape[-1] == 1:
        return dist.Normal(mean, log_scale.exp()).to_event(1)
    return dist.MultivariateNormal(mean, scale_tril=torch.diag_embed(log_scale.exp()) + lower.tril(-1))


def phi_guide(kind: str, q: int, scale: float, rank: int | None) -> Any:
    """The autoguide of a kind in `GUIDES` over w (q,), starting as a normal of that sd about zero."""
    model = _phi_site(q)
    at_zero = init_to_value(values={"phi": torch.zeros(q)})
    guide: Any
    if kind == "meanfield":
        guide = AutoDiagonalNormal(model, init_loc_fn=at_zero, init_scale=scale)
    elif kind == "fullrank":
        guide = AutoMultivariateNormal(model, init_loc_fn=at_zero, init_scale=scale)
    elif kind == "lowrank":
        guide = AutoLowRankMultivariateNormal(model, init_loc_fn=at_zero, init_scale=scale, rank=rank)
    elif kind == "flow":
        guide = AutoNormalizingFlow(model, _flow)
    else:
        guide = AutoDelta(model, init_loc_fn=at_zero)
    guide()  # makes the parameters
    return guide


def _phi_site(q: int) -> Callable[[], Tensor]:
    """A model of the site "phi" alone: real, and without a density, which the model's factor has."""

    def model() -> Tensor:
        prior = dist.Normal(torch.zeros(q), 1.0).to_event(1).mask(False)
        value: Tensor = pyro.sample("phi", prior)
        return value

    return model


def _flow(dim: int) -> Any:
    """Affine autoregressive layers in both orders of the coordinates, then a spline of each coordinate."""
    spline = Spline(dim, count_bins=BINS, bound=BOUND)
    if dim == 1:
        return ComposeTransformModule([spline])
    hidden = [max(16, 4 * dim)] * 2
    turned = Permute(torch.arange(dim - 1, -1, -1))
    affine = [affine_autoregressive(dim, hidden_dims=hidden) for _ in range(2)]
    return ComposeTransformModule([affine[0], turned, affine[1], turned, spline])


def model_of(q: int, p: int, count: int, coordinates: Callable[[Tensor], Tensor]) -> Callable[[Batch], None]:
    """The Pyro model: sites without a density and one factor, the log density at them.

    The factor is the mean over particles, which Pyro counts once for each of them.

    Args:
        q: Coordinates of φ.
        p: Coordinates of θ; 0 where it is integrated out.
        count: T, the tasks in all.
        coordinates: From w (..., q) to the coordinates of φ that the log density takes.
    """
    phi_site = _phi_site(q)

    def model(batch: Batch) -> None:
        u = coordinates(phi_site())
        if p:
            prior = dist.Normal(torch.zeros(p), 1.0).to_event(1).mask(False)
            with pyro.plate("task", count, subsample=batch.index, dim=-1):
                theta = pyro.sample("theta", prior)
            u = torch.cat([u.reshape(-1, q), theta.reshape(-1, len(batch.index) * p)], -1)
        pyro.factor("log_density", batch.mean(u.reshape(-1, u.shape[-1])))

    return model


def draw_phi(guide: Any, count: int, heavy: int = 0) -> tuple[Tensor, Tensor]:
    """Draws of w and the log density of what they were drawn from; a point has density one.

    Args:
        guide: The autoguide.
        count: Draws from it, which come first.
        heavy: Further draws from a Student-t of its mean and covariance. The density is then that of the mixture:
            weights stay bounded where the tails of the guide are lighter than those of the posterior (Hesterberg
            1995, "Weighted average importance sampling and defensive mixture distributions").

    Returns:
        w (S, q) and log q(w) (S,), S = count + heavy.
    """
    with torch.no_grad():
        if not isinstance(guide, AutoContinuous):
            w = guide()["phi"].detach().expand(count, -1)
            return w, torch.zeros(count, dtype=w.dtype)
        posterior = guide.get_posterior()
        w = posterior.sample((count,))
        if not heavy:
            return w, posterior.log_prob(w)
        tail = _student_t(w if count >= MOMENTS else posterior.sample((MOMENTS,)))
        w = torch.cat([w, tail.sample(torch.Size([heavy]))])
        shares = torch.tensor([count, heavy], dtype=w.dtype).log() - math.log(count + heavy)
        return w, torch.logaddexp(shares[0] + posterior.log_prob(w), shares[1] + tail.log_prob(w))


def _student_t(w: Tensor) -> Any:
    """A Student-t with the mean and the covariance of draws as location and scale."""
    covariance = torch.cov(w.mT).reshape(w.shape[1], w.shape[1])
    ridge = 1e-9 * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=w.dtype)
    factor = torch.linalg.cholesky(covariance + ridge)
    return dist.MultivariateStudentT(torch.tensor(DF, dtype=w.dtype), w.mean(0), factor)
