"""A hierarchy: what all tasks share, and how one task arises from it.

    φ ~ hyperprior                 shared hyperparameters
    θ_t | φ ~ task                 task-level parameters of task t
    y_t | x_t, θ_t, φ ~ task       the observations of task t

The user writes two plain Pyro functions, `hyperprior()` and `task(phi, x, y=None, **context)`, the second for
one task without batch dimensions. What is φ, what is θ and what is observed is found by running them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to

from bayesmeta.closed_form import ClosedForm
from bayesmeta.errors import BayesmetaError, HierarchyError
from bayesmeta.outcomes import bounded, require_possible
from bayesmeta.plated import Plated
from bayesmeta.plates import feasible, is_factor
from bayesmeta.program import Program, Row, Structure
from bayesmeta.sites import Meeting, Site, Sites, Values, coordinates_shape, quiet_pyro
from bayesmeta.tasks import Task, Tasks
from bayesmeta.vectorising import maskable, vectorisable

__all__ = ["Hierarchy", "discover"]


class Hierarchy:
    """A hyperprior and a task, both plain Pyro functions.

    Args:
        hyperprior: ``hyperprior()`` samples φ and returns it, in any nesting of tuples, dicts and tensors.
        task: ``task(phi, x, y=None, **context)`` samples θ and observes ``y`` for one task: x (n, d), y (n,).
            Context columns of the `Tasks` arrive by keyword. Where observations depend on each other given θ, as
            those of a Gaussian process do, it may take ``support=None``, too: in a prediction that is what was
            observed of the task, with `x`, `y` and `mask` (k,), which says which rows are real, and y is to be
            sampled given it.
        evidence: Formulas for log Z_t(φ) and θ | φ, D_t that the family knows; by default the library finds its
            own. With them the task may do without θ.

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

    def __init__(
        self, hyperprior: Callable[[], Any], task: Callable[..., Any], *, evidence: ClosedForm | None = None
    ) -> None:
        for name, function in (("hyperprior", hyperprior), ("task", task)):
            if not callable(function):
                raise HierarchyError(f"{name} must be a function, got {type(function).__name__}")
        if not isinstance(evidence, ClosedForm | None):
            raise HierarchyError(
                f"evidence must be a ClosedForm, got {type(evidence).__name__}; how an ordinary hierarchy's is had is "
                "a setting of the back-end: NUTS(evidence=...)"
            )
        self.hyperprior = hyperprior
        self.task = task
        self.closed_form = evidence
        self._plated: Plated | None = None
        self._seen: Structure | None = None

    @staticmethod
    def from_plated(model: Callable[..., Any], plate: str, *, arguments: Mapping[str, Any] | None = None) -> Hierarchy:
        """The hierarchy of an ordinary Pyro model with a plate over tasks.

        θ is what the model samples inside the plate, φ what it samples outside. The likelihood may stand in the
        plate or outside (``theta[index]``), in a plate of its own or in none. The model may have its tasks in
        any number: each is looked at alone, and what the tasks add up to is checked against the model on
        several of them when the hierarchy first meets tasks.

        Args:
            model: The model. It is called with data of one task or of several, never with its own data.
            plate: The name of the plate over tasks.
            arguments: What arguments of the model take, where their names do not tell: the name of an input
                column, of y or of a context, ``"x"``, ``"x[0]"``, ``"y"``, ``"task index"`` (N,),
                ``"number of tasks"``, ``"number of observations"``, or a constant; with a dtype beside it,
                ``("floor", torch.long)``, it is cast. A context reaches the model as (T,).

        Raises:
            HierarchyError: The model is no function. What else may be wrong is found by `program`.

        Example:
            >>> import pyro, pyro.distributions as dist
            >>> from bayesmeta import Tasks
            >>> def radon(county, floor, log_radon=None):
            ...     mu, tau = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfNormal(1.0))
            ...     with pyro.plate("county", len(county.unique())):
            ...         alpha = pyro.sample("alpha", dist.Normal(mu, tau))
            ...     with pyro.plate("house", len(county)):
            ...         pyro.sample("y", dist.Normal(alpha[county] - 0.7 * floor, 1.0), obs=log_radon)
            >>> hierarchy = Hierarchy.from_plated(radon, "county")
            >>> program = hierarchy.program(Tasks.from_lists([[0.0, 1.0], [1.0]], [[1.2, 0.3], [0.9]]))
            >>> print(hierarchy)
            Hierarchy.from_plated(radon, plate='county')
              phi       mu     Normal      real      scalar
              phi       tau    HalfNormal  positive  scalar
              theta     alpha  Normal      real      scalar
              observed  y
        """
        plated = Plated(model, plate, arguments)
        hierarchy = Hierarchy(plated.hyperprior, plated.task)
        hierarchy._plated = plated
        return hierarchy

    def program(self, tasks: Tasks) -> Program:
        """The hierarchy as pure functions, its sites found by running it on these tasks."""
        if self._plated is not None:
            self.hyperprior, self.task = self._plated.functions(tasks)
        self._seen = discover(self.hyperprior, self.task, tasks, without_theta=self.closed_form is not None)
        return Program(self.hyperprior, self.task, self._seen, closed_form=self.closed_form)

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
        if seen is None and self._plated is not None:
            return []
        if seen is None:
            with quiet_pyro(), torch.random.fork_rng(devices=[]):
                seen = Structure(Sites(tuple(_phi_sites(self.hyperprior)[0])), Sites(()), ())
        levels = [("phi", site) for site in seen.phi] + [("theta", site) for site in seen.theta]
        table = [(level, s.name, s.family, s.describe_support(), _shape(s.shape)) for level, s in levels]
        return table + [("observed", name, "", "", "") for name in seen.observed]

    def __repr__(self) -> str:
        plated = self._plated
        head = f"Hierarchy({_name(self.hyperprior)}, {_name(self.task)})" if plated is None else repr(plated)
        rows = self.rows()
        widths = [max((len(row[k]) for row in rows), default=0) for k in range(5)]
        lines = ["  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([head, *(line.rstrip() for line in lines), *self._unseen()])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in ("level", "site", "distribution", "support", "shape"))
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows())
        note = "".join(f"<p>{escape(line.strip())}</p>" for line in self._unseen())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"

    def _unseen(self) -> list[str]:
        what = "theta  found" if self._plated is None else "phi and theta are found"
        return [] if self._seen else [f"  {what} when the hierarchy first meets tasks"]


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(str(k) for k in shape) if shape else "scalar"


# ---------------------------------------------------------------------------------------------------------
# Finding the sites


def discover(
    hyperprior: Callable[[], Any], task: Callable[..., Any], tasks: Tasks, *, without_theta: bool = False
) -> Structure:
    """Run a hierarchy on some of the tasks and find out what it is made of.

    Args:
        hyperprior: The user's p(φ).
        task: The user's p(θ | φ) p(y | x, θ, φ).
        tasks: The tasks.
        without_theta: Whether the task may sample no θ.

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
        if not theta and not without_theta:
            raise HierarchyError("the task has no θ: sample at least one latent site inside it")
        _check_names(phi_sites, theta, observed)
        structure = Structure(Sites(tuple(phi_sites)), Sites(tuple(theta)), observed, vector)
        met = _run(task, returned, probes[0], vector)
        structure = replace(structure, bounded=any(bounded(met[name]) for name in observed))
        require_possible(Program(hyperprior, task, structure), tasks)
        structure = replace(structure, maskable=maskable(Program(hyperprior, task, structure), returned, tasks))
        sees_rows = _prior_sees_rows(Program(hyperprior, task, structure), returned, probes)
        vectorised = vectorisable(Program(hyperprior, task, structure), tasks)
    return replace(structure, vectorised=vectorised, prior_sees_rows=sees_rows)


def _prior_sees_rows(program: Program, returned: Any, probes: Sequence[Task]) -> bool:
    """Whether log p(θ | φ) of a task is another where its first observation is all there is.

    Raises:
        HierarchyError: So is what θ may be: coordinates of θ then mean nothing without the observations.
    """
    v = torch.linspace(-1.0, 0.5, program.structure.theta.size)
    for probe in probes:
        if probe.n < 2:
            continue
        every = Row(probe.x, probe.y, torch.ones(probe.n, dtype=torch.bool), dict(probe.context))
        first = every._replace(x=probe.x[:1], y=probe.y[:1], mask=every.mask[:1])
        try:
            met = [program.meet(returned, v, row) for row in (every, first)]
        except BayesmetaError:
            raise
        except Exception:  # of a task that has no sense with one observation, whose prior then is not looked at
            return True
        for name in program.structure.theta.names:
            whole, alone = (one[name] for one in met)
            if not torch.allclose(whole.value, alone.value):
                raise HierarchyError(
                    f"what θ site {name!r} may be depends on the observations of a task (with all {probe.n} of task "
                    f"{probe.name!r} its coordinates mean another value than with the first alone): pass what its "
                    "distribution needs of them, such as the range of x, as a context of the tasks"
                )
            if not torch.allclose(whole.log_prob(), alone.log_prob()):
                return True
    return False


def _probes(tasks: Tasks) -> list[Task]:
    """A few tasks of different sizes: the smallest and largest that have observations, and some between."""
    sizes = tasks.sizes
    order = torch.argsort(sizes, stable=True)
    order = order[sizes[order] > 0] if bool((sizes > 0).any()) else order
    pick = torch.linspace(0, len(order) - 1, min(len(order), 6)).round().long().unique()
    return [tasks[int(i)] for i in order[pick]]


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
        tuple(coordinates_shape(transform, shape)),
        tuple(plates.get(axis) for axis in range(len(shape))),
    )


def _phi_sites(hyperprior: Callable[[], Any]) -> tuple[list[Site], Any]:
    handler = Values(fallback=feasible)
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
    handler = Values(fallback=feasible)
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
    seen = [name for name, meeting in met.items() if meeting.observed]
    names = tuple(sorted(seen, key=lambda name: is_factor(met[name].fn)))  # the first is what is predicted
    if not names:
        raise HierarchyError(
            'the task has no observed site: give one pyro.sample the observations, e.g. pyro.sample("y", ..., obs=y)'
        )
    for name in names:
        meeting = met[name]
        if is_factor(meeting.fn):
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
        if not observed:
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
