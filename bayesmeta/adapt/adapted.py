"""What adaptation returns: θ of each new task with the φ that goes with it, and how far to trust them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch
from torch import Tensor

from bayesmeta.errors import NotAvailableError
from bayesmeta.evidence.conditional import constrained
from bayesmeta.mapping import over_draws
from bayesmeta.predict import Predictive, query_tasks
from bayesmeta.program import Program
from bayesmeta.sites import element_labels
from bayesmeta.tasks import Tasks

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Adapted"]


class Adapted:
    """Equally weighted draws of p(θ_new, φ | D_new, D) for each task on its own.

    Attributes:
        tasks: The observations each task was adapted on (with those of the fit, for tasks of the fit).
        method: One of ``bayesmeta.adapt.METHODS``, ``"population"`` where nothing is known of the tasks, or
            ``"laplace, nuts"``, some tasks by the one and some by the other; ``"joint"`` where a joint fit has drawn
            θ and nothing is new.
        reason: Why that method, and what should be known about how it went.
        k_hat: Pareto k-hat of the weights of φ per task (T,): above 0.7 the new task tells more about φ than
            the draws can follow, and a refit with it is due. -inf where all weights are equal, inf where there are
            too few draws to tell.
        effective_size: Effective number of draws of φ per task (T,).
        k_hat_theta: Pareto k-hat of the weights of φ and θ together per task (T,), where θ comes from an
            approximation: above 0.7, and `k_hat` below, θ is not what the method takes it for. -inf where nothing
            is approximated, inf where θ has no width at all.
    """

    def __init__(
        self,
        program: Program,
        tasks: Tasks,
        phi: Tensor,
        theta: Tensor,
        *,
        method: str,
        k_hat: Tensor,
        effective_size: Tensor,
        k_hat_theta: Tensor | None = None,
        path: Tensor | None = None,
        reason: str = "",
    ) -> None:
        self.tasks = tasks
        self.method = method
        self.reason = reason
        self.k_hat = k_hat
        self.k_hat_theta = torch.full_like(k_hat, -math.inf) if k_hat_theta is None else k_hat_theta
        self.effective_size = effective_size
        self.phi_coordinates = phi
        self.theta_coordinates = theta
        self._program = program
        self._path = path

    @property
    def path(self) -> Tensor:
        """Where each draw of θ came from, step by step, in centred coordinates (steps + 1, S, T, p).

        Raises:
            NotAvailableError: It was not kept, or the method takes no steps.
        """
        if self._path is None:
            raise NotAvailableError(
                f"no path was kept by method {self.method!r}: adapt with method='gradient', options={{'path': True}}"
            )
        return self._path

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return self.tasks.names

    def __len__(self) -> int:
        return len(self.tasks)

    @cached_property
    def theta(self) -> dict[str, Tensor]:
        """θ by site, each (S, T, ...)."""
        return constrained(self._program, self.tasks, self.phi_coordinates, self.theta_coordinates)

    @cached_property
    def phi(self) -> dict[str, Tensor]:
        """φ by site as each task weights it, each (S, T, ...)."""
        program = self._program
        flat = self.phi_coordinates.reshape(-1, self.phi_coordinates.shape[-1])
        values = over_draws(program, lambda u: program.phi(u).values, (flat,), 100_000)
        shape = self.phi_coordinates.shape[:2]
        return {name: value.reshape(*shape, *value.shape[1:]) for name, value in values.items()}

    def predict(self, x: Tensor | npt.NDArray[Any] | Sequence[Any] | Tasks) -> Predictive:
        """The predictive distribution of observations at new inputs.

        Args:
            x: Inputs (m, d) or (m,) for all tasks; or a list with one such tensor per task; or a `Tasks` whose
                inputs are taken by name (its observations are not used). The context of a task is that of its
                adaptation.
        """
        query = query_tasks(self.tasks, x)
        pick = torch.tensor([self.tasks.index(name) for name in query.names])
        support = self.tasks[pick]
        phi, theta = self.phi_coordinates[:, pick], self.theta_coordinates[:, pick]
        return Predictive(self._program, query, phi, theta, self.method, support)

    def summary(self, level: float = 0.9) -> pd.DataFrame:
        """One row per task and element of θ: mean, sd and the central interval of that level."""
        import pandas as pd

        rows = []
        for name, values in self.theta.items():
            flat = values.reshape(*values.shape[:2], -1)
            tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
            lower, upper = torch.quantile(flat, tail, dim=0)
            site = next(site for site in self._program.structure.theta if site.name == name)
            for k, label in enumerate(element_labels(name, site.shape)):
                for t, task in enumerate(self.names):
                    column = flat[:, t, k]
                    numbers = (column.mean(), column.std(), lower[t, k], upper[t, k], self.k_hat[t])
                    rows.append((task, label, *(float(number) for number in numbers)))
        table = pd.DataFrame(rows, columns=["task", "theta", "mean", "sd", "lower", "upper", "k_hat"])
        return table.sort_values("task", key=lambda s: s.map(self.tasks.index), kind="stable", ignore_index=True)

    def __repr__(self) -> str:
        draws = self.theta_coordinates.shape[0]
        worst = float(self.k_hat.max()) if len(self) else float("nan")
        why = f" ({self.reason})" if self.reason else ""
        head = f"Adapted: {len(self):,} tasks, {draws:,} draws each, largest k-hat {worst:.2f}"
        return f"{head}\nmethod {self.method!r}{why}"

    def _repr_html_(self) -> str:
        table = self.summary().head(60).to_html(index=False, float_format=lambda v: f"{v:.4g}")
        return f"<p>{escape(repr(self))}</p>{table}"
