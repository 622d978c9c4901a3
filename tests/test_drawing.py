"""Draws that `torch.func.vmap` can make many of: correlations, whose sampler in torch is another distribution."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from bayesmeta.drawing import draw

COUNT = 20_000


@pytest.mark.changes_rng
@pytest.mark.parametrize(("dim", "eta"), [(2, 2.0), (3, 2.0), (4, 1.0)])
def test_correlations_have_their_moments(dim: int, eta: float) -> None:
    """Every correlation is 2 Beta(a, a) - 1 with a = η + (d - 2) / 2: its variance is 1 / (2a + 1)."""
    torch.manual_seed(0)
    a = torch.tensor(eta + (dim - 2) / 2).double()
    fn = dist.LKJCholesky(dim, torch.tensor(eta, dtype=torch.float64))
    L = torch.func.vmap(lambda _: draw(fn), randomness="different")(torch.zeros(COUNT))
    r = (L @ L.mT)[:, *torch.tril_indices(dim, dim, -1)]
    square = 1 / (2 * a + 1)
    fourth = 3 / ((2 * a + 1) * (2 * a + 3))

    torch.testing.assert_close((L @ L.mT).diagonal(dim1=-2, dim2=-1), torch.ones(COUNT, dim).double())
    assert bool((r.mean(0).abs() < 4 * (square / COUNT).sqrt()).all())
    assert bool(((r.square().mean(0) - square).abs() < 4 * ((fourth - square**2) / COUNT).sqrt()).all())


@pytest.mark.changes_rng
def test_the_check_tells_another_distribution() -> None:
    """The sampler of torch 2.13 fails it from three dimensions on; where this fails, torch has been mended."""
    torch.manual_seed(0)
    L = dist.LKJCholesky(3, torch.tensor(2.0, dtype=torch.float64)).sample((COUNT,))
    r = (L @ L.mT)[:, 2, :2]

    assert bool(((r.square().mean(0) - 1 / 6).abs() > 4 * ((3 / 48 - 1 / 36) / COUNT) ** 0.5).all())


@pytest.mark.changes_rng
def test_a_batch_of_correlations() -> None:
    drawn = draw(dist.LKJCholesky(3, torch.tensor(1.0, dtype=torch.float64)).expand([5]).to_event(1))

    assert drawn.shape == (5, 3, 3)
    assert bool((drawn.diagonal(dim1=-2, dim2=-1) > 0).all())
    assert bool((drawn.triu(1) == 0).all())
