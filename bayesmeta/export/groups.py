"""The groups that ArviZ knows, as datasets with named axes, from NumPy arrays and names alone.

Axes: ``chain``, ``draw``, ``task`` (with the tasks' names), ``obs_id`` (all observations of all tasks, one task after
the other, with the task of each as coordinate ``obs_task``), and those of the sites, named after their plates where
they have any.

    posterior, prior                          φ and θ by site
    sample_stats                              what the sampler said of each draw, by ArviZ's names
    log_likelihood                            y: log p(y_i | θ, φ) by observation; y_by_task: what each task contributes
    log_prior                                 log p of each φ site
    posterior_predictive, prior_predictive    observations drawn anew
    observed_data, constant_data              the observations; inputs and contexts

Where the observed site is called something else than ``y``, so are its variables; a slash in a name, which means a
folder in netCDF, is a dot here. Nothing here knows torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

__all__ = ["ASSUMED", "Population", "Sampled", "as_variable", "groups"]

Array = npt.NDArray[Any]
Variable = tuple[tuple[str, ...], Array]
ASSUMED = "assumed"  # attribute of what no sampler said, and ArviZ's plots ask for
AXES = ("chain", "draw", "task", "obs_id")


@dataclass(frozen=True)
class Population:
    """T tasks with N observations in all, and the names of what is sampled.

    Attributes:
        tasks: The names of the tasks.
        sizes: How many observations each has (T,).
        x: Inputs (N, ...).
        y: Observations (N, ...).
        observed: The name of the observed site.
        plates: For each site, φ and θ, the plate that each axis of its shape belongs to, None where to none.
        context: What holds for whole tasks, each (T, ...).
        columns: The names of the columns of x, where they have any.
    """

    tasks: Sequence[str]
    sizes: Array
    x: Array
    y: Array
    observed: str = "y"
    plates: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    context: Mapping[str, Array] = field(default_factory=dict)
    columns: Sequence[str] | None = None


@dataclass(frozen=True)
class Sampled:
    """S = chains x draws draws, chain after chain, and what goes with each. What is None or empty is left out.

    Attributes:
        shape: (chains, draws).
        phi: φ by site, each (S, ...).
        theta: θ by site, each (S, T, ...).
        y: Observations drawn anew (S, N, ...).
        stats: What the sampler said, each (chains, draws).
        log_likelihood: log p(y_i | θ, φ) (S, N), in nats.
        by_task: What each task contributes to log p(D | φ) (S, T), in nats.
        log_prior: log p of each φ site (S,), in nats.
        attrs: What is to be said of the draws: text and numbers.
    """

    shape: tuple[int, int]
    phi: Mapping[str, Array]
    theta: Mapping[str, Array]
    y: Array | None = None
    stats: Mapping[str, Array] = field(default_factory=dict)
    log_likelihood: Array | None = None
    by_task: Array | None = None
    log_prior: Mapping[str, Array] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)


def as_variable(name: str) -> str:
    """A name as netCDF takes it: there a slash stands between folders.

    >>> as_variable("hospital/mu")
    'hospital.mu'
    """
    return name.replace("/", ".")


def groups(
    population: Population, *, posterior: Sampled | None = None, prior: Sampled | None = None
) -> dict[str, xr.Dataset]:
    """The groups of a posterior, of a prior, or of both, with the data they belong to."""
    parts: dict[str, xr.Dataset] = {}
    if posterior is not None:
        parts["posterior"] = _draws_group(population, posterior)
        parts["sample_stats"] = _stats_group(posterior)
        if posterior.by_task is not None:
            parts["log_likelihood"] = _likelihood_group(population, posterior)
        if posterior.log_prior:
            by_chain = {name: _by_chain(value, posterior.shape) for name, value in posterior.log_prior.items()}
            parts["log_prior"] = _plain(posterior, by_chain)
        if posterior.y is not None:
            parts["posterior_predictive"] = _predictive_group(population, posterior, posterior.y)
    if prior is not None:
        parts["prior"] = _draws_group(population, prior)
        if prior.y is not None:
            parts["prior_predictive"] = _predictive_group(population, prior, prior.y)
    parts["observed_data"] = _data_group(population)
    parts["constant_data"] = _constant_group(population)
    return parts


def _draws_group(population: Population, sampled: Sampled) -> xr.Dataset:
    coords = _draw_coords(sampled) | {"task": _text(population.tasks)}
    names = {*AXES, *sampled.phi, *sampled.theta}
    variables: dict[str, Variable] = {}
    for sites, lead in ((sampled.phi, ()), (sampled.theta, ("task",))):
        for name, values in sites.items():
            shape = values.shape[1 + len(lead) :]
            dims = _site_dims(name, shape, population.plates.get(name, ()), names, coords)
            variables[as_variable(name)] = (("chain", "draw", *lead, *dims), _by_chain(values, sampled.shape))
            coords |= {dim: np.arange(size) for dim, size in zip(dims, shape, strict=True)}
    return xr.Dataset(variables, coords=coords, attrs={"inference_library": "bayesmeta", **sampled.attrs})


def _stats_group(sampled: Sampled) -> xr.Dataset:
    if sampled.stats:
        return _plain(sampled, sampled.stats)
    group = _plain(sampled, {"diverging": np.zeros(sampled.shape, dtype=bool)})
    group["diverging"].attrs[ASSUMED] = "the draws form no chain that could diverge"
    return group


def _site_dims(
    site: str, shape: tuple[int, ...], plates: Sequence[str | None], taken: set[str], coords: Mapping[str, Array]
) -> list[str]:
    """The names of the axes of a site: its plates, and ``site_dim_k`` elsewhere or where a plate's name is taken."""
    dims: list[str] = []
    for axis, size in enumerate(shape):
        plate = plates[axis] if axis < len(plates) else None
        plate = plate and as_variable(plate)
        own = plate is None or plate in (*taken, *dims) or (plate in coords and len(coords[plate]) != size)
        dims.append(f"{as_variable(site)}_dim_{axis}" if plate is None or own else plate)
    return dims


def _likelihood_group(population: Population, sampled: Sampled) -> xr.Dataset:
    site, shape = as_variable(population.observed), sampled.shape
    variables: dict[str, Variable] = {}
    if sampled.by_task is not None:
        variables[f"{site}_by_task"] = (("chain", "draw", "task"), _by_chain(sampled.by_task, shape))
    if sampled.log_likelihood is not None:
        variables[site] = (("chain", "draw", "obs_id"), _by_chain(sampled.log_likelihood, shape))
    coords = _draw_coords(sampled) | {"task": _text(population.tasks)} | _obs_coords(population)
    return xr.Dataset(variables, coords=coords)


def _predictive_group(population: Population, sampled: Sampled, y: Array) -> xr.Dataset:
    dims, _ = _rows(y[0], "y")
    variables = {as_variable(population.observed): (("chain", "draw", *dims), _by_chain(y, sampled.shape))}
    return xr.Dataset(variables, coords=_draw_coords(sampled) | _obs_coords(population))


def _data_group(population: Population) -> xr.Dataset:
    variables = {as_variable(population.observed): _rows(population.y, "y")}
    return xr.Dataset(variables, coords=_obs_coords(population))


def _constant_group(population: Population) -> xr.Dataset:
    variables: dict[str, Variable] = {"x": _rows(population.x, "x")}
    coords = _obs_coords(population) | {"task": _text(population.tasks)}
    if population.columns is not None and population.x.ndim == 2:
        coords["x_dim_0"] = _text(population.columns)
    for name, value in population.context.items():
        name = as_variable(name)
        dims = ("task", *(f"{name}_dim_{k}" for k in range(value.ndim - 1)))
        variables[f"context_{name}"] = (dims, value)
    return xr.Dataset(variables, coords=coords)


def _plain(sampled: Sampled, variables: Mapping[str, Array]) -> xr.Dataset:
    """Variables of one number per draw."""
    return xr.Dataset(
        {as_variable(name): (("chain", "draw"), value) for name, value in variables.items()},
        coords=_draw_coords(sampled),
    )


def _rows(values: Array, name: str) -> Variable:
    return ("obs_id", *(f"{name}_dim_{k}" for k in range(values.ndim - 1))), values


def _by_chain(values: Array, shape: tuple[int, int]) -> Array:
    return values.reshape(*shape, *values.shape[1:])


def _draw_coords(sampled: Sampled) -> dict[str, Any]:
    return {"chain": np.arange(sampled.shape[0]), "draw": np.arange(sampled.shape[1])}


def _obs_coords(population: Population) -> dict[str, Any]:
    names = np.repeat(_text(population.tasks), population.sizes)
    return {"obs_id": np.arange(len(names)), "obs_task": ("obs_id", names)}


def _text(names: Sequence[str]) -> Array:
    return np.array(names, dtype=object)
