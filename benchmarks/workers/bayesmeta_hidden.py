"""Hide tasks of real data, and predict them by adapting, by a refit, and without a population."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch

import bayesmeta as bm
from benchmarks.workers.common import Clock, arguments, load, say

LEVEL, DRAWS = 0.9, 500
PREDICTORS = ["age", "sex", "no_pain", "exang", "oldpeak", "thalach"]
METRICS = ("nll", "crps", "rmse", "coverage", "width")


@dataclass(frozen=True)
class Case:
    """A data set, its hierarchy, and what is hidden.

    Attributes:
        frame: one observation a row.
        task: the column of the task.
        x: columns of inputs.
        y: the response.
        context: columns that are constant within a task.
        family: the hierarchy for tasks.
        support: observations of a hidden task that are seen.
        least: observations that a hidden task has.
        at_once: tasks hidden from one fit.
    """

    frame: pd.DataFrame
    task: str
    x: list[str]
    y: str
    context: list[str]
    family: Callable[[bm.Tasks], bm.Hierarchy]
    support: int
    least: int
    at_once: int

    def tasks(self) -> bm.Tasks:
        """The data as tasks."""
        return bm.Tasks.from_frame(self.frame, task=self.task, x=self.x or None, y=self.y, context=self.context or None)


def case(name: str) -> Case:
    """The data set of that name."""
    if name == "heart":
        return _heart()
    frame = bm.data.load(name)
    if name == "radon":
        return Case(frame, "county", ["floor"], "log_radon", ["log_uranium"], _level(bm.families.linear), 3, 7, 9)
    if name == "sleepstudy":
        return Case(
            frame, "Subject", ["Days"], "Reaction", [], lambda t: bm.families.linear(t, correlated=True), 3, 10, 6
        )
    if name == "rats":
        return Case(frame, "rat", ["day"], "weight", [], lambda t: bm.families.linear(t, correlated=True), 2, 5, 10)
    if name == "epil":
        frame["treated"] = (frame["trt"] == "progabide") * 1.0
        context = ["lbase", "lage", "treated"]
        return Case(frame, "subject", ["V4"], "y", context, _level(_counts), 2, 4, 15)
    frame["user"], frame["city"] = (frame["use"] == "Y") * 1.0, (frame["urban"] == "Y") * 1.0
    frame["children"] = (frame["livch"] != "0") * 1.0
    return Case(frame, "district", ["age", "city", "children"], "user", [], _level(bm.families.logistic), 5, 15, 12)


def _heart() -> Case:
    patients = bm.data.load("heart")
    patients["no_pain"], patients["ill"] = (patients["cp"] == 4) * 1.0, (patients["num"] > 0) * 1.0
    filled = patients[PREDICTORS].fillna(patients[PREDICTORS].mean())
    frame = pd.concat([patients[["hospital", "ill"]], filled], axis=1)
    return Case(frame, "hospital", PREDICTORS, "ill", [], _level(bm.families.logistic), 10, 100, 1)


def _counts(tasks: bm.Tasks, **options: Any) -> bm.Hierarchy:
    return bm.families.poisson(tasks, overdispersed=True, **options)


def _level(family: Callable[..., bm.Hierarchy]) -> Callable[[bm.Tasks], bm.Hierarchy]:
    return lambda tasks: family(tasks, slopes="none")


class Judge:
    """Fits, predicts and scores one data set, way by way."""

    def __init__(self, name: str, draws: int, refits: int, rounds: int, seed: int) -> None:
        self.case, self.draws, self.refits, self.rounds, self.seed = case(name), draws, refits, rounds, seed
        self.tasks = self.case.tasks()
        self.rows: dict[str, list[pd.DataFrame]] = {}
        self.seconds: dict[str, list[float]] = {}

    def run(self) -> None:
        """All rounds: each eligible task is hidden once, as far as there are rounds."""
        names = [
            name
            for name, size in zip(self.tasks.names, self.tasks.sizes.tolist(), strict=True)
            if size >= self.case.least
        ]
        order = torch.randperm(len(names), generator=torch.Generator().manual_seed(self.seed)).tolist()
        shuffled = [names[k] for k in order]
        step = self.case.at_once
        for start in range(0, min(len(shuffled), self.rounds * step), step):
            self._round(shuffled[start : start + step])

    def _round(self, names: list[str]) -> None:
        hidden, rest = self.tasks[names], self.tasks.without(names)
        support, query = hidden.split(self.case.support, seed=self.seed)
        nothing, _ = hidden.split(0)
        hierarchy = self.case.family(rest)
        posterior = self._fit(hierarchy, rest)
        other = self._fit(hierarchy, rest, self.seed + 1) if self._more_refits else posterior
        self._score("adapt", self._timed("adapt", len(names), lambda: self._adapted(posterior, support)), query)
        self._score("population", self._adapted(posterior, nothing), query)
        self._pooled(rest + support, query)
        for name in names:
            one = support[[name]]
            if self._more_refits:
                self._score("alone", self._adapted(self._fit(hierarchy, one), one), query[[name]])
                self._score("again", self._adapted(other, one), query[[name]])
                anew = partial(self._refitted, hierarchy, rest + one, one)
                self._score("refit", self._timed("refit", 1, anew), query[[name]])

    @property
    def _more_refits(self) -> bool:
        return len(self.rows.get("refit", ())) < self.refits

    def _refitted(self, hierarchy: bm.Hierarchy, tasks: bm.Tasks, one: bm.Tasks) -> bm.Adapted:
        return self._adapted(self._fit(hierarchy, tasks), one)

    def _pooled(self, seen: bm.Tasks, query: bm.Tasks) -> None:
        """One regression through everything: contexts are inputs, and all is one task."""
        merged = _merged(seen)
        posterior = self._fit(self.case.family(merged), merged)
        adapted = posterior.adapt(merged, seed=self.seed)
        for task in query:
            if task.n:
                one = _merged(query[[task.name]])
                self._note("pooled", bm.score(adapted.predict(one), one, level=LEVEL, draws=DRAWS), [task.name])

    def _fit(self, hierarchy: bm.Hierarchy, tasks: bm.Tasks, seed: int | None = None) -> bm.Posterior:
        chosen = self.seed if seed is None else seed
        return bm.fit(hierarchy, tasks, bm.Auto(draws=self.draws, compile=False), seed=chosen, progress=False)

    def _adapted(self, posterior: bm.Posterior, support: bm.Tasks) -> bm.Adapted:
        return posterior.adapt(support, draws=min(self.draws, len(posterior.phi_coordinates)), seed=self.seed)

    def _score(self, way: str, adapted: bm.Adapted, query: bm.Tasks) -> None:
        self._note(way, bm.score(adapted.predict(query), query, level=LEVEL, draws=DRAWS), None)

    def _note(self, way: str, score: bm.Score, names: list[str] | None) -> None:
        rows = score.per_task if names is None else score.per_task.set_axis(names)
        self.rows.setdefault(way, []).append(rows)

    def _timed(self, way: str, tasks: int, work: Callable[[], bm.Adapted]) -> bm.Adapted:
        started = time.perf_counter()
        adapted = work()
        self.seconds.setdefault(way, []).append((time.perf_counter() - started) / tasks)
        return adapted

    def result(self) -> dict[str, Any]:
        """Each way's metrics with standard errors over tasks, and its paired difference from adapting."""
        adapt = pd.concat(self.rows["adapt"])
        found: dict[str, Any] = {}
        for way, parts in self.rows.items():
            rows = pd.concat(parts)
            score, same = _as_score(rows), _as_score(adapt.loc[rows.index])
            gap = score.minus(same)
            table = score.table
            values = {metric: [table["value"][metric], table["standard_error"][metric]] for metric in METRICS}
            seconds = self.seconds.get(way)
            found[way] = values | {
                "tasks": len(rows),
                "gap": None if way == "adapt" else [gap["difference"]["nll"], gap["standard_error"]["nll"]],
                "seconds": None if seconds is None else sorted(seconds)[len(seconds) // 2],
            }
        return found


def _as_score(rows: pd.DataFrame) -> bm.Score:
    nan = float("nan")
    return bm.Score(rows, torch.zeros(0), nan, nan, nan, LEVEL)


def _merged(tasks: bm.Tasks) -> bm.Tasks:
    """All rows as one task, contexts as further columns of x."""
    x = tasks.x.reshape(tasks.n_observations, -1)
    columns = [values[tasks.task_index].reshape(-1, 1) for values in tasks.context.values()]
    return bm.Tasks.from_lists([torch.cat([x, *columns], 1)], [tasks.y], names=["all"])


def main() -> None:
    args = arguments()
    clock = Clock(args.started)
    warnings.simplefilter("ignore")
    clock.mark("import")
    rounds, refits = (1, 1) if args.no_compile else (args.chains, args.tune)
    judge = Judge(str(load(args.data).kind), args.draws, refits, rounds, args.seed)
    judge.run()
    clock.mark("judge")
    say(clock, ["bayesmeta", "torch"], ways=judge.result())


if __name__ == "__main__":
    main()
