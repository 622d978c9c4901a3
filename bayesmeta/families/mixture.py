"""Tasks that come from K populations: linear regressions whose coefficients cluster.

    θ_t  ~ Normal(μ_k + γ'c_t, τ_k) with probability w_k, k = 1..K
    y_ti ~ Normal(θ_t[0] + θ_t[1:]'x_ti + β'x_ti, σ)

Which population a task comes from is summed out, and θ integrated out, both in closed form:

    Z_t(φ) = Σ_k w_k Z_tk(φ),      Z_tk = ∫ p(y_t | θ) Normal(θ; μ_k + γ'c_t, τ_k) dθ
    p(population k | φ, D_t) = w_k Z_tk / Z_t

so that what is sampled has no discrete part, and tasks between two populations keep their share in both (heterogeneity
models: Verbeke, Lesaffre 1996, "A linear mixed-effects model with heterogeneity in the random-effects population").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from bayesmeta.adapt import check_like
from bayesmeta.adapt.front import observations
from bayesmeta.closed_form import ClosedForm, Mixed
from bayesmeta.errors import OptionError
from bayesmeta.evidence.gaussian import LOG_2PI, Gaussian
from bayesmeta.families.design import CONCENTRATION, WIDTH, Chosen, Design, Origin
from bayesmeta.families.linear import moments
from bayesmeta.families.populations import OrderedRows, Populations, pick
from bayesmeta.families.rows_normal import RowsNormal
from bayesmeta.hierarchy import Hierarchy
from bayesmeta.mapping import chunk_size, over_draws
from bayesmeta.program import Row
from bayesmeta.tasks import Tasks

if TYPE_CHECKING:
    import pandas as pd

    from bayesmeta.posterior import Posterior

__all__ = ["memberships", "mixture"]

EVEN = 2.0  # concentration of the prior of the weights: mildly away from populations of nobody

Phi = Mapping[str, Tensor]


def mixture(
    tasks: Tasks,
    *,
    populations: int = 2,
    by: int = 0,
    intercept: bool = True,
    slopes: Chosen = "all",
    context: Chosen = "all",
    correlated: bool = False,
    origin: Origin = "mean",
    widen: float = 1.0,
) -> Hierarchy:
    """Linear regressions of tasks that come from several populations, priors scaled by the data.

    φ has ``weights`` (K,), ``mu`` and ``tau`` (K, p), ``L`` (K, p, p) where coefficients are correlated, and ``beta``,
    ``gamma``, ``sigma`` as in `linear`, the same in all populations. θ is ``theta`` (p,). `memberships` says where the
    tasks come from.

    Args:
        tasks: The tasks that it will be fitted to; only columns, means and standard deviations are looked at.
        populations: K, at least two.
        by: The element of θ by whose mean populations are numbered, ascending: 0 is the level. Take the one that
            tells them apart.
        intercept: As in `linear`.
        slopes: As in `linear`.
        context: As in `linear`.
        correlated: As in `linear`, within each population.
        origin: As in `linear`.
        widen: As in `linear`.

    Raises:
        OptionError: Fewer than two populations, an element that θ does not have, and as `linear`.
        DataError: As `linear`.
        UnknownNameError: As `linear`.

    Example:
        >>> import bayesmeta as bm
        >>> days = bm.data.load("sleepstudy")
        >>> tasks = bm.Tasks.from_frame(days, task="Subject", x="Days", y="Reaction")
        >>> print(bm.families.mixture(tasks, populations=2))
        Hierarchy(hyperprior, task)
          phi  weights  Dirichlet    simplex    2
          phi  mu       OrderedRows  ascending  2×2
          phi  tau      HalfNormal   positive   2×2
          phi  sigma    HalfNormal   positive   scalar
          theta  found when the hierarchy first meets tasks
    """
    if not isinstance(populations, int) or isinstance(populations, bool) or populations < 2:
        raise OptionError(f"populations must be a whole number of at least 2, got {populations!r}; for one, use linear")
    design = Design.of(
        tasks, intercept=intercept, slopes=slopes, context=context, correlated=correlated, origin=origin, widen=widen
    )
    if not isinstance(by, int) or not 0 <= by < design.size:
        raise OptionError(f"by must be an element of θ, from 0 to {design.size - 1}, got {by!r}")
    level, unit = moments(tasks, "mixture")
    mixed = _Mixture(design, populations, by, level, unit)
    form = _MixtureForm(
        log_z=mixed.log_z,
        theta=mixed.theta,
        predictive=mixed.predictive,
        road=f"own: which of {populations} populations a task comes from is summed out, and θ integrated out",
        extra=1,
        numbers=2 * populations + design.size,
        log_z_each=mixed.log_z_each,
    )
    return Hierarchy(mixed.hyperprior, mixed.task, evidence=form)


def memberships(posterior: Posterior, tasks: Tasks | None = None) -> pd.DataFrame:
    """Where tasks come from: the probability of each population, given everything observed.

    Args:
        posterior: Of a hierarchy made by `mixture`.
        tasks: New tasks, or tasks of the fit with further observations, as `Posterior.adapt` takes them; by default
            the tasks of the fit.

    Returns:
        One row per task, one column per population (0 to K - 1); rows sum to one.

    Raises:
        OptionError: The hierarchy is no mixture.
        DataError: The tasks are not shaped as those of the fit.
    """
    import pandas as pd

    form = posterior.hierarchy.closed_form
    if not isinstance(form, _MixtureForm):
        raise OptionError("memberships are of tasks of a mixture: fit a hierarchy made by bm.families.mixture")
    tasks = posterior.tasks if tasks is None else tasks
    check_like(posterior.tasks, tasks)
    known, before = observations(posterior.tasks, tasks)
    now = _each(posterior, form, known)
    weight = torch.logsumexp(now, -1) - torch.logsumexp(_each(posterior, form, before), -1)
    share = torch.softmax(now, -1) * torch.softmax(weight, 0).unsqueeze(-1)
    return pd.DataFrame(share.sum(0).numpy(), index=pd.Index(tasks.names, name="task"))


def _each(posterior: Posterior, form: _MixtureForm, tasks: Tasks) -> Tensor:
    """log w_k Z_tk under every draw of φ, (S, T, K)."""
    program = posterior.collapsed.program
    batches = tasks.padded()
    rows = [Row.of(batch) for batch in batches]

    def at(u: Tensor) -> Tensor:
        phi = program.returned(u)
        return torch.cat([program.over_tasks(lambda row: form.log_z_each(phi, row))(row) for row in rows])

    cells = form.numbers * sum(batch.mask.numel() for batch in batches)
    found: Tensor = over_draws(program, at, (posterior.phi_coordinates,), chunk_size(4 * cells))
    return found[:, torch.argsort(torch.cat([batch.index for batch in batches]))]


@dataclass(frozen=True, kw_only=True)
class _MixtureForm(ClosedForm):
    """A closed form that knows the populations: ``log_z_each(phi, row)`` is log w_k Z_k of one task, (K,)."""

    log_z_each: Any


@dataclass(frozen=True)
class _Mixture:
    """The functions of the family; p coefficients, K populations."""

    design: Design
    count: int
    by: int
    level: float
    unit: float

    def hyperprior(self) -> dict[str, Tensor]:
        """φ: how common populations are, their means and spreads, and what they share."""
        design, k = self.design, self.count
        loc, scale = design.scales(self.level, self.unit)
        phi = {
            "weights": pyro.sample("weights", dist.Dirichlet(torch.full((k,), EVEN, dtype=torch.float64))),
            "mu": pyro.sample("mu", OrderedRows(loc, WIDTH * scale, k, self.by)),
            "tau": pyro.sample("tau", dist.HalfNormal(scale.expand(k, -1)).to_event(2)),
        }
        if design.correlated:
            correlations = dist.LKJCholesky(design.size, CONCENTRATION).expand([k])
            phi["L"] = pyro.sample("L", correlations.to_event(1))
        phi |= design.shared(self.unit)
        phi["sigma"] = pyro.sample("sigma", dist.HalfNormal(design.widen * self.unit))
        return phi

    def task(self, phi: Phi, x: Tensor, y: Tensor | None = None, **context: Tensor) -> Any:
        """θ from one of the populations, and the observations."""
        theta = pyro.sample("theta", Populations(phi["weights"], self.design.prior(phi, context)))
        mean = self.design.predictor(phi, theta, x)
        return pyro.sample("y", dist.Normal(mean, phi["sigma"]).to_event(1), obs=y)

    def log_z(self, phi: Phi, row: Row) -> Tensor:
        """log Z of one task, ()."""
        return torch.logsumexp(self.log_z_each(phi, row), -1)

    def log_z_each(self, phi: Phi, row: Row) -> Tensor:
        """log w_k Z_k of one task (K,)."""
        return self._given(phi, row).log_z

    def theta(self, phi: Phi, row: Row, z: Tensor) -> Tensor:
        """A draw of θ (p,) from standard normal numbers (p + 1,), the last of which picks the population."""
        given = self._given(phi, row)
        chosen = pick(torch.softmax(given.log_z, -1), torch.special.ndtr(z[-1:]))
        each = given.mean + (given.root * z[:-1]).sum(-1)
        return (chosen.unsqueeze(-1) * each).sum(-2)

    def predictive(self, phi: Phi, row: Row, x: Tensor) -> Mixed:
        """Observations at x (m, ...) given those of one task."""
        given, columns = self._given(phi, row), self.design.columns(x)
        loc = given.mean @ columns.mT + self.design.offset(phi, x)
        scale = phi["sigma"].expand(loc.shape)
        parts = RowsNormal(loc, columns @ given.root, scale, torch.eye(1, dtype=loc.dtype))
        return Mixed(torch.log_softmax(given.log_z, -1), parts)

    def _given(self, phi: Phi, row: Row) -> _Given:
        """θ of one task given its observations, were it of each population: by θ = m + S z, z standard normal."""
        mean, root = self._populations(phi, row)
        columns = torch.where(row.mask.unsqueeze(-1), self.design.columns(row.x), 0.0)
        residual = torch.where(row.mask, row.y - self.design.offset(phi, row.x), 0.0) - mean @ columns.mT
        weight = phi["sigma"].pow(-2)
        precision = weight * (root.mT @ (columns.mT @ columns) @ root) + torch.eye(mean.shape[-1], dtype=mean.dtype)
        b = weight * ((residual @ columns).unsqueeze(-2) @ root).squeeze(-2)
        gaussian = Gaussian.of(precision, b)
        rest = 0.5 * (row.mask.sum() * (weight.log() - LOG_2PI) - weight * residual.square().sum(-1))
        log_z = phi["weights"].log() + rest + gaussian.half_quadratic() - 0.5 * gaussian.log_det()
        spread = torch.stack([torch.stack(column, -1) for column in gaussian.columns()], -1)
        centre = (root @ torch.stack(gaussian.mean(), -1).unsqueeze(-1)).squeeze(-1)
        return _Given(log_z, mean + centre, root @ spread)

    def _populations(self, phi: Phi, row: Row) -> tuple[Tensor, Tensor]:
        """Means (K, p) and lower Cholesky factors S (K, p, p) of p(θ | φ) in each population."""
        mean = phi["mu"] + self.design.shift(phi, row.context)
        if self.design.correlated:
            return mean, phi["tau"].unsqueeze(-1) * phi["L"]
        return mean, torch.diag_embed(phi["tau"])


class _Given(NamedTuple):
    """By population: log w_k Z_k (K,), mean (K, p) and a root (K, p, p) of the covariance of θ | φ, y."""

    log_z: Tensor
    mean: Tensor
    root: Tensor
