"""Environments: distributions over tasks with a known optimum, for benchmarks of few-shot learners.

An environment makes support and query observations of any number of tasks, and knows the best prediction that the
support allows: the posterior predictive distribution under the environment itself, `optimal`. No learner can do
better on average, so its figures are the floor of every table.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from bayesmeta.data.optimal import Conditional, Inputs, Optimal
from bayesmeta.errors import OptionError
from bayesmeta.query import query_tasks
from bayesmeta.tasks import Tasks

__all__ = ["Dice", "Environment", "Range"]

Range = tuple[float, float]
PARTS = ("functions", "inputs", "noise", "sizes")
POSITIVE = ("noise", "frequency", "spread", "squared_length", "width", "length", "scale", "period")
MOMENTS = ("shift", "level", "slope")
RANGES = ("amplitude", "phase", "inputs", "outside", "bounds")


class Dice:
    """Random numbers of one kind, in an order that does not depend on how many are asked for.

    The leading axis is filled row by row: more rows are the same rows and some more.
    """

    def __init__(self, seed: int, part: str) -> None:
        entropy = np.random.SeedSequence([seed, PARTS.index(part)]).generate_state(1)
        self.generator = torch.Generator().manual_seed(int(entropy[0]))

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform on [low, high)."""
        return low + (high - low) * torch.rand(*shape, generator=self.generator, dtype=torch.float64)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, by the inverse of the distribution function."""
        normal: Tensor = torch.special.ndtri(self.uniform(*shape).clamp(min=2.0**-53))
        return normal


class Environment(ABC):
    """A distribution over tasks. Frozen dataclasses derive from it and hold its settings."""

    def __post_init__(self) -> None:
        for name in (*POSITIVE, *MOMENTS, *RANGES):
            if hasattr(self, name):
                _check_setting(name, getattr(self, name))

    @overload
    def tasks(
        self, count: int, shots: int | tuple[int, int], *, query: None = None, seed: int = 0, inputs: str | Range = "in"
    ) -> Tasks: ...
    @overload
    def tasks(
        self, count: int, shots: int | tuple[int, int], *, query: int, seed: int = 0, inputs: str | Range = "in"
    ) -> tuple[Tasks, Tasks]: ...
    def tasks(
        self,
        count: int,
        shots: int | tuple[int, int],
        *,
        query: int | None = None,
        seed: int = 0,
        inputs: str | Range = "in",
    ) -> Tasks | tuple[Tasks, Tasks]:
        """Tasks drawn from the environment, each with its own function, inputs and noise.

        The same seed gives the same functions and the same query whatever `shots` is, and more shots are the same
        shots and some more. Names hold the seed, so that tasks of two seeds can be told apart.

        Args:
            count: how many tasks.
            shots: support observations of each; (low, high) for a number of each task's own, both ends included.
            query: query observations of each, or None for support alone.
            seed: seeds everything random.
            inputs: ``"in"`` for the range of training, ``"out"`` for the wider one that tests extrapolation, or
                (low, high).

        Returns:
            The support, or support and query.

        Raises:
            OptionError: A negative number, or an unknown range.
        """
        low, high = shots if isinstance(shots, tuple) and len(shots) == 2 else (shots, shots)
        if not all(isinstance(one, (int, np.integer)) for one in (count, low, high, query or 0, seed)) or seed < 0:
            raise OptionError(f"count, shots, query and seed are whole numbers; got {count}, {shots}, {query}, {seed}")
        if count < 1 or not 0 <= low <= high or (query or 0) < 0:
            raise OptionError(f"count must be at least 1, shots and query at least 0; got {count}, {shots}, {query}")
        asked = query or 0
        x = self._inputs(Dice(seed, "inputs"), asked + high, count, inputs)
        y = self._observations(x, Dice(seed, "functions"), Dice(seed, "noise"))
        sizes = torch.full((count,), high)
        if low < high:
            sizes = Dice(seed, "sizes").uniform(count, low=low, high=high + 1).long()
        names = tuple(f"{seed}-{k}" for k in range(count))
        support = _gathered(x[asked:], y[asked:], sizes, names)
        if query is None:
            return support
        return support, _gathered(x[:asked], y[:asked], torch.full((count,), asked), names)

    def optimal(self, support: Tasks, x: Inputs) -> Optimal:
        """The best prediction that the support allows: the posterior predictive under this environment.

        Args:
            support: observations of each task, any number, none as well.
            x: inputs to predict at: a `Tasks`, whose inputs are taken by name; one array for all tasks; or a list
                of one array per task.
        """
        query = query_tasks(support, x)
        return Optimal(_plain(query), self._conditional(_plain(support[list(query.names)])))

    @abstractmethod
    def _inputs(self, dice: Dice, rows: int, count: int, inputs: str | Range) -> Tensor:
        """Inputs (rows, count) or (rows, count, d)."""

    @abstractmethod
    def _observations(self, x: Tensor, functions: Dice, noise: Dice) -> Tensor:
        """Observations (rows, count), one function for each column."""

    @abstractmethod
    def _conditional(self, support: Tasks) -> Conditional:
        """The posterior predictive given the support."""


def _plain(tasks: Tasks) -> Tasks:
    """Tasks whose only input column is no axis: as an environment makes them."""
    return replace(tasks, x=tasks.x.squeeze(-1)) if tasks.x.dim() == 2 and tasks.x.shape[1] == 1 else tasks


def _check_setting(name: str, value: Any) -> None:
    """Raise an OptionError unless a number, a range or a mean and standard deviation is one."""
    numbers = value if isinstance(value, tuple) else (value,)
    real = all(isinstance(one, (int, float)) and math.isfinite(one) for one in numbers)
    fits = real and len(numbers) == (2 if isinstance(value, tuple) or name not in POSITIVE else 1)
    if name in POSITIVE and not (fits and min(numbers) > 0):
        raise OptionError(f"{name}: got {value!r}; wanted a number above 0")
    if name in MOMENTS and not (fits and numbers[1] > 0):
        raise OptionError(f"{name}: got {value!r}; wanted (mean, standard deviation), the second above 0")
    if name in RANGES and not (fits and numbers[0] < numbers[1]):
        raise OptionError(f"{name}: got {value!r}; wanted (low, high) with low < high")


def uniform_inputs(dice: Dice, rows: int, count: int, inputs: str | Range, known: dict[str, Range]) -> Tensor:
    """Inputs (rows, count), uniform on the range of that name or on the one given."""
    if isinstance(inputs, str):
        if inputs not in known:
            raise OptionError(f"inputs must be one of {sorted(known)} or (low, high), got {inputs!r}")
        inputs = known[inputs]
    return dice.uniform(rows, count, low=inputs[0], high=inputs[1])


def _gathered(x: Tensor, y: Tensor, sizes: Tensor, names: tuple[str, ...]) -> Tasks:
    """Tasks of the first rows of each column."""
    kept = torch.arange(len(y)) < sizes[:, None]
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    return Tasks(x.transpose(0, 1)[kept], y.transpose(0, 1)[kept], offsets, names)
