"""To ArviZ and to netCDF: groups of named arrays, made from NumPy arrays alone.

ArviZ 0.x reads them as an `InferenceData`, ArviZ 1.x as an xarray `DataTree`; `to_arviz` is the only place that
knows the difference. Files are netCDF4 written by xarray, one group after another; opening one runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from bayesmeta.evidence.joint import Joint
from bayesmeta.likelihood import evidence_per_task, log_likelihood_rows
from bayesmeta.sites import Site
from bayesmeta.tasks import Tasks

if TYPE_CHECKING:
    from bayesmeta.posterior import Posterior

__all__ = ["CENTRING", "FORMAT", "groups", "save", "to_arviz"]

FORMAT = "bayesmeta posterior 1"
# In the group of coordinates, before the name of a θ site: the degrees of centring its coordinates have.
CENTRING = "centring_"
Array = npt.NDArray[Any]
Groups = dict[str, xr.Dataset]
MOST_NUMBERS = 50_000_000
AXES = ("chain", "draw", "task", "obs_id")


def to_arviz(parts: Mapping[str, xr.Dataset]) -> Any:
    """Groups as ArviZ's own container: `InferenceData` before 1.0, `xarray.DataTree` from then on."""
    import arviz

    if hasattr(arviz, "InferenceData"):
        return arviz.InferenceData(**parts)
    return xr.DataTree.from_dict(dict(parts))


def groups(posterior: Posterior, *, log_likelihood: bool = True) -> Groups:
    """The groups of a posterior: posterior, sample_stats, log_likelihood, observed_data, constant_data.

    Dimensions: chain, draw, ``task`` (with the tasks' names), ``obs_id`` (all observations of all tasks, with the
    task of each as coordinate ``obs_task``), and those of the sites, named after their plates where they have
    any. In log_likelihood, ``y`` is log p(y_i | θ, φ) per observation and ``y_by_task`` what the tasks
    contribute: log Z_t(φ) where θ is integrated out, and the sum over observations where it is sampled.
    """
    shape = tuple(posterior.draws.u.shape[:2])
    structure = posterior.collapsed.program.structure
    tasks = posterior.tasks
    main = _posterior_group(posterior, shape)
    parts: Groups = {"posterior": main}
    stats = {name: (("chain", "draw"), value) for name, value in posterior.draws.stats.items()}
    parts["sample_stats"] = xr.Dataset(stats, coords=_draw_coords(shape))
    if log_likelihood and shape[0] * shape[1] * tasks.n_observations <= MOST_NUMBERS:
        parts["log_likelihood"] = _likelihood_group(posterior, shape)
    parts["observed_data"] = xr.Dataset({structure.observed[0]: _rows(tasks.y.numpy(), "y")}, coords=_obs_coords(tasks))
    parts["constant_data"] = _constant_group(tasks)
    return parts


def _posterior_group(posterior: Posterior, shape: tuple[int, ...]) -> xr.Dataset:
    structure = posterior.collapsed.program.structure
    taken = {*AXES, *structure.phi.names, *structure.theta.names}
    coords = _draw_coords(shape) | {"task": _text(posterior.tasks.names)}
    variables = {}
    for sites, draws, lead in ((structure.phi, posterior.phi, ()), (structure.theta, posterior.theta, ("task",))):
        for site in sites:
            dims = site_dims(site, taken)
            variables[site.name] = (("chain", "draw", *lead, *dims), _by_chain(draws[site.name].numpy(), shape))
            coords |= {dim: np.arange(size) for dim, size in zip(dims, site.shape, strict=True)}
    return xr.Dataset(variables, coords=coords, attrs={"inference_library": "bayesmeta"})


def _likelihood_group(posterior: Posterior, shape: tuple[int, ...]) -> xr.Dataset:
    site = posterior.collapsed.program.structure.observed[0]
    by_task = evidence_per_task(posterior)
    variables: dict[str, Any] = {f"{site}_by_task": (("chain", "draw", "task"), _by_chain(by_task.numpy(), shape))}
    rows = log_likelihood_rows(posterior)
    if rows is not None:
        variables[site] = (("chain", "draw", "obs_id"), _by_chain(rows.numpy(), shape))
    coords = _draw_coords(shape) | {"task": _text(posterior.tasks.names)} | _obs_coords(posterior.tasks)
    return xr.Dataset(variables, coords=coords)


def _constant_group(tasks: Tasks) -> xr.Dataset:
    variables: dict[str, Any] = {"x": _rows(tasks.x.numpy(), "x")}
    columns = tasks.columns
    coords: dict[str, Any] = _obs_coords(tasks) | {"task": _text(tasks.names)}
    if columns is not None and isinstance(columns.x, tuple) and tasks.x.dim() == 2:
        coords["x_dim_0"] = _text(columns.x)
    for name, value in tasks.context.items():
        dims = ("task", *(f"{name}_dim_{k}" for k in range(value.dim() - 1)))
        variables[f"context_{name}"] = (dims, value.numpy())
    return xr.Dataset(variables, coords=coords)


def site_dims(site: Site, taken: Collection[str]) -> list[str]:
    """The names of the axes of a site: its plates, and ``site_dim_k`` elsewhere or where a plate's name is taken."""
    return [
        plate if plate and plate not in taken else f"{site.name}_dim_{axis}" for axis, plate in enumerate(site.plates)
    ]


def _rows(values: Array, name: str) -> tuple[tuple[str, ...], Array]:
    return ("obs_id", *(f"{name}_dim_{k}" for k in range(values.ndim - 1))), values


def _by_chain(values: Array, shape: tuple[int, ...]) -> Array:
    return values.reshape(*shape, *values.shape[1:])


def _draw_coords(shape: tuple[int, ...]) -> dict[str, Any]:
    return {"chain": np.arange(shape[0]), "draw": np.arange(shape[1])}


def _obs_coords(tasks: Tasks) -> dict[str, Any]:
    names = _text(tasks.names)[tasks.task_index.numpy()]
    return {"obs_id": np.arange(tasks.n_observations), "obs_task": ("obs_id", names)}


def _text(names: tuple[str, ...]) -> Array:
    return np.array(names, dtype=object)


# ---------------------------------------------------------------------------------------------------------
# Files


def save(posterior: Posterior, path: str | PathLike[str], parts: Mapping[str, xr.Dataset]) -> None:
    """Write a posterior to a netCDF file, replacing it whole: an interrupted write leaves the old file."""
    target = Path(path)
    partial = target.with_name(target.name + ".part")
    record = {"format": FORMAT, **_record(posterior)}
    everything = {**parts, "unconstrained_posterior": _coordinates(posterior)}
    try:
        xr.Dataset(attrs={"bayesmeta": json.dumps(record)}).to_netcdf(partial, mode="w", engine="h5netcdf")
        for name, dataset in everything.items():
            dataset.to_netcdf(partial, mode="a", group=name, engine="h5netcdf")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _coordinates(posterior: Posterior) -> xr.Dataset:
    u = posterior.draws.u.numpy()
    variables: dict[str, Any] = {"u": (("chain", "draw", "coordinate"), u)}
    if not isinstance(posterior.collapsed, Joint):
        theta = posterior.theta_coordinates.reshape(*u.shape[:2], *posterior.theta_coordinates.shape[1:]).numpy()
        variables["theta_coordinates"] = (("chain", "draw", "task", "theta_coordinate"), theta)
        return xr.Dataset(variables)
    for name, degree in posterior.collapsed.degrees.items():
        inner = [f"{name}_dim_{k}" for k in range(degree.scale.dim() - 1)]
        both = torch.stack([degree.scale, degree.loc]).numpy()
        variables[CENTRING + name] = (("of_scale_and_loc", "task", *inner), both)
    return xr.Dataset(variables)


def _record(posterior: Posterior) -> dict[str, Any]:
    """What is needed beside the arrays: how the fit was done, the hierarchy's fingerprint, the data's layout."""
    from dataclasses import asdict

    from bayesmeta.fingerprint import fingerprint

    tasks = posterior.tasks
    columns = None if tasks.columns is None else asdict(tasks.columns)
    return {
        "info": asdict(posterior.info),
        "fingerprint": fingerprint(posterior.collapsed.program, tasks),
        "columns": columns,
        "sizes": tasks.sizes.tolist(),
        "context": list(tasks.context),
    }


def as_tensor(values: Any) -> torch.Tensor:
    """A float64 tensor of an xarray variable."""
    return torch.from_numpy(np.array(values, dtype=np.float64))
