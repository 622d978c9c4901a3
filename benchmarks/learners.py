"""What is learnt by which learner in the few-shot benchmark: a hierarchy, how it is trained, and on which tasks.

Every learner gets the tasks of its environment as they were published: an endless stream of them for the sines (10
to 15 observations each, so that adapting to few and to many is learnt), 20 tasks for PACOH's environments, 40 for
Gaussian processes. None is told the environment's functions; what it is told is in its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

import bayesmeta as bm
from bayesmeta.data import Environment
from bayesmeta.families import kernels

__all__ = ["ENVIRONMENTS", "LEARNERS", "Learner", "Setting", "fitted"]

TRAIN, TEST = 1, 2  # seeds
BATCH = 25


@dataclass(frozen=True)
class Setting:
    """An environment, and on what it is learnt and judged.

    Attributes:
        make: the environment.
        shots: numbers of observations that are adapted to.
        train: observations of a training task.
        tasks: training tasks; None for a stream without end.
        query: observations of a test task that are predicted.
        ranges: of the inputs of test tasks.
        seen: the range of the support, where it is not that of the query.
        times: how many times as many test tasks as the others have: their optimum is dear, or their scores are noisy.
    """

    make: Callable[[], Environment]
    shots: tuple[int, ...]
    train: int | tuple[int, int]
    tasks: int | None
    query: int = 195
    ranges: tuple[str, ...] = ("in",)
    seen: str | None = None
    times: float = 1.0

    def test(self, count: int, shots: int, inputs: str) -> tuple[bm.Tasks, bm.Tasks]:
        """Support and query of unseen tasks; the same functions whatever shots and ranges are."""
        count = max(2, round(count * self.times))
        made = self.make().tasks(count, shots, query=self.query, seed=TEST, inputs=inputs)
        if self.seen is None:
            return made
        seen, _ = self.make().tasks(count, shots, query=self.query, seed=TEST, inputs=self.seen)
        return seen, made[1]


ENVIRONMENTS = {
    "dkt": Setting(bm.data.DKTSines, (1, 2, 3, 5, 10), (10, 15), None, ranges=("in", "out")),
    "mixed-noise": Setting(
        bm.data.MixedNoiseSines, (5, 10), (10, 15), None, 5, ranges=("in", "out"), seen="in", times=10
    ),
    "sinusoid": Setting(bm.data.PACOHSinusoid, (5,), 5, 20, 200),
    "cauchy": Setting(bm.data.PACOHCauchy, (20,), 20, 20, 200),
    "gp-rbf": Setting(bm.data.GPTasks, (5, 10), 20, 40, 50, times=0.25),
    "gp-matern52": Setting(lambda: bm.data.GPTasks("matern52"), (5, 10), 20, 40, 50, times=0.25),
}


@dataclass(frozen=True)
class Learner:
    """What a learner does in one environment.

    Attributes:
        hierarchy: from the training tasks, for their units.
        inference: from the numbers of members and steps.
        draws: how many draws of φ tasks are adapted under; None for all.
    """

    hierarchy: Callable[[bm.Tasks], bm.Hierarchy]
    inference: Callable[[int, int], Any]
    draws: int | None = None


def _ensemble(members: int, steps: int) -> Any:
    return bm.Ensemble(members=members, steps=steps, batch_size=BATCH)


def _crowd(members: int, steps: int) -> Any:
    """For 20 tasks and a network: what its members agree on is learnt from so few, what each adds is not."""
    return bm.Ensemble(members=24 * members, steps=min(steps, 500), batch_size=BATCH)


def _short(members: int, steps: int) -> Any:
    """For a few tasks, of which more steps learn no more."""
    return bm.Ensemble(members=members, steps=min(steps, 1500), batch_size=BATCH)


def _watched(members: int, steps: int) -> Any:
    """For a network and a few tasks: a fifth of them says when it begins to learn their noise."""
    return bm.Ensemble(members=members, steps=min(steps, 1500), batch_size=BATCH, validation=0.2, every=10, patience=20)


def _by_mode(members: int, steps: int) -> Any:
    """θ is a task's hyperparameters, integrated out by Laplace's method: adapting puts right what that misses."""
    return bm.Laplace(draws=60, starts=1, evidence="laplace")


def _normal(members: int, steps: int) -> Any:
    """φ is a function at a hundred points, which is Normal but for the few hyperparameters beside it."""
    return bm.Laplace(draws=400, starts=1, proposal="normal", importance=False)


def _tanh(inputs: int, width: int = 40) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())


def _relu(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, outputs))


def _plain(tasks: bm.Tasks) -> bm.Hierarchy:
    inputs = tasks.x.shape[1] if tasks.x.dim() > 1 else 1
    return bm.families.last_layer(_tanh(inputs), inputs=inputs, scale=float(tasks.y.std()))


def _periodic(tasks: bm.Tasks) -> bm.Hierarchy:
    return bm.families.last_layer(bm.families.Periodic(8), scale=float(tasks.y.std()))


def _periodic_mixed(tasks: bm.Tasks) -> bm.Hierarchy:
    features, noise = bm.families.Periodic(8), _relu(16)
    return bm.families.last_layer(features, noise=noise, populations=16, scale=float(tasks.y.std()))


def _spectral(tasks: bm.Tasks) -> bm.Hierarchy:
    return bm.families.gp(kernels.spectral_mixture(2), mean="constant", standardise=tasks)


def _wavy(tasks: bm.Tasks) -> bm.Hierarchy:
    return bm.families.gp(kernels.periodic() + kernels.linear(), mean=_mean(1), standardise=tasks)


def _smooth(tasks: bm.Tasks) -> bm.Hierarchy:
    return bm.families.gp(kernels.rbf(), mean=_mean(tasks.x.shape[1]), standardise=tasks)


def _smooth_twice(tasks: bm.Tasks) -> bm.Hierarchy:
    """The common function varies by one standard deviation of y over one of x."""
    return bm.families.gp(kernels.rbf(), mean=kernels.matern52(1.0, 1.0, name="mean"), standardise=tasks)


def _mean(inputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))


def _varying(kernel: str) -> Callable[[bm.Tasks], bm.Hierarchy]:
    make, name = (kernels.rbf, "rbf") if kernel == "rbf" else (kernels.matern52, "matern")

    def hierarchy(tasks: bm.Tasks) -> bm.Hierarchy:
        return bm.families.gp(make(), varying=(f"{name}_lengthscale", f"{name}_amplitude"))

    return hierarchy


LEARNERS: dict[tuple[str, str], Learner] = {
    ("dkt", "last-layer"): Learner(_plain, _ensemble),
    ("dkt", "periodic"): Learner(_periodic, _ensemble),
    ("dkt", "gp"): Learner(_spectral, _ensemble),
    ("mixed-noise", "last-layer"): Learner(_plain, _ensemble),
    ("mixed-noise", "periodic"): Learner(_periodic_mixed, _ensemble),
    ("mixed-noise", "gp"): Learner(_spectral, _ensemble),
    ("sinusoid", "last-layer"): Learner(_plain, _watched),
    ("sinusoid", "gp"): Learner(_wavy, _short),
    ("cauchy", "last-layer"): Learner(_plain, _watched),
    ("cauchy", "gp"): Learner(_smooth, _crowd),
    ("cauchy", "gp-mean"): Learner(_smooth_twice, _normal, 100),
    ("gp-rbf", "last-layer"): Learner(_plain, _watched),
    ("gp-rbf", "gp"): Learner(_varying("rbf"), _by_mode),
    ("gp-matern52", "last-layer"): Learner(_plain, _watched),
    ("gp-matern52", "gp"): Learner(_varying("matern52"), _by_mode),
}
"""By environment and learner."""


def fitted(environment: str, learner: str, *, members: int, steps: int, seed: int) -> bm.Posterior:
    """Train a learner on its environment."""
    setting, how = ENVIRONMENTS[environment], LEARNERS[environment, learner]
    env = setting.make()
    if setting.tasks is not None:
        tasks = env.tasks(setting.tasks, setting.train, seed=TRAIN + 1000 * seed)
        return bm.fit(how.hierarchy(tasks), tasks, how.inference(members, steps), seed=seed, progress=False)

    def make(batch: int) -> bm.Tasks:
        return env.tasks(BATCH, setting.train, seed=batch)

    hierarchy = how.hierarchy(env.tasks(200, setting.train, seed=TRAIN))
    return bm.fit(hierarchy, bm.Stream(make), how.inference(members, steps), seed=seed, progress=False)
