"""A hierarchy as an ordinary Pyro model with a plate over tasks, on which all of Pyro works.

Each θ site stands in the plate as one distribution whose `sample` and `log_prob` are the user's task function
mapped over tasks; so does the observed site, padded to the longest task and masked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import pyro
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import biject_to

from bayesmeta.errors import NotAvailableError
from bayesmeta.program import Program, Row, first_rows, stacked
from bayesmeta.sites import Meeting, Site, Values, quiet_pyro
from bayesmeta.tasks import Padded, Tasks

__all__ = ["joint_model"]

_ONE = torch.Size()


def joint_model(program: Program, tasks: Tasks) -> Callable[[], dict[str, Tensor]]:
    """The Pyro model of a hierarchy on these tasks. It returns the θ sites, each (T, ...).

    Where a task's observations are one number or vector each, observations are (T, n_max, ...), in the order of
    the tasks, repeated rows at the end of the shorter ones having no say.
    """
    _check_supports(program, tasks)
    batches = tasks.padded(exact_sizes=not program.structure.maskable)
    y = _padded_observations(tasks, batches)

    def model() -> dict[str, Tensor]:
        with _double():
            phi = program.hyperprior()
            values: dict[str, Tensor] = {}
            with pyro.plate("task", len(tasks)):
                for site in program.structure.theta:
                    prior = _ThetaSite(program, batches, phi, dict(values), site)
                    values[site.name] = pyro.sample(site.name, prior)
                for name in program.structure.observed:
                    likelihood = _ObservedSite(program, batches, phi, values, name, y.shape)
                    pyro.sample(name, likelihood, obs=y)
        return values

    return model


def _check_supports(program: Program, tasks: Tasks) -> None:
    """Raise a NotAvailableError where what θ may be depends on φ: Pyro's samplers take one support."""
    with quiet_pyro():
        v = torch.linspace(-1.0, 0.5, program.structure.theta.size)
        points = [program.phi(torch.full((program.structure.phi.size,), u)).returned for u in (-0.7, 0.4)]
        rows = Row.of(tasks[:1].padded()[0]) if tasks.n_observations else first_rows(tasks[:1])
        met = [program.over_tasks(lambda row, at=at: program.values(v, at, row))(rows) for at in points]
    for site in program.structure.theta:
        if not site.is_real and not torch.allclose(*(values[site.name] for values in met)):
            raise NotAvailableError(
                f"what θ site {site.name!r} may be depends on φ, and an ordinary Pyro model has one support for all: "
                f"sample {site.name}_unit from Uniform(0, 1), say, and write {site.name} as a function of it and φ. "
                "bm.fit takes the hierarchy as it is"
            )


@contextmanager
def _double() -> Iterator[None]:
    """Double precision while the model runs; Pyro's validation stays as the user has it."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)


def _padded_observations(tasks: Tasks, batches: list[Padded]) -> Tensor:
    width = max(batch.y.shape[1] for batch in batches)
    y = torch.zeros(len(tasks), width, *tasks.y.shape[1:], dtype=torch.float64)
    for batch in batches:
        y[batch.index, : batch.y.shape[1]] = batch.y
    return y


class _PerTask(TorchDistribution):
    """A distribution over all tasks at once, batch shape (T,), from one run of the user's task per task."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        program: Program,
        batches: list[Padded],
        phi: Any,
        values: Mapping[str, Tensor],
        name: str,
        event_shape: torch.Size,
    ) -> None:
        self.program, self.batches, self.phi = program, batches, phi
        self.given, self.name = dict(values), name
        count = sum(len(batch.index) for batch in batches)
        super().__init__(torch.Size([count]), event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _PerTask:
        if torch.Size(batch_shape) != self.batch_shape:
            raise NotAvailableError(
                f"the joint model runs over one plate of tasks, {tuple(self.batch_shape)}, and cannot be expanded "
                f"to {tuple(batch_shape)}: use one particle, chain or sample at a time"
            )
        return self

    def _over_tasks(
        self,
        fn: Callable[[dict[str, Tensor], Row], Tensor],
        given: Mapping[str, Tensor],
        y: Tensor | None = None,
    ) -> Any:
        """`fn(θ of the task, its row)` for every task, batch by batch; `y` (T, n_max, ...) in place of the data's."""
        with quiet_pyro():
            mapped = self.program.over_tasks(fn, randomness="different")
            parts = []
            for batch in self.batches:
                row = Row.of(batch)
                row = row if y is None else row._replace(y=y[batch.index, : row.y.shape[1]])
                parts.append(mapped({name: value[batch.index] for name, value in given.items()}, row))
            return parts

    def _in_order(self, parts: list[Tensor]) -> Tensor:
        order = torch.argsort(torch.cat([batch.index for batch in self.batches]))
        return torch.cat(parts)[order]

    def _meet(self, values: Mapping[str, Tensor], row: Row, y: Tensor | None) -> Meeting:
        handler = Values(values, constrained=True, fallback=self._later)
        self.program.run(handler, self.phi, row.x, y, row.context)
        return handler.met[self.name]

    def _later(self, name: str, fn: Any) -> Tensor:
        """Any value for a site whose own is not needed."""
        transform = biject_to(fn.support)
        value: Tensor = transform(torch.zeros(transform.inverse_shape(torch.Size(fn.shape()))))
        return value

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = _ONE) -> Tensor:
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            draws = stacked([self._draw() for _ in range(shape.numel())])
        result: Tensor = draws.reshape(shape + self.batch_shape + self.event_shape)
        return result

    def _draw(self) -> Tensor:
        raise NotImplementedError


class _ThetaSite(_PerTask):
    """p(θ_k | φ, earlier θ) of every task: values (T, ...)."""

    def __init__(
        self, program: Program, batches: list[Padded], phi: Any, values: Mapping[str, Tensor], site: Site
    ) -> None:
        super().__init__(program, batches, phi, values, site.name, torch.Size(site.shape))
        rest = len(site.shape) - site.support.event_dim
        self._support = constraints.independent(site.support, rest) if rest else site.support

    @property
    def support(self) -> Any:
        return self._support

    def log_prob(self, value: Tensor) -> Tensor:
        given = self.given | {self.name: value}
        return self._in_order(self._over_tasks(lambda v, row: self._meet(v, row, row.y).log_prob(), given))

    def _draw(self) -> Tensor:
        def one(values: dict[str, Tensor], row: Row) -> Tensor:
            handler = Values(values, constrained=True)
            self.program.run(handler, self.phi, row.x, row.y, row.context)
            return handler.met[self.name].value

        if self.given:
            return self._in_order(self._over_tasks(one, self.given))
        return self._in_order(self._over_tasks(lambda values, row: one({}, row), {}))


class _ObservedSite(_PerTask):
    """p(y | x, θ, φ) of every task, over observations padded to (T, n_max, ...)."""

    def __init__(
        self,
        program: Program,
        batches: list[Padded],
        phi: Any,
        values: Mapping[str, Tensor],
        name: str,
        shape: torch.Size,
    ) -> None:
        super().__init__(program, batches, phi, values, name, shape[1:])

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.real, len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        def one(values: dict[str, Tensor], row: Row) -> Tensor:
            return self.program.observed_log_prob(self._meet(values, row, row.y), row.mask)

        return self._in_order(self._over_tasks(one, self.given, value))

    def _draw(self) -> Tensor:
        def one(values: dict[str, Tensor], row: Row) -> Tensor:
            handler = Values(values, constrained=True)
            self.program.run(handler, self.phi, row.x, None, row.context)
            return handler.met[self.name].value

        width = self.event_shape[0]
        parts = self._over_tasks(one, self.given)
        padded = [torch.cat([p, p.new_full((len(p), width - p.shape[1], *p.shape[2:]), torch.nan)], 1) for p in parts]
        return self._in_order(padded)
