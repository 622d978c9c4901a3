"""MAML on a hierarchy: a point φ, found by the query loss after a few steps on the support of each task.

The top of p(θ | φ) is the initialisation, the inner loss the task's own negative log likelihood. So φ comes out where
gradient steps from it do well, which for few steps and few rows is not where p(φ | D) has its mode. How wide p(θ | φ)
is such steps do not say, and a noise they mistake for the error that they leave: coordinates of φ that the objective
does not depend on, and scales that are no part of the initialisation, are set in a second step, where the evidence of
all tasks, exact or by Laplace's approximation, is largest given the rest. With them θ has a prior, and whatever is
asked of a posterior has an answer: adapting, predictions that are as wide as they should be, the evidence of a task
(Grant, Finn, Levine, Darrell and Griffiths 2018, who put the Laplace approximation into MAML).

`bayesmeta.fit(hierarchy, tasks, MAML(...))` comes here; its posterior has one φ, the same in all draws.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

from bayesmeta.draws import Draws
from bayesmeta.errors import BayesmetaWarning, HierarchyError, OptionError
from bayesmeta.evidence import Collapsed, Own, choice, collapse
from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.hierarchy.rest import rest_of
from bayesmeta.meta.hierarchy.train import Training, curves
from bayesmeta.meta.maml import MAML
from bayesmeta.meta.reptile import Reptile
from bayesmeta.program import Program
from bayesmeta.sites import quiet_pyro
from bayesmeta.streams import Stream
from bayesmeta.target import Target
from bayesmeta.tasks import Tasks
from bayesmeta.threads import one_thread

__all__ = ["integrated", "run"]

DRAWS = 1000
MOST_THETA = 100

NO_SENSE = {
    "ANIL": "of a hierarchy only θ adapts, and φ stays: MAML(...) has almost no inner loop already",
    "BOIL": "of a hierarchy only θ adapts, and φ stays: which is which is written in the task; use MAML(...)",
    "CAVIA": "θ is the context that a task adapts: use MAML(...)",
    "IMAML": "its bowl about the initialisation is a prior of θ, and a hierarchy has one: use inference='svi-map'",
    "LLAMA": "what it climbs is Laplace's approximation of the evidence: use SVI(guide='map', evidence='laplace')",
}
NETWORK = "it needs a network, bm.fit(net, tasks, ...): hierarchies take MAML(...) and Reptile(...), or 'auto'"

OF_NETWORKS: dict[str, tuple[object, str]] = {
    "loss": ("mse", "its likelihood is the loss"),
    "by_class": (False, "support is drawn from all rows alike"),
    "adapt_steps": (None, "steps on new tasks are those of posterior.adapt(tasks, method='gradient')"),
    "recompute": (False, "θ is small, and the steps to it cost no memory"),
    "chunk": (None, "a batch goes through one call: a smaller batch_size takes less memory"),
}
"""Settings that hierarchies have no use for: their defaults, and why."""


def integrated(program: Program, tasks: Tasks, config: Any) -> Collapsed:
    """The evidence of these tasks: a family's own, exact, by quadrature, else by Laplace's approximation.

    Raises:
        OptionError: The algorithm, or a setting of it, makes no sense on a hierarchy.
        HierarchyError: There is no θ to adapt, or it cannot be integrated out; tasks cannot be taken apart into
            support and query, or not go through one call together.
    """
    _check_algorithm(config)
    structure, p = program.structure, program.structure.theta.size
    if not p:
        raise HierarchyError("this task samples no θ: there is nothing that gradient steps could adapt")
    if not structure.maskable:
        raise HierarchyError(
            "the observations of a task are one joint distribution here, which cannot be taken apart into support and "
            "query: use inference='auto'"
        )
    if not structure.vectorised:
        raise HierarchyError("the task looks at values, so that no gradient goes through its steps: use torch.where")
    if program.closed_form is not None:
        return Own(program, tasks)
    found = collapse(program, tasks) or choice.find_quadrature(program, tasks)
    if found is None and p > MOST_THETA:
        raise HierarchyError(
            f"θ has {p:,} coordinates, {MOST_THETA} at most can be integrated out by Laplace's approximation: "
            "meta-learn the network itself, bm.fit(net, tasks, MAML(...)), or use SVI(guide='map', evidence='joint')"
        )
    return found or choice.laplace(program, tasks)


def _check_algorithm(config: Algorithm) -> None:
    name = type(config).__name__
    if type(config) not in (MAML, Reptile):
        raise OptionError(f"{name} makes no sense on a hierarchy: {NO_SENSE.get(name, NETWORK)}")
    for setting, (plain, reason) in OF_NETWORKS.items():
        if getattr(config, setting, plain) != plain:
            raise OptionError(f"{setting}={getattr(config, setting)!r} is of networks; of a hierarchy {reason}")


def run(
    target: Target, config: Algorithm, *, seed: int = 0, progress: bool = True, stream: Stream | None = None
) -> Draws:
    """Learn a point φ of a target's hierarchy from its tasks, or from a stream that these are the first batch of.

    Returns:
        Draws (1, 1000, q), all alike. `curves` has ``loss`` by step, the query loss after adaptation in nats per row
        less the share of log p(φ), and ``validation`` at the steps ``looks``.

    Raises:
        OptionError: A share of a stream to watch.
        BayesmetaError: No point of finite objective, or of finite evidence, was found.
        FileFormatError: The checkpoint is of another run.
    """
    begin = time.perf_counter()
    if stream is not None and config.validation:
        raise OptionError(
            f"validation is {config.validation:g}, a share of tasks that are held; a stream has none: give it some, "
            "Stream(..., validation=tasks)"
        )
    with one_thread(), quiet_pyro():
        training = Training(target, config, stream, seed)
        state, history, mode = training.run(progress)
        rest = rest_of(target, state.u[0], training.free, training.drawn)
    if history.interrupted:
        what = f"training was interrupted after {state.step:,} of {config.steps:,} steps"
        warnings.warn(f"{what}: φ is as it was then", BayesmetaWarning, stacklevel=4)
    return Draws(
        rest.u.expand(1, DRAWS, -1).contiguous(),
        interrupted=history.interrupted,
        seconds=time.perf_counter() - begin,
        curves=curves(history),
        log=(
            *training.sentences(state, history),
            *([f"no part of the initialisation: {rest.said}"] if rest.said else []),
        ),
        evaluations=state.step,
        density=mode,
        point=_point(rest.said),
    )


def _point(said: str) -> str:
    kept = f" (besides {said})" if said else ""
    return f"φ is a single point, from which gradient steps do well{kept}: its uncertainty is left out"
