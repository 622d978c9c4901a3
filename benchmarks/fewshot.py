"""Few-shot learners beside the Bayes-optimal prediction, on the same tasks: sines, PACOH's, Gaussian processes."""

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
OPTIMAL = "bayesmeta-optimal"
TITLES = {
    "dkt": "DKT's sines",
    "mixed-noise": "Mixed-noise sines",
    "sinusoid": "PACOH's sinusoids (20 training tasks of 5)",
    "cauchy": "PACOH's Cauchy environment (20 training tasks of 20)",
    "gp-rbf": "Gaussian processes, RBF kernel, length and scale of each task its own",
    "gp-matern52": "The same, Matérn-5/2 kernel",
}
RANGES = {"in": "in range", "out": "out of range"}
HEADER = (
    "learner",
    "shots",
    "MSE",
    "/ optimum",
    "RMSE",
    "NLL",
    "- optimum",
    "joint NLL",
    "- optimum",
    "CRPS",
    "95 % coverage",
    "ECE (floor)",
    "ms to adapt",
    "s to train",
)
NOTES = """\
How it was measured: learners are trained on tasks of the environment, adapt to the support of 200 unseen tasks, and
predict their query (195 to 200 observations a task; for Gaussian processes 50 tasks of 50), whose labels are as noisy
as those of the support. *Optimum* is the exact posterior predictive under the environment itself, on the same tasks,
so that the ratio and the differences in nats have paired standard errors (in brackets). NLL is per observation, of
each on its own; *joint* of all of a task together, divided by their number. ECE is the mean distance of the
distribution of PIT values from uniform, beside that of data drawn from the prediction itself. Adapting is timed as
one call for all tasks; training is in one process on the machine below, without imports. *in* is x in [-5, 5], *out*
[-5, 10] for the support and the query alike; with mixed noise 2,000 tasks have 5 query observations each, and the
support is always in [-5, 5], as the published figures of joint NLL have it."""


def _none(name: str) -> Data:
    """The worker makes its own tasks: only the name of the environment is handed over."""
    return Data(name, np.zeros(1), np.zeros(1), np.zeros(1, dtype=np.int64))


def _learner(name: str, title: str, problems: tuple[str, ...], budget: Budget) -> Tool:
    words = ("--set", json.dumps({"learner": name}))
    return Tool(
        f"bayesmeta-{name}", title, "score", "bayesmeta_fewshot", False, (NO_CACHE,), budget, words, problems=problems
    )


def sheets(store: Store, problems: tuple[Problem, ...], tools: tuple[Tool, ...]) -> list[Sheet]:
    """One table for each environment and range of inputs."""
    rows, pages = medians(store), []
    for problem in problems:
        found = [(tool, row) for tool in tools for row in of(rows, problem.name, tool.name)]
        ranges = dict.fromkeys(key.split()[0] for _, row in found for key in row["scores"])
        for inputs in ranges:
            lines = [line for tool, row in found for line in _lines(tool.title, row, inputs)]
            many = len(ranges) > 1
            title = f"{problem.title}, {RANGES[inputs]}" if many else problem.title
            pages.append(Sheet(title, HEADER, _by_shots(lines)))
    return pages


def _lines(title: str, row: Row, inputs: str) -> list[list[str]]:
    keys = [key for key in row["scores"] if key.split()[0] == inputs]
    return [_line(title, key.split()[1], row["scores"][key], row["train_s"]) for key in keys]


def _line(title: str, shots: str, score: Row, train: float) -> list[str]:
    rmse = score["rmse"][0]
    ece = f"{score['ece'][0]:.3f} ({score['ece_floor']:.3f})"
    optimal = "ratio" not in score
    return [
        title,
        shots,
        f"{rmse**2:.4f}",
        "1" if optimal else _with_error(score["ratio"]),
        f"{rmse:.3f}",
        f"{score['nll'][0]:.3f}",
        "0" if optimal else _with_error(score["nll_gap"]),
        f"{score['nll_joint'][0]:.3f}",
        "0" if optimal else _with_error(score["nll_joint_gap"]),
        f"{score['crps'][0]:.4f}",
        f"{100 * score['coverage'][0]:.1f} %",
        ece,
        "–" if optimal else number(score["adapt_ms"]),
        "–" if optimal else number(train),
    ]


def _with_error(pair: list[float]) -> str:
    return f"{pair[0]:.3f} ({pair[1]:.3f})"


def _by_shots(lines: list[list[str]]) -> list[list[str]]:
    """The fewest shots first, within them the learners in their order."""
    return sorted(lines, key=lambda line: int(line[1]))


ALL = tuple(TITLES)
SINES = ("dkt", "mixed-noise")
LEARNERS = (
    _learner("optimal", "Bayes-optimal", ALL, Budget(1, 200, 0)),
    _learner("last-layer", "Bayesian last layer, tanh network", ALL, Budget(1, 200, 6000)),
    _learner("periodic", "Bayesian last layer, periodic features", SINES, Budget(1, 200, 3000)),
    _learner("gp", "Gaussian process", ALL, Budget(1, 200, 1500)),
    _learner("gp-mean", "Gaussian process, its mean another", ("cauchy",), Budget(1, 200, 0)),
)
PROBLEMS = tuple(Problem(name, title, name, 0, partial(_none, name)) for name, title in TITLES.items())
BENCH = Bench("fewshot", "Few-shot regression", PROBLEMS, LEARNERS, PROBLEMS[:1], sheets, NOTES, repeats=1)
