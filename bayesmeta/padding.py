"""Ragged tasks as a few rectangular batches.

Tasks of similar size share a bucket, padded to the largest of them by repeating a real row of the task, so
that no density ever sees a made-up value; a mask says which rows are real. Buckets are chosen to keep the
number of cells (tasks x padded size) small, by dynamic programming over the distinct sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Padded", "bucket_bounds", "pad"]

# A further bucket is one more copy of the density's graph: it must halve the cells and save this many.
WORTHWHILE_CELLS = 2_000
# Bounds are sought among at most this many distinct sizes: the search is quadratic in them.
MAX_CANDIDATES = 1_000

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Padded:
    """B tasks padded to n rows each (n is at least 1, so that no axis is ever empty).

    Attributes:
        index: the tasks' positions, int64 (B,).
        x: inputs (B, n, ...).
        y: observations (B, n, ...).
        mask: which rows are real, bool (B, n).
        context: per task, each (B, ...).
    """

    index: Tensor
    x: Tensor
    y: Tensor
    mask: Tensor
    context: Mapping[str, Tensor]

    def some(self, part: slice) -> Padded:
        """Some of the tasks, by their place in the batch."""
        context = {name: value[part] for name, value in self.context.items()}
        return Padded(self.index[part], self.x[part], self.y[part], self.mask[part], context)


def pad(
    flat: tuple[Tensor, Tensor],
    offsets: Tensor,
    context: Mapping[str, Tensor],
    *,
    max_buckets: int,
    exact_sizes: bool,
) -> list[Padded]:
    """Buckets of padded tasks, from flat x and y (N, ...) and offsets (T + 1,); ascending in size."""
    sizes = offsets.diff()
    if exact_sizes:
        bounds = np.unique(sizes.numpy())
    else:
        bounds = bucket_bounds(sizes.numpy(), max_buckets)
    bucket = torch.from_numpy(np.searchsorted(bounds, sizes.numpy()))
    return [
        _pad_bucket(flat, offsets, context, torch.nonzero(bucket == b).squeeze(1), int(bound))
        for b, bound in enumerate(bounds)
    ]


def _pad_bucket(
    flat: tuple[Tensor, Tensor], offsets: Tensor, context: Mapping[str, Tensor], index: Tensor, bound: int
) -> Padded:
    """The tasks at `index`, padded to `bound` rows."""
    sizes, starts = offsets.diff()[index], offsets[index]
    position = torch.arange(max(bound, 1))
    mask = position < sizes[:, None]
    # A padded cell repeats the task's first row; an empty task borrows row 0 of all.
    first = torch.where(sizes > 0, starts, torch.zeros_like(starts))
    rows = torch.where(mask, starts[:, None] + position, first[:, None])
    x, y = (_gather(values, rows) for values in flat)
    return Padded(index, x, y, mask, {name: values[index] for name, values in context.items()})


def _gather(values: Tensor, rows: Tensor) -> Tensor:
    if len(values) == 0:
        return values.new_zeros((*rows.shape, *values.shape[1:]))
    return values[rows]


def bucket_bounds(sizes: IntArray, max_buckets: int) -> IntArray:
    """The largest size in each bucket, ascending.

    The best k buckets are found for k = 1, 2, ...; one more is taken only while it at least halves the cells
    and saves more than 2,000 of them.
    """
    distinct, counts = np.unique(sizes, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    candidates = _thinned(len(distinct))
    widths, below = np.maximum(distinct[candidates], 1), below[np.concatenate([[0], candidates + 1])]
    # cells[j]: the least cells for all sizes up to candidate j; cuts[k][j]: where their last bucket starts.
    cells = widths * below[1:]
    cuts: list[IntArray] = []
    for _ in range(1, min(max_buckets, len(candidates))):
        more, cut = _one_more_bucket(cells, widths, below)
        if 2 * more[-1] > cells[-1] or cells[-1] - more[-1] <= WORTHWHILE_CELLS:
            break
        cells = more
        cuts.append(cut)
    bounds = [len(candidates) - 1]
    for cut in reversed(cuts):
        if cut[bounds[-1]] > 0:
            bounds.append(int(cut[bounds[-1]]) - 1)
    return distinct[candidates[bounds[::-1]]]


def _one_more_bucket(cells: IntArray, widths: IntArray, below: IntArray) -> tuple[IntArray, IntArray]:
    """Least cells with one more bucket, and where that bucket starts, for each candidate bound."""
    before = np.concatenate([[0], cells])  # before[i]: the sizes ahead of candidate i, in one bucket less
    more, cut = np.empty_like(cells), np.empty_like(cells)
    for j in range(len(widths)):
        options = before[: j + 1] + widths[j] * (below[j + 1] - below[: j + 1])
        cut[j] = np.argmin(options)
        more[j] = options[cut[j]]
    return more, cut


def _thinned(n: int) -> IntArray:
    """Positions of at most `MAX_CANDIDATES` of n distinct sizes, evenly spread, the last one always in."""
    if n <= MAX_CANDIDATES:
        return np.arange(n)
    return np.unique(np.linspace(0, n - 1, MAX_CANDIDATES).astype(np.int64))
