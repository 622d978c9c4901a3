"""The posterior p(φ | D) with the verbs on it: look at φ and θ, adapt to new tasks, export, save.

A thin face: θ comes from the evidence, adaptation from `bayesmeta.adapt`, files from `bayesmeta.export`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from bayesmeta.adapt import Adapted, Config, adapt, check_like
from bayesmeta.diagnose.verdict import Verdict, judge, labelled
from bayesmeta.draws import Draws, Info
from bayesmeta.errors import NotAvailableError, OptionError, unknown
from bayesmeta.evidence import Collapsed, Joint
from bayesmeta.evidence.conditional import log_evidence, theta_coordinates, theta_values
from bayesmeta.hierarchy import Hierarchy
from bayesmeta.mapping import flatten_draws, over_draws
from bayesmeta.summary import labels, overview, summarise
from bayesmeta.tasks import Tasks

if TYPE_CHECKING:
    import pandas as pd

    from bayesmeta.diagnose.novelty import Novelty
    from bayesmeta.diagnose.shots import Shots
    from bayesmeta.explore.widget import Explorer
    from bayesmeta.prior import Prior
    from bayesmeta.update import Weighted

__all__ = ["Posterior"]

MOST_ROWS = 60  # of the table of φ that is shown


class Posterior:
    """Draws of p(φ | D), equally weighted, and what can be done with them.

    Attributes:
        hierarchy: The hierarchy that was fitted.
        tasks: The tasks it was fitted to.
        info: How it was done: evidence, settings, times, divergences, versions.
        weighted: Draws of the fit with the weights of what came since, where it was updated; else None.

    Made by `bayesmeta.fit`, `bayesmeta.load` or `update`. S = chains x draws, T = number of tasks.

    Example:
        >>> import bayesmeta as bm
        >>> people = bm.data.load("sleepstudy")
        >>> tasks = bm.Tasks.from_frame(people, task="Subject", x="Days", y="Reaction")
        >>> posterior = bm.fit(bm.families.linear(tasks), tasks[:15], progress=False)
        >>> first_days, later = tasks[15:].split(3)
        >>> adapted = posterior.adapt(first_days)  # three people who are new, without a refit
        >>> lower, upper = adapted.predict(later).interval(0.9)
        >>> lower.shape, bool((lower < upper).all())
        (torch.Size([3, 7]), True)
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        tasks: Tasks,
        evidence: Collapsed | Joint,
        draws: Draws,
        info: Info,
        *,
        weighted: Weighted | None = None,
    ) -> None:
        self.hierarchy = hierarchy
        self.tasks = tasks
        self.info = info
        self.draws = draws
        self.weighted = weighted
        self._evidence = evidence
        self._program = evidence.program

    @property
    def phi_coordinates(self) -> Tensor:
        """Unconstrained coordinates of φ (S, q)."""
        return flatten_draws(self.draws.u)[:, : self._program.structure.phi.size]

    @cached_property
    def theta_coordinates(self) -> Tensor:
        """Coordinates of θ (S, T, p) in which the evidence works; under exact evidence drawn on first use."""
        size = self._program.structure.theta.size
        if isinstance(self._evidence, Joint):
            joint = flatten_draws(self.draws.u)[:, self._program.structure.phi.size :]
            return joint.reshape(len(joint), len(self.tasks), size)
        return theta_coordinates(self._evidence, self.phi_coordinates, self.info.seed)

    @cached_property
    def phi(self) -> dict[str, Tensor]:
        """φ by site, each (S, ...)."""
        program = self._program
        values: dict[str, Tensor] = over_draws(
            program, lambda u: program.phi(u).values, (self.phi_coordinates,), 10_000
        )
        return values

    @cached_property
    def theta(self) -> dict[str, Tensor]:
        """θ of the tasks of the fit by site, each (S, T, ...)."""
        return theta_values(self._evidence, self.phi_coordinates, self.theta_coordinates)

    def summary(self, level: str = "phi") -> pd.DataFrame:
        """Mean, sd, quantiles, effective sizes and R-hat of every element of φ, or of θ (``level="theta"``)."""
        size = self.info.effective_size
        return summarise(self._chains(level), self.draws.u.shape[:2], self._labels(level), size)

    @property
    def verdict(self) -> Verdict:
        """Whether the draws can be trusted: fine, doubtful or failed, with reasons and remedies."""
        return Verdict.of(self.info.verdict)

    def judged(self) -> Posterior:
        """This posterior with the verdict on its draws in its `info`."""
        members = self.draws.members is not None  # of which nothing is asked by element
        phi = {} if members else labelled(self.phi, self.draws.u.shape[:2], self._labels("phi"))
        verdict = judge(self.draws, phi, self.info.evidence_error)
        self.info = replace(self.info, verdict=verdict.plain())
        return self

    def evidence(self, tasks: Tasks) -> Tensor:
        """log Z_t(φ_s) of tasks under every draw of φ, in nats, (S, T).

        Raises:
            NotAvailableError: θ was not integrated out: the fit was a joint one.
            DataError: The tasks are not shaped as those of the fit.
        """
        check_like(self.tasks, tasks)
        if isinstance(self._evidence, Joint):
            raise NotAvailableError(
                "this posterior was fitted jointly over φ and θ; log Z needs a fit with evidence='exact', "
                "'quadrature' or 'laplace'"
            )
        return log_evidence(self._evidence.on(tasks), self.phi_coordinates)

    def adapt(
        self,
        tasks: Tasks,
        *,
        method: str | Config = "auto",
        options: Config | Mapping[str, Any] | None = None,
        draws: int | None = None,
        strangers: Literal["warn", "ignore"] = "warn",
        seed: int = 0,
        progress: bool = False,
    ) -> Adapted:
        """θ of new tasks, p(θ_new | D_new, D), without a refit. See `bayesmeta.adapt.adapt`.

        Tasks that do not belong to the population are warned of, where a glance of some 20 milliseconds is enough
        to tell (linear-Gaussian tasks); ``strangers="ignore"`` saves it. `novelty` takes a closer look.
        """
        if strangers not in ("warn", "ignore"):
            raise OptionError(unknown("strangers", strangers, ("warn", "ignore")))
        adapted = adapt(self, tasks, method=method, options=options, draws=draws, seed=seed, progress=progress)
        if strangers == "warn":
            from bayesmeta.diagnose.novelty import warn_of_strangers

            warn_of_strangers(self, adapted)
        return adapted

    def update(self, tasks: Tasks, *, move: bool = True, seed: int = 0, progress: bool = False) -> Posterior:
        """The posterior of the tasks of the fit and of these together, without a refit. See `bayesmeta.update`."""
        from bayesmeta.update import update

        return update(self, tasks, move=move, seed=seed, progress=progress)

    def novelty(self, tasks: Tasks, *, replicates: int = 1000, seed: int = 0, progress: bool = False) -> Novelty:
        """Whether tasks belong to the population, and what is strange about them. See `bayesmeta.diagnose.novelty`."""
        from bayesmeta.diagnose.novelty import novelty

        return novelty(self, tasks, replicates=replicates, seed=seed, progress=progress)

    def loo(self, *, refit: bool = True, seed: int = 0, progress: bool = False) -> Any:
        """Leave one task out, as ArviZ's `ELPDData`. See `bayesmeta.diagnose.loo`."""
        from bayesmeta.diagnose.loo import loo

        return loo(self, refit=refit, seed=seed, progress=progress)

    def shots(
        self,
        *,
        x: Any = None,
        query: Any = None,
        context: Mapping[str, Any] | None = None,
        shots: Sequence[int] = (1, 2, 3, 5, 10),
        tasks: int = 200,
        draws: int = 500,
        method: Any = "auto",
        seed: int = 0,
        progress: bool = False,
    ) -> Shots:
        """How much each observation of a new task brings, by simulation. See `bayesmeta.diagnose.shots`."""
        from bayesmeta.diagnose import shots as simulation

        return simulation.shots(
            self,
            x=x,
            query=query,
            context=context,
            shots=shots,
            tasks=tasks,
            draws=draws,
            method=method,
            seed=seed,
            progress=progress,
        )

    def explore(
        self,
        tasks: Tasks | None = None,
        *,
        task: str | None = None,
        site: str | None = None,
        level: float = 0.9,
        method: str | Config = "auto",
        draws: int = 500,
        novelty: bool = True,
        seed: int = 0,
    ) -> Explorer:
        """An interactive view in Jupyter: drag observations, see θ and predictions move. See `bayesmeta.explore`."""
        from bayesmeta.explore import explore

        return explore(
            self, tasks, task=task, site=site, level=level, method=method, draws=draws, novelty=novelty, seed=seed
        )

    def prior(self, draws: int = 1000, seed: int = 0) -> Prior:
        """Draws of φ, θ and y before anything was observed, at the tasks of the fit. See `bayesmeta.prior`."""
        from bayesmeta.prior import prior_of

        return prior_of(self, draws, seed)

    def to_arviz(
        self,
        *,
        log_likelihood: bool = True,
        posterior_predictive: bool | None = None,
        prior: bool | Prior = False,
    ) -> Any:
        """An ArviZ `InferenceData` (0.x) or xarray `DataTree` (ArviZ 1.x). See `bayesmeta.export.fitted`.

        Args:
            log_likelihood: With the log likelihood of observations and of tasks, and the log prior of φ.
            posterior_predictive: With observations drawn anew; by default where they are few, and with the likelihood.
            prior: With draws from the prior: True, or those of `prior`.
        """
        from bayesmeta.export.container import to_arviz
        from bayesmeta.export.fitted import posterior_groups

        return to_arviz(
            posterior_groups(
                self, log_likelihood=log_likelihood, posterior_predictive=posterior_predictive, prior=prior
            )
        )

    def report(
        self,
        path: str | PathLike[str],
        *,
        title: str | None = None,
        story: str | None = None,
        seed: int = 0,
        progress: bool = False,
    ) -> Path:
        """Write one self-contained page of HTML to send to a colleague.

        Args:
            path: The file; its folder is made where it is missing, and a file that is there is replaced.
            title: The heading; by default the first line of the story.
            story: What the model is about, in plain text; by default the docstring of the model file.
            seed: Seeds what is drawn for the page.
            progress: Show a bar while it is made.

        Raises:
            NotAvailableError: The file cannot be written there.
        """
        from bayesmeta.report import report

        return report(self, path, title=title, story=story, seed=seed, progress=progress)

    def save(
        self, path: str | PathLike[str], *, log_likelihood: bool = True, posterior_predictive: bool | None = None
    ) -> None:
        """Write everything to one netCDF file, which `bayesmeta.load` and ArviZ open; no pickle.

        What ArviZ finds in it is what `to_arviz` gives.
        """
        from bayesmeta.export.files import save
        from bayesmeta.export.fitted import posterior_groups

        parts = posterior_groups(self, log_likelihood=log_likelihood, posterior_predictive=posterior_predictive)
        save(self, path, parts)

    @property
    def collapsed(self) -> Collapsed | Joint:
        """What was done about θ: the evidence of the fit's tasks."""
        return self._evidence

    def _chains(self, level: str) -> dict[str, Tensor]:
        if level not in ("phi", "theta"):
            raise NotAvailableError(f"level must be 'phi' or 'theta', got {level!r}")
        return self.phi if level == "phi" else self.theta

    def _labels(self, level: str) -> dict[str, list[str]]:
        sites = self._program.structure.phi if level == "phi" else self._program.structure.theta
        names = None if level == "phi" else self.tasks.names
        return {site.name: labels(site, names) for site in sites}

    def _overview(self) -> pd.DataFrame:
        return overview(
            self.phi, self.draws.u.shape[:2], self._program.structure.phi, effective_size=self.info.effective_size
        )

    def _size(self) -> str:
        chains, draws = self.draws.u.shape[:2]
        taken = f"{chains} chain{'s' * (chains > 1)} x {draws:,} draws"
        if self.info.inference.get("back_end") == "ensemble":
            taken = f"{draws:,} members of an ensemble"
        return f"{len(self.tasks):,} tasks, {taken}"

    def __repr__(self) -> str:
        columns = ["mean", "sd", "q05", "q95", "ess_bulk", "r_hat"]
        table = self._overview()[columns].to_string(float_format=lambda v: f"{v:.4g}", max_rows=MOST_ROWS)
        return f"Posterior of {self._size()}\n{self.info.road}\n{table}\n{self.verdict!r}"

    def _repr_html_(self) -> str:
        from bayesmeta.report.cell import as_html

        return as_html(self, self._size())
