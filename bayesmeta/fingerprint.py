"""A fingerprint of a hierarchy: its sites, and its log densities at fixed points on the first tasks.

Two hierarchies with the same fingerprint are the same model for the purpose of reading a posterior: renamed
variables and comments do not matter, a changed prior or likelihood does.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from bayesmeta.evidence.exact import row_of
from bayesmeta.program import Program
from bayesmeta.sites import Site, quiet_pyro
from bayesmeta.tasks import Tasks

__all__ = ["differences", "fingerprint"]

TASKS = 3


def fingerprint(program: Program, tasks: Tasks) -> dict[str, Any]:
    """Sites by level, and log densities of φ, of θ and of the observations at fixed coordinates."""
    plain = program.with_centring(True)
    structure = plain.structure
    with quiet_pyro(), torch.no_grad():
        numbers: list[float] = []
        for scale in (0.5, -0.8):
            phi = plain.phi(scale * torch.linspace(0.3, 1.0, structure.phi.size))
            numbers.append(float(phi.log_prior))
            v = scale * torch.linspace(1.0, 0.4, structure.theta.size)
            for task in list(tasks[:TASKS]):
                numbers.extend(float(term) for term in plain.terms(phi.returned, v, row_of(task)))
    return {
        "phi": [_site(site) for site in structure.phi],
        "theta": [_site(site) for site in structure.theta],
        "observed": list(structure.observed),
        "log_densities": [number if math.isfinite(number) else None for number in numbers],
    }


def _site(site: Site) -> list[Any]:
    return [site.name, site.family, list(site.shape), site.describe_support()]


def differences(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """What differs, one sentence each; empty where the hierarchies agree."""
    found = []
    for level in ("phi", "theta", "observed"):
        if saved[level] != current[level]:
            found.append(f"the {level} sites were {saved[level]} and are {current[level]}")
    if found:
        return found
    pairs = zip(saved["log_densities"], current["log_densities"], strict=True)
    if not all(_close(a, b) for a, b in pairs):
        found.append("the sites are the same, but a prior or a likelihood gives other log densities")
    return found


def _close(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=1e-8, abs_tol=1e-8)
