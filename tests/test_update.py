"""A posterior brought up to date: against exact moments of all tasks, by weights, by moves, many times in a row."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bayesmeta as bm
from bayesmeta.errors import BayesmetaWarning, DataError, NotAvailableError, OptionError
from bayesmeta.evidence import Joint
from bayesmeta.infer import move as moving
from bayesmeta.infer.importance import Importance
from bayesmeta.psis import effective_size
from tests.evidences import gallery
from tests.scenarios import CURVED, SCENARIOS, normal_normal, paired, quadrature
from tests.truth import Array, Exact, Scenario

MAKE = SCENARIOS | CURVED | {"paired": paired}
LONG = [pytest.param(name, marks=pytest.mark.long) for name in ("paired", "log_normal", "poisson_gamma")]
KNOWN = ["normal_normal", "plated", "beta_binomial", *LONG]
DRAWS = 4000


@cache
def fitted(name: str) -> bm.Posterior:
    scenario = MAKE[name]()
    return bm.fit(scenario.hierarchy, scenario.tasks, bm.Laplace(draws=DRAWS), progress=False)


def newcomers(name: str) -> bm.Tasks:
    """Two tasks that are unlike the others, but not wildly."""
    xs = {"paired": [0.5, -1.0], "plated": [0.5, -1.0], "log_normal": [0.3, 1.0]}
    xs |= {"beta_binomial": [12.0, 20.0], "poisson_gamma": [1.0, 2.0]}
    ys = {"normal_normal": [9.0, 8.0], "paired": [2.5, 3.0], "plated": [3.5, 3.0], "log_normal": [5.0, 7.0]}
    ys |= {"beta_binomial": [8.0, 13.0], "poisson_gamma": [5.0, 9.0]}
    context = {"sigma": [1.2, 0.7]} if name == "normal_normal" else None
    x = [xs[name], xs[name][:1]] if name in xs else None
    return bm.Tasks.from_lists(x, [ys[name], ys[name][:1]], names=["new", "newer"], context=context)


def wild(y: float = 60.0, name: str = "wild") -> bm.Tasks:
    return bm.Tasks.from_lists(None, [[y]], names=[name], context={"sigma": [1.0]})


def close(draws: Array, mean: float, sd: float, size: float) -> bool:
    """Mean and sd within 4 standard errors; that of the sd allows for a kurtosis of 9."""
    off, stretch = abs(draws.mean() - mean) / sd, abs(draws.std() / sd - 1)
    return bool(off < 4 / math.sqrt(size) and stretch < 4 * math.sqrt(2.0 / size))


def phi_is(posterior: bm.Posterior, exact: Exact) -> bool:
    size = posterior.info.effective_size
    assert size is not None
    return all(close(v.numpy(), exact.mean[site], exact.sd[site], size) for site, v in posterior.phi.items())


def theta_is(posterior: bm.Posterior, exact: Exact) -> bool:
    size = posterior.info.effective_size
    assert size is not None
    theta = next(iter(posterior.theta.values()))
    draws = theta.reshape(*theta.shape[:2], -1).numpy()
    pairs = np.ndindex(*draws.shape[1:])
    return all(
        close(draws[:, t, k], float(exact.theta_mean[t, k]), float(exact.theta_sd[t, k]), size) for t, k in pairs
    )


# --- one update ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KNOWN)
def test_phi_and_all_theta_are_those_of_all_tasks(name: str) -> None:
    scenario, posterior, new = MAKE[name](), fitted(name), newcomers(name)
    exact = quadrature(scenario, scenario.tasks + new)
    updated = posterior.update(new)
    size = updated.info.effective_size

    assert size is not None
    assert size > 500
    assert updated.verdict.level == "fine"
    assert updated.tasks.names == (*scenario.tasks.names, "new", "newer")
    assert updated.draws.u.shape == posterior.draws.u.shape
    assert phi_is(updated, exact)
    assert theta_is(updated, exact)
    # the check can fail: the posterior as it was
    assert not phi_is(posterior, exact)


def test_more_observations_of_a_task_of_the_fit_are_added_to_it() -> None:
    scenario, posterior = MAKE["plated"](), fitted("plated")
    more = newcomers("plated").with_names(["1", "new"])
    both = torch.cat([scenario.tasks["1"].y, more["1"].y])
    updated = posterior.update(more)
    exact = quadrature(scenario, updated.tasks)

    assert updated.tasks.names == (*scenario.tasks.names, "new")
    assert torch.equal(updated.tasks["1"].y, both)
    assert phi_is(updated, exact)
    # the check can fail: the same observations as if the task were another one
    assert not theta_is(posterior.update(more.with_names(["other", "new"])), exact)


def test_what_the_fit_has_seen_adds_nothing() -> None:
    posterior = fitted("normal_normal")

    assert posterior.update(normal_normal().tasks[2:4]) is posterior


def test_the_posterior_itself_stays_as_it_is() -> None:
    posterior = fitted("normal_normal")
    before = posterior.draws.u.clone()
    posterior.update(newcomers("normal_normal"))

    assert torch.equal(posterior.draws.u, before)
    assert posterior.weighted is None


def test_weights_are_carried_on() -> None:
    """Two updates weight the draws of the fit as one with both does: resampled draws are never weighted again."""
    posterior, new = fitted("normal_normal"), newcomers("normal_normal")
    at_once, in_turn = posterior.update(new), posterior.update(new[:1]).update(new[1:])

    assert at_once.weighted is not None
    assert in_turn.weighted is not None
    torch.testing.assert_close(in_turn.weighted.log_weights, at_once.weighted.log_weights)
    assert torch.equal(in_turn.weighted.u, posterior.phi_coordinates)
    assert in_turn.info.effective_size == pytest.approx(at_once.info.effective_size)
    assert [line for line in in_turn.info.log if "more: k-hat" in line][1].startswith("1 task more: k-hat")


def test_the_effective_size_counts_what_the_fit_had_lost() -> None:
    posterior, new = fitted("normal_normal"), newcomers("normal_normal")
    updated = posterior.update(new)
    log_weights = posterior.evidence(new).sum(1)
    kish = float(effective_size(torch.log_softmax(log_weights, 0)))

    assert posterior.info.effective_size is not None
    assert updated.info.effective_size == pytest.approx(kish * posterior.info.effective_size / DRAWS, rel=0.02)


# --- moves --------------------------------------------------------------------------------------------------


def test_a_wild_task_moves_the_draws() -> None:
    scenario, posterior = normal_normal(), fitted("normal_normal")
    exact = quadrature(scenario, scenario.tasks + wild())
    updated = posterior.update(wild())

    assert updated.verdict.level == "fine"
    assert any(line.startswith("moved, round 1: k-hat") for line in updated.info.log)
    assert phi_is(updated, exact)
    assert theta_is(updated, exact)


def test_without_a_move_a_refit_is_said_to_be_due() -> None:
    scenario, posterior = normal_normal(), fitted("normal_normal")
    with pytest.warns(
        BayesmetaWarning, match=r"could not follow .*1 task more: k-hat .* a refit to all of them is due"
    ):
        stuck = posterior.update(wild(), move=False)

    assert stuck.verdict.level == "failed"
    assert abs(float(stuck.phi["tau"].mean()) / quadrature(scenario, stuck.tasks).mean["tau"] - 1) > 0.2


def test_a_move_is_as_good_from_draws_that_cannot_follow_at_all() -> None:
    scenario, posterior = normal_normal(), fitted("normal_normal")
    updated = posterior.update(wild(1000.0))

    assert updated.verdict.level == "fine"
    assert phi_is(updated, quadrature(scenario, updated.tasks))


@pytest.mark.parametrize("share", [0.001, 0.02])
def test_weights_are_tempered_until_enough_draws_count(share: float) -> None:
    log_weights = 30 * torch.randn(5000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = moving.tempered(log_weights, share * 5000)

    assert float(weights.sum()) == pytest.approx(1.0)
    assert float(effective_size(weights.log())) == pytest.approx(max(share * 5000, 1.0), rel=1e-3)
    assert torch.equal(weights.argsort(), log_weights.argsort())


def test_weights_that_are_even_enough_are_left_as_they_are() -> None:
    log_weights = torch.tensor([0.0, -1.0, -math.inf, 0.5], dtype=torch.float64)

    torch.testing.assert_close(moving.tempered(log_weights, 1.5), torch.softmax(log_weights, 0))
    nothing = torch.full((4,), -math.inf, dtype=torch.float64)
    assert moving.tempered(nothing, 2.0).tolist() == [0.25] * 4


def test_an_interrupted_move_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Importance.draw

    def interrupted(self: Any, *args: Any) -> None:
        if self.rounds:
            raise KeyboardInterrupt
        drawn(self, *args)

    monkeypatch.setattr(Importance, "draw", interrupted)
    monkeypatch.setattr(moving, "K_HAT", -5.0)  # as if one round were not enough
    updated = fitted("normal_normal").update(wild())

    assert updated.info.interrupted
    assert updated.verdict.reasons[-1].endswith("draws were taken before it was interrupted")


# --- many updates in a row ----------------------------------------------------------------------------------


def drift(updated: bm.Posterior, mean: dict[str, float], sd: dict[str, float]) -> float:
    """The largest |Δmean| / sd over φ."""
    return max(abs(float(v.mean()) - mean[site]) / sd[site] for site, v in updated.phi.items())


def test_twenty_updates_in_a_row_agree_with_exact_answers() -> None:
    scenario, posterior = normal_normal(), fitted("normal_normal")
    rng = np.random.default_rng(6)
    start, moves = posterior, 0
    for k in range(20):
        task = wild(float(rng.normal(8.0, 6.0)), f"new {k}")
        posterior = posterior.update(task, seed=k)
        moves += any(line.startswith("moved") for line in posterior.info.log[-2:])
    exact = quadrature(scenario, posterior.tasks)

    assert len(posterior.tasks) == 28
    assert 1 <= moves < 10, "weights do most of the work, and moves some of it"
    assert posterior.verdict.level == "fine"
    assert drift(posterior, exact.mean, exact.sd) < 0.1
    assert drift(start, exact.mean, exact.sd) > 1.0


@pytest.mark.long
def test_twenty_counties_one_by_one_agree_with_the_refit() -> None:
    model = gallery("radon")
    tasks = model.load()
    names = list(tasks.names)
    rng = np.random.default_rng(0)
    late = [names[k] for k in rng.choice(len(names), 20, replace=False)]
    posterior = start = bm.fit(model.hierarchy, tasks.without(late), progress=False)
    for k, name in enumerate(late):
        posterior = posterior.update(tasks[[name]], seed=k)
    refit = bm.fit(model.hierarchy, tasks, progress=False)
    table = refit.summary()
    mean, sd = (dict(zip(table.index, table[what].tolist(), strict=True)) for what in ("mean", "sd"))

    assert posterior.verdict.level == "fine"
    assert drift(posterior, mean, sd) < 0.1
    # the check can fail: the counties before
    assert drift(start, mean, sd) > 0.3


# --- joint posteriors ---------------------------------------------------------------------------------------


@cache
def joint() -> tuple[Scenario, bm.Posterior]:
    """Draws of φ and θ together, taken from those of an exact fit."""
    scenario, exact = normal_normal(), fitted("normal_normal")
    evidence = Joint(exact.collapsed.program, scenario.tasks, 1.0)
    u = torch.cat([exact.phi_coordinates, exact.theta_coordinates.flatten(1)], 1)[:3000]
    draws = replace(exact.draws, u=u.unsqueeze(0))
    return scenario, bm.Posterior(
        scenario.hierarchy, scenario.tasks, evidence, draws, replace(exact.info, evidence="joint")
    )


def test_a_joint_posterior_is_updated_with_all_its_theta() -> None:
    scenario, posterior = joint()
    new = newcomers("normal_normal")
    exact = quadrature(scenario, scenario.tasks + new)
    updated = posterior.update(new)
    size = updated.info.effective_size

    assert updated.info.evidence == "joint"
    assert size is not None
    assert size > 300
    assert updated.draws.u.shape == (1, 3000, 2 + 10)
    assert phi_is(updated, exact)
    assert theta_is(updated, exact)
    again = updated.update(wild(1.0, "third"))
    assert again.draws.u.shape == (1, 3000, 2 + 11)
    assert phi_is(again, quadrature(scenario, again.tasks))
    # the check can fail: φ and θ as they were
    assert not phi_is(posterior.update(new[:1]), exact)


def test_more_observations_of_a_task_of_a_joint_posterior() -> None:
    scenario, posterior = joint()
    more = bm.Tasks.from_lists(None, [[1.0]], names=["1"], context={"sigma": [1.0]})
    exact = quadrature(scenario, posterior.update(more).tasks)

    assert theta_is(posterior.update(more), exact)
    assert not theta_is(posterior.update(wild(1.0, "1'")), exact)


def test_a_joint_posterior_cannot_be_moved() -> None:
    with pytest.warns(BayesmetaWarning, match="a refit to all of them is due"):
        joint()[1].update(wild(300.0))


def test_theta_of_tasks_that_came_one_after_another_are_independent() -> None:
    posterior = joint()[1]
    updated = posterior.update(wild(0.2, "first")).update(wild(-0.4, "second"))
    theta = updated.theta["theta"][:, -2:]
    both = torch.corrcoef(theta.T)[0, 1]
    assert float(both.abs()) < 4 / math.sqrt(float(updated.info.effective_size or 0))


def test_a_point_cannot_be_updated() -> None:
    posterior = fitted("normal_normal")
    point = replace(posterior.draws, u=posterior.draws.u[:, :1].expand_as(posterior.draws.u).clone())
    alike = bm.Posterior(posterior.hierarchy, posterior.tasks, posterior.collapsed, point, posterior.info)
    with pytest.raises(NotAvailableError, match=r"φ is a single point.*fit again to all tasks"):
        alike.update(wild(1.0))


def test_an_update_does_not_make_a_failed_fit_fine() -> None:
    posterior = fitted("normal_normal")
    wrong = replace(posterior.draws, k_hat=1.4, effective_size=800.0)
    bad = bm.Posterior(posterior.hierarchy, posterior.tasks, posterior.collapsed, wrong, posterior.info).judged()
    assert bad.verdict.level == "failed"

    updated = bad.update(wild(1.0), move=False)
    assert updated.verdict.level == "failed"
    assert [finding.check for finding in updated.verdict.findings].count("k-hat") == 1
    assert posterior.update(wild(1.0), move=False).verdict.level == "fine"


# --- files and refusals -------------------------------------------------------------------------------------


def test_an_updated_posterior_is_saved_and_goes_on(tmp_path: Path) -> None:
    scenario, posterior = normal_normal(), fitted("normal_normal")
    updated = posterior.update(newcomers("normal_normal"))
    updated.save(tmp_path / "updated.nc")
    opened = bm.load(tmp_path / "updated.nc", scenario.hierarchy)

    assert opened.tasks.names == updated.tasks.names
    assert opened.info.log == updated.info.log
    assert torch.equal(opened.phi_coordinates, updated.phi_coordinates)
    again = opened.update(wild(1.0, "third"))
    assert phi_is(again, quadrature(scenario, again.tasks))


@pytest.mark.parametrize("name", ["normal_normal", "joint"])
def test_weights_go_on_from_a_file_as_without_one(tmp_path: Path, name: str) -> None:
    scenario, posterior = joint() if name == "joint" else (normal_normal(), fitted(name))
    updated = posterior.update(wild(1.0, "third"))
    updated.save(tmp_path / "updated.nc")
    opened = bm.load(tmp_path / "updated.nc", scenario.hierarchy)

    fourth = wild(-1.0, "fourth")
    again, straight = opened.update(fourth), updated.update(fourth)
    assert opened.weighted is not None
    assert again.weighted is not None
    assert straight.weighted is not None
    assert opened.weighted.efficiency == posterior.update(fourth).weighted.efficiency  # type: ignore[union-attr]
    assert torch.equal(again.weighted.log_weights, straight.weighted.log_weights)
    assert torch.equal(again.draws.u, straight.draws.u)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([1, 2], "tasks must be a Tasks, got list"),
        (bm.Tasks.from_lists(None, [[0.0]]), r"context must be \['sigma'\] as in the fit, got \[\]"),
        (
            bm.Tasks.without_observations(["a"], like=normal_normal().tasks, context={"sigma": [1.0]}),
            r"task\(s\) \['a'\] have no observations and tell nothing about the population",
        ),
    ],
)
def test_tasks_that_tell_nothing_are_refused(tasks: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fitted("normal_normal").update(tasks)


def test_a_seed_is_a_whole_number() -> None:
    with pytest.raises(OptionError, match="seed must be a whole number of at least 0, got -1"):
        fitted("normal_normal").update(wild(), seed=-1)


def test_a_task_without_a_mode_cannot_update_a_joint_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    from bayesmeta.errors import HierarchyError
    from bayesmeta.evidence import sampled

    def lost(*args: Any) -> None:
        raise HierarchyError("no mode; use evidence='joint'")

    monkeypatch.setattr(sampled, "modes_at", lost)
    with pytest.raises(NotAvailableError, match=r"the evidence of a task could not be sampled: no mode$"):
        joint()[1].update(wild(1.0))
