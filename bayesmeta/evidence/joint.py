"""No integral at all: the joint density of φ and every θ, for hierarchies whose tasks have no closed form.

    log p(φ) + Σ_t [ log p(θ_t | φ) + log p(y_t | x_t, θ_t, φ) ]

Normal, log-normal and multivariate normal θ are moved to coordinates between θ itself (centred: right where a
task says much about its θ) and standard normal ones (not centred: right where it says little, as the funnel
between φ and θ is then out of the density), each task and element to its own degree; see `bayesmeta.centring`.
Every other θ is mapped to the real line by its support.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesmeta.centring import CENTRED, STANDARDISED, Centring, Degree
from bayesmeta.errors import OptionError, UnknownNameError, unknown
from bayesmeta.evidence.pilot import normal_sites, pilot
from bayesmeta.program import Phi, Program, Row
from bayesmeta.sites import quiet_pyro
from bayesmeta.tasks import Tasks

__all__ = ["CentringChoice", "Joint"]

CentringChoice: TypeAlias = Literal["auto"] | float | Mapping[str, Any]


class Joint:
    """The joint density over φ and θ of all tasks.

    Args:
        program: The hierarchy's functions.
        tasks: The tasks, padded into few batches of similar size.
        centring: ``"auto"`` chooses a degree by task and element from a short pilot; 1 or True keeps normal θ as
            they are, 0 or False standardises them; or degrees in [0, 1] by site, each a number, a tensor (T,) or
            (T, ...) by element, or a `Degree` of two such; a site that is not named is standardised.

    Attributes:
        centring: The degrees of the normal sites (T, ...): 1 centred, 0 standardised.
        degrees: The same with the share of the prior mean that is taken off, which goes with them.

    Raises:
        OptionError: A degree outside of [0, 1], or of a wrong shape.
        UnknownNameError: A degree for what is no normal site of θ.
    """

    gram = False

    def __init__(self, program: Program, tasks: Tasks, centring: CentringChoice = "auto") -> None:
        chosen, how = _chosen(program, tasks, centring)
        self.program = program.with_centring(chosen)
        self.tasks = tasks
        shapes = {site.name: (len(tasks), *site.shape) for site in program.structure.theta}
        self.degrees = {name: _expanded(one, shapes[name]) for name, one in chosen.items()}
        self.centring = {name: degree.scale for name, degree in self.degrees.items()}
        self.road = f"joint: φ and the θ of all tasks are sampled together{_described(self.centring)}{how}"
        batches = tasks.padded(exact_sizes=not program.structure.maskable)
        self.data: Any = [self.program.rows(batch) for batch in batches]
        order = torch.cat([batch.index for batch in batches])
        self._counts = [len(batch.index) for batch in batches]
        self._order = torch.argsort(order)
        self._where = order
        self.cells = sum(batch.mask.numel() for batch in batches)

    @property
    def fixed(self) -> bytes:
        """What `total` holds besides φ, θ and data: which task each row of the data belongs to."""
        return self._where.numpy().tobytes()

    def take(self, index: Tensor) -> Joint:
        """The same joint density of the tasks at these positions, none twice; nothing is read again."""
        part = copy.copy(self)
        part.tasks = self.tasks[index]
        bounds = torch.tensor([0, *self._counts]).cumsum(0)
        place = self._order[index]
        bucket = torch.searchsorted(bounds, place, right=True) - 1
        kept = [(k, (bucket == k).nonzero().squeeze(-1)) for k in range(len(self._counts))]
        kept = [(k, at) for k, at in kept if len(at)]
        rows = [(place[at] - bounds[k], self.data[k]) for k, at in kept]
        part.data = [pytree.tree_map(lambda leaf, pick=pick: leaf[pick], row) for pick, row in rows]
        part._counts = [len(at) for _, at in kept]
        part._where = torch.cat([at for _, at in kept])
        part._order = torch.argsort(part._where)
        part.cells = sum(row.mask.numel() for row in part.data)
        part.degrees = {name: Degree(one.scale[index], one.loc[index]) for name, one in self.degrees.items()}
        part.centring = {name: degree.scale for name, degree in part.degrees.items()}
        plain = dict(self.program.plain_centring)
        part.program = self.program.with_centring({**part.degrees, **plain})
        return part

    def total(self, phi: Phi, v: Tensor, data: Any) -> Tensor:
        """Σ_t log p(y_t, θ_t | φ) at coordinates v (T, p) of θ in the order of the tasks."""

        def one(v: Tensor, row: Row) -> Tensor:
            return self.program.log_joint(phi.returned, v, row)

        parts = v[self._where].split(self._counts)
        terms = [self.program.over_tasks(one)(part, row).sum() for part, row in zip(parts, data, strict=True)]
        return torch.stack(terms).sum()

    def theta(self, phi: Phi, v: Tensor, data: Any) -> dict[str, Tensor]:
        """Constrained θ by site (T, ...) at coordinates v (T, p)."""

        def one(v: Tensor, row: Row) -> dict[str, Tensor]:
            return self.program.values(v, phi.returned, row)

        parts = v[self._where].split(self._counts)
        values = [self.program.over_tasks(one)(part, row) for part, row in zip(parts, data, strict=True)]
        return {name: torch.cat([part[name] for part in values])[self._order] for name in values[0]}


def _chosen(program: Program, tasks: Tasks, centring: CentringChoice) -> tuple[dict[str, Centring], str]:
    """The centring of each normal site of θ, and the end of the sentence that tells of it."""
    if isinstance(centring, str):
        if centring != "auto":
            raise OptionError(
                f"centring must be 'auto', True, False, a number in [0, 1], or degrees by site, got {centring!r}"
            )
        found = pilot(program, tasks)
        return {name: _plain(degree) for name, degree in found.degrees.items()}, found.why
    with quiet_pyro():
        names = normal_sites(program, tasks)
    if not isinstance(centring, Mapping):
        centring = dict.fromkeys(names, centring)
    for name in centring:
        if name not in names:
            raise UnknownNameError(unknown("normal site of θ", name, names))
    shapes = {site.name: (len(tasks), *site.shape) for site in program.structure.theta}
    given = {name: _given(name, centring.get(name, STANDARDISED), shapes[name]) for name in names}
    return {name: _plain(degree) for name, degree in given.items()}, ""


def _given(name: str, value: Any, shape: tuple[int, ...]) -> Degree:
    """A degree that a user gave, by task and element."""
    parts = value if isinstance(value, Degree) else (value, value)
    scale, loc = (torch.as_tensor(part, dtype=torch.float64) for part in parts)
    if not bool(((scale >= 0) & (scale <= 1)).all()):
        raise OptionError(f"centring of {name!r} must lie between 0 (standardised) and 1 (centred), got {value!r}")
    try:
        return Degree(_by_task(scale, shape), _by_task(loc, shape))
    except RuntimeError as error:
        raise OptionError(
            f"centring of {name!r} has shape {tuple(scale.shape)}; wanted a number, one by task ({shape[0]},), or one "
            f"by task and element {shape}"
        ) from error


def _by_task(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    behind = (1,) * (len(shape) - 1) if value.dim() == 1 else ()
    return value.reshape(value.shape + behind).expand(shape)


def _plain(degree: Degree) -> Centring:
    """A degree that is 0 or 1 throughout as that number, which makes the density simpler."""
    for end in (STANDARDISED, CENTRED):
        if bool((degree.scale == end).all() and (degree.loc == end).all()):
            return end
    return degree


def _expanded(centring: Centring, shape: tuple[int, ...]) -> Degree:
    if isinstance(centring, Degree):
        return centring
    both = torch.full(shape, centring, dtype=torch.float64)
    return Degree(both, both)


def _described(centring: Mapping[str, Tensor]) -> str:
    """The degrees in words: ``, alpha partly centred (0.12 to 0.97 by task)``."""
    return "".join(f", {name} {_in_words(degree)}" for name, degree in centring.items())


def _in_words(degree: Tensor) -> str:
    least, most = float(degree.min()), float(degree.max())
    if least == most and least in (STANDARDISED, CENTRED):
        return "centred" if least == CENTRED else "standardised (non-centred)"
    return f"partly centred (degree {least:.2f} to {most:.2f}, median {float(degree.median()):.2f})"
