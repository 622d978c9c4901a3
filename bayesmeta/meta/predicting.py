"""What networks of new tasks say of inputs: means, or probabilities of classes."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesmeta.errors import DataError, NotAvailableError
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

    def __init__(self, query: Tasks, raw: Tensor, mask: Tensor, loss: str | Loss) -> None:
        real = mask.reshape(*mask.shape, *(1,) * (raw.dim() - mask.dim()))
        self.query = query
        self.raw = torch.where(real, raw, torch.nan)
        self._mask = mask
        self._loss = loss

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
        if observed.names != self.query.names or not torch.equal(observed.sizes, self.query.sizes):
            raise DataError(
                f"observed: {len(observed)} tasks of {observed.sizes.tolist()[:5]} rows; wanted the query's own, "
                f"{len(self.query)} tasks of {self.query.sizes.tolist()[:5]} rows, under the same names"
            )
        y = rows_of(observed, self.raw.dtype).y

        def one(raw: Tensor, y: Tensor, mask: Tensor) -> Tensor:
            return masked_mean(loss_of(self._loss)(raw, y), mask)

        return torch.func.vmap(one)(self.raw.nan_to_num(), y, self._mask)

    def __repr__(self) -> str:
        return f"Outputs of {len(self.query):,} tasks at {self.query.n_observations:,} inputs"
