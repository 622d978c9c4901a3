"""Padding: real rows where the mask says so, rows of the same task elsewhere, and few cells."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from bayesmeta.errors import OptionError
from bayesmeta.padding import MAX_CANDIDATES, bucket_bounds
from bayesmeta.tasks import Tasks


def ragged(sizes: list[int], seed: int = 0) -> Tasks:
    rng = np.random.default_rng(seed)
    return Tasks.from_lists(
        [rng.normal(size=(n, 2)) for n in sizes],
        [rng.normal(size=n) for n in sizes],
        context={"c": rng.normal(size=len(sizes))},
        allow_empty=True,
    )


def cells(sizes: np.ndarray, bounds: np.ndarray) -> int:
    """Tasks x padded size, summed over the buckets."""
    return int(np.maximum(bounds, 1)[np.searchsorted(bounds, sizes)].sum())


@pytest.mark.parametrize("exact_sizes", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_mask_gives_each_task_back(exact_sizes: bool, seed: int) -> None:
    sizes = np.random.default_rng(seed).integers(1, 60, 200).tolist()
    tasks = ragged(sizes, seed)
    seen = []
    for bucket in tasks.padded(exact_sizes=exact_sizes):
        assert bucket.x.shape == (*bucket.mask.shape, 2)
        assert bucket.y.shape == bucket.mask.shape
        assert bucket.index.tolist() == sorted(bucket.index.tolist())
        for b, position in enumerate(bucket.index.tolist()):
            task, mask = tasks[position], bucket.mask[b]
            assert torch.equal(bucket.x[b][mask], task.x)
            assert torch.equal(bucket.y[b][mask], task.y)
            assert (bucket.x[b][~mask] == task.x[0]).all()
            assert (bucket.y[b][~mask] == task.y[0]).all()
            assert torch.equal(bucket.context["c"][b], task.context["c"])
        seen += bucket.index.tolist()
    assert sorted(seen) == list(range(len(tasks)))


def test_exact_sizes_need_no_padding() -> None:
    buckets = ragged([3, 1, 3, 2, 1]).padded(exact_sizes=True)
    assert [bucket.index.tolist() for bucket in buckets] == [[1, 4], [3], [0, 2]]
    assert all(bucket.mask.all() for bucket in buckets)


def test_an_empty_task_borrows_a_real_row() -> None:
    tasks = ragged([0, 2])
    (bucket,) = tasks.padded()
    assert bucket.mask.tolist() == [[False, False], [True, True]]
    assert (bucket.x[0] == tasks.x[0]).all()
    assert (bucket.y[0] == tasks.y[0]).all()


@pytest.mark.parametrize("exact_sizes", [False, True])
def test_nothing_observed_at_all_gives_one_masked_row_of_zeros(exact_sizes: bool) -> None:
    (bucket,) = Tasks.without_observations(["A", "B"], like=ragged([1]), context={"c": [1.0, 2.0]}).padded(
        exact_sizes=exact_sizes
    )
    assert bucket.x.tolist() == [[[0.0, 0.0]]] * 2
    assert bucket.mask.tolist() == [[False], [False]]


def test_few_cells_stay_one_bucket() -> None:
    assert len(ragged([1, 100]).padded()) == 1
    assert len(ragged([5] * 5_000).padded()) == 1


def test_many_cells_are_worth_more_buckets() -> None:
    sizes = [1] * 3_000 + [50] * 30 + [500]
    widths = [bucket.mask.shape[1] for bucket in ragged(sizes).padded()]
    assert widths == [1, 50, 500]
    assert [bucket.mask.shape[1] for bucket in ragged(sizes).padded(max_buckets=2)] == [1, 500]
    assert len(ragged(sizes).padded(max_buckets=1)) == 1
    with pytest.raises(OptionError, match="max_buckets: got 0; wanted 1 or more"):
        ragged([1]).padded(max_buckets=0)


@pytest.mark.parametrize("seed", range(8))
def test_the_bounds_are_the_best_there_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.choice(rng.integers(0, 400, 12), size=2_000, p=rng.dirichlet(np.full(12, 0.3)))
    distinct = np.unique(sizes)
    best = [
        min(
            cells(sizes, np.array([*inner, distinct[-1]]))
            for inner in itertools.combinations(distinct[:-1], min(k, len(distinct)) - 1)
        )
        for k in (1, 2, 3)
    ]
    wanted = 0
    while wanted < 2 and 2 * best[wanted + 1] <= best[wanted] and best[wanted] - best[wanted + 1] > 2_000:
        wanted += 1
    bounds = bucket_bounds(sizes, 3)
    assert cells(sizes, bounds) == best[wanted]
    assert len(bounds) <= wanted + 1
    assert bounds[-1] == distinct[-1]


def test_many_distinct_sizes_are_thinned() -> None:
    sizes = np.arange(5 * MAX_CANDIDATES)
    bounds = bucket_bounds(sizes, 3)
    assert bounds[-1] == sizes[-1]
    two = cells(sizes, np.array([sizes[-1] // 2, sizes[-1]]))
    assert cells(sizes, bounds) <= cells(sizes, sizes[-1:])
    assert two > cells(sizes, sizes[-1:]) / 2  # evenly spread sizes: no second bucket halves the cells
    assert len(bounds) == 1
