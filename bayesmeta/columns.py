"""How the columns of a data frame are used: which names the task, which are inputs, response and context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bayesmeta.errors import DataError

__all__ = ["Columns", "columns_of"]


@dataclass(frozen=True)
class Columns:
    """How the columns of a data frame are used. `x` as text gives x of shape (n,), as a tuple (n, d)."""

    task: str
    x: str | tuple[str, ...] | None
    y: str
    context: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the input columns, however many."""
        return (self.x,) if isinstance(self.x, str) else (self.x or ())


def columns_of(task: str, x: str | Sequence[str] | None, y: str, context: str | Sequence[str] | None) -> Columns:
    """The columns as a user names them, checked for what no frame can mend."""
    for role, names in (("x", x), ("context", context)):
        _check_names(role, names)
    for role, name in (("task", task), ("y", y)):
        if not isinstance(name, str):
            raise DataError(f"{role}: got {name!r}; wanted the name of one column, as text")
    columns = Columns(
        task=task,
        x=x if x is None or isinstance(x, str) else tuple(x),
        y=y,
        context=(context,) if isinstance(context, str) else tuple(context or ()),
    )
    for role, used in (("task", (task,)), ("x", columns.inputs), ("context", columns.context)):
        if y in used:
            raise DataError(
                f"{role}: column {y!r} is y as well, and a task would be predicted from its own response; "
                "name another column"
            )
    return columns


def _check_names(role: str, names: object) -> None:
    """Raise a DataError unless names of columns are text, in an order."""
    given = [] if names is None or isinstance(names, str) else names
    if not isinstance(given, Sequence) or not all(isinstance(one, str) for one in given):
        raise DataError(
            f"{role}: got {names!r}; wanted text, names of columns (df.columns = df.columns.map(str) makes them text)"
        )
