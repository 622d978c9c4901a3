"""What vectorised HMC learns in its warm-up, from all chains together: step size, scales, trajectory length.

* Step size: dual averaging (Hoffman, Gelman 2014) of the harmonic mean of the chains' acceptance probabilities,
  which heeds the chains that fare worst (Hoffman, Radul, Sountsov 2021).
* Scales: the diagonal of least Fisher divergence, s⁴ = Var u / Var ∇log p(u) (Seyboldt, Carlson, Carpenter 2024).
  For independent Gaussians it is right long before the chains have spread to where they belong.
* Trajectory length: with z = u / s at both ends of a trajectory of length t, and v the momentum at its end, the
  squared change of D = |z'|² - |z|² is the criterion ChEES, "change in the estimator of the expected square"
  (Hoffman, Radul, Sountsov 2021, "An adaptive MCMC scheme for setting trajectory lengths in HMC"); with z projected
  on the first principal component and divided by t, it is SNAPER's (Sountsov, Hoffman 2021, "Focusing on difficult
  directions for learning HMC trajectory lengths"). Either is climbed by Adam in log t.

The way to the typical set must be forgotten, where gradients may be larger by many orders of magnitude: moments are
those of windows that grow, and when one is dropped the other two begin anew from where they are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bayesmeta.infer.hmc_kernel import Gradient, Move, Point, leapfrog, metropolis

__all__ = ["Scales", "StepSize", "TrajectoryLength", "first_step", "halton", "harmonic_mean"]

FORGET = 3.0  # the average length weighs iteration t by t^(FORGET - 1)
FIRST_WINDOW = 5  # iterations
LOST = 0.05  # of the chains have no say in the step size, however they fare
LEAST_ACCEPT = 0.01  # below which a chain's acceptance has no more say in the harmonic mean
LEAST_POINTS = 10  # fewer say nothing about a variance
WIDEST = 1e8  # scales lie within this factor of one
LEARNING_RATE, SECOND_MOMENT = 0.025, 0.95  # Adam, as in the ChEES paper
SHRINK, STABILISE, DECAY = 0.05, 10.0, 0.75  # dual averaging, as in the NUTS paper


def halton(index: int) -> float:
    """Element `index` (from 1) of the base-2 Halton (van der Corput) sequence in (0, 1).

    >>> [halton(index) for index in (1, 2, 3, 4)]
    [0.5, 0.25, 0.75, 0.125]
    """
    value, fraction = 0.0, 0.5
    while index:
        value += fraction * (index & 1)
        index >>= 1
        fraction /= 2
    return value


def harmonic_mean(accept: Tensor) -> float:
    """Harmonic mean over chains of their acceptance probabilities (chains,), without the worst few.

    One chain among many that is stuck where no step is small enough must not stop the others.
    """
    fair = accept.sort().values[int(LOST * len(accept)) :]
    return 1.0 / float(fair.clamp(min=LEAST_ACCEPT).reciprocal().mean())


def first_step(gradient: Gradient, point: Point, scale: Tensor, generator: torch.Generator, target: float) -> float:
    """The largest of 1, 1/2, 1/4, ... whose single leapfrog step is accepted as often as `target`."""
    momentum = torch.randn(point.u.shape, generator=generator, dtype=point.u.dtype, device=point.u.device)
    step = 1.0
    for _ in range(60):
        end, last = leapfrog(gradient, point, momentum, step, scale, 1)
        before, after = 0.5 * momentum.square().sum(-1) - point.lp, 0.5 * last.square().sum(-1) - end.lp
        if harmonic_mean(metropolis(before, after)[0]) >= target:
            break
        step /= 2
    return step


class StepSize:
    """Dual averaging of log ε towards a target acceptance."""

    def __init__(self, first: float, target: float) -> None:
        self.target = target
        self._log = self._average = math.log(first)
        self.restart()

    def restart(self) -> None:
        """Forget what was learnt but the step size itself."""
        self._centre = self._average + math.log(10.0)
        self._error, self._count = 0.0, 0

    @property
    def current(self) -> float:
        """The step size to try next."""
        return math.exp(self._log)

    @property
    def settled(self) -> float:
        """The average that sampling keeps."""
        return math.exp(self._average)

    def update(self, accept: float) -> None:
        """Learn from the acceptance that the current step size had."""
        self._count += 1
        weight = 1 / (self._count + STABILISE)
        self._error += weight * (self.target - accept - self._error)
        self._log = self._centre - math.sqrt(self._count) / SHRINK * self._error
        self._log = min(self._log, math.log(10.0))
        self._average += self._count**-DECAY * (self._log - self._average)


class Scales:
    """Running moments of draws and gradients over chains and iterations, and the scales s (dim,) they give.

    Two windows overlap: at iterations 5, 10, 20, 40, ... the older is dropped and a new one begun, so that what is
    in use covers from half to three quarters of the iterations so far.
    """

    def __init__(self, point: Point) -> None:
        self._count, self._next = 0, FIRST_WINDOW
        steepness = point.grad.square().mean(0).clamp(WIDEST**-4, WIDEST**4)
        self._first = steepness.pow(-0.25)  # as if u had variance one
        self._older, self._newer = _Moments(point), _Moments(point)

    @property
    def mean(self) -> Tensor:
        """The mean of u (dim,)."""
        return self._older.u_mean

    @property
    def scale(self) -> Tensor:
        """s (dim,) = (Var u / Var ∇log p(u))^(1/4)."""
        if self._older.count < LEAST_POINTS:
            return self._first
        ratio = (self._older.u_var / self._older.grad_var).nan_to_num(nan=1.0)
        return ratio.clamp(WIDEST**-4, WIDEST**4).pow(0.25)

    def update(self, point: Point) -> bool:
        """Learn from where the chains are; whether a window was dropped."""
        self._count += 1
        self._older.add(point)
        self._newer.add(point)
        if self._count < self._next or self._newer.count < LEAST_POINTS:
            return False
        self._older, self._newer = self._newer, _Moments(point)
        self._next = 2 * self._count
        return True


class _Moments:
    """Means and variances of u and of gradients, over the chains of several iterations."""

    def __init__(self, point: Point) -> None:
        self.count = len(point.u)
        self.u_mean, self.u_var = _moments(point.u)
        self.grad_mean, self.grad_var = _moments(point.grad)

    def add(self, point: Point) -> None:
        """Take in another iteration."""
        self.count += len(point.u)
        weight = len(point.u) / self.count
        self.u_mean, self.u_var = _blend(self.u_mean, self.u_var, point.u, weight)
        self.grad_mean, self.grad_var = _blend(self.grad_mean, self.grad_var, point.grad, weight)


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.mean(0), values.var(0, unbiased=False)


def _blend(mean: Tensor, variance: Tensor, values: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of a mixture of what was seen and of new values, which have this weight."""
    centre, spread = _moments(values)
    away = centre - mean
    mixed = (1 - weight) * (variance + weight * away.square()) + weight * spread
    return mean + weight * away, mixed


class TrajectoryLength:
    """Adam on the log of the mean trajectory length t, in units of the scales.

    Args:
        first: Where to begin.
        principal: SNAPER's criterion, not ChEES.
    """

    def __init__(self, first: float, *, principal: bool) -> None:
        self.principal = principal
        self._log = self._average = math.log(first)
        self._steps = 0
        self._direction: Tensor | None = None
        self.restart()

    @property
    def current(self) -> float:
        """The length to try next."""
        return math.exp(self._log)

    @property
    def settled(self) -> float:
        """The average that sampling keeps."""
        return math.exp(self._average)

    def restart(self) -> None:
        """Forget how steep the criterion was."""
        self._square, self._count = 0.0, 0

    def update(self, before: Point, move: Move, scales: Scales, length: float, most: float) -> None:
        """Learn from trajectories of this length; `most` is the longest that there may be on average."""
        start, end, speed = _scaled(before.u, scales), _scaled(move.end.u, scales), move.momentum
        if self.principal:
            along = self._along(_scaled(move.point.u, scales))
            start, end, speed = (values @ along.unsqueeze(-1) for values in (start, end, speed))
        change = end.square().sum(-1) - start.square().sum(-1)
        slope = change * (end * speed).sum(-1) * length
        if self.principal:
            slope = slope - change.square() / 4
        slope = torch.where(move.diverging, 0.0, move.accept * slope)
        self._climb(float(slope.sum() / move.accept.sum().clamp(min=1e-10)), most)

    def _climb(self, slope: float, most: float) -> None:
        if not math.isfinite(slope) or abs(slope) < 1e-100:
            return
        self._count += 1
        self._steps += 1
        self._square += (1 - SECOND_MOMENT) * (slope**2 - self._square)
        size = math.sqrt(self._square / (1 - SECOND_MOMENT**self._count))
        self._log = min(self._log + LEARNING_RATE * slope / size, math.log(most))
        self._average += FORGET / (self._steps + FORGET) * (self._log - self._average)

    def _along(self, z: Tensor) -> Tensor:
        """The first principal component (dim,) of positions z (chains, dim): a power iteration at a time."""
        if self._direction is None:
            self._direction = torch.full_like(z[0], z.shape[1] ** -0.5)
        moved = (z * (z @ self._direction).unsqueeze(-1)).mean(0)
        weight = FORGET / (self._steps + FIRST_WINDOW + FORGET)
        blended = self._direction + weight * moved
        self._direction = blended / blended.norm()
        return self._direction


def _scaled(u: Tensor, scales: Scales) -> Tensor:
    return (u - scales.mean) / scales.scale
