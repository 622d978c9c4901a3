"""Pareto-smoothed weights against ArviZ, k-hat against tails of known shape, resampling against its weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bayesmeta.psis import effective_size, fit_pareto, psis, resample


def weights(kind: str, draws: int = 2000, seed: int = 0) -> Tensor:
    """Log weights (draws,) of several kinds."""
    rng = np.random.default_rng(seed)
    kinds: dict[str, Callable[[], Any]] = {
        "normal": lambda: rng.normal(size=draws),
        "narrow": lambda: 0.01 * rng.normal(size=draws),
        "wide": lambda: 4 * rng.normal(size=draws),
        "heavy": lambda: rng.exponential(size=draws) * 0.9,
        "bounded": lambda: np.log(rng.uniform(size=draws)),
        "shifted": lambda: rng.normal(size=draws) - 1e4,
    }
    return torch.from_numpy(kinds[kind]())


def pareto_tail(k: float, draws: int, seed: int) -> Tensor:
    """Log weights whose exceedances over 1 are generalised Pareto of shape k."""
    u = np.random.default_rng(seed).uniform(size=draws)
    exceed = -np.log(u) if k == 0 else (u**-k - 1) / k
    return torch.from_numpy(np.log1p(exceed))


@pytest.mark.parametrize("draws", [21, 100, 1000, 4000])
@pytest.mark.parametrize("kind", ["normal", "narrow", "wide", "heavy", "bounded", "shifted"])
def test_weights_and_k_hat_are_those_of_arviz(kind: str, draws: int) -> None:
    import arviz

    log_weights = weights(kind, draws)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ's own, on large k
        theirs, their_k = arviz.psislw(log_weights.numpy().copy())
    ours, our_k = psis(log_weights)

    np.testing.assert_allclose(ours.numpy(), np.asarray(theirs), rtol=0, atol=1e-6)
    assert float(our_k) == pytest.approx(float(their_k), abs=1e-6)
    # the check can fail: smoothing does something
    assert float((ours - torch.log_softmax(log_weights, 0)).abs().max()) > 1e-6


@pytest.mark.parametrize("k", [-0.3, 0.0, 0.3, 0.7, 1.2])
def test_k_hat_of_a_known_tail_is_within_its_error(k: float) -> None:
    """The mean of 40 estimates, up to four standard errors and the pull of the prior towards 0.5."""
    k_hat = psis(torch.stack([pareto_tail(k, 10_000, seed) for seed in range(40)], 1))[1]
    tail = math.ceil(3 * math.sqrt(10_000))
    pull = (0.5 - k) * 10 / (tail + 10)
    error = float(k_hat.std()) / math.sqrt(40)

    assert error < 0.03
    assert float(k_hat.mean()) == pytest.approx(k + pull, abs=4 * error + 0.02)


def test_the_pareto_fit_finds_shape_and_scale() -> None:
    rng = np.random.default_rng(0)
    exceed = 3.0 / 0.4 * (rng.uniform(size=(20_000, 2)) ** -0.4 - 1)
    k, scale = fit_pareto(torch.from_numpy(np.sort(exceed, 0)))

    np.testing.assert_allclose(k, 0.4, atol=0.05)
    np.testing.assert_allclose(scale, 3.0, atol=0.15)


def test_columns_are_smoothed_each_on_its_own() -> None:
    kinds = ("normal", "wide", "bounded")
    together = torch.stack([weights(kind) for kind in kinds], 1).reshape(2000, 3, 1)
    smoothed, k_hat = psis(together)

    assert smoothed.shape == (2000, 3, 1)
    assert k_hat.shape == (3, 1)
    for column, kind in enumerate(kinds):
        alone, k = psis(weights(kind))
        torch.testing.assert_close(smoothed[:, column, 0], alone)
        torch.testing.assert_close(k_hat[column, 0], k)


def test_weights_are_normalised_and_keep_their_order() -> None:
    log_weights = weights("wide")
    smoothed, _ = psis(log_weights)

    assert float(torch.logsumexp(smoothed, 0)) == pytest.approx(0, abs=1e-12)
    assert torch.equal(smoothed.argsort(), log_weights.argsort())


def test_equal_weights_stay_equal_and_have_no_tail() -> None:
    smoothed, k_hat = psis(torch.full((1000, 2), -7.0, dtype=torch.float64))

    torch.testing.assert_close(smoothed, torch.full((1000, 2), -math.log(1000), dtype=torch.float64))
    assert bool((k_hat == -math.inf).all())


def test_equal_weights_beside_unequal_ones() -> None:
    both = torch.stack([torch.zeros(2000, dtype=torch.float64), weights("normal")], 1)
    smoothed, k_hat = psis(both)

    assert float(k_hat[0]) == -math.inf
    assert 0 < float(k_hat[1]) < 1
    assert bool(smoothed.isfinite().all())


@pytest.mark.parametrize("draws", [1, 2, 5, 20])
def test_with_few_draws_there_is_no_tail_to_fit(draws: int) -> None:
    log_weights = weights("normal", draws)
    smoothed, k_hat = psis(log_weights)

    torch.testing.assert_close(smoothed, torch.log_softmax(log_weights, 0))
    assert float(k_hat) == (-math.inf if draws == 1 else math.inf)


@pytest.mark.parametrize("draws", [21, 30, 60])
def test_with_just_enough_draws_there_is(draws: int) -> None:
    smoothed, k_hat = psis(weights("normal", draws))

    assert bool(smoothed.isfinite().all())
    assert math.isfinite(float(k_hat))


def test_impossible_draws_get_no_weight() -> None:
    log_weights = weights("normal")
    log_weights[::3] = -math.inf
    smoothed, k_hat = psis(log_weights)

    assert bool((smoothed[::3] == -math.inf).all())
    assert math.isfinite(float(k_hat))
    assert float(torch.logsumexp(smoothed, 0)) == pytest.approx(0, abs=1e-12)


def test_one_draw_that_has_all_the_weight_is_not_trusted() -> None:
    log_weights = torch.full((1000,), -1e6, dtype=torch.float64)
    log_weights[17] = 0.0
    smoothed, k_hat = psis(log_weights)

    assert float(k_hat) > 0.7
    assert not bool(smoothed.isnan().any())
    assert int(smoothed.argmax()) == 17


def test_single_precision_is_taken_too() -> None:
    smoothed, k_hat = psis(weights("normal").float())

    assert smoothed.dtype == torch.float64
    torch.testing.assert_close(k_hat, psis(weights("normal"))[1], rtol=1e-3, atol=1e-3)


def test_the_effective_size_is_kishs() -> None:
    equal = torch.full((500,), -math.log(500), dtype=torch.float64)
    one = torch.full((500,), -math.inf, dtype=torch.float64)
    one[3] = 0.0
    w = torch.softmax(weights("normal", 500), 0)

    assert float(effective_size(equal)) == pytest.approx(500)
    assert float(effective_size(one)) == pytest.approx(1)
    assert float(effective_size(w.log())) == pytest.approx(float(1 / (w**2).sum()))


# ---------------------------------------------------------------------------------------------------------
# Resampling


def counts(index: Tensor, draws: int) -> Tensor:
    """How often each draw was taken, (draws, columns)."""
    columns = [torch.bincount(column, minlength=draws) for column in index.unbind(1)]
    return torch.stack(columns, 1).double()


def test_a_draw_is_taken_as_often_as_its_weight_says_up_to_one() -> None:
    log_w = torch.log_softmax(torch.stack([weights("normal", 400), weights("wide", 400)], 1), 0)
    for seed in range(5):
        taken = counts(resample(log_w, seed), 400)
        assert bool(((taken - 400 * log_w.exp()).abs() < 1 + 1e-9).all())
        assert bool((taken.sum(0) == 400).all())


def test_resampling_is_unbiased() -> None:
    """Over 4,000 columns with the same weights, each with its own offset; other weights are told apart."""
    draws, columns = 50, 4000
    log_w = torch.log_softmax(weights("normal", draws), 0)
    taken = counts(resample(log_w.unsqueeze(1).expand(draws, columns), 0), draws)
    expected = draws * log_w.exp()
    error = taken.std(1) / math.sqrt(columns) + 1e-9

    assert bool(((taken.mean(1) - expected).abs() < 4.5 * error).all())
    assert not bool(((taken.mean(1) - expected.roll(1)).abs() < 4.5 * error).all())


def test_the_order_of_the_draws_says_nothing() -> None:
    """The rows are shuffled: the first half of them has the weights of all."""
    draws, columns = 40, 5000
    log_w = torch.log_softmax(weights("normal", draws), 0)
    index = resample(log_w.unsqueeze(1).expand(draws, columns), 0)
    first_half = counts(index[: draws // 2], draws)
    error = first_half.std(1) / math.sqrt(columns) + 1e-9

    assert bool(((first_half.mean(1) - draws / 2 * log_w.exp()).abs() < 4.5 * error).all())


def test_equal_weights_take_every_draw_once() -> None:
    index = resample(torch.full((300, 4), -math.log(300), dtype=torch.float64), 0)

    assert torch.equal(index.sort(0).values, torch.arange(300).unsqueeze(1).expand(300, 4))


def test_resampling_has_its_own_seed() -> None:
    log_w = torch.log_softmax(weights("normal", 100), 0).unsqueeze(1)

    assert torch.equal(resample(log_w, 3), resample(log_w, 3))
    assert not torch.equal(resample(log_w, 3), resample(log_w, 4))
    assert resample(log_w.reshape(100, 1, 1), 3).shape == (100, 1, 1)
    assert resample(log_w.squeeze(1), 3).shape == (100,)


@pytest.mark.parametrize("possible", [100, 150, 189])
def test_fewer_possible_draws_than_a_tail_has_are_not_trusted(possible: int) -> None:
    log_weights = torch.full((4000,), -math.inf, dtype=torch.float64)
    log_weights[:possible] = torch.randn(possible, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    smoothed, k_hat = psis(log_weights)

    assert math.isinf(float(k_hat))
    assert bool(torch.isneginf(smoothed[possible:]).all())
    assert float(smoothed[:possible].exp().sum()) == pytest.approx(1)
