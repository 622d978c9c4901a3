"""The evidence from Gram matrices where θ hardly varies or is perfectly correlated: against the marginal of y."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import bayesmeta as bm
from bayesmeta.evidence import Exact, Gram
from bayesmeta.sites import quiet_pyro
from tests.evidences import gallery, value_and_gradient
from tests.truth import Array


def found(model: str) -> tuple[Gram, bm.Tasks]:
    module = gallery(model)
    tasks = module.load()
    evidence = Gram.find(module.hierarchy.program(tasks), tasks)
    assert evidence is not None
    return evidence, tasks


def by_hand(task: bm.Task, tau: Array, corner: Array, mean: Array, sigma: float, design: Array) -> float:
    """log N(y; A m, A V A' + σ²), V of rank one or less being no trouble here."""
    root = tau[:, None] * corner
    covariance = design @ root @ root.T @ design.T + sigma**2 * np.eye(task.n)
    return float(stats.multivariate_normal(design @ mean, covariance).logpdf(task.y.numpy()))


@pytest.mark.parametrize("log_tau", [0.0, -5.0, -40.0, -162.0])
@pytest.mark.parametrize("corner", [0.0, 3.0, -12.0, -45.0])
def test_orthodont_at_the_edges(log_tau: float, corner: float) -> None:
    evidence, tasks = found("orthodont")
    program = evidence.program
    names = {site.name: k for k, site in enumerate(program.structure.phi)}
    assert list(names) == ["tau", "L", "girls", "boys", "sigma"]
    u = torch.tensor([0.6, log_tau, corner, 22.0, 0.5, 25.0, 0.8, 0.3], dtype=torch.float64)
    with quiet_pyro():
        phi = program.phi(u)
        mine = evidence.per_task(phi, evidence.data)
        total = evidence.total(phi, evidence.data)
    values = {name: value.numpy() for name, value in phi.values.items()}
    expected = []
    for task in tasks:
        mean = values["boys"] if float(task.context["boy"]) == 1 else values["girls"]
        design = np.column_stack([np.ones(task.n), task.x.reshape(task.n).numpy() - 11.0])
        expected.append(by_hand(task, values["tau"], values["L"], mean, float(values["sigma"]), design))

    np.testing.assert_allclose(mine.numpy(), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(float(total), sum(expected), rtol=1e-9)


@pytest.mark.parametrize("model", ["orthodont", "sleepstudy"])
def test_multivariate_normals_are_read_off_and_agree_with_the_generic_road(model: str) -> None:
    evidence, tasks = found(model)
    generic = Exact(evidence.program, tasks)
    generator = torch.Generator().manual_seed(0)

    assert evidence.linear.prior == "normal"
    for _ in range(3):
        u = torch.randn(evidence.program.structure.phi.size, generator=generator, dtype=torch.float64)
        mine: tuple[Tensor, Tensor] = value_and_gradient(evidence, u)
        theirs: tuple[Tensor, Tensor] = value_and_gradient(generic, u)
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
