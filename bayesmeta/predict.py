"""Predictive distributions: the mixture of p(y | x, θ_s, φ_s) over draws, task by task.

Means and standard deviations are those of the mixture, by the law of total variance. Quantiles of Normal
observations solve the mixture's distribution function by bisection; others are quantiles of draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bayesmeta.errors import DataError, HierarchyError, NotAvailableError, OptionError
from bayesmeta.mapping import CHUNK_NUMBERS, over_draws
from bayesmeta.program import Phi, Program, Row
from bayesmeta.sites import Meeting, Values
from bayesmeta.tasks import Padded, Tasks

__all__ = ["Predictive", "query_tasks"]

BISECTIONS = 50
QUANTILE_DRAWS = 4000


class Predictive:
    """The predictive distribution of observations of T tasks at m inputs each.

    Tensors are (T, m, ...); where tasks have different numbers of inputs, short ones end in NaN.

    Attributes:
        query: The inputs, as `Tasks`.
    """

    def __init__(self, program: Program, query: Tasks, phi: Tensor, theta: Tensor, method: str) -> None:
        self._program = program
        self.query = query
        self._phi = phi
        self._theta = theta
        self.method = method
        self._moments: tuple[Tensor, Tensor] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return self.query.names

    def __getitem__(self, name: str) -> Predictive:
        """The predictive distribution of one task."""
        k = self.query.index(name)
        return Predictive(self._program, self.query[[k]], self._phi[:, [k]], self._theta[:, [k]], self.method)

    @property
    def mean(self) -> Tensor:
        """Mean (T, m)."""
        return self._mean_and_sd()[0]

    @property
    def sd(self) -> Tensor:
        """Standard deviation (T, m), of draws of φ and θ and of the observation noise together."""
        return self._mean_and_sd()[1]

    def quantile(self, q: float | Sequence[float]) -> Tensor:
        """Quantiles (T, m), or (len(q), T, m) for several levels in (0, 1)."""
        levels = [float(level) for level in (q if isinstance(q, Sequence) else [q])]
        if not levels or not all(0 < level < 1 for level in levels):
            raise OptionError(f"q must lie between 0 and 1, got {q!r}")
        found = self._normal_quantiles(levels)
        if found is None:
            draws = self.sample(max(QUANTILE_DRAWS, len(self._phi)), seed=0)
            found = torch.quantile(draws, torch.tensor(levels, dtype=torch.float64), dim=0)
        return found if isinstance(q, Sequence) else found[0]

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Lower and upper end (T, m) of the central interval of that probability."""
        if not 0 < level < 1:
            raise OptionError(f"level must lie between 0 and 1, got {level!r}")
        lower, upper = self.quantile([(1 - level) / 2, (1 + level) / 2])
        return lower, upper

    def sample(self, n: int = 1000, seed: int = 0) -> Tensor:
        """Draws of the observations (n, T, m)."""
        if n < 1:
            raise OptionError(f"n must be at least 1, got {n}")
        generator = torch.Generator().manual_seed(seed)
        draws = len(self._phi)
        rounds = torch.cat([torch.randperm(draws, generator=generator) for _ in range(math.ceil(n / draws))])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._collect(lambda met, row: met.value, n, pick=rounds[:n], random=True)

    def log_prob(self, y: Tensor | Sequence[Any] | Tasks, *, pointwise: bool = False) -> Tensor:
        """Log predictive density of observations y: log 1/S Σ_s p(y | θ_s, φ_s), in nats.

        Args:
            y: Observations (T, m), a list of one tensor per task, or a `Tasks` with the tasks of the query.
            pointwise: Each observation on its own (T, m), rather than all of a task together (T,).
        """
        observed = self._observed(y)
        if pointwise and not self._program.structure.maskable:
            raise NotAvailableError("pointwise=True: the observations of a task are one joint event in this hierarchy")
        count = len(self._phi)
        if pointwise:
            terms = self._collect(_row_terms, count, y=observed)
            return torch.logsumexp(terms, 0) - math.log(count)
        terms = self._collect(lambda met, row: _masked_total(met, row, self._program), count, y=observed, per_task=True)
        return torch.logsumexp(terms, 0) - math.log(count)

    def frame(self, level: float = 0.9) -> pd.DataFrame:
        """A long table: task, row, mean, sd, lower, upper."""
        if self.query.y.dim() > 1:
            raise NotAvailableError("frame() is for observations of one number each")
        lower, upper = self.interval(level)
        sizes = self.query.sizes
        keep = torch.arange(int(sizes.max()) if len(sizes) else 0) < sizes.unsqueeze(-1)
        columns = {"mean": self.mean, "sd": self.sd, "lower": lower, "upper": upper}
        table = pd.DataFrame({name: value[keep].numpy() for name, value in columns.items()})
        table.insert(0, "task", np.array(self.names, dtype=object)[self.query.task_index.numpy()])
        table.insert(1, "row", (torch.cumsum(keep, 1) - 1)[keep].numpy())
        return table

    def __repr__(self) -> str:
        sizes = self.query.sizes
        inputs = f"{int(sizes.min())}" if bool((sizes == sizes[0]).all()) else f"{int(sizes.min())}-{int(sizes.max())}"
        return f"Predictive: {len(self.names):,} tasks, {inputs} inputs each, {len(self._phi):,} draws ({self.method})"

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>" + self.frame().head(30).to_html(index=False, float_format=lambda v: f"{v:.4g}")

    # -----------------------------------------------------------------------------------------------------

    def _mean_and_sd(self) -> tuple[Tensor, Tensor]:
        if self._moments is None:
            try:
                means = self._collect(lambda met, row: met.fn.mean, len(self._phi))
                variances = self._collect(lambda met, row: met.fn.variance, len(self._phi))
                sd = (variances.mean(0) + means.var(0, correction=0)).sqrt()
                self._moments = means.mean(0), sd
            except NotImplementedError:
                draws = self.sample(max(QUANTILE_DRAWS, len(self._phi)), seed=0)
                self._moments = draws.mean(0), draws.std(0)
        return self._moments

    def _normal_quantiles(self, levels: list[float]) -> Tensor | None:
        """Quantiles of the mixture where the observations are Normal, else None."""
        try:
            loc = self._collect(lambda met, row: _normal(met).loc + 0 * met.value, len(self._phi))
            scale = self._collect(lambda met, row: _normal(met).scale + 0 * met.value, len(self._phi))
        except NotImplementedError:
            return None
        return torch.stack([_mixture_quantile(loc, scale, level) for level in levels])

    def _observed(self, y: Tensor | Sequence[Any] | Tasks) -> Tasks:
        """Query inputs with observations in place of the placeholders."""
        if isinstance(y, Tasks):
            missing = [name for name in self.names if name not in y]
            if missing:
                raise DataError(f"y has no task named {missing[0]!r}, which is predicted")
            ys: list[Any] = [y[name].y for name in self.names]
        else:
            ys = list(y)
        if len(ys) != len(self.names):
            raise DataError(f"y is for {len(ys)} tasks, predicted are {len(self.names)}")
        for task, values in zip(self.query, ys, strict=True):
            if len(values) != task.n:
                raise DataError(f"task {task.name!r}: y has {len(values)} observations, predicted are {task.n}")
        xs = [task.x for task in self.query]
        return Tasks.from_lists(xs, ys, names=self.names, context=self.query.context or None, allow_empty=True)

    def _collect(
        self,
        read: Callable[[Meeting, Row], Tensor],
        count: int,
        *,
        pick: Tensor | None = None,
        y: Tasks | None = None,
        random: bool = False,
        per_task: bool = False,
    ) -> Tensor:
        """`read` of the observed site under each draw: (count, T, m), or (count, T) with `per_task`."""
        tasks = self.query if y is None else y
        pick = torch.arange(count) if pick is None else pick
        width = () if per_task else (int(tasks.sizes.max()) if len(tasks) else 0, *self.query.y.shape[1:])
        out = torch.full((count, len(tasks), *width), math.nan, dtype=torch.float64)
        for batch in tasks.padded(exact_sizes=not self._program.structure.maskable):
            values = self._batch(read, batch, pick, y is not None, random)
            if per_task:
                out[:, batch.index] = values
            else:
                m = batch.mask.shape[1]
                hidden = ~batch.mask.reshape(*batch.mask.shape, *(1,) * (values.dim() - 3))
                out[:, batch.index, :m] = values.masked_fill(hidden, math.nan)
        return out

    def _batch(
        self, read: Callable[[Meeting, Row], Tensor], batch: Padded, pick: Tensor, observed: bool, random: bool
    ) -> Tensor:
        program = self._program
        rows = Row.of(batch)
        chunk = max(1, CHUNK_NUMBERS // (4 * max(1, batch.mask.numel())))

        def one(u: Tensor, v: Tensor, row: Row) -> Tensor:
            return read(_predicted(program, program.phi(u), v, row, observed), row)

        randomness = "different" if random or not observed else "error"
        mapped = program.over_tasks(one, randomness=randomness)
        arguments = (self._phi[pick][:, batch.index], self._theta[pick][:, batch.index])
        with torch.random.fork_rng(devices=[], enabled=not random):
            result: Tensor = over_draws(
                program, lambda u, v: mapped(u, v, rows), arguments, chunk, randomness=randomness
            )
        return result


def _predicted(program: Program, phi: Phi, v: Tensor, row: Row, observed: bool) -> Meeting:
    """The observed site at θ coordinates v, drawn afresh or at the observations of the row."""
    handler = Values(program.structure.theta.split(v))
    program.run(handler, phi.returned, row.x, row.y if observed else None, row.context)
    names = [name for name in program.structure.observed if name in handler.met]
    if not names:
        raise HierarchyError(
            f"with y=None the task does not sample {program.structure.observed[0]!r}: write obs=y, and take the "
            "number of observations from x"
        )
    return handler.met[names[0]]


def _normal(met: Meeting) -> Any:
    fn = met.fn
    while type(fn).__name__ in ("Independent", "ExpandedDistribution"):
        fn = fn.base_dist
    if type(fn).__name__ != "Normal":
        raise NotImplementedError
    return fn


def _row_terms(met: Meeting, row: Row) -> Tensor:
    return met.rows_log_prob()


def _masked_total(met: Meeting, row: Row, program: Program) -> Tensor:
    if not program.structure.maskable:
        return met.log_prob()
    terms = met.rows_log_prob()
    return torch.where(row.mask.reshape(row.mask.shape + (1,) * (terms.dim() - 1)), terms, 0.0).sum()


def _mixture_quantile(loc: Tensor, scale: Tensor, level: float) -> Tensor:
    """The quantile of an equal mixture of Normals (S, ...) by bisection, to rounding."""
    z = math.sqrt(2) * float(torch.erfinv(torch.tensor(2 * level - 1, dtype=torch.float64)))
    each = loc + scale * z
    lower, upper = each.min(0).values, each.max(0).values
    for _ in range(BISECTIONS):
        middle = (lower + upper) / 2
        below = torch.special.ndtr((middle - loc) / scale).mean(0) < level
        lower, upper = torch.where(below, middle, lower), torch.where(below, upper, middle)
    return (lower + upper) / 2


def query_tasks(adapted: Tasks, x: Any) -> Tasks:
    """Inputs to predict at, as tasks with the names and context of the adapted ones and placeholders for y."""
    if isinstance(x, Tasks):
        names = list(x.names)
        for name in names:
            adapted.index(name)
        xs = [task.x for task in x]
    else:
        names = list(adapted.names)
        shared = isinstance(x, (Tensor, np.ndarray))
        xs = [torch.as_tensor(x, dtype=torch.float64)] * len(names) if shared else list(x)
        if len(xs) != len(names):
            raise DataError(f"x is a list of {len(xs)} inputs, one per task is wanted: {len(names)}")
    xs = [torch.as_tensor(np.asarray(one), dtype=torch.float64) for one in xs]
    wanted = tuple(adapted.x.shape[1:])
    for name, one in zip(names, xs, strict=True):
        if tuple(one.shape[1:]) != wanted or one.dim() == 0:
            raise DataError(
                f"inputs of task {name!r} have shape {tuple(one.shape)}; wanted (m{''.join(f', {k}' for k in wanted)})"
            )
    pick = torch.tensor([adapted.index(name) for name in names], dtype=torch.long)
    ys = [torch.zeros(len(one), *adapted.y.shape[1:], dtype=torch.float64) for one in xs]
    context = {key: value[pick] for key, value in adapted.context.items()}
    return Tasks.from_lists(xs, ys, names=names, context=context or None, allow_empty=True)
