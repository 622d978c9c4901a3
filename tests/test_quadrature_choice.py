"""Where quadrature is judged: at φ that the posterior is about, not at φ that no data would choose."""

from __future__ import annotations

import pytest
import torch

from bayesmeta.evidence import Quadrature, choose
from bayesmeta.evidence.accuracy import doubling
from bayesmeta.evidence.choice import plausible
from bayesmeta.evidence.quadrature import LADDER
from bayesmeta.target import Target
from tests.evidences import gallery


@pytest.mark.parametrize("name", ["kidney", "theoph"])
def test_auto_takes_quadrature_where_it_serves_at_the_posterior(name: str) -> None:
    """Far out it does not serve these two: a skewed frailty, and a curve that is not linear in three θ."""
    model = gallery(name)
    tasks = model.load()
    program = model.hierarchy.program(tasks)
    evidence = choose(program, tasks)
    assert isinstance(evidence, Quadrature)
    coarse = Quadrature(program, tasks, LADDER[program.structure.theta.size][0])
    points = plausible(coarse)
    assert float(doubling(evidence, points).sum(1).abs().max()) < 1e-2
    far = torch.full_like(points[:1], 1.5)
    assert float(doubling(coarse, far).sum(1).abs().max()) > 0.1


def test_the_first_plausible_point_is_near_the_mode_and_the_others_in_its_bulk() -> None:
    model = gallery("seeds")
    tasks = model.load()
    evidence = Quadrature(model.hierarchy.program(tasks), tasks, 7)
    target = Target(evidence)
    points = plausible(evidence)
    values, gradients = target.value_and_grad(points)
    near = points[0] + 0.1 * torch.eye(target.dim, dtype=torch.float64)
    assert float(values[0]) > float(target.log_prob(torch.cat([near, 2 * points[:1] - near])).max()) - 0.2
    assert float(gradients[0].norm()) < 3.0
    assert len(points) == 4
    # half a chi-squared of five degrees of freedom: 8 nats in one draw of a thousand
    assert bool((values[1:] > values[0] - 8).all())
    assert float(target.log_prob(torch.zeros(1, target.dim, dtype=torch.float64))[0]) < float(values[0]) - 8
