"""Sines without noise by the protocol of MAML's paper, at full length: every meta-learner, beside published figures."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np

from benchmarks.bench import Bench
from benchmarks.problems import Data, Problem
from benchmarks.report import Sheet, medians, number, of
from benchmarks.store import Store
from benchmarks.tools import NO_CACHE, Budget, Tool

__all__ = ["BENCH", "sheets"]

Row = dict[str, Any]
STEPS, EPISODES = 70_000, 600
PUBLISHED = {"maml-1": "1.13 ± .18", "metasgd-1": ".90 ± .16", "mamlpp-5": ".34 ± .01"}
"""5-shot mean squared errors with their 95 % intervals, one inner step for the first two."""

HEADER = (
    "learner",
    "adapted to",
    "MSE (s.e.)",
    "median of a task",
    "published",
    "NLL",
    "95 % coverage",
    "ECE (floor)",
    "ms to adapt",
    "s to train",
    "numbers",
)
NOTES = """\
How it was measured: y = A sin(x - b), A from U(.1, 5), b from U(0, π), x from U(-5, 5), without noise. Training is a
stream of tasks of 5 support and 5 query points, 25 a step, 70,000 steps of Adam (20,000 for iMAML and the Bayesian
ones); the network is 1-40-40-1 with ReLU. Then each learner adapts to 5, 10 or 20 points of 600 unseen sines and
predicts 100 others of each. MSE is the mean over tasks with its standard error; since two points settle a sine, the
best possible is 0. Errors of few tasks make most of the mean: the median of a task's MSE stands beside it.
*Published* are 5-shot figures with their 95 % intervals: MAML and Meta-SGD with one step, MAML++ with five. NLL and
coverage are of normal predictions whose standard deviation, for learners that give a point, is the error that
training tasks had. The Bayesian last layer (tanh) has tasks of 5 to 15 points and fewer steps."""


def _none(shots: int) -> Data:
    """The worker makes its own tasks: only the number of shots is handed over."""
    return Data(f"sines-{shots}", np.zeros(1), np.zeros(1), np.zeros(1, dtype=np.int64))


def _learner(name: str, title: str, learner: str, steps: int = STEPS, **options: Any) -> Tool:
    words = ("--set", json.dumps({"learner": learner, "options": options}))
    budget = Budget(1, EPISODES, steps)
    return Tool(f"bayesmeta-{name}", title, "score", "bayesmeta_sinusoid", False, (NO_CACHE,), budget, words)


def sheets(store: Store, problems: tuple[Problem, ...], tools: tuple[Tool, ...]) -> list[Sheet]:
    """One table for each number of shots that learners are trained for."""
    rows, pages = medians(store), []
    for problem in problems:
        found = [(tool, row) for tool in tools for row in of(rows, problem.name, tool.name)]
        lines = [_line(tool, shots, row) for tool, row in found for shots in row["scores"]]
        pages.append(Sheet(problem.title, HEADER, sorted(lines, key=lambda line: int(line[1]))))
    return [page for page in pages if page.rows]


def _line(tool: Tool, shots: str, row: Row) -> list[str]:
    score = row["scores"][shots]
    mean, error, median = score["mse"]
    published = PUBLISHED.get(tool.name.removeprefix("bayesmeta-"), "–") if shots == "5" else "–"
    return [
        tool.title,
        shots,
        f"{mean:.3g} ({error:.2g})",
        f"{median:.3g}",
        published,
        f"{score['nll']:.2f}",
        f"{100 * score['coverage']:.1f} %",
        f"{score['ece']:.3f} ({score['ece_floor']:.3f})",
        number(score["adapt_ms"]),
        number(row["train_s"]),
        number(row["numbers"]),
    ]


LEARNERS = (
    _learner("maml-1", "MAML, 1 step", "MAML", inner_steps=1, schedule="constant"),
    _learner("maml-5", "MAML, 5 steps", "MAML", inner_steps=5),
    _learner("maml-5-short", "MAML, 5 steps, 20,000 of training", "MAML", 20_000, inner_steps=5),
    _learner("fomaml-5", "MAML, 5 steps, first order", "MAML", inner_steps=5, first_order=True),
    _learner("metasgd-1", "Meta-SGD, 1 step", "MetaSGD", inner_steps=1, schedule="constant"),
    _learner("metasgd-5", "Meta-SGD, 5 steps", "MetaSGD", inner_steps=5),
    _learner("mamlpp-5", "MAML++, 5 steps", "MAMLPlusPlus", inner_steps=5),
    _learner("reptile", "Reptile, 5 steps", "Reptile", inner_steps=5, inner_learning_rate=0.02),
    _learner("anil-5", "ANIL, 5 steps", "ANIL", inner_steps=5),
    _learner("cavia-5", "CAVIA, 5 steps", "CAVIA", inner_steps=5),
    _learner("imaml", "iMAML", "IMAML", 20_000, inner_learning_rate=0.003, regularisation=0.5),
    _learner("llama-5", "LLAMA, 5 steps", "LLAMA", 20_000, inner_steps=5),
    _learner("bmaml-5", "Bayesian MAML, 5 particles", "BMAML", 20_000, inner_steps=5),
    _learner("platipus-5", "PLATIPUS, 5 steps", "PLATIPUS", 20_000, inner_steps=5),
    _learner("abml-5", "ABML, 5 steps", "ABML", 20_000, inner_steps=5),
    _learner("vampire-5", "VAMPIRE, 5 steps", "VAMPIRE", 20_000, inner_steps=5),
    _learner("last-layer", "Bayesian last layer, tanh network", "last-layer", 6_000),
)
PROBLEMS = (Problem("sines-5", "Trained for 5 shots", "sines", 0, partial(_none, 5)),)
BENCH = Bench("sinusoid", "Sines without noise", PROBLEMS, LEARNERS, PROBLEMS, sheets, NOTES, repeats=1)
