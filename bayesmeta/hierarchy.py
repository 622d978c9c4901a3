"""A hierarchy: what all tasks share, and how one task arises from it.

    φ ~ hyperprior                 shared hyperparameters
    θ_t | φ ~ task                 task-level parameters of task t
    y_t | x_t, θ_t, φ ~ task       the observations of task t

The user writes two plain Pyro functions, `hyperprior()` and `task(phi, x, y=None, **context)`, the second for
one task without batch dimensions. What is φ, what is θ and what is observed is found by running them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to

from bayesmeta.errors import BayesmetaError, BayesmetaWarning, HierarchyError
from bayesmeta.program import Program, Row, Structure
from bayesmeta.sites import Meeting, Site, Sites, Values, elementwise_log_prob, quiet_pyro
from bayesmeta.tasks import Padded, Task, Tasks

__all__ = ["Hierarchy", "discover"]


class Hierarchy:
    """A hyperprior and a task, both plain Pyro functions.

    Args:
        hyperprior: ``hyperprior()`` samples φ and returns it, in any nesting of tuples, dicts and tensors.
        task: ``task(phi, x, y=None, **context)`` samples θ and observes ``y`` for one task: x (n, d), y (n,).
            Context columns of the `Tasks` arrive by keyword.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def hyperprior():
        ...     return pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfNormal(1.0))
        >>> def task(phi, x, y=None):
        ...     mu, tau = phi
        ...     theta = pyro.sample("theta", dist.Normal(mu, tau))
        ...     return pyro.sample("y", dist.Normal(theta, 1.0).expand([len(x)]).to_event(1), obs=y)
        >>> print(Hierarchy(hyperprior, task))
        Hierarchy(hyperprior, task)
          phi  mu   Normal      real      scalar
          phi  tau  HalfNormal  positive  scalar
          theta  found when the hierarchy first meets tasks
    """

    def __init__(self, hyperprior: Callable[[], Any], task: Callable[..., Any]) -> None:
        for name, function in (("hyperprior", hyperprior), ("task", task)):
            if not callable(function):
                raise HierarchyError(f"{name} must be a function, got {type(function).__name__}")
        self.hyperprior = hyperprior
        self.task = task
        self._seen: Structure | None = None

    def program(self, tasks: Tasks) -> Program:
        """The hierarchy as pure functions, its sites found by running it on these tasks."""
        self._seen = discover(self.hyperprior, self.task, tasks)
        return Program(self.hyperprior, self.task, self._seen)

    def joint(self, tasks: Tasks) -> Callable[[], dict[str, Tensor]]:
        """The same model as an ordinary Pyro model with a plate named ``task``.

        θ sites have the task axis in front, (T, ...); the observed site is padded to the longest task and
        masked. Pyro's own `NUTS`, `SVI` and `Predictive` run on it.
        """
        from bayesmeta.pyro_model import joint_model

        return joint_model(self.program(tasks), tasks)

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """(level, site, distribution, support, shape) of every site known so far."""
        seen = self._seen
        if seen is None:
            with quiet_pyro(), torch.random.fork_rng(devices=[]):
                seen = Structure(Sites(tuple(_phi_sites(self.hyperprior)[0])), Sites(()), ())
        levels = [("phi", site) for site in seen.phi] + [("theta", site) for site in seen.theta]
        table = [(level, s.name, s.family, s.describe_support(), _shape(s.shape)) for level, s in levels]
        return table + [("observed", name, "", "", "") for name in seen.observed]

    def __repr__(self) -> str:
        head = f"Hierarchy({_name(self.hyperprior)}, {_name(self.task)})"
        rows = self.rows()
        widths = [max(len(row[k]) for row in rows) for k in range(5)]
        lines = ["  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([head, *(line.rstrip() for line in lines), *self._unseen()])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in ("level", "site", "distribution", "support", "shape"))
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows())
        note = "".join(f"<p>{escape(line.strip())}</p>" for line in self._unseen())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"

    def _unseen(self) -> list[str]:
        return [] if self._seen else ["  theta  found when the hierarchy first meets tasks"]


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(str(k) for k in shape) if shape else "scalar"


# ---------------------------------------------------------------------------------------------------------
# Finding the sites


def discover(hyperprior: Callable[[], Any], task: Callable[..., Any], tasks: Tasks) -> Structure:
    """Run a hierarchy on some of the tasks and find out what it is made of.

    Raises:
        HierarchyError: A discrete φ or θ, a θ named like a φ, no θ, no observed site, a θ whose shape differs
            between tasks, an observed site whose shape is not that of y, or an error inside the functions.
    """
    with quiet_pyro(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        phi_sites, returned = _phi_sites(hyperprior)
        probes = _probes(tasks)
        vector = _columns_as_vector(task, returned, probes)
        theta, observed = _theta_sites(task, returned, probes, vector)
        _check_names(phi_sites, theta, observed)
        structure = Structure(Sites(tuple(phi_sites)), Sites(tuple(theta)), observed, vector)
        maskable = all(_maskable(Program(hyperprior, task, structure), returned, probe) for probe in probes)
        structure = replace(structure, maskable=maskable)
        vectorised = _vectorisable(Program(hyperprior, task, structure), tasks)
    return replace(structure, vectorised=vectorised)


def _probes(tasks: Tasks) -> list[Task]:
    """A few tasks of different sizes: the smallest and largest that have observations, and some between."""
    sizes = tasks.sizes
    order = torch.argsort(sizes, stable=True)
    order = order[sizes[order] > 0] if bool((sizes > 0).any()) else order
    pick = torch.linspace(0, len(order) - 1, min(len(order), 6)).round().long().unique()
    return [tasks[int(i)] for i in order[pick]]


def _feasible(name: str, fn: Any) -> Tensor:
    """Any value in the support of a site; clear errors for what cannot be mapped to the real line."""
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
    shape = transform.inverse_shape(torch.Size(fn.shape()))
    value: Tensor = transform(torch.empty(shape).uniform_(-1.0, 1.0))
    return value


def _site(meeting: Meeting) -> Site:
    shape = torch.Size(meeting.value.shape)
    transform = biject_to(meeting.fn.support)
    base = meeting.fn
    while type(base).__name__ in ("Independent", "ExpandedDistribution"):
        base = base.base_dist
    batch = len(meeting.fn.batch_shape)
    plates = {batch + dim: name for name, dim in meeting.plates}
    return Site(
        meeting.name,
        type(base).__name__,
        tuple(shape),
        meeting.fn.support,
        tuple(transform.inverse_shape(shape)),
        tuple(plates.get(axis) for axis in range(len(shape))),
    )


def _phi_sites(hyperprior: Callable[[], Any]) -> tuple[list[Site], Any]:
    handler = Values(fallback=_feasible)
    try:
        with handler:
            returned = hyperprior()
    except BayesmetaError:
        raise
    except Exception as error:
        raise HierarchyError(f"hyperprior raised {type(error).__name__}: {error}") from error
    sites = [_site(meeting) for meeting in handler.met.values() if not meeting.observed]
    if not sites:
        raise HierarchyError("hyperprior samples nothing: write φ with pyro.sample, and return it")
    if returned is None:
        raise HierarchyError("hyperprior returns None: return the values of φ that the task needs")
    return sites, returned


def _run(task: Callable[..., Any], phi: Any, probe: Task, vector: bool) -> dict[str, Meeting]:
    x = probe.x.squeeze(-1) if vector else probe.x
    handler = Values(fallback=_feasible)
    try:
        with handler:
            task(phi, x, probe.y, **probe.context)
    except BayesmetaError:
        raise
    except Exception as error:
        context = "".join(f", {key}={tuple(value.shape)}" for key, value in probe.context.items())
        raise HierarchyError(
            f"task raised {type(error).__name__} on task {probe.name!r} "
            f"(x {tuple(x.shape)}, y {tuple(probe.y.shape)}{context}): {error}"
        ) from error
    return handler.met


def _columns_as_vector(task: Callable[..., Any], phi: Any, probes: Sequence[Task]) -> bool:
    """Whether a single input column must come as (n,) for the observed site to take the shape of y.

    ``theta + beta * x`` means a vector, ``x @ w`` or ``x[:, 0]`` a matrix; both are natural for one column.
    """
    probe = probes[-1]
    if probe.x.dim() != 2 or probe.x.shape[1] != 1 or probe.n == 0:
        return False
    return _mismatch(task, phi, probe, False) is not None and _mismatch(task, phi, probe, True) is None


def _mismatch(task: Callable[..., Any], phi: Any, probe: Task, vector: bool) -> HierarchyError | None:
    try:
        _observed(_run(task, phi, probe, vector), probe)
    except HierarchyError as error:
        return error
    return None


def _observed(met: dict[str, Meeting], probe: Task) -> tuple[str, ...]:
    names = tuple(name for name, meeting in met.items() if meeting.observed)
    if not names:
        raise HierarchyError(
            'the task has no observed site: give one pyro.sample the observations, e.g. pyro.sample("y", ..., obs=y)'
        )
    for name in names:
        meeting = met[name]
        if type(meeting.fn).__name__ == "Unit":
            continue
        want, got = tuple(meeting.value.shape), tuple(meeting.fn.shape())
        if want != got:
            raise HierarchyError(
                f"observed site {name!r} has shape {got}, but its observations have shape {want} "
                f"(task {probe.name!r}): write .expand([len(x)]).to_event(1), a plate over the observations, "
                "or pick the column of x that is meant"
            )
    return names


def _theta_sites(
    task: Callable[..., Any], phi: Any, probes: Sequence[Task], vector: bool
) -> tuple[list[Site], tuple[str, ...]]:
    first: list[Site] = []
    observed: tuple[str, ...] = ()
    for probe in probes:
        met = _run(task, phi, probe, vector)
        names = _observed(met, probe)
        sites = [_site(meeting) for meeting in met.values() if not meeting.observed]
        if not sites:
            raise HierarchyError("the task has no θ: sample at least one latent site inside it")
        if not first:
            first, observed = sites, names
        _check_same(first, sites, probes[0], probe)
        if set(names) != set(observed):
            raise HierarchyError(
                f"task {probe.name!r} observes {sorted(names)}, task {probes[0].name!r} {sorted(observed)}: "
                "all tasks must have the same sites"
            )
    return first, observed


def _check_same(first: Sequence[Site], sites: Sequence[Site], one: Task, other: Task) -> None:
    a, b = {s.name: s.shape for s in first}, {s.name: s.shape for s in sites}
    if a != b:
        raise HierarchyError(
            f"θ must be the same in every task; in task {one.name!r} it is {a}, in task {other.name!r} {b}. "
            "A latent value per observation is not a θ: integrate it out, or use a distribution that does"
        )


def _check_names(phi: Sequence[Site], theta: Sequence[Site], observed: Sequence[str]) -> None:
    for what, names in (("θ", {s.name for s in theta}), ("observed sites", set(observed))):
        both = sorted({s.name for s in phi} & names)
        if both:
            raise HierarchyError(f"{what} and φ share the name(s) {both}: rename the sites of the task")
    taken = sorted({s.name for s in (*phi, *theta)} & {"chain", "draw", "task"})
    if taken:
        raise HierarchyError(f"a site is named {taken[0]!r}, as an axis of every result is: rename the site")


# ---------------------------------------------------------------------------------------------------------
# Padding and batching


def _row(probe: Task) -> Row:
    return Row(probe.x, probe.y, torch.ones(probe.n, dtype=torch.bool), dict(probe.context))


def _maskable(program: Program, phi: Any, probe: Task) -> bool:
    """Whether repeated rows can be masked out: the padded task has the density of the task itself."""
    if probe.n == 0:
        return True
    row, v = _row(probe), torch.linspace(-1.0, 1.0, program.structure.theta.size)
    met = program.meet(phi, v, row)
    for name in program.structure.observed:
        terms = elementwise_log_prob(met[name].fn, met[name].value)
        if terms.dim() == 0 or terms.shape[0] != probe.n:
            return False
    again = torch.cat([torch.arange(probe.n), torch.zeros(3, dtype=torch.long)])
    padded = Row(row.x[again], row.y[again], torch.arange(probe.n + 3) < probe.n, row.context)
    one, two = program.terms(phi, v, row), program.terms(phi, v, padded)
    return all(torch.allclose(a, b, rtol=1e-10, atol=1e-10) for a, b in zip(one, two, strict=True))


def _vectorisable(program: Program, tasks: Tasks) -> bool:
    """Whether hyperprior and task run under vmap, over tasks and draws; if not, loops take its place, said once."""
    batch = tasks.padded(exact_sizes=not program.structure.maskable)[0]
    row = Row.of(_first(batch, 2))
    u = torch.linspace(-0.5, 0.5, program.structure.phi.size).expand(2, -1)
    v = torch.linspace(-1.0, 1.0, program.structure.theta.size).expand(len(row.mask), -1)

    def over_tasks(u: Tensor) -> Tensor:
        phi = program.phi(u).returned
        terms: Tensor = torch.func.vmap(lambda v, row: program.log_joint(phi, v, row))(v, row)
        return terms

    try:
        torch.func.vmap(over_tasks)(u)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        warnings.warn(
            "the hierarchy cannot be vectorised: its functions are run one task at a time, uncompiled and much slower "
            f"(usually because they branch on values; use torch.where): {reason}",
            BayesmetaWarning,
            stacklevel=2,
        )
        return False
    return True


def _first(batch: Padded, k: int) -> Padded:
    return Padded(
        batch.index[:k],
        batch.x[:k],
        batch.y[:k],
        batch.mask[:k],
        {name: value[:k] for name, value in batch.context.items()},
    )
