"""The gallery's models as plain Pyro, one task at a time: shapes, numbers, the docstrings' formulas."""

from __future__ import annotations

import ast
import importlib.util
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyro
import pytest
import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Binomial,
    Distribution,
    Gamma,
    HalfCauchy,
    HalfNormal,
    MultivariateNormal,
    Normal,
    Poisson,
)

import bayesmeta as bm
from bayesmeta import shelf

GALLERY = Path(__file__).parent.parent / "models"
NAMES = sorted(path.stem for path in GALLERY.glob("*.py"))
HIERARCHIES = [name for name in NAMES if not shelf.is_network(GALLERY / f"{name}.py")]


@pytest.fixture(scope="module", params=HIERARCHIES)
def model(request: pytest.FixtureRequest) -> ModuleType:
    return load(request.param)


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """A seed, and float64 as the library has it while it runs a model."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_default_dtype(before)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, GALLERY / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(model: ModuleType, task: bm.Task, y: Tensor | None) -> Trace:
    """One task under the hyperprior, traced."""

    def once() -> Tensor:
        result: Tensor = model.task(model.hyperprior(), task.x, y, **task.context)
        return result

    trace: Trace = pyro.poutine.trace(once).get_trace()
    return trace


def value(trace: Trace, site: str) -> Tensor:
    result = trace.nodes[site]["value"]
    assert isinstance(result, Tensor)
    return result


def log_density(trace: Trace) -> Tensor:
    return torch.as_tensor(trace.log_prob_sum())


@pytest.mark.parametrize("name", NAMES)
def test_a_model_has_a_story_a_formula_and_a_reference(name: str) -> None:
    file = shelf.load_model(GALLERY / f"{name}.py")
    text = ast.get_docstring(ast.parse(file.path.read_text(encoding="utf-8")))
    assert text
    title, *paragraphs = text.strip().split("\n\n")
    assert "\n" not in title
    assert any("~" in paragraph for paragraph in paragraphs)
    assert any("(19" in paragraph or "(20" in paragraph for paragraph in paragraphs)
    assert isinstance(file.model, bm.Hierarchy if name in HIERARCHIES else torch.nn.Module)


def test_simulated_observations_have_the_shape_of_the_real_ones(model: ModuleType) -> None:
    tasks = model.load()
    for task in tasks:
        y = value(run(model, task, None), "_RETURN")
        assert y.shape == task.y.shape
        assert y.dtype == torch.float64
        assert y.isfinite().all()


def test_the_density_of_the_real_observations_is_finite(model: ModuleType) -> None:
    for task in model.load()[:5]:
        for _ in range(20):
            assert math.isfinite(log_density(run(model, task, task.y)).item())


def log_prob(distribution: Distribution, at: Tensor) -> Tensor:
    """Summed over all elements."""
    return torch.as_tensor(distribution.log_prob(at)).sum()


def schools(trace: Trace, task: bm.Task) -> Tensor:
    mu, tau, theta = (value(trace, site) for site in ("mu", "tau", "theta"))
    prior = log_prob(Normal(0.0, 5.0), mu) + log_prob(HalfCauchy(5.0), tau) + log_prob(Normal(mu, tau), theta)
    return prior + log_prob(Normal(theta, task.context["sigma"]), task.y)


def radon(trace: Trace, task: bm.Task) -> Tensor:
    sites = ("mu_alpha", "gamma", "beta", "sigma_alpha", "sigma_y", "alpha")
    mu_alpha, gamma, beta, sigma_alpha, sigma_y, alpha = (value(trace, site) for site in sites)
    prior = log_prob(Normal(0.0, 10.0), torch.stack([mu_alpha, gamma, beta]))
    prior = prior + log_prob(HalfNormal(1.0), torch.stack([sigma_alpha, sigma_y]))
    prior = prior + log_prob(Normal(mu_alpha + gamma * task.context["log_uranium"], sigma_alpha), alpha)
    return prior + log_prob(Normal(alpha + beta * task.x.squeeze(1), sigma_y), task.y)


def sleep(trace: Trace, task: bm.Task) -> Tensor:
    mu, tau, L, sigma, theta = (value(trace, site) for site in ("mu", "tau", "L", "sigma", "theta"))
    prior = log_prob(Normal(torch.tensor([250.0, 10.0]), torch.tensor([100.0, 20.0])), mu)
    prior = prior + log_prob(HalfNormal(torch.tensor([50.0, 20.0])), tau) + log_prob(HalfNormal(50.0), sigma)
    # LKJ(2) of one correlation r: the density of r is 3/4 (1 - r^2).
    r = L[1, 0]
    prior = prior + math.log(0.75) + torch.log1p(-(r**2))
    covariance = torch.diag(tau) @ torch.tensor([[1.0, r], [r, 1.0]]) @ torch.diag(tau)
    prior = prior + log_prob(MultivariateNormal(mu, covariance), theta)
    return prior + log_prob(Normal(theta[0] + theta[1] * task.x, sigma), task.y)


def baseball(trace: Trace, task: bm.Task) -> Tensor:
    mu, tau, theta = (value(trace, site) for site in ("mu", "tau", "theta"))
    prior = log_prob(Normal(-1.0, 1.0), mu) + log_prob(HalfNormal(1.0), tau) + log_prob(Normal(mu, tau), theta)
    return prior + log_prob(Binomial(task.x, torch.sigmoid(theta)), task.y)


def seeds(trace: Trace, task: bm.Task) -> Tensor:
    names = ("alpha0", "alpha1", "alpha2", "alpha12", "sigma", "theta")
    alpha0, alpha1, alpha2, alpha12, sigma, theta = (value(trace, site) for site in names)
    prior = log_prob(Normal(0.0, 1.0), torch.stack([alpha0, alpha1, alpha2, alpha12]))
    prior = prior + log_prob(HalfCauchy(1.0), sigma)
    strain, cucumber = task.context["strain"], task.context["cucumber"]
    mean = alpha0 + alpha1 * strain + alpha2 * cucumber + alpha12 * strain * cucumber
    prior = prior + log_prob(Normal(mean, sigma), theta)
    return prior + log_prob(Binomial(task.x, torch.sigmoid(theta)), task.y)


def correlated(trace: Trace, mean: Tensor) -> Tensor:
    """log p(L) and log p(theta | mean, tau, L) of a pair."""
    tau, L, theta = (value(trace, site) for site in ("tau", "L", "theta"))
    r = L[1, 0]
    covariance = torch.diag(tau) @ torch.tensor([[1.0, r], [r, 1.0]]) @ torch.diag(tau)
    return math.log(0.75) + torch.log1p(-(r**2)) + log_prob(MultivariateNormal(mean, covariance), theta)


def contraception(trace: Trace, task: bm.Task) -> Tensor:
    mu, tau, age, child, theta = (value(trace, site) for site in ("mu", "tau", "age", "child", "theta"))
    prior = log_prob(Normal(0.0, 2.0), torch.cat([mu, child])) + log_prob(HalfNormal(1.0), tau)
    prior = prior + log_prob(Normal(0.0, 1.0), age) + correlated(trace, mu)
    coefficients = torch.cat([theta[1:], age[None], child])
    return prior + log_prob(Bernoulli(torch.sigmoid(theta[0] + task.x @ coefficients)), task.y)


def epil(trace: Trace, task: bm.Task) -> Tensor:
    names = ("level", "base", "treated", "interaction", "age", "fourth", "tau", "sigma", "person", "period")
    level, base, treated, interaction, age, fourth, tau, sigma, person, period = (value(trace, n) for n in names)
    prior = log_prob(Normal(0.0, 5.0), level) + log_prob(HalfNormal(1.0), torch.stack([tau, sigma]))
    prior = prior + log_prob(Normal(0.0, 2.0), torch.stack([base, treated, interaction, age, fourth]))
    b, a, p = (task.context[name] for name in ("lbase", "lage", "progabide"))
    mean = level + base * b + treated * p + interaction * p * b + age * a
    prior = prior + log_prob(Normal(mean, tau), person) + log_prob(Normal(0.0, sigma), period)
    last = torch.tensor([0.0, 0.0, 0.0, 1.0])
    return prior + log_prob(Poisson(torch.exp(person + period + fourth * last)), task.y)


def orthodont(trace: Trace, task: bm.Task) -> Tensor:
    girls, boys, tau, sigma, theta = (value(trace, site) for site in ("girls", "boys", "tau", "sigma", "theta"))
    prior = log_prob(HalfNormal(torch.tensor([5.0, 1.0])), tau) + log_prob(HalfNormal(3.0), sigma)
    for mean in (girls, boys):
        prior = prior + log_prob(Normal(torch.tensor([24.0, 0.6]), torch.tensor([5.0, 1.0])), mean)
    prior = prior + correlated(trace, boys if task.context["boy"] == 1 else girls)
    return prior + log_prob(Normal(theta[0] + theta[1] * (task.x - 11), sigma), task.y)


def kidney(trace: Trace, task: bm.Task) -> Tensor:
    names = ("log_risk", "female", "age", "variance", "frailty")
    log_risk, female, age, variance, frailty = (value(trace, site) for site in names)
    prior = log_prob(Normal(-4.0, 2.0), log_risk) + log_prob(Normal(0.0, 2.0), female)
    prior = prior + log_prob(Normal(0.0, 1.0), age) + log_prob(HalfNormal(1.0), variance)
    prior = prior + log_prob(Gamma(1 / variance, 1 / variance), frailty)
    total = torch.tensor(0.0)
    for (seen, years), days in zip(task.x, task.y, strict=True):
        risk = frailty * torch.exp(log_risk + female * task.context["female"] + age * (years - 45) / 10)
        survival = torch.exp(-risk * days)
        total = total + torch.log(risk * survival if seen else survival)
    return prior + total


def theoph(trace: Trace, task: bm.Task) -> Tensor:
    mu, tau, sigma, floor, theta = (value(trace, site) for site in ("mu", "tau", "sigma", "floor", "theta"))
    prior = log_prob(Normal(torch.tensor([0.5, -3.0, -0.7]), 1.0), mu) + log_prob(HalfNormal(0.5), tau)
    prior = prior + log_prob(HalfNormal(0.5), torch.stack([sigma, floor])) + log_prob(Normal(mu, tau), theta)
    ka, ke, v = theta[0].exp(), (theta[1] - theta[2]).exp(), theta[2].exp()
    mean = task.context["dose"] * ka / (v * (ka - ke)) * (torch.exp(-ke * task.x) - torch.exp(-ka * task.x))
    return prior + log_prob(Normal(mean, torch.hypot(floor.expand(len(mean)), sigma * mean)), task.y)


FORMULAS: dict[str, Callable[[Trace, bm.Task], Tensor]] = {
    "baseball": baseball,
    "contraception": contraception,
    "eight_schools": schools,
    "epil": epil,
    "kidney": kidney,
    "orthodont": orthodont,
    "radon": radon,
    "seeds": seeds,
    "sleepstudy": sleep,
    "theoph": theoph,
}


@pytest.mark.parametrize("name", HIERARCHIES)
def test_the_density_is_that_of_the_formula(name: str) -> None:
    model = load(name)
    for task in model.load()[[0, 1, -1]]:
        trace = run(model, task, task.y)
        torch.testing.assert_close(log_density(trace), FORMULAS[name](trace, task), rtol=1e-10, atol=1e-8)


def test_what_each_model_loads() -> None:
    expected: dict[str, Any] = {
        "baseball": (18, 18, "Roberto Clemente"),
        "contraception": (60, 1934, "1"),
        "eight_schools": (8, 8, "A"),
        "epil": (59, 236, "1"),
        "kidney": (38, 76, "1"),
        "orthodont": (27, 108, "M01"),
        "radon": (85, 919, "AITKIN"),
        "seeds": (21, 21, "1"),
        "sleepstudy": (18, 180, "308"),
        "theoph": (12, 132, "1"),
    }
    for name in HIERARCHIES:
        tasks = load(name).load()
        assert (len(tasks), tasks.n_observations, tasks.names[0]) == expected[name]


def test_what_each_network_loads_goes_through_it() -> None:
    expected: dict[str, Any] = {"sines": (2000, 40_000, "wave 0"), "digits": (25, 25 * 75, "stream 2968811710-0")}
    for name, numbers in expected.items():
        file = shelf.load_model(GALLERY / f"{name}.py")
        data, net = file.data(), file.model
        tasks = data.first() if isinstance(data, bm.Stream) else data
        assert isinstance(net, torch.nn.Module)
        assert (len(tasks), tasks.n_observations, tasks.names[0]) == numbers
        first = tasks[0].x if name == "digits" else tasks[0].x.unsqueeze(-1)
        assert net(first.to(next(net.parameters()).dtype)).shape == (tasks[0].n, 5 if name == "digits" else 1)
        assert set(file.settings) == (set() if name == "sines" else {"loss", "by_class"})


def test_the_rest_of_the_baseball_season_is_the_truth() -> None:
    baseball = load("baseball")
    start, rest = baseball.load(), baseball.rest()
    assert rest.names == start.names
    torch.testing.assert_close(
        rest.y / rest.x, torch.tensor(bm.data.load("baseball")["rest_average"]), rtol=0, atol=0.008
    )
    assert torch.equal(rest.y, rest.y.round())
