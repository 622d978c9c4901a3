"""What a hierarchy says before it has seen an observation.

    φ ~ p(φ),    θ_t | φ ~ p(θ | φ),    y_t | x_t, θ_t, φ ~ task        with the inputs and contexts of given tasks

Draws of all three, which go together: looked at beside the posterior they show what the data have taught, and
beside the data whether the hyperprior was sensible (Gabry et al. 2019, "Visualization in Bayesian workflow").
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesmeta.adapt.population import check_population, draw_theta
from bayesmeta.errors import BayesmetaError, BayesmetaWarning, DataError, HierarchyError, OptionError
from bayesmeta.evidence.conditional import constrained
from bayesmeta.hierarchy import Hierarchy
from bayesmeta.mapping import chunk_size, over_draws
from bayesmeta.plates import is_factor
from bayesmeta.program import Program, Row, first_rows
from bayesmeta.replicas import replicas
from bayesmeta.sites import Values, quiet_pyro
from bayesmeta.tasks import Tasks

if TYPE_CHECKING:
    from bayesmeta.posterior import Posterior

__all__ = ["Prior", "prior", "prior_of"]

MOST_NUMBERS = 50_000_000  # of θ, or of y: 400 MB


def prior(hierarchy: Hierarchy, tasks: Tasks, draws: int = 1000, seed: int = 0) -> Prior:
    """Draw φ, θ and observations from a hierarchy, at the inputs, contexts and sizes of these tasks.

    Args:
        hierarchy: The hierarchy.
        tasks: The tasks; what was observed in them is not used.
        draws: S, how many draws.
        seed: Seeds the draws; nobody's random state is touched.

    Returns:
        The draws, θ and y drawn when first asked for.

    Raises:
        HierarchyError: The hierarchy cannot be drawn from: it conditions φ or θ by a `pyro.factor` or an ``obs=``.
        OptionError: Fewer than one draw, or a negative seed.
        DataError: `tasks` are no `Tasks`.

    Example:
        >>> import bayesmeta as bm
        >>> import pyro, pyro.distributions as dist
        >>> def hyperprior():
        ...     return pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfNormal(1.0))
        >>> def task(phi, x, y=None):
        ...     theta = pyro.sample("theta", dist.Normal(*phi))
        ...     return pyro.sample("y", dist.Normal(theta, 1.0).expand([len(x)]).to_event(1), obs=y)
        >>> tasks = bm.Tasks.from_lists(None, [[0.3, 0.1], [1.2]])
        >>> before = bm.prior(bm.Hierarchy(hyperprior, task), tasks, draws=500)
        >>> before.phi["mu"].shape, before.theta["theta"].shape, before.y.shape
        (torch.Size([500]), torch.Size([500, 2]), torch.Size([500, 3]))
    """
    if not isinstance(tasks, Tasks):
        raise DataError(f"tasks must be a Tasks, got {type(tasks).__name__}")
    return Prior(hierarchy.program(tasks), tasks, draws, seed)


def prior_of(posterior: Posterior, draws: int = 1000, seed: int = 0) -> Prior:
    """`prior` of the hierarchy and the tasks of a fit."""
    return Prior(posterior.collapsed.program.with_centring(True), posterior.tasks, draws, seed)


class Prior:
    """Draws of φ, θ and y that go together, S of each, from a hierarchy that has seen nothing.

    Attributes:
        tasks: The tasks whose inputs, contexts and sizes they have: T tasks, N observations in all.
        seed: The seed.
        phi_coordinates: Unconstrained coordinates of φ (S, q).

    Made by `bayesmeta.prior` or `Posterior.prior`.
    """

    def __init__(self, program: Program, tasks: Tasks, draws: int, seed: int) -> None:
        if not isinstance(draws, int) or draws < 1:
            raise OptionError(f"draws must be a whole number of at least 1, got {draws!r}")
        if not isinstance(seed, int) or seed < 0:
            raise OptionError(f"seed must be a whole number of at least 0, got {seed!r}")
        _check(program, tasks)
        self.tasks = tasks
        self.seed = seed
        self.program = program
        self._seeds = [int(number) for number in np.random.SeedSequence(seed).generate_state(3)]
        self.phi_coordinates = _at_once_or_not(program, lambda program: _draw_phi(program, draws, self._seeds[0]))

    def __len__(self) -> int:
        return len(self.phi_coordinates)

    @cached_property
    def phi(self) -> dict[str, Tensor]:
        """φ by site, each (S, ...)."""
        program = self.program
        values: dict[str, Tensor] = over_draws(
            program, lambda u: program.phi(u).values, (self.phi_coordinates,), 10_000
        )
        return values

    @cached_property
    def theta_coordinates(self) -> Tensor:
        """Centred coordinates of θ (S, T, p)."""
        self._check_size("θ", len(self.tasks) * self.program.structure.theta.size)
        phi, seed = self.phi_coordinates, self._seeds[1]
        return _at_once_or_not(self.program, lambda program: draw_theta(program, phi, self.tasks, seed))

    @cached_property
    def theta(self) -> dict[str, Tensor]:
        """θ by site, each (S, T, ...)."""
        return constrained(self.program, self.tasks, self.phi_coordinates, self.theta_coordinates)

    @cached_property
    def y(self) -> Tensor:
        """The observations of all tasks, one task after the other, as in ``tasks.y`` (S, N, ...).

        Where a prior is so wide that they overflow they are not finite, and a `BayesmetaWarning` says so.
        """
        self._check_size("y", self.tasks.y.numel())
        y = replicas(self.program, self.tasks, self.phi_coordinates, self.theta_coordinates, seed=self._seeds[2])
        finite = torch.isfinite(y)
        if not bool(finite.all()):
            share = float((~finite).double().mean())
            warnings.warn(
                f"{share:.1%} of the observations drawn from the prior are not finite: the hyperprior is very wide",
                BayesmetaWarning,
                stacklevel=2,
            )
        return y

    def to_arviz(self) -> Any:
        """Groups prior, prior_predictive, observed_data and constant_data for ArviZ, as `Posterior.to_arviz` does."""
        from bayesmeta.export.container import to_arviz
        from bayesmeta.export.fitted import prior_groups

        return to_arviz(prior_groups(self))

    def _check_size(self, what: str, numbers: int) -> None:
        if len(self) * numbers > MOST_NUMBERS:
            few = max(1, MOST_NUMBERS // numbers)
            raise OptionError(
                f"{len(self):,} draws of {what} of {len(self.tasks):,} tasks are {len(self) * numbers:,} numbers, more "
                f"than {MOST_NUMBERS:,}: take draws={few}, or some of the tasks, tasks[:100]"
            )

    def __repr__(self) -> str:
        sites = ", ".join(self.program.structure.phi.names)
        inside = ", ".join(self.program.structure.theta.names) or "none"
        return f"Prior: {len(self):,} draws of φ ({sites}), θ ({inside}) and y of {len(self.tasks):,} tasks"


def _draw_phi(program: Program, draws: int, seed: int) -> Tensor:
    """Coordinates of φ (S, q)."""
    counter = torch.zeros(draws, dtype=torch.float64)
    chunk = chunk_size(8 * program.structure.phi.size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        u: Tensor = over_draws(program, lambda _: program.drawn_phi(), (counter,), chunk, randomness="different")
    return u


def _at_once_or_not(program: Program, draw: Callable[[Program], Tensor]) -> Tensor:
    """`draw` for all draws at once, or one by one where some distribution cannot be drawn from in batches."""
    try:
        return draw(program)
    except RuntimeError as error:
        if isinstance(error, BayesmetaError) or not program.structure.vectorised:
            raise
        return draw(program.unvectorised())


def _check(program: Program, tasks: Tasks) -> None:
    """Run forwards, the hierarchy must draw from the density that it has."""
    check_population(program)
    handler = Values()
    with quiet_pyro(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with handler:
            phi = program.hyperprior()
        row: Row = pytree.tree_map(lambda values: values[0], first_rows(tasks))
        met = program.meet(phi, program.drawn(phi, row), row)
    observed = [name for name, site in handler.met.items() if site.observed]
    if observed:
        raise HierarchyError(f"the hyperprior observes {observed} ({_WHY}), so that φ cannot be drawn from it")
    factors = [name for name in program.structure.observed if is_factor(met[name].fn)]
    if factors:
        raise HierarchyError(f"the task has factors {factors} ({_WHY}), so that θ and y cannot be drawn from it")


_WHY = "an obs=, or a pyro.factor: a density, and no way to draw from it"
