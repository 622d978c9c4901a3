"""What the tests of evidence share: ready-made hierarchies by road, and numbers to compare with."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.evidence import Exact, Gram, Laplace, Quadrature, choose, kind
from bayesmeta.program import Phi, Program
from bayesmeta.sites import quiet_pyro
from tests.truth import PhiValues

__all__ = [
    "COUNTS",
    "GALLERY",
    "HARD",
    "NORMAL",
    "NOT_EXACT",
    "Evidence",
    "Observe",
    "ar1",
    "close",
    "coordinates",
    "differences",
    "gallery",
    "hierarchy_of",
    "hyperprior",
    "normal_prior",
    "per_task",
    "phi_at",
    "ragged",
    "road",
    "roads",
    "value_and_gradient",
]

GALLERY = Path(__file__).parent.parent / "models"

Evidence = Gram | Exact | Quadrature | Laplace


def gallery(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, GALLERY / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def roads(program: Program, tasks: bm.Tasks) -> list[Gram | Exact]:
    """The generic exact evidence, and that from Gram matrices where it exists."""
    gram = Gram.find(program, tasks)
    return [Exact(program, tasks)] + ([] if gram is None else [gram])


def phi_at(program: Program, values: PhiValues) -> Phi:
    with quiet_pyro():
        return program.phi_at({site: torch.as_tensor(np.asarray(v, dtype=float)) for site, v in values.items()})


def per_task(evidence: Evidence, values: PhiValues) -> Tensor:
    phi = phi_at(evidence.program, values)
    with quiet_pyro():
        return evidence.per_task(phi, evidence.data)


def coordinates(program: Program, count: int, seed: int = 0) -> Tensor:
    """Random unconstrained coordinates of φ (count, q)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, program.structure.phi.size, generator=generator, dtype=torch.float64)


def value_and_gradient(evidence: Evidence, u: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_t log Z_t(φ(u)) and its gradient in u."""

    def total(u: Tensor) -> Tensor:
        return evidence.total(evidence.program.phi(u), evidence.data)

    with quiet_pyro():
        gradient, value = torch.func.grad_and_value(total)(u)
    return value, gradient


def differences(fn: Callable[[Tensor], float], u: Tensor, step: float = 5e-3) -> Tensor:
    """The gradient of fn by central differences of eighth order: their error is of the order of step^8."""
    weights = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
    columns = []
    for unit in torch.eye(len(u), dtype=torch.float64):
        ahead = sum(w * (fn(u + k * step * unit) - fn(u - k * step * unit)) for k, w in weights.items())
        columns.append(ahead / step)
    return torch.tensor(columns, dtype=torch.float64)


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Equal up to `tolerance` times the largest magnitude involved."""
    return bool((a - b).abs().max() <= tolerance * (1 + b.abs().max()))


# `observe(theta, x, phi)` is the distribution of y; the rest is the same everywhere.
Observe = Callable[[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]], Any]


def hyperprior() -> tuple[Tensor, Tensor, Tensor]:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    return mu, tau, pyro.sample("sigma", dist.HalfNormal(1.0))


def normal_prior(mu: Tensor, tau: Tensor) -> Any:
    return dist.Normal(mu, tau)


def hierarchy_of(observe: Observe, prior: Callable[[Tensor, Tensor], Any] = normal_prior) -> bm.Hierarchy:
    def task(phi: tuple[Tensor, Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        mu, tau, _ = phi
        theta = pyro.sample("theta", prior(mu, tau))
        return pyro.sample("y", observe(theta, x, phi), obs=y)

    return bm.Hierarchy(hyperprior, task)


def ragged(kind: str = "real", sizes: tuple[int, ...] = (4, 2, 5, 3), seed: int = 0) -> bm.Tasks:
    """Tasks with inputs x (n,); y is real, positive, or a count of 0 and 1."""
    rng = np.random.default_rng(seed)
    draws: dict[str, Callable[[int], Any]] = {
        "real": lambda n: rng.normal(size=n),
        "positive": lambda n: rng.lognormal(size=n),
        "count": lambda n: rng.integers(0, 2, n),
    }
    make = draws[kind]
    return bm.Tasks.from_lists([rng.normal(size=n) for n in sizes], [make(n) for n in sizes])


def road(hierarchy: bm.Hierarchy, tasks: bm.Tasks) -> str:
    evidence = choose(hierarchy.program(tasks), tasks)
    assert evidence.road.startswith(kind(evidence))
    return "gram" if evidence.gram else kind(evidence)


def ar1(theta: Tensor, x: Tensor, phi: tuple[Tensor, Tensor, Tensor]) -> Any:
    """Errors whose correlation decays with the distance in x."""
    distance = (x.unsqueeze(-1) - x.unsqueeze(-2)).abs()
    covariance = phi[2] ** 2 * torch.exp(-distance) + 0.1 * torch.eye(len(x))
    mean = theta + 0 * x
    return dist.MultivariateNormal(mean, covariance)


NORMAL: dict[str, Observe] = {
    "phi-coefficient": lambda theta, x, phi: dist.Normal(theta + phi[0] * x, phi[2]).to_event(1),
    "basis-functions": lambda theta, x, phi: dist.Normal(theta * x.sin() + x.square(), phi[2]).to_event(1),
    "positive-coefficient": lambda theta, x, phi: dist.Normal(theta + phi[1] * x, phi[2]).to_event(1),
    "affine-in-phi": lambda theta, x, phi: dist.Normal(theta - 2 * (phi[0] - 3) * x, phi[2]).to_event(1),
    "known-scale": lambda theta, x, phi: dist.Normal(theta * x, 0.3).to_event(1),
    "scale-of-two-phi": lambda theta, x, phi: dist.Normal(theta * x, phi[2] + phi[1]).to_event(1),
    "expanded-scalar": lambda theta, x, phi: dist.Normal(theta, phi[2]).expand([len(x)]).to_event(1),
}

HARD: dict[str, Observe] = {
    "known-scale-per-row": lambda theta, x, phi: dist.Normal(theta, x.exp()).to_event(1),
    "scale-with-x": lambda theta, x, phi: dist.Normal(theta, phi[2] * (1 + x.square())).to_event(1),
    "non-centred": lambda theta, x, phi: dist.Normal(phi[0] + phi[1] * theta, phi[2] + 0 * x).to_event(1),
    "product-of-phi": lambda theta, x, phi: dist.Normal(theta + phi[0] * phi[1] * x, phi[2]).to_event(1),
    "curve-of-phi": lambda theta, x, phi: dist.Normal(theta + phi[0].exp() * x, phi[2]).to_event(1),
    "correlated-errors": ar1,
}

NOT_EXACT: dict[str, Observe] = {
    "student-t": lambda theta, x, phi: dist.StudentT(4.0, theta + 0 * x, phi[2]).to_event(1),
    "laplace": lambda theta, x, phi: dist.Laplace(theta + 0 * x, phi[2]).to_event(1),
    "relu": lambda theta, x, phi: dist.Normal((theta + x).relu(), phi[2]).to_event(1),
    "far-kink": lambda theta, x, phi: dist.Normal((theta + 40 + x).relu(), phi[2]).to_event(1),
    "clipped": lambda theta, x, phi: dist.Normal((theta + x).clamp(-50, 50), phi[2]).to_event(1),
    "tanh": lambda theta, x, phi: dist.Normal((theta + x).tanh(), phi[2]).to_event(1),
    "weakly-curved": lambda theta, x, phi: dist.Normal(theta + 1e-4 * theta**2 + x, phi[2]).to_event(1),
    "scale-with-theta": lambda theta, x, phi: dist.Normal(x, torch.exp(theta / 2)).to_event(1),
    "scale-with-theta-and-mean": lambda theta, x, phi: dist.Normal(theta + x, 1 + theta**2).to_event(1),
}

COUNTS: dict[str, Observe] = {
    "bernoulli": lambda theta, x, phi: dist.Bernoulli(logits=theta + x).to_event(1),
    "poisson": lambda theta, x, phi: dist.Poisson((theta + x).exp()).to_event(1),
}
