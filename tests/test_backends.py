"""Every back-end on every analytic scenario, against the exact moments of φ.

Chains must be right to within four Monte Carlo standard errors, of means and of sds. Weighted draws must be so
where their k-hat is below .7, counted by their own effective size; where they are wrong, k-hat must have said so.
In a default run budgets are small and of the slow cells some are left out; all of them, with an effective size of
10,000 for what claims to be exact, run with the tests marked long.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch

import bayesmeta as bm
from bayesmeta.presets import BACK_ENDS, Config, back_end_of, read_preset, takes_hierarchies, with_options
from bayesmeta.shelf import names
from tests.scenarios import CURVED, SCENARIOS, paired, quadrature
from tests.standard import chains_of, compare, over_confident, shifted
from tests.truth import Array, Exact, Scenario

NAMES = ("normal_normal", "paired", "beta_binomial", "poisson_gamma", "skewed")

CHAINS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nuts": ({"draws": 400, "tune": 200, "chains": 2, "compile": False}, {"draws": 12_000, "target_accept": 0.95}),
    "nuts-joint": ({"draws": 400, "tune": 200, "chains": 2, "compile": False}, {"draws": 15_000}),
    "hmc-vectorised": ({"draws": 50, "tune": 200, "compile": False}, {"draws": 500}),
    "auto": ({"compile": False}, {"draws": 16_000}),
}
"""Presets that claim draws from p(φ | D): a small budget, and one for an effective size of 10,000."""

WEIGHTED: dict[str, dict[str, Any]] = {
    "laplace": {},
    "pathfinder": {},
    "svi-meanfield": {"steps": 200, "particles": 8},
    "svi-fullrank": {"steps": 200, "particles": 8},
    "svi-lowrank": {"steps": 200, "particles": 8},
    "svi-flow": {"steps": 150},
}
"""Presets that approximate and correct: k-hat tells whether that went well. With a small budget."""

ELSEWHERE = {
    "pyro-nuts": "tests/test_nuts.py: minutes",
    "nuts-laplace": "tests/test_quadrature.py: its evidence is approximate, whatever samples it",
    "svi-map": "below: a point has no spread",
    "ensemble": "tests/test_ensemble.py: its members are no draws",
    "maml": "tests/test_meta_hierarchy.py: a point has no spread",
    "fomaml": "tests/test_meta_hierarchy.py: likewise",
    "reptile": "tests/test_meta_hierarchy.py: likewise",
}

QUICK = {(road, name) for road in ("auto", "laplace", "pathfinder") for name in NAMES} | {
    ("nuts", "normal_normal"),
    ("nuts-joint", "normal_normal"),
    ("hmc-vectorised", "paired"),
    ("svi-meanfield", "paired"),
    ("svi-fullrank", "poisson_gamma"),
    ("svi-lowrank", "paired"),
    ("svi-flow", "normal_normal"),
}
"""The cells of a default run."""


@cache
def scenario_of(name: str) -> tuple[Scenario, Exact]:
    scenario = (SCENARIOS | CURVED | {"paired": paired})[name]()
    return scenario, quadrature(scenario)


def fitted(road: str, name: str, options: dict[str, Any], seed: int = 0) -> bm.Posterior:
    scenario, _ = scenario_of(name)
    settings = with_options(read_preset(road), options)
    return bm.fit(scenario.hierarchy, scenario.tasks, settings, seed=seed, progress=False)


def wrong(info: bm.Info, draws: dict[str, Array], exact: Exact, least_ess: float = 0.0) -> list[str]:
    """What is not as it should be; empty where every mean and sd of φ is within four standard errors."""
    found = compare(draws, exact.mean, exact.sd)
    if info.effective_size is not None:  # some draws occur more than once, which no estimate of the ESS can see
        worth = min(1.0, info.effective_size / next(iter(draws.values())).size)
        found = found._replace(z=found.z * math.sqrt(worth), ess=found.ess * worth)
    return found.failures(least_ess, mean=math.inf, spread=math.inf)


def check(posterior: bm.Posterior, exact: Exact, least_ess: float) -> None:
    draws, info = chains_of(posterior), posterior.info
    assert wrong(info, draws, exact, least_ess) == []
    # the check can fail: biased draws, draws that are too sure of themselves
    assert wrong(info, shifted(draws, 0.5), exact) != []
    assert wrong(info, over_confident(draws, 0.5), exact) != []


def cells(roads: Any, *, long: bool) -> list[Any]:
    table = [(road, name) for road in roads for name in NAMES]
    kept = table if long else [cell for cell in table if cell in QUICK]
    return [pytest.param(*cell, id="-".join(cell)) for cell in kept]


def test_every_preset_and_every_back_end_has_its_place() -> None:
    of_hierarchies = [name for name in names("preset") if takes_hierarchies(read_preset(name))]
    assert set(of_hierarchies) == {*CHAINS, *WEIGHTED, *ELSEWHERE}
    assert {back_end_of(read_preset(road)) for road in (*CHAINS, *WEIGHTED, "ensemble")} == set(BACK_ENDS)
    assert {name for _, name in QUICK} == set(NAMES)


@pytest.mark.parametrize(("road", "name"), cells([*CHAINS, *WEIGHTED], long=False))
def test_a_back_end_finds_the_posterior(road: str, name: str) -> None:
    posterior = fitted(road, name, CHAINS[road][0] if road in CHAINS else WEIGHTED[road])

    assert posterior.info.k_hat is None or posterior.info.k_hat < 0.7
    check(posterior, scenario_of(name)[1], 300)


@pytest.mark.long
@pytest.mark.parametrize(("road", "name"), cells(CHAINS, long=True))
def test_exact_back_ends_meet_the_standard(road: str, name: str) -> None:
    posterior = fitted(road, name, CHAINS[road][1], seed=1)

    assert posterior.verdict.level == "fine"
    check(posterior, scenario_of(name)[1], 10_000)


@pytest.mark.long
@pytest.mark.parametrize(("road", "name"), cells(WEIGHTED, long=True))
def test_approximate_back_ends_are_right_or_say_that_they_are_not(road: str, name: str) -> None:
    posterior = fitted(road, name, {}, seed=1)

    assert posterior.info.k_hat is not None
    if posterior.info.k_hat < 0.7:
        check(posterior, scenario_of(name)[1], 300)


@pytest.mark.parametrize("name", NAMES)
def test_a_point_is_near_the_middle_and_says_that_it_is_a_point(name: str) -> None:
    posterior, exact = fitted("svi-map", name, {}), scenario_of(name)[1]

    assert posterior.verdict.level == "doubtful"
    assert "uncertainty is left out" in posterior.verdict.reasons[0]
    for site, values in posterior.phi.items():
        assert torch.equal(values, values[:1].expand_as(values))
        assert abs(float(values[0]) - exact.mean[site]) < exact.sd[site]


# --- where approximations fail ------------------------------------------------------------------------------


def crowd(name: str) -> tuple[Scenario, bm.Tasks, Exact]:
    """A scenario with four times as many tasks, whose θ cannot be standardised: hard where θ is sampled too."""
    scenario, _ = scenario_of(name)
    tasks = scenario.tasks
    for copy in range(3):
        tasks = tasks + scenario.tasks.with_names([f"{copy} {task}" for task in scenario.tasks.names])
    return scenario, tasks, quadrature(scenario, tasks)


@pytest.mark.parametrize("name", ["beta_binomial", "poisson_gamma"])
def test_k_hat_tells_the_bad_from_the_good(name: str) -> None:
    """φ and θ of 32 and 40 tasks together, by approximations: some fail badly, and all that fail say so."""
    scenario, tasks, exact = crowd(name)
    guide = bm.SVI(guide="fullrank", evidence="joint", steps=300, particles=4)
    roads: list[Config] = [bm.Laplace(evidence="joint"), bm.Pathfinder(evidence="joint"), guide, bm.Laplace()]
    bad, good = [], []
    for settings in roads:
        posterior = bm.fit(scenario.hierarchy, tasks, settings, progress=False)
        draws, k_hat = chains_of(posterior), posterior.info.k_hat
        assert k_hat is not None
        off = compare(draws, exact.mean, exact.sd)
        if off.mean > 0.5 or off.spread > 0.5:
            bad.append((k_hat, posterior.verdict.level))
        if k_hat < 0.7:
            good.append(wrong(posterior.info, draws, exact))

    assert bad, "none failed: this is no test of the diagnostic"
    assert all(k_hat > 0.7 for k_hat, _ in bad)
    assert all(level != "fine" for _, level in bad)
    assert good, "all failed"
    assert good == [[]] * len(good)
