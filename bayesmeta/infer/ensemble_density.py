"""The log posterior of many φ on a batch of tasks, with gradients: all members in one tensor, batch after batch.

    f(φ) = 1/B Σ_{t in batch} log Z_t(φ) + 1/N log p(φ)

is log p(φ | D) in nats per task, without bias over batches of B of N tasks. It is recorded once for all batches of
the same shapes, data as inputs, so that a step costs what its tensor operations cost and not what the user's
functions do: half the time for a small network, a tenth for a handful of φ. Short runs, functions that cannot be
recorded and shapes beyond the first few do without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesmeta.infer.ensemble_feed import Part
from bayesmeta.mapping import mapped
from bayesmeta.recordings import Graph, Recordings
from bayesmeta.sites import quiet_pyro

__all__ = ["MembersDensity"]


class MembersDensity:
    """Evidence and gradient at many φ on a batch of tasks.

    Args:
        total: N, the number of tasks that the prior of φ is weighed against.
        compile: Compile what is recorded.
        record: Whether steps are so many that a recording, some seconds, is worth it.
    """

    def __init__(self, total: int, *, compile: bool = False, record: bool = True) -> None:
        self._total = total
        self._recordings = Recordings(wanted=record, compile=compile)

    @property
    def mode(self) -> str:
        """What evaluates it: ``"compiled"``, ``"traced"`` or ``"eager"``."""
        return self._recordings.mode

    def __call__(self, u: Tensor, part: Part) -> tuple[Tensor, Tensor]:
        """The mean of log Z over the tasks of the batch (M,), and the gradient of f (M, q), at u (M, q)."""
        leaves, spec = pytree.tree_flatten(part.data)
        with quiet_pyro():
            graph = self._graph(u, part, leaves, spec)
            if graph is None:
                return self._eager(u, part)
            mean, grad = graph(u, *leaves)
        return mean, grad

    def _graph(self, u: Tensor, part: Part, leaves: Sequence[Tensor], spec: Any) -> Graph | None:
        """The recording for data of these shapes, if there is one."""

        def both(u: Tensor, *leaves: Tensor) -> tuple[Tensor, Tensor]:
            data = pytree.tree_unflatten(list(leaves), spec)

            def one(u: Tensor) -> tuple[Tensor, Tensor]:
                return self._value(u, part, data)

            grad, (_, mean) = torch.func.vmap(torch.func.grad_and_value(one, has_aux=True))(u)
            return mean, grad

        if not part.evidence.program.structure.vectorised:
            return None
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        return self._recordings.find((type(part.evidence), u.shape, part.tasks, spec, shapes), both, (u, *leaves))

    def _value(self, u: Tensor, part: Part, data: Any) -> tuple[Tensor, Tensor]:
        """f and the mean of log Z at one φ (q,)."""
        phi = part.evidence.program.phi(u)
        mean = part.evidence.total(phi, data) / part.tasks
        return mean + phi.log_prior / self._total, mean

    def _eager(self, u: Tensor, part: Part) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = u.detach().requires_grad_(True)
            value, mean = mapped(part.evidence.program, lambda u: self._value(u, part, part.data), (leaf,))
            (grad,) = torch.autograd.grad(value.sum(), leaf)
        return mean.detach(), grad
