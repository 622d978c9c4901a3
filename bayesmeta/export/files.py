"""A posterior in one netCDF4 file, written by xarray one group after another; opening one runs no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import xarray as xr

from bayesmeta.archive import written_whole
from bayesmeta.errors import NotAvailableError
from bayesmeta.evidence.joint import Joint
from bayesmeta.export.groups import as_variable
from bayesmeta.fingerprint import fingerprint

if TYPE_CHECKING:
    from bayesmeta.posterior import Posterior

__all__ = ["CENTRING", "FORMAT", "LOG_WEIGHT", "OF_DRAWS", "WEIGHTED", "save"]

FORMAT = "bayesmeta posterior 1"
# In the group of coordinates, before the name of a θ site: the degrees of centring its coordinates have.
CENTRING = "centring_"
# Draws of the last fit with the weights of the updates since, in the group of coordinates.
WEIGHTED, LOG_WEIGHT = "weighted_u", "log_weight"
# What draws know of themselves besides arrays.
OF_DRAWS = ("k_hat", "effective_size", "evaluations", "density", "compile_seconds", "members", "unwatched", "point")


def save(posterior: Posterior, path: str | PathLike[str], parts: Mapping[str, xr.Dataset]) -> None:
    """Write a posterior to a netCDF file, replacing it whole: an interrupted write leaves the old file."""
    target = Path(path)
    if target.is_dir():
        raise NotAvailableError(f"path: {str(target)!r} is a folder; wanted a file, such as {str(target / 'fit.nc')!r}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotAvailableError(f"path: cannot make the folder {str(target.parent)!r}: {error}") from error
    record = {"format": FORMAT, **_record(posterior)}
    everything = {**parts, "unconstrained_posterior": _coordinates(posterior)}
    with written_whole(target) as partial:
        xr.Dataset(attrs={"bayesmeta": json.dumps(record)}).to_netcdf(partial, mode="w", engine="h5netcdf")
        for name, dataset in everything.items():
            dataset.to_netcdf(partial, mode="a", group=name, engine="h5netcdf")


def _coordinates(posterior: Posterior) -> xr.Dataset:
    u = posterior.draws.u.numpy()
    variables: dict[str, Any] = {"u": (("chain", "draw", "coordinate"), u)}
    if (weighted := posterior.weighted) is not None:
        variables[WEIGHTED] = (("weighted_draw", "coordinate"), weighted.u.numpy())
        variables[LOG_WEIGHT] = ("weighted_draw", weighted.log_weights.numpy(), {"efficiency": weighted.efficiency})
    if not isinstance(posterior.collapsed, Joint):
        theta = posterior.theta_coordinates.reshape(*u.shape[:2], *posterior.theta_coordinates.shape[1:]).numpy()
        variables["theta_coordinates"] = (("chain", "draw", "task", "theta_coordinate"), theta)
        return xr.Dataset(variables)
    for name, degree in posterior.collapsed.degrees.items():
        inner = [f"{as_variable(name)}_dim_{k}" for k in range(degree.scale.dim() - 1)]
        both = torch.stack([degree.scale, degree.loc]).numpy()
        variables[CENTRING + as_variable(name)] = (("of_scale_and_loc", "task", *inner), both)
    return xr.Dataset(variables)


def _record(posterior: Posterior) -> dict[str, Any]:
    """What is needed beside the arrays: how the fit was done, the hierarchy's fingerprint, the data's layout."""
    tasks = posterior.tasks
    columns = None if tasks.columns is None else asdict(tasks.columns)
    return {
        "info": asdict(posterior.info),
        "draws": {name: getattr(posterior.draws, name) for name in OF_DRAWS},
        "fingerprint": fingerprint(posterior.collapsed.program, tasks),
        "columns": columns,
        "sizes": tasks.sizes.tolist(),
        "context": list(tasks.context),
    }
