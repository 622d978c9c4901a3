"""A model with a plate over tasks, run on one of them: handlers that take the task's axis off its sites.

The model itself always sees the plate, of size one; what it samples is shown to the handlers outside without the
axis of the plate, as a function of one task would have sampled it. So θ of a task is a scalar where the model has
a vector over tasks.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Independent
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to

from bayesmeta.classes import base_of
from bayesmeta.errors import HierarchyError
from bayesmeta.sites import coordinates_shape, hidden

__all__ = ["Alone", "Hyper", "Resized", "Sizes", "feasible", "is_factor", "task_axes", "without_axes"]


def feasible(name: str, fn: Any) -> Tensor:
    """A random value in the support of a site; clear errors for what cannot be mapped to the real line."""
    if type(base_of(fn)).__name__ == "Delta":
        raise HierarchyError(
            f"site {name!r} is a Delta: its value follows from others, and there is nothing to learn of it. Write "
            f"pyro.deterministic({name!r}, value)"
        )
    support = fn.support
    if getattr(support, "is_discrete", False):
        raise HierarchyError(
            f"site {name!r} is discrete ({type(fn).__name__}); φ and θ must be continuous: "
            "sum it out (a mixture distribution), or pass it as observed data or context"
        )
    try:
        transform = biject_to(support)
    except NotImplementedError as error:
        raise HierarchyError(
            f"site {name!r} has support {support}, which has no map to the real line; "
            "use a distribution with another support"
        ) from error
    shape = coordinates_shape(transform, fn.shape())
    value: Tensor = transform(torch.empty(shape).uniform_(-1.0, 1.0))
    return value


def is_factor(fn: Any) -> bool:
    """Whether a site is a `pyro.factor`."""
    return type(fn).__name__ == "Unit"


@dataclass(frozen=True)
class Sizes:
    """The sizes of plates: `tasks` of the one over tasks, `rows` of those that the model gives `all_rows` members.

    None leaves them as the model has them.
    """

    plate: str
    tasks: int | None
    rows: int
    all_rows: int | None = None


class Resized(Messenger):
    """Gives plates other sizes than the model says, without the scale that a subsample has.

    Args:
        sizes: what they shall be.

    Attributes:
        plates: the names of the plates met.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.plates: list[str] = []

    def _pyro_sample(self, msg: Any) -> None:
        if type(msg["fn"]).__name__ == "_Subsample":
            return self._plate(msg)
        for frame in msg["cond_indep_stack"]:
            if frame.name == self.sizes.plate and not frame.vectorized:
                raise HierarchyError(
                    f"plate {frame.name!r} is a loop over its members (for i in pyro.plate(...)); "
                    f"write it as one block: with pyro.plate({frame.name!r}, ...)"
                )
            if frame.full_size != frame.size and frame.size != -1:
                msg["scale"] = msg["scale"] / (frame.full_size / frame.size)
        return self._site(msg)

    def _plate(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        if msg["value"] is not None or (fn.subsample_size is not None and fn.subsample_size < fn.size):
            raise HierarchyError(
                f"plate {name!r} takes a subsample of its members: leave subsample_size and subsample out; "
                "minibatches of tasks are made by the inference"
            )
        self.plates.append(name)
        if name == self.sizes.plate and self.sizes.tasks is not None:
            msg["value"] = torch.arange(self.sizes.tasks)
        elif fn.size == self.sizes.all_rows:
            msg["value"] = torch.arange(self.sizes.rows)

    def _site(self, msg: Any) -> None:
        if hidden(msg):
            msg["stop"] = True


class Hyper(Resized):
    """Lets only the sites of φ be seen outside, and keeps their values.

    Args:
        sizes: as of `Resized`.
        names: what is φ: latent sites, and the observed ones that belong to it.
    """

    def __init__(self, sizes: Sizes, names: frozenset[str]) -> None:
        super().__init__(sizes)
        self.names = names
        self.values: dict[str, Tensor] = {}

    def _site(self, msg: Any) -> None:
        if msg["name"] in self.names and not hidden(msg):
            return
        msg["stop"] = True
        if not msg["is_observed"]:
            transform = biject_to(msg["fn"].support)
            msg["value"] = transform(torch.zeros(coordinates_shape(transform, msg["fn"].shape())))

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            self.values[msg["name"]] = msg["value"]


@dataclass(frozen=True)
class Axis:
    """An axis taken off a site: where it was in the shape (negative), and how long it is."""

    dim: int
    size: int


class Alone(Resized):
    """Shows the sites of one task outside, without the axis of the plate over tasks; φ stands at given values.

    Args:
        sizes: as of `Resized`.
        phi: values of φ by site.
        above: observed sites that belong to φ, which are not shown.
        data: the sites that hold observations, also where these are not given.
        y_axis: the axis of an observed site that runs over tasks where no plate says so (negative), or None.
        per_row: whether the model has one observation per task, inside the plate: then every row of the task is
            a member of the plate with the same θ, and observed sites keep the axis, which runs over rows.
        predict: whether the observations given are placeholders, to be drawn.
    """

    def __init__(
        self,
        sizes: Sizes,
        phi: Mapping[str, Tensor],
        above: frozenset[str],
        data: frozenset[str],
        *,
        y_axis: int | None = None,
        per_row: bool = False,
        predict: bool = False,
    ) -> None:
        super().__init__(sizes)
        self.phi, self.above, self.data = phi, above, data
        self.y_axis, self.per_row, self.predict = y_axis, per_row, predict
        self._kept: dict[str, tuple[Any, Any, Any, list[Axis]]] = {}

    def _site(self, msg: Any) -> None:
        name = msg["name"]
        if name in self.phi:
            msg["value"] = self.phi[name]
        if name in self.phi or name in self.above or hidden(msg):
            msg["stop"] = True
            return
        axes = self._axes(msg)
        self._kept[name] = (msg["fn"], msg["cond_indep_stack"], msg["value"] if msg["is_observed"] else None, axes)
        if self.predict and name in self.data:
            msg["is_observed"], msg["value"] = False, None
        if axes and self._take_off(msg, axes):
            return
        self._kept[name] = (*self._kept[name][:3], [])

    def _axes(self, msg: Any) -> list[Axis]:
        fn = msg["fn"]
        plates = [(frame.name, frame.dim) for frame in msg["cond_indep_stack"] if frame.vectorized]
        holds_data = msg["name"] in self.data
        if self.per_row and (holds_data or msg["is_observed"]):
            return []
        if any(name == self.sizes.plate for name, _ in plates):
            return task_axes(fn, plates, self.sizes.plate)
        if holds_data and self.y_axis is not None:
            return [Axis(self.y_axis, 1)]
        return []

    def _take_off(self, msg: Any, axes: list[Axis]) -> bool:
        fn = without_axes(msg["fn"], axes)
        if fn is None:
            if self.per_row or msg["is_observed"]:
                raise HierarchyError(
                    f"site {msg['name']!r} ({type(msg['fn']).__name__}) cannot be written for one task alone: "
                    "write hyperprior and task yourself"
                )
            return False
        msg["fn"] = fn
        msg["cond_indep_stack"] = _shifted(msg["cond_indep_stack"], self.sizes.plate)
        for axis in axes:
            msg["value"] = None if msg["value"] is None else msg["value"].select(axis.dim, 0)
            if isinstance(msg["mask"], Tensor) and msg["mask"].dim() >= -axis.dim:
                msg["mask"] = msg["mask"].select(axis.dim, 0)
        return True

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] not in self._kept:
            return
        fn, frames, observed, axes = self._kept[msg["name"]]
        value = msg["value"]
        for axis in reversed(axes):
            value = value.unsqueeze(axis.dim)
            value = value.expand(*(axis.size if d == value.dim() + axis.dim else -1 for d in range(value.dim())))
        msg["fn"], msg["cond_indep_stack"] = fn, frames
        msg["value"] = observed if observed is not None and msg["is_observed"] else value


def task_axes(fn: Any, plates: Sequence[tuple[str, int]], plate: str) -> list[Axis]:
    """The axis of the plate in the shape of a site, and those of size one behind it that only make room."""
    own = {dim for _, dim in plates}
    batch, event = fn.batch_shape, len(fn.event_shape)
    (dim,) = (dim for name, dim in plates if name == plate)
    room = [d for d in range(dim + 1, 0) if d not in own and batch[d] == 1]
    # Taken off from the left: what stands to the right keeps its place counted from the right.
    return [Axis(d - event, batch[d]) for d in (dim, *room)]


def _shifted(frames: Any, plate: str) -> Any:
    """The plates of a site without that over tasks; those to its left move up."""
    (gone,) = [frame.dim for frame in frames if frame.name == plate] or [None]
    if gone is None:
        return frames
    rest = [frame for frame in frames if frame.name != plate]
    return tuple(f._replace(dim=f.dim + 1) if f.vectorized and f.dim < gone else f for f in rest)


def without_axes(fn: Any, axes: Sequence[Axis]) -> Any:
    """The distribution without several axes, from the left; None where one cannot be taken off."""
    for axis in axes:
        fn = None if fn is None else without_axis(fn, axis.dim)
    return fn


def without_axis(fn: Any, dim: int) -> Any:
    """The distribution without one axis of its shape (negative), its first entry standing for all.

    None where the distribution is none that is given by its parameters alone.
    """
    event = len(fn.event_shape)
    if isinstance(fn, Independent):
        base = without_axis(fn.base_dist, dim)
        reinterpreted = fn.reinterpreted_batch_ndims - (1 if -dim <= event else 0)
        return base.to_event(reinterpreted) if base is not None and reinterpreted else base
    return None if -dim <= event else _made_anew(fn, dim)


def _made_anew(fn: Any, dim: int) -> Any:
    """The distribution of the same kind with its parameters at the first entry of a batch axis."""
    event = len(fn.event_shape)
    arguments = {name: _taken(fn, name, dim + event) for name in _parameters_of(fn)}
    wanted = [size for d, size in enumerate(fn.shape(), -len(fn.shape())) if d != dim]
    try:
        made = type(fn)(**arguments, validate_args=False)
    except (TypeError, ValueError, NotImplementedError):
        return None
    return made if list(made.shape()) == wanted and made.event_shape == fn.event_shape else None


def _parameters_of(fn: Any) -> list[str]:
    """Names of the parameters that the distribution was given, of several equivalent ones the cheapest."""
    known = fn.arg_constraints
    if "scale_tril" in known:
        return ["loc", "scale_tril"]
    accepted = inspect.signature(type(fn).__init__).parameters
    names = [name for name in known if name in accepted]
    given = [name for name in names if name in fn.__dict__]
    if "logits" in given and "probs" in given:
        given.remove("probs")
    rest = [name for name in names if name not in given and name not in ("logits", "probs")]
    return given + rest


def _taken(fn: Any, name: str, batch_dim: int) -> Any:
    """One parameter, its batch axis `batch_dim` (negative) taken at the first entry."""
    value = getattr(fn, name)
    if not isinstance(value, Tensor):
        return value
    try:
        dim = batch_dim - fn.arg_constraints[name].event_dim
    except NotImplementedError:
        dim = batch_dim
    return value.select(dim, 0) if value.dim() >= -dim else value
