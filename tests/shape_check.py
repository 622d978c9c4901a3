"""Checks jaxtyping's shapes while the tests run, and nothing else.

`pyproject.toml` names `check` as the type checker of jaxtyping's pytest hook, which applies it to every
function of the package. Annotations without a shape are left to mypy: a wrong type from a user must reach
bayesmeta's own error, and that is what the tests of errors look for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import beartype
from jaxtyping import AbstractArray

__all__ = ["check"]

_F = TypeVar("_F", bound=Callable[..., Any])


def check(function: _F) -> _F:
    """The function, with those of its annotations checked that hold a shape."""
    annotations = {name: hint for name, hint in function.__annotations__.items() if _has_shape(hint)}
    if not annotations:
        return function
    function.__annotations__ = annotations
    return beartype.beartype(function)


def _has_shape(hint: object) -> bool:
    """Whether a jaxtyping array occurs in the annotation, however deep."""
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return any(_has_shape(part) for part in get_args(hint))
