"""Fits that several tests look at: each is made once in a test process."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import bayesmeta as bm
from tests.scenarios import SCENARIOS

__all__ = ["GOOD", "TINY", "good", "tiny"]

TINY = bm.NUTS(draws=30, tune=60, chains=2, compile=False, max_treedepth=5)
GOOD = bm.NUTS(draws=2000, tune=800)


@cache
def tiny(name: str, evidence: str = "auto") -> bm.Posterior:
    """A scenario fitted on next to no budget: for shapes, files and errors."""
    slow = name == "beta_binomial"  # quadrature, a millisecond a gradient
    return _fit(name, replace(TINY, max_treedepth=3) if slow else TINY, evidence)


@cache
def good(name: str, evidence: str = "auto") -> bm.Posterior:
    """A scenario fitted with thousands of effective draws."""
    return _fit(name, GOOD, evidence)


def _fit(name: str, inference: bm.NUTS, evidence: str) -> bm.Posterior:
    from bayesmeta.presets import with_options

    scenario = SCENARIOS[name]()
    settings = with_options(inference, {"evidence": evidence})
    return bm.fit(scenario.hierarchy, scenario.tasks, settings, progress=False)
