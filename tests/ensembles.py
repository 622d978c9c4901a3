"""What the tests of ensembles share: small targets, sine waves and a network under a last layer."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.evidence import choose
from bayesmeta.target import Target
from tests.scenarios import SCENARIOS

__all__ = ["ROUGH", "network", "points", "sines", "target_of", "waves"]

ROUGH = bm.Ensemble(members=2, steps=40, batch_size=4, every=10)


def target_of(name: str, method: str = "auto") -> Target:
    scenario = SCENARIOS[name]()
    return Target(choose(scenario.hierarchy.program(scenario.tasks), scenario.tasks, method))


def points(target: Target, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return 0.5 * torch.randn(count, target.q, generator=generator, dtype=torch.float64)


@cache
def sines() -> tuple[bm.Hierarchy, bm.Tasks]:
    """Sine waves and a small network under a Bayesian last layer."""
    return bm.families.last_layer(network(16, 8), scale=2.0), waves(0, 40)


def network(*widths: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # modules draw weights that nobody asked for
        layers = [nn.Linear(one, two) for one, two in pairwise((1, *widths))]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())))


def waves(seed: int, count: int = 12) -> bm.Tasks:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-3, 3, (count, 8, 1))
    y = rng.uniform(0.5, 2, (count, 1)) * np.sin(x[..., 0] + rng.uniform(0, 1, (count, 1)))
    return bm.Tasks.from_arrays(x, y + 0.1 * rng.normal(size=y.shape))
