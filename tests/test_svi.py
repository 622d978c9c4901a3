"""Stochastic variational inference: known posteriors, what k-hat tells, minibatches, settings, Ctrl-C."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.density import Density
from bayesmeta.errors import BayesmetaError, BayesmetaWarning, OptionError
from bayesmeta.evidence import Joint
from bayesmeta.infer import svi_draws
from bayesmeta.infer.svi import run
from bayesmeta.infer.svi_amortised import LocalAmortised
from bayesmeta.infer.svi_minibatch import Batch
from bayesmeta.infer.svi_train import plateau, slope, smoothed
from bayesmeta.psis import psis
from bayesmeta.target import Target
from tests.evidences import gallery
from tests.references import EIGHT_SCHOOLS, RADON, radon_variable_intercept
from tests.scenarios import SCENARIOS, quadrature
from tests.toys import funnel, normal

DRAWS = 4000
ROUGH = bm.SVI(steps=60, patience=20, tolerance=0.0, particles=4, draws=300)


def toy(target: Any) -> Any:
    """A density that is no hierarchy, as the target of a single task."""
    target.evidence = SimpleNamespace(tasks=["one"], cells=1)
    target.program = SimpleNamespace(structure=SimpleNamespace(vectorised=True))
    return target


def correlated(dim: int, rho: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a Gaussian of equal correlations, its scales from .01 to 100."""
    scale = torch.logspace(-2, 2, dim, dtype=torch.float64)
    correlation = torch.full((dim, dim), rho, dtype=torch.float64).fill_diagonal_(1.0)
    return torch.linspace(-50.0, 300.0, dim, dtype=torch.float64), scale[:, None] * correlation * scale


def errors(values: Tensor, mean: float, sd: float, size: float = DRAWS) -> tuple[float, float]:
    """Errors of the mean and of the sd in their standard errors, for normal draws worth `size`."""
    off = abs(float(values.mean()) - mean) / (sd / math.sqrt(size))
    stretch = abs(float(values.std()) - sd) / (sd / math.sqrt(2 * size))
    return off, stretch


# --- known posteriors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", ["fullrank", "lowrank"])
def test_a_gaussian_comes_out_whole_whatever_its_scales(guide: Any) -> None:
    mean, covariance = correlated(4, 0.8)
    rank = 4 if guide == "lowrank" else None
    config = bm.SVI(guide=guide, rank=rank, importance=guide == "lowrank", draws=DRAWS, steps=1000)
    draws = run(toy(normal(mean, covariance)), config, seed=1, progress=False)

    assert draws.u.shape == (1, DRAWS, 4)
    assert draws.k_hat is not None
    assert draws.k_hat < 0.5
    size = draws.effective_size or DRAWS
    for k in range(4):
        sd = float(covariance[k, k].sqrt())
        assert max(errors(draws.u[0, :, k], float(mean[k]), sd, size)) < 4
        assert min(errors(draws.u[0, :, k] * 1.2, float(mean[k]) * 1.2 + sd, sd, size)) > 4


def test_the_mean_field_has_the_sd_of_each_given_the_others() -> None:
    mean, covariance = correlated(3, 0.8)
    conditional = torch.linalg.inv(covariance).diagonal().rsqrt()
    config = bm.SVI(guide="meanfield", importance=False, draws=DRAWS, tolerance=0.0, steps=1000)
    draws = run(toy(normal(mean, covariance)), config, seed=1, progress=False)

    for k in range(3):
        assert abs(float(draws.u[0, :, k].mean() - mean[k])) < 0.15 * float(conditional[k])
        assert abs(float(draws.u[0, :, k].std()) / float(conditional[k]) - 1) < 0.06
        assert float(draws.u[0, :, k].std()) < 0.7 * float(covariance[k, k].sqrt())


@cache
def line() -> tuple[bm.Hierarchy, bm.Tasks, Tensor, Tensor]:
    """Regressions with known scales: mu is Gaussian given the data, with this mean (2,) and covariance (2, 2)."""

    def hyperprior() -> Tensor:
        value: Tensor = pyro.sample("mu", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        return value

    def task(mu: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(mu, 0.7).to_event(1))
        return pyro.sample("y", dist.Normal(theta[0] + theta[1] * x, 0.5).to_event(1), obs=y)

    rng = np.random.default_rng(5)
    x = 1.5 + rng.normal(size=(24, 3))
    coefficients = np.array([1.0, -2.0]) + 0.7 * rng.normal(size=(24, 2))
    y = coefficients[:, :1] + coefficients[:, 1:] * x + 0.5 * rng.normal(size=(24, 3))
    precision, b = np.eye(2) / 9, np.zeros(2)
    for xs, ys in zip(x, y, strict=True):
        design = np.stack([np.ones(3), xs], 1)
        weight = np.linalg.inv(0.49 * design @ design.T + 0.25 * np.eye(3))
        precision, b = precision + design.T @ weight @ design, b + design.T @ weight @ ys
    mean, covariance = np.linalg.solve(precision, b), np.linalg.inv(precision)
    tasks = bm.Tasks.from_arrays(x, y)
    return bm.Hierarchy(hyperprior, task), tasks, torch.from_numpy(mean), torch.from_numpy(covariance)


@pytest.mark.parametrize(
    ("evidence", "batch_size"),
    [
        ("auto", None),
        ("auto", 6),
        pytest.param("joint", 6, marks=pytest.mark.long),
        pytest.param("joint", None, marks=pytest.mark.long),
    ],
)
def test_a_gaussian_hierarchy(evidence: Any, batch_size: int | None) -> None:
    hierarchy, tasks, mean, covariance = line()
    noisy = evidence == "joint" and batch_size is not None  # a minibatch of tasks is noise where θ is inferred too
    config = bm.SVI(evidence=evidence, batch_size=batch_size, importance=False, draws=DRAWS)
    config = dataclasses.replace(config, tolerance=0.0, learning_rate=0.02) if noisy else config
    posterior = bm.fit(hierarchy, tasks, config, progress=False, seed=3)

    assert posterior.info.k_hat is not None
    assert posterior.info.k_hat < (1.0 if noisy else 0.7)
    for k in range(2):
        sd = float(covariance[k, k].sqrt())
        off, stretch = errors(posterior.phi["mu"][:, k], float(mean[k]), sd)
        assert off < (0.3 * math.sqrt(DRAWS) if noisy else 4)
        assert stretch < (0.3 * math.sqrt(2 * DRAWS) if noisy else 4)
    assert posterior.theta["theta"].shape == (DRAWS, 24, 2)


def test_theta_of_a_joint_fit_is_theta() -> None:
    hierarchy, tasks, _, _ = line()
    joint = bm.fit(hierarchy, tasks, bm.SVI(evidence="joint"), progress=False)
    collapsed = bm.fit(hierarchy, tasks, bm.SVI(), progress=False)
    ours, theirs = joint.theta["theta"], collapsed.theta["theta"]
    size = min(joint.info.effective_size or 0, collapsed.info.effective_size or 0)

    assert size > 1000
    z = (ours.mean(0) - theirs.mean(0)) / theirs.std(0) * math.sqrt(size / 2)
    assert float(z.abs().max()) < 4
    assert float((ours.std(0) / theirs.std(0) - 1).abs().max()) < 4 / math.sqrt(size)
    assert float((ours.roll(1, 1).mean(0) - theirs.mean(0)).abs().max()) > 0.1  # of another task it is not


@pytest.mark.parametrize(
    ("name", "evidence"),
    [("nested", "auto"), ("plated", "auto"), pytest.param("beta_binomial", "laplace", marks=pytest.mark.long)],
)
def test_exact_moments_of_hierarchies(name: str, evidence: Any) -> None:
    scenario = SCENARIOS[name]()
    exact = quadrature(scenario)
    posterior = bm.fit(scenario.hierarchy, scenario.tasks, bm.SVI(evidence=evidence), progress=False)
    size, k_hat = posterior.info.effective_size, posterior.info.k_hat

    assert k_hat is not None
    assert size is not None
    assert k_hat < 0.7
    assert size > 300
    bias = 0.1 if evidence == "laplace" else 0.0  # of the evidence, in sds
    for site, values in posterior.phi.items():
        mean, sd = exact.mean[site], exact.sd[site]
        assert abs(float(values.mean()) - mean) / sd < 4 / math.sqrt(size) + bias, site
        assert abs(float(values.mean()) + 0.4 * sd - mean) / sd > 4 / math.sqrt(size), site


def test_radon() -> None:
    problem = radon_variable_intercept()
    posterior = bm.fit(problem.hierarchy, problem.tasks, bm.SVI(), progress=False)
    size, k_hat = posterior.info.effective_size, posterior.info.k_hat

    assert k_hat is not None
    assert size is not None
    assert k_hat < 0.7
    assert size > 1000
    for site, values in posterior.phi.items():
        mean, sd = RADON.mean[site], RADON.sd[site]
        assert abs(float(values.mean()) - mean) / sd < 4 / math.sqrt(size), site
        assert abs(float(values.std()) / sd - 1) < 0.1, site


@pytest.mark.long
def test_eight_schools_by_a_flow() -> None:
    model = gallery("eight_schools")
    config = bm.SVI(guide="flow", steps=1500, particles=32, tolerance=0.0, draws=8000)
    posterior = bm.fit(model.hierarchy, model.load(), config, progress=False)
    size, k_hat = posterior.info.effective_size, posterior.info.k_hat

    assert k_hat is not None
    assert size is not None
    assert k_hat < 0.7
    assert size > 5000
    for site in ("mu", "tau"):
        mean, sd = EIGHT_SCHOOLS.mean[site], EIGHT_SCHOOLS.sd[site]
        assert abs(float(posterior.phi[site].mean()) - mean) / sd < 4 / math.sqrt(size), site
        assert abs(float(posterior.phi[site].std()) / sd - 1) < 0.1, site


# --- a point ------------------------------------------------------------------------------------------------


def test_empirical_bayes_is_the_mode_and_says_so() -> None:
    hierarchy, tasks, mean, _ = line()
    posterior = bm.fit(hierarchy, tasks, bm.SVI(guide="map", draws=500), progress=False)

    assert torch.allclose(posterior.phi["mu"], mean.expand(500, 2), atol=1e-5)
    assert any("all draws of φ are equal" in sentence for sentence in posterior.info.log)
    assert bool((posterior.theta["theta"].std(0) > 0.05).all())


def test_a_point_for_phi_where_theta_is_inferred_too() -> None:
    hierarchy, tasks, mean, covariance = line()
    program = hierarchy.program(tasks)
    draws = run(Target(Joint(program, tasks)), bm.SVI(guide="map", draws=500), progress=False)

    assert draws.k_hat is None
    assert float((draws.u[0, :, :2] - draws.u[0, 0, :2]).abs().max()) == 0
    assert float(((draws.u[0, 0, :2] - mean) / covariance.diagonal().sqrt()).abs().max()) < 0.1
    assert float(draws.u[0, :, 2:].std(0).min()) > 0.01


# --- what k-hat tells ---------------------------------------------------------------------------------------


def test_k_hat_tells_a_bad_guide_from_a_good_one() -> None:
    mean, covariance = correlated(4, 0.95)
    poor = run(toy(normal(mean, covariance)), bm.SVI(guide="meanfield", steps=500), progress=False)
    good = run(toy(normal(mean, covariance)), bm.SVI(guide="fullrank", steps=500), progress=False)
    bent = run(toy(funnel()), bm.SVI(guide="fullrank", steps=500), progress=False)

    assert poor.k_hat is not None
    assert good.k_hat is not None
    assert bent.k_hat is not None
    assert good.k_hat < 0.5
    assert poor.k_hat > 0.7
    assert bent.k_hat > 0.7
    assert any("the draws are the guide's own" in sentence for sentence in poor.log)
    assert any("resampled by them" in sentence for sentence in good.log)


def test_weights_correct_a_guide_that_is_a_little_off() -> None:
    mean, covariance = correlated(2, 0.5)
    config = bm.SVI(guide="meanfield", draws=DRAWS)
    weighted = run(toy(normal(mean, covariance)), config, progress=False)
    plain = run(toy(normal(mean, covariance)), dataclasses.replace(config, importance=False), progress=False)

    assert weighted.k_hat is not None
    assert weighted.k_hat < 0.7
    assert plain.effective_size is None
    sd = float(covariance[0, 0].sqrt())
    assert errors(plain.u[0, :, 0], float(mean[0]), sd)[1] > 8
    assert abs(float(weighted.u[0, :, 0].std()) / sd - 1) < 0.06


def test_a_corner_that_the_guide_misses_is_no_heavy_tail_where_weights_are_small() -> None:
    """Equal weights but for one draw in a hundred, which counts five times: nothing that weights could not mend."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(16_000, generator=generator, dtype=torch.float64)
    ratios = 0.2 * noise + torch.where(torch.arange(16_000) % 100 == 0, math.log(5.0), 0.0)
    _, usual = psis(ratios)
    _, k_hat = svi_draws._smoothed(ratios)
    _, heavy = svi_draws._smoothed(-1.2 * noise.log())  # weights of a Pareto tail of shape 1.2
    _, light = svi_draws._smoothed(-0.3 * noise.log())

    assert float(usual) > 0.7
    assert k_hat < 0.5
    assert heavy == pytest.approx(1.2, abs=0.3)
    assert light == pytest.approx(0.3, abs=0.15)


# --- an amortised guide -------------------------------------------------------------------------------------


@cache
def levels(count: int) -> tuple[bm.Hierarchy, bm.Tasks, Tensor, Tensor]:
    """Ragged tasks around a mean mu, scales known; mean and sd (T,) of θ given mu at its posterior mean."""

    def hyperprior() -> Tensor:
        value: Tensor = pyro.sample("mu", dist.Normal(0.0, 5.0))
        return value

    def task(mu: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(mu, 0.8))
        return pyro.sample("y", dist.Normal(theta, 0.6).expand([len(x)]).to_event(1), obs=y)

    rng = np.random.default_rng(6)
    sizes = rng.integers(1, 9, count)
    theta = 2.0 + 0.8 * rng.normal(size=count)
    ys = [level + 0.6 * rng.normal(size=n) for level, n in zip(theta, sizes, strict=True)]
    means = np.array([y.mean() for y in ys])
    weight = 1 / (0.64 + 0.36 / sizes)
    mu = (weight * means).sum() / (weight.sum() + 1 / 25)
    precision = sizes / 0.36 + 1 / 0.64
    mean = (sizes * means / 0.36 + mu / 0.64) / precision
    tasks = bm.Tasks.from_lists(None, [y.tolist() for y in ys])
    return bm.Hierarchy(hyperprior, task), tasks, torch.from_numpy(mean), torch.from_numpy(precision**-0.5)


@pytest.mark.parametrize(
    ("count", "steps", "near"), [(500, 250, 0.25), pytest.param(2000, 500, 0.12, marks=pytest.mark.long)]
)
def test_an_amortised_guide_is_near_the_exact_conditional(count: int, steps: int, near: float) -> None:
    hierarchy, tasks, mean, sd = levels(count)
    target = Target(Joint(hierarchy.program(tasks), tasks, centring=1.0))
    config = bm.SVI(amortised=True, batch_size=count // 20, steps=steps, tolerance=0.0, draws=1000, particles=4)
    draws = run(target, config, progress=False)
    theta = draws.u[0, :, 1:]

    off = (theta.mean(0) - mean) / sd
    assert float(off.square().mean().sqrt()) < near
    assert float((theta.std(0) / sd - 1).abs().mean()) < 0.08
    assert float(((theta.mean(0) - mean.mean()) / sd).square().mean().sqrt()) > 1  # the population's mean is not near
    assert any("amortised" in sentence for sentence in draws.log)


def test_an_amortised_guide_does_not_see_the_order_of_rows() -> None:
    _, tasks, _, _ = levels(200)
    backwards = bm.Tasks.from_lists(None, [task.y.flip(0).tolist() for task in tasks])
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng():
            local = LocalAmortised(tasks, 1, 1)
    finally:
        torch.set_default_dtype(torch.float32)
    one, other = (local.summary(Batch(torch.arange(200), lambda u: u, each)) for each in (tasks, backwards))

    assert torch.allclose(one, other)
    assert not torch.allclose(one, one.roll(1, 0))


# --- the course of training ---------------------------------------------------------------------------------


def test_training_ends_early_where_the_elbo_rises_no_longer() -> None:
    mean, covariance = correlated(2, 0.5)
    early = run(toy(normal(mean, covariance)), bm.SVI(patience=50), progress=False)
    whole = run(toy(normal(mean, covariance)), bm.SVI(patience=50, tolerance=0.0, steps=400), progress=False)

    assert len(early.curves["elbo"]) < 400
    assert any("the ELBO rose no longer from step" in sentence for sentence in early.log)
    assert len(whole.curves["elbo"]) == 400
    assert any("the steps were used up" in sentence for sentence in whole.log)
    assert {name: curve.shape for name, curve in whole.curves.items()} == dict.fromkeys(
        ["elbo", "elbo_smooth", "elbo_slope"], (400,)
    )
    assert abs(whole.curves["elbo_slope"][-1]) < 1e-3


def test_the_elbo_of_an_exact_guide_is_the_log_evidence() -> None:
    mean, covariance = correlated(3, 0.5)
    draws = run(toy(normal(mean, covariance)), ROUGH, progress=False)
    exact = 1.5 * math.log(2 * math.pi) + 0.5 * float(torch.logdet(covariance))

    assert np.allclose(draws.curves["elbo"][-5:], exact, atol=0.01)


def test_smoothing_slope_and_plateau() -> None:
    rising = np.arange(100.0)
    flat = np.full(100, 7.0)
    ragged = np.array([1.0, np.nan, 3.0])

    assert smoothed(rising, 10)[50] == pytest.approx(45.5)
    assert smoothed(ragged, 3).tolist() == [1.0, 1.0, 2.0]
    assert slope(rising, 10)[50] == pytest.approx(1.0)
    assert slope(flat, 10).tolist() == [0.0] * 100
    assert plateau(flat.tolist(), 20, 0.01)
    assert not plateau(rising.tolist(), 20, 0.01)
    assert not plateau(flat[:39].tolist(), 20, 0.01)
    assert not plateau(flat.tolist(), 20, 0.0)


@pytest.mark.parametrize("schedule", ["exponential", "constant"])
def test_every_schedule(schedule: Any) -> None:
    mean, covariance = correlated(2, 0.5)
    draws = run(toy(normal(mean, covariance)), dataclasses.replace(ROUGH, schedule=schedule), progress=False)

    assert draws.k_hat is not None
    assert draws.k_hat < 0.7


def test_of_several_restarts_the_best_counts() -> None:
    mean, covariance = correlated(2, 0.5)
    draws = run(toy(normal(mean, covariance)), dataclasses.replace(ROUGH, restarts=3), progress=False)
    (sentence,) = (sentence for sentence in draws.log if "the best of" in sentence)
    numbers = [float(word) for word in sentence.split("the best of ")[1].split(", ")]

    assert len(numbers) == 3
    assert float(sentence.split()[1]) == max(numbers)


def test_ctrl_c_keeps_what_was_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = Density.value_and_grad, 0

    def counted(self: Density, u: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        if calls == 150:
            raise KeyboardInterrupt
        return plain(self, u)

    monkeypatch.setattr(Density, "value_and_grad", counted)
    hierarchy, tasks, mean, covariance = line()
    with pytest.warns(BayesmetaWarning, match="interrupted after 149 of 2000 steps"):
        posterior = bm.fit(hierarchy, tasks, bm.SVI(tolerance=0.0, draws=DRAWS), progress=False)

    assert posterior.info.interrupted
    assert len(posterior.draws.curves["elbo"]) == 149
    assert float(((posterior.phi["mu"].mean(0) - mean) / covariance.diagonal().sqrt()).abs().max()) < 0.2


def test_the_seed_decides_and_nothing_of_the_users_is_touched() -> None:
    hierarchy, tasks, _, _ = line()
    store = pyro.get_param_store()
    with store.scope():
        pyro.param("loc", torch.tensor(7.0))
        before = torch.random.get_rng_state()
        one, same, other = (bm.fit(hierarchy, tasks, ROUGH, seed=seed, progress=False) for seed in (4, 4, 5))

        assert torch.equal(torch.random.get_rng_state(), before)
        assert list(store.keys()) == ["loc"]
        assert torch.equal(store["loc"].detach(), torch.tensor(7.0))
    assert torch.equal(one.draws.u, same.draws.u)
    assert np.array_equal(one.draws.curves["elbo"], same.draws.curves["elbo"])
    assert not torch.equal(one.draws.u, other.draws.u)


def test_theta_of_very_many_tasks_means_fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    hierarchy, tasks, _, _ = levels(200)
    monkeypatch.setattr(svi_draws, "MEMORY", 10_000)
    monkeypatch.setattr(svi_draws, "WORK", 1_000)
    config = dataclasses.replace(ROUGH, amortised=True, batch_size=20)
    draws = run(Target(Joint(hierarchy.program(tasks), tasks, centring=1.0)), config, progress=False)

    assert draws.u.shape == (1, 49, 201)
    assert draws.k_hat is None
    assert any("49 draws in place of 300" in sentence for sentence in draws.log)
    assert any("no k-hat" in sentence for sentence in draws.log)


@pytest.mark.long
def test_memory_is_bounded_where_tasks_are_very_many() -> None:
    hierarchy, tasks, mean, sd = levels(100_000)
    target = Target(Joint(hierarchy.program(tasks), tasks, centring=1.0))
    config = bm.SVI(batch_size=200, steps=600, tolerance=0.0, particles=4)
    draws = run(target, config, progress=False)

    assert draws.u.shape == (1, svi_draws.MEMORY // target.dim, target.dim)
    assert any("amortised" in sentence for sentence in draws.log)
    assert float(((draws.u[0, :, 1:].mean(0) - mean) / sd).square().mean().sqrt()) < 0.2


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guide": "full"}, r"unknown guide 'full'.*did you mean 'fullrank'"),
        ({"evidence": "exactly"}, "unknown evidence 'exactly'"),
        ({"schedule": "linear"}, "unknown schedule 'linear'"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"particles": 2.5}, "particles must be a whole number"),
        ({"restarts": True}, "restarts must be a whole number"),
        ({"patience": -1}, "patience must be a whole number"),
        ({"draws": 0}, "draws must be a whole number"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"rank": 0, "guide": "lowrank"}, "rank must be a whole number"),
        ({"rank": 2}, "rank is for guide='lowrank'"),
        ({"learning_rate": 0.0}, "learning_rate must be a number above 0, got 0.0"),
        ({"learning_rate": "fast"}, "learning_rate must be a number above 0, got 'fast'"),
        ({"clip": math.nan}, "clip must be a number above 0"),
        ({"tolerance": -0.1}, "tolerance must be a number of at least 0"),
        ({"importance": 1}, "importance must be True or False"),
        ({"compile": "yes"}, "compile must be True or False"),
        ({"amortised": "auto"}, "amortised must be True, False or None"),
    ],
)
def test_settings_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        bm.SVI(**options)


def test_settings_that_do_not_fit_the_hierarchy() -> None:
    hierarchy, tasks, _, _ = line()
    with pytest.raises(OptionError, match="batch_size is 25, and there are 24 tasks"):
        bm.fit(hierarchy, tasks, bm.SVI(batch_size=25), progress=False)
    with pytest.raises(OptionError, match="rank is 3, and φ has 2 coordinates"):
        bm.fit(hierarchy, tasks, bm.SVI(guide="lowrank", rank=3), progress=False)


def test_a_density_that_is_nowhere_finite_is_an_error() -> None:
    target = toy(normal(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)))
    target.value_and_grad = lambda u: (torch.full((len(u),), -math.inf, dtype=u.dtype), torch.zeros_like(u))
    with pytest.raises(BayesmetaError, match="no starting point of finite log density"):
        run(target, ROUGH, progress=False)


def test_a_bar_is_shown_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    hierarchy, tasks, _, _ = line()
    bm.fit(hierarchy, tasks, ROUGH, progress=False)
    assert capsys.readouterr().err == ""
