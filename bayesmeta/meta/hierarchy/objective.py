"""The meta-objective of a hierarchy: a point φ whose θ does well on a task's query after a few steps on its support.

    v(φ)   the top of p(θ | φ), in θ's unconstrained coordinates
    v_k+1 = v_k - α ∇ L_support(v_k; φ),        L = -log p(y | x, θ, φ), the mean over rows
    min over φ of  E_t [ L_query(v_K; φ) ] - log p(φ) / (N n),        n the rows of a query

φ has more in it than the initialisation: what the likelihood takes from it (a noise, a slope that tasks share) is
learnt along with it, and differentiated as it stands in both losses. What the steps do not depend on, such as how wide
p(θ | φ) is, the objective does not see.

Finn, Abbeel and Levine (2017), Model-agnostic meta-learning, ICML; Grant, Finn, Levine, Darrell and Griffiths (2018),
Recasting gradient-based meta-learning as hierarchical Bayes, ICLR. Reptile: Nichol, Achiam and Schulman (2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.hierarchy.beginning import Beginning
from bayesmeta.meta.hierarchy.feed import Shuffled
from bayesmeta.meta.reptile import Reptile
from bayesmeta.meta.training.inner import descend
from bayesmeta.program import Program, Row
from bayesmeta.recordings import Recordings
from bayesmeta.sites import quiet_pyro

__all__ = ["Climb", "Objective"]

RECORDED_FROM = 200  # steps; a recording takes as long as a hundred of them
THETA = "theta"


class Objective:
    """The meta-objective of coordinates of φ (q,), on some tasks.

    Args:
        program: The hierarchy's functions.
        begin: What gives the initialisation.
        algorithm: `MAML` or `Reptile`, with its settings.
        total: N, the number of tasks whose query rows log p(φ) is weighed against; infinity leaves it out.
    """

    def __init__(self, program: Program, begin: Beginning, algorithm: Algorithm, total: float) -> None:
        self._program = program.with_centring(True)
        self._begin, self._algorithm, self._total = begin, algorithm, total
        self._first_order = bool(getattr(algorithm, "first_order", False))

    def without_prior(self) -> Objective:
        """The same without log p(φ)."""
        return Objective(self._program, self._begin, self._algorithm, math.inf)

    def value_and_grad(self, u: Tensor, episode: Shuffled) -> tuple[Tensor, Tensor]:
        """The query loss after adaptation less the share of log p(φ), and the direction (q,) that training goes down.

        For Reptile the direction is v - v_K through dv/dφ, averaged over tasks.
        """
        if isinstance(self._algorithm, Reptile):
            grad, value = torch.func.grad(self._distance, has_aux=True)(u, episode)
        else:
            grad, value = torch.func.grad_and_value(self.value)(u, episode)
        return value, grad

    def value(self, u: Tensor, episode: Shuffled) -> Tensor:
        """The mean over tasks of the query loss after adaptation, less the share of log p(φ), in nats per row, ()."""
        phi = self._program.phi(u)
        each = self._risks(phi.returned, self._begin(phi, episode.rows), episode)
        return each.mean() - self._share(episode) * phi.log_prior

    def beginning(self, u: Tensor, episode: Shuffled) -> Tensor:
        """The initialisation of each task (B, p)."""
        return self._begin(self._program.phi(u), episode.rows)

    def _share(self, episode: Shuffled) -> Tensor:
        """1 / (N n): what log p(φ) counts beside a loss in nats per row, ()."""
        rows = episode.query().mask.sum(1).clamp(min=1).to(torch.float64).mean()
        return 1 / (self._total * rows)

    def _risks(self, returned: Any, begin: Tensor, episode: Shuffled) -> Tensor:
        def one(v: Tensor, support: Row, query: Row) -> Tensor:
            return self._loss(returned, self._adapted(returned, v, support), query)

        rows = episode.support(self._algorithm.shots), episode.query()
        risks: Tensor = self._program.over_tasks(one)(begin, *rows)
        return risks

    def _distance(self, u: Tensor, episode: Shuffled) -> tuple[Tensor, Tensor]:
        """Half the squared distance from the initialisation to where all rows of a task take it, and the value."""
        phi = self._program.phi(u)
        begin = self._begin(phi, episode.rows)
        held = begin.detach()

        def one(v: Tensor, rows: Row) -> Tensor:
            return self._adapted(phi.returned, v, rows)

        ends = self._program.over_tasks(one)(held, episode.rows).detach()
        value = self._risks(phi.returned, held, episode).mean() - self._share(episode) * phi.log_prior
        return 0.5 * (begin - ends).square().sum(1).mean(), value

    def _adapted(self, returned: Any, v: Tensor, rows: Row) -> Tensor:
        """Where gradient steps on the rows of one task take θ (p,)."""
        algorithm = self._algorithm
        steps = descend(
            lambda weights: self._loss(returned, weights[THETA], rows),
            {THETA: v},
            float(algorithm.inner_learning_rate),
            algorithm.inner_steps,
            first_order=self._first_order,
        )
        return steps[THETA]

    def _loss(self, returned: Any, v: Tensor, rows: Row) -> Tensor:
        """-log p(y | x, θ, φ) of one task, the mean over its real rows, in nats."""
        return -self._program.terms(returned, v, rows)[1] / rows.mask.sum().clamp(min=1)


class Climb:
    """Minus the objective as training climbs it: recorded once for tasks of the same shapes, compiled if wanted.

    Args:
        objective: The objective.
        algorithm: Says how many steps there will be, and whether to compile one.
        seen: Which coordinates move (q,).
    """

    def __init__(self, objective: Objective, algorithm: Algorithm, seen: Tensor) -> None:
        self._objective, self._seen = objective, seen
        wanted = algorithm.compile or algorithm.steps >= RECORDED_FROM
        self._recordings = Recordings(wanted=wanted, compile=algorithm.compile)

    @property
    def mode(self) -> str:
        """What evaluates it: ``"compiled"``, ``"traced"`` or ``"eager"``."""
        return self._recordings.mode

    def __call__(self, u: Tensor, part: Shuffled) -> tuple[Tensor, Tensor]:
        """Its value (1,) and gradient (1, q) at u (1, q)."""
        leaves, spec = pytree.tree_flatten(part)
        with quiet_pyro():
            key = (spec, *(leaf.shape for leaf in leaves))
            graph = self._recordings.find(key, self._on_leaves(spec), (u[0], *leaves))
            value, grad = self._objective.value_and_grad(u[0], part) if graph is None else graph(u[0], *leaves)
        climbing = torch.where(self._seen, -grad.detach(), 0.0)
        return -value.detach().unsqueeze(0), climbing.unsqueeze(0)

    def _on_leaves(self, spec: Any) -> Callable[..., tuple[Tensor, Tensor]]:
        """The objective and its gradient by tensors alone."""
        return lambda u, *leaves: self._objective.value_and_grad(u, pytree.tree_unflatten(list(leaves), spec))
