"""Sines: from five points to a whole wave, by a few gradient steps of a network.

Each task is a sine wave of its own height and shift, seen at a few points without noise. A small network
that is trained on all of them together learns the mean wave, which is next to nothing; what there is to
learn is where gradient steps should start from, so that five points are enough. It is the first problem of
the paper on MAML.

    A_t  ~ Uniform(0.1, 5)       height
    b_t  ~ Uniform(0, π)         shift
    x_ti ~ Uniform(-5, 5)
    y_ti = A_t sin(x_ti - b_t)

A task is a wave, an observation a point of it; 2,000 waves of 20 points. The network has two layers of 40
units. It is for the algorithms of bayesmeta.meta, such as `bayesmeta fit sines --inference maml`; nothing
here says what p(θ | φ) is.

Finn, C., Abbeel, P. and Levine, S. (2017). Model-agnostic meta-learning for fast adaptation of deep
networks. ICML.
"""

from __future__ import annotations

import pandas as pd
from torch import nn

import bayesmeta as bm

net = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))


def load() -> bm.Tasks:
    waves = bm.data.MAMLSines().tasks(2000, shots=20, seed=0)
    wave = [f"wave {k}" for k in waves.task_index.tolist()]
    table = pd.DataFrame({"wave": wave, "x": waves.x.flatten().numpy(), "y": waves.y.numpy()})
    return bm.Tasks.from_frame(table, task="wave", x="x", y="y")


def held_out() -> bm.data.Environment:
    return bm.data.MAMLSines()
