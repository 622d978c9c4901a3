"""Learners as files: one file of plain arrays, opened again with the network that it is of.

The file is NumPy's ``.npz`` with a record in JSON, without pickle: opening one runs no code. So functions are not in
it: the network, and a loss that is a function, come from the user again.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bayesmeta import archive
from bayesmeta.archive import Arrays
from bayesmeta.draws import versions
from bayesmeta.errors import BayesmetaWarning, FileFormatError, OptionError
from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.learner import Learner
from bayesmeta.meta.losses import Loss
from bayesmeta.meta.module import Functional

__all__ = ["load", "save"]

FORMAT, WHAT = "bayesmeta learner 1", "a learner"
WEIGHT, BUFFER, CURVE = "weight ", "buffer ", "curve "
OWN = "a function"  # what stands for a loss that is one


def save(learner: Learner, path: str | PathLike[str]) -> None:
    """Write a learner to a file, replaced as a whole.

    Raises:
        NotAvailableError: The file cannot be written.
    """
    arrays = {WEIGHT + name: value.numpy() for name, value in learner.weights.items()}
    arrays |= {BUFFER + name: value.numpy() for name, value in learner.net.buffers.items()}
    arrays |= {CURVE + name: np.asarray(value) for name, value in learner.curves.items()}
    record = {
        "algorithm": type(learner.algorithm).__name__,
        "settings": _settings(learner.algorithm),
        "network": _shapes(learner.net.weights | learner.net.buffers),
        "described": learner.net.described,
        "steps": learner.steps,
        "seconds": learner.seconds,
        "noise": learner.noise,
        "interrupted": learner.interrupted,
        "versions": versions(),
    }
    archive.write(path, FORMAT, record, arrays)


def load(path: str | PathLike[str], net: nn.Module, *, loss: Loss | None = None) -> Learner:
    """Open a learner that `Learner.save` wrote.

    Args:
        path: The file.
        net: The network that was learnt: its weights and buffers are replaced by those of the file, their shapes are
            not. A `BayesmetaWarning` where it is another one by its layers.
        loss: The loss, where it was a function of the user's own.

    Raises:
        NotAvailableError: There is no such file.
        FileFormatError: The file is no learner, or one of another network.
        OptionError: A loss is missing, or there is one too many.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> import bayesmeta as bm
        >>> tasks = bm.Tasks.from_arrays([[0.0, 1.0, 2.0]] * 2, [[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
        >>> settings = bm.meta.MAML(shots=1, inner_steps=1, steps=20)
        >>> learner = bm.fit(nn.Linear(1, 1), tasks, settings, progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     learner.save(f"{folder}/line.npz")
        ...     again = bm.meta.load(f"{folder}/line.npz", nn.Linear(1, 1))
        >>> again.steps, again.algorithm == settings
        (20, True)
    """
    record, arrays = archive.read(path, FORMAT, WHAT)
    with archive.understood(path, WHAT):
        return _learner(path, record, arrays, net, loss)


def _learner(path: Any, record: Mapping[str, Any], arrays: Arrays, net: nn.Module, loss: Loss | None) -> Learner:
    function = Functional(net)
    wrong = _differences(record["network"], _shapes(function.weights | function.buffers))
    if wrong:
        raise FileFormatError(f"{path} was learnt with another network: {'; '.join(wrong)}. Pass that network")
    if record["described"] != function.described:
        warnings.warn(
            f"{path} was learnt with the network {_line(record['described'])}, and this one is "
            f"{_line(function.described)}: their weights are alike, what they make of them may not be",
            BayesmetaWarning,
            stacklevel=4,
        )
    for name, value in _named(arrays, BUFFER).items():
        function.buffers[name].copy_(torch.from_numpy(value))
    return Learner(
        function,
        _algorithm(path, record, loss),
        {name: torch.from_numpy(value) for name, value in _named(arrays, WEIGHT).items()},
        _named(arrays, CURVE),
        record["steps"],
        record["seconds"],
        noise=record["noise"],
        interrupted=record["interrupted"],
    )


def _settings(algorithm: Algorithm) -> dict[str, Any]:
    """Settings as plain data; a checkpoint belongs to the run, not to what it learnt."""
    fields = [field.name for field in dataclasses.fields(algorithm) if field.init and field.name != "checkpoint"]
    found = {name: getattr(algorithm, name) for name in fields}
    return found | {"loss": found["loss"] if isinstance(found["loss"], str) else OWN}


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}" for name, value in weights.items()}


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs between two networks, a few words each."""
    wrong = [f"it had no {name!r}" for name in now if name not in before]
    wrong += [f"{name!r} is missing" for name in before if name not in now]
    both = [name for name in now if name in before]
    return wrong + [f"{name!r} was {before[name]} and is {now[name]}" for name in both if before[name] != now[name]]


def _algorithm(path: Any, record: Mapping[str, Any], loss: Loss | None) -> Algorithm:
    """The algorithm with its settings."""
    from bayesmeta import meta

    known = {name: getattr(meta, name) for name in meta.__all__}
    kind = known.get(record["algorithm"])
    if not isinstance(kind, type) or not issubclass(kind, Algorithm):
        raise FileFormatError(f"{path} was learnt by {record['algorithm']!r}, which this version does not know")
    make: Callable[..., Algorithm] = kind
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in record["settings"].items()}
    own = settings["loss"] == OWN
    if own and loss is None:
        raise OptionError(f"{path} was learnt with a loss that is a function, which no file holds: pass loss=...")
    if loss is not None and not own:
        raise OptionError(f"{path} was learnt with loss={settings['loss']!r}: leave loss out")
    try:
        algorithm: Algorithm = make(**settings | ({"loss": loss} if own else {}))
    except TypeError as error:
        raise FileFormatError(f"{path} has settings that this version does not know: {error}") from error
    return algorithm


def _line(text: str) -> str:
    return " ".join(text.split())


def _named(arrays: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {name.removeprefix(kind): value for name, value in arrays.items() if name.startswith(kind)}
