"""Linear mixed models reduced once: the evidence from Gram matrices, whatever the number of observations.

Where the observations of task t are Normal with one scale σ_t and a mean that is affine in θ and in the
elements β of φ that enter it,

    y_t ~ Normal(A_t θ + B_t β + c_t, σ_t)

the likelihood depends on the data through D'D alone, D = [A_t, B_t, y_t - c_t], and the evidence is

    log Z_t = h + g'δ̂ - δ̂'Λδ̂ / 2 + (p log 2π - log det P) / 2 - n_t log(2πσ²) / 2 - |r - A_t δ̂|² / 2σ²
    r = y_t - c_t - B_t β - A_t m,     δ̂ = P⁻¹(g + A_t'r / σ²),     P = Λ + A_t'A_t / σ²

with log p(m + δ | φ) = h + g'δ - δ'Λδ / 2. A, B and c are read off the user's function by automatic
differentiation; that the mean is affine, the scale constant, and the result the same as the generic route's,
is checked by evaluating, on every row of every task (`Gram.odd`).

θ is counted from the mean m of its prior, held constant where φ is differentiated. Counted from zero, h and
b'P⁻¹b would be of the size m²/τ² and cancel, which for a small sd τ of θ leaves rounding errors alone: chains
that passed there never came back. And log Z is taken at δ̂, though b'P⁻¹b / 2 - r'r / 2σ² with b = Pδ̂ is the same: for
a small σ these are enormous and cancel, and what rounding leaves of them can be an enormous density that is not
there. At a δ̂ that is off, log Z is too small. What remains is that |r - A_t δ̂|² is a difference of sums of squares of
y - c, and lost where observations are very far from zero beside their noise: those are left to the generic route.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesmeta.evidence import gram_narrow, gram_wide
from bayesmeta.evidence.exact import TOLERANCE, Exact, log_z_of
from bayesmeta.evidence.gaussian import UNROLL
from bayesmeta.evidence.gram_blocks import Algebra, Blocks
from bayesmeta.evidence.gram_prior import read_prior
from bayesmeta.evidence.gram_reduce import log_prior, reduce, rounding
from bayesmeta.evidence.linear import Linear, find_linear, random_phi, some_tasks
from bayesmeta.program import Phi, Program
from bayesmeta.sites import quiet_pyro
from bayesmeta.tasks import Tasks

__all__ = ["Gram"]

# Tasks that turn out odd are looked at closely, so many at a time.
MOST_ODD = 3
# Nats of all tasks together that rounding may take.
ROUNDED = 0.01


NARROW = Algebra(read_prior, gram_narrow.total, gram_narrow.per_task, gram_narrow.conditional, gram_narrow.prior_at)
WIDE = Algebra(gram_wide.read, gram_wide.total, gram_wide.per_task, gram_wide.conditional, gram_wide.prior_at)


class Gram:
    """Evidence and conditional p(θ | φ, D) of linear mixed models from Gram matrices.

    Args:
        program: The hierarchy's functions.
        tasks: The tasks; they are read once, here.
        linear: The structure of the linear mixed model, as `find_linear` found it on a few tasks.

    Attributes:
        odd: The tasks that this structure does not describe; an evidence in use has none.
    """

    data: Any

    road = (
        "exact, from Gram matrices: θ is integrated out in closed form, and each task was reduced once to "
        "the Gram matrix of its linear model"
    )
    gram = True

    def __init__(self, program: Program, tasks: Tasks, linear: Linear) -> None:
        self.program = program
        self.tasks = tasks
        self.linear = linear
        p, m = program.structure.theta.size, len(linear.entering) + 1
        self._algebra = NARROW if p <= UNROLL else WIDE
        with quiet_pyro():
            self.data, fits = reduce(program, tasks, linear)
            if linear.prior != "general":
                fits = fits & self._prior_fits()
        self.odd: list[int] = (~fits).nonzero().squeeze(-1).tolist()
        self.cells = len(tasks) * (p + m if p <= UNROLL else 3 * p * p)

    @classmethod
    def find(cls, program: Program, tasks: Tasks) -> Gram | None:
        """The reduction of these tasks, or None where the model is not a linear mixed model."""
        seen: list[int] = []
        with quiet_pyro():
            linear = find_linear(program, tasks, seen)
            while linear is not None:
                found = cls(program, tasks, linear)
                if found.odd and linear.prior != "general":
                    found = cls(program, tasks, replace(linear, prior="general"))
                if not found.odd:
                    return found if found._agrees() and found._precise() else None
                if set(found.odd[:MOST_ODD]) <= set(seen):
                    return None
                seen += found.odd[:MOST_ODD]
                linear = find_linear(program, tasks, seen)
        return None

    def on(self, tasks: Tasks) -> Gram | Exact:
        """The same reduction of other tasks; the generic route where it does not describe all of them."""
        moved = Gram(self.program, tasks, self.linear)
        return Exact(self.program, tasks) if moved.odd else moved

    def take(self, index: Tensor) -> Any:
        """The data of the tasks at these positions, for `total` and `per_task`; nothing is read again."""
        blocks = Blocks(*self.data)
        ww, n = blocks.ww[..., index], blocks.n[index]
        rows = blocks.rows if self.linear.shared else pytree.tree_map(lambda leaf: leaf[index], blocks.rows)
        return Blocks(blocks.aa[..., index], blocks.aw[..., index], ww, n, ww.sum(-1), n.sum(), rows)

    def total(self, phi: Phi, data: Any) -> Tensor:
        """Σ_t log Z_t(φ), with its first derivative in φ by Fisher's identity.

        ∇ log Z = E[∇ log p(y, θ | φ)] under p(θ | φ, D): the expectation needs only the moments of θ, which are
        held constant, so that the derivative never passes through a Cholesky factor and what runs over tasks
        is evaluated once, forwards. Second derivatives in φ are not those of log Z.
        """
        return self._algebra.total(*self._at(phi, data), self.linear.shared)

    def per_task(self, phi: Phi, data: Any) -> Tensor:
        """log Z_t(φ) in nats, (T,)."""
        return self._algebra.per_task(*self._at(phi, data))

    def conditional(self, phi: Phi, data: Any) -> tuple[Tensor, Tensor]:
        """p(θ_t | φ, D_t) as precision P (T, p, p) and P·mean (T, p)."""
        return self._algebra.conditional(*self._at(phi, data))

    def _at(self, phi: Phi, data: Any) -> tuple[Any, Tensor, Blocks]:
        """The prior at φ, w = [-β, 1] and the blocks."""
        blocks = Blocks(*data)
        flat = self.program.structure.phi.flatten(phi.values)
        w = torch.cat([-flat[self.linear.entering], torch.ones(1)])
        return self._algebra.read(self.program, self.linear, phi, blocks.rows), w, blocks

    def _prior_fits(self) -> Tensor:
        """Where log p(θ | φ) has the value at a random point that was read off; (T,), or () where all share it."""
        (phi,) = random_phi(self.program, 1, seed=3)
        prior, _, blocks = self._at(phi, self.data)
        expected, square = self._algebra.prior_at(prior, torch.linspace(-1.0, 2.0, self.program.structure.theta.size))
        value = log_prior(self.program, blocks.rows)
        fits: Tensor = (value - expected).abs() <= TOLERANCE * (1 + value.abs() + square.abs())
        return fits

    def _precise(self) -> bool:
        """Whether observations are not so far from zero, beside their noise, that their sums of squares hide it."""
        return not rounding(self.program, self.tasks, self.linear, Blocks(*self.data)) > ROUNDED

    def _agrees(self) -> bool:
        """Equal to the generic route at random φ, to rounding, on a few tasks."""
        some = some_tasks(self.tasks)
        gram = Gram(self.program, some, self.linear)
        for phi in random_phi(self.program, 2):
            mine = gram.per_task(phi, gram.data)
            theirs = torch.stack([log_z_of(self.program, phi, task) for task in some])
            if not torch.allclose(mine, theirs, rtol=TOLERANCE, atol=TOLERANCE * float(theirs.abs().max())):
                return False
        return True
