"""Tensors of plain numbers under transforms: what is computed from them alone is computed at once.

Under `torch.func` and `make_fx` every result of an operation belongs to the transform, and a model that asks how
many groups there are, ``len(np.unique(index))`` or ``index.max().item()``, gets no number. A `Constant` steps out
of all transforms for what involves constants only, and is an ordinary tensor for everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["Constant", "constant"]


class Constant(Tensor):
    """A tensor whose values are known whatever transforms are on."""

    plain: Tensor

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run `func` outside of all transforms where its tensors are constants; else as if they were none."""
        others: list[Tensor] = []
        plain = tuple(_unwrapped(arg, others) for arg in args)
        options = {name: _unwrapped(option, others) for name, option in (kwargs or {}).items()}
        if others:
            return func(*plain, **options)
        with _outside():
            return _rewrapped(func(*plain, **options))


def constant(make: Callable[[], Tensor]) -> Constant:
    """What `make` makes, as a constant."""
    with _outside():
        return _wrapped(make())


def _unwrapped(value: Any, others: list[Tensor]) -> Any:
    """Plain tensors in place of constants, at any depth of lists; tensors that are none go into `others`."""
    if isinstance(value, Constant):
        return value.plain
    if isinstance(value, (tuple, list)):
        return type(value)(_unwrapped(item, others) for item in value)
    if isinstance(value, Tensor):
        others.append(value)
    return value


def _rewrapped(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _wrapped(value)
    return pytree.tree_map_only(Tensor, _wrapped, value) if isinstance(value, (tuple, list)) else value


def _wrapped(plain: Tensor) -> Constant:
    made: Constant = Tensor._make_subclass(Constant, plain)
    made.plain = plain
    return made


@contextmanager
def _outside() -> Iterator[None]:
    """No transform of `torch.func`, and no recording, within."""
    with torch._C._DisableFuncTorch(), _disable_current_modes():
        yield
