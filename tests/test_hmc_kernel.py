"""One transition: the leapfrog's reversibility, volume and order, and that it leaves distributions as they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from bayesmeta.infer import hmc_kernel
from bayesmeta.infer.hmc_kernel import Gradient, Point, leapfrog, metropolis, point_at, transition
from tests.truth import Array

SCALE = torch.tensor([0.5, 1.5, 1.0], dtype=torch.float64)


def skewed(u: Tensor) -> Tensor:
    """A gamma variable of shape 3 on the log scale, and a correlated pair."""
    gamma = 3 * u[0] - u[0].exp()
    return gamma - (u[1] ** 2 - 1.2 * u[1] * u[2] + u[2] ** 2) / (2 * (1 - 0.36))


def gradient_of(log_density: Callable[[Tensor], Tensor], sign: float = 1.0) -> Gradient:
    def both(u: Tensor) -> tuple[Tensor, Tensor]:
        grad, value = torch.func.vmap(torch.func.grad_and_value(log_density))(u)
        return value, sign * grad

    return both


GRADIENT = gradient_of(skewed)


def exact_draws(count: int, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    pair = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], count)
    return torch.from_numpy(np.column_stack([np.log(rng.gamma(3.0, size=count)), pair]))


def started(count: int = 5, seed: int = 0, gradient: Gradient = GRADIENT) -> tuple[Point, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    momentum = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return point_at(gradient, exact_draws(count, seed)), momentum


# --- leapfrog -----------------------------------------------------------------------------------------------


def test_it_comes_back_when_momenta_are_reversed() -> None:
    point, momentum = started()
    end, last = leapfrog(GRADIENT, point, momentum, 0.3, SCALE, 7)
    back, first = leapfrog(GRADIENT, end, -last, 0.3, SCALE, 7)

    assert float((end.u - point.u).abs().max()) > 0.1
    torch.testing.assert_close(back.u, point.u, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(-first, momentum, rtol=1e-10, atol=1e-12)
    # the check can fail
    astray, _ = leapfrog(GRADIENT, end, last, 0.3, SCALE, 7)
    assert float((astray.u - point.u).abs().max()) > 0.1


def test_it_keeps_volume() -> None:
    point, momentum = started(1)

    def flow(z: Tensor, lost: float = 1.0) -> Tensor:
        end, last = leapfrog(GRADIENT, point_at(GRADIENT, z[None, :3]), z[None, 3:], 0.4, SCALE, 4)
        return torch.cat([end.u[0], lost * last[0]])

    z = torch.cat([point.u[0], momentum[0]])
    assert float(torch.func.jacrev(flow)(z).det()) == pytest.approx(1.0, abs=1e-10)
    # the check can fail: friction
    assert abs(float(torch.func.jacrev(lambda z: flow(z, 0.99))(z).det()) - 1) > 0.01


def energy_error(gradient: Gradient, step: float) -> float:
    """Root mean square energy error over trajectories of length .8."""
    point, momentum = started(200, gradient=gradient)
    end, last = leapfrog(gradient, point, momentum, step, SCALE, round(0.8 / step))
    before = 0.5 * momentum.square().sum(-1) - point.lp
    return float((0.5 * last.square().sum(-1) - end.lp - before).square().mean().sqrt())


def test_its_energy_error_is_of_second_order() -> None:
    coarse, fine = energy_error(GRADIENT, 0.1), energy_error(GRADIENT, 0.05)
    assert coarse / fine == pytest.approx(4.0, rel=0.1)
    # the check can fail: with a gradient of the wrong sign, no step is small enough
    wrong = gradient_of(skewed, sign=-1.0)
    assert energy_error(wrong, 0.05) > 0.9 * energy_error(wrong, 0.1) > 10 * coarse


def test_each_chain_goes_its_own_way() -> None:
    point, momentum = started()
    end, last = leapfrog(GRADIENT, point, momentum, 0.2, SCALE, 3)
    alone, speed = leapfrog(GRADIENT, Point(*(part[2:3] for part in point)), momentum[2:3], 0.2, SCALE, 3)

    torch.testing.assert_close(alone.u[0], end.u[2])
    torch.testing.assert_close(speed[0], last[2])


# --- acceptance ---------------------------------------------------------------------------------------------


def test_acceptance_probabilities() -> None:
    after = torch.tensor([1.0, 2.0, 999.0, 1002.0, float("inf"), float("nan"), -5000.0], dtype=torch.float64)
    accept, diverging = metropolis(torch.ones(7, dtype=torch.float64), after)

    assert accept.tolist() == pytest.approx([1.0, np.exp(-1.0), 0.0, 0.0, 0.0, 0.0, 1.0])
    assert diverging.tolist() == [False, False, False, True, True, True, False]


def test_where_the_density_ends_chains_stay() -> None:
    def bounded(u: Tensor) -> Tensor:
        return -0.5 * u.square().sum() + torch.where(u[0] > 0.5, float("nan"), 0.0)

    gradient = gradient_of(bounded)
    point = point_at(gradient, torch.zeros(500, 2, dtype=torch.float64))
    generator, seen = torch.Generator().manual_seed(0), 0
    for _ in range(30):
        move = transition(gradient, point, 0.7, torch.ones(2, dtype=torch.float64), 2, generator)
        out = ~move.end.lp.isfinite()
        assert bool((move.diverging == out).all())
        assert torch.equal(move.point.u[out], point.u[out])
        assert not bool(move.accept[out].any())
        point, seen = move.point, seen + int(out.sum())

    assert seen > 1000
    assert bool(point.u.isfinite().all() & point.lp.isfinite().all() & point.grad.isfinite().all())
    draws = point.u[:, 0].numpy()
    assert stats.kstest(draws, stats.truncnorm(-np.inf, 0.5).cdf).pvalue > 0.001


# --- the distribution stays ---------------------------------------------------------------------------------

CHAINS, MOVES, STEP, LEAPS = 8_000, 15, 0.7, 2


def moved(gradient: Gradient) -> Array:
    """Chains that begin with exact draws, after so many transitions of fixed settings."""
    point = point_at(gradient, exact_draws(CHAINS, 1))
    generator = torch.Generator().manual_seed(2)
    for _ in range(MOVES):
        point = transition(gradient, point, STEP, SCALE, LEAPS, generator).point
    return point.u.numpy()


def wrong_with(u: Array) -> list[str]:
    """Which margins and moments are not those of the target, at one in a thousand each."""
    pair = (u[:, 1] - u[:, 2]) / np.sqrt(0.8)
    found = {
        "gamma": stats.kstest(np.exp(u[:, 0]), stats.gamma(3.0).cdf).pvalue,
        "first": stats.kstest(u[:, 1], "norm").pvalue,
        "difference": stats.kstest(pair, "norm").pvalue,
    }
    draws = {"gamma": np.exp(u[:, 0]) - 3, "product": u[:, 1] * u[:, 2] - 0.6, "square": u[:, 2] ** 2 - 1}
    found |= {f"mean of {name}": stats.ttest_1samp(values, 0.0).pvalue for name, values in draws.items()}
    return [name for name, chance in found.items() if not chance > 0.001]


def test_exact_draws_stay_exact() -> None:
    point = point_at(GRADIENT, exact_draws(CHAINS, 1))
    move = transition(GRADIENT, point, STEP, SCALE, LEAPS, torch.Generator().manual_seed(3))

    assert 0.5 < float(move.accept.mean()) < 0.95, "a test of the Metropolis step needs rejections"
    assert wrong_with(exact_draws(CHAINS, 1).numpy()) == []
    assert wrong_with(moved(GRADIENT)) == []


def test_without_the_metropolis_step_they_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def always(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(before), torch.zeros_like(before, dtype=torch.bool)

    monkeypatch.setattr(hmc_kernel, "metropolis", always)
    assert wrong_with(moved(GRADIENT)) != []


def test_with_another_density_they_do_not() -> None:
    assert wrong_with(moved(gradient_of(lambda u: skewed(u) + 0.1 * u[1]))) != []
