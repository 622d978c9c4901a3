"""A guide that is learnt once for all tasks: a small network reads the rows of a task and gives q(θ_t | φ).

    s_t = [ mean over rows of (z, zz', f(z)), log n_t, context ],      z = the row (x, y), standardised
    mean and Cholesky factor of θ_t = g(s_t, w)

The mean over rows does not see their order (Zaheer et al. 2017, "Deep sets"); products zz' are among its terms
because they are what a Gaussian task is summed up by. Memory does not grow with the number of tasks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bayesmeta.infer.svi_guides import normal
from bayesmeta.infer.svi_minibatch import Batch
from bayesmeta.tasks import Tasks

__all__ = ["LocalAmortised"]

WIDTH = 32
MOST_PRODUCTS = 8  # columns up to which products of two are taken


class LocalAmortised(nn.Module):
    """q(θ | φ) by a network over the rows of a task.

    Args:
        tasks: The tasks of the fit, by which rows are standardised.
        q: Coordinates of φ.
        p: Coordinates of θ.
    """

    def __init__(self, tasks: Tasks, q: int, p: int) -> None:
        super().__init__()
        self.p = p
        self.rows = _Scale(_flat(tasks.x, tasks.y))
        self.context = _Scale(_context(tasks))
        columns = self.rows.columns
        self.products = columns if columns <= MOST_PRODUCTS else 0
        terms = columns + self.products * (self.products + 1) // 2
        self.encoder = _network(terms, WIDTH, WIDTH)
        size = terms + WIDTH + 1 + self.context.columns
        outputs = 2 * p + p * (p - 1) // 2
        self.straight = _zero(nn.Linear(size + q, outputs))
        self.bent = _network(size + q, 2 * WIDTH, 2 * WIDTH)
        self.last = _zero(nn.Linear(2 * WIDTH, outputs))
        self._seen: tuple[Tasks | None, Any] = (None, None)

    def forward(self, w: Tensor, batch: Batch, summary: Tensor | None = None) -> Any:
        """The normal of the tasks of a batch, at w (..., 1, q); with its `summary` at hand no row is read again."""
        summary = self.summary(batch) if summary is None else summary
        both = torch.broadcast_shapes(w.shape[:-1], summary.shape[:-1])
        features = torch.cat([summary.expand(*both, -1), w.expand(*both, -1)], -1)
        out = self.straight(features) + self.last(nn.functional.silu(self.bent(features)))
        mean, log_scale, below = out.split([self.p, self.p, out.shape[-1] - 2 * self.p], -1)
        lower = out.new_zeros(*both, self.p, self.p)
        row, column = torch.tril_indices(self.p, self.p, -1)
        lower[..., row, column] = below
        return normal(mean, log_scale, lower)

    def summary(self, batch: Batch) -> Tensor:
        """What the network makes of the rows of each task (B, size)."""
        terms, mask, tail = self._read(batch.tasks)
        weight = mask / mask.sum(1, keepdim=True).clamp(min=1.0)
        inner = torch.cat([terms, self.encoder(terms)], -1)
        return torch.cat([(inner * weight.unsqueeze(-1)).sum(1), tail], -1)

    def _read(self, tasks: Tasks | None) -> tuple[Tensor, Tensor, Tensor]:
        """Terms of the rows (B, n, terms), which are real (B, n), and log n with the context (B, 1 + c)."""
        if tasks is None:
            raise ValueError("an amortised guide looks at the tasks of its batch; this one carries none")
        if self._seen[0] is tasks:
            found: tuple[Tensor, Tensor, Tensor] = self._seen[1]
            return found
        (padded,) = tasks.padded(max_buckets=1)
        size = padded.mask.shape
        z = self.rows(_flat(padded.x.flatten(0, 1), padded.y.flatten(0, 1)))
        row, column = torch.triu_indices(self.products, self.products)
        terms = torch.cat([z, z[:, row] * z[:, column]], -1).reshape(*size, -1)
        tail = torch.cat([tasks.sizes.to(z.dtype).log1p().unsqueeze(-1), self.context(_context(tasks))], -1)
        self._seen = (tasks, (terms, padded.mask.to(z.dtype), tail))
        return terms, padded.mask.to(z.dtype), tail


class _Scale(nn.Module):
    """Columns to mean 0 and sd 1 on the data of the fit."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.columns = values.shape[1]
        self.mean: Tensor
        self.sd: Tensor
        empty = values.numel() == 0
        mean = values.new_zeros(self.columns) if empty else values.mean(0)
        sd = values.new_zeros(self.columns) if empty else values.std(0, unbiased=False)
        self.register_buffer("mean", mean)
        self.register_buffer("sd", torch.where(sd > 0, sd, 1.0))

    def forward(self, values: Tensor) -> Tensor:
        scaled: Tensor = (values - self.mean) / self.sd
        return scaled


def _flat(x: Tensor, y: Tensor) -> Tensor:
    """Rows (N, d + k)."""
    return torch.cat([x.reshape(len(x), -1), y.reshape(len(y), -1)], -1)


def _context(tasks: Tasks) -> Tensor:
    """Contexts of the tasks as columns (T, c)."""
    columns = [tasks.context[name].reshape(len(tasks), -1) for name in sorted(tasks.context)]
    return torch.cat(columns, -1) if columns else torch.zeros(len(tasks), 0, dtype=tasks.y.dtype)


def _zero(layer: nn.Linear) -> nn.Linear:
    """A layer that gives zero to begin with: θ at its prior, where it is standardised."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _network(inputs: int, width: int, outputs: int) -> nn.Sequential:
    first, second, last = nn.Linear(inputs, width), nn.Linear(width, width), nn.Linear(width, outputs)
    return nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), last)
