"""What networks of new tasks say of inputs: means with one standard deviation for all, or probabilities of classes.

A network adapted by gradient steps gives a point. What is known of its error is how large it was for other tasks, so
that is the standard deviation of the normal distribution that stands for a prediction: right on the whole, and the
same where a task is well known and where it is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bayesmeta.errors import DataError, NotAvailableError, OptionError
from bayesmeta.meta.episodes import rows_of
from bayesmeta.meta.losses import Loss, loss_of, masked_mean
from bayesmeta.tasks import Tasks

__all__ = ["Outputs"]


class Outputs:
    """Point predictions of T tasks at m inputs each.

    Where tasks have different numbers of inputs, short ones end in NaN.

    Attributes:
        query: The inputs, as `Tasks`.
        raw: What the networks give (T, m, ...).
    """

    def __init__(self, query: Tasks, raw: Tensor, mask: Tensor, loss: str | Loss, noise: float | None = None) -> None:
        real = mask.reshape(*mask.shape, *(1,) * (raw.dim() - mask.dim()))
        self.query = query
        self.raw = torch.where(real, raw, torch.nan)
        self._mask = mask
        self._loss = loss
        self._noise = noise

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return self.query.names

    @property
    def mean(self) -> Tensor:
        """The predicted observations (T, m), or (T, m, ...) where they have components.

        Raises:
            NotAvailableError: The networks predict classes.
        """
        if self._loss == "cross_entropy":
            raise NotAvailableError("the networks predict classes, which have no mean: ask for probabilities")
        return self.raw.reshape(*self.raw.shape[:2], *self.query.y.shape[1:]).double()

    @property
    def sd(self) -> Tensor:
        """The standard deviation (T, m): the error that other tasks had, the same everywhere.

        Raises:
            NotAvailableError: The loss is not a squared one, and says nothing about errors.
        """
        if self._noise is None:
            raise NotAvailableError("how large errors are is known for loss='mse' alone")
        return torch.full_like(self.mean, self._noise)

    def quantile(self, q: float | Sequence[float]) -> Tensor:
        """Quantiles (T, m), or (len(q), T, m) for several levels in (0, 1)."""
        levels = torch.as_tensor(q, dtype=torch.float64)
        if not bool(((levels > 0) & (levels < 1)).all()):
            raise OptionError(f"q must lie between 0 and 1, got {q!r}")
        z = torch.special.ndtri(levels)
        values: Tensor = self.mean + self.sd * z.reshape(*z.shape, *(1,) * self.mean.dim())
        return values

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Lower and upper end (T, m) of the central interval of that probability."""
        lower, upper = self.quantile([(1 - level) / 2, (1 + level) / 2])
        return lower, upper

    def sample(self, n: int = 1000, seed: int = 0) -> Tensor:
        """Draws (n, T, m), independent of each other."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(n, *self.mean.shape, generator=generator, dtype=torch.float64)
        return self.mean + self.sd * noise

    def log_prob(self, y: Any, *, pointwise: bool = False) -> Tensor:
        """Log density of observations y, of each task (T,), or of each on its own (T, m)."""
        z = (self._observed(y) - self.mean) / self.sd
        each = -0.5 * z.square() - self.sd.log() - 0.5 * math.log(2 * math.pi)
        return each if pointwise else each.nan_to_num().flatten(1).sum(1)

    def cdf(self, y: Any) -> Tensor:
        """The probability of at most y (T, m)."""
        below: Tensor = torch.special.ndtr((self._observed(y) - self.mean) / self.sd)
        return below

    def crps(self, y: Any) -> Tensor:
        """The continuous ranked probability score (T, m), in units of y (Gneiting and Raftery 2007, equation 21)."""
        z = (self._observed(y) - self.mean) / self.sd
        density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
        score: Tensor = self.sd * (z * (2 * torch.special.ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))
        return score

    @property
    def probabilities(self) -> Tensor:
        """Probabilities of the classes (T, m, classes).

        Raises:
            NotAvailableError: The networks do not predict classes.
        """
        if self._loss != "cross_entropy":
            raise NotAvailableError("probabilities of classes need loss='cross_entropy'")
        return torch.softmax(self.raw.double(), -1)

    def loss(self, observed: Tasks) -> Tensor:
        """The mean loss of what was then observed, of each task (T,).

        Args:
            observed: The query with its observations: the same tasks, as many rows each.

        Raises:
            DataError: They are other tasks, or other numbers of rows.
        """
        y = self._rows(observed)

        def one(raw: Tensor, y: Tensor, mask: Tensor) -> Tensor:
            return masked_mean(loss_of(self._loss)(raw, y), mask)

        return torch.func.vmap(one)(self.raw.nan_to_num(), y, self._mask)

    def _rows(self, observed: Tasks) -> Tensor:
        """Observations of the query (T, m, ...), padded."""
        if observed.names != self.query.names or not torch.equal(observed.sizes, self.query.sizes):
            raise DataError(
                f"observed: {len(observed)} tasks of {observed.sizes.tolist()[:5]} rows; wanted the query's own, "
                f"{len(self.query)} tasks of {self.query.sizes.tolist()[:5]} rows, under the same names"
            )
        return rows_of(observed, self.raw.dtype).y

    def _observed(self, y: Any) -> Tensor:
        """Observations as the means are, (T, m)."""
        if isinstance(y, Tasks):
            return self._rows(y[list(self.names)]).double()
        values = torch.as_tensor(y, dtype=torch.float64)
        if values.shape != self.mean.shape:
            raise DataError(f"y has shape {tuple(values.shape)}, predicted is {tuple(self.mean.shape)}")
        return values

    def __repr__(self) -> str:
        return f"Outputs of {len(self.query):,} tasks at {self.query.n_observations:,} inputs"
