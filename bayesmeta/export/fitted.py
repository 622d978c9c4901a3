"""What ArviZ is to have of a posterior or a prior, as NumPy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyro.poutine import block
from torch import Tensor

from bayesmeta.errors import BayesmetaError, OptionError
from bayesmeta.evidence import Joint
from bayesmeta.export.groups import Array, Population, Sampled, groups
from bayesmeta.likelihood import evidence_per_task, log_likelihood_rows
from bayesmeta.mapping import over_draws
from bayesmeta.prior import Prior, prior_of
from bayesmeta.program import Program
from bayesmeta.replicas import centred_theta, replicas
from bayesmeta.sites import Values
from bayesmeta.tasks import Tasks

if TYPE_CHECKING:
    import xarray as xr

    from bayesmeta.posterior import Posterior

__all__ = ["posterior_groups", "prior_groups"]

MOST_NUMBERS = 50_000_000  # of one group
FEW_NUMBERS = 5_000_000  # that observations drawn anew may be, where they are not asked for


def posterior_groups(
    posterior: Posterior,
    *,
    log_likelihood: bool = True,
    posterior_predictive: bool | None = None,
    prior: bool | Prior = False,
) -> dict[str, xr.Dataset]:
    """The groups of a posterior.

    Args:
        posterior: The posterior; S draws, N observations.
        log_likelihood: With log_likelihood, where S x N is at most 50 million, and log_prior. ``y_by_task`` is
            log Z_t(φ) where θ is integrated out, and the sum over observations where it is sampled.
        posterior_predictive: With observations drawn anew, one of each under every draw; None: with the log
            likelihood, where S x N is at most five million and the task draws them, many at once.
        prior: With prior and prior_predictive: 1,000 draws, or those given.

    Raises:
        HierarchyError: Observations drawn anew, or a prior, were asked for, and the hierarchy cannot be run forwards.
        OptionError: A prior for other tasks.
    """
    population = _population(posterior.collapsed.program, posterior.tasks)
    before = None
    if prior is not False:
        before = _of_prior(_prior(posterior, prior))
    sampled = _of_posterior(posterior, log_likelihood, posterior_predictive)
    return groups(population, posterior=sampled, prior=before)


def prior_groups(prior: Prior) -> dict[str, xr.Dataset]:
    """The groups of draws from a prior: prior, prior_predictive, observed_data, constant_data."""
    return groups(_population(prior.program, prior.tasks), prior=_of_prior(prior))


def _population(program: Program, tasks: Tasks) -> Population:
    structure, columns = program.structure, tasks.columns
    return Population(
        tasks=tasks.names,
        sizes=tasks.sizes.numpy(),
        x=tasks.x.numpy(),
        y=tasks.y.numpy(),
        observed=structure.observed[0],
        plates={site.name: site.plates for site in (*structure.phi, *structure.theta)},
        context={name: value.numpy() for name, value in tasks.context.items()},
        columns=columns.x if columns is not None and isinstance(columns.x, tuple) else None,
    )


def _of_posterior(posterior: Posterior, log_likelihood: bool, predictive: bool | None) -> Sampled:
    chains, draws = posterior.draws.u.shape[:2]
    numbers = chains * draws * posterior.tasks.n_observations
    by_task = rows = None
    prior: dict[str, Array] = {}
    if log_likelihood and numbers <= MOST_NUMBERS:
        by_task, rows = evidence_per_task(posterior), log_likelihood_rows(posterior)
        prior = _arrays(_log_prior(posterior.collapsed.program, posterior.phi_coordinates))
    return Sampled(
        shape=(chains, draws),
        phi=_arrays(posterior.phi),
        theta=_arrays(posterior.theta),
        y=_predictive(posterior, predictive, may=log_likelihood and numbers <= FEW_NUMBERS),
        stats=posterior.draws.stats,
        log_likelihood=None if rows is None else rows.numpy(),
        by_task=None if by_task is None else by_task.numpy(),
        log_prior=prior,
        attrs=_attrs(posterior),
    )


def _of_prior(prior: Prior) -> Sampled:
    return Sampled(
        shape=(1, len(prior)),
        phi=_arrays(prior.phi),
        theta=_arrays(prior.theta),
        y=prior.y.numpy(),
        attrs={"seed": prior.seed},
    )


def _prior(posterior: Posterior, prior: bool | Prior) -> Prior:
    if not isinstance(prior, Prior):
        return prior_of(posterior)
    if prior.tasks.names != posterior.tasks.names or prior.tasks.y.shape != posterior.tasks.y.shape:
        raise OptionError(
            f"prior has {len(prior.tasks):,} tasks with {prior.tasks.n_observations:,} observations, and they are not "
            "those of the fit: take posterior.prior(), or bm.prior(hierarchy, posterior.tasks)"
        )
    return prior


def _predictive(posterior: Posterior, wanted: bool | None, may: bool) -> Array | None:
    """Observations drawn anew (S, N, ...): where they are wanted, or where they may be and can."""
    if wanted is False or (wanted is None and not may):
        return None
    program, tasks, phi = posterior.collapsed.program, posterior.tasks, posterior.phi_coordinates
    if wanted is None and not program.structure.vectorised:
        return None
    try:
        theta = posterior.theta_coordinates
        if isinstance(posterior.collapsed, Joint):
            theta = centred_theta(program, tasks, phi, posterior.theta)
        y = replicas(program.with_centring(True), tasks, phi, theta, seed=posterior.info.seed, support=tasks)
    except (BayesmetaError, NotImplementedError, RuntimeError):  # a task that cannot be run forwards
        if wanted:
            raise
        return None
    return y.numpy()


def _log_prior(program: Program, phi: Tensor) -> dict[str, Tensor]:
    """log p of each φ site (S,), in the units of φ: no Jacobian of the coordinates (S, q)."""
    structure = program.structure

    def one(u: Tensor) -> dict[str, Tensor]:
        handler = Values(program.phi(u).values, constrained=True)
        with block(), handler:
            program.hyperprior()
        return {name: handler.met[name].log_prob() for name in structure.phi.names}

    terms: dict[str, Tensor] = over_draws(program, one, (phi,), 10_000)
    return terms


def _attrs(posterior: Posterior) -> dict[str, Any]:
    info = posterior.info
    attrs: dict[str, Any] = {
        "inference_library_version": info.versions.get("bayesmeta", ""),
        "back_end": str(info.inference.get("back_end", "")),
        "evidence": info.evidence,
        "seed": info.seed,
        "verdict": posterior.verdict.level,
    }
    weighted = {"k_hat": info.k_hat, "effective_size": info.effective_size}
    return attrs | {name: float(value) for name, value in weighted.items() if value is not None}


def _arrays(values: dict[str, Tensor]) -> dict[str, Array]:
    return {name: value.numpy() for name, value in values.items()}
