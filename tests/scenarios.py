"""Hierarchies with known answers: plain Pyro on one side, numpy and scipy on the other.

Each scenario is a `Hierarchy` with tasks, and beside it the same model once more in numpy, written by hand
and without any code of bayesmeta: log Z_t(φ), the moments of θ_t given φ, and the prior of φ. Where φ is two
numbers, `quadrature` gives the exact moments of φ and θ under p(φ | D).

| name | what is special | evidence |
|---|---|---|
| `normal_normal` | known standard errors as context, one observation a task | Gram |
| `correlated` | θ a correlated pair, ragged tasks, context in prior and mean | Gram |
| `paired` | θ a pair whose correlation is unknown; φ is two numbers all the same | Gram |
| `plated` | a plate in place of `to_event`; a coefficient of φ in the mean | Gram |
| `nested` | φ as a dict with a named tuple in it; unknown noise | Gram |
| `log_normal` | θ and y log-normal: quadratic in the logarithm of θ | exact |
| `beta_binomial` | not Gaussian at all; log Z is a ratio of beta functions | quadrature |
| `poisson_gamma` | counts; log Z is a ratio of gamma functions | quadrature |
| `skewed` | waiting times, one to three a task: p(θ | φ, D) is skewed; log Z by brute force | quadrature |

The last two stand in `CURVED` beside `beta_binomial`, `paired` stands by itself; `SCENARIOS` are the others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import stats
from scipy.special import betaln, gammaln
from torch import Tensor

import bayesmeta as bm
from tests.truth import Array, Exact, Linear, PhiValues, Scenario, evidence_of, moments_of, quadrature

__all__ = [
    "CURVED",
    "SCENARIOS",
    "Exact",
    "Linear",
    "PhiValues",
    "Scenario",
    "beta_binomial",
    "correlated",
    "evidence_of",
    "log_normal",
    "moments_of",
    "nested",
    "normal_normal",
    "paired",
    "plated",
    "poisson_gamma",
    "quadrature",
    "skewed",
]


def _gaussian(
    name: str,
    hierarchy: bm.Hierarchy,
    tasks: bm.Tasks,
    linear: Callable[[PhiValues, bm.Task], Linear],
    points: tuple[PhiValues, ...],
    *,
    road: str = "gram",
    log_prior: Callable[[PhiValues], Array] | None = None,
    box: tuple[tuple[str, bool, float, float], ...] = (),
) -> Scenario:
    def moments(phi: PhiValues, task: bm.Task) -> tuple[Array, Array]:
        mean, covariance = moments_of(linear(phi, task))
        return mean, np.diagonal(covariance, axis1=-2, axis2=-1)

    return Scenario(
        name,
        hierarchy,
        tasks,
        road,
        points,
        lambda phi, task: evidence_of(linear(phi, task)),
        moments,
        linear,
        log_prior,
        box,
    )


def _at(value: Any) -> Array:
    """A φ as an array with an axis more, for vectors over θ or observations."""
    return np.asarray(value, dtype=np.float64)[..., None]


def _diagonal(variance: Any, n: int) -> Array:
    """variance × identity, over leading axes of the variance."""
    return np.asarray(variance, dtype=np.float64)[..., None, None] * np.eye(n)


# ---------------------------------------------------------------------------------------------------------
# The scenarios


@cache
def normal_normal() -> Scenario:
    """Estimates of eight effects with known standard errors: φ = (mu, tau)."""

    def hyperprior() -> tuple[Tensor, Tensor]:
        return pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfNormal(4.0))

    def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None, *, sigma: Tensor) -> Tensor:
        mu, tau = phi
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        return pyro.sample("y", dist.Normal(theta, sigma).expand([len(x)]).to_event(1), obs=y)

    def linear(phi: PhiValues, task: bm.Task) -> Linear:
        n, sigma = task.n, float(task.context["sigma"])
        prior_variance = _diagonal(np.square(phi["tau"]), 1)
        mean, zero = _at(phi["mu"]), np.zeros(n)
        return Linear(mean, prior_variance, np.ones((n, 1)), zero, _diagonal(sigma**2, n), task.y.numpy())

    def log_prior(phi: PhiValues) -> Array:
        return np.asarray(stats.norm(0, 5).logpdf(phi["mu"]) + stats.halfnorm(scale=4.0).logpdf(phi["tau"]))

    effects = [6.1, -2.4, 3.3, 8.2, 0.4, 4.9, -1.1, 5.5]
    errors = [1.5, 1.0, 1.6, 1.1, 0.9, 1.1, 1.0, 1.8]
    tasks = bm.Tasks.from_lists(None, [[effect] for effect in effects], context={"sigma": errors})
    points = ({"mu": 2.0, "tau": 3.0}, {"mu": -4.0, "tau": 0.05}, {"mu": 11.0, "tau": 40.0})
    box = (("mu", False, -25.0, 30.0), ("tau", True, -30.0, 5.0))
    return _gaussian(
        "normal_normal",
        bm.Hierarchy(hyperprior, task),
        tasks,
        linear,
        points,
        log_prior=log_prior,
        box=box,
    )


@cache
def correlated() -> Scenario:
    """Ragged regressions with a correlated pair θ; `group` moves its prior mean, `offset` the mean of y."""

    def hyperprior() -> dict[str, Tensor]:
        return {
            "mu": pyro.sample("mu", dist.Normal(torch.zeros(2), 2.0).to_event(1)),
            "gamma": pyro.sample("gamma", dist.Normal(0.0, 1.0)),
            "tau": pyro.sample("tau", dist.HalfNormal(torch.ones(2)).to_event(1)),
            "L": pyro.sample("L", dist.LKJCholesky(2, 2.0)),
            "sigma": pyro.sample("sigma", dist.HalfNormal(1.0)),
        }

    def task(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None, *, group: Tensor, offset: Tensor) -> Tensor:
        mean = phi["mu"] + phi["gamma"] * group
        scale_tril = phi["tau"].unsqueeze(-1) * phi["L"]
        theta = pyro.sample("theta", dist.MultivariateNormal(mean, scale_tril=scale_tril))
        return pyro.sample("y", dist.Normal(x @ theta + offset, phi["sigma"]).to_event(1), obs=y)

    def linear(phi: PhiValues, task: bm.Task) -> Linear:
        root = np.diag(phi["tau"]) @ phi["L"]
        mean = phi["mu"] + phi["gamma"] * task.context["group"].numpy()
        shift = np.full(task.n, float(task.context["offset"]))
        noise = _diagonal(phi["sigma"] ** 2, task.n)
        return Linear(mean, root @ root.T, task.x.numpy(), shift, noise, task.y.numpy())

    rng = np.random.default_rng(1)
    sizes = [3, 1, 7, 2, 9, 3, 5]
    xs = [np.stack([np.ones(n), rng.normal(size=n)], 1) for n in sizes]
    pairs = rng.normal(size=(len(sizes), 2)) @ np.array([[1.0, 0.6], [0.0, 0.5]]) + [1.0, -0.5]
    ys = [x @ pair + 0.6 * rng.normal(size=len(x)) for x, pair in zip(xs, pairs, strict=True)]
    context = {"group": rng.normal(size=(len(sizes), 2)), "offset": rng.normal(size=len(sizes))}
    points = tuple(
        {
            "mu": np.array(mu),
            "gamma": gamma,
            "tau": np.array(tau),
            "L": np.array([[1.0, 0.0], [r, np.sqrt(1 - r**2)]]),
            "sigma": sigma,
        }
        for mu, gamma, tau, r, sigma in (
            ([1.0, -0.5], 0.3, [1.0, 0.8], 0.6, 0.6),
            ([-3.0, 4.0], -2.0, [0.1, 2.0], -0.9, 1.7),
            ([0.0, 0.0], 0.0, [5.0, 0.02], 0.0, 0.1),
        )
    )
    tasks = bm.Tasks.from_lists(xs, ys, names=list("ABCDEFG"), context=context)
    return _gaussian("correlated", bm.Hierarchy(hyperprior, task), tasks, linear, points)


@cache
def paired() -> Scenario:
    """Regressions whose intercept and slope are correlated, nobody knows how much: φ = (z, tau), r = tanh z."""

    def hyperprior() -> tuple[Tensor, Tensor]:
        return pyro.sample("z", dist.Normal(0.0, 0.8)), pyro.sample("tau", dist.HalfNormal(2.0))

    def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        z, tau = phi
        zero = torch.zeros(())
        root = torch.stack([torch.stack([tau, zero]), torch.stack([tau * z.tanh(), tau / z.cosh()])])
        theta = pyro.sample("theta", dist.MultivariateNormal(torch.tensor([1.0, -0.5]), scale_tril=root))
        return pyro.sample("y", dist.Normal(theta[0] + theta[1] * x, 0.6).to_event(1), obs=y)

    def linear(phi: PhiValues, task: bm.Task) -> Linear:
        design = np.stack([np.ones(task.n), task.x.numpy()], 1)
        r, tau = np.tanh(np.asarray(phi["z"])), np.asarray(phi["tau"])
        correlation = np.moveaxis(np.array([[np.ones_like(r), r], [r, np.ones_like(r)]]), (0, 1), (-2, -1))
        mean = np.broadcast_to([1.0, -0.5], (*r.shape, 2))
        noise = _diagonal(0.36, task.n)
        return Linear(mean, tau[..., None, None] ** 2 * correlation, design, np.zeros(task.n), noise, task.y.numpy())

    def log_prior(phi: PhiValues) -> Array:
        return np.asarray(stats.norm(0, 0.8).logpdf(phi["z"]) + stats.halfnorm(scale=2.0).logpdf(phi["tau"]))

    rng = np.random.default_rng(5)
    sizes = [4, 2, 3, 1, 5, 3, 2, 4, 3]
    xs = [rng.normal(size=n) for n in sizes]
    pairs = rng.normal(size=(len(sizes), 2)) @ np.array([[1.0, 0.7], [0.0, 0.7]]) + [1.0, -0.5]
    ys = [a + b * x + 0.6 * rng.normal(size=len(x)) for (a, b), x in zip(pairs, xs, strict=True)]
    points = ({"z": 0.9, "tau": 1.0}, {"z": -1.5, "tau": 0.2}, {"z": 0.0, "tau": 6.0})
    box = (("z", False, -4.5, 4.5), ("tau", True, -4.0, 4.0))
    return _gaussian(
        "paired",
        bm.Hierarchy(hyperprior, task),
        bm.Tasks.from_lists(xs, ys),
        linear,
        points,
        log_prior=log_prior,
        box=box,
    )


@cache
def plated() -> Scenario:
    """Intercepts θ and one slope beta for all tasks; the observations stand in a plate: φ = (beta, tau)."""

    def hyperprior() -> dict[str, Tensor]:
        beta = pyro.sample("beta", dist.Normal(0.0, 1.0))
        return {"beta": beta, "tau": pyro.sample("tau", dist.LogNormal(0.0, 0.5))}

    def task(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(1.0, phi["tau"]))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(theta + phi["beta"] * x, 0.8), obs=y)

    def linear(phi: PhiValues, task: bm.Task) -> Linear:
        n, x = task.n, task.x.numpy()
        prior_variance = _diagonal(np.square(phi["tau"]), 1)
        mean = np.ones_like(_at(phi["tau"]))
        slope = _at(phi["beta"]) * x
        return Linear(mean, prior_variance, np.ones((n, 1)), slope, _diagonal(0.64, n), task.y.numpy())

    def log_prior(phi: PhiValues) -> Array:
        return np.asarray(stats.norm(0, 1).logpdf(phi["beta"]) + stats.lognorm(0.5).logpdf(phi["tau"]))

    rng = np.random.default_rng(2)
    sizes = [4, 1, 2, 6, 3, 5, 2, 3]
    xs = [rng.normal(size=n) for n in sizes]
    levels = 1.0 + 1.2 * rng.normal(size=len(sizes))
    ys = [level + 0.5 * x + 0.8 * rng.normal(size=len(x)) for level, x in zip(levels, xs, strict=True)]
    points = ({"beta": 0.5, "tau": 1.2}, {"beta": -2.0, "tau": 0.1}, {"beta": 0.0, "tau": 7.0})
    box = (("beta", False, -3.0, 3.0), ("tau", True, -4.0, 4.0))
    return _gaussian(
        "plated",
        bm.Hierarchy(hyperprior, task),
        bm.Tasks.from_lists(xs, ys),
        linear,
        points,
        log_prior=log_prior,
        box=box,
    )


class Population(NamedTuple):
    """What the hyperprior of `nested` returns inside a dict."""

    mean: Tensor
    sd: float


@cache
def nested() -> Scenario:
    """A known spread, an unknown noise; φ is a dict that holds a named tuple: φ = (mu, sigma)."""

    def hyperprior() -> dict[str, Any]:
        population = Population(pyro.sample("mu", dist.Normal(0.0, 2.0)), 1.5)
        return {"population": population, "noise": [pyro.sample("sigma", dist.HalfNormal(1.0))]}

    def task(phi: dict[str, Any], x: Tensor, y: Tensor | None = None) -> Tensor:
        population, (sigma,) = phi["population"], phi["noise"]
        theta = pyro.sample("theta", dist.Normal(population.mean, population.sd))
        return pyro.sample("y", dist.Normal(theta * x, sigma).to_event(1), obs=y)

    def linear(phi: PhiValues, task: bm.Task) -> Linear:
        x, n = task.x.numpy(), task.n
        noise = _diagonal(np.square(phi["sigma"]), n)
        return Linear(_at(phi["mu"]), _diagonal(2.25, 1), x[:, None], np.zeros(n), noise, task.y.numpy())

    def log_prior(phi: PhiValues) -> Array:
        return np.asarray(stats.norm(0, 2).logpdf(phi["mu"]) + stats.halfnorm().logpdf(phi["sigma"]))

    rng = np.random.default_rng(3)
    sizes = [3, 2, 5, 1, 4, 2]
    xs = [rng.normal(size=n) for n in sizes]
    ys = [slope * x + 0.5 * rng.normal(size=len(x)) for slope, x in zip(rng.normal(1, 1.5, 6), xs, strict=True)]
    points = ({"mu": 1.0, "sigma": 0.5}, {"mu": -5.0, "sigma": 2.5}, {"mu": 0.3, "sigma": 0.02})
    box = (("mu", False, -9.0, 9.0), ("sigma", True, -5.0, 4.0))
    return _gaussian(
        "nested",
        bm.Hierarchy(hyperprior, task),
        bm.Tasks.from_lists(xs, ys),
        linear,
        points,
        log_prior=log_prior,
        box=box,
    )


@cache
def log_normal() -> Scenario:
    """Positive θ and y, both log-normal: linear-Gaussian in their logarithms: φ = (mu, tau)."""

    def hyperprior() -> tuple[Tensor, Tensor]:
        return pyro.sample("mu", dist.Normal(0.0, 1.0)), pyro.sample("tau", dist.HalfNormal(1.0))

    def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.LogNormal(*phi))
        return pyro.sample("y", dist.LogNormal(theta.log() + 0.3 * x, 0.4).to_event(1), obs=y)

    def linear(phi: PhiValues, task: bm.Task) -> Linear:
        n, x, z = task.n, task.x.numpy(), np.log(task.y.numpy())
        prior_variance = _diagonal(np.square(phi["tau"]), 1)
        noise = _diagonal(0.16, n)
        return Linear(_at(phi["mu"]), prior_variance, np.ones((n, 1)), 0.3 * x, noise, z, -float(z.sum()))

    def moments(phi: PhiValues, task: bm.Task) -> tuple[Array, Array]:
        mean, covariance = moments_of(linear(phi, task))
        variance = covariance[..., 0]
        level = np.exp(mean + variance / 2)
        return level, np.expm1(variance) * level**2

    def log_prior(phi: PhiValues) -> Array:
        return np.asarray(stats.norm().logpdf(phi["mu"]) + stats.halfnorm().logpdf(phi["tau"]))

    rng = np.random.default_rng(4)
    sizes = [3, 2, 5, 1, 4, 2]
    xs = [rng.normal(size=n) for n in sizes]
    levels = rng.normal(0.5, 0.7, len(sizes))
    ys = [np.exp(a + 0.3 * x + 0.4 * rng.normal(size=len(x))) for a, x in zip(levels, xs, strict=True)]
    points = ({"mu": 0.5, "tau": 0.7}, {"mu": -2.0, "tau": 0.1}, {"mu": 0.0, "tau": 5.0})
    box = (("mu", False, -5.0, 5.0), ("tau", True, -25.0, 4.0))
    return Scenario(
        "log_normal",
        bm.Hierarchy(hyperprior, task),
        bm.Tasks.from_lists(xs, ys),
        "exact",
        points,
        lambda phi, task: evidence_of(linear(phi, task)),
        moments,
        linear,
        log_prior,
        box,
    )


@cache
def beta_binomial() -> Scenario:
    """Success rates of ten arms: θ is integrated out by beta functions, not by Gaussians: φ = (a, b)."""

    def hyperprior() -> tuple[Tensor, Tensor]:
        return pyro.sample("a", dist.LogNormal(1.0, 0.7)), pyro.sample("b", dist.LogNormal(1.5, 0.7))

    def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Beta(*phi))
        return pyro.sample("y", dist.Binomial(x, theta).to_event(1), obs=y)

    def counts(task: bm.Task) -> tuple[Array, Array]:
        return task.y.numpy(), task.x.numpy()

    def log_z(phi: PhiValues, task: bm.Task) -> Array:
        hits, trials = counts(task)
        a, b = phi["a"] + hits.sum(), phi["b"] + (trials - hits).sum()
        choices = -np.log1p(trials) - betaln(hits + 1, trials - hits + 1)
        return np.asarray(choices.sum() + betaln(a, b) - betaln(phi["a"], phi["b"]))

    def moments(phi: PhiValues, task: bm.Task) -> tuple[Array, Array]:
        hits, trials = counts(task)
        a, b = _at(phi["a"] + hits.sum()), _at(phi["b"] + (trials - hits).sum())
        return a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1))

    def log_prior(phi: PhiValues) -> Array:
        a = stats.lognorm(0.7, scale=np.exp(1.0)).logpdf(phi["a"])
        return np.asarray(a + stats.lognorm(0.7, scale=np.exp(1.5)).logpdf(phi["b"]))

    hits = [[2], [7, 3], [1], [0], [9], [4, 1], [3], [12], [5], [2]]
    trials = [[10], [12, 9], [8], [6], [11], [15, 7], [9], [30], [14], [20]]
    points = ({"a": 2.5, "b": 4.0}, {"a": 0.3, "b": 0.2}, {"a": 60.0, "b": 90.0})
    return Scenario(
        "beta_binomial",
        bm.Hierarchy(hyperprior, task),
        bm.Tasks.from_lists(trials, hits),
        "quadrature",
        points,
        log_z,
        moments,
        None,
        log_prior,
        (("a", True, -5.0, 7.0), ("b", True, -5.0, 7.0)),
    )


@cache
def poisson_gamma() -> Scenario:
    """Counts of eight machines over known times: rates θ from a gamma distribution: φ = (a, b)."""

    def hyperprior() -> tuple[Tensor, Tensor]:
        return pyro.sample("a", dist.LogNormal(0.5, 0.6)), pyro.sample("b", dist.LogNormal(0.0, 0.6))

    def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Gamma(*phi))
        return pyro.sample("y", dist.Poisson(theta * x).to_event(1), obs=y)

    def log_z(phi: PhiValues, task: bm.Task) -> Array:
        counts, times = task.y.numpy(), task.x.numpy()
        a, b = phi["a"], phi["b"]
        fixed = (counts * np.log(times) - gammaln(counts + 1)).sum()
        total = a + counts.sum()
        return np.asarray(fixed + a * np.log(b) - gammaln(a) + gammaln(total) - total * np.log(b + times.sum()))

    def moments(phi: PhiValues, task: bm.Task) -> tuple[Array, Array]:
        a, b = _at(phi["a"] + float(task.y.sum())), _at(phi["b"] + float(task.x.sum()))
        return a / b, a / b**2

    def log_prior(phi: PhiValues) -> Array:
        a = stats.lognorm(0.6, scale=np.exp(0.5)).logpdf(phi["a"])
        return np.asarray(a + stats.lognorm(0.6).logpdf(phi["b"]))

    times = [[1.0, 2.0], [0.5], [3.0, 1.0, 1.0], [2.0], [1.5, 0.5], [4.0], [1.0], [2.5, 2.5]]
    counts = [[2, 5], [0], [4, 1, 2], [9], [1, 0], [3], [1], [7, 10]]
    points = ({"a": 1.6, "b": 1.0}, {"a": 0.7, "b": 0.4}, {"a": 40.0, "b": 25.0})
    return Scenario(
        "poisson_gamma",
        bm.Hierarchy(hyperprior, task),
        bm.Tasks.from_lists(times, counts),
        "quadrature",
        points,
        log_z,
        moments,
        None,
        log_prior,
        (("a", True, -4.0, 5.0), ("b", True, -4.0, 4.0)),
    )


@cache
def skewed() -> Scenario:
    """Waiting times, few of each of seven tasks; log-normal rates θ: φ = (mu, tau)."""

    def hyperprior() -> tuple[Tensor, Tensor]:
        return pyro.sample("mu", dist.Normal(0.0, 1.5)), pyro.sample("tau", dist.LogNormal(-0.5, 0.5))

    def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.LogNormal(*phi))
        return pyro.sample("y", dist.Exponential(theta).expand([len(x)]).to_event(1), obs=y)

    def log_moment(phi: PhiValues, task: bm.Task, power: int) -> Array:
        """log ∫ θ^power p(y | θ) p(θ | φ) dθ by the trapezoidal rule over standardised log θ."""
        n, total = task.n + power, float(task.y.sum())
        mu, tau = np.asarray(phi["mu"], dtype=np.float64), np.asarray(phi["tau"], dtype=np.float64)
        grid = np.linspace(-9.0, 9.0, 181)
        largest = np.full(np.broadcast(mu, tau).shape, -np.inf)
        summed = np.zeros_like(largest)
        for z, log_weight in zip(grid, stats.norm.logpdf(grid) + np.log(grid[1] - grid[0]), strict=True):
            log_theta = mu + tau * z
            term = log_weight + n * log_theta - np.exp(log_theta) * total
            higher = np.maximum(largest, term)
            summed = summed * np.exp(largest - higher) + np.exp(term - higher)
            largest = higher
        return np.asarray(largest + np.log(summed))

    def moments(phi: PhiValues, task: bm.Task) -> tuple[Array, Array]:
        log_z, first, second = (log_moment(phi, task, power) for power in range(3))
        mean = np.exp(first - log_z)
        return mean[..., None], (np.exp(second - log_z) - mean**2)[..., None]

    def log_prior(phi: PhiValues) -> Array:
        return np.asarray(
            stats.norm(0, 1.5).logpdf(phi["mu"]) + stats.lognorm(0.5, scale=np.exp(-0.5)).logpdf(phi["tau"])
        )

    times = [[0.3, 1.9], [4.1], [0.2, 0.1, 0.5], [1.0], [2.2, 0.7], [0.05], [6.3, 3.0, 0.4]]
    points = ({"mu": -0.3, "tau": 0.6}, {"mu": 1.5, "tau": 0.05}, {"mu": -1.0, "tau": 2.5})
    return Scenario(
        "skewed",
        bm.Hierarchy(hyperprior, task),
        bm.Tasks.from_lists(None, times),
        "quadrature",
        points,
        lambda phi, task: log_moment(phi, task, 0),
        moments,
        None,
        log_prior,
        (("mu", False, -7.0, 7.0), ("tau", True, -4.0, 2.0)),
    )


SCENARIOS: dict[str, Callable[[], Scenario]] = {
    "normal_normal": normal_normal,
    "correlated": correlated,
    "plated": plated,
    "nested": nested,
    "log_normal": log_normal,
    "beta_binomial": beta_binomial,
}

CURVED: dict[str, Callable[[], Scenario]] = {
    "beta_binomial": beta_binomial,
    "poisson_gamma": poisson_gamma,
    "skewed": skewed,
}
