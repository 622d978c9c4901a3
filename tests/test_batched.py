"""A density of many points at once: the same numbers as one by one, in chunks, compiled, and on another device."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bayesmeta.batched import BatchedDensity, Mapped, _moved, _recorded, equal_chunks
from bayesmeta.density import Density
from bayesmeta.errors import BayesmetaWarning, NotAvailableError

DATA = (torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64),)
CONSTANT = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)


def log_density(u: Tensor, y: Tensor) -> Tensor:
    """Normal observations: data, a constant of the function's own, and tensors made on the way."""
    centre = u[0] + torch.ones(3, dtype=torch.float64) * CONSTANT.log()
    scale = torch.stack([u[1].exp(), torch.zeros((), dtype=torch.float64) + 2.0]).sum()
    return -0.5 * ((y - centre) / scale).square().sum() - 3 * scale.log() - 0.5 * u.square().sum()


def points(count: int) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(count), dtype=torch.float64)


def one_by_one(u: Tensor) -> tuple[Tensor, Tensor]:
    density = Density(log_density, 2, DATA, compile=False)
    values, grads = zip(*(density.value_and_grad(row) for row in u), strict=True)
    return torch.stack(values), torch.stack(grads)


@pytest.mark.parametrize(("count", "chunk"), [(1, None), (7, None), (7, 7), (7, 3), (8, 4), (5, 1)])
def test_many_points_are_as_one_by_one(count: int, chunk: int | None) -> None:
    density = BatchedDensity(log_density, 2, DATA, points=count, chunk=chunk, compile=False)
    u = points(count)
    values, grads = density.value_and_grad(u)
    expected = one_by_one(u)

    assert density.mode == "traced"
    torch.testing.assert_close(values, expected[0], rtol=1e-13, atol=0)
    torch.testing.assert_close(grads, expected[1], rtol=1e-12, atol=1e-14)


def test_chunks_are_equal_and_no_larger_than_allowed() -> None:
    for count in range(1, 40):
        for most in range(1, 45):
            size = equal_chunks(count, most)
            assert size <= most or size == count == 1
            chunks = math.ceil(count / size)
            assert chunks == math.ceil(count / most)
            assert chunks * size - count < chunks


def test_compiled_it_is_the_same() -> None:
    density = BatchedDensity(log_density, 2, DATA, points=6, compile=True)
    u = points(6)
    expected = one_by_one(u)

    assert density.mode == "compiled"
    for mine, theirs in zip(density.value_and_grad(u), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


def test_what_cannot_be_compiled_runs_as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("no compiler today")

    monkeypatch.setattr("bayesmeta.batched.compiled", broken)
    with pytest.warns(BayesmetaWarning, match="cannot be compiled for 3 points .* slower: no compiler today"):
        density = BatchedDensity(log_density, 2, DATA, points=3)

    assert density.mode == "traced"


def test_a_function_that_branches_on_values_says_so() -> None:
    def branching(u: Tensor) -> Tensor:
        return u.sum() if float(u[0]) > 0 else -u.sum()

    with pytest.raises(NotAvailableError, match="the density cannot be recorded for many points"):
        BatchedDensity(branching, 2, points=3, compile=False)


def test_a_function_of_many_points_serves_as_it_is() -> None:
    density = Mapped(one_by_one, 2)

    assert (density.mode, density.seconds, density.device.type) == ("vectorised", 0.0, "cpu")
    torch.testing.assert_close(density.value_and_grad(points(4)), one_by_one(points(4)))


def test_the_graph_moves_to_another_device_with_all_that_it_makes() -> None:
    """The meta device stands for any: an operation that meets a tensor of the CPU there fails."""
    meta = torch.device("meta")
    graph, inputs = _recorded(log_density, 2, 4, DATA)
    with pytest.raises(Exception, match=r"(?i)device"):
        graph(points(4).to(meta), *[tensor.reshape(tensor.shape) for tensor in inputs])
    moved = _moved(graph, inputs, meta)
    values, grads = graph(points(4).to(meta), *moved)

    assert (values.device, grads.device) == (meta, meta)
    assert (values.shape, grads.shape) == ((4,), (4, 2))
