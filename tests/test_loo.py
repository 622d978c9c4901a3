"""Leave one task out: against exact answers and true refits, as ArviZ's own object, and ranking hierarchies."""

from __future__ import annotations

import math
import sys
import warnings
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType
from typing import Any

import arviz
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz.stats import ELPDData
from scipy import stats
from scipy.special import logsumexp
from torch import Tensor

import bayesmeta as bm
from bayesmeta.diagnose.loo import leave_out, pointwise
from bayesmeta.errors import BayesmetaWarning, DataError, NotAvailableError, OptionError
from bayesmeta.evidence import Joint
from bayesmeta.evidence.conditional import log_evidence
from bayesmeta.infer.climb import climb
from bayesmeta.target import Target
from tests.evidences import gallery
from tests.scenarios import beta_binomial, normal_normal
from tests.truth import Array, Scenario

DRAWS = 4000
OUTLIER = bm.Tasks.from_lists(None, [[60.0]], names=["outlier"], context={"sigma": [1.0]})


@cache
def fitted(name: str = "normal_normal") -> bm.Posterior:
    scenario = {"normal_normal": normal_normal, "beta_binomial": beta_binomial}[name]()
    return bm.fit(scenario.hierarchy, scenario.tasks, bm.Laplace(draws=DRAWS), progress=False)


@cache
def with_outlier() -> bm.Posterior:
    scenario = normal_normal()
    return bm.fit(scenario.hierarchy, scenario.tasks + OUTLIER, bm.Laplace(draws=DRAWS), progress=False)


def exact_elpd(scenario: Scenario, tasks: bm.Tasks) -> Array:
    """log p(D_t | all others) (T,) by sums over a fine grid of φ."""
    assert scenario.log_prior is not None
    axes = [np.linspace(lower, upper, 251) for _, _, lower, upper in scenario.box]
    grid = np.meshgrid(*axes, indexing="ij")
    phi = {site: np.exp(u) if positive else u for (site, positive, _, _), u in zip(scenario.box, grid, strict=True)}
    prior = np.array(scenario.log_prior(phi))
    for (_, positive, _, _), u in zip(scenario.box, grid, strict=True):
        prior += u if positive else 0.0
    each = np.stack([scenario.log_z(phi, task) for task in tasks])
    total = prior + each.sum(0)
    return np.array([logsumexp(total) - logsumexp(total - one) for one in each])


def off(found: Any, exact: Array) -> float:
    """The largest error of a task in nats."""
    return float(np.abs(pointwise(found).values - exact).max())


# --- exact answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["normal_normal", "beta_binomial"])
def test_each_task_is_predicted_from_the_others_as_by_exact_sums(name: str) -> None:
    scenario = {"normal_normal": normal_normal, "beta_binomial": beta_binomial}[name]()
    posterior, exact = fitted(name), exact_elpd(scenario, scenario.tasks)
    found = posterior.loo()

    assert float(found.pareto_k.max()) < 0.7
    assert off(found, exact) < 0.05
    assert found.elpd_loo == pytest.approx(exact.sum(), abs=0.1)
    assert found.se == pytest.approx(math.sqrt(len(exact) * exact.var()), rel=0.02)
    # the check can fail: tasks that have been seen
    seen = leave_out(posterior).lpd.numpy()
    assert float(np.abs(seen - exact).max()) > 0.1
    assert found.p_loo == pytest.approx(seen.sum() - exact.sum(), abs=0.1)


def test_the_weights_are_arvizs() -> None:
    """`arviz.loo` on the evidence of the tasks, which `to_arviz` hands over."""
    posterior = fitted()
    theirs = arviz.loo(posterior.to_arviz(), var_name="y_by_task", pointwise=True, reff=1.0)
    ours = posterior.loo()

    assert ours.elpd_loo == pytest.approx(theirs.elpd_loo, abs=1e-4)
    assert ours.se == pytest.approx(theirs.se, abs=1e-4)
    assert ours.p_loo == pytest.approx(theirs.p_loo, abs=1e-4)
    assert ours.good_k == theirs.good_k
    np.testing.assert_allclose(ours.pareto_k.values, theirs.pareto_k.values, atol=0.02)  # ties at the cutoff differ
    np.testing.assert_array_equal(ours.loo_i.coords["task"].values, list(posterior.tasks.names))


# --- refits -------------------------------------------------------------------------------------------------


def test_where_the_weights_fail_the_task_is_left_out_in_earnest() -> None:
    scenario, posterior = normal_normal(), with_outlier()
    exact = exact_elpd(scenario, posterior.tasks)
    found = posterior.loo()

    assert found.pareto_k.attrs["refitted"] == ["outlier"]
    assert not found.warning
    assert off(found, exact) < 0.08
    # the check can fail: weights alone, which say so
    with pytest.warns(BayesmetaWarning, match=r"k-hat is above 0.70 for 1 of 9 tasks \(\['outlier'\]\) left out"):
        alone = posterior.loo(refit=False)
    assert alone.warning
    assert off(alone, exact) > 1.0


def test_where_a_move_fails_it_is_fitted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    from bayesmeta.diagnose import loo as module

    monkeypatch.setattr(module, "MOST_DIMENSIONS", 1)
    posterior = with_outlier()
    with pytest.warns(BayesmetaWarning, match="left out"):
        found = posterior.loo(seed=3)
    exact = exact_elpd(normal_normal(), posterior.tasks)

    assert found.pareto_k.attrs["refitted"] == ["outlier"]
    assert found.warning, "the mean of Z over draws of the population without so wild a task rests on a few of them"
    assert off(found, exact) < 2.5


def _mean_of_exp(values: Tensor) -> tuple[float, float]:
    """log of the mean of exp(values), and its standard error."""
    scaled = (values - values.max()).exp()
    error = float(scaled.std() / scaled.mean()) / math.sqrt(len(values))
    return float(scaled.mean().log() + values.max()), error


def _radon(names: list[str] | None) -> None:
    """Each within four standard errors of both, those of the effective draws being larger by a third."""
    model = gallery("radon")
    tasks = model.load()
    posterior = bm.fit(model.hierarchy, tasks, progress=False)
    each = pointwise(posterior.loo())
    seen = posterior.evidence(tasks)
    zs = []
    for name in names or tasks.names:
        left = bm.fit(model.hierarchy, tasks.without(name), progress=False)
        truth, error = _mean_of_exp(left.evidence(tasks[[name]])[:, 0])
        own = _mean_of_exp(-seen[:, tasks.index(name)])[1]
        zs.append((float(each.sel(task=name)) - truth) / (1.33 * math.hypot(error, own)))

    assert max(map(abs, zs)) < 4
    # the check can fail: of a county with many houses, which has been seen
    many = torch.logsumexp(seen[:, tasks.index("ST LOUIS")], 0) - math.log(len(seen))
    assert float(many) - float(each.sel(task="ST LOUIS")) > 0.3


def test_radon_against_true_refits_of_some_counties() -> None:
    _radon(["ST LOUIS", "LAC QUI PARLE", "AITKIN"])


@pytest.mark.long
def test_radon_against_true_refits_of_all_counties() -> None:
    _radon(None)


# --- joint posteriors ---------------------------------------------------------------------------------------


def test_a_joint_posterior_is_left_out_of_by_sampled_evidence() -> None:
    scenario = normal_normal()
    exact = fitted()
    evidence = Joint(exact.collapsed.program, scenario.tasks, 1.0)
    u = torch.cat([exact.phi_coordinates, exact.theta_coordinates.flatten(1)], 1)
    posterior = bm.Posterior(scenario.hierarchy, scenario.tasks, evidence, bm.Draws(u.unsqueeze(0)), exact.info)
    found = posterior.loo()

    assert found.n_samples == 500
    assert off(found, exact_elpd(scenario, scenario.tasks)) < 0.15


# --- ArviZ's object -----------------------------------------------------------------------------------------


def _arviz_compare(found: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas, about how ArviZ sorts
        return arviz.compare(found, method="stacking")


def test_it_is_arvizs_object() -> None:
    found = fitted().loo()

    assert isinstance(found, ELPDData)
    assert "Computed from 4000 posterior samples and 8 observations" in str(found)
    table = _arviz_compare({"ours": found, "same": fitted().loo()})
    assert table.loc["ours", "elpd_loo"] == pytest.approx(found.elpd_loo)


@dataclass
class ELPDOfOne:
    """The fields of ArviZ 1.x's `ELPDData`, as of arviz-stats 0.8."""

    kind: str
    elpd: float
    se: float
    p: float
    n_samples: int
    n_data_points: int
    scale: str
    warning: bool
    good_k: float
    elpd_i: Any = None
    pareto_k: Any = None


def test_it_is_that_of_arviz_1_where_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    old = fitted().loo()
    new_stats = ModuleType("arviz_stats")
    new_stats.ELPDData = ELPDOfOne  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "arviz", ModuleType("arviz"))
    monkeypatch.setitem(sys.modules, "arviz_stats", new_stats)
    new = fitted().loo()
    table = bm.loo_compare({"one": new, "other": new})

    assert isinstance(new, ELPDOfOne)
    assert (new.kind, new.scale, new.elpd, new.p) == ("loo", "log", old.elpd_loo, old.p_loo)
    assert new.elpd_i.identical(old.loo_i)
    assert table.loc["one", "p_loo"] == old.p_loo


# --- comparing ----------------------------------------------------------------------------------------------


def _pooled() -> bm.Hierarchy:
    """As normal_normal, but no task differs much from another: wrong."""

    def hyperprior() -> Tensor:
        return pyro.sample("mu", dist.Normal(0.0, 5.0))

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None, *, sigma: Tensor) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi, 0.1))
        return pyro.sample("y", dist.Normal(theta, sigma).expand([len(x)]).to_event(1), obs=y)

    return bm.Hierarchy(hyperprior, task)


def test_hierarchies_are_ranked() -> None:
    scenario, right = normal_normal(), fitted()
    wrong = bm.fit(_pooled(), scenario.tasks, bm.Laplace(draws=DRAWS), progress=False)
    table: Any = bm.loo_compare({"pooled": wrong, "hierarchical": right})
    theirs = _arviz_compare({"pooled": wrong.loo(), "hierarchical": right.loo()})
    exact = exact_elpd(scenario, scenario.tasks)

    assert list(table.index) == ["hierarchical", "pooled"]
    assert table["rank"].tolist() == [0, 1]
    assert table.loc["hierarchical", "elpd_loo"] == pytest.approx(exact.sum(), abs=0.05)
    assert table.loc["pooled", "elpd_diff"] > 5
    for column in ("elpd_loo", "p_loo", "elpd_diff", "dse", "se"):
        np.testing.assert_allclose(table[column], theirs[column], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(table["weight"], theirs["weight"], atol=0.01)


def test_stacking_weights_are_those_of_the_best_mixture() -> None:
    from bayesmeta.diagnose.loo import _stacking

    rng = np.random.default_rng(1)
    y = np.concatenate([rng.normal(-2, 1, 300), rng.normal(2, 1, 700)])
    columns = np.stack([stats.norm(-2).logpdf(y), stats.norm(2).logpdf(y), stats.norm(9).logpdf(y)], 1)

    np.testing.assert_allclose(_stacking(columns), [0.3, 0.7, 0.0], atol=0.03)


# --- φ a point ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the draws are doubtful:bayesmeta.errors.BayesmetaWarning")
def test_a_point_is_moved_to_the_mode_without_each_task() -> None:
    """By Newton steps from the mode of all tasks, against climbing to the mode of the others."""
    scenario = normal_normal()
    posterior = bm.fit(scenario.hierarchy, scenario.tasks, bm.SVI(guide="map", draws=50), progress=False)
    evidence: Any = posterior.collapsed
    u, found = posterior.phi_coordinates[:1], posterior.loo()
    moved, still = pointwise(found).values, log_evidence(evidence, u)[0].numpy()
    without = []
    for t, name in enumerate(scenario.tasks.names):
        target = Target(evidence.on(scenario.tasks.without(name)))
        mode = climb(target.value_and_grad, u).mode
        without.append(float(log_evidence(evidence.on(scenario.tasks[[t]]), mode)[0, 0]))

    np.testing.assert_allclose(moved, without, atol=0.01)
    assert np.abs(still - without).max() > 0.1
    assert np.isneginf(np.asarray(found.pareto_k)).all()
    assert "elpd_loo" in repr(found)
    table = bm.loo_compare({"point": posterior, "all": fitted()})
    assert abs(float(table["elpd_diff"].max())) < 1.0


# --- refusals -----------------------------------------------------------------------------------------------


def _draws(u: Tensor) -> bm.Posterior:
    """A posterior with these draws."""
    one = fitted()
    return bm.Posterior(one.hierarchy, one.tasks, one.collapsed, bm.Draws(u), one.info)


def test_posteriors_that_cannot_tell_are_refused() -> None:
    with pytest.raises(NotAvailableError, match="loo needs at least 25 draws of φ, this posterior has 24"):
        _draws(torch.linspace(0, 1, 48, dtype=torch.float64).reshape(1, 24, 2)).loo()
    with pytest.raises(NotAvailableError, match="φ is a single point in this posterior"):
        leave_out(_draws(torch.ones(1, 100, 2, dtype=torch.float64)))


def test_what_cannot_be_compared_is_refused() -> None:
    one, other = fitted(), with_outlier()
    scenario = normal_normal()
    with pytest.raises(OptionError, match="compares two posteriors or more, got 1"):
        bm.loo_compare({"one": one})
    with pytest.raises(DataError, match="'other' and 'one' are not of the same tasks in the same order"):
        bm.loo_compare({"one": one, "other": other})
    shifted = bm.Tasks.from_lists(None, [task.y + 1 for task in scenario.tasks], context=dict(scenario.tasks.context))
    moved = bm.fit(scenario.hierarchy, shifted, bm.Laplace(draws=500), progress=False)
    with pytest.raises(DataError, match="are of different observations"):
        bm.loo_compare({"one": one, "other": moved})
    summed = arviz.loo(one.to_arviz(), var_name="y_by_task", pointwise=False)
    with pytest.raises(DataError, match="this ELPDData has no values by task"):
        pointwise(summed)


def test_many_tasks_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from bayesmeta.diagnose import loo as module

    at_once = leave_out(fitted())
    monkeypatch.setattr(module, "NUMBERS", 3 * DRAWS)
    in_pieces = leave_out(fitted())

    for one, other in zip(in_pieces, at_once, strict=True):
        torch.testing.assert_close(one, other)


def test_without_its_only_task_nothing_is_left() -> None:
    posterior = fitted()
    one = posterior.tasks[:1].with_names(["only"])
    hierarchy = posterior.hierarchy
    wide = bm.fit(hierarchy, one, bm.Laplace(draws=400), progress=False)
    far = wide.draws.u + 3 * torch.randn(wide.draws.u.shape, generator=torch.Generator().manual_seed(0)).double()
    spread = bm.Posterior(hierarchy, one, wide.collapsed, replace(wide.draws, u=far), wide.info)
    with pytest.raises(NotAvailableError, match=r"loo of one task.*fit two tasks or more"):
        spread.loo()
