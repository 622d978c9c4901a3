"""A `torch.nn.Module` as a function of its weights: what an inner loop differentiates and a task changes.

Batch normalisation without running statistics (``track_running_stats=False``) normalises by the rows it is given, be
they support or query: the transductive form of the literature. Running statistics may be used as they are, after
``net.eval()``; while they change with every call a module is no function of weights and rows, and is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from bayesmeta.errors import HierarchyError, UnknownNameError, unknown
from bayesmeta.modules import plain_modules

__all__ = ["Functional", "Weights"]

Weights: TypeAlias = dict[str, Tensor]

BATCH_NORM = nn.modules.batchnorm._BatchNorm
NORMS = (BATCH_NORM, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)


class Functional:
    """A module as a function of its weights.

    Args:
        net: The module, called with one argument, x (n, ...), and giving a row for each, (n, ...). Inputs of one number
            a row go in as (n, 1).

    Attributes:
        weights: The module's own weights by name: where meta-learning starts from.
        buffers: What else the module holds, by name, such as statistics that stay as they are.
        described: The module in words.
        dtype: Their type; inputs are brought to it.
        convolves: Whether it has convolutions, whose memory goes with the images rather than with the weights.
        by_rows: Whether it normalises by the rows it is given, so that no row may be made up.
        peaks: Bytes that one task took, by what was done with it: kept by `bayesmeta.meta.training.chunks`.

    Raises:
        HierarchyError: It is no module, has no weights that can be known yet, keeps running statistics or is random.
    """

    def __init__(self, net: nn.Module) -> None:
        if not isinstance(net, nn.Module):
            raise HierarchyError(f"net must be a torch.nn.Module, got {type(net).__name__}")
        _check(net)
        self._net = copy.deepcopy(net).requires_grad_(False)
        self.weights: Weights = {name: weight.detach() for name, weight in self._net.named_parameters()}
        if not self.weights:
            raise HierarchyError("net has no parameters: there is nothing to learn")
        self.buffers: Weights = dict(self._net.named_buffers())
        self.described = repr(self._net)
        self.dtype = next(iter(self.weights.values())).dtype
        self.convolves = any(isinstance(part, nn.modules.conv._ConvNd) for part in self._net.modules())
        self.by_rows = any(_by_rows(part) for part in self._net.modules())
        self.peaks: dict[Hashable, int] = {}

    def __call__(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The module with these weights, at x (n, ...); one number a row (n,) goes in as (n, 1)."""
        rows = x.unsqueeze(-1) if x.dim() == 1 else x
        out: Tensor = torch.func.functional_call(self._net, dict(weights), (rows,))
        return out

    def head(self) -> tuple[str, ...]:
        """The weights of the last layer that has any."""
        last = next(reversed(self.weights)).rpartition(".")[0]
        return tuple(name for name in self.weights if name.rpartition(".")[0] == last)

    def norms(self) -> tuple[str, ...]:
        """The weights of normalisations, their scales and shifts."""
        layers = {path for path, part in self._net.named_modules() if isinstance(part, NORMS)}
        return tuple(name for name in self.weights if name.rpartition(".")[0] in layers)

    def named(self, prefixes: Sequence[str]) -> tuple[str, ...]:
        """The weights whose names begin with one of these, such as ``"2"`` or ``"features.0.weight"``.

        Raises:
            UnknownNameError: No weight's name begins so.
        """
        for prefix in prefixes:
            if not any(_begins(name, prefix) for name in self.weights):
                raise UnknownNameError(unknown("weight", prefix, list(self.weights)))
        return tuple(name for name in self.weights if any(_begins(name, prefix) for prefix in prefixes))


def _begins(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _check(net: nn.Module) -> None:
    """Raise a HierarchyError where the module is more than a function of weights and rows."""
    for where, module in plain_modules(net):
        if getattr(module, "track_running_stats", False) and module.training:
            raise HierarchyError(
                f"{where}, which keeps running statistics, and every call changes them: make it with "
                "track_running_stats=False, so that it normalises by the rows it is given; or call net.eval(), so that "
                "the statistics stay as they are; or use GroupNorm or LayerNorm"
            )


def _by_rows(module: nn.Module) -> bool:
    """Whether what it says of a row depends on the others."""
    return isinstance(module, BATCH_NORM) and (module.training or module.running_mean is None)
