"""Opening a saved posterior: the arrays come from the file, the functions from the user."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from bayesmeta.centring import Degree
from bayesmeta.draws import Draws, Info
from bayesmeta.errors import BayesmetaWarning, FileFormatError, NotAvailableError
from bayesmeta.evidence import Collapsed, Joint, choose
from bayesmeta.export.files import CENTRING, FORMAT, LOG_WEIGHT, OF_DRAWS, WEIGHTED
from bayesmeta.export.groups import ASSUMED, as_variable
from bayesmeta.fingerprint import differences, fingerprint
from bayesmeta.hierarchy import Hierarchy
from bayesmeta.posterior import Posterior
from bayesmeta.program import Program
from bayesmeta.tasks import Columns, Tasks
from bayesmeta.update import Weighted

__all__ = ["load", "read_record"]


def load(path: str | PathLike[str], hierarchy: Hierarchy, *, check: bool = True) -> Posterior:
    """Open a posterior that `Posterior.save` wrote.

    Args:
        path: The netCDF file.
        hierarchy: The hierarchy it was fitted with; functions are not in the file.
        check: Refuse a hierarchy that does not fit the file; with False, only warn.

    Raises:
        NotAvailableError: There is no such file.
        FileFormatError: The file is not a saved posterior, or does not fit the hierarchy.

    Example:
        >>> import tempfile
        >>> import bayesmeta as bm
        >>> people = bm.data.load("sleepstudy")
        >>> tasks = bm.Tasks.from_frame(people, task="Subject", x="Days", y="Reaction")
        >>> hierarchy = bm.families.linear(tasks)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     bm.fit(hierarchy, tasks, progress=False).save(f"{folder}/sleep.nc")
        ...     posterior = bm.load(f"{folder}/sleep.nc", hierarchy)
        >>> len(posterior.tasks), posterior.verdict.level
        (18, 'fine')
    """
    record = read_record(path)
    parts = _read(
        Path(path), ["posterior", "sample_stats", "observed_data", "constant_data", "unconstrained_posterior"]
    )
    tasks = _tasks(record, parts)
    program = hierarchy.program(tasks)
    wrong = differences(record["fingerprint"], fingerprint(program, tasks))
    if wrong:
        sentence = f"{path} was fitted with another hierarchy: {'; '.join(wrong)}"
        if check or "log densities" not in wrong[0]:
            raise FileFormatError(f"{sentence}. Pass the hierarchy of that fit, or check=False to go on")
        warnings.warn(sentence, BayesmetaWarning, stacklevel=2)
    info = Info(**record["info"] | {"log": tuple(record["info"].get("log", ()))})
    evidence = _joint(program, tasks, parts) if info.evidence == "joint" else choose(program, tasks, info.evidence)
    return _posterior(hierarchy, tasks, evidence, parts, info, record.get("draws", {}))


def read_record(path: str | PathLike[str]) -> dict[str, Any]:
    """What a saved posterior says of itself: how it was fitted, its fingerprint, the layout of its tasks."""
    if not Path(path).is_file():
        raise NotAvailableError(f"there is no file {path}")
    try:
        with xr.open_dataset(path, engine="h5netcdf") as root:
            record = json.loads(root.attrs["bayesmeta"])
        found = record["format"]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise FileFormatError(
            f"{path} is not a posterior saved by bayesmeta: {type(error).__name__}: {error}"
        ) from error
    if found != FORMAT:
        raise FileFormatError(f"{path} has format {found!r}, this version reads {FORMAT!r}")
    return dict(record)


def _read(path: Path, names: list[str]) -> dict[str, xr.Dataset]:
    parts = {}
    for name in names:
        try:
            with xr.open_dataset(path, group=name, engine="h5netcdf") as dataset:
                parts[name] = dataset.load()
        except (OSError, KeyError, ValueError) as error:
            raise FileFormatError(f"{path} lacks the group {name!r}: it was cut short or changed") from error
    return parts


def _tasks(record: dict[str, Any], parts: dict[str, xr.Dataset]) -> Tasks:
    constant, observed = parts["constant_data"], parts["observed_data"]
    names = [str(name) for name in constant["task"].values]
    sizes = [int(size) for size in record["sizes"]]
    x = _tensor(constant["x"].values).split(sizes)
    y = _tensor(observed[as_variable(record["fingerprint"]["observed"][0])].values).split(sizes)
    context = {name: _tensor(constant[as_variable(f"context_{name}")].values) for name in record["context"]}
    tasks = Tasks.from_lists(list(x), list(y), names=names, context=context or None, allow_empty=True)
    columns = record["columns"]
    if columns is None:
        return tasks
    as_given = columns["x"] if not isinstance(columns["x"], list) else tuple(columns["x"])
    return replace(tasks, columns=Columns(columns["task"], as_given, columns["y"], tuple(columns["context"])))


def _joint(program: Program, tasks: Tasks, parts: dict[str, xr.Dataset]) -> Joint:
    """The joint density in the coordinates of the fit; files that say nothing of them have standardised ones."""
    coordinates = parts["unconstrained_posterior"]
    saved = {
        name: _tensor(coordinates[CENTRING + as_variable(name)].values)
        for name in program.structure.theta.names
        if CENTRING + as_variable(name) in coordinates
    }
    degrees = {name: Degree(value[0], value[1]) for name, value in saved.items()}
    return Joint(program, tasks, degrees)


def _posterior(
    hierarchy: Hierarchy,
    tasks: Tasks,
    evidence: Collapsed | Joint,
    parts: dict[str, xr.Dataset],
    info: Info,
    known: dict[str, Any],
) -> Posterior:
    coordinates = parts["unconstrained_posterior"]
    said = parts["sample_stats"].data_vars.items()
    stats = {str(name): value.values for name, value in said if ASSUMED not in value.attrs}
    facts = {name: known[name] for name in OF_DRAWS if name in known}
    draws = Draws(
        _tensor(coordinates["u"].values),
        stats,
        interrupted=info.interrupted,
        seconds=info.seconds["sample"],
        log=info.log,
        **facts,
    )
    posterior = Posterior(hierarchy, tasks, evidence, draws, info, weighted=_weighted(coordinates))
    if "theta_coordinates" in coordinates:
        saved = _tensor(coordinates["theta_coordinates"].values)
        posterior.__dict__["theta_coordinates"] = torch.flatten(saved, 0, 1)
    return posterior


def _weighted(coordinates: xr.Dataset) -> Weighted | None:
    """Draws of the last fit with the weights of the updates since, where there were any."""
    if WEIGHTED not in coordinates:
        return None
    log_weights = coordinates[LOG_WEIGHT]
    u, efficiency = _tensor(coordinates[WEIGHTED].values), float(log_weights.attrs["efficiency"])
    return Weighted(u, _tensor(log_weights.values), efficiency)


def _tensor(values: Any) -> torch.Tensor:
    """A float64 tensor of an xarray variable."""
    return torch.from_numpy(np.array(values, dtype=np.float64))
