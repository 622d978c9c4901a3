"""Adaptive integrals against closed forms: peaks, several peaks, ends, and tasks that have nothing in common."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bayesmeta.data import panels
from bayesmeta.data.panels import integrate

EDGES = torch.linspace(0.0, 3.0, 11, dtype=torch.float64)


def _log_normal(at: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    return -0.5 * ((at - mean) / sd).square() - sd.log() - 0.5 * math.log(2 * math.pi)


def test_peaks_of_any_width_have_the_mass_they_have() -> None:
    sd = torch.logspace(-7, 0, 8, dtype=torch.float64)
    mean = torch.linspace(0.31, 2.7, 8, dtype=torch.float64)

    found = integrate(lambda t, b: _log_normal(b, mean[t][:, None], sd[t][:, None]), EDGES.expand(8, -1))

    mass = torch.special.ndtr((3 - mean) / sd) - torch.special.ndtr(-mean / sd)
    assert torch.allclose(found.log_z, mass.log(), atol=1e-7)
    assert float(found.error.max()) < 1e-6


def test_nodes_give_moments_of_each_task() -> None:
    mean, sd = torch.tensor([0.5, 2.0], dtype=torch.float64), torch.tensor([0.01, 0.02], dtype=torch.float64)

    found = integrate(lambda t, b: 700.0 + _log_normal(b, mean[t][:, None], sd[t][:, None]), EDGES.expand(2, -1))

    assert torch.allclose(found.log_z, torch.full((2,), 700.0, dtype=torch.float64), atol=1e-6)
    assert (found.task.diff() >= 0).all()
    share = found.log_weight.exp()
    for t in range(2):
        mine = found.task == t
        assert float(share[mine].sum()) == pytest.approx(1.0)
        assert float((share * found.at)[mine].sum()) == pytest.approx(float(mean[t]), abs=1e-9)


def test_a_narrow_peak_beside_a_wide_one_is_not_missed() -> None:
    """The narrow one is 200 times taller and lies between the first nodes."""

    def log_f(task: Tensor, b: Tensor) -> Tensor:
        wide = _log_normal(b, torch.tensor(1.0), torch.tensor(0.5))
        narrow = _log_normal(b, torch.tensor(2.2), torch.tensor(0.0025))
        return torch.logaddexp(wide, narrow)

    found = integrate(log_f, EDGES[None])

    wide = 0.5 * (math.erf(2 / 0.5 / math.sqrt(2)) + math.erf(1 / 0.5 / math.sqrt(2)))
    assert float(found.log_z[0]) == pytest.approx(math.log(1 + wide), abs=1e-6)


def test_without_halving_the_narrow_peaks_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: one round alone does not do it, and its own error says so."""
    monkeypatch.setattr(panels, "ROUNDS", 1)
    sd, mean = torch.tensor(1e-3, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)

    found = integrate(lambda t, b: _log_normal(b, mean, sd), EDGES[None])

    assert abs(float(found.log_z[0])) > 0.1
    assert float(found.error[0]) > 0.1


def test_an_integrand_that_ends_in_a_pole_is_integrated() -> None:
    found = integrate(lambda t, b: -0.5 * b.log(), EDGES[None])

    assert float(found.log_z[0]) == pytest.approx(math.log(2 * math.sqrt(3)), abs=1e-6)
