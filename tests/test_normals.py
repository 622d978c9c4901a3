"""Mixtures of normals against sums written out, scipy's root finding, and all pairs of components."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate, optimize, stats
from torch import Tensor

from bayesmeta.errors import NotAvailableError
from bayesmeta.normals import Normals


@pytest.fixture
def mixture() -> Normals:
    generator = torch.Generator().manual_seed(3)
    loc, scale = torch.randn(2, 7, 4, generator=generator, dtype=torch.float64)
    weights = torch.rand(7, generator=generator, dtype=torch.float64)
    return Normals(3 * loc, scale.abs() + 0.05, (weights / weights.sum()).log())


def _density(mixture: Normals, cell: int, y: float) -> float:
    parts = stats.norm.pdf(y, mixture.loc[:, cell].numpy(), mixture.scale[:, cell].numpy())
    return float((mixture.log_weight.exp().numpy() * parts).sum())


def _pairs(mixture: Normals, y: Tensor) -> Tensor:
    """The CRPS as a double sum over components (Grimit et al. 2006)."""

    def half(mean: Tensor, sd: Tensor) -> Tensor:
        z = mean / sd
        density: Tensor = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
        return 2 * sd * density + mean * torch.erf(z / math.sqrt(2))

    weight = mixture.log_weight.exp()[:, None]
    first = (weight * half(y - mixture.loc, mixture.scale)).sum(0)
    spread = (mixture.scale[:, None].square() + mixture.scale[None].square()).sqrt()
    second = (weight[:, None] * weight[None] * half(mixture.loc[:, None] - mixture.loc[None], spread)).sum((0, 1))
    return first - 0.5 * second


@pytest.mark.parametrize("cell", range(4))
def test_density_moments_and_distribution_function(mixture: Normals, cell: int) -> None:
    y = torch.full((4,), 0.3, dtype=torch.float64)
    below, _ = integrate.quad(lambda v: _density(mixture, cell, v), -30, 0.3, limit=500, points=[-3, 0])
    mean, _ = integrate.quad(lambda v: v * _density(mixture, cell, v), -30, 30, limit=500, points=[-3, 0, 3])
    square, _ = integrate.quad(lambda v: v**2 * _density(mixture, cell, v), -30, 30, limit=500, points=[-3, 0, 3])

    assert float(mixture.log_prob(y)[cell]) == pytest.approx(math.log(_density(mixture, cell, 0.3)))
    assert float(mixture.cdf(y)[cell]) == pytest.approx(below, abs=1e-7)
    assert float(mixture.mean[cell]) == pytest.approx(mean, abs=1e-6)
    assert float(mixture.sd[cell]) == pytest.approx(math.sqrt(square - mean**2), rel=1e-6)


@pytest.mark.parametrize("level", [0.001, 0.05, 0.5, 0.95, 0.9999])
def test_a_quantile_is_where_the_distribution_function_is_that(mixture: Normals, level: float) -> None:
    found = mixture.quantile(level)

    assert torch.allclose(mixture.cdf(found), torch.full((4,), level, dtype=torch.float64), atol=1e-9)
    expected = optimize.brentq(lambda v: float(mixture.cdf(torch.full((4,), v).double())[0]) - level, -40, 40)
    assert float(found[0]) == pytest.approx(expected, abs=1e-5)


def test_crps_is_the_sum_over_all_pairs(mixture: Normals) -> None:
    y = torch.tensor([0.3, -8.0, 2.0, 40.0], dtype=torch.float64)

    assert torch.allclose(mixture.crps(y), _pairs(mixture, y), rtol=0, atol=1e-7)


def test_crps_of_one_normal_is_the_closed_form() -> None:
    one = Normals.equal(torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), 2.0, dtype=torch.float64))

    expected = 2 * (2 * stats.norm.pdf(0) - 1 / math.sqrt(math.pi))
    assert float(one.crps(torch.zeros(1, dtype=torch.float64))[0]) == pytest.approx(expected, abs=1e-9)


def test_crps_is_not_taken_where_scales_differ_too_much() -> None:
    loc, scale = torch.zeros(2, 1, dtype=torch.float64), torch.tensor([[1e-6], [1.0]], dtype=torch.float64)
    with pytest.raises(NotAvailableError, match="scales differ so much"):
        Normals.equal(loc, scale).crps(torch.zeros(1, dtype=torch.float64))


def test_merging_many_components_of_one_scale_loses_next_to_nothing(mixture: Normals) -> None:
    generator = torch.Generator().manual_seed(4)
    loc = torch.randn(5000, 3, generator=generator, dtype=torch.float64)
    weight = torch.rand(5000, generator=generator, dtype=torch.float64)
    many = Normals(loc, torch.full_like(loc, 0.2), (weight / weight.sum()).log())
    y = torch.tensor([-3.0, 0.1, 4.0], dtype=torch.float64)

    few = many.merged()

    assert len(few.loc) < 500
    assert torch.allclose(few.mean, many.mean, atol=1e-12)
    assert torch.allclose(few.sd, many.sd, atol=1e-12)
    assert torch.allclose(few.cdf(y), many.cdf(y), atol=1e-5)
    assert torch.allclose(few.log_prob(y), many.log_prob(y), atol=1e-4)
    assert not torch.allclose(many.merged(3.0).log_prob(y), many.log_prob(y), atol=1e-4)
    assert mixture.merged() is mixture


def test_a_mixture_of_mixtures_is_a_mixture(mixture: Normals) -> None:
    loc, scale = (part.reshape(7, 2, 2) for part in (mixture.loc, mixture.scale))
    weights = torch.tensor([[0.2, 0.8]], dtype=torch.float64).expand(7, 2, 2)

    nested = Normals.nested(loc, scale, weights)

    assert torch.allclose(nested.mean, (loc * weights).sum(-1).mean(0))
    y = torch.tensor([0.1, -1.0], dtype=torch.float64)
    each = stats.norm.cdf(y[:, None].numpy(), loc.numpy(), scale.numpy())
    assert torch.allclose(nested.cdf(y), torch.from_numpy((each * weights.numpy()).sum(-1).mean(0)))
