"""The two synthetic environments of PACOH, with their published settings.

Rothfuss, Fortuin, Josifoski and Krause (2021), PACOH: Bayes-optimal meta-learning with PAC-guarantees.

`PACOHSinusoid`: y = slope x + A sin(1.5 (x - b)) + c + N(0, 0.1²), trained on 20 tasks of 5 observations.

`PACOHCauchy`: y = m(x) + 0.2 g(x) + N(0, 0.05²) in two dimensions, where m is a sum of two Cauchy densities and g a
Gaussian process with a squared-exponential kernel; trained on 20 tasks of 20 observations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesmeta.data.environment import Dice, Environment, Range, uniform_inputs
from bayesmeta.data.gaussian import GaussianFunctions, drawn
from bayesmeta.data.optimal import Conditional
from bayesmeta.data.wave_statistics import Even
from bayesmeta.data.waves import WavePrior, Waves
from bayesmeta.errors import OptionError
from bayesmeta.tasks import Tasks

__all__ = ["PACOHCauchy", "PACOHSinusoid"]

PANELS, REACH = 12, 8.0


@dataclass(frozen=True)
class PACOHSinusoid(Environment):
    """y = slope x + A sin(frequency (x - b)) + c + N(0, noise²).

    Attributes:
        amplitude: the range of A, uniform.
        frequency: the same for all tasks.
        shift: mean and standard deviation of b, normal.
        level: mean and standard deviation of c, normal.
        slope: mean and standard deviation of the slope, normal.
        noise: standard deviation of the observations.
        inputs: the range of x, uniform.
        outside: the range that tests extrapolation.
    """

    amplitude: Range = (0.7, 1.3)
    frequency: float = 1.5
    shift: tuple[float, float] = (0.0, 0.1)
    level: tuple[float, float] = (5.0, 0.1)
    slope: tuple[float, float] = (0.5, 0.2)
    noise: float = 0.1
    inputs: Range = (-5.0, 5.0)
    outside: Range = (-5.0, 10.0)

    def _inputs(self, dice: Dice, rows: int, count: int, inputs: str | Range) -> Tensor:
        return uniform_inputs(dice, rows, count, inputs, {"in": self.inputs, "out": self.outside})

    def _observations(self, x: Tensor, functions: Dice, noise: Dice) -> Tensor:
        count = x.shape[1]
        a = functions.uniform(count, low=self.amplitude[0], high=self.amplitude[1])
        b, level, slope = (mean + sd * functions.normal(count) for mean, sd in (self.shift, self.level, self.slope))
        wave = a * torch.sin(self.frequency * (x - b))
        return slope * x + wave + level + self.noise * noise.normal(*x.shape)

    def _conditional(self, support: Tasks) -> Conditional:
        def statistics(tasks: Tasks) -> Even:
            return Even(tasks, self.noise, self.frequency, sign=-1, trend=(self.level, self.slope))

        return Waves(WavePrior(self.amplitude, self._log_phase, self._edges, statistics), support)

    def _edges(self, tasks: Tasks) -> Tensor:
        mean, sd = self.shift
        ends = torch.linspace(mean - REACH * sd, mean + REACH * sd, PANELS + 1, dtype=torch.float64)
        return ends.expand(len(tasks), -1)

    def _log_phase(self, b: Tensor) -> Tensor:
        mean, sd = self.shift
        return -0.5 * ((b - mean) / sd).square() - math.log(sd) - 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class PACOHCauchy(Environment):
    """y = m(x) + spread g(x) + N(0, noise²), x in two dimensions.

    m(x) = 6 c(x; (-1, -1)) + 3 c(x; (2, 2)) + 1 with c(x; a) = 1 / (π (1 + |x - a|²)).

    Attributes:
        spread: standard deviation of the Gaussian process.
        squared_length: the square of its length scale.
        noise: standard deviation of the observations.
        width: standard deviation of each coordinate of x before truncation, about 0.
        bounds: where the coordinates are truncated.
    """

    spread: float = 0.2
    squared_length: float = 0.5
    noise: float = 0.05
    width: float = 2.5
    bounds: Range = (-7.5, 5.0)

    def mean(self, x: Tensor) -> Tensor:
        """m at inputs (..., 2): what all tasks have in common."""
        first, second = ((x - centre).square().sum(-1) for centre in (-1.0, 2.0))
        return 6 / (math.pi * (1 + first)) + 3 / (math.pi * (1 + second)) + 1

    def kernel(self, x: Tensor, z: Tensor) -> Tensor:
        """Covariances of the functions at inputs (..., n, 2) and (..., m, 2): (..., n, m)."""
        distance = (x[..., :, None, :] - z[..., None, :, :]).square().sum(-1)
        return self.spread**2 * torch.exp(-0.5 * distance / self.squared_length)

    def _inputs(self, dice: Dice, rows: int, count: int, inputs: str | Range) -> Tensor:
        if inputs != "in":
            raise OptionError(f"inputs must be 'in', the only range of this environment, got {inputs!r}")
        low, high = (float(torch.special.ndtr(torch.tensor(end / self.width).double())) for end in self.bounds)
        standard: Tensor = torch.special.ndtri(dice.uniform(rows, count, 2, low=low, high=high))
        return self.width * standard

    def _observations(self, x: Tensor, functions: Dice, noise: Dice) -> Tensor:
        values = drawn(self.kernel, x, functions)
        return self.mean(x) + values + self.noise * noise.normal(*x.shape[:2])

    def _conditional(self, support: Tasks) -> Conditional:
        return GaussianFunctions(support, self.mean, self.kernel, self.noise)
