"""Predictive distributions: the mixture of p(y | x, θ_s, φ_s) over draws, task by task.

Means and standard deviations are those of the mixture, by the law of total variance. Quantiles of Normal
observations solve the mixture's distribution function by Newton's method; others are quantiles of draws.

Where the family knows p(y* | φ, D_t) in closed form, that stands in place of p(y* | θ_s, φ_s): θ is integrated out,
and a handful of draws of φ, or a single point, is enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bayesmeta.classes import class_count, class_shares, log_share
from bayesmeta.errors import BayesmetaError, NotAvailableError, OptionError
from bayesmeta.infer.options import check_whole
from bayesmeta.mapping import CHUNK_NUMBERS, over_draws
from bayesmeta.normals import Normals
from bayesmeta.observation import drawn, moments, normals, predicted, total_moments, warn_slow
from bayesmeta.program import Program, Row
from bayesmeta.quantiles import quantiles_of_draws
from bayesmeta.query import observed_tasks, query_tasks
from bayesmeta.sites import Meeting
from bayesmeta.tasks import Padded, Tasks
from bayesmeta.threads import one_thread

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Predictive", "query_tasks"]

SHOWN = 30  # rows of a table that shows itself
QUANTILE_DRAWS = 4000
PER_OBSERVATION = 40  # numbers alive for each, where it depends on those of the support, one by one


class Predictive:
    """The predictive distribution of observations of T tasks at m inputs each.

    Tensors are (T, m, ...); where tasks have different numbers of inputs, short ones end in NaN.

    Attributes:
        query: The inputs, as `Tasks`.
    """

    def __init__(
        self, program: Program, query: Tasks, phi: Tensor, theta: Tensor, method: str, support: Tasks | None = None
    ) -> None:
        form = program.closed_form
        self._program = program
        self._predictive = None if form is None or support is None else form.predictive
        asked = self._predictive is not None or program.asks_for_support(query)
        self._support = support if asked else None
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
        return self._at([self.query.index(name)])

    @property
    def mean(self) -> Tensor:
        """Mean (T, m)."""
        return self._mean_and_sd()[0]

    @property
    def sd(self) -> Tensor:
        """Standard deviation (T, m), of draws of φ and θ and of the observation noise together."""
        return self._mean_and_sd()[1]

    def quantile(self, q: float | Sequence[float] | npt.NDArray[Any] | Tensor) -> Tensor:
        """Quantiles (T, m), or (len(q), T, m) for several levels in (0, 1)."""
        levels = np.atleast_1d(np.asarray(q, dtype=np.float64)).tolist()
        if not levels or not all(0 < level < 1 for level in levels):
            raise OptionError(f"q must lie between 0 and 1, got {q!r}")
        self._check_numbers()
        found = self._normal_quantiles(levels)
        if found is None:
            count = max(QUANTILE_DRAWS, len(self._phi))
            found = self._drawn(count, 0, lambda values: quantiles_of_draws(values[0], levels), (len(levels),))
        return found if np.ndim(q) else found[0]

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Lower and upper end (T, m) of the central interval of that probability."""
        if not 0 < level < 1:
            raise OptionError(f"level must lie between 0 and 1, got {level!r}")
        lower, upper = self.quantile([(1 - level) / 2, (1 + level) / 2])
        return lower, upper

    def mean_interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Lower and upper end (T, m) of the central interval of the expected observation: its noise is left out.

        Of a binary outcome that is its probability. Where θ is integrated out in closed form, φ alone is uncertain.

        Raises:
            OptionError: A level outside (0, 1).
            NotAvailableError: The distribution of the observations knows no mean.
        """
        if not 0 < level < 1:
            raise OptionError(f"level must lie between 0 and 1, got {level!r}")
        self._check_numbers()
        levels = [(1 - level) / 2, (1 + level) / 2]
        try:
            lower, upper = self._reduced(
                lambda met, row: moments(met.fn)[:1], lambda means: quantiles_of_draws(means[0], levels), lead=(2,)
            )
        except NotImplementedError as error:
            raise NotAvailableError("the observations have no mean in closed form: take draws, by `sample`") from error
        return lower, upper

    @property
    def probabilities(self) -> Tensor:
        """Probabilities of the classes (T, m, N) of Categorical observations, averaged over draws.

        Raises:
            NotAvailableError: The observations are not Categorical.
        """
        if not self._classes:
            raise NotAvailableError("the observations are not Categorical, and have no probabilities of classes")
        return self._reduced(
            lambda met, row: (class_shares(met.fn),),
            lambda parts: parts[0].mean(0).movedim(-1, 0),
            lead=(self._classes,),
        ).movedim(0, -1)

    def sample(self, n: int = 1000, seed: int = 0) -> Tensor:
        """Draws of the observations (n, T, m)."""
        check_whole("n", n, 1)
        return self._drawn(n, seed, lambda values: values[0], (n,))

    @one_thread()
    def per_draw(self, seed: int = 0) -> Tensor:
        """One draw of the observations under each draw of φ and θ, in their order (S, T, m)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            lead = (len(self._phi),)
            return self._reduced(lambda met, row: (met.value,), lambda values: values[0], lead=lead, random=True)

    def log_prob(self, y: Tensor | npt.NDArray[Any] | Sequence[Any] | Tasks, *, pointwise: bool = False) -> Tensor:
        """Log predictive density of observations y: log 1/S Σ_s p(y | θ_s, φ_s), in nats.

        Args:
            y: Observations (T, m), a list of one tensor per task, or a `Tasks` with the tasks of the query.
            pointwise: Each observation on its own (T, m), rather than all of a task together (T,).
        """
        observed = observed_tasks(self.query, y)
        program, count = self._program, math.log(len(self._phi))

        def mixed(terms: tuple[Tensor, ...]) -> Tensor:
            return torch.logsumexp(terms[0], 0) - count

        if pointwise and self._classes:
            return self._reduced(lambda met, row: (log_share(met.fn, met.value),), mixed, y=observed)
        if pointwise and (self._predictive is not None or not program.structure.maskable):
            return self._by_normals(Normals.log_prob, y=observed)
        if pointwise:
            return self._reduced(lambda met, row: (met.rows_log_prob(),), mixed, y=observed)
        if self._predictive is not None:
            return self._reduced(lambda met, row: (met.log_prob(),), mixed, y=observed, per_task=True)
        return self._reduced(
            lambda met, row: (program.observed_log_prob(met, row.mask),), mixed, y=observed, per_task=True
        )

    def cdf(self, y: Tensor | npt.NDArray[Any] | Sequence[Any] | Tasks) -> Tensor:
        """Probability of at most y (T, m), of each observation on its own; for Normal observations only."""
        return self._by_normals(Normals.cdf, y=observed_tasks(self.query, y))

    def crps(self, y: Tensor | npt.NDArray[Any] | Sequence[Any] | Tasks) -> Tensor:
        """Continuous ranked probability score of y (T, m), in its units; for Normal observations only."""
        return self._by_normals(Normals.crps, y=observed_tasks(self.query, y))

    def frame(self, level: float = 0.9) -> pd.DataFrame:
        """A long table: task, row, mean, sd, lower, upper."""
        if self.query.y.dim() > 1:
            raise NotAvailableError("frame() is for observations of one number each")
        import pandas as pd

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
        head, count = f"<p><b>{escape(repr(self))}</b></p>", self.query.n_observations
        if self.query.y.dim() > 1 or not count or self._classes:
            return head
        tasks = int(torch.searchsorted(self.query.offsets[1:], SHOWN)) + 1
        first = self if tasks >= len(self.names) else self._at(list(range(tasks)))
        table = first.frame().head(SHOWN).to_html(index=False, float_format=lambda v: f"{v:.4g}")
        more = f"<p>and {count - SHOWN:,} rows more: <code>frame()</code> has all</p>" if count > SHOWN else ""
        return head + table + more

    # -----------------------------------------------------------------------------------------------------

    @cached_property
    def _classes(self) -> int:
        """How many classes observations have; 0 where they are none."""
        counts = [0]

        def read(met: Meeting, row: Row) -> tuple[Tensor, ...]:
            counts.append(class_count(met.fn))
            return (torch.zeros_like(row.y),)

        if self.names:
            self._at([0])._reduced(read, lambda parts: parts[0][0], pick=torch.tensor([0]))
        return counts[-1]

    def _at(self, at: list[int]) -> Predictive:
        """The predictive distribution of the tasks at these positions."""
        support = None if self._support is None else self._support[at]
        return Predictive(self._program, self.query[at], self._phi[:, at], self._theta[:, at], self.method, support)

    def _check_numbers(self) -> None:
        if self._classes:
            raise NotAvailableError("observations are classes, which have no mean and no order: ask for probabilities")

    def _mean_and_sd(self) -> tuple[Tensor, Tensor]:
        self._check_numbers()
        if self._moments is None:
            try:
                found = self._reduced(lambda met, row: moments(met.fn), total_moments, lead=(2,))
            except NotImplementedError:
                draws = self.sample(max(QUANTILE_DRAWS, len(self._phi)), seed=0)
                found = torch.stack([draws.mean(0), draws.std(0)])
            self._moments = found[0], found[1]
        return self._moments

    def _normal_quantiles(self, levels: list[float]) -> Tensor | None:
        """Quantiles (levels, T, m) of the mixture where the observations are Normal, else None."""

        def solve(at: Normals, y: Tensor) -> Tensor:
            return torch.stack([at.quantile(level) for level in levels])

        try:
            return self._by_normals(solve, (len(levels),))
        except NotAvailableError:
            return None

    def _by_normals(
        self, fn: Callable[[Normals, Tensor], Tensor], lead: tuple[int, ...] = (), y: Tasks | None = None
    ) -> Tensor:
        """`fn` of the mixture of Normals that each observation has, and of the observation, (*lead, T, m)."""
        closed = self._predictive is not None

        def read(met: Meeting, row: Row) -> tuple[Tensor, ...]:
            return (*normals(met.fn, closed), met.value)

        def reduce(parts: tuple[Tensor, ...]) -> Tensor:
            *parameters, values = parts
            return fn(Normals.equal(*parameters) if len(parameters) == 2 else Normals.nested(*parameters), values[0])

        try:
            return self._reduced(read, reduce, lead=lead, y=y)
        except NotImplementedError as error:
            raise NotAvailableError("the observations, one by one, are not Normal: take draws, by `sample`") from error

    @one_thread()
    def _drawn(
        self, n: int, seed: int, reduce: Callable[[tuple[Tensor, ...]], Tensor], lead: tuple[int, ...]
    ) -> Tensor:
        """`reduce` of n draws of the observations (n, tasks, m); every draw of φ and θ is used equally often."""
        generator = torch.Generator().manual_seed(seed)
        draws = len(self._phi)
        times = math.ceil(n / draws)
        rounds = torch.cat([torch.randperm(draws, generator=generator) for _ in range(times)])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self._predictive is None or times == 1:
                return self._reduced(lambda met, row: (met.value,), reduce, lead=lead, pick=rounds[:n], random=True)

            # a closed form costs the same for one draw of the observations and for many
            def together(values: tuple[Tensor, ...]) -> Tensor:
                each = values[0].movedim(2, 0)
                return reduce((each.reshape(times * draws, *each.shape[2:])[:n],))

            def read(met: Meeting, row: Row) -> tuple[Tensor, ...]:
                return (met.value,)

            return self._reduced(read, together, lead=lead, pick=rounds[:draws], random=True, times=times)

    def _reduced(
        self,
        read: Callable[[Meeting, Row], tuple[Tensor, ...]],
        reduce: Callable[[tuple[Tensor, ...]], Tensor],
        *,
        lead: tuple[int, ...] = (),
        pick: Tensor | None = None,
        y: Tasks | None = None,
        random: bool = False,
        per_task: bool = False,
        times: int | None = None,
    ) -> Tensor:
        """`read` of the observed site under each draw, (S, tasks, m) each, `reduce`d to (*lead, tasks, m).

        Done for as many tasks at a time as keep memory bounded. With `per_task` there is no axis m; with `random`
        the site is drawn afresh, with `y` it stands at these observations. With `times` a closed form is drawn from
        so often under each draw, (S, tasks, times, m).
        """
        tasks = self.query if y is None else y
        pick = torch.arange(len(self._phi)) if pick is None else pick
        width = () if per_task else (int(tasks.sizes.max()), *self.query.y.shape[1:])
        out = torch.full((*lead, len(tasks), *width), math.nan, dtype=torch.float64)
        # together, observations have no density without the padding; nor is there a closed form of some of them
        exact_sizes = self._predictive is not None or not self._program.structure.maskable
        for batch in tasks.padded(exact_sizes=exact_sizes):
            numbers = self._numbers(batch, together=per_task or random) + (times or 0) * batch.y[0].numel()
            step = max(1, CHUNK_NUMBERS // (len(pick) * numbers))
            for start in range(0, len(batch.index), step):
                part = batch.some(slice(start, start + step))
                values = reduce(self._under_draws(read, part, pick, y is not None, random, numbers, times))
                if per_task:
                    out[..., part.index] = values
                    continue
                hidden = ~part.mask.reshape(*part.mask.shape, *(1,) * (self.query.y.dim() - 1))
                at: Any = (*[slice(None)] * len(lead), part.index, slice(0, part.mask.shape[1]))
                out[at] = values.to(out.dtype).masked_fill(hidden, math.nan)
        return out

    def _under_draws(
        self,
        read: Callable[[Meeting, Row], tuple[Tensor, ...]],
        batch: Padded,
        pick: Tensor,
        observed: bool,
        random: bool,
        numbers: int,
        times: int | None,
    ) -> tuple[Tensor, ...]:
        rows = Row.of(batch)
        randomness = "different" if random else "error"
        arguments = (self._phi[pick][:, batch.index], self._theta[pick][:, batch.index])
        chunk = max(1, CHUNK_NUMBERS // (4 * len(batch.y) * numbers))
        given = () if self._support is None else (self._given(self._support, batch.index),)

        def by(program: Program) -> tuple[Tensor, ...]:
            def one(u: Tensor, v: Tensor, row: Row, *given: Row) -> tuple[Tensor, ...]:
                phi = program.returned(u)
                if self._predictive is None:
                    row = program.given(row, given[0]) if given else row
                    return read(predicted(program, phi, v, row, observed, random), row)
                fn = self._predictive(phi, given[0], row.x)
                value = row.y if observed else fn.mean
                if random and not observed:
                    value = drawn(fn, times or 1)
                    value = value if times else value[0]
                return read(Meeting(program.structure.observed[0], fn, value, True), row)

            mapped = program.over_tasks(one, randomness=randomness)
            result: tuple[Tensor, ...] = over_draws(
                program, lambda u, v: mapped(u, v, rows, *given), arguments, chunk, randomness=randomness
            )
            return result

        try:
            return by(self._program)
        except RuntimeError as error:
            if not random or not self._program.structure.vectorised or isinstance(error, BayesmetaError):
                raise
            warn_slow(error)
            return by(self._program.unvectorised())

    def _numbers(self, batch: Padded, *, together: bool) -> int:
        """Numbers alive per draw and task: the observations, or together their covariance where they depend."""
        numbers = max(1, batch.y[0].numel())
        if self._predictive is None and self._program.structure.maskable:
            return numbers
        lazy = self._predictive is not None or self._support is not None
        return numbers * (PER_OBSERVATION if lazy and not together else numbers)

    def _given(self, support: Tasks, index: Tensor) -> Row:
        """What was observed of the tasks at these positions, as one rectangle."""
        (batch,) = support[index.tolist()].padded(max_buckets=1)
        return Row.of(batch)
