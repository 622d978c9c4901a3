"""The experiment: tasks hidden from the fit, adapted to a few observations of each, judged on all others.

Three ways predict the same hidden observations: `both` adapts the population to the few observations of the
task; `population` adapts to none of them (zero-shot, the task's context is known); `alone` is the mean of the
few, without a population. A round hides some tasks; more rounds hide others, each with a fit of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pandas as pd
import torch

from bayesmeta import shelf
from bayesmeta.adapt import Adapted
from bayesmeta.errors import OptionError
from bayesmeta.fit import fit
from bayesmeta.posterior import Posterior
from bayesmeta.presets import Config
from bayesmeta.tasks import Tasks

__all__ = ["Round", "Setting", "run"]

Value = TypeVar("Value")


@dataclass(frozen=True)
class Setting:
    """What is hidden, and how the rest is fitted.

    Args:
        model: Gallery model, or the path of a model file.
        inference: Preset, path of a preset file, or a configured back-end.
        hidden: Number of tasks that a fit does not see.
        support: Observations of each of them that it is adapted to.
        least: Observations that a task needs to be hidden.
        rounds: How many times other tasks are hidden, as far as there are any left.
        draws: Draws of φ used to adapt; all of the fit if it has fewer.
        level: Probability of the predictive intervals.
        seed: Chooses the hidden tasks and their support, and seeds the fit.
    """

    model: str = "radon"
    inference: str | Config = "auto"
    hidden: int = 5
    support: int = 3
    least: int = 7
    rounds: int = 1
    draws: int = 1000
    level: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("hidden", "support", "rounds", "draws"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.least <= self.support:
            raise OptionError(f"least must exceed support ({self.support}), got {self.least}")
        if not 0 < self.level < 1:
            raise OptionError(f"level must lie between 0 and 1, got {self.level!r}")


@dataclass(frozen=True)
class Round:
    """What one round gave.

    Attributes:
        posterior: The population, without the hidden tasks.
        adapted: θ of the hidden tasks, given their support.
        query: The hidden observations.
        ways: Per way a row for each hidden observation: task, y, mean, and but for `alone` lower, upper, log_prob.
        seconds: Time of each part; of `adapt` and `predict` the first call and a second one, `again`.
    """

    posterior: Posterior
    adapted: Adapted
    query: Tasks
    ways: dict[str, pd.DataFrame]
    seconds: dict[str, float]


def run(setting: Setting | None = None, *, progress: bool = False) -> list[Round]:
    """Fit without the hidden tasks, adapt to a few observations of each, predict the others; round by round.

    Raises:
        OptionError: Too few tasks have enough observations.
        KeyboardInterrupt: A fit was interrupted.
    """
    setting = setting or Setting()
    file = shelf.load_model(setting.model)
    tasks = file.tasks()
    return [_round(file, tasks, names, setting, progress) for names in _choose(tasks, setting)]


def _choose(tasks: Tasks, setting: Setting) -> list[list[str]]:
    """The tasks hidden in each round, at random among those with enough observations, in the data's order."""
    eligible = torch.nonzero(tasks.sizes >= setting.least).squeeze(-1)
    if len(eligible) < setting.hidden or len(tasks) - setting.hidden < 2:
        raise OptionError(
            f"hidden: {setting.hidden} tasks with at least {setting.least} observations are wanted, and two "
            f"others; {setting.model!r} has {len(eligible)} such among {len(tasks)}: hide fewer, or take another "
            "model"
        )
    order = eligible[torch.randperm(len(eligible), generator=torch.Generator().manual_seed(setting.seed))]
    rounds = order.split(setting.hidden)[: setting.rounds]
    return [[tasks.names[k] for k in positions.sort().values.tolist()] for positions in rounds]


def _round(file: shelf.ModelFile, tasks: Tasks, names: list[str], setting: Setting, progress: bool) -> Round:
    support, query = tasks[names].split(setting.support, seed=setting.seed)
    nothing, _ = tasks[names].split(0)
    seen = tasks.without(names)
    posterior = fit(file.hierarchy, seen, setting.inference, seed=setting.seed, progress=progress)
    if posterior.info.interrupted:
        raise KeyboardInterrupt
    draws = min(setting.draws, len(posterior.phi_coordinates))
    seconds = {part: posterior.info.seconds[part] for part in ("setup", "compile", "sample")}

    def adapt(tasks: Tasks) -> Adapted:
        return posterior.adapt(tasks, draws=draws, seed=setting.seed)

    few = _timed(seconds, "adapt", lambda: adapt(support))
    ways = {
        "both": _timed(seconds, "predict", lambda: _predicted(few, query, setting.level)),
        "population": _predicted(adapt(nothing), query, setting.level),
        "alone": _own_mean(support, query),
    }
    return Round(posterior, few, query, ways, seconds)


def _timed(seconds: dict[str, float], part: str, work: Callable[[], Value]) -> Value:
    """Do the work twice and note how long each time took: the first call has all the loading in it."""
    for name in (part, f"{part} again"):
        start = time.perf_counter()
        value = work()
        seconds[name] = time.perf_counter() - start
    return value


def _predicted(adapted: Adapted, query: Tasks, level: float) -> pd.DataFrame:
    predictive = adapted.predict(query)
    table = predictive.frame(level)
    kept = torch.arange(int(query.sizes.max())) < query.sizes.unsqueeze(-1)
    log_prob = predictive.log_prob(query, pointwise=True)[kept]
    return table.assign(y=query.y.numpy(), log_prob=log_prob.numpy())


def _own_mean(support: Tasks, query: Tasks) -> pd.DataFrame:
    means = torch.stack([task.y.mean() for task in support])[query.task_index]
    names = [query.names[k] for k in query.task_index.tolist()]
    return pd.DataFrame({"task": names, "mean": means.numpy(), "y": query.y.numpy()})
