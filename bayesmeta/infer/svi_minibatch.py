"""log p(u) as variational inference asks for it: summed over particles, of all tasks or of a minibatch of them.

With B of T tasks the sum over tasks is scaled by T/B, the prior of φ is not:

    f_B(u) = log p(φ) + (T/B) Σ_{t in B} log Z_t(φ)

which over minibatches has the expectation f(u). Its noise is large, though: as many posterior standard deviations
as √(T/B). Where θ is integrated out and the mode m of φ is known, the noise that a minibatch has at m is taken off,

    f(u) ≈ f(m) + ∇f(m)'(u - m) + [ f_B(u) - f_B(m) - ∇f_B(m)'(u - m) ]

again without bias, and what remains is of the size √(1/B) standard deviations whatever T is: a control variate
(Baker, Fearnhead, Fox, Nemeth 2019, "Control variates for stochastic gradient MCMC").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine import runtime
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesmeta.density import Density
from bayesmeta.evidence import Gram, Joint
from bayesmeta.sites import quiet_pyro
from bayesmeta.target import Target
from bayesmeta.tasks import Tasks

__all__ = ["Batch", "Minibatches", "shuffled"]


@dataclass(frozen=True)
class Batch:
    """Some of the tasks, or all, and their log density.

    Attributes:
        index: Positions of the tasks (B,).
        mean: The mean over particles of the (estimated) log density at u (S, q + B p), differentiable, ().
        tasks: The tasks themselves, where an amortised guide looks at them.
    """

    index: Tensor
    mean: Callable[[Tensor], Tensor]
    tasks: Tasks | None = None


@dataclass(frozen=True)
class Reference:
    """Value () and gradient (q,) of the full log density at the mode of φ (q,)."""

    mode: Tensor
    value: Tensor
    grad: Tensor


class Minibatches:
    """The log density of a target over minibatches of its tasks.

    Args:
        target: The target.
        particles: S, the points asked for at once.
        size: B, the tasks of a minibatch; None for all of them.
        mode: The mode of φ (q,) for the control variate; None to do without.
        compile: Compile the density.
        look: Whether batches carry their tasks.
    """

    def __init__(
        self,
        target: Target,
        particles: int,
        size: int | None = None,
        *,
        mode: Tensor | None = None,
        compile: bool = False,
        look: bool = False,
    ) -> None:
        self.target, self.particles, self.compile, self.look = target, particles, compile, look
        self.count = len(target.evidence.tasks)
        self.size = self.count if size is None else min(size, self.count)
        self.evaluations = 0
        self._known: dict[Any, Density] = {}
        self._reference: Reference | None = None
        if mode is not None and self.size < self.count and not target.is_joint:
            values, grads = target.value_and_grad(mode.unsqueeze(0))
            self._reference = Reference(mode, values[0], grads[0])

    def stream(self, generator: torch.Generator) -> Iterator[Batch]:
        """Batches without end: every task once an epoch, in new order each time."""
        everything = self.everything() if self.size == self.count else None
        while True:
            if everything is not None:
                yield everything
            else:
                yield from (self.at(index) for index in shuffled(self.count, self.size, generator))

    def everything(self) -> Batch:
        """All tasks."""
        index, tasks = torch.arange(self.count), self.target.evidence.tasks if self.look else None
        return Batch(index, lambda u: self._mean(u, self.target, self.target.leaves, 1.0, "all"), tasks)

    def at(self, index: Tensor) -> Batch:
        """The minibatch of the tasks at these positions (B,)."""
        evidence, scale = self.target.evidence, self.count / len(index)
        if isinstance(evidence, Gram):
            leaves = pytree.tree_leaves(evidence.take(index))
            return Batch(index, lambda u: self._mean(u, self.target, leaves, scale, "some"))
        part = self.part(index)
        tasks = part.evidence.tasks if self.look else None
        return Batch(index, lambda u: self._mean(u, part, part.leaves, scale, None), tasks)

    def part(self, index: Tensor) -> Target:
        """The target of the tasks at these positions alone."""
        evidence = self.target.evidence
        part = evidence.take(index) if isinstance(evidence, Joint) else evidence.on(evidence.tasks[index])
        return self.target.on(part)

    def _mean(self, u: Tensor, target: Target, leaves: Sequence[Tensor], scale: float, key: str | None) -> Tensor:
        """The mean of f_B over particles; under a key the graph is recorded once for all data of the same shapes."""
        self.evaluations += len(u)
        reference = self._reference if scale > 1.0 else None
        points = u if reference is None else torch.cat([u, reference.mode.unsqueeze(0)])
        with torch.enable_grad(), _outside_pyro():  # it has a gradient of its own, whoever asks for the value alone
            density = self._density(target, leaves, scale, points.shape, key)
            value, grad = density.value_and_grad(points.detach().reshape(-1))
        grad = grad.reshape(points.shape)
        if reference is not None:  # value is Σ f_B(u) - S f_B(m), and the last row of the gradient -S ∇f_B(m)
            change = reference.grad + grad[-1] / len(u)
            value = len(u) * reference.value + value + (u.detach() - reference.mode).sum(0) @ change
            grad = grad[:-1] + change
        found: Tensor = _Value.apply(u, value / len(u), grad / len(u))  # type: ignore[no-untyped-call]
        return found

    def _density(
        self, target: Target, leaves: Sequence[Tensor], scale: float, shape: torch.Size, key: str | None
    ) -> Density:
        known = self._known.get((key, shape))
        if known is not None and key is not None:
            return known if key == "all" else known.on(leaves)
        contrast = self._reference is not None and scale > 1.0
        trace = key is not None and target.program.structure.vectorised
        with quiet_pyro():
            made = Density(
                _summed(target, scale, shape, contrast), shape.numel(), leaves, compile=self.compile, trace=trace
            )
        self._known[key, shape] = made
        return made


def shuffled(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """One epoch: disjoint minibatches of exactly `size` positions; a rest too small for one is left out this time."""
    order = torch.randperm(count, generator=generator)
    for start in range(0, count - size + 1, size):
        yield order[start : start + size]


def _summed(target: Target, scale: float, shape: torch.Size, contrast: bool) -> Callable[..., Tensor]:
    """Σ_s f_B(u_s) as a function of the flattened points; with `contrast`, S f_B(m) taken off, m the last point."""
    particles = shape[0] - contrast

    def one(u: Tensor, *leaves: Tensor) -> Tensor:
        value = target.fn(u, *leaves)
        if scale == 1.0:
            return value
        log_prior = target.program.phi(u[: target.q]).log_prior
        return log_prior + scale * (value - log_prior)

    def total(flat: Tensor, *leaves: Tensor) -> Tensor:
        points = flat.reshape(shape)
        if target.program.structure.vectorised:
            values = torch.func.vmap(lambda u: one(u, *leaves))(points)
        else:
            values = torch.stack([one(u, *leaves) for u in points])
        return values.sum() - (particles + 1) * values[-1] if contrast else values.sum()

    return total


@contextmanager
def _outside_pyro() -> Iterator[None]:
    """No handler at work: the user's functions run inside the model of the ELBO, whose plates are not theirs."""
    handlers, dims = list(runtime._PYRO_STACK), runtime._DIM_ALLOCATOR._stack
    runtime._PYRO_STACK.clear()
    runtime._DIM_ALLOCATOR._stack = []
    try:
        yield
    finally:
        runtime._PYRO_STACK[:] = handlers
        runtime._DIM_ALLOCATOR._stack = dims


class _Value(torch.autograd.Function):
    """A value whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, value: Tensor, grad: Tensor) -> Tensor:
        ctx.save_for_backward(grad)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = ctx.saved_tensors
        return outer[0] * grad, None, None
