"""L-BFGS against known modes; proposals against scipy; importance sampling against exact moments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from bayesmeta.errors import BayesmetaError
from bayesmeta.infer.climb import climb, finite_starts
from bayesmeta.infer.importance import Importance, fitted_mixture
from bayesmeta.infer.proposals import Dense, LowRank, Mixture
from tests.toys import Toy, banana, normal, two_modes


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def covariance(dim: int, condition: float = 100.0, seed: int = 0) -> Tensor:
    q, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator(seed), dtype=torch.float64))
    rotated: Tensor = (q * torch.logspace(0, math.log10(condition), dim, dtype=torch.float64)) @ q.mT
    return rotated


def starts(count: int, dim: int, seed: int = 1) -> Tensor:
    return torch.randn(count, dim, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("dim", [1, 3, 30])
def test_every_start_arrives_at_the_mode_of_a_gaussian(dim: int) -> None:
    mean = torch.linspace(-3, 40, dim, dtype=torch.float64)
    found = climb(normal(mean, covariance(dim)).value_and_grad, starts(5, dim))

    assert bool(found.converged.all())
    torch.testing.assert_close(found.mode, mean.expand(5, dim), atol=1e-2, rtol=0.0)


def test_a_curved_valley_is_followed() -> None:
    def rosenbrock(u: Tensor) -> Tensor:
        return -((1 - u[0]) ** 2) - 100 * (u[1] - u[0] ** 2) ** 2

    found = climb(Toy(rosenbrock, 2).value_and_grad, starts(4, 2), tolerance=1e-12)

    torch.testing.assert_close(found.mode, torch.ones(4, 2, dtype=torch.float64), atol=1e-4, rtol=0.0)


def test_every_step_rises_and_evaluations_are_counted() -> None:
    toy = banana()
    found = climb(toy.value_and_grad, starts(6, 2))

    assert bool((found.value.diff(dim=0) >= 0).all())
    assert found.evaluations == toy.calls


def test_a_wall_of_impossible_values_is_stepped_back_from() -> None:
    found = climb(Toy(lambda u: (u - u.exp()).sum() + torch.log(2.0 - u).sum(), 2).value_and_grad, starts(3, 2))

    assert bool(torch.isfinite(found.value).all())
    assert bool(found.converged.all())


def test_a_path_that_has_arrived_stays() -> None:
    mean = torch.zeros(2, dtype=torch.float64)
    begin = torch.stack([mean, torch.tensor([50.0, -70.0], dtype=torch.float64)])
    found = climb(normal(mean, covariance(2)).value_and_grad, begin)

    assert torch.equal(found.u[:, 0], torch.zeros(len(found.u), 2, dtype=torch.float64))


def test_starts_lie_where_the_density_is_finite() -> None:
    half = Toy(lambda u: torch.log(u).sum() - u.sum(), 2)
    found = finite_starts(half.value_and_grad, 7, 2, generator())

    assert found.shape == (7, 2)
    assert bool((found > 0).all())


def test_where_there_is_no_start_the_error_says_what_to_look_for() -> None:
    nowhere = Toy(lambda u: u.sum() * math.nan, 2)
    with pytest.raises(BayesmetaError, match="no starting point of finite log density"):
        finite_starts(nowhere.value_and_grad, 3, 2, generator())


# ---------------------------------------------------------------------------------------------------------
# Proposals


def moments_agree(drawn: Tensor, mean: Tensor, spread: Tensor) -> bool:
    """Means and variances within 5 standard errors, those of the variance by the fourth moment of the draws."""
    n = len(drawn)
    close_mean = ((drawn.mean(0) - mean).abs() < 5 * (spread.diagonal() / n).sqrt()).all()
    fourth = (drawn - mean).pow(4).mean(0) - spread.diagonal().square()
    close_variance = ((drawn.var(0) - spread.diagonal()).abs() < 5 * (fourth / n).sqrt()).all()
    return bool(close_mean and close_variance)


@pytest.mark.parametrize("df", [7.0, math.inf])
def test_a_dense_proposal_is_scipys(df: float) -> None:
    mean, spread = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), covariance(3)
    proposal = Dense(mean, torch.linalg.cholesky(spread), df)
    points = starts(5, 3)
    theirs = stats.multivariate_normal(mean, spread) if math.isinf(df) else stats.multivariate_t(mean, spread, df)

    np.testing.assert_allclose(proposal.log_prob(points), theirs.logpdf(points.numpy()), rtol=1e-10)
    drawn = proposal.sample(40_000, generator())
    wider = 1.0 if math.isinf(df) else df / (df - 2)
    assert moments_agree(drawn, mean, wider * spread)
    assert not moments_agree(drawn, mean, 1.1 * wider * spread)


@pytest.mark.parametrize("pairs", [1, 3, 6])
def test_the_gaussian_of_a_path_has_the_inverse_hessian_of_bfgs(pairs: int) -> None:
    dim, precision = 5, torch.linalg.inv(covariance(5))
    steps = starts(pairs, dim)
    changes = steps @ precision
    diagonal = torch.linspace(0.5, 2.0, dim, dtype=torch.float64)
    inverse = torch.diag(diagonal)
    for s, y in zip(steps, changes, strict=True):
        rho = 1 / (s @ y)
        away = torch.eye(dim, dtype=torch.float64) - rho * torch.outer(s, y)
        inverse = away @ inverse @ away.mT + rho * torch.outer(s, s)
    mean = torch.linspace(-1, 1, dim, dtype=torch.float64)

    proposal = LowRank.of_path(mean, diagonal, steps, changes)

    points = starts(4, dim, seed=3)
    expected = stats.multivariate_normal(mean, inverse).logpdf(points.numpy())
    np.testing.assert_allclose(proposal.log_prob(points), expected, rtol=1e-8)
    torch.testing.assert_close(proposal.times(points[0]), inverse @ points[0])
    assert moments_agree(proposal.sample(40_000, generator()), mean, inverse)


def test_a_mixture_is_the_weighted_sum_of_its_parts() -> None:
    eye, zero = torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    shares = torch.tensor([0.25, 0.75], dtype=torch.float64)
    mixture = Mixture([Dense(zero - 3, eye), Dense(zero + 3, 0.5 * eye)], shares)
    points = starts(6, 2)
    by_hand = 0.25 * stats.multivariate_normal([-3, -3], np.eye(2)).pdf(
        points.numpy()
    ) + 0.75 * stats.multivariate_normal([3, 3], 0.25 * np.eye(2)).pdf(points.numpy())

    np.testing.assert_allclose(mixture.log_prob(points).exp(), by_hand, rtol=1e-10)
    drawn = mixture.sample(20_000, generator())
    assert abs(float((drawn[:, 0] > 0).double().mean()) - 0.75) < 5 * math.sqrt(0.75 * 0.25 / 20_000)


# ---------------------------------------------------------------------------------------------------------
# Importance sampling


def importance(toy: Toy, scale: float, df: float, count: int = 4000, seed: int = 0) -> Importance:
    sampler = Importance(toy.log_prob, generator(seed))
    zero = torch.zeros(toy.dim, dtype=torch.float64)
    sampler.draw(Dense(zero, scale * torch.eye(toy.dim, dtype=torch.float64), df), count)
    return sampler


def test_k_hat_tells_a_proposal_that_is_too_narrow() -> None:
    toy = normal(torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    good, bad = importance(toy, 1.1, 5.0), importance(toy, 0.3, math.inf)

    assert good.smoothed()[1] < 0.5
    assert bad.smoothed()[1] > 0.7
    assert good.smoothed()[2] > 3000 > 1000 > bad.smoothed()[2]


def test_rounds_with_fitted_mixtures_find_a_bent_density() -> None:
    sampler = importance(banana(), 1.5, 5.0, count=1500)
    first = sampler.smoothed()[2]
    for _ in range(3):
        sampler.draw(sampler.refitted(), 1500)
    weights, k_hat, size = sampler.smoothed()
    mean = weights.exp() @ sampler.u
    variance = weights.exp() @ (sampler.u - mean).square()

    assert k_hat < 0.7
    assert size / 6000 > 1.3 * first / 1500
    torch.testing.assert_close(mean, torch.tensor([0.0, 0.5], dtype=torch.float64), atol=4 / math.sqrt(size), rtol=0.0)
    torch.testing.assert_close(variance, torch.tensor([1.0, 0.59], dtype=torch.float64), atol=0.15, rtol=0.0)


def test_resampled_draws_are_draws_of_the_density() -> None:
    toy = normal(torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64))
    sampler = importance(toy, 2.0, 5.0, count=8000)
    drawn = sampler.resampled(2000, seed=3)[:, 0]
    raw = sampler.u[:2000, 0]

    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    assert stats.kstest(raw, "norm").pvalue < 1e-6


def test_more_draws_than_were_weighted_can_be_had() -> None:
    toy = normal(torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64))

    assert importance(toy, 1.0, 5.0, count=100).resampled(250, seed=0).shape == (250, 1)


def test_a_mixture_fitted_to_two_clusters_has_both() -> None:
    toy = two_modes(share=0.3)
    centres = torch.tensor([[-4.0, 0.0], [4.0, 0.0]], dtype=torch.float64)
    which = (torch.rand(4000, generator=generator()) < 0.3).long()
    u = centres[which] + torch.randn(4000, 2, generator=generator(1), dtype=torch.float64)
    mixture = fitted_mixture(u, torch.full((4000,), 1 / 4000, dtype=torch.float64), 4, generator(2))
    sampler = Importance(toy.log_prob, generator(3))
    sampler.draw(mixture, 4000)

    assert sampler.smoothed()[1] < 0.7
    right = float((sampler.resampled(4000, 0)[:, 0] > 0).double().mean())
    assert abs(right - 0.3) < 4 * math.sqrt(0.3 * 0.7 / sampler.smoothed()[2])


def test_a_density_that_is_zero_everywhere_has_no_weights() -> None:
    toy = Toy(lambda u: u.sum() * 0.0 - math.inf, 1)

    assert importance(toy, 1.0, 5.0, count=100).smoothed()[1:] == (math.inf, 0.0)
