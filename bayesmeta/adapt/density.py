"""log p(y_t, θ | φ_s) of every task t and draw s at once, with its derivatives in θ: what local methods work on.

No task's density knows another's θ, nor one draw's another's φ, so that one gradient of the sum of all of them is
the gradient of each.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesmeta.mapping import chunk_size, mapped, over_draws
from bayesmeta.program import Program, Row
from bayesmeta.sites import quiet_pyro
from bayesmeta.tasks import Tasks
from bayesmeta.threads import one_thread

__all__ = ["TaskDensity"]

# Numbers kept alive per cell of the data: of values alone, with a gradient, with a graph to differentiate again.
VALUE_NUMBERS, GRADIENT_NUMBERS, SECOND_NUMBERS = 4, 40, 80

PerTask = Callable[[Any, Tensor, Row], Any]


class TaskDensity:
    """The joint log density of each task's observations and θ, under each draw of φ.

    Args:
        program: The hierarchy's functions.
        tasks: The tasks (T,), all with observations.
        phi: Coordinates of φ, (S, q) for all tasks or (S, T, q) by task.
        centred: Whether coordinates of normal θ are θ itself, rather than standardised: zero at the prior mean and
            as wide as the prior.
    """

    def __init__(self, program: Program, tasks: Tasks, phi: Tensor, *, centred: bool = False) -> None:
        self.program = program.with_centring(centred)
        self.tasks = tasks
        self.phi = phi
        self.p = program.structure.theta.size
        self._centred = centred
        batches = tasks.padded(exact_sizes=not program.structure.maskable)
        self._rows = [Row.of(batch) for batch in batches]
        self._counts = [len(batch.index) for batch in batches]
        self._where = torch.cat([batch.index for batch in batches])
        self._order = torch.argsort(self._where)
        self._cells = sum(batch.mask.numel() for batch in batches) + len(tasks) * self.p

    @property
    def shape(self) -> tuple[int, int, int]:
        """(S, T, p)."""
        return len(self.phi), len(self.tasks), self.p

    def on(self, tasks: Tasks) -> TaskDensity:
        """The same of other observations of as many tasks."""
        return TaskDensity(self.program, tasks, self.phi, centred=self._centred)

    def under(self, phi: Tensor) -> TaskDensity:
        """The same under other draws of φ, (S, q) or (S, T, q)."""
        other = copy.copy(self)
        other.phi = phi
        return other

    def value(self, v: Tensor) -> Tensor:
        """log p(y_t, θ | φ_s) (S, T) at coordinates of θ (S, T, p)."""
        value: Tensor = self._over_draws(self.program.log_joint, v)
        return value

    def terms(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """log p(θ | φ) with its Jacobian and log p(y | θ, φ), each (S, T)."""
        prior, likelihood = self._over_draws(self.program.terms, v)
        return prior, likelihood

    def value_and_grad(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """log p(y_t, θ | φ_s) (S, T) and its gradient (S, T, p)."""
        value, grad = self._differentiated(v, self.program.log_joint)
        return value, grad

    def prior_and_grad(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """log p(θ | φ_s) (S, T) and its gradient (S, T, p)."""

        def prior(returned: Any, v: Tensor, row: Row) -> Tensor:
            return self.program.terms(returned, v, row)[0]

        value, grad = self._differentiated(v, prior)
        return value, grad

    def second_order(self, v: Tensor, read: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        """Value (S, T), gradient (S, T, p), and what `read(gradient, leaf)` finds of the Hessian, chunk by chunk.

        The gradient handed to `read` can be differentiated again with respect to the leaf.
        """
        return self._differentiated(v, self.program.log_joint, read)

    def centred(self, v: Tensor) -> Tensor:
        """Centred coordinates of θ (S, T, p) from those that this density is over."""
        if self._centred:
            return v
        program = self.program.with_centring(True)

        def moved(returned: Any, v: Tensor, row: Row) -> Tensor:
            return program.coordinates(self.program.values(v, returned, row), returned, row)

        coordinates: Tensor = self._over_draws(moved, v)
        return coordinates

    # ------------------------------------------------------------------------------------------------------

    def _over_draws(self, fn: PerTask, v: Tensor) -> Any:
        return over_draws(self.program, self._draw(fn), (self.phi, v), chunk_size(VALUE_NUMBERS * self._cells))

    def _differentiated(
        self,
        v: Tensor,
        fn: PerTask,
        read: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, ...]:
        chunk = chunk_size((GRADIENT_NUMBERS if read is None else SECOND_NUMBERS) * self._cells)
        parts = []
        with one_thread(), quiet_pyro(), torch.enable_grad():
            for u, start in zip(self.phi.split(chunk), v.split(chunk), strict=True):
                leaf = start.detach().requires_grad_(True)
                value = mapped(self.program, self._draw(fn), (u, leaf))
                again = read is not None
                (grad,) = torch.autograd.grad(value.sum(), leaf, create_graph=again, materialize_grads=True)
                found = () if read is None else (read(grad, leaf),)
                parts.append((value.detach(), grad.detach(), *found))
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    def _draw(self, fn: PerTask) -> Callable[[Tensor, Tensor], Any]:
        """`fn(returned, v, row)` of all tasks under one draw of φ: u is (q,) or (T, q), v (T, p)."""
        program = self.program

        def draw(u: Tensor, v: Tensor) -> Any:
            shared = u.dim() == 1
            returned = program.returned(u) if shared else None

            def one(v: Tensor, row: Row, u: Tensor) -> Any:
                return fn(returned if shared else program.returned(u), v, row)

            us = v[:, :0] if shared else u[self._where]
            parts = zip(v[self._where].split(self._counts), self._rows, us.split(self._counts), strict=True)
            return self._joined([program.over_tasks(one)(*part) for part in parts])

        return draw

    def _joined(self, parts: list[Any]) -> Any:
        """Results of the batches as one, in the order of the tasks."""
        flat = [pytree.tree_flatten(part) for part in parts]
        columns = [torch.cat(list(column))[self._order] for column in zip(*(leaves for leaves, _ in flat), strict=True)]
        return pytree.tree_unflatten(columns, flat[0][1])
