"""The formula of a hierarchy, read off the functions themselves: each site with its distribution and what that needs.

The functions are run on a few tasks at a draw of φ whose values, with θ, inputs and contexts, carry derivatives. A
parameter of a distribution that has none of them is a constant, one that equals a site's value is that site, and of
any other the derivatives say what it depends on: `Normal(loc(mu, gamma, log_uranium), sigma)`. What a value only
chooses (an index, a branch) leaves no derivative and is not seen.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from pyro.poutine import block
from torch import Tensor

from bayesmeta.centring import base_of
from bayesmeta.drawing import draw
from bayesmeta.plates import is_factor
from bayesmeta.plot.style import input_label, spread
from bayesmeta.program import Program
from bayesmeta.sites import Meeting, Site, Values, quiet_pyro
from bayesmeta.tasks import Task, Tasks

if TYPE_CHECKING:
    from bayesmeta.posterior import Posterior

__all__ = ["Line", "formula"]

DERIVED = ("covariance_matrix", "precision_matrix")  # a multivariate normal has them beside its scale_tril
MOST_NUMBERS = 4
PROBES = 5


@dataclass(frozen=True)
class Line:
    """One site.

    Attributes:
        level: ``"phi"``, ``"theta"`` or ``"observed"``.
        name: The name of the site.
        distribution: Its distribution with its parameters.
        support: Where its values lie, in a word; empty for observations.
        shape: ``"scalar"``, or its sizes, with the names of its plates.
    """

    level: str
    name: str
    distribution: str
    support: str
    shape: str


class _Run(NamedTuple):
    """The functions run on one task: every site they met, and the values that parameters may depend on, by name."""

    met: dict[str, Meeting]
    values: dict[str, Tensor]


def formula(posterior: Posterior) -> list[Line]:
    """Every site of the posterior's hierarchy, φ first, then θ, then what is observed."""
    program = posterior.collapsed.program.with_centring(True)
    try:
        runs = [_run(program, posterior, task) for task in _probes(posterior.tasks)]
    except Exception:  # the user's own functions, run in an unusual way: what is known of the sites must do
        runs = []
    inputs = _inputs(posterior.tasks)
    lines = [_line("phi", site, runs, inputs) for site in program.structure.phi]
    lines += [_line("theta", site, runs, inputs) for site in program.structure.theta]
    for name in program.structure.observed:
        lines.append(Line("observed", name, _distribution(name, runs, inputs), "", ""))
    return lines


def _line(level: str, site: Site, runs: Sequence[_Run], inputs: tuple[str, ...]) -> Line:
    words = _distribution(site.name, runs, inputs) or site.family
    sizes = [f"{size} ({plate})" if plate else str(size) for size, plate in zip(site.shape, site.plates, strict=True)]
    return Line(level, site.name, words, site.describe_support(), " × ".join(sizes) or "scalar")


# --- running the functions --------------------------------------------------------------------------------------


def _probes(tasks: Tasks) -> list[Task]:
    """A few tasks with observations: what one of them does without, another may need."""
    some = torch.nonzero(tasks.sizes > 0).squeeze(-1).tolist()
    return [tasks[some[int(k)]] for k in spread(len(some), PROBES)]


def _run(program: Program, posterior: Posterior, task: Task) -> _Run:
    """Every site of the hyperprior and of one task, at the first draw of φ."""
    values: dict[str, Tensor] = {}

    def known(name: str, value: Tensor) -> Tensor:
        values[name] = value.detach().clone().requires_grad_()
        return values[name]

    with quiet_pyro(), torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        prior = Values({name: known(name, value[0]) for name, value in posterior.phi.items()}, constrained=True)
        with block(), prior:
            returned = program.hyperprior()
        own = Values(fallback=lambda name, fn: known(name, draw(fn)))
        context = {name: known(name, value) for name, value in task.context.items()}
        program.run(own, returned, known("x", task.x), task.y, context)
    return _Run(prior.met | own.met, values)


def _inputs(tasks: Tasks) -> tuple[str, ...]:
    """Names of the columns of x, or of x itself where it has none."""
    return (
        tuple(input_label(tasks, k) for k in range(tasks.x.shape[1])) if tasks.x.dim() == 2 else (input_label(tasks),)
    )


# --- words ------------------------------------------------------------------------------------------------------


def _distribution(name: str, runs: Sequence[_Run], inputs: tuple[str, ...]) -> str:
    """The distribution of a site with its parameters; empty where nothing is known of it."""
    fns = [run.met[name].fn for run in runs if name in run.met]
    if not fns:
        return ""
    if is_factor(fns[0]):
        return "a term of the log density"
    bases = [base_of(fn) for fn in fns]
    columns = [_parameters(base) for base in bases]
    words = [_parameter(one, [column[one] for column in columns], runs, inputs) for one in columns[0]]
    family = type(bases[0]).__name__
    return f"{family}({', '.join(words)})" if words else family


def _parameters(fn: Any) -> dict[str, Tensor]:
    """The parameters that a distribution was made of, in the order in which it takes them."""
    found = {}
    for name in inspect.signature(type(fn).__init__).parameters:
        if name in DERIVED and "scale_tril" in fn.arg_constraints:
            continue
        if name in ("probs", "logits") and name not in vars(fn):
            continue
        value = getattr(fn, name, None) if name in fn.arg_constraints else None
        if isinstance(value, Tensor):
            found[name] = value
    return found


def _parameter(name: str, values: Sequence[Tensor], runs: Sequence[_Run], inputs: tuple[str, ...]) -> str:
    """A parameter, given as it came out in each run."""
    found = dict.fromkeys(one for value, run in zip(values, runs, strict=True) for one in _needed(value, run, inputs))
    order = [*runs[0].met, *runs[0].values, *inputs]  # sites as they are sampled, then contexts and inputs
    needed = sorted(found, key=order.index)
    mark = "logits=" if name == "logits" else ""
    if not needed:
        return mark + _constant(name, values[0])
    if len(needed) == 1 and all(
        _same(value, run.values.get(needed[0])) for value, run in zip(values, runs, strict=True)
    ):
        return mark + needed[0]
    return f"{name}({', '.join(needed)})"


def _needed(value: Tensor, run: _Run, inputs: tuple[str, ...]) -> list[str]:
    """Names of what a parameter depends on; of the inputs, the columns."""
    if not value.requires_grad:
        return []
    weights = torch.linspace(1.0, 2.0, value.numel(), dtype=value.dtype).reshape(value.shape)
    leaves = list(run.values.values())
    slopes = torch.autograd.grad((value * weights).sum(), leaves, retain_graph=True, allow_unused=True)
    found = []
    for name, slope in zip(run.values, slopes, strict=True):
        if slope is None or not bool((slope != 0).any()):
            continue
        if name != "x":
            found.append(name)
        elif slope.dim() != 2:
            found.append(inputs[0])
        else:
            found += [column for k, column in enumerate(inputs) if bool((slope[:, k] != 0).any())]
    return found


def _same(value: Tensor, other: Tensor | None) -> bool:
    """Whether a parameter is that value, perhaps repeated."""
    try:
        return other is not None and torch.equal(value, other.expand(value.shape))
    except RuntimeError:
        return False


def _constant(name: str, value: Tensor) -> str:
    flat = value.detach().reshape(-1)
    if not len(flat):
        return name
    if bool((flat == flat[0]).all()):
        return f"{float(flat[0]):.4g}"
    if value.dim() == 1 and len(flat) <= MOST_NUMBERS:
        return f"({', '.join(f'{float(number):.4g}' for number in flat)})"
    return f"{name}: {'×'.join(map(str, value.shape))} constants"
