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
from bayesmeta.tasks import Tasks

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Adapted"]

SHOWN = 60  # rows of a table that shows itself
QUANTILE_NUMBERS = 4_000_000  # torch takes no more than 16 million at once


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

        tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        labels, columns = self._labels(), [self.k_hat.new_empty(4, len(self), 0)]
        for site in self._program.structure.theta.names:
            flat = self.theta[site].reshape(*self.theta[site].shape[:2], -1)
            step = max(1, QUANTILE_NUMBERS // max(1, flat[:, 0].numel()))
            for_tasks = [torch.quantile(part, tail, dim=0) for part in flat.split(step, dim=1)]
            columns.append(torch.cat([torch.stack([flat.mean(0), flat.std(0)]), torch.cat(for_tasks, dim=1)]))
        numbers = dict(zip(("mean", "sd", "lower", "upper"), torch.cat(columns, dim=2).flatten(1).numpy(), strict=True))
        names = {"task": [name for name in self.names for _ in labels], "theta": labels * len(self)}
        return pd.DataFrame({**names, **numbers, "k_hat": self.k_hat.repeat_interleave(len(labels)).numpy()})

    def __repr__(self) -> str:
        draws, count = self.theta_coordinates.shape[0], len(self)
        known = self.k_hat[~(torch.isnan(self.k_hat) | torch.isneginf(self.k_hat))]
        k_hat = f", largest k-hat {float(known.max()):.2f}" if len(known) else ""
        why = f" ({self.reason})" if self.reason else ""
        head = f"Adapted: {count:,} task{'' if count == 1 else 's'}, {draws:,} draws each{k_hat}"
        return f"{head}\nmethod {self.method!r}{why}"

    def _repr_html_(self) -> str:
        head, *rest = (escape(line) for line in repr(self).splitlines())
        text = f"<p>{'<br>'.join([f'<b>{head}</b>', *rest])}</p>"
        rows = len(self._labels())
        if not rows:
            return text
        first = self._first(max(1, SHOWN // rows))
        table = first.summary().head(SHOWN).to_html(index=False, float_format=lambda v: f"{v:.4g}")
        more = len(self) * rows - SHOWN
        return text + table + (f"<p>and {more:,} rows more: <code>summary()</code> has all</p>" if more > 0 else "")

    def _labels(self) -> list[str]:
        """Names of the elements of θ."""
        return self._program.structure.theta.labels()

    def _first(self, count: int) -> Adapted:
        """The first of the tasks."""
        return Adapted(
            self._program,
            self.tasks[:count],
            self.phi_coordinates[:, :count],
            self.theta_coordinates[:, :count],
            method=self.method,
            k_hat=self.k_hat[:count],
            effective_size=self.effective_size[:count],
            k_hat_theta=self.k_hat_theta[:count],
        )
