"""Back-ends that weigh draws: Laplace, Pathfinder, and auto, which goes on to NUTS where weights fail."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.errors import BayesmetaError, OptionError
from bayesmeta.evidence import Joint, choose
from bayesmeta.infer import auto, laplace, pathfinder
from bayesmeta.infer.auto import Auto, Whitened
from bayesmeta.infer.climb import climb
from bayesmeta.infer.importance import LEAST, Importance
from bayesmeta.infer.laplace import Laplace, hessian
from bayesmeta.infer.pathfinder import Pathfinder
from bayesmeta.target import Target
from tests.evidences import gallery
from tests.scenarios import SCENARIOS, quadrature
from tests.standard import mcse
from tests.test_climb import covariance
from tests.toys import Toy, banana, bent, funnel, normal, two_modes

ROADS: list[tuple[ModuleType, Any]] = [(laplace, Laplace()), (pathfinder, Pathfinder()), (auto, Auto(compile=False))]
IDS = ["laplace", "pathfinder", "auto"]
EIGHT_SCHOOLS = {"mu": (4.3968, 3.3177), "tau": (3.5977, 3.2200), "log tau": (0.8021, None)}  # exact, by quadrature


def zeros(dim: int) -> Tensor:
    return torch.zeros(dim, dtype=torch.float64)


def off(values: Tensor, mean: float, sd: float, size: float) -> float:
    """|error of the mean| in its standard errors, for draws worth `size`."""
    return abs(float(values.mean()) - mean) / (sd / math.sqrt(size))


# ---------------------------------------------------------------------------------------------------------
# Known densities


@pytest.mark.parametrize(("module", "config"), ROADS, ids=IDS)
@pytest.mark.parametrize("dim", [1, 4])
def test_a_gaussian_comes_out_whole(module: ModuleType, config: Any, dim: int) -> None:
    mean, spread = torch.linspace(-2, 5, dim, dtype=torch.float64), covariance(dim)
    draws = module.run(normal(mean, spread), config, seed=0, progress=False)

    assert draws.k_hat < 0.5
    assert draws.effective_size > 1500
    u, size = draws.u.reshape(-1, dim), draws.effective_size
    for k in range(dim):
        sd = float(spread[k, k].sqrt())
        assert off(u[:, k], float(mean[k]), sd, size) < 4
        assert off(u[:, k], float(mean[k]) + 0.2 * sd, sd, size) > 4
        assert abs(float(u[:, k].std()) / sd - 1) < 4 / math.sqrt(2 * size) + 0.03


def test_the_hessian_is_that_of_the_density() -> None:
    spread = covariance(6, condition=1e4)
    found = hessian(normal(zeros(6), spread), torch.linspace(-1, 1, 6, dtype=torch.float64))

    torch.testing.assert_close(found, -torch.linalg.inv(spread), rtol=1e-6, atol=1e-8)


def test_plain_laplace_misses_a_bent_density_and_says_so_and_auto_does_not_stop_there() -> None:
    plain = laplace.run(banana(1.0), Laplace(proposal="normal", importance=False), seed=0, progress=False)
    further = auto.run(banana(1.0), Auto(compile=False), seed=0, progress=False)

    assert plain.k_hat is not None
    assert plain.k_hat > 0.7
    assert plain.effective_size is None
    mean = float(plain.u[..., 1].mean())
    assert abs(mean - 1.0) > 0.5
    assert abs(float(further.u[..., 1].mean()) - 1.0) < 0.15
    assert abs(float(further.u[..., 0].std()) - 1.0) < 0.1


def test_pathfinder_says_that_it_cannot_follow_a_funnel() -> None:
    draws = pathfinder.run(funnel(), Pathfinder(), seed=0, progress=False)

    assert draws.k_hat is not None
    assert draws.k_hat > 0.7


@pytest.mark.parametrize("module", [laplace, auto], ids=["laplace", "auto"])
def test_both_of_two_modes_are_found_with_their_masses(module: ModuleType) -> None:
    config = Laplace(starts=12) if module is laplace else Auto(starts=12, compile=False)
    draws = module.run(two_modes(share=0.3), config, seed=0, progress=False)
    right = float((draws.u[..., 0] > 0).double().mean())

    assert abs(right - 0.3) < 4 * math.sqrt(0.21 / draws.effective_size)


def test_auto_goes_on_to_nuts_where_weights_fail() -> None:
    config = Auto(draws=2000, tune=300, chains=2, compile=False)
    draws = auto.run(bent(15), config, seed=0, progress=False)
    first, second = (draws.u[..., k].numpy() for k in (0, 1))

    assert draws.k_hat is None
    assert any("NUTS" in sentence for sentence in draws.log)
    assert "n_steps" in draws.stats
    assert abs(first.mean()) < 4 * mcse(first, "mean")
    assert abs(first.std() - 1.0) < 4 * mcse(first, "sd")
    assert abs(second.mean() - 1.0) < 4 * mcse(second, "mean")


def test_nuts_after_weights_starts_from_them_in_whitened_coordinates() -> None:
    spread = covariance(2, condition=1e6)
    white = Whitened(normal(zeros(2), spread).density(), zeros(2) + 3.0, torch.linalg.cholesky(spread))
    z = torch.tensor([0.3, -0.8], dtype=torch.float64)
    u = white.unwhitened(z)

    torch.testing.assert_close(white.whitened(u), z)
    value, grad = white.value_and_grad(z)
    torch.testing.assert_close(value, white.density(u))
    torch.testing.assert_close(grad, torch.linalg.cholesky(spread).mT @ white.density.value_and_grad(u)[1])


def test_nuts_from_poor_weights_is_right() -> None:
    """The same road with weights good enough to whiten by, but said not to be good enough to keep."""
    toy = banana(1.0)
    sampler = Importance(toy.log_prob, torch.Generator().manual_seed(0))
    found = climb(toy.value_and_grad, torch.ones(4, 2, dtype=torch.float64))
    sampler.draw(laplace.at_modes(toy, found, 5.0)[0], 2000)
    draws = auto._from_weighted(toy, sampler, Auto(draws=2000, tune=400, chains=2, compile=False), 0, False)

    first, second = (draws.u[..., k].numpy() for k in (0, 1))
    assert abs(first.std() - 1.0) < 4 * mcse(first, "sd")
    assert abs(second.mean() - 1.0) < 4 * mcse(second, "mean")


# ---------------------------------------------------------------------------------------------------------
# Hierarchies


def fitted(hierarchy: bm.Hierarchy, tasks: bm.Tasks, config: Any, seed: int = 0) -> bm.Posterior:
    return bm.fit(hierarchy, tasks, inference=config, seed=seed, progress=False)


@pytest.mark.parametrize("config", [config for _, config in ROADS], ids=IDS)
@pytest.mark.parametrize("name", [name for name, make in SCENARIOS.items() if make().box and make().road != "joint"])
def test_exact_moments_of_hierarchies(name: str, config: Any) -> None:
    scenario = SCENARIOS[name]()
    exact, posterior = quadrature(scenario), fitted(scenario.hierarchy, scenario.tasks, config)
    size = posterior.info.effective_size
    assert size is not None
    assert posterior.info.k_hat is not None
    assert posterior.info.k_hat < 0.7

    for site, values in posterior.phi.items():
        assert off(values, exact.mean[site], exact.sd[site], size) < 4, site
        assert off(values + 0.2 * exact.sd[site], exact.mean[site], exact.sd[site], size) > 4, site


def test_eight_schools_by_auto() -> None:
    model = gallery("eight_schools")
    posterior = fitted(model.hierarchy, model.load(), Auto(draws=20_000))
    size = posterior.info.effective_size
    assert size is not None
    assert size > 10_000
    mu, tau = posterior.phi["mu"], posterior.phi["tau"]

    assert off(mu, *EIGHT_SCHOOLS["mu"], size) < 4  # type: ignore[arg-type]
    assert off(tau, *EIGHT_SCHOOLS["tau"], size) < 4  # type: ignore[arg-type]
    assert off(tau.log(), 0.8021, float(tau.log().std()), size) < 4
    assert abs(float(tau.std()) / 3.22 - 1) < 0.05
    assert posterior.verdict.level == "fine"


def test_few_draws_asked_for_are_taken_from_enough() -> None:
    """A short tail, seen by 1,000 replications of `sbc` at 500 draws a round, is not seen at 2,000."""
    model = gallery("radon")
    posterior = fitted(model.hierarchy, model.load(), Auto(draws=100))
    first = next(line for line in posterior.info.log if line.startswith("round 1"))

    assert len(posterior.phi_coordinates) == 100
    assert float(first.rsplit(" ", 1)[1].replace(",", "")) > LEAST


def test_a_joint_target_of_many_dimensions_goes_straight_to_nuts() -> None:
    scenario = SCENARIOS["normal_normal"]()
    many = bm.Tasks.from_lists(None, [[float(k)] for k in range(70)], context={"sigma": [1.0] * 70})
    program = scenario.hierarchy.program(many)
    config = Auto(draws=40, tune=30, chains=2, compile=False)
    draws = auto.run(Target(Joint(program, many)), config, seed=0, progress=False)

    assert "too many for importance sampling" in draws.log[0]
    assert draws.u.shape == (2, 20, 72)


def test_pathfinder_takes_a_joint_target_and_laplace_refuses_one_that_is_too_large() -> None:
    scenario = SCENARIOS["normal_normal"]()
    many = bm.Tasks.from_lists(None, [[float(k % 7)] for k in range(400)], context={"sigma": [1.0] * 400})
    target = Target(Joint(scenario.hierarchy.program(many), many))
    draws = pathfinder.run(target, Pathfinder(draws=100, paths=2), seed=0, progress=False)

    assert draws.u.shape == (1, 100, 402)
    with pytest.raises(OptionError, match="402 dimensions"):
        laplace.run(target, Laplace(), seed=0, progress=False)


def test_many_points_at_once_are_the_points_one_by_one() -> None:
    scenario = SCENARIOS["correlated"]()
    target = Target(choose(scenario.hierarchy.program(scenario.tasks), scenario.tasks))
    u = 0.3 * torch.randn(5, target.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values, grads = target.value_and_grad(u)
    density = target.density(compile=False)

    torch.testing.assert_close(target.log_prob(u), values)
    for k in range(5):
        value, grad = density.value_and_grad(u[k])
        torch.testing.assert_close((value, grad), (values[k], grads[k]))


@pytest.mark.changes_rng
@pytest.mark.parametrize("config", [Laplace(draws=500), Pathfinder(draws=500), Auto(draws=500)], ids=IDS)
def test_the_seed_decides_and_the_users_randomness_is_not_touched(config: Any) -> None:
    scenario = SCENARIOS["normal_normal"]()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (fitted(scenario.hierarchy, scenario.tasks, config, seed=seed) for seed in (1, 1, 2))

    assert torch.equal(first.draws.u, again.draws.u)
    assert not torch.equal(first.draws.u, other.draws.u)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.draws.u.shape == (1, 500, 2)


def test_the_summary_of_weighted_draws_has_their_effective_size_and_no_r_hat() -> None:
    scenario = SCENARIOS["normal_normal"]()
    posterior = fitted(scenario.hierarchy, scenario.tasks, Auto())
    table = posterior.summary()

    assert np.isnan(table["r_hat"]).all()
    assert (table["ess_bulk"] == posterior.info.effective_size).all()
    expected = table["sd"] / math.sqrt(float(posterior.info.effective_size or 0))
    np.testing.assert_allclose(table["mcse_mean"], expected)


# ---------------------------------------------------------------------------------------------------------
# What cannot be done


def test_a_density_without_a_mode_is_an_error_for_laplace_and_nuts_work_for_auto() -> None:
    flat: Any = Toy(lambda u: -0.5 * (u.abs() - 5).relu().square().sum() + 1e-12 * u.sum(), 2)
    with pytest.raises(BayesmetaError, match="no negative definite Hessian"):
        laplace.run(flat, Laplace(), seed=0, progress=False)
    draws = auto.run(flat, Auto(draws=40, tune=20, chains=2, compile=False), seed=0, progress=False)
    assert "no mode with a negative definite Hessian: NUTS" in draws.log


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Laplace(draws=0), "draws must be a whole number of at least 1, got 0"),
        (lambda: Laplace(starts=1.5), "starts must be a whole number"),  # type: ignore[arg-type]
        (lambda: Laplace(proposal="cauchy"), "unknown proposal 'cauchy'"),  # type: ignore[arg-type]
        (lambda: Laplace(df=-1), "df must be a number above 0"),
        (lambda: Laplace(evidence="exat"), "unknown evidence 'exat'.*did you mean 'exact'"),  # type: ignore[arg-type]
        (lambda: Pathfinder(paths=True), "paths must be a whole number"),
        (lambda: Pathfinder(evidence=None), "unknown evidence None"),  # type: ignore[arg-type]
        (lambda: Auto(tune=-1), "tune must be a whole number of at least 0"),
        (lambda: Auto(target_accept=1.2), "target_accept must lie between 0 and 1"),
        (lambda: Auto(evidence="all"), "unknown evidence 'all'"),  # type: ignore[arg-type]
    ],
)
def test_settings_are_checked(make: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()
