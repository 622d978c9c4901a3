"""How tasks reach the arguments of a plated Pyro model: which argument takes which column, by name.

A plated model takes the data of all tasks at once, in arguments of its own: an index that says which task an
observation belongs to, columns of inputs, the observations, numbers of tasks. What each one is follows from its
name and from the names of the columns; what does not is said by the user.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayesmeta.errors import HierarchyError, UnknownNameError, unknown
from bayesmeta.tasks import Tasks

__all__ = ["COUNT", "INDEX", "ROWS", "Block", "Source", "can_be_none", "sources"]

INDEX, COUNT, ROWS = "task index", "number of tasks", "number of observations"
X, Y = "x", "y"

RESPONSES = ("obs", "observed", "observations", "y_obs", "response", "outcome", "target")
ROW_COUNTS = ("n", "n_obs", "num_obs", "n_data", "num_data", "n_observations", "num_observations")
INDEX_WORDS = r"(_?(idx|index|indices|code|codes|id|ids|number|no))?"
COUNT_WORDS = r"(n|num|no|number|n_of|num_of|number_of|size|len)_?"


@dataclass(frozen=True)
class Block:
    """The data of some tasks as a model takes them: x and y of all observations, context of all tasks.

    Attributes:
        x: inputs, (N, ...) or in the layout of the model.
        y: observations, likewise; None where they are to be predicted.
        index: the position of each observation's task, int64 (N,).
        count: the number of tasks.
        context: per name (T, ...).
    """

    x: Tensor
    y: Tensor | None
    index: Tensor
    count: int
    context: Mapping[str, Tensor]


@dataclass(frozen=True)
class Source:
    """What one argument takes: a role, an input column, a context, or a constant."""

    role: str
    column: int | None = None
    name: str = ""
    constant: Any = None
    dtype: torch.dtype | None = None

    def of(self, block: Block) -> Any:
        """The value of the argument for these tasks."""
        value = self._raw(block)
        return value.to(self.dtype) if self.dtype is not None and isinstance(value, Tensor) else value

    def _raw(self, block: Block) -> Any:
        if self.role == X:
            return block.x if self.column is None else block.x[..., self.column]
        if self.role == "context":
            return block.context[self.name]
        if self.role == "constant":
            return self.constant
        return {Y: block.y, INDEX: block.index, COUNT: block.count, ROWS: len(block.index)}[self.role]


def sources(model: Callable[..., Any], plate: str, tasks: Tasks, given: Mapping[str, Any]) -> dict[str, Source]:
    """What each argument of the model takes, by its name; `given` is what the user said.

    Raises:
        HierarchyError: An argument without a default that nothing in the tasks goes by the name of, or none that
            takes the observations.
        UnknownNameError: `given` names an argument, a column or a context that is not there.
    """
    parameters = _parameters(model)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [name for name, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    for name in given:
        if name not in names and not open_ended:
            raise UnknownNameError(unknown("argument", name, names))
    table = _table(tasks)
    found = {name: _said(name, value, table) for name, value in given.items()}
    for name in names:
        source = None if name in found else _by_name(name, plate, tasks, table)
        if source is not None:
            found[name] = source
    _left_over(names, parameters, tasks, found)
    missing = [name for name in names if name not in found and parameters[name].default is inspect.Parameter.empty]
    if missing or not any(source.role == Y for source in found.values()):
        raise HierarchyError(_missing(missing, tasks))
    return found


def can_be_none(model: Callable[..., Any], names: list[str]) -> bool:
    """Whether these arguments of the model have None as their default."""
    parameters = _parameters(model)
    return all(name in parameters and parameters[name].default is None for name in names)


def _parameters(model: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Those of the function that a handler is around, or that a module runs."""
    inner = model.forward if isinstance(model, torch.nn.Module) else getattr(model, "fn", None)
    return inspect.signature(inner if callable(inner) else model).parameters


def _table(tasks: Tasks) -> dict[str, Source]:
    """Everything in the tasks that has a name, by that name."""
    table = {role: Source(role) for role in (INDEX, COUNT, ROWS)}
    width = tasks.x.shape[1] if tasks.x.dim() == 2 else 0
    table |= {f"x[{j}]": Source(X, j) for j in range(width)}
    if tasks.columns is not None:
        names = tasks.columns.inputs
        table |= {name: Source(X, None if isinstance(tasks.columns.x, str) else j) for j, name in enumerate(names)}
        table |= {tasks.columns.y: Source(Y)}
    table |= {name: Source("context", name=name) for name in tasks.context}
    return {X: Source(X), Y: Source(Y)} | table


def _said(argument: str, value: Any, table: Mapping[str, Source]) -> Source:
    """What the user said: a name, a name and a dtype, or a constant."""
    name, dtype = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
    if not isinstance(name, str) or not isinstance(dtype, torch.dtype | None):
        return Source("constant", constant=value)
    if name not in table:
        raise UnknownNameError(f"arguments[{argument!r}]: {unknown('column or role', name, table)}")
    source = table[name]
    return Source(source.role, source.column, source.name, dtype=dtype)


def _by_name(argument: str, plate: str, tasks: Tasks, table: Mapping[str, Source]) -> Source | None:
    """What an argument of that name takes, if its name tells."""
    lowered = {name.lower(): source for name, source in table.items()}
    word = argument.lower()
    if word in lowered:
        return lowered[word]
    if argument in ("J", "T", "G"):
        return Source(COUNT)
    if word in ROW_COUNTS:
        return Source(ROWS)
    stems = _stems(plate, tasks)
    if re.fullmatch(f"({stems}){INDEX_WORDS}|idx|index|indices", word):
        return Source(INDEX)
    if re.fullmatch(f"{COUNT_WORDS}({stems})", word):
        return Source(COUNT)
    response = tasks.columns.y.lower() if tasks.columns is not None else "y"
    return Source(Y) if word in RESPONSES or word in (f"{response}_obs", f"obs_{response}") else None


def _stems(plate: str, tasks: Tasks) -> str:
    """A pattern of the words for a task, singular and plural: county, counties, group, groups, ..."""
    words = [plate, "group", "task"] + ([tasks.columns.task] if tasks.columns is not None else [])
    forms: set[str] = set()
    for word in words:
        stem = re.sub(f"^{COUNT_WORDS}", "", word.lower()) if "_" in word else word.lower()
        singular = stem[:-3] + "y" if stem.endswith("ies") else stem.removesuffix("s")
        forms |= {stem, singular, f"{singular}s", f"{singular[:-1]}ies"}
    return "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True) if form)


def _left_over(
    names: list[str], parameters: Mapping[str, inspect.Parameter], tasks: Tasks, found: dict[str, Source]
) -> None:
    """One argument with default None is the observations, one without default all inputs, where nothing else is."""
    rest = [name for name in names if name not in found]
    taken = {source.role for source in found.values()}
    optional = [name for name in rest if parameters[name].default is None]
    if Y not in taken and len(optional) == 1:
        found[optional[0]] = Source(Y)
    required = [name for name in rest if parameters[name].default is inspect.Parameter.empty]
    if X not in taken and len(required) == 1 and tasks.x.shape[1:] != (0,):
        whole = tasks.x.dim() != 2 or tasks.x.shape[1] > 1
        found[required[0]] = Source(X, None if whole else 0)


def _missing(missing: list[str], tasks: Tasks) -> str:
    columns = tasks.columns
    inputs = list(columns.inputs) if columns is not None else ["x"]
    response = columns.y if columns is not None else "y"
    what = f"arguments {missing} of the model are" if missing else "the observations are no argument of the model, or"
    return (
        f"{what} not known by name: the tasks have inputs {inputs}, observations {response!r}, context "
        f"{sorted(tasks.context)}; say what each one takes, Hierarchy.from_plated(model, plate, "
        f"arguments={{{(missing or ['obs'])[0]!r}: ...}}), by the name of a column or context, {X!r}, 'x[0]', {Y!r}, "
        f"{INDEX!r}, {COUNT!r}, {ROWS!r}, or a constant; a pair such as ('floor', torch.long) casts"
    )
