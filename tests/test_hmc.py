"""Vectorised HMC: posteriors and densities with known answers, its warm-up, statistics, settings, and Ctrl-C."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.batched import BatchedDensity, Mapped
from bayesmeta.draws import Draws
from bayesmeta.errors import BayesmetaError, BayesmetaWarning, NotAvailableError, OptionError
from bayesmeta.evidence import choose
from bayesmeta.infer import hmc
from bayesmeta.infer.hmc import HMC, sample
from bayesmeta.infer.hmc_adapt import Scales, StepSize, halton, harmonic_mean
from bayesmeta.infer.hmc_kernel import Point
from bayesmeta.summary import ess, r_hat
from bayesmeta.target import Target
from tests.references import EIGHT_SCHOOLS, RADON, Moments, Problem, eight_schools, radon_variable_intercept
from tests.scenarios import SCENARIOS, quadrature
from tests.standard import chains_of, compare, over_confident, shifted
from tests.truth import Array

Batched = Callable[[Tensor], tuple[Tensor, Tensor]]
TINY = HMC(chains=8, draws=20, tune=30, compile=False)
QUICK = HMC(chains=64, draws=400, tune=300, compile=False)
MARGINS = {"mean": math.inf, "spread": math.inf}


def mapped(log_density: Callable[[Tensor], Tensor], dim: int) -> Mapped:
    """A density of one's own, by vmap."""

    def both(u: Tensor) -> tuple[Tensor, Tensor]:
        grad, value = torch.func.vmap(torch.func.grad_and_value(log_density))(u)
        return value, grad

    return Mapped(both, dim)


def drawn(density: Mapped, config: HMC = QUICK, **options: Any) -> Draws:
    return sample(density, config, **{"progress": False, **options})


# --- Gaussians ----------------------------------------------------------------------------------------------


def covariance(dim: int, condition: float = 100.0) -> Tensor:
    """Random directions, variances from 1 to `condition`."""
    generator = torch.Generator().manual_seed(dim)
    directions, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    variances = torch.logspace(0, math.log10(condition), dim, dtype=torch.float64)
    matrix: Tensor = directions * variances @ directions.T
    return matrix


def gaussian(matrix: Tensor, centre: float = 3.0, sign: float = 1.0) -> Mapped:
    precision = torch.linalg.inv(matrix)

    def both(u: Tensor) -> tuple[Tensor, Tensor]:
        slope = -(u - centre) @ precision
        return 0.5 * ((u - centre) * slope).sum(-1), sign * slope

    return Mapped(both, len(matrix))


def gaussian_failures(u: Tensor, matrix: Tensor, centre: float = 3.0, least_ess: float = 2000) -> list[str]:
    """Means and sds of some coordinates, and a product of two, against the truth."""
    some = range(0, len(matrix), max(1, len(matrix) // 10))
    draws = {f"u{k}": u[..., k].numpy() for k in some}
    mean, sd = dict.fromkeys(draws, centre), {f"u{k}": float(matrix[k, k].sqrt()) for k in some}
    if len(matrix) > 1:
        a, b = (u[..., k].numpy() - centre for k in (0, 1))
        draws["product"], mean["product"] = a * b, float(matrix[0, 1])
        sd["product"] = float((matrix[0, 0] * matrix[1, 1] + matrix[0, 1] ** 2).sqrt())
    return compare(draws, mean, sd).failures(least_ess, **MARGINS)


@pytest.mark.parametrize("adaptation", ["chees", "snaper"])
@pytest.mark.parametrize("dim", [1, 2, 10, 100])
def test_gaussians_of_condition_number_100(dim: int, adaptation: Any) -> None:
    matrix = covariance(dim)
    draws = drawn(gaussian(matrix), dataclasses.replace(QUICK, adaptation=adaptation))

    assert draws.divergences == 0
    assert gaussian_failures(draws.u, matrix) == []
    assert max(r_hat(draws.u[..., k].numpy()) for k in range(min(dim, 10))) < 1.02
    # the check can fail: another covariance, another mean
    assert gaussian_failures(draws.u, 1.2 * matrix) != []
    assert gaussian_failures(draws.u, matrix, centre=3.0 + 0.3 * float(matrix[0, 0].sqrt())) != []


@pytest.mark.parametrize(("chains", "draws"), [(1, 3000), (2, 1500), (16, 500), (256, 100)])
def test_few_chains_and_many(chains: int, draws: int) -> None:
    matrix = covariance(3, 10.0)
    found = drawn(gaussian(matrix), HMC(chains=chains, draws=draws, tune=300, compile=False))

    assert found.u.shape == (chains, draws, 3)
    assert gaussian_failures(found.u, matrix, least_ess=400) == []


def test_scales_that_differ_by_ten_orders_of_magnitude_are_learnt() -> None:
    matrix = torch.diag(torch.tensor([1e-10, 1.0, 1e10], dtype=torch.float64))
    draws = drawn(gaussian(matrix, centre=0.0))

    assert gaussian_failures(draws.u, matrix, centre=0.0) == []
    assert draws.stats["n_steps"].mean() < 4


def test_a_gradient_of_the_wrong_sign_is_seen() -> None:
    draws = drawn(
        gaussian(covariance(3), sign=-1.0),
        TINY,
        start=3 + torch.randn(8, 3, generator=torch.Generator().manual_seed(0)),
    )

    assert gaussian_failures(draws.u, covariance(3)) != []


# --- posteriors ---------------------------------------------------------------------------------------------


def fitted(problem: Any, config: HMC) -> tuple[bm.Posterior, dict[str, Array]]:
    posterior = bm.fit(problem.hierarchy, problem.tasks, config, progress=False)
    return posterior, chains_of(posterior) | chains_of(posterior, "theta")


@cache
def schools() -> tuple[bm.Posterior, dict[str, Array]]:
    return fitted(eight_schools(), HMC(draws=600, compile=False))


def failures(draws: dict[str, Array], exact: Moments) -> list[str]:
    return compare({name: draws[name] for name in exact.sd}, exact.mean, exact.sd).failures(10_000)


def test_eight_schools_by_the_exact_evidence() -> None:
    posterior, draws = schools()

    assert posterior.info.inference["back_end"] == "hmc"
    assert posterior.info.density == "traced"
    assert posterior.info.divergences == 0
    assert posterior.verdict.level == "fine"
    assert failures(draws, EIGHT_SCHOOLS) == []
    assert any("mean off" in failure for failure in failures(shifted(draws, 0.05), EIGHT_SCHOOLS))
    assert any("sd off" in failure for failure in failures(over_confident(draws, 0.95), EIGHT_SCHOOLS))


def test_a_dropped_likelihood_term_is_seen() -> None:
    problem = eight_schools()
    _, draws = fitted(Problem(problem.hierarchy, problem.tasks.without("8")), HMC(draws=200, compile=False))
    seven = Moments(EIGHT_SCHOOLS.mean, {n: sd for n, sd in EIGHT_SCHOOLS.sd.items() if n != "theta[8]"})

    assert any("mean off" in failure for failure in failures(draws, seven))


def test_radon_by_the_exact_evidence_and_compiled() -> None:
    posterior, draws = fitted(radon_variable_intercept(), HMC(draws=400))

    assert posterior.info.density == "compiled"
    assert posterior.info.divergences == 0
    assert failures(draws, RADON) == []


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in sorted(SCENARIOS) if SCENARIOS[name]().box])
def test_it_finds_phi_and_theta_jointly(name: str) -> None:
    scenario = SCENARIOS[name]()
    config = HMC(draws=1000, tune=800, evidence="joint", target_accept=0.85, adaptation="snaper", compile=False)
    _, draws = fitted(scenario, config)
    exact = quadrature(scenario)
    phi = {site: draws[site] for site in exact.mean}

    assert compare(phi, exact.mean, exact.sd).failures(2000, **MARGINS) == []
    fewer = quadrature(scenario, scenario.tasks[2:])
    assert compare(phi, fewer.mean, fewer.sd).failures(2000, **MARGINS) != []


def test_an_evidence_that_is_not_recorded_is_mapped() -> None:
    scenario = SCENARIOS["beta_binomial"]()
    target = Target(choose(scenario.hierarchy.program(scenario.tasks), scenario.tasks, "laplace"))
    draws = hmc.run(target, HMC(chains=3, draws=4, tune=4, compile=False), progress=False)

    assert draws.density == "vectorised"
    values = target.log_prob(draws.u.reshape(-1, target.dim))
    np.testing.assert_allclose(draws.stats["lp"].ravel(), values.numpy(), rtol=1e-8)


# --- what the warm-up learns --------------------------------------------------------------------------------


def test_the_halton_sequence_fills_the_unit_interval() -> None:
    values = np.array([halton(k) for k in range(1, 1024)])

    np.testing.assert_allclose(np.sort(values), np.arange(1, 1024) / 1024)


def test_the_harmonic_mean_heeds_the_worst_but_not_the_lost() -> None:
    assert harmonic_mean(torch.tensor([1.0, 0.5, 0.25])) == pytest.approx(3 / 7)
    many = torch.ones(100)
    many[:5] = 0.0
    assert harmonic_mean(many) == pytest.approx(1.0)
    many[:6] = 0.0
    assert harmonic_mean(many) < 0.6


def test_the_step_size_is_averaged_to_its_target() -> None:
    """Acceptance exp(-ε): the target .7 is met at ε = -log .7, from far below and from far above."""
    for first in (1e-3, 10.0):
        steps, rng = StepSize(first, 0.7), np.random.default_rng(0)
        for _ in range(600):
            steps.update(min(1.0, math.exp(-steps.current) * rng.uniform(0.9, 1.1)))
        assert steps.settled == pytest.approx(-math.log(0.7), rel=0.1)


def test_the_scales_of_a_gaussian_are_known_before_its_chains_have_spread() -> None:
    sd = torch.tensor([0.01, 1.0, 300.0], dtype=torch.float64)
    u = 0.1 * torch.randn(32, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 5
    scales = Scales(Point(u, torch.zeros(32, dtype=torch.float64), -u / sd.square()))

    torch.testing.assert_close(scales.scale, sd)


def test_a_higher_target_takes_smaller_steps() -> None:
    density = gaussian(covariance(5))
    step = [
        float(drawn(density, dataclasses.replace(TINY, tune=300, target_accept=a)).stats["step_size"].mean())
        for a in (0.6, 0.95)
    ]
    assert step[1] < 0.7 * step[0]


def test_a_direction_that_is_far_longer_takes_longer_trajectories() -> None:
    """Correlation hides it from the scales, which are those of coordinates."""
    steps = [
        float(drawn(gaussian(covariance(6, condition))).stats["n_steps"].mean()) for condition in (1.0, 100.0, 10_000.0)
    ]
    assert steps[0] < 4
    assert steps[1] > 2 * steps[0]
    assert steps[2] > 1.5 * steps[1]


def test_a_chain_that_is_lost_is_brought_back_and_holds_up_no_other() -> None:
    def with_a_trap(u: Tensor) -> Tensor:
        """A narrow pit far below, where no step of the others is small enough."""
        trap = -1e4 - 0.5e16 * (u - 5).square().sum()
        return torch.where(u[0] > 4.9, trap, -0.5 * u.square().sum())

    start = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).clamp(max=4)
    start[7] = 5.0
    draws = drawn(mapped(with_a_trap, 2), start=start)

    assert float(draws.u[..., 0].max()) < 4.9
    assert float(draws.stats["step_size"][0, 0]) > 0.3
    assert max(r_hat(draws.u[..., k].numpy()) for k in range(2)) < 1.01


def test_starting_points_are_near_the_bulk_and_not_on_a_false_summit() -> None:
    def far_away(u: Tensor) -> Tensor:
        body = -0.5 * ((u - 100) / 3).square().sum()
        return torch.where(u[0] < -1.5, body + 1e30 * (-1.5 - u[0]), body)

    u, evaluations = hmc.starting_points(mapped(far_away, 2), 32, 0, False)

    assert float((u - 100).abs().max()) < 12
    assert evaluations >= 32


# --- draws and statistics -----------------------------------------------------------------------------------


def test_statistics_of_draws_and_of_warm_up() -> None:
    density = gaussian(covariance(3))
    draws = drawn(density, TINY)
    names = {"lp", "energy", "acceptance_rate", "diverging", "n_steps", "step_size"}

    assert draws.u.shape == (8, 20, 3)
    assert {name: values.shape for name, values in draws.stats.items()} == dict.fromkeys(names, (8, 20))
    assert {name: values.shape for name, values in draws.warmup_stats.items()} == dict.fromkeys(names, (8, 30))
    values, _ = density.value_and_grad(draws.u.reshape(-1, 3))
    np.testing.assert_allclose(draws.stats["lp"].ravel(), values.numpy(), rtol=1e-12)
    assert bool((draws.stats["energy"] + draws.stats["lp"] > 0).all()), "kinetic energies"
    assert draws.stats["diverging"].dtype == np.bool_
    assert not draws.interrupted
    assert draws.seconds > 0


def test_gradients_are_counted() -> None:
    plain, calls = gaussian(covariance(3)), 0

    def counted(u: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += len(u)
        return plain.value_and_grad(u)

    draws = drawn(Mapped(counted, 3), TINY)
    assert 0.9 * calls < draws.gradients <= calls


def test_draws_of_many_short_chains_are_summarised_sensibly() -> None:
    normal = np.random.default_rng(0).standard_normal((64, 100))
    assert 0.8 * 6400 < ess(normal) < 1.2 * 6400
    assert r_hat(normal) < 1.01
    normal[:8] += 1.0
    assert r_hat(normal) > 1.02


def test_the_same_seed_gives_the_same_draws_and_leaves_the_global_generator_alone() -> None:
    density = gaussian(covariance(3))
    before = torch.get_rng_state()
    once = drawn(density, TINY, seed=1).u

    assert torch.equal(once, drawn(density, TINY, seed=1).u)
    assert not torch.equal(once, drawn(density, TINY, seed=2).u)
    assert torch.equal(before, torch.get_rng_state())
    assert len({tuple(chain[0].tolist()) for chain in once}) == 8


def test_given_starting_points_are_taken_in_turn() -> None:
    start = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], dtype=torch.float64)
    frozen = Mapped(lambda u: (torch.where((u == u.round()).all(-1), 0.0, -1e30), -u), 3)
    draws = drawn(frozen, HMC(chains=5, draws=2, tune=0, max_steps=1, compile=False), start=start)

    assert torch.equal(draws.u[:, -1], start[[0, 1, 0, 1, 0]])


@pytest.mark.parametrize(
    ("start", "error", "message"),
    [
        (torch.zeros(3), OptionError, r"start must have shape \(n, 3\) with n of at least 1, got \(3,\)"),
        (torch.zeros(2, 4), OptionError, r"start must have shape \(n, 3\) with n of at least 1, got \(2, 4\)"),
        (torch.zeros(0, 3), OptionError, r"start must have shape \(n, 3\) with n of at least 1, got \(0, 3\)"),
        (torch.full((4, 3), math.nan), BayesmetaError, "8 of 8 starting points have no finite log density"),
    ],
)
def test_given_starting_points_are_checked(start: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        drawn(gaussian(covariance(3)), TINY, start=start)


def test_progress_is_shown_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    drawn(gaussian(covariance(2)), TINY, progress=True)

    assert capsys.readouterr().out == ""


# --- interruption -------------------------------------------------------------------------------------------


def interrupted_at(call: int) -> Mapped:
    plain, calls = gaussian(covariance(2)), 0

    def both(u: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return plain.value_and_grad(u)

    return Mapped(both, 2)


def test_ctrl_c_keeps_the_draws_made() -> None:
    config = HMC(chains=4, draws=10_000, tune=10, compile=False)
    with pytest.warns(BayesmetaWarning, match=r"interrupted: \d+ of 10000 draws of 4 chains were kept"):
        draws = drawn(interrupted_at(3000), config, start=torch.zeros(1, 2))

    assert draws.interrupted
    assert 0 < draws.u.shape[1] < 3000
    assert all(values.shape == draws.u.shape[:2] for values in draws.stats.values())
    assert bool(draws.u.isfinite().all())


def test_ctrl_c_during_warm_up_is_a_keyboard_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt, match="interrupted during warm-up; no draws were taken yet"):
        drawn(interrupted_at(50), HMC(chains=4, draws=10, tune=1000, compile=False), start=torch.zeros(1, 2))


# --- settings and devices -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": 0}, "draws must be a whole number of at least 1, got 0"),
        ({"chains": 2.0}, "chains must be a whole number of at least 1, got 2.0"),
        ({"tune": -1}, "tune must be a whole number of at least 0, got -1"),
        ({"max_steps": True}, "max_steps must be a whole number of at least 1, got True"),
        ({"target_accept": 1.0}, "target_accept must lie between 0 and 1, got 1.0"),
        ({"target_accept": "high"}, "target_accept must lie between 0 and 1, got 'high'"),
        ({"evidence": "exat"}, "unknown evidence 'exat'; valid: .*; did you mean 'exact'"),
        ({"adaptation": "chess"}, "unknown adaptation 'chess'; valid: 'chees', 'snaper'; did you mean 'chees'"),
        ({"device": "gpu"}, "unknown device 'gpu'; valid: 'auto', 'cpu', 'cuda'"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        HMC(**settings)


def radon_target() -> Target:
    problem = SCENARIOS["normal_normal"]()
    return Target(choose(problem.hierarchy.program(problem.tasks), problem.tasks))


def test_trajectories_have_at_most_max_steps() -> None:
    draws = drawn(gaussian(covariance(5)), dataclasses.replace(TINY, max_steps=2))

    assert max(draws.stats["n_steps"].max(), draws.warmup_stats["n_steps"].max()) == 2


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NotAvailableError, match="torch finds no GPU: use device='cpu' or 'auto'"):
        hmc.run(radon_target(), dataclasses.replace(TINY, device="cuda"), progress=False)


def test_which_device_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def device(choice: Any, recordable: bool = True, numbers: int = 10) -> str:
        return hmc._device(dataclasses.replace(TINY, device=choice), recordable, numbers)

    assert (device("cpu"), device("cuda"), device("auto")) == ("cpu", "cuda", "cpu")
    assert device("auto", numbers=10**6) == "cuda"
    assert device("auto", recordable=False, numbers=10**6) == "cpu"
    with pytest.raises(NotAvailableError, match="a loop that stays on the CPU"):
        device("cuda", recordable=False)


def test_many_tasks_are_evaluated_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hmc, "chunk_size", lambda numbers: 3)
    density = hmc.density_of(radon_target(), TINY)

    assert isinstance(density, BatchedDensity)
    chunked = sample(density, TINY, progress=False)
    monkeypatch.undo()
    whole = sample(hmc.density_of(radon_target(), TINY), TINY, progress=False)
    torch.testing.assert_close(chunked.u, whole.u)
