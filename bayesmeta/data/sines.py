"""Sine waves: DKT's, the ones with noise that grows, and MAML's without noise.

    A ~ U(0.1, 5)      b ~ U(0, π)      x ~ U(-5, 5), or U(-5, 10) to test extrapolation

`DKTSines` (Patacchiola et al. 2020, Bayesian meta-learning for the few-shot setting via deep kernels):
y = A sin(x + b) + N(0, 0.1²). `MixedNoiseSines` (Sendera et al. 2021, Non-Gaussian Gaussian processes for few-shot
regression): y = A sin(x + b) + |x + b| N(0, 0.1²). `MAMLSines` (Finn, Abbeel and Levine 2017, Model-agnostic
meta-learning): y = A sin(x - b).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesmeta.data.environment import Dice, Environment, Range, uniform_inputs
from bayesmeta.data.noiseless import Noiseless
from bayesmeta.data.optimal import Conditional
from bayesmeta.data.wave_statistics import Even, Growing
from bayesmeta.data.waves import WavePrior, Waves
from bayesmeta.normals import Normals
from bayesmeta.tasks import Tasks

__all__ = ["DKTSines", "MAMLSines", "MixedNoiseSines"]

PANELS = 12
EDGES_UP_TO = 20
AT_ONCE = 5_000


@dataclass(frozen=True)
class Sines(Environment):
    """What the three have in common.

    Attributes:
        amplitude: the range of A.
        phase: the range of b.
        inputs: the range of x in training.
        outside: the range of x that tests extrapolation.
    """

    amplitude: Range = (0.1, 5.0)
    phase: Range = (0.0, math.pi)
    inputs: Range = (-5.0, 5.0)
    outside: Range = (-5.0, 10.0)

    def _inputs(self, dice: Dice, rows: int, count: int, inputs: str | Range) -> Tensor:
        return uniform_inputs(dice, rows, count, inputs, {"in": self.inputs, "out": self.outside})

    def _functions(self, dice: Dice, count: int) -> tuple[Tensor, Tensor]:
        """Amplitudes and phases (count,)."""
        low, high = zip(self.amplitude, self.phase, strict=True)
        a, b = dice.uniform(count, 2).T
        return low[0] + (high[0] - low[0]) * a, low[1] + (high[1] - low[1]) * b

    def _edges(self, tasks: Tasks) -> Tensor:
        """The first panels of b (T, E)."""
        return torch.linspace(*self.phase, PANELS + 1, dtype=torch.float64).expand(len(tasks), -1)

    def _log_phase(self, b: Tensor) -> Tensor:
        return torch.full_like(b, -math.log(self.phase[1] - self.phase[0]))


@dataclass(frozen=True)
class DKTSines(Sines):
    """y = A sin(x + b) + N(0, noise²).

    Examples:
        >>> env = DKTSines()
        >>> support, query = env.tasks(100, shots=5, query=195, seed=1)
        >>> best = env.optimal(support, query)
        >>> best.mean.shape, best.log_prob(query).shape
        (torch.Size([100, 195]), torch.Size([100]))
    """

    noise: float = 0.1

    def _observations(self, x: Tensor, functions: Dice, noise: Dice) -> Tensor:
        a, b = self._functions(functions, x.shape[1])
        return a * torch.sin(x + b) + self.noise * noise.normal(*x.shape)

    def _conditional(self, support: Tasks) -> Conditional:
        def statistics(tasks: Tasks) -> Even:
            return Even(tasks, self.noise, frequency=1.0, sign=1)

        return Waves(WavePrior(self.amplitude, self._log_phase, self._edges, statistics), support)


@dataclass(frozen=True)
class MixedNoiseSines(Sines):
    """y = A sin(x + b) + |x + b| N(0, noise²): the noise has the phase of the task in it."""

    noise: float = 0.1

    def _observations(self, x: Tensor, functions: Dice, noise: Dice) -> Tensor:
        a, b = self._functions(functions, x.shape[1])
        return a * torch.sin(x + b) + (x + b).abs() * self.noise * noise.normal(*x.shape)

    def _edges(self, tasks: Tasks) -> Tensor:
        """Where an observation would be without noise, the density of b breaks: a panel ends there."""
        edges = super()._edges(tasks)
        most = int(tasks.sizes.max())
        if most > EDGES_UP_TO:
            return edges
        breaks = torch.full((len(tasks), most), self.phase[0], dtype=torch.float64)
        breaks[torch.arange(most) < tasks.sizes[:, None]] = -tasks.x
        return torch.cat([edges, breaks.clamp(*self.phase)], 1).sort(1).values

    def _conditional(self, support: Tasks) -> Conditional:
        def statistics(tasks: Tasks) -> Growing:
            return Growing(tasks, self.noise)

        return _OneByOne(WavePrior(self.amplitude, self._log_phase, self._edges, statistics), support)


class _OneByOne(Waves):
    """Waves whose noise vanishes somewhere: the density of one observation is a ratio of evidences."""

    def pointwise(self, query: Tasks, mixture: Callable[[int], Normals]) -> Tensor:
        """The log density of each query observation (N,), each added to the support of its task."""
        parts = []
        for rows in torch.arange(len(query.y)).split(AT_ONCE):
            owner = query.task_index[rows]
            with_one = self._prior.log_evidence(_each_added(self._support, owner, query.x[rows], query.y[rows]))
            parts.append(with_one.log_z - self.log_z[owner])
        return torch.cat(parts) if parts else query.y


def _each_added(support: Tasks, owner: Tensor, x: Tensor, y: Tensor) -> Tasks:
    """A task for each of the observations x, y (K,): the support of its owner and this one."""
    sizes = support.sizes[owner] + 1
    ends = sizes.cumsum(0)
    rank = torch.arange(int(ends[-1])) - (ends - sizes).repeat_interleave(sizes)
    row = support.offsets[owner].repeat_interleave(sizes) + rank - 1
    first, new = rank == 0, torch.arange(len(owner)).repeat_interleave(sizes)
    row = row.clamp(min=0)
    if not len(support.x):
        support = Tasks(x, y, torch.tensor([0, len(x)]), ("all",))
    xs, ys = torch.where(first, x[new], support.x[row]), torch.where(first, y[new], support.y[row])
    return Tasks(xs, ys, torch.cat([ends.new_zeros(1), ends]), tuple(map(str, range(len(owner)))))


@dataclass(frozen=True)
class MAMLSines(Sines):
    """y = A sin(x - b), without noise: two observations tell everything, and the optimum has no error."""

    def _observations(self, x: Tensor, functions: Dice, noise: Dice) -> Tensor:
        a, b = self._functions(functions, x.shape[1])
        return a * torch.sin(x - b)

    def _conditional(self, support: Tasks) -> Conditional:
        return Noiseless(support, self.amplitude, self.phase)
