"""An ordinary Pyro model with a plate over tasks, as the two functions of a hierarchy.

    log p(φ, θ, y) = log p(φ) + Σ_t [ log p(θ_t | φ) + log p(y_t | x_t, θ_t, φ) ]

is what a plate over tasks promises. So the model run on the data of one task alone gives that task's term, and
its sites outside the plate are φ. Whether the promise holds is checked before anything is made of it: the terms
of some tasks, one at a time, must add up to the model on them together, site by site, at random points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from pyro.poutine import block
from torch import Tensor

from bayesmeta.arguments import can_be_none, sources
from bayesmeta.errors import BayesmetaError, HierarchyError, UnknownNameError, unknown
from bayesmeta.plates import Resized, feasible, is_factor, task_axes, without_axes
from bayesmeta.reading import FLAT, ROWS_FIRST, TASKS_FIRST, OneTask, Outside, Reading
from bayesmeta.sites import Meeting, Values, quiet_pyro
from bayesmeta.tasks import Task, Tasks

__all__ = ["Plated"]

CHECKED_TASKS = 16
POINTS = 2
TOLERANCE = 1e-6

Met = dict[str, Meeting]


class Plated:
    """A model with a plate over tasks, before it has met any.

    Args:
        model: the model.
        plate: the name of its plate over tasks.
        arguments: what arguments of the model take, where their names do not tell.
    """

    def __init__(self, model: Callable[..., Any], plate: str, arguments: Mapping[str, Any] | None = None) -> None:
        if not callable(model):
            raise HierarchyError(f"model must be a function, got {type(model).__name__}")
        if not isinstance(plate, str):
            raise HierarchyError(f"plate must be the name of a plate of the model, got {plate!r}")
        self.model, self.plate, self.arguments = model, plate, dict(arguments or {})

    def __repr__(self) -> str:
        name = getattr(self.model, "__name__", type(self.model).__name__)
        return f"Hierarchy.from_plated({name}, plate={self.plate!r})"

    def hyperprior(self) -> Any:
        """Stands for the hyperprior until there are tasks."""
        raise HierarchyError(f"{self!r} finds φ and θ when it first meets tasks: fit it, or call its program(tasks)")

    def task(self, phi: Any, x: Tensor, y: Tensor | None = None, **context: Tensor) -> Any:
        """Stands for the task until there are tasks."""
        self.hyperprior()

    def functions(self, tasks: Tasks) -> tuple[Outside, OneTask]:
        """The hyperprior and the task of the model, found and checked on these tasks.

        Raises:
            UnknownNameError: The model has no such plate, or `arguments` names what is not there.
            HierarchyError: An argument is not known, a plate takes a subsample, a site is discrete, the model
                cannot be run on one task alone, or the tasks depend on each other beyond φ.
        """
        with quiet_pyro(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            takes = sources(self.model, self.plate, tasks, self.arguments)
            none = can_be_none(self.model, [name for name, source in takes.items() if source.role == "y"])
            plain = Reading(self.model, self.plate, takes, tuple(tasks.y.shape[1:]), none=none)
            return _first_that_holds(plain, tasks)


# ---------------------------------------------------------------------------------------------------------
# Reading


def _first_that_holds(plain: Reading, tasks: Tasks) -> tuple[Outside, OneTask]:
    """The functions by the first reading whose tasks add up; else the error of the one that came furthest."""
    some = _some(tasks)
    _check_plate(plain, some)
    unread: list[HierarchyError] = []
    refuted: list[HierarchyError] = []
    for reading in _readings(plain, tasks):
        try:
            found = _found(reading, some)
        except HierarchyError as error:
            unread.append(error)
            continue
        try:
            return _checked(found, some)
        except HierarchyError as error:
            refuted.append(error)
    raise (refuted or unread)[0]


def _some(tasks: Tasks) -> Tasks:
    """At most `CHECKED_TASKS` tasks with observations, of all sizes."""
    order = torch.argsort(tasks.sizes, stable=True)
    order = order[tasks.sizes[order] > 0]
    if not len(order):
        raise HierarchyError("a plated model is read by running it on tasks with observations, and none has any")
    pick = torch.linspace(0, len(order) - 1, min(len(order), CHECKED_TASKS)).round().long().unique()
    return tasks[order[pick].sort().values]


def _readings(plain: Reading, tasks: Tasks) -> list[Reading]:
    """How the model may be meant, the likeliest first."""
    whole = any(source.role == "x" and source.column is None for source in plain.takes.values())
    one_column = whole and tasks.x.dim() == 2 and tasks.x.shape[1] == 1
    readings = [plain, replace(plain, squeezed=True)] if one_column else [plain]
    if bool((tasks.sizes == tasks.sizes[0]).all()):
        readings += [replace(r, layout=layout) for layout in (TASKS_FIRST, ROWS_FIRST) for r in tuple(readings)]
    return readings + [replace(r, all_rows=tasks.n_observations) for r in readings if r.layout == FLAT]


def _found(reading: Reading, tasks: Tasks) -> Reading:
    """The reading, completed by running the model: which sites are φ, what stands in the plate."""
    met, plates = _run(reading, tasks)
    phi = _check_both(reading.plate, met, plates)
    data = [m for m in met.values() if m.observed and not is_factor(m.fn)]
    for site in data:
        if tuple(site.fn.shape()) != tuple(site.value.shape):
            raise HierarchyError(
                f"observed site {site.name!r} has shape {tuple(site.fn.shape())}, but its observations have shape "
                f"{tuple(site.value.shape)} ({len(tasks)} tasks with {tasks.n_observations} observations in all)"
            )
    per_row = reading.layout == FLAT and any(_in_plate(site, reading.plate) for site in data)
    found = replace(reading, phi=phi, per_row=per_row)
    above = _above(found, tasks, met)
    return replace(found, above=above, data=tuple(site.name for site in data if site.name not in above))


def _check_plate(plain: Reading, tasks: Tasks) -> None:
    """The plate is one of the model's and holds θ, if the model runs as it stands."""
    try:
        met, plates = _run(plain, tasks, resized=False)
    except HierarchyError:
        return
    _check_both(plain.plate, met, plates)


def _check_both(plate: str, met: Met, plates: list[str]) -> tuple[str, ...]:
    """The names of φ, if there is a plate with θ in it and φ outside."""
    if plate not in plates:
        raise UnknownNameError(unknown("plate", plate, plates))
    theta = [name for name, m in met.items() if not m.observed and _in_plate(m, plate)]
    phi = tuple(name for name, m in met.items() if not m.observed and not _in_plate(m, plate))
    if not theta:
        raise HierarchyError(
            f"no latent site stands in plate {plate!r}: θ is what is sampled under with pyro.plate({plate!r}, ...), "
            f"and all sites, {list(phi)}, are outside"
        )
    if not phi:
        raise HierarchyError(
            f"all latent sites, {theta}, stand in plate {plate!r}, so the tasks have nothing in common: "
            "sample φ outside the plate"
        )
    return phi


def _above(reading: Reading, tasks: Tasks, met: Met) -> tuple[str, ...]:
    """Observed sites outside the plate that look at φ alone: the same with another θ, and for other tasks."""
    names = [name for name, m in met.items() if m.observed and not _in_plate(m, reading.plate)]
    if not names:
        return ()
    phi = {name: met[name].value for name in reading.phi}
    others = [_run(reading, some, phi)[0] for some in (tasks, tasks[:1])]
    same = [
        name
        for name in names
        if all(name in other and _close(other[name].log_prob(), met[name].log_prob()) for other in others)
    ]
    return tuple(same)


# ---------------------------------------------------------------------------------------------------------
# Running


def _run(
    reading: Reading, tasks: Tasks, values: Mapping[str, Tensor] | None = None, *, resized: bool = True
) -> tuple[Met, list[str]]:
    """The model on several tasks together: what was met, and the plates."""
    data = reading.together(tasks)
    sizes = reading.sizes(data)
    inner = Resized(sizes if resized else replace(sizes, tasks=None))

    def model() -> None:
        with inner:
            reading.call(data)

    return _meet(reading, model, values or {}, tasks), inner.plates


def _meet(reading: Reading, function: Callable[[], Any], values: Mapping[str, Tensor], tasks: Tasks) -> Met:
    """The sites of a function at values; what it raises is said with the data that it was given."""
    handler = Values(values, constrained=True, fallback=feasible)
    try:
        with block(), handler:
            function()
    except BayesmetaError:
        raise
    except Exception as error:
        raise HierarchyError(_failure(reading, tasks, error)) from error
    return handler.met


def _failure(reading: Reading, tasks: Tasks, error: Exception) -> str:
    data = reading.together(tasks)
    values = {name: source.of(data) for name, source in reading.takes.items()}
    given = ", ".join(
        f"{name} {tuple(value.shape)}" if isinstance(value, Tensor) else f"{name} {value!r}"
        for name, value in values.items()
    )
    what = f"the model raised {type(error).__name__} on {len(tasks)} task(s) ({given}): {error}. "
    if "used as indices" in str(error):
        return what + "An argument that serves as an index is cast by arguments={'floor': ('floor', torch.long)}"
    return what + (
        "The model has to run on any number of tasks: what has one entry per task or observation must be an argument "
        "of the model (arguments={...} says what each takes), not come from outside"
    )


def _in_plate(meeting: Meeting, plate: str) -> bool:
    return any(name == plate for name, _ in meeting.plates)


def _close(a: Tensor, b: Tensor) -> bool:
    return bool(torch.isclose(a, b, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True))


# ---------------------------------------------------------------------------------------------------------
# Checking


def _checked(reading: Reading, tasks: Tasks) -> tuple[Outside, OneTask]:
    """The two functions, if the tasks one at a time add up to the model on them together."""
    if not reading.per_row and not _as_many_as_rows(reading, tasks):
        reading = replace(reading, per_row=True)
    outside, alone = Outside(reading, tasks[0]), OneTask(reading)
    for _ in range(POINTS):
        together, _ = _run(reading, tasks)
        phi = {name: together[name].value for name in reading.phi}
        _check_phi(reading, together, _meet(reading, outside, {}, tasks[:1]))
        _check_phi(reading, together, _meet(reading, outside, phi, tasks[:1]), compare=True)
        each = [_meet_alone(reading, alone, phi, together, tasks, k) for k in range(len(tasks))]
        _check_shapes(reading, each, tasks)
        _check_tasks(reading, together, each)
    return outside, alone


def _as_many_as_rows(reading: Reading, tasks: Tasks) -> bool:
    """Whether a task with three rows has three observations; not so where they follow the members of the plate."""
    again = torch.zeros(3, dtype=torch.long)
    task = tasks[0]
    phi = {name: meeting.value for name, meeting in _run(reading, tasks)[0].items() if name in reading.phi}
    alone = OneTask(reading)
    try:
        met = _meet(reading, lambda: alone(phi, task.x[again], task.y[again], **task.context), {}, tasks[:1])
    except HierarchyError:
        return True
    return all(tuple(met[name].fn.shape())[:1] == (3,) for name in reading.data if name in met)


def _meet_alone(
    reading: Reading, alone: OneTask, phi: Mapping[str, Tensor], together: Met, tasks: Tasks, position: int
) -> Met:
    """The sites of one task alone, at the θ it has among all tasks."""
    task: Task = tasks[position]
    theta = {
        name: _theta_of(meeting, reading.plate, position)
        for name, meeting in together.items()
        if not meeting.observed and name not in reading.phi
    }
    return _meet(reading, lambda: alone(phi, task.x, task.y, **task.context), theta, tasks[[position]])


def _theta_of(meeting: Meeting, plate: str, position: int) -> Tensor:
    """θ of one task out of those of all tasks, in the shape that the site has for a task alone."""
    axes = task_axes(meeting.fn, meeting.plates, plate)
    if without_axes(meeting.fn, axes) is None:
        return meeting.value.narrow(axes[0].dim, position, 1)
    value = meeting.value.select(axes[0].dim, position)
    for axis in axes[1:]:
        value = value.select(axis.dim, 0)
    return value


def _check_phi(reading: Reading, together: Met, outside: Met, *, compare: bool = False) -> None:
    for name in (*reading.phi, *reading.above):
        here, there = together[name], outside.get(name)
        shapes = tuple(here.fn.shape()), None if there is None else tuple(there.fn.shape())
        if there is None or shapes[0] != shapes[1]:
            raise HierarchyError(
                f"site {name!r} stands outside plate {reading.plate!r}, but has shape {shapes[0]} for some tasks and "
                f"{shapes[1]} for one of them: what each task or observation has of its own is no φ. Sample it in the "
                "plate if it is θ; a latent value per observation must be integrated out"
            )
        if compare and not _close(here.log_prob(), there.log_prob()):
            raise HierarchyError(
                f"site {name!r} stands outside plate {reading.plate!r}, but its log density is "
                f"{float(here.log_prob()):.6g} for some tasks and {float(there.log_prob()):.6g} for one of them at the "
                "same φ: it depends on θ, or on the data or the number of tasks, and φ must not"
            )


def _check_shapes(reading: Reading, each: list[Met], tasks: Tasks) -> None:
    """Each task alone has as many observations as its data."""
    for met, task in zip(each, tasks, strict=True):
        for site in (met[name] for name in reading.data if name in met):
            got, wanted = tuple(site.fn.shape()), tuple(site.value.shape)
            if got != wanted:
                raise HierarchyError(
                    f"observed site {site.name!r} has shape {got} for task {task.name!r} alone, whose observations "
                    f"have shape {wanted}: what has one entry per task or observation must be an argument of the "
                    "model, not come from outside"
                )


def _check_tasks(reading: Reading, together: Met, each: list[Met]) -> None:
    names = [name for name in together if name not in (*reading.phi, *reading.above)]
    for name in names:
        if not all(name in met for met in each) or any(set(met) - set(names) for met in each):
            raise HierarchyError(
                f"the model samples {sorted(names)} for {len(each)} tasks together, and {sorted(each[0])} for one of "
                "them alone: it must have the same sites however many tasks there are"
            )
        total, parts = together[name].log_prob(), torch.stack([met[name].log_prob() for met in each]).sum()
        if not _close(total, parts):
            raise HierarchyError(_coupled(reading, name, float(total), float(parts), len(each)))


def _coupled(reading: Reading, name: str, total: float, parts: float, count: int) -> str:
    return (
        f"the tasks of plate {reading.plate!r} are not independent given φ: at the same φ and θ, the log density of "
        f"site {name!r} is {total:.6g} for {count} tasks together, and {parts:.6g} added up over the tasks one at a "
        "time. Does the model look at several tasks at once, with a sum or mean over θ, or over the data (to "
        "standardise them, say)? Compute what depends on the data alone beforehand; tasks that depend on each other "
        "beyond φ are no hierarchy"
    )
