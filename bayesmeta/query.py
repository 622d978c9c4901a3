"""What is asked of a prediction: inputs in any of the forms a user has them, as tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bayesmeta.errors import DataError
from bayesmeta.tasks import Tasks, check_columns

__all__ = ["observed_tasks", "query_tasks"]


def query_tasks(adapted: Tasks, x: Any) -> Tasks:
    """Inputs to predict at, as tasks with the names and context of the adapted ones and placeholders for y."""
    if isinstance(x, Tasks):
        check_columns(adapted, x, "the tasks adapted to")
        names = list(x.names)
        for name in names:
            adapted.index(name)
        xs = [task.x for task in x]
    else:
        names = list(adapted.names)
        if isinstance(x, (int, float)) or (isinstance(x, (Tensor, np.ndarray)) and x.ndim == 0):
            raise DataError(f"x: got {x!r}; wanted a Tasks, an array of inputs for all tasks, or a list of arrays")
        shared = isinstance(x, (Tensor, np.ndarray))
        xs = [torch.as_tensor(x, dtype=torch.float64)] * len(names) if shared else list(x)
        if len(xs) != len(names):
            raise DataError(f"x is a list of {len(xs)} inputs, one per task is wanted: {len(names)}")
    xs = [torch.as_tensor(np.asarray(one), dtype=torch.float64) for one in xs]
    wanted = tuple(adapted.x.shape[1:])
    for name, one in zip(names, xs, strict=True):
        if tuple(one.shape[1:]) != wanted or one.dim() == 0:
            raise DataError(
                f"inputs of task {name!r} have shape {tuple(one.shape)}; wanted (m{''.join(f', {k}' for k in wanted)})"
            )
    pick = torch.tensor([adapted.index(name) for name in names], dtype=torch.long)
    ys = [torch.zeros(len(one), *adapted.y.shape[1:], dtype=torch.float64) for one in xs]
    context = {key: value[pick] for key, value in adapted.context.items()}
    return Tasks.from_lists(xs, ys, names=names, context=context or None, allow_empty=True)


def observed_tasks(query: Tasks, y: Tensor | npt.NDArray[Any] | Sequence[Any] | Tasks) -> Tasks:
    """The inputs of a prediction with observations in place of the placeholders.

    Args:
        query: The inputs.
        y: Observations (T, m), a list of one tensor per task, or a `Tasks` with the tasks of the query.

    Raises:
        DataError: Tasks or observations are missing.
    """
    if isinstance(y, Tasks):
        missing = [name for name in query.names if name not in y]
        if missing:
            raise DataError(f"y has no task named {missing[0]!r}, which is predicted")
        ys: list[Any] = [y[name].y for name in query.names]
    else:
        ys = list(y)
        if any(np.ndim(values) == 0 for values in ys):
            raise DataError("y has one number per task; wanted an array of observations for each, as in y[:, None]")
    if len(ys) != len(query.names):
        raise DataError(f"y is for {len(ys)} tasks, predicted are {len(query.names)}")
    for task, values in zip(query, ys, strict=True):
        if len(values) != task.n:
            raise DataError(f"task {task.name!r}: y has {len(values)} observations, predicted are {task.n}")
    xs = [task.x for task in query]
    return Tasks.from_lists(xs, ys, names=query.names, context=query.context or None, allow_empty=True)
