"""What back-ends infer: log p(φ, D), or log p(φ, θ, D) where θ is sampled too, over unconstrained coordinates.

One density, two ways to ask it: `density` gives the value and gradient at one point, recorded and compiled, for
samplers that ask thousands of times; `log_prob` and `value_and_grad` take many points at once and compile
nothing, for methods that need a hundred gradients and one batch of values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesmeta.density import Density
from bayesmeta.evidence import Collapsed, Exact, Joint, Laplace, Quadrature
from bayesmeta.mapping import chunk_size, mapped, over_draws
from bayesmeta.program import Program
from bayesmeta.sites import quiet_pyro
from bayesmeta.threads import one_thread
from bayesmeta.workspace import Workspace

__all__ = ["Target"]

# Numbers that one point keeps alive per cell of the data: without gradients, and with the graph behind them.
VALUE_NUMBERS = 4
GRADIENT_NUMBERS = 40


class Target:
    """The log density of a hierarchy on its tasks over unconstrained coordinates u (dim,).

    The first q coordinates are φ; where θ is sampled too, those of θ (T, p) follow.

    Args:
        evidence: What is done about θ.

    Attributes:
        evidence: As given.
        dim: Length of u.
        q: Number of coordinates of φ.
        leaves: The tensors that `fn` takes behind u.
    """

    def __init__(self, evidence: Collapsed | Joint) -> None:
        self.evidence = evidence
        self.q = self.program.structure.phi.size
        self._theta = (len(evidence.tasks), self.program.structure.theta.size)
        self.dim = self.q + (self._theta[0] * self._theta[1] if self.is_joint else 0)
        leaves, self._spec = pytree.tree_flatten(evidence.data)
        self.leaves: list[Tensor] = leaves
        self._recorded: dict[tuple[Any, ...], Density] = {}
        self._workspace = Workspace()

    @property
    def program(self) -> Program:
        """The hierarchy's functions, in the coordinates of θ that the evidence works in."""
        return self.evidence.program

    @property
    def is_joint(self) -> bool:
        """Whether θ is sampled too."""
        return isinstance(self.evidence, Joint)

    def fn(self, u: Tensor, *leaves: Tensor) -> Tensor:
        """log density at u (dim,), a scalar: a pure function of tensors."""
        evidence = self.evidence
        phi, data = self.program.phi(u[: self.q]), pytree.tree_unflatten(list(leaves), self._spec)
        if isinstance(evidence, Joint):
            return phi.log_prior + evidence.total(phi, u[self.q :].reshape(self._theta), data)
        return phi.log_prior + evidence.total(phi, data)

    def _chunks(self, u: Tensor, numbers: int) -> Iterator[tuple[Tensor, ...]]:
        """Points and what is ready for them, so many at a time that memory stays bounded."""
        chunk = chunk_size(numbers * self.cells)
        tasks, p = self._theta
        for block in u.split(max(chunk, chunk_size(tasks * p * (p + 1)))):
            yield from zip(*(t.split(chunk) for t in (block, *self._ready(block))), strict=True)

    def _ready(self, u: Tensor) -> tuple[Tensor, ...]:
        """What is found for all points at once before they are asked one chunk after the other: modes of tasks."""
        if not isinstance(self.evidence, Quadrature | Laplace):
            return ()
        with self._workspace:
            return self.evidence.modes.many(u, self.evidence.data)

    def _given(self, u: Tensor, *ready: Tensor) -> Tensor:
        """log density at u (dim,), given what is ready."""
        if not ready or not isinstance(self.evidence, Quadrature | Laplace):
            return self.fn(u, *self.leaves)
        phi = self.program.phi(u)
        return phi.log_prior + self.evidence.total(phi, self.evidence.data, (ready[0], ready[1]))

    def on(self, evidence: Collapsed | Joint) -> Target:
        """The target of other tasks of the same hierarchy; densities already recorded serve it where shapes agree."""
        other = Target(evidence)
        other._recorded = self._recorded
        return other

    def density(self, compile: bool = True) -> Density:
        """Value and gradient at one point, recorded once and compiled if wanted."""
        shapes = ((leaf.shape, leaf.dtype) for leaf in self.leaves)
        fixed = self.evidence.fixed if isinstance(self.evidence, Exact | Joint) else ()
        key = (type(self.evidence), fixed, self.program.plain_centring, self.dim, compile, self._spec, *shapes)
        known = self._recorded.get(key)
        if known is not None:
            return known.on(self.leaves)
        with quiet_pyro():
            made = Density(self.fn, self.dim, self.leaves, compile=compile, trace=self.program.structure.vectorised)
        self._recorded[key] = made
        return made

    def log_prob(self, u: Tensor) -> Tensor:
        """log density (S,) at many points u (S, dim), in chunks of bounded memory."""
        chunks = self._chunks(u, VALUE_NUMBERS)
        return torch.cat([over_draws(self.program, self._given, part, len(part[0])) for part in chunks])

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log density (S,) and its gradient (S, dim) at many points u (S, dim), in chunks of bounded memory."""
        values, grads = [], []
        with one_thread(), quiet_pyro(), torch.enable_grad():
            for part, *ready in self._chunks(u, GRADIENT_NUMBERS):
                leaf = part.detach().requires_grad_(True)
                value = mapped(self.program, self._given, (leaf, *ready))
                (grad,) = torch.autograd.grad(value.sum(), leaf)
                values.append(value.detach())
                grads.append(grad)
        return torch.cat(values), torch.cat(grads)

    def pointwise(self) -> Target:
        """The same target, many points asked one after the other of the compiled density.

        Where tasks are so many that one point fills the processor, compiled code is 10 to 30 times faster than
        tensors over points and tasks.
        """
        return _Pointwise(self)

    @property
    def cells(self) -> int:
        """Numbers that one density goes through."""
        evidence: Any = self.evidence
        return int(evidence.cells) + self.dim


class _Pointwise(Target):
    def __init__(self, target: Target) -> None:
        super().__init__(target.evidence)
        self._recorded = target._recorded
        self.compiled = self.density(compile=True)

    def log_prob(self, u: Tensor) -> Tensor:
        return self.value_and_grad(u)[0]

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        with one_thread():
            both = [self.compiled.value_and_grad(point) for point in u.unbind()]
        values, grads = zip(*both, strict=True)
        return torch.stack(values), torch.stack(grads)
