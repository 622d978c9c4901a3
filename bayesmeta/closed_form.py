"""A family's own evidence: log Z_t(φ) and what follows from it, by formulas that the family knows.

The library finds an evidence for any hierarchy from its two functions alone. A family that knows better, a Bayesian
last layer or a Gaussian process, says so with `Hierarchy(hyperprior, task, evidence=ClosedForm(...))`. Its formulas
are pure functions for *one* task, as the task itself is: the library maps them over tasks and draws of φ. They must
agree with the hierarchy's own functions; where both can be had, comparing them is a matter of one test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bayesmeta.errors import HierarchyError

if TYPE_CHECKING:
    from bayesmeta.program import Row

__all__ = ["ClosedForm", "Mixed"]


@dataclass(frozen=True)
class ClosedForm:
    """Formulas for one task of n rows, of which `row.mask` (n,) says which are real: padding must have no say.

    `phi` is what the hyperprior returns, `row` has x (n, ...), y (n, ...), mask (n,) and context as the tasks have
    them. Functions are differentiated, batched by `torch.func.vmap` and recorded: no branches on values.

    Args:
        log_z: ``log_z(phi, row)``: log p(y | x, φ) in nats, (). Zero without a real row; NaN where it fails.
        theta: ``theta(phi, row, z)``: a draw of θ | φ, y in its centred coordinates (p,), from standard normal
            numbers z (p + extra,). None for a hierarchy whose task samples no θ.
        predictive: ``predictive(phi, row, x)``: p(y* | φ, y) of observations at new inputs x (m, ...), all together:
            a distribution of the event shape of y*, (m, ...), whose marginals are Normal, with `mean`, `variance`,
            `log_prob` and `sample`, or a `Mixed` of several. Where it is None, predictions are made by draws of θ.
        road: What is done about θ, in a sentence.
        extra: How many numbers a draw of θ takes besides one for each of its coordinates.
        numbers: About how many numbers are alive per row of the data, which bounds what is done at once.
    """

    log_z: Callable[[Any, Row], Tensor]
    theta: Callable[[Any, Row, Tensor], Tensor] | None = None
    predictive: Callable[[Any, Row, Tensor], Any] | None = None
    road: str = "own: θ is integrated out by the family's own formula"
    extra: int = 0
    numbers: int = 1

    def __post_init__(self) -> None:
        for name in ("log_z", "theta", "predictive"):
            value = getattr(self, name)
            if not callable(value) and (name == "log_z" or value is not None):
                raise HierarchyError(f"{name} of a ClosedForm must be a function, got {type(value).__name__}")
        if self.theta is None and self.predictive is None:
            raise HierarchyError(
                "a ClosedForm needs theta(phi, row, z), or predictive(phi, row, x) where the task samples no θ: "
                "without either nothing can be predicted"
            )

    def check(self, has_theta: bool) -> None:
        """Raise a HierarchyError unless the formulas are those of a hierarchy with, or without, θ."""
        if has_theta and self.theta is None:
            raise HierarchyError("the task samples a θ, and its ClosedForm has no theta(phi, row, z) to draw it")
        if not has_theta and self.theta is not None:
            raise HierarchyError("the task samples no θ, and its ClosedForm has a theta(phi, row, z)")


class Mixed:
    """A mixture of joint distributions, for `ClosedForm.predictive`.

    Args:
        log_weights: Logarithms of the weights (K,), which sum to one.
        parts: A distribution of batch shape (K,) and the event shape of y*.
    """

    def __init__(self, log_weights: Tensor, parts: Any) -> None:
        self.log_weights = log_weights
        self.parts = parts

    @property
    def mean(self) -> Tensor:
        """Mean of each number of y*."""
        return self._average(self.parts.mean)

    @property
    def variance(self) -> Tensor:
        """Variance of each number of y*, by the law of total variance."""
        return self._average(self.parts.variance + (self.parts.mean - self.mean).square())

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of all of y* together, ()."""
        return torch.logsumexp(self.log_weights + self.parts.log_prob(value), 0)

    def sample(self) -> Tensor:
        """A draw of y*."""
        gumbel = -torch.empty_like(self.log_weights).exponential_().log()
        chosen = torch.nn.functional.one_hot((self.log_weights + gumbel).argmax(0), len(self.log_weights))
        values = self.parts.sample()
        return self._behind(chosen.to(values.dtype), values).mul(values).sum(0)

    def _average(self, values: Tensor) -> Tensor:
        return (self._behind(self.log_weights.exp(), values) * values).sum(0)

    @staticmethod
    def _behind(weights: Tensor, values: Tensor) -> Tensor:
        return weights.reshape(-1, *(1,) * (values.dim() - 1))
