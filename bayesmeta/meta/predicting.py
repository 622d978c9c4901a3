"""What networks of new tasks say of inputs: mixtures of normals over their members, or probabilities of classes.

A network adapted by gradient steps gives a point. What is known of its error is how large it was for other tasks, so
that is the standard deviation of the normal distribution that stands for a prediction: right on the whole where those
tasks were not what the network was trained on, and the same where a task is well known and where it is not. Several
networks of one task, its members, also differ more where less is known: a prediction is then the mixture of theirs,
each with the error that other tasks had left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bayesmeta.errors import DataError, NotAvailableError, OptionError
from bayesmeta.meta.episodes import rows_of
from bayesmeta.meta.losses import Loss, masked_mean, mixture_loss
from bayesmeta.normals import Normals
from bayesmeta.tasks import Tasks

__all__ = ["Outputs"]


class Outputs:
    """Predictions of T tasks at m inputs each, each the mixture of M members' (of one, for most algorithms).

    Where tasks have different numbers of inputs, short ones end in NaN.

    Args:
        query: The inputs, as `Tasks`.
        members: What the members' networks give (M, T, m, ...).
        mask: Which inputs are real (T, m).
        loss: The loss that the networks were trained by.
        noise: Standard deviation of observations about a member: one number, or (M, T, m); None where not known.

    Attributes:
        query: The inputs, as `Tasks`.
        members: What the members' networks give (M, T, m, ...).
    """

    def __init__(
        self, query: Tasks, members: Tensor, mask: Tensor, loss: str | Loss, noise: float | Tensor | None = None
    ) -> None:
        self.query = query
        self._mask = mask
        self.members = torch.where(self._real(members), members, torch.nan)
        self._loss = loss
        self._noise = noise

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return self.query.names

    @property
    def raw(self) -> Tensor:
        """What the networks give (T, m, ...), where a task has one.

        Raises:
            NotAvailableError: A task has several members.
        """
        if len(self.members) > 1:
            raise NotAvailableError(f"a task has {len(self.members)} networks here: ask for what they give by members")
        return self.members[0]

    @property
    def mean(self) -> Tensor:
        """The predicted observations (T, m), or (T, m, ...) where they have components.

        Raises:
            NotAvailableError: The networks predict classes.
        """
        return self._means.mean(0)

    @property
    def sd(self) -> Tensor:
        """The standard deviation (T, m): how far members are apart, and the error that other tasks had left.

        Raises:
            NotAvailableError: The loss is not a squared one, and says nothing about errors.
        """
        return self._filled(lambda mixture: mixture.sd)

    def quantile(self, q: float | Sequence[float]) -> Tensor:
        """Quantiles (T, m), or (len(q), T, m) for several levels in (0, 1)."""
        levels = torch.as_tensor(q, dtype=torch.float64)
        if not bool(((levels > 0) & (levels < 1)).all()):
            raise OptionError(f"q must lie between 0 and 1, got {q!r}")
        each = [self._filled(partial(Normals.quantile, level=level)) for level in levels.flatten().tolist()]
        values = torch.stack(each)
        return values.reshape(*levels.shape, *values.shape[1:])

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Lower and upper end (T, m) of the central interval of that probability."""
        lower, upper = self.quantile([(1 - level) / 2, (1 + level) / 2])
        return lower, upper

    def sample(self, n: int = 1000, seed: int = 0) -> Tensor:
        """Draws (n, T, m): a member for each draw and task, and errors that are independent of each other."""
        generator = torch.Generator().manual_seed(seed)
        means, scale = self._means, self._scale()
        noise = torch.randn(n, *means.shape[1:], generator=generator, dtype=torch.float64)
        count, tasks = means.shape[:2]
        member, task = torch.randint(count, (n, tasks), generator=generator), torch.arange(tasks)
        return means[member, task] + scale[member, task] * noise

    def log_prob(self, y: Any, *, pointwise: bool = False) -> Tensor:
        """Log density of observations y, all of a task together (T,), or of each on its own (T, m), in nats.

        Together, they come from one and the same member.
        """
        observed = self._observed(y)
        if pointwise:
            return self._filled(lambda mixture: mixture.log_prob(observed))
        alone = torch.distributions.Normal(self._means, self._scale(), validate_args=False).log_prob(observed)
        whole = alone.nan_to_num().flatten(2).sum(2)
        return torch.logsumexp(whole, 0) - math.log(len(whole))

    def cdf(self, y: Any) -> Tensor:
        """The probability of at most y (T, m)."""
        observed = self._observed(y)
        return self._filled(lambda mixture: mixture.cdf(observed))

    def crps(self, y: Any) -> Tensor:
        """The continuous ranked probability score (T, m), in units of y. See `Normals.crps`."""
        observed = self._observed(y)
        return self._filled(lambda mixture: mixture.crps(observed))

    @property
    def probabilities(self) -> Tensor:
        """Probabilities of the classes (T, m, classes), the mean of the members'.

        Raises:
            NotAvailableError: The networks do not predict classes.
        """
        if self._loss != "cross_entropy":
            raise NotAvailableError("probabilities of classes need loss='cross_entropy'")
        return torch.softmax(self.members.double(), -1).mean(0)

    def loss(self, observed: Tasks) -> Tensor:
        """The mean loss of what was then observed, of each task (T,).

        Args:
            observed: The query with its observations: the same tasks, as many rows each.

        Raises:
            DataError: They are other tasks, or other numbers of rows.
        """
        y = self._rows(observed)

        def one(outs: Tensor, y: Tensor, mask: Tensor) -> Tensor:
            return masked_mean(mixture_loss(self._loss, outs, y), mask)

        return torch.func.vmap(one, in_dims=(1, 0, 0))(self.members.nan_to_num(), y, self._mask)

    @property
    def _means(self) -> Tensor:
        """The members' means (M, T, m), or (M, T, m, ...) where observations have components."""
        if self._loss == "cross_entropy":
            raise NotAvailableError("the networks predict classes, which have no mean: ask for probabilities")
        return self.members.reshape(*self.members.shape[:3], *self.query.y.shape[1:]).double()

    def _scale(self) -> Tensor:
        """The members' standard deviations, as their means."""
        if self._noise is None:
            raise NotAvailableError("how large errors are is known for loss='mse' alone")
        means = self._means
        if isinstance(self._noise, float):
            return torch.full_like(means, self._noise)
        noise = self._noise.double()
        noise = noise.reshape(*noise.shape[:3], *noise.shape[3:] or (1,) * (means.dim() - 3))
        return torch.where(self._real(noise), noise, 1.0).expand_as(means)

    def _filled(self, value: Callable[[Normals], Tensor]) -> Tensor:
        """Something about the mixture at each input, NaN where there is none."""
        scale, means = self._scale(), self._means
        found = value(Normals.equal(means.nan_to_num(), scale))
        return torch.where(self._real(means)[0], found, torch.nan)

    def _real(self, like: Tensor) -> Tensor:
        """Which inputs are real, of (M, T, m, ...), to be broadcast to it."""
        return self._mask.reshape(1, *self._mask.shape, *(1,) * (like.dim() - 3))

    def _rows(self, observed: Tasks) -> Tensor:
        """Observations of the query (T, m, ...), padded."""
        if observed.names != self.query.names or not torch.equal(observed.sizes, self.query.sizes):
            raise DataError(
                f"observed: {len(observed)} tasks of {observed.sizes.tolist()[:5]} rows; wanted the query's own, "
                f"{len(self.query)} tasks of {self.query.sizes.tolist()[:5]} rows, under the same names"
            )
        return rows_of(observed, self.members.dtype).y

    def _observed(self, y: Any) -> Tensor:
        """Observations as the means are, (T, m)."""
        if isinstance(y, Tasks):
            return self._rows(y[list(self.names)]).double()
        values = torch.as_tensor(y, dtype=torch.float64)
        if values.shape != self._means.shape[1:]:
            raise DataError(f"y has shape {tuple(values.shape)}, predicted is {tuple(self._means.shape[1:])}")
        return values

    def __repr__(self) -> str:
        count = len(self.members)
        each = f", {count} networks each" if count > 1 else ""
        return f"Outputs of {len(self.query):,} tasks at {self.query.n_observations:,} inputs{each}"
