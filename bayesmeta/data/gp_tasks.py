"""Tasks that are functions of Gaussian processes, with hyperparameters fixed or of each task's own.

    y = f(x) + N(0, noise²)      f ~ GP(0, scale² r(x - x'))      x ~ U(-2, 2)

The default, hyperparameters uniform on ranges, is the setting of Lee et al. (2020), Bootstrapping neural processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesmeta.data.environment import Dice, Environment, Range, uniform_inputs
from bayesmeta.data.gaussian import GaussianFunctions, drawn
from bayesmeta.data.hyper import HyperGaussian
from bayesmeta.data.optimal import Conditional
from bayesmeta.errors import OptionError, unknown
from bayesmeta.tasks import Tasks

__all__ = ["GPTasks"]

KERNELS = ("rbf", "matern52", "periodic")


def correlation(kernel: str, distance: Tensor, length: Tensor, period: Tensor) -> Tensor:
    """The correlation of function values at that distance."""
    if kernel == "periodic":
        return torch.exp(-2 * (torch.sin(math.pi * distance / period) / length).square())
    scaled = distance.abs() / length
    if kernel == "rbf":
        return torch.exp(-0.5 * scaled.square())
    root = math.sqrt(5) * scaled
    return (1 + root + root.square() / 3) * torch.exp(-root)


@dataclass(frozen=True)
class GPTasks(Environment):
    """Functions of Gaussian processes in one dimension.

    Attributes:
        kernel: ``"rbf"``, ``"matern52"`` or ``"periodic"``.
        length: length scale: one for all tasks, or (low, high), uniform, one for each.
        scale: standard deviation of the functions; likewise.
        period: of the periodic kernel; likewise.
        noise: standard deviation of the observations.
        inputs: the range of x, uniform.
        outside: the range that tests extrapolation.

    Examples:
        >>> env = GPTasks("matern52", length=0.25, scale=1.0, noise=0.1)
        >>> support, query = env.tasks(8, shots=10, query=20, seed=1)
        >>> env.optimal(support, query).log_prob(query).shape
        torch.Size([8])
    """

    kernel: str = "rbf"
    length: float | Range = (0.1, 0.6)
    scale: float | Range = (0.1, 1.0)
    period: float | Range = (0.1, 0.5)
    noise: float = 0.02
    inputs: Range = (-2.0, 2.0)
    outside: Range = (-2.0, 4.0)

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise OptionError(unknown("kernel", self.kernel, KERNELS))
        super().__post_init__()
        for name in ("length", "scale", "period"):
            low, high = self._range(name)
            if low > high:
                raise OptionError(f"{name}: got {getattr(self, name)!r}; wanted a number or (low, high)")

    def _range(self, name: str) -> Range:
        value = getattr(self, name)
        return value if isinstance(value, tuple) else (value, value)

    def _inputs(self, dice: Dice, rows: int, count: int, inputs: str | Range) -> Tensor:
        return uniform_inputs(dice, rows, count, inputs, {"in": self.inputs, "out": self.outside})

    def _observations(self, x: Tensor, functions: Dice, noise: Dice) -> Tensor:
        unit = functions.uniform(3, x.shape[1])
        low, high = (torch.tensor(ends) for ends in zip(*map(self._range, ("length", "scale", "period")), strict=True))
        length, scale, period = (low[:, None] + (high - low)[:, None] * unit)[..., None, None]

        def kernel(a: Tensor, b: Tensor) -> Tensor:
            covariance: Tensor = scale.square() * correlation(
                self.kernel, a[..., :, None] - b[..., None, :], length, period
            )
            return covariance

        return drawn(kernel, x, functions) + self.noise * noise.normal(*x.shape)

    def _conditional(self, support: Tasks) -> Conditional:
        ranges = {name: self._range(name) for name in ("length", "scale", "period")}
        if self.kernel != "periodic":
            ranges["period"] = (1.0, 1.0)
        if all(low == high for low, high in ranges.values()):
            return GaussianFunctions(support, torch.zeros_like, self._covariance, self.noise)

        def shape(distance: Tensor, length: Tensor, period: Tensor) -> Tensor:
            return correlation(self.kernel, distance, length, period)

        return HyperGaussian(support, shape, ranges, self.noise)

    def _covariance(self, x: Tensor, z: Tensor) -> Tensor:
        length, scale, period = (torch.tensor(self._range(name)[0]) for name in ("length", "scale", "period"))
        return scale**2 * correlation(self.kernel, x[..., :, None] - z[..., None, :], length, period)
