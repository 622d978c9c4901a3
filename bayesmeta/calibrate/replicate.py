"""One replication: data from the prior, a fit, thinned draws, and the ranks of the true values among them."""

from __future__ import annotations

import math
import time
import warnings
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bayesmeta.calibrate.quantities import Quantities
from bayesmeta.calibrate.simulate import Simulated, check_simulates, simulate
from bayesmeta.diagnose.sbc import rank
from bayesmeta.draws import Draws
from bayesmeta.errors import BayesmetaError, BayesmetaWarning, DataError, HierarchyError
from bayesmeta.evidence import Joint, choose
from bayesmeta.evidence.conditional import theta_coordinates, theta_values
from bayesmeta.hierarchy import Hierarchy
from bayesmeta.mapping import flatten_draws, over_draws
from bayesmeta.presets import Config, evidence_of, module_of
from bayesmeta.program import Program
from bayesmeta.sites import quiet_pyro
from bayesmeta.summary import ess
from bayesmeta.target import Target
from bayesmeta.tasks import Tasks
from bayesmeta.threads import one_thread

__all__ = ["Outcome", "Replicator"]

FEWEST = 20  # draws that true values are ranked among, however much the draws depend on each other
BAD = (BayesmetaError, ArithmeticError, RuntimeError, ValueError)  # torch's and numpy's, on extreme data


class Outcome(NamedTuple):
    """What came of one replication.

    Attributes:
        position: Which one.
        ranks: Ranks (Q,), or None where there are none.
        stats: Numbers in the order of `bayesmeta.diagnose.sbc.STATS`.
        reason: Why there are no ranks.
    """

    position: int
    ranks: npt.NDArray[np.int64] | None
    stats: tuple[float, ...] = ()
    reason: str = ""


class Replicator:
    """Makes replications; what does not depend on their data is done once, here.

    Args:
        hierarchy: What is fitted.
        truth: What the data are drawn from.
        tasks: The design.
        config: The back-end.
        draws: Number of draws that true values are ranked among.
        theta: Number of tasks whose θ is ranked.
        seed: Seeds everything; replication r depends on it and on r alone.

    Raises:
        HierarchyError: The data cannot be drawn from `truth`, or its φ and θ are not those of `hierarchy`.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        truth: Hierarchy,
        tasks: Tasks,
        config: Config,
        *,
        draws: int,
        theta: int,
        seed: int,
    ) -> None:
        self.config, self.design, self.draws, self.seed = config, tasks, draws, seed
        self.program = hierarchy.program(tasks)
        self.simulator = self.program if truth is hierarchy else truth.program(tasks)
        _check_same_sites(self.program, self.simulator)
        check_simulates(self.simulator, tasks)
        self.evidence = choose(self.program, tasks, evidence_of(config))
        self._first = Target(self.evidence)
        some = [simulate(self.simulator, tasks, k).phi for k in range(3)]
        phi = {name: torch.stack([one[name] for one in some]) for name in some[0]}
        collapsed = not isinstance(self.evidence, Joint)
        self.quantities = Quantities(self.program, tasks, collapsed=collapsed, theta=theta, phi=phi)

    def __call__(self, position: int) -> Outcome:
        """Make one replication.

        Raises:
            KeyboardInterrupt: It was interrupted.
        """
        begin = time.perf_counter()
        seeds = np.random.SeedSequence(self.seed, spawn_key=(position,)).generate_state(4).tolist()
        try:
            with one_thread(), warnings.catch_warnings():
                warnings.simplefilter("ignore", BayesmetaWarning)
                ranks, effective, draws = self._ranked(*seeds)
        except BAD as error:
            said = str(error) if isinstance(error, BayesmetaError) else f"{type(error).__name__}: {error}"
            return Outcome(position, None, reason=" ".join(said.split())[:300])
        k_hat = math.nan if draws.k_hat is None else float(draws.k_hat)
        return Outcome(position, ranks, (effective, time.perf_counter() - begin, float(draws.divergences), k_hat))

    def _ranked(
        self, data_seed: int, fit_seed: int, theta_seed: int, rank_seed: int
    ) -> tuple[npt.NDArray[np.int64], float, Draws]:
        true = simulate(self.simulator, self.design, data_seed)
        target = self._target(true.tasks)
        draws = module_of(self.config).run(target, self.config, seed=fit_seed, progress=False)
        if draws.interrupted:
            raise KeyboardInterrupt
        effective = effective_draws(draws, target.q)
        u = thinned(draws, self.draws, effective)
        values = self._values(target, true, u, theta_seed)
        if not bool(torch.isfinite(values[0]).all()) or bool(torch.isnan(values).any()):
            raise DataError("a quantity is not finite at the true values, or not a number at a draw")
        numbers = values.numpy()
        return rank(numbers[0], numbers[1:], self.draws, np.random.default_rng(rank_seed)), effective, draws

    def _target(self, tasks: Tasks) -> Target:
        """The density of these tasks, recorded and compiled once for all that differ in their numbers only.

        Where θ is sampled too, each data set has degrees of centring of its own, as in a fit of it.
        """
        with quiet_pyro():
            evidence = self.evidence
            made = Joint(self.program, tasks) if isinstance(evidence, Joint) else evidence.on(tasks)
        return self._first.on(made)

    def _values(self, target: Target, true: Simulated, u: Tensor, seed: int) -> Tensor:
        """The quantities (1 + l, Q) of the true values, in front, and of draws u (l, dim)."""
        coordinates, evidence = u[:, : target.q], target.evidence
        phi = over_draws(self.program, lambda u: self.program.phi(u).values, (coordinates,), 10_000)
        if target.is_joint:
            v = u[:, target.q :].reshape(len(u), len(true.tasks), -1)
        else:
            v = theta_coordinates(evidence, coordinates, seed)  # type: ignore[arg-type]
        theta = theta_values(evidence, coordinates, v)
        return self.quantities.of(
            target,
            true.tasks,
            torch.cat([true.u.unsqueeze(0), coordinates]),
            _in_front(true.phi, phi),
            _in_front(true.theta, theta),
        )


def effective_draws(draws: Draws, q: int) -> float:
    """The least effective number of draws of any coordinate of φ and of the log density; inf with too few to tell.

    Of weighted and resampled draws it is what the weights leave.
    """
    if draws.effective_size is not None:
        return float(draws.effective_size)
    chains = [draws.u[..., k].numpy() for k in range(q)]
    if "lp" in draws.stats:
        chains.append(draws.stats["lp"])
    found = [ess(chain) for chain in chains]
    return min((value for value in found if math.isfinite(value)), default=math.inf)


def thinned(draws: Draws, most: int, effective: float) -> Tensor:
    """At most so many draws (l, dim), evenly spaced over all chains, and hardly more than are effective."""
    u: Tensor = flatten_draws(draws.u)
    count = int(min(most, max(effective, FEWEST), len(u)))
    return u[torch.linspace(0, len(u) - 1, count).round().long()]


def _in_front(true: dict[str, Tensor], draws: Any) -> dict[str, Tensor]:
    return {name: torch.cat([value.unsqueeze(0), draws[name]]) for name, value in true.items()}


def _check_same_sites(fitted: Program, simulator: Program) -> None:
    for level in ("phi", "theta"):
        ours = {site.name: site.shape for site in getattr(fitted.structure, level)}
        theirs = {site.name: site.shape for site in getattr(simulator.structure, level)}
        if ours != theirs:
            raise HierarchyError(
                f"truth has the {level} sites {theirs}, and the hierarchy {ours}: for their ranks to mean anything, "
                "both must have the same names and shapes"
            )
