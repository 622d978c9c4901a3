"""Adaptation without a refit, against exact moments of everything together, weights by hand, and batters to come."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import arviz
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.special import expit, logsumexp

import bayesmeta as bm
from bayesmeta.adapt.known import observations
from bayesmeta.errors import BayesmetaWarning, DataError, OptionError
from bayesmeta.evidence.conditional import log_evidence
from tests.adapting import close as means_are_close
from tests.adapting import line_of, lines, new_lines
from tests.evidences import gallery
from tests.scenarios import CURVED, SCENARIOS, normal_normal, paired, quadrature
from tests.standard import limit
from tests.truth import Array, Exact, Scenario

MAKE = SCENARIOS | CURVED | {"paired": paired}
KNOWN = ["normal_normal", "paired", "plated", "nested", "log_normal", "beta_binomial", "poisson_gamma"]
DRAWS = 8000


def scenario_of(name: str) -> Scenario:
    return MAKE[name]()


@cache
def fitted(name: str) -> bm.Posterior:
    scenario = scenario_of(name)
    return bm.fit(scenario.hierarchy, scenario.tasks, bm.Laplace(draws=DRAWS), progress=False)


def newcomer(name: str, label: str = "new") -> bm.Tasks:
    """A task that is unlike the others, but not wildly."""
    xs = {"paired": [0.5, -1.0], "plated": [0.5, -1.0], "nested": [0.6, -0.8], "log_normal": [0.3, 1.0]}
    xs |= {"beta_binomial": [12.0, 20.0], "poisson_gamma": [1.0, 2.0]}
    ys = {"normal_normal": [9.0, 8.0], "paired": [2.5, 3.0], "plated": [3.5, 3.0], "nested": [2.0, -2.2]}
    ys |= {"log_normal": [5.0, 7.0], "beta_binomial": [8.0, 13.0], "poisson_gamma": [5.0, 9.0]}
    context = {"sigma": [1.2]} if name == "normal_normal" else None
    return bm.Tasks.from_lists([xs[name]] if name in xs else None, [ys[name]], names=[label], context=context)


def size_of(adapted: bm.Adapted, posterior: bm.Posterior, t: int = 0) -> float:
    """Effective draws of a task: the share that its weights leave of those of the fit."""
    assert posterior.info.effective_size is not None
    return float(adapted.effective_size[t]) * min(1.0, posterior.info.effective_size / DRAWS)


def close(draws: Array, mean: float, sd: float, size: float) -> bool:
    """Mean and sd within 4 standard errors; that of the sd allows for a kurtosis of 9."""
    off, stretch = abs(draws.mean() - mean) / sd, abs(draws.std() / sd - 1)
    return bool(off < 4 / math.sqrt(size) and stretch < 4 * math.sqrt(2.0 / size))


def phi_is_close(adapted: bm.Adapted, exact: Exact, size: float) -> list[bool]:
    return [close(v[:, 0].numpy(), exact.mean[site], exact.sd[site], size) for site, v in adapted.phi.items()]


# --- new tasks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KNOWN)
def test_phi_and_theta_of_a_new_task_are_those_of_everything_together(name: str) -> None:
    scenario, posterior, new = scenario_of(name), fitted(name), newcomer(name)
    exact = quadrature(scenario, scenario.tasks + new)
    adapted = posterior.adapt(new)
    size = size_of(adapted, posterior)
    theta = adapted.theta["theta"][:, 0].reshape(DRAWS, -1).numpy()

    assert adapted.method == posterior.info.evidence
    assert adapted.k_hat[0] < 0.7
    assert size > 500
    for k in range(theta.shape[1]):
        assert close(theta[:, k], exact.theta_mean[-1, k], exact.theta_sd[-1, k], size)
    assert all(phi_is_close(adapted, exact, size))
    # the check can fail: φ as the fit left it, and θ from the population
    before = posterior.adapt(bm.Tasks.without_observations(["none"], like=new, context=new.context or None))
    away = before.theta["theta"][:, 0].reshape(DRAWS, -1).numpy()
    assert not all(phi_is_close(before, exact, size))
    assert not close(away[:, 0], exact.theta_mean[-1, 0], exact.theta_sd[-1, 0], size)


def test_the_weights_are_those_of_numpy_and_arviz() -> None:
    posterior, new = fitted("normal_normal"), newcomer("normal_normal")
    adapted = posterior.adapt(new)
    mu, tau = (posterior.phi[site].numpy() for site in ("mu", "tau"))
    y, sigma = new.y.numpy(), float(new.context["sigma"])
    covariance = tau[:, None, None] ** 2 + sigma**2 * np.eye(len(y))
    residual = (y - mu[:, None])[..., None]
    distance = (residual * np.linalg.solve(covariance, residual)).sum((1, 2))
    smoothed, k_hat = arviz.psislw(-0.5 * (distance + np.linalg.slogdet(covariance)[1]))
    weights = np.exp(smoothed - logsumexp(smoothed))

    assert float(adapted.k_hat[0]) == pytest.approx(float(k_hat), abs=1e-6)
    assert float(adapted.effective_size[0]) == pytest.approx(1 / (weights**2).sum(), rel=1e-6)


def test_theta_is_drawn_from_its_conditional_under_the_phi_beside_it() -> None:
    y, sigma = 6.0, 4.0
    task = bm.Tasks.from_lists(None, [[y]], names=["new"], context={"sigma": [sigma]})
    adapted = fitted("normal_normal").adapt(task)
    mu, tau = (adapted.phi[site][:, 0].numpy() for site in ("mu", "tau"))
    precision = tau**-2 + sigma**-2
    mean = (mu * tau**-2 + y * sigma**-2) / precision
    away = adapted.theta["theta"][:, 0].numpy() - mean
    bound = 4 / math.sqrt(len(away))

    assert stats.kstest(away * np.sqrt(precision), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(away, mu)[0, 1]) < bound
    # the check can fail: θ beside the φ of another draw
    assert abs(np.corrcoef(away + mean - np.roll(mean, 1), mu)[0, 1]) > bound


# --- tasks of the fit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plated", "beta_binomial"])
def test_more_observations_of_a_task_of_the_fit_are_added(name: str) -> None:
    """As in a fit to all observations of all tasks."""
    scenario, posterior = scenario_of(name), fitted(name)
    more, task = newcomer(name, "1"), scenario.tasks["1"]
    both = bm.Tasks.from_lists([torch.cat([task.x, more.x])], [torch.cat([task.y, more.y])], names=["1"])
    exact = quadrature(scenario, scenario.tasks.without("1") + both)
    adapted = posterior.adapt(more)
    size = size_of(adapted, posterior)

    assert adapted.k_hat[0] < 0.7
    assert size > 500
    assert adapted.tasks.sizes.tolist() == [task.n + more.n_observations]
    theta = (exact.theta_mean[-1, 0], exact.theta_sd[-1, 0], size)
    assert close(adapted.theta["theta"][:, 0].numpy(), *theta)
    assert all(phi_is_close(adapted, exact, size))
    # the check can fail: the same observations as if the task were another one
    assert not close(posterior.adapt(more.with_names(["stranger"])).theta["theta"][:, 0].numpy(), *theta)


def test_a_task_of_the_fit_as_it_was_stays_as_it_was() -> None:
    scenario, posterior = normal_normal(), fitted("normal_normal")
    some, exact = scenario.tasks[2:4], quadrature(scenario)
    nothing = bm.Tasks.without_observations(some.names, like=some, context=some.context)

    for tasks in (some, nothing):
        adapted = posterior.adapt(tasks)
        assert torch.isneginf(adapted.k_hat).all()
        assert torch.equal(adapted.tasks.y, some.y)
        for t in range(2):
            assert torch.equal(adapted.phi["mu"][:, t], posterior.phi["mu"])
            theta = adapted.theta["theta"][:, t].numpy()
            assert close(theta, exact.theta_mean[2 + t, 0], exact.theta_sd[2 + t, 0], size_of(adapted, posterior, t))


def test_a_task_of_the_fit_in_another_order_stays_as_it_was() -> None:
    posterior = fitted("paired")
    (task,) = posterior.tasks[:1]
    turned = bm.Tasks.from_lists([task.x.flip(0)], [task.y.flip(0)], names=[task.name])
    more = bm.Tasks.from_lists([[0.3, *task.x.flip(0).tolist()]], [[2.2, *task.y.flip(0).tolist()]], names=[task.name])

    known, before = observations(posterior.tasks, turned)
    assert torch.equal(known.y, before.y)
    assert torch.isneginf(posterior.adapt(turned).k_hat).all()
    known, before = observations(posterior.tasks, more)
    assert known.y.tolist() == [*task.y.tolist(), 2.2]
    assert torch.equal(before.y, task.y)


def test_rows_without_inputs_are_known_in_any_order_too() -> None:
    old = bm.Tasks.from_lists(None, [[0.1, 0.7, 0.4], [1.5]], names=["a", "b"])
    new = bm.Tasks.from_lists(None, [[0.4, 0.9, 0.1, 0.7]], names=["a"])

    known, before = observations(old, new)

    assert known.y.tolist() == [0.1, 0.7, 0.4, 0.9]
    assert before.sizes.tolist() == [3]


@pytest.mark.filterwarnings("ignore::bayesmeta.errors.BayesmetaWarning")  # names are numbers
def test_counts_that_come_again_are_new() -> None:
    posterior = fitted("beta_binomial")
    (task,) = posterior.tasks[:1]
    again = bm.Tasks.from_lists([[5.0, *task.x.tolist()]], [[1.0, *task.y.tolist()]], names=[task.name])

    assert observations(posterior.tasks, again)[0].sizes.tolist() == [2 * task.n + 1]


def test_columns_in_another_order_are_refused() -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(rng.normal(size=(24, 3)), columns=["p", "q", "y"]).assign(site=np.repeat(list("abcdef"), 4))
    there, back = (bm.Tasks.from_frame(rows, task="site", x=x, y="y") for x in (["p", "q"], ["q", "p"]))
    posterior = bm.fit(bm.families.linear(there), there, bm.Laplace(draws=30), progress=False)
    adapted = posterior.adapt(there)

    for ask in (
        lambda: posterior.adapt(back),
        lambda: posterior.update(back),
        lambda: adapted.predict(back),
        lambda: there + back.with_names(list("uvwxyz")),
    ):
        with pytest.raises(DataError, match=r"inputs are columns \['q', 'p'\], of .* \['p', 'q'\]"):
            ask()


# --- when the weights do not do -----------------------------------------------------------------------------


@pytest.mark.parametrize("y", [60.0, 1e4, 1e9])
def test_a_wild_task_is_said_to_need_a_refit(y: float) -> None:
    wild = bm.Tasks.from_lists(None, [[y]], names=["wild"], context={"sigma": [1.0]})
    with pytest.warns(BayesmetaWarning, match=r"k-hat is above 0.7 for 1 of 2 tasks \(\['wild'\]\).* refit with them"):
        adapted = fitted("normal_normal").adapt(wild + newcomer("normal_normal"))

    assert adapted.k_hat[0] > 0.7 > adapted.k_hat[1]
    assert adapted.effective_size[0] < 100
    assert adapted.theta["theta"].isfinite().all()


def test_many_tasks_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    posterior, rng = fitted("normal_normal"), np.random.default_rng(8)
    many = bm.Tasks.from_lists(None, list(rng.normal(3, 4, size=(40, 1))), context={"sigma": np.full(40, 1.3)})
    many = many.with_names([f"new {k}" for k in range(40)])
    at_once = posterior.adapt(many)
    monkeypatch.setattr("bayesmeta.adapt.problem.PIECE_NUMBERS", 200_000)
    in_pieces = posterior.adapt(many)

    torch.testing.assert_close(in_pieces.effective_size, at_once.effective_size)
    torch.testing.assert_close(in_pieces.k_hat, at_once.k_hat)
    difference = in_pieces.theta["theta"].mean(0) - at_once.theta["theta"].mean(0)
    error = at_once.theta["theta"].std(0) * (2 / at_once.effective_size).sqrt()
    assert ((difference / error).abs() < limit(40)).all()
    assert len({tuple(column.tolist()) for column in in_pieces.theta["theta"][:3].T}) == 40, "pieces share no noise"


def test_draws_of_phi_that_are_the_same_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 40 draws, each some times in no order: the same mixture as by algebra over all 200."""
    fit, new, looked_at = lines(), new_lines(), []
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0)) % 40
    draws = replace(fit.draws, u=fit.phi_coordinates[order].unsqueeze(0))
    repeated = bm.Posterior(fit.hierarchy, fit.tasks, fit.collapsed, draws, fit.info)

    def spy(evidence: Any, phi: torch.Tensor) -> torch.Tensor:
        looked_at.append(len(phi))
        return log_evidence(evidence, phi)

    monkeypatch.setattr("bayesmeta.adapt.collapsed.log_evidence", spy)
    adapted = repeated.adapt(new)

    different = set(map(tuple, draws.u[0].tolist()))
    assert looked_at == [len(different)]
    assert len(different) <= 40
    for t, task in enumerate(new):
        truth = line_of(repeated, task)
        assert means_are_close(adapted.theta["theta"][:, t], truth, float(adapted.effective_size[t]))
        assert set(map(tuple, adapted.phi_coordinates[:, t].tolist())) <= different


# --- binomial abilities, in numpy alone ---------------------------------------------------------------------


class Season:
    """p(mu, log tau | D) of binomial abilities on a grid, θ by Gauss-Hermite."""

    def __init__(self, hits: Array, at_bats: Array) -> None:
        nodes, weights = np.polynomial.hermite_e.hermegauss(81)
        mu, log_tau = np.meshgrid(np.linspace(-2.2, -0.1, 85), np.linspace(-9.0, 1.0, 101), indexing="ij")
        tau = np.exp(log_tau)
        self.theta = mu[..., None] + tau[..., None] * nodes
        self.weights = weights / weights.sum()
        log_posterior = stats.norm(-1, 1).logpdf(mu) + stats.halfnorm.logpdf(tau) + log_tau
        for y, n in zip(hits, at_bats, strict=True):
            log_posterior = log_posterior + np.log(self.likelihood(y, n) @ self.weights)
        self.posterior = np.exp(log_posterior - log_posterior.max())
        self.posterior /= self.posterior.sum()

    def likelihood(self, y: float, n: float) -> Array:
        return np.asarray(stats.binom(n, expit(self.theta)).pmf(y))

    def ability(self, y: float, n: float) -> tuple[float, float]:
        """Mean and sd of θ of a player with y hits in n at-bats, who is added to the players."""
        joint = self.posterior[..., None] * self.likelihood(y, n) * self.weights
        joint /= joint.sum()
        mean = float((joint * self.theta).sum())
        return mean, math.sqrt(float((joint * (self.theta - mean) ** 2).sum()))


def test_batters_who_are_new() -> None:
    model = gallery("baseball")
    tasks = model.load()
    new = tasks[["Roberto Clemente", "Max Alvis"]]
    others = tasks.without(new.names)
    posterior = bm.fit(model.hierarchy, others, progress=False)
    season = Season(others.y.numpy(), others.x.numpy())
    adapted = posterior.adapt(new, seed=1)

    assert adapted.method == posterior.info.evidence == "quadrature"
    for t, task in enumerate(new):
        mean, sd = season.ability(float(task.y), float(task.x))
        theta, size = adapted.theta["theta"][:, t].numpy(), float(adapted.effective_size[t]) / 2
        assert size > 500
        assert close(theta, mean, sd, size)
        # the check can fail: the ability of a batter with as many hits more
        assert not close(theta, season.ability(float(task.y) + 12, float(task.x))[0], sd, size)
    assert adapted.theta["theta"][:, 0].mean() > adapted.theta["theta"][:, 1].mean()


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([1, 2], "tasks must be a Tasks, got list"),
        (bm.Tasks.from_lists([[0.0]], [[0.0]]), r"x has shape \(\) per observation, in the fit it had \(0,\)"),
        (bm.Tasks.from_lists(None, [[0.0]]), r"context must be \['sigma'\] as in the fit, got \[\]"),
        (
            bm.Tasks.from_lists(None, [[0.0]], names=["1"], context={"sigma": [9.0]}),
            "the context of task '1' is not that of the fit, which has seen a task of this name",
        ),
    ],
)
def test_tasks_unlike_those_of_the_fit_are_refused(tasks: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fitted("normal_normal").adapt(tasks)


@pytest.mark.parametrize("draws", [0, DRAWS + 1, 2.5, "all"])
def test_draws_that_there_are_not_are_refused(draws: Any) -> None:
    with pytest.raises(OptionError, match=f"draws must lie between 1 and {DRAWS}, the number of the posterior, got"):
        fitted("normal_normal").adapt(newcomer("normal_normal"), draws=draws)


def test_new_tasks_without_names_are_not_taken_for_those_of_the_fit_in_silence() -> None:
    fit = bm.Tasks.from_lists(None, [[0.0], [1.0]])
    new = bm.Tasks.from_lists(None, [[5.0], [6.0], [7.0]])

    with pytest.warns(BayesmetaWarning, match=r"task\(s\) \['0', '1'\] are taken for those of the fit"):
        known, before = observations(fit, new)
    assert known["0"].y.tolist() == [0.0, 5.0]
    assert before.sizes.tolist() == [1, 1, 0]
    # names of one's own, the tasks of the fit themselves, or nothing new about them: nothing to be said
    assert observations(fit, new.with_names(["a", "b", "c"]))[1].n_observations == 0
    assert observations(fit.with_names(["1", "0"]), new)[0]["0"].y.tolist() == [1.0, 5.0]
    assert observations(fit, fit)[0].sizes.tolist() == [1, 1]
