"""Streams of tasks: the same batch for the same number and seed, in all forms that sources come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import bayesmeta as bm
from bayesmeta.errors import DataError, OptionError
from bayesmeta.streams import as_tasks, seed_of


def batch(seed: int) -> bm.Tasks:
    y = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return bm.Tasks.from_arrays(torch.zeros(3, 4, 1), y)


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Ten tasks of four observations, the number of the task in y."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(4, 1), torch.full((4,), float(index))


class Ragged(Pairs):
    """The same with as many observations as the number of the task says, and one."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(index + 1, 1), torch.full((index + 1,), float(index))


def seen(stream: bm.Stream, count: int, seed: int = 0) -> list[list[float]]:
    return [stream.batch(k, seed).y.tolist() for k in range(count)]


def test_a_function_gives_every_batch_again() -> None:
    stream = bm.Stream(batch)
    first = seen(stream, 4, seed=1)

    assert [stream.batch(k, 1).y.tolist() for k in (3, 0, 2, 1)] == [first[k] for k in (3, 0, 2, 1)]
    assert len({tuple(y) for y in first + seen(stream, 4, seed=2)}) == 8
    assert len({seed_of(a, b) for a in range(30) for b in range(30)}) == 900


def test_a_loader_is_gone_through_again_and_again_in_new_orders() -> None:
    stream = bm.Stream(DataLoader(Pairs(), batch_size=5, shuffle=True))
    epochs = [[*stream.batch(2 * e).y[::4].tolist(), *stream.batch(2 * e + 1).y[::4].tolist()] for e in range(3)]

    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_loader_gives_every_batch_again_whatever_the_global_random_numbers_are() -> None:
    first = seen(bm.Stream(DataLoader(Pairs(), batch_size=5, shuffle=True)), 5)
    stream = bm.Stream(DataLoader(Pairs(), batch_size=5, shuffle=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        state = torch.get_rng_state()
        assert stream.batch(3).y.tolist() == first[3]
        assert stream.batch(1).y.tolist() == first[1]
        assert seen(stream, 5) == first
        assert torch.equal(torch.get_rng_state(), state)
    assert seen(stream, 5, seed=1) != first


@pytest.mark.parametrize(
    ("source", "sizes"),
    [
        (DataLoader(Ragged(), batch_size=3, collate_fn=list), [1, 2, 3]),
        ([(np.zeros((2, 3, 1)), np.ones((2, 3)))], [3, 3]),
        ([{"x": torch.zeros(2, 3), "y": torch.ones(2, 3), "size": [1.0, 2.0]}], [3, 3]),
        ([bm.Tasks.from_lists(None, [[1.0], [2.0, 3.0]])], [1, 2]),
        (lambda seed: [([0.0], [float(seed)])], [1]),
    ],
)
def test_batches_come_in_many_forms(source: Any, sizes: list[int]) -> None:
    tasks = bm.Stream(source).batch(0)

    assert tasks.sizes.tolist() == sizes
    assert tasks.y.dtype == torch.float64


def test_the_tasks_of_the_first_batch_have_names_that_new_tasks_will_not_have() -> None:
    stream = bm.Stream(batch)

    assert stream.first(3).names == ("stream 0", "stream 1", "stream 2")
    assert torch.equal(stream.first(3).y, stream.batch(0, 3).y)


def test_contexts_come_with_a_mapping() -> None:
    tasks = as_tasks({"x": torch.zeros(2, 3), "y": torch.ones(2, 3), "size": [1.0, 2.0]})

    assert tasks.context["size"].tolist() == [1.0, 2.0]


def test_a_function_may_use_global_random_numbers() -> None:
    def make(seed: int) -> bm.Tasks:
        torch.manual_seed(seed)
        return bm.Tasks.from_arrays(None, torch.randn(2, 3))

    state = torch.get_rng_state()
    assert seen(bm.Stream(make), 2) == seen(bm.Stream(make), 2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, "source: got int; wanted a function of a seed"),
        (iter([1]), "source: got list_iterator; .*an iterator ends"),
    ],
)
def test_what_is_no_source_is_refused(source: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        bm.Stream(source)


def test_wrong_options_are_named() -> None:
    with pytest.raises(OptionError, match="validation: got int; wanted a Tasks"):
        bm.Stream(batch, validation=3)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="count: got 0; wanted a whole number of tasks, at least 1"):
        bm.Stream(batch, count=0)


def test_what_is_no_batch_is_refused() -> None:
    with pytest.raises(DataError, match="a batch of the stream is a float; wanted a Tasks, a pair"):
        bm.Stream(lambda seed: 1.0).batch(0)
    with pytest.raises(DataError, match="the source of the stream has no batches"):
        bm.Stream([]).batch(0)
    empty = bm.Tasks.without_observations(["a"])
    with pytest.raises(DataError, match="batch 2 of the stream has a task without observations"):
        bm.Stream(lambda seed: empty).batch(2)


def test_a_stream_shows_itself() -> None:
    assert repr(bm.Stream(batch)) == "Stream(batch)"
    assert repr(bm.Stream([batch(0)], validation=batch(1))) == "Stream(list, validation on 3 tasks)"


def test_a_loader_with_a_generator_of_its_own_gives_every_batch_again() -> None:
    data = torch.utils.data.TensorDataset(torch.arange(12.0).reshape(6, 2), torch.arange(12.0).reshape(6, 2))
    own = torch.Generator().manual_seed(5)
    stream = bm.Stream(torch.utils.data.DataLoader(data, batch_size=2, shuffle=True, generator=own))
    first = [stream.batch(0).y.tolist() for _ in range(3)]
    assert first[0] == first[1] == first[2]
    assert len({str(stream.batch(0, seed=seed).y.tolist()) for seed in range(5)}) > 1


def test_global_random_numbers_of_a_function_follow_the_seed() -> None:
    stream = bm.Stream(lambda seed: bm.Tasks.from_arrays(None, torch.randn(2, 3) + np.random.rand()))  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    batches = [stream.batch(k).y.tolist() for k in (0, 1, 2, 0)]

    assert batches[0] == batches[3]
    assert len({str(one) for one in batches}) == 3
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]  # noqa: NPY002


def test_a_sampler_of_batches_with_a_generator_gives_every_batch_again() -> None:
    data = torch.utils.data.TensorDataset(torch.arange(24.0).reshape(12, 2), torch.arange(24.0).reshape(12, 2))
    order = torch.utils.data.RandomSampler(data, generator=torch.Generator().manual_seed(5))
    batches = torch.utils.data.BatchSampler(order, 3, drop_last=False)
    stream = bm.Stream(torch.utils.data.DataLoader(data, batch_sampler=batches))

    assert seen(stream, 4) == seen(stream, 4)


def test_two_tasks_as_lists_are_told_from_a_pair_of_lists() -> None:
    x, y = [[0.0, 1.0], [2.0, 3.0]], [[10.0, 11.0], [12.0, 13.0]]

    assert as_tasks((x, y)).y.tolist() == [10.0, 11.0, 12.0, 13.0]
    assert as_tasks([(x[0], y[0]), (x[1], y[1])]).y.tolist() == [10.0, 11.0, 12.0, 13.0]
