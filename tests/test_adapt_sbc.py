"""Simulation-based calibration of the adaptation step itself: φ and θ drawn, a few points observed, adapted, ranked.

φ of each task is one of the draws that the posterior has, which makes these draws its prior exactly: whatever the
fit was, the ranks of what is true among what adaptation says must be uniform. One task is one replication.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import bayesmeta as bm
from bayesmeta.adapt.density import TaskDensity
from tests.adapting import counts, lines
from tests.truth import Array

PHIS = 500
DRAWS = 99
BINS = 20
FITS = {"lines": lines, "counts": counts}
GOOD = ["laplace", "gradient", "svi", "langevin"]


def simulated(fit: bm.Posterior, count: int, shots: int, seed: int) -> tuple[bm.Tasks, Tensor, Tensor]:
    """New tasks with their φ (T, q) and θ (T, p): each from a draw of φ of its own.

    Seeds differ: x and noise from one stream of numbers would be correlated.
    """
    generator = torch.Generator().manual_seed(seed)
    x = 4 * torch.rand(count, shots, *fit.tasks.x.shape[1:], generator=generator, dtype=torch.float64) - 2
    names = [f"new {k}" for k in range(count)]
    nobody = fit.adapt(bm.Tasks.without_observations(names, like=fit.tasks), draws=PHIS, seed=seed + 1000)
    pick, task = torch.randint(len(nobody.phi_coordinates), (count,), generator=generator), torch.arange(count)
    phi, theta = nobody.phi_coordinates[pick, task], nobody.theta_coordinates[pick, task]
    one = torch.ones(count, dtype=torch.float64)
    true = bm.Adapted(
        nobody._program,
        nobody.tasks,
        phi.unsqueeze(0),
        theta.unsqueeze(0),
        method="true",
        k_hat=one,
        effective_size=one,
    )
    y = true.predict(list(x)).sample(1, seed=seed + 2000)[0]
    return bm.Tasks.from_lists(list(x), list(y), names=names), phi, theta


def ranks(fit: bm.Posterior, adapted: bm.Adapted, phi: Tensor, theta: Tensor) -> dict[str, Array]:
    """How many of the draws are below what is true, by quantity, (T,) each in 0..99."""
    pick = torch.linspace(0, len(adapted.theta_coordinates) - 1, DRAWS).round().long()
    phis = torch.cat([phi.unsqueeze(0), adapted.phi_coordinates[pick]])
    thetas = torch.cat([theta.unsqueeze(0), adapted.theta_coordinates[pick]])
    values = {f"φ {k}": phis[..., k] for k in range(phi.shape[-1])}
    values |= {f"θ {k}": thetas[..., k] for k in range(theta.shape[-1])}
    program = fit.collapsed.program.with_centring(True)
    density = TaskDensity(program, adapted.tasks, phis, centred=True)
    values["log p(y | θ, φ)"] = density.terms(thetas)[1]
    noise = torch.Generator().manual_seed(0)
    found = {}
    for name, value in values.items():
        below, same = (value[1:] < value[0]).sum(0), (value[1:] == value[0]).sum(0)
        extra = (torch.rand(same.shape, generator=noise) * (same + 1)).floor().long()
        found[name] = (below + extra).numpy()
    return found


def least_p(found: dict[str, Array]) -> float:
    """The smallest p-value of a chi-squared test of uniform ranks, times the number of tests."""
    p = [stats.chisquare(np.bincount(rank * BINS // (DRAWS + 1), minlength=BINS)).pvalue for rank in found.values()]
    return float(min(p)) * len(p)


def calibrated(name: str, method: Any, count: int = 300, shots: int = 3, seed: int = 0) -> float:
    fit = FITS[name]()
    tasks, phi, theta = simulated(fit, count, shots, seed)
    return least_p(ranks(fit, fit.adapt(tasks, method=method, draws=PHIS, seed=seed, strangers="ignore"), phi, theta))


@pytest.mark.filterwarnings("ignore:k-hat")
@pytest.mark.parametrize(
    ("name", "method"),
    [("lines", "exact"), ("lines", "gradient"), ("counts", "laplace"), ("counts", "svi")],
)
def test_what_adaptation_says_is_calibrated(name: str, method: str) -> None:
    assert calibrated(name, method) > 1e-3


@pytest.mark.filterwarnings("ignore:k-hat")
@pytest.mark.parametrize(
    "method",
    [
        bm.adapt.Gradient(spread="none"),
        bm.adapt.Gradient(steps=1, optimiser="sgd", learning_rate=0.01, spread="laplace"),
    ],
    ids=["points alone", "a step too short"],
)
def test_what_is_wrong_fails(method: Any) -> None:
    assert calibrated("lines", method) < 1e-6


@pytest.mark.filterwarnings("ignore:k-hat")
def test_what_was_observed_and_not_looked_at_fails() -> None:
    """θ of the population is calibrated by itself: what gives it away is the likelihood."""
    fit = lines()
    tasks, phi, theta = simulated(fit, 300, 3, 0)
    nothing = bm.Tasks.without_observations(tasks.names, like=fit.tasks)
    found = ranks(fit, fit.adapt(tasks, draws=PHIS, seed=0), phi, theta)
    deaf = fit.adapt(nothing, draws=PHIS, seed=0)
    deaf.tasks = tasks
    blind = ranks(fit, deaf, phi, theta)

    assert least_p(found) > 1e-3
    assert least_p({name: blind[name] for name in ("θ 0", "θ 1")}) > 1e-3
    assert least_p(blind) < 1e-6


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:k-hat")
@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("method", ["auto", "quadrature", *GOOD, "nuts"])
@pytest.mark.parametrize("name", sorted(FITS))
def test_calibration_at_full_size(name: str, method: str, shots: int) -> None:
    count = 400 if method == "nuts" else 4000
    assert calibrated(name, method, count=count, shots=shots, seed=1) > 1e-4
