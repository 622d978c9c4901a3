"""Finds the test that changes global state: every state is read before a test and compared after it.

A state is looked at only when its library was loaded before the test, so that a test without torch stays
fast. What was leaked is put back, so that one leak fails one test.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

__all__ = ["STATES", "LeakGuard", "State"]


@dataclass(frozen=True)
class State:
    """One piece of global state.

    Attributes:
        name: what it is called when a test leaks it.
        module: it exists only when this module is loaded.
        read: its present value, as something that `==` compares.
        write: puts a value back.
        random: whether a test marked `changes_rng` may change it.
    """

    name: str
    module: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    random: bool = False


class LeakGuard:
    """A pytest plugin: an error in the teardown of every test that leaves a state changed."""

    def __init__(self) -> None:
        self._before: dict[str, Any] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, None, None]:
        self._before = {state.name: state.read() for state in STATES if state.module in sys.modules}
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        yield
        may_draw = item.get_closest_marker("changes_rng") is not None or _makes_a_network(item)
        leaked = [state for state in STATES if self._changed(state) and not (state.random and may_draw)]
        for state in leaked:
            state.write(self._before[state.name])
        if leaked:
            pytest.fail(f"{item.name} changed {', '.join(state.name for state in leaked)}", pytrace=False)

    def _changed(self, state: State) -> bool:
        return state.name in self._before and bool(state.read() != self._before[state.name])


def _makes_a_network(item: pytest.Item) -> bool:
    """Whether it is an example in a docstring that makes a module of torch, which draws its weights."""
    examples = item.dtest.examples if isinstance(item, pytest.DoctestItem) else ()
    return any("nn." in example.source for example in examples)


def _torch() -> Any:
    return sys.modules["torch"]


def _pyro() -> Any:
    return sys.modules["pyro"]


def _rc_params() -> Any:
    return sys.modules["matplotlib"].rcParams


def _read_torch_rng() -> bytes:
    return bytes(_torch().get_rng_state().numpy().tobytes())


def _write_torch_rng(value: bytes) -> None:
    _torch().set_rng_state(_torch().frombuffer(bytearray(value), dtype=_torch().uint8))


def _read_numpy_rng() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 (the global state is what is watched)
    return (name, np.asarray(keys).tobytes(), *rest)


def _write_numpy_rng(value: tuple[Any, ...]) -> None:
    name, keys, *rest = value
    np.random.set_state((name, np.frombuffer(keys, dtype=np.uint32), *rest))  # noqa: NPY002


def _read_param_store() -> dict[str, bytes]:
    state = _pyro().get_param_store().get_state()
    return {name: bytes(value.detach().cpu().numpy().tobytes()) for name, value in state["params"].items()}


def _read_rc_params() -> dict[str, Any]:
    """All but the back-end, which matplotlib itself settles on first use."""
    return {key: value for key, value in _rc_params().copy().items() if key != "backend"}


STATES: tuple[State, ...] = (
    State("the working directory", "os", os.getcwd, os.chdir),
    State("numpy's random state", "numpy", _read_numpy_rng, _write_numpy_rng, random=True),
    State("torch's random state", "torch", _read_torch_rng, _write_torch_rng, random=True),
    State(
        "torch's default dtype",
        "torch",
        lambda: _torch().get_default_dtype(),
        lambda value: _torch().set_default_dtype(value),
    ),
    State(
        "torch's default device",
        "torch",
        lambda: _torch().get_default_device(),
        lambda value: _torch().set_default_device(value),
    ),
    State(
        "torch's number of threads",
        "torch",
        lambda: _torch().get_num_threads(),
        lambda value: _torch().set_num_threads(value),
    ),
    State(
        "torch's grad mode",
        "torch",
        lambda: _torch().is_grad_enabled(),
        lambda value: _torch().set_grad_enabled(value),
    ),
    State(
        "the validation default of torch.distributions",
        "torch.distributions",
        lambda: _torch().distributions.Distribution._validate_args,
        lambda value: _torch().distributions.Distribution.set_default_validate_args(value),
    ),
    State(
        "Pyro's settings",
        "pyro.infer",
        lambda: dict(_pyro().settings.get()),
        lambda value: _pyro().settings.set(**value),
    ),
    State(
        "Pyro's param store",
        "pyro.infer",
        _read_param_store,
        lambda value: _pyro().clear_param_store(),
    ),
    State(
        "matplotlib's rcParams",
        "matplotlib",
        _read_rc_params,
        lambda value: dict.update(_rc_params(), value),
    ),
)
