"""Does a task belong: uniform for those that do, small for those that do not, and which part is strange."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

import bayesmeta as bm
from bayesmeta.diagnose.novelty_ranks import strangers_at_a_glance
from bayesmeta.errors import BayesmetaWarning, DataError, HierarchyError, NotAvailableError, OptionError
from bayesmeta.evidence import Joint
from tests.scenarios import beta_binomial
from tests.truth import Array

N = 8
REPLICATES = 1000


def levels() -> bm.Hierarchy:
    """A level per task, its spread and the noise unknown."""

    def hyperprior() -> tuple[Tensor, Tensor, Tensor]:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        return mu, pyro.sample("tau", dist.HalfNormal(2.0)), pyro.sample("sigma", dist.HalfNormal(1.0))

    def task(phi: tuple[Tensor, Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        mu, tau, sigma = phi
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        return pyro.sample("y", dist.Normal(theta + 0 * x, sigma).to_event(1), obs=y)

    return bm.Hierarchy(hyperprior, task)


def drawn(phi: Array, sizes: list[int], seed: int, far: float = 1.0, noise: float = 1.0) -> bm.Tasks:
    """A task for each row of φ, in numpy: its level `far` times as far out, its noise `noise` times as large."""
    rng = np.random.default_rng(seed)
    pairs = zip(phi, sizes, strict=True)
    ys = [mu + far * tau * rng.normal() + noise * sigma * rng.normal(size=n) for (mu, tau, sigma), n in pairs]
    return bm.Tasks.from_lists([np.zeros(n) for n in sizes], ys, names=[f"new {k}" for k in range(len(sizes))])


@cache
def fitted() -> bm.Posterior:
    tasks = drawn(np.tile([1.0, 1.5, 0.5], (25, 1)), [N] * 25, seed=1).with_names([str(k) for k in range(25)])
    return bm.fit(levels(), tasks, bm.Laplace(draws=4000), progress=False)


def from_the_population(count: int, seed: int, far: float = 1.0, noise: float = 1.0) -> bm.Tasks:
    """Tasks of 1, 3 and 8 observations, φ from the draws of the fit."""
    posterior = fitted()
    pick = torch.randint(4000, (count,), generator=torch.Generator().manual_seed(seed))
    phi = np.stack([posterior.phi[site][pick].numpy() for site in ("mu", "tau", "sigma")], 1)
    return drawn(phi, [(1, 3, N)[k % 3] for k in range(count)], seed, far, noise)


def distance(probabilities: Tensor) -> float:
    """Kolmogorov's distance from uniform, in units of what chance alone reaches once in a thousand times.

    Both the tasks and those that they were compared with are random.
    """
    count = len(probabilities)
    found = float(stats.kstest(probabilities.numpy(), "uniform").statistic)
    return found / (1.95 * math.sqrt(1 / count + 1 / REPLICATES))


# --- calibration --------------------------------------------------------------------------------------------


def test_probabilities_are_uniform_for_tasks_of_the_population() -> None:
    found = fitted().novelty(from_the_population(300, seed=2), replicates=REPLICATES)

    assert found.tail_probability.shape == (300,)
    assert distance(found.tail_probability) < 1
    assert distance(found.theta_probability) < 1
    assert distance(found.noise_probability) < 1
    assert len(found.strangers(0.05)) < stats.binom(300, 0.05).ppf(0.999)


@pytest.mark.parametrize(("far", "noise", "failing"), [(2.5, 1.0, "theta"), (1.0, 2.0, "noise"), (1.0, 0.5, "noise")])
def test_they_are_not_for_tasks_of_another(far: float, noise: float, failing: str) -> None:
    found = fitted().novelty(from_the_population(300, seed=3, far=far, noise=noise), replicates=REPLICATES)

    assert distance(getattr(found, f"{failing}_probability")) > 1.5
    assert distance(found.tail_probability) > 1.2


def test_a_few_draws_of_phi_are_enough_to_compare_with() -> None:
    known = fitted()
    posterior = bm.fit(levels(), known.tasks, bm.Laplace(draws=6), progress=False)
    pick = torch.arange(240) % 6
    phi = np.stack([posterior.phi[site][pick].numpy() for site in ("mu", "tau", "sigma")], 1)
    found = posterior.novelty(drawn(phi, [N] * 240, seed=3), replicates=REPLICATES)

    assert distance(found.tail_probability) < 1
    assert distance(found.theta_probability) < 1


def test_counts_are_uniform_as_ties_are_broken_at_random() -> None:
    scenario = beta_binomial()
    posterior = bm.fit(scenario.hierarchy, scenario.tasks, bm.Laplace(draws=2000), progress=False)
    rng = np.random.default_rng(4)
    pick = rng.integers(2000, size=150)
    rates = rng.beta(posterior.phi["a"].numpy()[pick], posterior.phi["b"].numpy()[pick])
    ordinary = bm.Tasks.from_lists([[4.0]] * 150, list(rng.binomial(4, rates)[:, None].astype(float)))
    ordinary = ordinary.with_names([f"new {k}" for k in range(150)])
    strange = bm.Tasks.from_lists([[4.0]] * 150, list(rng.binomial(4, 1 - rates**3)[:, None].astype(float)))

    assert distance(posterior.novelty(ordinary, replicates=400).tail_probability) < 1
    assert distance(posterior.novelty(strange, replicates=400).tail_probability) > 1.5


@pytest.mark.long
def test_over_whole_experiments_they_are_uniform() -> None:
    """φ* from the prior, tasks and one more from φ*, fit, and the rank of the one more."""
    tails = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        phi = np.array([[2 * rng.normal(), 2 * abs(rng.normal()), abs(rng.normal())]])
        tasks = drawn(np.repeat(phi, 9, 0), [3] * 9, seed)
        posterior = bm.fit(levels(), tasks[:8], bm.Laplace(draws=2000), seed=seed, progress=False)
        tails.append(posterior.novelty(tasks[8:], replicates=100, seed=seed).tail_probability)

    assert distance(torch.cat(tails)) < 1


# --- what is strange ----------------------------------------------------------------------------------------


def test_the_strange_part_is_named() -> None:
    rng = np.random.default_rng(5)
    noise = rng.normal(size=(4, N))
    noise = (noise - noise.mean(1, keepdims=True)) / noise.std(1, keepdims=True)
    ys = [1.5 + 0.5 * noise[0], 12.0 + 0.5 * noise[1], 1.5 + 3.0 * noise[2], 1.5 + 0.03 * noise[3]]
    tasks = bm.Tasks.from_lists([np.zeros(N)] * 4, ys, names=["usual", "far", "noisy", "quiet"])
    found = fitted().novelty(tasks)

    assert found.strangers() == ("far", "noisy", "quiet")
    assert found.part() == (
        "",
        "θ is far out",
        "observations scatter more than in the population",
        "observations scatter less than in the population",
    )
    assert found.tail_probability[1] < 0.01
    assert found.tail_probability[2] < 0.01
    assert found.tail_probability[0] > 0.1
    assert found.theta_probability[2] > 0.1
    assert found.noise_probability[1] > 0.1
    assert 0.1 < float(found.noise_probability[0]) < 0.99
    assert found.expected[1] - found.log_density[1] > 4 * found.spread[1]
    assert repr(found).startswith(
        "Novelty of 4 tasks among 1,000 of the population: 3 strange ('far': θ is far out; 'noisy': observations"
    )
    table = found.frame()
    assert table["strange"].tolist() == list(found.part())
    assert table["observations"].tolist() == [N] * 4
    assert "3 strange" in found._repr_html_()


def test_nothing_strange_is_said_to_be_so() -> None:
    usual = bm.Tasks.from_lists([np.zeros(3)], [[1.2, 1.9, 1.6]], names=["usual"])

    assert repr(fitted().novelty(usual, replicates=200)).endswith("of the population: none is strange")


def test_a_task_without_observations_has_no_probability() -> None:
    tasks = bm.Tasks.from_lists([[], [0.0]], [[], [1.0]], names=["nothing", "one"], allow_empty=True)
    found = fitted().novelty(tasks, replicates=50)

    assert torch.isnan(found.tail_probability).tolist() == [True, False]
    assert found.strangers() == ()
    assert torch.isnan(found.p_value()).tolist() == [True, False]


def test_a_joint_posterior_knows_strangers_too() -> None:
    ys = [[1.5, 0.8, 1.9], [30.0, 30.6, 29.8]]
    tasks = bm.Tasks.from_lists([np.zeros(3)] * 2, ys, names=["usual", "far"])

    exact = fitted()
    evidence = Joint(exact.collapsed.program, exact.tasks, 1.0)
    u = torch.cat([exact.phi_coordinates, exact.theta_coordinates.flatten(1)], 1)[:500]
    joint = bm.Posterior(exact.hierarchy, exact.tasks, evidence, bm.Draws(u.unsqueeze(0)), exact.info)

    assert joint.novelty(tasks, replicates=300).strangers(0.02) == ("far",)


def test_context_and_inputs_are_those_of_the_task() -> None:
    """Eight schools' standard errors: what is far for a precise estimate is not for a vague one."""
    from tests.scenarios import normal_normal

    scenario = normal_normal()
    posterior = bm.fit(scenario.hierarchy, scenario.tasks, bm.Laplace(draws=2000), progress=False)
    tasks = bm.Tasks.from_lists(None, [[25.0], [25.0]], names=["precise", "vague"], context={"sigma": [1.0, 20.0]})
    found = posterior.novelty(tasks)

    assert found.tail_probability[0] < 0.01
    assert found.tail_probability[1] > 0.1


def test_pieces_and_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    from bayesmeta.diagnose import novelty_ranks

    tasks = from_the_population(6, seed=8)
    at_once = fitted().novelty(tasks, replicates=2000)
    again = fitted().novelty(tasks, replicates=2000)
    monkeypatch.setattr(novelty_ranks, "ROWS", 4000)
    in_pieces = fitted().novelty(tasks, replicates=2000)

    assert torch.equal(at_once.tail_probability, again.tail_probability)
    torch.testing.assert_close(at_once.log_density, in_pieces.log_density)
    assert float((at_once.tail_probability - in_pieces.tail_probability).abs().max()) < 4 * math.sqrt(0.5 / 2000)


# --- at a glance --------------------------------------------------------------------------------------------


def test_only_strangers_are_seen_at_a_glance() -> None:
    ordinary = from_the_population(200, seed=9)
    far = bm.Tasks.from_lists([np.zeros(3)], [[30.0, 29.0, 31.0]], names=["far"])
    known = bm.Tasks.from_lists([np.zeros(3)], [[30.0, 29.0, 31.0]], names=["3"])
    found = strangers_at_a_glance(fitted(), ordinary + far + known)

    assert "far" in found
    assert "3" not in found, "a task of the fit"
    assert len(found) <= 3


def test_adapting_to_a_stranger_warns() -> None:
    """Levels far out, of a population so well known that their k-hat is low; and only where it is wanted."""

    def hyperprior() -> Tensor:
        return pyro.sample("mu", dist.Normal(0.0, 5.0))

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi, 1.0))
        return pyro.sample("y", dist.Normal(theta + 0 * x, 0.5).to_event(1), obs=y)

    rng = np.random.default_rng(3)
    ys = list(rng.normal(1.0, 1.0, (200, 1)) + 0.5 * rng.normal(size=(200, 3)))
    posterior = bm.fit(
        bm.Hierarchy(hyperprior, task), bm.Tasks.from_lists([np.zeros(3)] * 200, ys), bm.Laplace(), progress=False
    )
    new = bm.Tasks.from_lists([np.zeros(3)] * 2, [[1.0, 1.5, 0.3], [9.0, 9.5, 8.7]], names=["usual", "far"])

    with pytest.warns(BayesmetaWarning, match=r"1 of 2 tasks \(\['far'\]\) are far less likely than those of the"):
        warned = posterior.adapt(new)
    assert float(warned.k_hat.max()) < 0.7
    ignored = posterior.adapt(new, strangers="ignore")
    assert torch.equal(ignored.theta_coordinates, warned.theta_coordinates)
    posterior.adapt(new[:1])
    with pytest.raises(OptionError, match="unknown strangers 'no'; valid: 'warn', 'ignore'"):
        posterior.adapt(new, strangers="no")  # type: ignore[arg-type]


# --- refusals -----------------------------------------------------------------------------------------------


def test_what_is_no_task_or_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    posterior, usual = fitted(), from_the_population(3, seed=1)
    with pytest.raises(DataError, match="tasks must be a Tasks, got list"):
        posterior.novelty([1])  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="replicates must be a whole number of at least 20, got 19"):
        posterior.novelty(usual, replicates=19)
    with pytest.raises(OptionError, match=r"level must lie between 0 and 1, got 1\.5"):
        posterior.novelty(usual, replicates=20).strangers(1.5)
    from bayesmeta.diagnose import novelty_ranks

    def lost(*args: Any) -> None:
        raise HierarchyError("no mode")

    monkeypatch.setattr(novelty_ranks, "theta_coordinates", lost)
    with pytest.raises(
        NotAvailableError, match="novelty needs the evidence of tasks under φ, which could not be had: no mode"
    ):
        posterior.novelty(usual, replicates=20)


def test_tasks_without_inputs_are_compared_with_those_of_their_size() -> None:
    def task(phi: tuple[Tensor, Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi[0], phi[1]))
        return pyro.sample("y", dist.Normal(theta, phi[2]).expand([len(x)]).to_event(1), obs=y)

    known = fitted()
    plain = bm.Tasks.from_lists(None, [one.y for one in known.tasks], names=known.tasks.names)
    posterior = bm.fit(bm.Hierarchy(levels().hyperprior, task), plain, bm.Laplace(draws=2000), progress=False)
    new = from_the_population(3, seed=5)
    together = bm.Tasks.from_lists(None, [new[2].y, new[0].y, new[1].y], names=["a", "b", "c"])
    found = posterior.novelty(together, replicates=300).tail_probability
    alone = torch.stack([posterior.novelty(together[[k]], replicates=300).tail_probability[0] for k in range(3)])

    assert together.sizes.tolist() == [N, 1, 3]
    assert float((found - alone).abs().max()) < 0.15
