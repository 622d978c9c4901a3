"""Every back-end on every analytic scenario.

Those that claim to be exact against the standard of `tests.standard`; of the approximate ones, their own k-hat
must tell the good results from the bad.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

import bayesmeta as bm
from bayesmeta.presets import BACK_ENDS, read_preset, with_options
from tests.scenarios import CURVED, SCENARIOS, quadrature
from tests.standard import chains_of, compare
from tests.truth import Scenario

EXACT = {
    "nuts": (read_preset("nuts"), {"draws": 1000, "tune": 500, "compile": False}),
    "auto": (read_preset("auto"), {}),
}
"""Back-ends that claim draws from p(φ | D), and a small budget."""

APPROXIMATE = ("laplace", "pathfinder")
NAMES = ("normal_normal", "plated", "poisson_gamma", "skewed", "beta_binomial")


@cache
def scenario_of(name: str) -> tuple[Scenario, Any]:
    scenario = (SCENARIOS | CURVED)[name]()
    return scenario, quadrature(scenario)


def test_every_back_end_is_listed_somewhere() -> None:
    elsewhere = {"svi", "hmc"}  # tests.test_svi and tests.test_hmc hold them to the same
    assert set(BACK_ENDS) <= set(EXACT) | set(APPROXIMATE) | elsewhere


@pytest.mark.filterwarnings("ignore:the draws are")
@pytest.mark.parametrize("back_end", sorted(EXACT))
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long) if n == "beta_binomial" else n for n in NAMES]
)
def test_exact_back_ends_meet_the_standard(name: str, back_end: str) -> None:
    scenario, exact = scenario_of(name)
    config, options = EXACT[back_end]
    posterior = bm.fit(scenario.hierarchy, scenario.tasks, with_options(config, options), progress=False)
    verdict = compare(chains_of(posterior), exact.mean, exact.sd)
    assert verdict.failures(400, mean=0.15, spread=0.15) == []
    # the check can fail: where the posterior is another, the draws are not these
    moved = {site: mean + 0.5 * exact.sd[site] for site, mean in exact.mean.items()}
    assert compare(chains_of(posterior), moved, exact.sd).failures(400) != []


@pytest.mark.filterwarnings("ignore:the draws are")
@pytest.mark.parametrize("back_end", APPROXIMATE)
@pytest.mark.parametrize("name", NAMES)
def test_the_k_hat_of_approximate_back_ends_tells_good_from_bad(name: str, back_end: str) -> None:
    scenario, exact = scenario_of(name)
    posterior = bm.fit(scenario.hierarchy, scenario.tasks, back_end, progress=False)
    assert posterior.info.k_hat is not None
    verdict = compare(chains_of(posterior), exact.mean, exact.sd)
    assert posterior.info.k_hat > 0.7 or verdict.failures(0, mean=0.1, spread=0.15) in (
        [],
        [f"error of {verdict.z:.1f} standard errors"],
    )
