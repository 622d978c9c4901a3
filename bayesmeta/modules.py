"""What a `torch.nn.Module` must not have in it, to be a function of its weights and of x that many tasks share."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.parameter import is_lazy

from bayesmeta.errors import HierarchyError

__all__ = ["plain_modules"]


def plain_modules(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules within a module, each with words for where it is; what they normalise by is not looked at.

    Raises:
        HierarchyError: One is random, has weights of no shape yet, or cannot be batched over its weights.
    """
    for path, module in net.named_modules():
        where = f"{path or 'the network'} is {type(module).__name__}"
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise HierarchyError(f"{where}, which is random: leave it out, or call net.eval() first")
        if any(is_lazy(parameter) for parameter in module.parameters(recurse=False)):
            raise HierarchyError(f"{where}, whose parameters have no shape yet: call the network on an input once")
        if isinstance(module, nn.RNNBase):
            raise HierarchyError(f"{where}, which torch cannot batch over draws of its weights: write its steps out")
        yield where, module
