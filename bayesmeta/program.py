"""A hierarchy as pure functions: the user's two Pyro functions, run on given values, one task or many.

`Program` is what the rest of the library calls instead of the user's functions. It knows the sites, runs the
functions under handlers that put values in and take log densities out, and maps over tasks by
`torch.func.vmap`. Nothing in it keeps state between calls, so it can be differentiated, batched and traced.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from pyro.poutine import block
from torch import Tensor
from torch.distributions import biject_to
from torch.utils import _pytree as pytree

from bayesmeta.centring import CENTRED, Centring, Degree
from bayesmeta.closed_form import ClosedForm
from bayesmeta.errors import HierarchyError
from bayesmeta.sites import Meeting, Sites, Values
from bayesmeta.tasks import Padded, Tasks

__all__ = ["Phi", "Program", "Row", "Structure", "first_rows", "stacked"]


class Row(NamedTuple):
    """The data of one task, or of many with a leading task axis: x (n, ...), y (n, ...), mask (n,), context.

    `degrees` are the task's degrees of centring by θ site, where the program has them by task.
    """

    x: Tensor
    y: Tensor
    mask: Tensor
    context: dict[str, Any]
    degrees: dict[str, Degree] = {}  # noqa: RUF012  (a tuple's default, never written to)

    @staticmethod
    def of(batch: Padded) -> Row:
        """The tensors of a padded batch, as an argument to map over."""
        return Row(batch.x, batch.y, batch.mask, dict(batch.context))


class Phi(NamedTuple):
    """One point of φ: constrained values by site, what the hyperprior returned, and log p(φ) with Jacobian."""

    values: dict[str, Tensor]
    returned: Any
    log_prior: Tensor

    def detached(self) -> Phi:
        """The same point as a constant: nothing differentiates through it."""
        values, returned = pytree.tree_map_only(Tensor, torch.detach, (self.values, self.returned))
        return Phi(values, returned, self.log_prior.detach())


@dataclass(frozen=True)
class Structure:
    """What was found out about a hierarchy by running it on tasks.

    Attributes:
        phi: Sites of the hyperprior.
        theta: Latent sites of the task.
        observed: Names of the task's observed sites.
        columns_as_vector: Whether a single input column is handed over as (n,) rather than (n, 1).
        prior_sees_rows: Whether log p(θ | φ) is another where the task has one observation alone.
        bounded: Whether counts, classes, yes and no, or numbers of a fixed range are observed.
        maskable: Whether rows repeated as padding can be masked out of the task's log density.
        vectorised: Whether the task runs under `torch.func.vmap`.
    """

    phi: Sites
    theta: Sites
    observed: tuple[str, ...]
    columns_as_vector: bool = False
    prior_sees_rows: bool = False
    bounded: bool = False
    maskable: bool = True
    vectorised: bool = True


def first_rows(tasks: Tasks) -> Row:
    """The first observation of each task, for a task without any another task's: what p(θ | φ) may look at."""
    first = tasks.offsets[:-1].clamp(max=max(tasks.n_observations - 1, 0)).unsqueeze(-1)
    x, y = (t[first] if len(t) else t.new_zeros((len(first), 1, *t.shape[1:])) for t in (tasks.x, tasks.y))
    return Row(x, y, torch.ones(len(first), 1, dtype=torch.bool), dict(tasks.context))


def stacked(results: list[Any]) -> Any:
    """Stack a list of equal pytrees of tensors into one pytree with a leading axis."""
    leaves = [pytree.tree_flatten(result) for result in results]
    spec = leaves[0][1]
    columns = zip(*(flat for flat, _ in leaves), strict=True)
    return pytree.tree_unflatten([torch.stack(list(column)) for column in columns], spec)


class Program:
    """The functions of a hierarchy over unconstrained coordinates.

    Args:
        hyperprior: The user's p(φ).
        task: The user's p(θ | φ) p(y | x, θ, φ) for one task.
        structure: Its sites, as found by `bayesmeta.hierarchy.discover`.
        centring: How the coordinates of normal θ are meant: for all sites, or by site. A degree by task and
            element, (T, ...) in the order of the tasks, reaches the task through its row: see `rows`.
        closed_form: The family's own evidence, where it has one.
    """

    def __init__(
        self,
        hyperprior: Callable[[], Any],
        task: Callable[..., Any],
        structure: Structure,
        *,
        centring: Centring | Mapping[str, Centring] = CENTRED,
        closed_form: ClosedForm | None = None,
    ) -> None:
        self.hyperprior = hyperprior
        self.task = task
        self.structure = structure
        self.centring = centring
        self.closed_form = closed_form

    def with_centring(self, centring: bool | Centring | Mapping[str, Centring]) -> Program:
        """The same program in other coordinates of θ: centred (True), standardised (False), or by degree."""
        centring = float(centring) if isinstance(centring, bool) else centring
        return Program(self.hyperprior, self.task, self.structure, centring=centring, closed_form=self.closed_form)

    def unvectorised(self) -> Program:
        """The same program, run one task and one draw at a time."""
        structure = replace(self.structure, vectorised=False)
        return Program(self.hyperprior, self.task, structure, centring=self.centring, closed_form=self.closed_form)

    def asks_for_support(self, query: Tasks) -> bool:
        """Whether the task has an argument `support`, and it is not a context of that name."""
        try:
            arguments = inspect.signature(self.task).parameters
        except (TypeError, ValueError):
            return False
        return "support" in arguments and "support" not in query.context

    def given(self, row: Row, support: Row) -> Row:
        """The row of a query with what was observed of its task, which the task looks at."""
        x = support.x.squeeze(-1) if self.structure.columns_as_vector else support.x
        return row._replace(context={**row.context, "support": support._replace(x=x)})

    @property
    def plain_centring(self) -> tuple[tuple[str, float], ...]:
        """What of the centring is no tensor, and so part of a recorded density: the degree by θ site."""
        if isinstance(self.centring, Mapping):
            return tuple((name, one) for name, one in self.centring.items() if isinstance(one, float))
        return tuple((name, self.centring) for name in self.structure.theta.names if isinstance(self.centring, float))

    def rows(self, batch: Padded) -> Row:
        """The rows of a batch of the tasks whose degrees of centring the program has, with these degrees."""
        degrees = self.centring if isinstance(self.centring, Mapping) else {}
        picked = {
            name: Degree(degree.scale[batch.index], degree.loc[batch.index])
            for name, degree in degrees.items()
            if isinstance(degree, Degree)
        }
        return Row.of(batch)._replace(degrees=picked)

    def phi(self, u: Tensor) -> Phi:
        """The point of φ at unconstrained coordinates u (q,)."""
        return self._phi(Values(self.structure.phi.split(u)))

    def returned(self, u: Tensor) -> Any:
        """What the hyperprior returns at unconstrained coordinates u (q,): what the task takes as φ."""
        with block(), Values(self.structure.phi.split(u)):
            return self.hyperprior()

    def phi_at(self, values: Mapping[str, Tensor]) -> Phi:
        """The point of φ with these constrained values; `log_prior` then has no Jacobian."""
        return self._phi(Values(values, constrained=True))

    def _phi(self, handler: Values) -> Phi:
        with block(), handler:
            returned = self.hyperprior()
        met = handler.met
        total = torch.stack([meeting.log_prob() for meeting in met.values()]).sum()
        return Phi({name: met[name].value for name in self.structure.phi.names}, returned, total)

    def run(self, handler: Values, phi: Any, x: Tensor, y: Tensor | None, context: Mapping[str, Any]) -> Any:
        """Run the user's task under a handler; `phi` is what the hyperprior returned."""
        if self.structure.columns_as_vector:
            x = x.squeeze(-1)
        with block(), handler:
            return self.task(phi, x, y, **context)

    def meet(self, phi: Any, v: Tensor, row: Row) -> dict[str, Meeting]:
        """Every site of one task at unconstrained θ coordinates v (p,)."""
        handler = Values(self.structure.theta.split(v), centring=self._centring_of(row))
        self.run(handler, phi, row.x, row.y, row.context)
        return handler.met

    def _centring_of(self, row: Row) -> Centring | Mapping[str, Centring]:
        if not isinstance(self.centring, Mapping):
            return self.centring
        by_task = [name for name, centring in self.centring.items() if isinstance(centring, Degree)]
        if not set(by_task) <= set(row.degrees):
            raise HierarchyError(
                f"the coordinates of {by_task} have a degree of centring by task, and this row has none: take rows "
                "from program.rows, or coordinates of another kind with program.with_centring"
            )
        return {**self.centring, **row.degrees}

    def terms(self, phi: Any, v: Tensor, row: Row) -> tuple[Tensor, Tensor]:
        """log p(θ | φ) with its Jacobian, and log p(y | x, θ, φ), of one task at coordinates v (p,)."""
        met = self.meet(phi, v, row)
        return self._log_prior(met), self._log_likelihood(met, row)

    def log_joint(self, phi: Any, v: Tensor, row: Row) -> Tensor:
        """log p(y, θ | x, φ) of one task at unconstrained coordinates v (p,), Jacobian included."""
        log_prior, log_likelihood = self.terms(phi, v, row)
        return log_prior + log_likelihood

    def _log_prior(self, met: Mapping[str, Meeting]) -> Tensor:
        terms = [met[name].log_prob() for name in self.structure.theta.names]
        return torch.stack(terms).sum() if terms else torch.zeros(())

    def _log_likelihood(self, met: Mapping[str, Meeting], row: Row) -> Tensor:
        terms = [self.observed_log_prob(met[name], row.mask) for name in self.structure.observed]
        return torch.stack(terms).sum()

    def observed_log_prob(self, site: Meeting, mask: Tensor) -> Tensor:
        """Log density of an observed site, without the rows that are padding."""
        if not self.structure.maskable:  # batches are of one size then: all rows are real, or none
            return torch.where(mask.any(), site.log_prob(), 0.0)
        return _masked(site.rows_log_prob(), mask).sum()

    def values(self, v: Tensor, phi: Any, row: Row) -> dict[str, Tensor]:
        """Constrained values of θ at unconstrained coordinates v (p,)."""
        met = self.meet(phi, v, row)
        return {name: met[name].value for name in self.structure.theta.names}

    def coordinates(self, values: Mapping[str, Tensor], phi: Any, row: Row) -> Tensor:
        """Unconstrained coordinates (p,) of values of θ: the inverse of `values`, centred."""
        handler = Values(values, constrained=True)
        self.run(handler, phi, row.x, row.y, row.context)
        return _coordinates(handler.met, self.structure.theta)

    def drawn_phi(self) -> Tensor:
        """Unconstrained coordinates (q,) of a draw from p(φ)."""
        handler = Values()
        with block(), handler:
            self.hyperprior()
        return _coordinates(handler.met, self.structure.phi)

    def drawn(self, phi: Any, row: Row) -> Tensor:
        """Unconstrained coordinates (p,) of a draw from p(θ | φ)."""
        handler = Values()
        self.run(handler, phi, row.x, row.y, row.context)
        return _coordinates(handler.met, self.structure.theta)

    def over_tasks(self, fn: Callable[..., Any], *, randomness: str = "error") -> Callable[..., Any]:
        """`fn` over a leading task axis of all its arguments: by vmap, or by a loop where that fails."""
        if self.structure.vectorised:
            return torch.func.vmap(fn, randomness=randomness)
        return lambda *args: _loop(fn, args)


def _coordinates(met: Mapping[str, Meeting], sites: Sites) -> Tensor:
    found = [met[name] for name in sites.names]
    parts = [biject_to(site.fn.support).inv(site.value).reshape(-1) for site in found]
    return torch.cat(parts) if parts else torch.zeros(0)


def _masked(terms: Tensor, mask: Tensor) -> Tensor:
    """Zero where the mask over observations (n,) is false; terms are (n, ...)."""
    return torch.where(mask.reshape(mask.shape + (1,) * (terms.dim() - 1)), terms, 0.0)


def _loop(fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    leaves, spec = pytree.tree_flatten(args)
    if not leaves:
        raise HierarchyError("a loop over tasks needs at least one argument with a task axis")
    pick = range(leaves[0].shape[0])
    return stacked([fn(*pytree.tree_unflatten([leaf[i] for leaf in leaves], spec)) for i in pick])
