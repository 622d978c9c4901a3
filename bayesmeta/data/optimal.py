"""The best prediction that the support allows, with the face of a `Predictive`.

Tensors are (T, m); where tasks have different numbers of inputs, short ones end in NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bayesmeta.errors import DataError, OptionError
from bayesmeta.normals import Normals
from bayesmeta.tasks import Tasks
from bayesmeta.threads import one_thread

__all__ = ["Conditional", "Inputs", "Optimal"]

NUMBERS = 20_000_000
Inputs = Tensor | npt.NDArray[Any] | Sequence[Any] | Tasks


class Conditional(Protocol):
    """The posterior predictive distributions of tasks, by their position.

    Attributes:
        error: estimated error of the log evidence of each task, in nats (T,).
    """

    error: Tensor

    def mixture(self, task: int, x: Tensor) -> Normals:
        """The distribution of each observation at x (m, ...) on its own."""

    def log_prob(self, query: Tasks) -> Tensor:
        """The joint log density of the query observations of each task (T,)."""

    def pointwise(self, query: Tasks, mixture: Callable[[int], Normals]) -> Tensor:
        """The log density of each query observation on its own (N,); `mixture` gives that of a task's query."""

    def draws(self, task: int, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Joint draws of the observations at x, (n, m)."""


class Optimal:
    """The posterior predictive distribution under the true environment.

    Attributes:
        query: the inputs, as `Tasks`.
        error: estimated error of the log evidence of each task's support, in nats (T,).
        method: ``"optimal"``.
    """

    method = "optimal"

    def __init__(self, query: Tasks, conditional: Conditional) -> None:
        self.query = query
        self._conditional = conditional
        self._kept: dict[int, Normals] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return self.query.names

    @property
    def error(self) -> Tensor:
        """Estimated error of the log evidence of each task's support, in nats (T,)."""
        return self._conditional.error

    @property
    def mean(self) -> Tensor:
        """Mean (T, m)."""
        return self._moments[0]

    @property
    def sd(self) -> Tensor:
        """Standard deviation (T, m), observation noise included."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> Tensor:
        return self._by_task(lambda at, y: torch.stack([at.mean, at.sd]), (2,))

    def quantile(self, q: float | Sequence[float]) -> Tensor:
        """Quantiles (T, m), or (len(q), T, m) for several levels in (0, 1)."""
        levels = [float(level) for level in (q if isinstance(q, Sequence) else [q])]
        if not levels or not all(0 < level < 1 for level in levels):
            raise OptionError(f"q must lie between 0 and 1, got {q!r}")
        found = self._by_task(lambda at, y: torch.stack([at.quantile(level) for level in levels]), (len(levels),))
        return found if isinstance(q, Sequence) else found[0]

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Lower and upper end (T, m) of the central interval of that probability."""
        if not 0 < level < 1:
            raise OptionError(f"level must lie between 0 and 1, got {level!r}")
        lower, upper = self.quantile([(1 - level) / 2, (1 + level) / 2])
        return lower, upper

    def cdf(self, y: Inputs) -> Tensor:
        """The probability of at most y (T, m)."""
        return self._by_task(lambda at, values: at.cdf(values), (), self._observed(y))

    def crps(self, y: Inputs) -> Tensor:
        """The continuous ranked probability score of y (T, m), in units of y."""
        return self._by_task(lambda at, values: at.crps(values), (), self._observed(y))

    @one_thread()
    def log_prob(self, y: Inputs, *, pointwise: bool = False) -> Tensor:
        """Log density of observations y, in nats: jointly (T,), or each on its own (T, m)."""
        observed = self._observed(y)
        if not pointwise:
            return self._conditional.log_prob(observed)
        out = self._empty(())
        if not observed.n_observations:
            return out
        values = self._conditional.pointwise(observed, self._mixture)
        out[self._filled] = values
        return out

    @one_thread()
    def sample(self, n: int = 1000, seed: int = 0) -> Tensor:
        """Joint draws of the observations (n, T, m)."""
        if n < 1:
            raise OptionError(f"n must be at least 1, got {n}")
        generator = torch.Generator().manual_seed(seed)
        out = self._empty((n,))
        for t, task in enumerate(self.query):
            out[:, t, : task.n] = self._conditional.draws(t, task.x, n, generator)
        return out

    def __repr__(self) -> str:
        worst = float(self.error.max()) if len(self.error) else math.nan
        return f"Optimal: {len(self.names):,} tasks, log evidence known to {worst:.1g} nats"

    # -----------------------------------------------------------------------------------------------------

    @cached_property
    def _filled(self) -> Tensor:
        return torch.arange(int(self.query.sizes.max())) < self.query.sizes[:, None]

    def _empty(self, lead: tuple[int, ...]) -> Tensor:
        return torch.full((*lead, *self._filled.shape), math.nan, dtype=torch.float64)

    @one_thread()
    def _by_task(
        self, fn: Callable[[Normals, Tensor], Tensor], lead: tuple[int, ...], y: Tasks | None = None
    ) -> Tensor:
        out = self._empty(lead)
        for t, task in enumerate(self.query if y is None else y):
            if not task.n:
                continue
            out[..., t, : task.n] = fn(self._mixture(t), task.y)
        return out

    def _mixture(self, task: int) -> Normals:
        """The distribution of each observation of a task, kept as long as they are not too many numbers."""
        if task not in self._kept:
            found = self._conditional.mixture(task, self.query[task].x)
            if sum(one.loc.numel() for one in self._kept.values()) + found.loc.numel() > NUMBERS:
                return found
            self._kept[task] = found
        return self._kept[task]

    def _observed(self, y: Inputs) -> Tasks:
        """The query with observations in place of the placeholders."""
        ys = [y[name].y for name in self.names] if isinstance(y, Tasks) else list(y)
        if len(ys) != len(self.names):
            raise DataError(f"y is for {len(ys)} tasks, predicted are {len(self.names)}")
        for task, values in zip(self.query, ys, strict=True):
            if len(values) != task.n:
                raise DataError(f"task {task.name!r}: y has {len(values)} observations, predicted are {task.n}")
        flat = torch.cat([torch.as_tensor(np.asarray(values), dtype=torch.float64) for values in ys])
        if not bool(torch.isfinite(flat).all()):
            raise DataError(f"y has {int((~torch.isfinite(flat)).sum())} values that are NaN or infinite")
        return Tasks(self.query.x, flat, self.query.offsets, self.names)
