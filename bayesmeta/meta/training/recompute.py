"""A function whose intermediate results are not kept for its derivative, but computed again when that is taken.

The derivative of the meta-objective goes back through all inner steps, and keeps what each of them computed until it
has passed it. Where a step is computed again on the way back, only the weights between steps are kept, for one more
evaluation of each step (Griewank and Walther 2000, Algorithm 799: revolve, ACM Transactions on Mathematical Software
26, treat the general case). `torch.utils.checkpoint` does the same for plain autograd, and knows no `torch.func`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

__all__ = ["recomputed"]

T = TypeVar("T")


def recomputed(function: Callable[..., T], *args: Any) -> T:
    """``function(*args)``, computed again when its derivative is taken.

    Args:
        function: From nested tuples and dicts of tensors and numbers to the same. All tensors that it depends on, and
            that are vectorised over or differentiated, must be among its arguments.
        *args: Where it is evaluated. First derivatives with respect to them are right; there are no second ones.
    """
    leaves, spec = tree_flatten(args)
    places = [k for k, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    found: dict[str, Any] = {}

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        values = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            values[place] = tensor
        results, found["spec"] = tree_flatten(function(*tree_unflatten(values, spec)))
        return tuple(results)

    results = _Again.apply(flat, *(leaves[place] for place in places))  # type: ignore[no-untyped-call]
    whole: T = tree_unflatten(list(results), found["spec"])
    return whole


class _Again(torch.autograd.Function):
    """Keeps the arguments alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(flat: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        return flat(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.flat = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        """The pull-back of the slopes; without a graph of its own, which `torch.func.grad` would keep to the end."""
        tensors = list(ctx.saved_tensors)
        smooth = [k for k, tensor in enumerate(tensors) if tensor.is_floating_point()]

        def of_smooth(*values: Tensor) -> tuple[Tensor, ...]:
            return ctx.flat(*_with(tensors, smooth, values))  # type: ignore[no-any-return]

        with torch.no_grad():
            pull = torch.func.vjp(of_smooth, *(tensors[k] for k in smooth))[1]
            found = pull(tuple(slopes))
        return None, *_with([None] * len(tensors), smooth, found)


def _with(values: Sequence[Any], places: Sequence[int], others: Sequence[Any]) -> list[Any]:
    """The values with others in some places."""
    changed = list(values)
    for place, other in zip(places, others, strict=True):
        changed[place] = other
    return changed
