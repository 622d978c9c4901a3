"""Predictive distributions against the mixture worked out by hand from the draws of φ and θ."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp
from torch import Tensor

import bayesmeta as bm
from bayesmeta.drawing import draw
from bayesmeta.errors import (
    BayesmetaWarning,
    DataError,
    HierarchyError,
    NotAvailableError,
    OptionError,
    UnknownNameError,
)
from bayesmeta.predict import Predictive
from bayesmeta.sites import quiet_pyro
from tests.fitted import TINY, tiny
from tests.scenarios import SCENARIOS
from tests.truth import Array

Components = Any  # a frozen scipy distribution whose parameters are (S, m)


# --- the mixture by hand ------------------------------------------------------------------------------------


def components(name: str, adapted: bm.Adapted, t: int, x: Array) -> Components:
    """p(y | x, θ_s, φ_s) of one task at m inputs, for all draws s."""
    phi = {site: values[:, t].numpy()[:, None] for site, values in adapted.phi.items()}
    context = {key: values[t].numpy() for key, values in adapted.tasks.context.items()}
    theta = adapted.theta["theta"][:, t].numpy()
    level = theta[:, None] + np.zeros(len(x)) if theta.ndim == 1 else theta @ x.T
    if name == "normal_normal":
        return stats.norm(level, context["sigma"])
    if name == "plated":
        return stats.norm(level + phi["beta"] * x, 0.8)
    if name == "correlated":
        return stats.norm(level + context["offset"], phi["sigma"])
    if name == "nested":
        return stats.norm(level * x, phi["sigma"])
    if name == "log_normal":
        return stats.lognorm(0.4, scale=level * np.exp(0.3 * x))
    return stats.binom(x.astype(int), level)


def inputs(name: str) -> list[Array]:
    """Three tasks' inputs, of different numbers."""
    rng = np.random.default_rng(7)
    if name == "correlated":
        return [rng.normal(size=(m, 2)) for m in (3, 1, 4)]
    if name == "normal_normal":
        return [np.zeros((m, 0)) for m in (3, 1, 4)]
    if name == "beta_binomial":
        return [np.array([4.0, 10.0, 2.0]), np.array([7.0]), np.array([1.0, 2.0, 3.0, 30.0])]
    return [rng.normal(size=m) for m in (3, 1, 4)]


@cache
def adapted_to(name: str) -> bm.Adapted:
    """A task of the fit, a task that is new, and one of which nothing is known."""
    posterior = tiny(name)
    tasks = SCENARIOS[name]().tasks
    context = {key: values[[3]] for key, values in tasks.context.items()}
    unseen = bm.Tasks.without_observations(["unseen"], like=tasks, context=context)
    return posterior.adapt(tasks[:1] + tasks[1:2].with_names(["new"]) + unseen)


@cache
def predicted(name: str) -> Predictive:
    return adapted_to(name).predict(inputs(name))


def per_task(name: str) -> list[tuple[Components, int, slice]]:
    adapted = adapted_to(name)
    return [(components(name, adapted, t, x), t, slice(0, len(x))) for t, x in enumerate(inputs(name))]


NAMES = sorted(SCENARIOS)
NORMAL = ["normal_normal", "plated", "correlated", "nested"]


@pytest.mark.parametrize("name", NAMES)
def test_mean_and_sd_are_those_of_the_mixture(name: str) -> None:
    predictive = predicted(name)

    assert predictive.mean.shape == predictive.sd.shape == (3, 4)
    for mixture, t, m in per_task(name):
        np.testing.assert_allclose(predictive.mean[t, m], mixture.mean().mean(0), rtol=1e-10)
        variance = mixture.var().mean(0) + mixture.mean().var(0)
        np.testing.assert_allclose(predictive.sd[t, m], np.sqrt(variance), rtol=1e-10)
        # the check can fail: without the spread of the draws, the sd is too small
        assert not np.allclose(predictive.sd[t, m], np.sqrt(mixture.var().mean(0)), rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_ragged_ends_in_nan(name: str) -> None:
    predictive = predicted(name)
    empty = torch.tensor([[0, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0]], dtype=torch.bool)

    lower, upper = predictive.interval(0.5)
    for values in (predictive.mean, predictive.sd, lower, upper, predictive.quantile(0.5), predictive.sample(2)[1]):
        assert torch.equal(values.isnan(), empty)


@pytest.mark.parametrize("name", NORMAL)
def test_quantiles_of_normal_observations_solve_the_mixtures_distribution_function(name: str) -> None:
    predictive = predicted(name)
    levels = [0.001, 0.05, 0.5, 0.9, 0.999]
    quantiles = predictive.quantile(levels)

    assert quantiles.shape == (5, 3, 4)
    for mixture, t, m in per_task(name):
        for level, values in zip(levels, quantiles[:, t, m].numpy(), strict=True):
            np.testing.assert_allclose(mixture.cdf(values).mean(0), level, atol=1e-8)
    lower, upper = predictive.interval(0.9)
    torch.testing.assert_close(lower, predictive.quantile(0.05), equal_nan=True)
    torch.testing.assert_close(upper, predictive.quantile(0.95), equal_nan=True)


@pytest.mark.parametrize("name", ["log_normal", "beta_binomial"])
def test_other_quantiles_are_right_within_their_error(name: str) -> None:
    predictive = predicted(name)
    for level in (0.05, 0.5, 0.95):
        error = 5 * math.sqrt(level * (1 - level) / 4000)
        for mixture, t, m in per_task(name):
            values = predictive.quantile(level)[t, m].numpy()
            assert (mixture.cdf(values).mean(0) > level - error).all()
            just_below = values - 1 if name == "beta_binomial" else values * (1 - 1e-9)
            assert (mixture.cdf(just_below).mean(0) < level + error).all()
    if name == "beta_binomial":
        found = predictive.quantile([0.1, 0.33, 0.77])
        assert torch.equal(found[~found.isnan()], found[~found.isnan()].round()), "counts are whole numbers"


@pytest.mark.parametrize("name", NAMES)
def test_log_prob_is_that_of_the_mixture(name: str) -> None:
    predictive = predicted(name)
    ys = observations(name)
    together = predictive.log_prob(ys)
    apart = predictive.log_prob(ys, pointwise=True)

    assert together.shape == (3,)
    assert apart.shape == (3, 4)
    for (mixture, t, m), y in zip(per_task(name), ys, strict=True):
        terms = mixture.logpmf(y) if name == "beta_binomial" else mixture.logpdf(y)
        count = math.log(len(terms))
        np.testing.assert_allclose(together[t], logsumexp(terms.sum(1)) - count, rtol=1e-9)
        np.testing.assert_allclose(apart[t, m], logsumexp(terms, axis=0) - count, rtol=1e-9)
        assert apart[t, m.stop :].isnan().all()
        if len(y) > 1:  # observations of a task are dependent: one by one is another number
            assert not np.isclose(together[t], apart[t, m].sum(), rtol=1e-3)


def observations(name: str) -> list[Array]:
    rng = np.random.default_rng(11)
    if name == "beta_binomial":
        return [rng.binomial(x.astype(int), 0.3).astype(float) for x in inputs(name)]
    return [np.exp(rng.normal(size=len(x))) for x in inputs(name)]


@pytest.mark.parametrize("name", NAMES)
def test_log_prob_takes_tensors_lists_and_tasks(name: str) -> None:
    predictive = predicted(name)
    ys = observations(name)
    by_list = predictive.log_prob(ys)
    backwards = bm.Tasks.from_lists(
        inputs(name)[::-1],
        ys[::-1],
        names=predictive.names[::-1],
        context={key: values.flip(0) for key, values in predictive.query.context.items()} or None,
    )

    torch.testing.assert_close(predictive.log_prob(backwards), by_list, rtol=1e-12, atol=0)
    alone = predictive["new"].log_prob(torch.from_numpy(ys[1])[None])
    torch.testing.assert_close(alone, by_list[1:2], rtol=1e-10, atol=0)


# --- samples ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_moments_of_the_mixture(name: str) -> None:
    """4 standard errors; and observations of one task, which share θ, are as dependent as they should be."""
    predictive = predicted(name)
    n = 12_000
    samples = predictive.sample(n, seed=1).numpy()

    assert samples.shape == (n, 3, 4)
    for mixture, t, m in per_task(name):
        drawn = samples[:, t, m]
        sd = np.sqrt(mixture.var().mean(0) + mixture.mean().var(0))
        error = np.maximum(drawn.std(0), sd) / math.sqrt(n)
        assert (np.abs(drawn.mean(0) - mixture.mean().mean(0)) < 4 * error).all()
        if m.stop > 1 and name in NORMAL:
            shared = np.cov(mixture.mean().T, bias=True)[0, 1]
            tolerance = 5 * sd[0] * sd[1] / math.sqrt(n)
            assert abs(np.cov(drawn.T)[0, 1] - shared) < tolerance


def test_samples_of_a_seed() -> None:
    predictive = predicted("plated")

    assert torch.equal(predictive.sample(5, seed=1).nan_to_num(), predictive.sample(5, seed=1).nan_to_num())
    assert not torch.equal(predictive.sample(5, seed=1).nan_to_num(), predictive.sample(5, seed=2).nan_to_num())
    assert predictive.sample(1).shape == (1, 3, 4)
    assert predictive.sample(61).shape == (61, 3, 4)


def test_samples_of_different_tasks_and_rows_are_not_the_same_noise() -> None:
    predictive = adapted_to("normal_normal").predict(np.zeros((6, 0)))
    samples = predictive.sample(4000, seed=2)
    noise = (samples - samples.mean(-1, keepdim=True)).reshape(4000, -1)
    correlation = torch.corrcoef(noise.T) - torch.block_diag(*[torch.full((6, 6), -0.2)] * 3).double()

    off = correlation[~torch.eye(18, dtype=torch.bool)]
    assert off.abs().max() < 0.1


FAMILIES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "Normal": lambda a, n: dist.Normal(a, 1.0).expand([3]).to_event(1),
    "StudentT": lambda a, n: dist.StudentT(8.0, a, 1.0).expand([3]).to_event(1),
    "LogNormal": lambda a, n: dist.LogNormal(a / 4, 0.3).expand([3]).to_event(1),
    "Gamma": lambda a, n: dist.Gamma(a, 2.0).expand([3]).to_event(1),
    "InverseGamma": lambda a, n: dist.InverseGamma(a + 8, 2.0).expand([3]).to_event(1),
    "Chi2": lambda a, n: dist.Chi2(a).expand([3]).to_event(1),
    "Beta": lambda a, n: dist.Beta(a, 2.0).expand([3]).to_event(1),
    "Exponential": lambda a, n: dist.Exponential(a).expand([3]).to_event(1),
    "HalfNormal": lambda a, n: dist.HalfNormal(a).expand([3]).to_event(1),
    "Laplace": lambda a, n: dist.Laplace(a, 1.0).expand([3]).to_event(1),
    "Weibull": lambda a, n: dist.Weibull(a, 2.0).expand([3]).to_event(1),
    "Poisson": lambda a, n: dist.Poisson(a).expand([3]).to_event(1),
    "Binomial": lambda a, n: dist.Binomial(n, logits=a - 2).to_event(1),
    "Bernoulli": lambda a, n: dist.Bernoulli(logits=a - 2).expand([3]).to_event(1),
    "NegativeBinomial": lambda a, n: dist.NegativeBinomial(a, logits=a - 3).expand([3]).to_event(1),
    "Geometric": lambda a, n: dist.Geometric(probs=a / 5).expand([3]).to_event(1),
    "BetaBinomial": lambda a, n: dist.BetaBinomial(a, a + 1, total_count=n).to_event(1),
    "GammaPoisson": lambda a, n: dist.GammaPoisson(a, 2.0).expand([3]).to_event(1),
    "Categorical": lambda a, n: dist.Categorical(logits=torch.stack([a, 0 * a, -a])).expand([3]).to_event(1),
    "ZeroInflatedPoisson": lambda a, n: dist.ZeroInflatedPoisson(a, gate=torch.tensor(0.3)).expand([3]).to_event(1),
    "MultivariateNormal": lambda a, n: dist.MultivariateNormal(a.expand(3), covariance_matrix=torch.eye(3) + 1),
    "MultivariateStudentT": lambda a, n: dist.MultivariateStudentT(8.0, a.expand(3), torch.eye(3)),
    "Dirichlet": lambda a, n: dist.Dirichlet(torch.stack([a, a, a + 1])),
}


@pytest.mark.changes_rng
@pytest.mark.parametrize("family", FAMILIES)
def test_draws_under_vmap_have_the_moments_of_the_family(family: str) -> None:
    """Over draws and tasks at once; torch's own sampler, one distribution at a time, says what is right."""
    count, a, n = 4000, torch.tensor([1.5, 3.0], dtype=torch.float64), torch.tensor([5.0, 7.0, 9.0])
    make = FAMILIES[family]

    def one(a: Tensor, n: Tensor) -> Tensor:
        return draw(make(a, n))

    with quiet_pyro(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        over_tasks = torch.func.vmap(one, in_dims=(None, 0), randomness="different")
        over_both = torch.func.vmap(lambda a: over_tasks(a, n.double().expand(2, 3)), randomness="different")
        got = over_both(a.repeat_interleave(count)).double().reshape(2, count, 2, -1)
        own = torch.stack([make(value, n.double()).sample((4 * count,)) for value in a]).double()
    error = own.std(1) / math.sqrt(count)
    for task in range(2):
        assert ((got[:, :, task].mean(1) - own.mean(1)).abs() < 5 * error).all()
        ratio = got[:, :, task].std(1) / own.std(1).clamp(min=1e-12)
        assert ((ratio - 1).abs() < 0.15).all()
    both = torch.corrcoef(torch.stack([got[0, :, 0, 0], got[0, :, 1, 0]]))
    assert abs(float(both[0, 1])) < 0.08, "tasks share their noise"


def test_what_cannot_be_drawn_at_once_is_drawn_one_by_one() -> None:
    def hyperprior() -> Tensor:
        mu: Tensor = pyro.sample("mu", dist.Normal(0.0, 1.0))
        return mu

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi, 0.3))
        return pyro.sample("y", dist.VonMises(theta + 0 * x, 4.0).to_event(1), obs=y)

    tasks = bm.Tasks.from_lists([[0.0, 1.0], [1.0]], [[0.1, -0.2], [0.3]])
    settings = bm.NUTS(draws=10, tune=20, chains=1, compile=False)
    predictive = bm.fit(bm.Hierarchy(hyperprior, task), tasks, settings, progress=False).adapt(tasks).predict(tasks)
    with pytest.warns(BayesmetaWarning, match="drawn one by one, much slower"):
        samples = predictive.sample(20)

    assert samples.shape == (20, 2, 2)
    assert samples[:, 0].unique().numel() == 40


# --- inputs -------------------------------------------------------------------------------------------------


def test_one_tensor_of_inputs_serves_all_tasks() -> None:
    adapted = adapted_to("plated")
    x = torch.tensor([0.5, -1.0])
    shared = adapted.predict(x)
    each = adapted.predict([x, x, x])

    assert torch.equal(shared.mean, each.mean)
    assert torch.equal(shared.mean, adapted.predict(x.numpy()).mean)
    assert shared.mean.shape == (3, 2)


def test_tasks_as_inputs_are_matched_by_name() -> None:
    adapted = adapted_to("plated")
    xs = inputs("plated")
    query = bm.Tasks.from_lists([xs[2], xs[0]], [np.full(4, 9e9), np.full(3, 9e9)], names=["unseen", "0"])
    predictive = adapted.predict(query)
    everything = predicted("plated")

    assert predictive.names == ("unseen", "0")
    torch.testing.assert_close(predictive.mean[0], everything.mean[2])
    torch.testing.assert_close(predictive.mean[1, :3], everything.mean[0, :3])
    nameless = bm.Tasks.from_lists([xs[1]], [[0.0]], names=["unsean"])
    with pytest.raises(
        UnknownNameError, match="unknown task 'unsean'; valid: '0', 'new', 'unseen'; did you mean 'unseen'"
    ):
        adapted.predict(nameless)


def test_the_context_is_that_of_the_adaptation() -> None:
    posterior, tasks = tiny("correlated"), SCENARIOS["correlated"]().tasks
    adapted = posterior.adapt(tasks[:2])
    other = bm.Tasks.from_lists(
        [tasks[0].x], [tasks[0].y], names=["A"], context={"group": [[99.0, 99.0]], "offset": [99.0]}
    )

    torch.testing.assert_close(adapted.predict(other).mean, adapted.predict(tasks[:1]).mean)


def test_a_task_may_be_asked_for_nothing() -> None:
    predictive = adapted_to("plated").predict([np.zeros(0), np.ones(2), np.zeros(0)])

    assert predictive.mean.isnan().tolist() == [[True, True], [False, False], [True, True]]
    assert predictive.log_prob([[], [0.0, 0.0], []])[0] == 0.0
    assert predictive.frame()["task"].tolist() == ["new", "new"]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3), r"inputs of task '0' have shape \(2, 3\); wanted \(m\)"),
        (torch.tensor(1.0), r"x: got tensor\(1\.\); wanted a Tasks, an array of inputs"),
        ([1.0, [2.0], [1.0]], r"inputs of task '0' have shape \(\); wanted \(m\)"),
        ([[1.0], [2.0]], "x is a list of 2 inputs, one per task is wanted: 3"),
        ([[1.0], [[2.0]], [1.0]], r"inputs of task 'new' have shape \(1, 1\); wanted \(m\)"),
        ([[1.0], [math.nan], [1.0]], "x is NaN in row 0 of task 'new'"),
    ],
)
def test_inputs_of_another_shape_are_refused(x: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        adapted_to("plated").predict(x)


# --- other observations -------------------------------------------------------------------------------------


@cache
def smooth() -> bm.Posterior:
    """The observations of a task are one joint event: a level, and a smooth residual over x."""

    def hyperprior() -> tuple[Tensor, Tensor]:
        return pyro.sample("mu", dist.Normal(0.0, 2.0)), pyro.sample("tau", dist.HalfNormal(1.0))

    def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(*phi))
        kernel = torch.exp(-0.5 * (x[:, None] - x) ** 2) + 0.1 * torch.eye(len(x))
        return pyro.sample("y", dist.MultivariateNormal(theta + 0 * x, kernel), obs=y)

    rng = np.random.default_rng(5)
    xs = [rng.normal(size=n) for n in (3, 2, 3, 4)]
    tasks = bm.Tasks.from_lists(xs, [rng.normal(size=len(x)) for x in xs], names=list("abcd"))
    return bm.fit(bm.Hierarchy(hyperprior, task), tasks, TINY, progress=False)


def test_observations_that_are_one_joint_event() -> None:
    posterior = smooth()
    assert posterior.info.evidence == "exact"
    assert not posterior.info.gram
    adapted = posterior.adapt(posterior.tasks[:2])
    xs = [np.array([0.0, 0.3, 2.0]), np.array([1.0, -1.0])]
    predictive = adapted.predict(xs)
    ys = [np.array([0.2, 0.1, -1.0]), np.array([0.5, 0.5])]
    joint, samples = predictive.log_prob(ys), predictive.sample(8000).numpy()
    one_by_one = predictive.log_prob(ys, pointwise=True)

    for t, (x, y) in enumerate(zip(xs, ys, strict=True)):
        kernel = np.exp(-0.5 * (x[:, None] - x) ** 2) + 0.1 * np.eye(len(x))
        level = adapted.theta["theta"][:, t].numpy()
        terms = [stats.multivariate_normal(np.full(len(x), at), kernel).logpdf(y) for at in level]
        np.testing.assert_allclose(joint[t], logsumexp(terms) - math.log(len(terms)), rtol=1e-9)
        densities = stats.norm(level[:, None], math.sqrt(1.1)).logpdf(y)
        np.testing.assert_allclose(one_by_one[t, : len(x)], logsumexp(densities, 0) - math.log(len(terms)), rtol=1e-9)
        np.testing.assert_allclose(predictive.mean[t, : len(x)], level.mean(), rtol=1e-9)
        total = kernel + level.var()
        np.testing.assert_allclose(predictive.sd[t, : len(x)], np.sqrt(np.diag(total)), rtol=1e-9)
        np.testing.assert_allclose(np.cov(samples[:, t, : len(x)].T), total, atol=0.08)
    lower, upper = predictive.interval(0.8)
    assert (lower < upper)[~lower.isnan()].all()


@cache
def remembering(support: bool) -> bm.Posterior:
    """Each observation follows the one before it in x: the next depends on the last, if the task looks at it."""

    def hyperprior() -> Tensor:
        mu: Tensor = pyro.sample("mu", dist.Normal(0.0, 2.0))
        return mu

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-(a[:, None] - b).abs())

    def alone(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi, 1.0))
        covariance = kernel(x, x) + 0.01 * torch.eye(len(x))
        return pyro.sample("y", dist.MultivariateNormal(theta + 0 * x, covariance), obs=y)

    def looking(phi: Tensor, x: Tensor, y: Tensor | None = None, support: Any = None) -> Tensor:
        if support is None:
            return alone(phi, x, y)
        theta = pyro.sample("theta", dist.Normal(phi, 1.0))
        cross = torch.where(support.mask, kernel(x, support.x), 0.0)
        both = torch.where(support.mask & support.mask[:, None], kernel(support.x, support.x), 0.0)
        gain = torch.linalg.solve(both + torch.eye(len(both)) * (0.01 + ~support.mask), cross.mT).mT
        loc = theta + gain @ torch.where(support.mask, support.y - theta, 0.0)
        covariance = kernel(x, x) + 0.01 * torch.eye(len(x)) - gain @ cross.mT
        return pyro.sample("y", dist.MultivariateNormal(loc, covariance), obs=y)

    rng = np.random.default_rng(7)
    xs = [np.arange(n, dtype=float) for n in (3, 2, 3, 4)]
    tasks = bm.Tasks.from_lists(xs, [rng.normal(size=len(x)) for x in xs], names=list("abcd"))
    hierarchy = bm.Hierarchy(hyperprior, looking if support else alone)
    return bm.fit(hierarchy, tasks, TINY, progress=False)


def test_a_task_that_takes_its_support_is_predicted_given_it() -> None:
    support = bm.Tasks.from_lists([[0.0, 1.0], [5.0]], [[0.3, 4.0], [-2.0]], names=["new", "other"])
    adapted = remembering(True).adapt(support)
    x = np.array([1.01, 1.5, 40.0])
    predictive = adapted.predict(x)

    assert abs(float(predictive.mean[0, 0]) - 4.0) < 0.2
    assert float(predictive.sd[0, 0]) < 0.35
    theta = adapted.theta["theta"].mean(0)
    assert torch.allclose(predictive.mean[:, 2], theta, rtol=1e-6)
    assert float(predictive.sd[0, 2]) > 1.0
    for t in range(2):
        seen = support[t]
        both = np.concatenate([seen.x, x])
        kernel = np.exp(-np.abs(both[:, None] - both)) + 0.01 * np.eye(len(both))
        n = seen.n
        gain = np.linalg.solve(kernel[:n, :n], kernel[:n, n:]).T
        level = adapted.theta["theta"][:, t].numpy()[:, None]
        means = level + (gain @ (seen.y.numpy()[:, None] - level.T)).T
        np.testing.assert_allclose(predictive.mean[t], means.mean(0), rtol=1e-8)
        rest = kernel[n:, n:] - gain @ kernel[:n, n:]
        np.testing.assert_allclose(predictive.sd[t], np.sqrt(np.diag(rest) + means.var(0)), rtol=1e-8)
    assert torch.allclose(predictive["other"].mean[0], predictive.mean[1])


def test_a_task_that_does_not_look_at_its_support_is_predicted_from_theta_alone() -> None:
    support = bm.Tasks.from_lists([[0.0, 1.0]], [[0.3, 4.0]], names=["new"])
    predictive = remembering(False).adapt(support, strangers="ignore").predict(np.array([1.01, 40.0]))

    assert torch.allclose(predictive.mean[0, 0], predictive.mean[0, 1])
    assert float(predictive.sd[0, 0]) > 1.0


@cache
def pairs() -> bm.Posterior:
    """Each observation is a pair of numbers."""

    def hyperprior() -> Tensor:
        mu: Tensor = pyro.sample("mu", dist.Normal(torch.zeros(2), 2.0).to_event(1))
        return mu

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi, 1.0).to_event(1))
        return pyro.sample("y", dist.Normal(theta * x[:, None], 0.5).to_event(2), obs=y)

    rng = np.random.default_rng(6)
    xs = [rng.normal(size=n) for n in (3, 2, 4)]
    tasks = bm.Tasks.from_lists(xs, [rng.normal(size=(len(x), 2)) for x in xs])
    return bm.fit(bm.Hierarchy(hyperprior, task), tasks, TINY, progress=False)


def test_observations_of_several_numbers() -> None:
    posterior = pairs()
    adapted = posterior.adapt(posterior.tasks[:2])
    predictive = adapted.predict([np.array([1.0, 2.0]), np.array([-1.0])])
    theta = adapted.theta["theta"].numpy()
    first = stats.norm(theta[:, 0, None] * np.array([1.0, 2.0])[:, None], 0.5)

    assert predictive.mean.shape == (2, 2, 2)
    assert predictive.sample(7).shape == (7, 2, 2, 2)
    np.testing.assert_allclose(predictive.mean[0], first.mean().mean(0), rtol=1e-10)
    np.testing.assert_allclose(first.cdf(predictive.quantile(0.3)[0].numpy()).mean(0), 0.3, atol=1e-8)
    y = np.array([[0.1, 0.2], [0.3, -0.4]])
    together = predictive.log_prob([y, y[:1]])
    np.testing.assert_allclose(together[0], logsumexp(first.logpdf(y).sum((1, 2))) - math.log(60), rtol=1e-9)
    assert predictive.mean[1, 1].isnan().all()
    with pytest.raises(NotAvailableError, match=r"frame\(\) is for observations of one number each"):
        predictive.frame()
    assert predictive._repr_html_().startswith("<p>")


# --- tables -------------------------------------------------------------------------------------------------


def test_the_frame_has_a_row_for_each_input() -> None:
    predictive = predicted("plated")
    table = predictive.frame(level=0.8)
    lower, upper = predictive.interval(0.8)

    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == ["task", "row", "mean", "sd", "lower", "upper"]
    assert table["task"].tolist() == ["0"] * 3 + ["new"] + ["unseen"] * 4
    assert table["row"].tolist() == [0, 1, 2, 0, 0, 1, 2, 3]
    for name, values in (("mean", predictive.mean), ("sd", predictive.sd), ("lower", lower), ("upper", upper)):
        np.testing.assert_array_equal(table[name], values[~values.isnan()])


def test_one_task_by_its_name() -> None:
    alone = predicted("plated")["unseen"]

    assert alone.names == ("unseen",)
    torch.testing.assert_close(alone.mean, predicted("plated").mean[2:])
    with pytest.raises(UnknownNameError, match="unknown task 'x'; valid: '0', 'new', 'unseen'"):
        predicted("plated")["x"]


def test_it_shows_itself() -> None:
    predictive = predicted("plated")

    assert repr(predictive) == "Predictive: 3 tasks, 1-4 inputs each, 60 draws (exact)"
    assert "<table" in predictive._repr_html_()


# --- errors -------------------------------------------------------------------------------------------------


def test_levels_and_counts_are_checked() -> None:
    predictive = predicted("plated")
    wrong: Sequence[Any] = (0.0, 1.0, -0.1, [0.5, 1.5], [])
    for q in wrong:
        with pytest.raises(OptionError, match="q must lie between 0 and 1, got"):
            predictive.quantile(q)
    for level in (0.0, 1.0, 90):
        with pytest.raises(OptionError, match="level must lie between 0 and 1, got"):
            predictive.interval(level)
    with pytest.raises(OptionError, match="n must be a whole number of at least 1, got 0"):
        predictive.sample(0)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([[0.0] * 3, [0.0]], "y is for 2 tasks, predicted are 3"),
        ([[0.0] * 3, [0.0] * 2, [0.0] * 4], "task 'new': y has 2 observations, predicted are 1"),
        ([[0.0] * 3, [math.inf], [0.0] * 4], "y is infinite in row 0 of task 'new'"),
        (bm.Tasks.from_lists([[0.0] * 3], [[0.0] * 3]), "y has no task named 'new', which is predicted"),
    ],
)
def test_observations_that_do_not_fit_are_refused(y: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        predicted("plated").log_prob(y)


Observe = Callable[[Tensor, Tensor, Tensor | None], Any]


def leaves_it_out(mean: Tensor, x: Tensor, y: Tensor | None) -> None:
    if y is not None:
        pyro.sample("y", dist.Normal(mean + 0 * x, 1.0).to_event(1), obs=y)


def counts_y(mean: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
    assert y is None or len(y) == len(x)
    count = len(y)  # type: ignore[arg-type]
    result: Tensor = pyro.sample("y", dist.Normal(mean, 1.0).expand([count]).to_event(1), obs=y)
    return result


def puts_zeros(mean: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
    obs = torch.zeros(len(x)) if y is None else y
    result: Tensor = pyro.sample("y", dist.Normal(mean + 0 * x, 1.0).to_event(1), obs=obs)
    return result


@pytest.mark.parametrize(
    ("observe", "message"),
    [
        (leaves_it_out, "with y=None the task does not sample 'y': write obs=y"),
        (counts_y, "task raised TypeError with y=None, .* take the number of observations from x"),
        (puts_zeros, "with y=None the task does not sample 'y': write obs=y"),
    ],
)
def test_a_task_that_cannot_do_without_y_is_told_so(observe: Observe, message: str) -> None:
    def hyperprior() -> Tensor:
        mu: Tensor = pyro.sample("mu", dist.Normal(0.0, 1.0))
        return mu

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Any:
        return observe(pyro.sample("theta", dist.Normal(phi, 1.0)), x, y)

    tasks = bm.Tasks.from_lists([[0.0, 1.0], [1.0]], [[0.1, -0.2], [0.3]])
    settings = bm.NUTS(draws=5, tune=5, chains=1, compile=False)
    predictive = bm.fit(bm.Hierarchy(hyperprior, task), tasks, settings, progress=False).adapt(tasks).predict(tasks)
    for ask in (lambda: predictive.mean, predictive.sample, predictive.interval):
        with pytest.raises(HierarchyError, match=message):
            ask()


@pytest.mark.parametrize(("df", "sd"), [(4.0, math.sqrt(2.0)), (1.5, math.inf)])
def test_student_t_observations_have_a_mean_and_a_standard_deviation(df: float, sd: float) -> None:
    def hyperprior() -> Tensor:
        return pyro.sample("mu", dist.Normal(0.0, 1.0))

    def heavy(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi, 1e-6))
        return pyro.sample("y", dist.StudentT(df, theta + 2 * x, 1.0).to_event(1), obs=y)

    tasks = bm.Tasks.from_lists([[0.0, 1.0]] * 3, [[0.1, 2.0], [0.0, 2.2], [-0.3, 1.9]])
    posterior = bm.fit(bm.Hierarchy(hyperprior, heavy), tasks, replace(TINY, evidence="joint"), progress=False)
    adapted = posterior.adapt(tasks[:1])
    predicted = adapted.predict(tasks[:1])

    assert float(predicted.mean[0, 1] - predicted.mean[0, 0]) == pytest.approx(2.0, abs=0.01)
    spread = float(predicted.sd[0, 0])
    assert spread == sd or spread == pytest.approx(math.hypot(sd, float(adapted.theta["theta"].std())), rel=0.01)


def test_quantiles_take_levels_in_any_form() -> None:
    found = predicted("normal_normal")

    torch.testing.assert_close(found.quantile(np.array([0.1, 0.9])), found.quantile([0.1, 0.9]), equal_nan=True)
    torch.testing.assert_close(found.quantile(torch.tensor(0.5)), found.quantile(0.5), equal_nan=True)


def test_what_is_no_array_is_said() -> None:
    adapted = adapted_to("normal_normal")
    count = len(adapted.tasks)

    with pytest.raises(DataError, match=r"x: got 0.0; wanted a Tasks, an array of inputs"):
        adapted.predict(0.0)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"y has one number per task.*y\[:, None\]"):
        predicted("normal_normal").log_prob(torch.zeros(count))
    with pytest.raises(OptionError, match=r"n must be a whole number of at least 1, got 2.5"):
        predicted("normal_normal").sample(2.5)  # type: ignore[arg-type]
