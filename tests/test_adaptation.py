"""Adaptation and prediction against algebra by hand on the same draws of φ, and the rule for known tasks."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp
from torch import Tensor

import bayesmeta as bm
from bayesmeta.errors import BayesmetaError, DataError, OptionError

Pair = tuple[Tensor, Tensor]


def hyperprior() -> Pair:
    return pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfNormal(2.0))


def task(phi: Pair, x: Tensor, y: Tensor | None = None) -> Tensor:
    mu, tau = phi
    theta = pyro.sample("theta", dist.Normal(mu, tau))
    value: Tensor = pyro.sample("y", dist.Normal(theta, 1.0).expand([len(x)]).to_event(1), obs=y)
    return value


def population(count: int, n: int, seed: int, name: str = "") -> bm.Tasks:
    rng = np.random.default_rng(seed)
    theta = 1.0 + 1.5 * rng.standard_normal(count)
    y = theta[:, None] + rng.standard_normal((count, n))
    return bm.Tasks.from_arrays(None, torch.from_numpy(y), names=[f"{name}{k}" for k in range(count)])


@cache
def posterior() -> bm.Posterior:
    settings = bm.NUTS(draws=1000, tune=500, chains=2, compile=False)
    return bm.fit(bm.Hierarchy(hyperprior, task), population(12, 4, 0), settings, progress=False)


@cache
def joint() -> bm.Posterior:
    settings = bm.NUTS(draws=500, tune=500, chains=2, compile=False, evidence="joint")
    return bm.fit(bm.Hierarchy(hyperprior, task), population(12, 4, 0), settings, progress=False)


def by_hand(fit: bm.Posterior, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalised weights of the draws of φ, and mean and variance of θ under each, for a new task."""
    mu, tau = (fit.phi[name].numpy() for name in ("mu", "tau"))
    n = len(y)
    log_z = np.array(
        [
            stats.multivariate_normal.logpdf(y, np.full(n, m), np.eye(n) + t * t) if n else 0.0
            for m, t in zip(mu, tau, strict=True)
        ]
    )
    precision = tau**-2.0 + n
    return np.exp(log_z - logsumexp(log_z)), (mu * tau**-2.0 + y.sum()) / precision, 1 / precision


def check_theta(draws: Tensor, weights: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> None:
    expected = float((weights * mean).sum())
    sd = float(np.sqrt((weights * (variance + mean**2)).sum() - expected**2))
    assert abs(float(draws.mean()) - expected) < 4 * sd / np.sqrt(len(draws))
    assert abs(float(draws.std()) / sd - 1) < 4 / np.sqrt(2 * len(draws))


@pytest.mark.parametrize("n", [1, 5])
def test_adapted_theta_is_the_weighted_mixture(n: int) -> None:
    new = population(3, n, 5, "new")
    adapted = posterior().adapt(new)

    assert adapted.method == "exact"
    assert adapted.theta["theta"].shape == (2000, 3)
    assert float(adapted.k_hat.max()) < 0.7
    for t in range(3):
        check_theta(adapted.theta["theta"][:, t], *by_hand(posterior(), new[t].y.numpy()))


def test_the_check_of_theta_fails_on_unweighted_draws() -> None:
    far = bm.Tasks.from_lists(None, [[9.0, 9.5, 8.7]], names=["far"])
    weights, mean, variance = by_hand(posterior(), far[0].y.numpy())
    flat = np.full_like(weights, 1 / len(weights))
    rng = np.random.default_rng(0)
    unweighted = torch.from_numpy(mean + np.sqrt(variance) * rng.standard_normal(len(mean)))

    check_theta(unweighted, flat, mean, variance)
    with pytest.raises(AssertionError, match="assert"):
        check_theta(unweighted, weights, mean, variance)


def test_without_observations_it_is_the_population() -> None:
    unseen = bm.Tasks.without_observations(["unseen"], like=posterior().tasks)
    adapted = posterior().adapt(unseen)
    mu, tau = posterior().phi["mu"].numpy(), posterior().phi["tau"].numpy()

    check_theta(adapted.theta["theta"][:, 0], np.full(len(mu), 1 / len(mu)), mu, tau**2)


def test_by_nuts_it_is_the_same() -> None:
    new = population(2, 3, 7, "new")
    adapted = joint().adapt(new, method="nuts")

    assert adapted.method == "nuts"
    for t in range(2):
        weights, mean, variance = by_hand(joint(), new[t].y.numpy())
        expected = float((weights * mean).sum())
        sd = float(np.sqrt((weights * (variance + mean**2)).sum() - expected**2))
        draws = adapted.theta["theta"][:, t]
        assert abs(float(draws.mean()) - expected) < 0.15 * sd  # 4 errors at an effective size of 700
        assert abs(float(draws.std()) / sd - 1) < 0.12


@pytest.mark.parametrize("fitted", [posterior, joint])
def test_a_known_task_goes_on_from_the_fit(fitted: object) -> None:
    fit: bm.Posterior = fitted()  # type: ignore[operator]
    known, nothing = fit.tasks[["3"]], bm.Tasks.without_observations(["3"], like=fit.tasks)
    more = bm.Tasks.from_lists(None, [[3.0, 2.5, 2.0]], names=["3"])
    under_fit = fit.theta["theta"][:, 3]

    for tasks in (known, nothing):
        again = fit.adapt(tasks)
        assert again.tasks.sizes.tolist() == [4]
        assert abs(float(again.theta["theta"].mean() - under_fit.mean())) < 5 * float(under_fit.std()) / 700**0.5
    both = fit.adapt(more)
    assert both.tasks.sizes.tolist() == [7]
    y = torch.cat([known[0].y, more[0].y]).numpy()
    seen = by_hand(fit, known[0].y.numpy())[0]
    weights, mean, _ = by_hand(fit, y)
    weights = weights / seen
    expected = float((weights * mean).sum() / weights.sum())
    assert abs(float(both.theta["theta"].mean()) - expected) < 0.12


def test_known_and_new_mix_in_one_call_and_keep_their_order() -> None:
    mixed = bm.Tasks.from_lists(None, [[1.0], [2.0, 3.0]], names=["new", "3"])
    together = posterior().adapt(mixed)
    alone = [posterior().adapt(mixed[[k]]) for k in range(2)]

    assert together.names == ("new", "3")
    assert together.tasks.sizes.tolist() == [1, 6]
    for k in range(2):
        a, b = together.theta["theta"][:, k], alone[k].theta["theta"][:, 0]
        assert abs(float(a.mean() - b.mean())) < 6 * float(b.std()) / len(b) ** 0.5


def test_predictions_are_those_of_the_mixture() -> None:
    new = population(2, 3, 11, "new")
    predicted = posterior().adapt(new).predict([torch.zeros(4, 0), torch.zeros(2, 0)])
    lower, upper = predicted.interval(0.9)

    assert predicted.mean.shape == (2, 4)
    assert bool(torch.isnan(predicted.mean[1, 2:]).all())
    for t, m in ((0, 4), (1, 2)):
        weights, mean, variance = by_hand(posterior(), new[t].y.numpy())
        center = float((weights * mean).sum())
        sd = float(np.sqrt((weights * (1 + variance + mean**2)).sum() - center**2))
        assert np.allclose(predicted.mean[t, :m], center, atol=0.1)
        assert np.allclose(predicted.sd[t, :m], sd, rtol=0.03)
        cdf = [
            (weights * stats.norm.cdf((float(q) - mean) / np.sqrt(1 + variance))).sum()
            for q in (lower[t, 0], upper[t, 0])
        ]
        assert np.allclose(cdf, [0.05, 0.95], atol=0.015)
        density = logsumexp(stats.norm.logpdf(0.3, mean, np.sqrt(1 + variance)), b=weights)
        y = [torch.full((4,), 0.3), torch.full((2,), 0.3)]
        assert np.allclose(predicted.log_prob(y, pointwise=True)[t, :m], density, atol=0.05)
    draws = predicted.sample(4000, seed=1)
    assert np.allclose(draws[:, 0].mean(0), predicted.mean[0], atol=0.1)
    assert torch.equal(draws[:, 0], predicted.sample(4000, seed=1)[:, 0])


def test_a_task_far_from_the_population_says_so() -> None:
    far = bm.Tasks.from_lists(None, [[400.0, 401.0]], names=["far"])

    with pytest.warns(bm.BayesmetaWarning, match="k-hat is above"):
        posterior().adapt(far)


def test_bad_input_is_refused() -> None:
    fit = posterior()
    with pytest.raises(OptionError, match="unknown method 'exakt'"):
        fit.adapt(fit.tasks, method="exakt")
    with pytest.raises(OptionError, match="draws must lie between 1 and 2000"):
        fit.adapt(fit.tasks, draws=5000)
    with pytest.raises(DataError, match="x has"):
        fit.adapt(bm.Tasks.from_lists([[[1.0, 2.0]]], [[1.0]], names=["wide"]))
    with pytest.raises(BayesmetaError, match="wanted"):
        fit.adapt(fit.tasks[:2]).predict([torch.zeros(1, 3), torch.zeros(1, 3)])


def test_a_saved_posterior_comes_back_bit_for_bit(tmp_path: Path) -> None:
    fit = posterior()
    path = tmp_path / "fit.nc"
    fit.save(path)
    back = bm.load(path, bm.Hierarchy(hyperprior, task))

    assert torch.equal(back.phi["mu"], fit.phi["mu"])
    assert torch.equal(back.theta["theta"], fit.theta["theta"])
    assert back.tasks.names == fit.tasks.names
    assert back.info == fit.info
    assert torch.equal(
        back.adapt(population(2, 3, 1, "n")).theta["theta"], fit.adapt(population(2, 3, 1, "n")).theta["theta"]
    )


def test_another_hierarchy_or_file_is_refused(tmp_path: Path) -> None:
    def other() -> Pair:
        return pyro.sample("mu", dist.Normal(0.0, 6.0)), pyro.sample("tau", dist.HalfNormal(2.0))

    path = tmp_path / "fit.nc"
    posterior().save(path, log_likelihood=False)
    with pytest.raises(BayesmetaError, match="fitted with another hierarchy"):
        bm.load(path, bm.Hierarchy(other, task))
    with pytest.warns(bm.BayesmetaWarning, match="fitted with another hierarchy"):
        bm.load(path, bm.Hierarchy(other, task), check=False)
    (tmp_path / "stranger.nc").write_bytes(path.read_bytes()[:300])
    with pytest.raises(BayesmetaError, match="not a posterior saved by bayesmeta"):
        bm.load(tmp_path / "stranger.nc", bm.Hierarchy(hyperprior, task))
    with pytest.raises(BayesmetaError, match="no file"):
        bm.load(tmp_path / "missing.nc", bm.Hierarchy(hyperprior, task))


@pytest.mark.parametrize("fitted", [posterior, joint])
def test_arviz_reads_it(fitted: object) -> None:
    import arviz

    fit: bm.Posterior = fitted()  # type: ignore[operator]
    trace = fit.to_arviz()

    assert trace.posterior["theta"].dims == ("chain", "draw", "task")
    assert list(trace.posterior["task"].values) == list(fit.tasks.names)
    assert trace.log_likelihood["y"].dims == ("chain", "draw", "obs_id")
    assert trace.log_likelihood["y_by_task"].dims == ("chain", "draw", "task")
    assert set(arviz.summary(trace, var_names=["mu"]).columns) >= {"mean", "sd", "r_hat"}
    assert {"diverging", "energy", "tree_depth", "step_size"} <= set(trace.sample_stats)


def test_newer_arviz_gets_a_data_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import ModuleType

    import xarray

    fit = posterior()
    monkeypatch.setitem(sys.modules, "arviz", ModuleType("arviz"))  # 1.x has no InferenceData
    tree = fit.to_arviz(log_likelihood=False)

    assert isinstance(tree, xarray.DataTree)
    assert {"posterior", "sample_stats", "observed_data", "constant_data"} == set(tree.children)
    assert tree["posterior"]["theta"].dims == ("chain", "draw", "task")
