"""Few-shot classification of Omniglot's characters: accuracy and calibration after so many minutes on a processor."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import Bench
from benchmarks.problems import Data, Problem
from benchmarks.report import Sheet, medians, number, of
from benchmarks.store import Store
from benchmarks.tools import NO_CACHE, Budget, Tool

__all__ = ["BENCH", "problem", "sheets"]

Row = dict[str, Any]
SECONDS, EPISODES = 1200, 600
EPISODES_OF = ((5, 1), (5, 5), (20, 1), (20, 5))
PUBLISHED = {
    "maml": {"5-1": "98.7", "5-5": "99.9", "20-1": "95.8", "20-5": "98.9"},
    "mamlpp": {"5-1": "99.47", "5-5": "99.85", "20-1": "97.65", "20-5": "99.33"},
}
"""Percent right after full training: MAML (Finn et al. 2017), MAML++ (Antoniou et al. 2019)."""

HEADER = (
    "learner",
    "minutes",
    "training tasks",
    "right, % (s.e.)",
    "published, %",
    "NLL (s.e.)",
    "ECE (floor)",
    "Brier",
    "ms to adapt",
    "s to train",
    "numbers",
)
NOTES = """\
How it was measured: characters of 28 x 28 pixels; the 964 of the background alphabets, and their quarter turns as
classes of their own, to learn from, the 659 of the evaluation alphabets, upright, to be judged by. The Bayesian last
layer is `bm.meta.ClassHead`; pre-training tells the 3,856 classes apart in batches of 128 images, each of which counts
as a task here, and a new task trains a last layer of its own. Each learner has the same network of four strided
convolutions of 64 channels, whose normalisation is by batch (transductive), and so many *minutes* on one core: 20, or
what `--limit` gives in seconds, 300 for the rows of 5. A row is to be set beside those of as many minutes. How many
tasks it saw in that time, a step for each, is in the table. Rates and steps were chosen by a tenth of the background
characters. So these are figures of a short training, not of the methods' ends, which *published* has where they are
known. Judged by 600 tasks, 200 where there are 20 classes, with 15 query images of each; standard errors are over
tasks. NLL is in nats an image, ECE in 15 bins of the likeliest class's probability, beside the value that a perfectly
calibrated prediction of as many images has."""


def _none(ways: int, shots: int) -> Data:
    """The worker loads the images: only the kind of task is handed over."""
    return Data(f"omniglot-{ways}-{shots}", np.zeros(1), np.zeros(1), np.zeros(1, dtype=np.int64))


def _learner(name: str, title: str, learner: str, **options: Any) -> Tool:
    words = {"learner": learner, "net": {"halve": "stride", "filters": 64}, "options": options}
    budget = Budget(1, EPISODES, SECONDS)
    return Tool(
        f"bayesmeta-{name}",
        title,
        "score",
        "bayesmeta_omniglot",
        False,
        (NO_CACHE,),
        budget,
        ("--set", json.dumps(words)),
    )


def sheets(store: Store, problems: tuple[Problem, ...], tools: tuple[Tool, ...]) -> list[Sheet]:
    """A table for each kind of task."""
    rows, pages = medians(store), []
    for kind in problems:
        lines = [_line(tool, kind.name, row) for tool in tools for row in of(rows, kind.name, tool.name)]
        pages.append(Sheet(kind.title, HEADER, lines))
    return [page for page in pages if page.rows]


def _line(tool: Tool, kind: str, row: Row) -> list[str]:
    score, published = row["scores"], PUBLISHED.get(tool.name.removeprefix("bayesmeta-"), {})
    right, error = score["accuracy"]
    return [
        tool.title,
        number(row["tune"] / 60),
        number(row["tasks"]),
        f"{100 * right:.2f} ({100 * error:.2f})",
        published.get(kind.removeprefix("omniglot-"), "–"),
        f"{score['nll'][0]:.4f} ({score['nll'][1]:.4f})",
        f"{score['ece'][0]:.4f} ({row['ece_floor']:.4f})",
        f"{score['brier'][0]:.4f}",
        number(row["adapt_ms"]),
        number(row["train_s"]),
        number(row["numbers"]),
    ]


def problem(ways: int, shots: int) -> Problem:
    """Tasks of so many classes, with so many images of each to adapt to."""
    name = f"omniglot-{ways}-{shots}"
    return Problem(name, f"{ways}-way {shots}-shot", name, 0, partial(_none, ways, shots))


def _problems() -> tuple[Problem, ...]:
    """All kinds of task, if the images lie in the folder that BAYESMETA_DATA names."""
    if not (Path(os.environ.get("BAYESMETA_DATA", "")) / "omniglot").is_dir():
        return ()
    return tuple(problem(ways, shots) for ways, shots in EPISODES_OF)


STEP = {"batch_size": 1, "inner_steps": 1, "adapt_steps": 3, "inner_learning_rate": 0.1}
MANY = {"20": {"inner_learning_rate": 0.4}}
STEPWISE = {"inner_steps": 2, "adapt_steps": 2, "norm_by_step": True}
TUNED = {"new_head": True, "frozen": True, "inner_steps": 100, "inner_learning_rate": 0.1, "by_class": False}
LEARNERS = (
    _learner("maml", "MAML", "MAML", **STEP, **MANY),
    _learner("mamlpp", "MAML++", "MAMLPlusPlus", **STEP | STEPWISE, **MANY),
    _learner("protonet", "ProtoNet", "ProtoNet", batch_size=1),
    _learner("protomaml", "ProtoMAML", "ProtoMAML", **STEP | {"adapt_steps": 1}),
    _learner("last-layer", "Bayesian last layer", "ClassHead", batch_size=1),
    _learner("llama", "LLAMA, of the last layer", "LLAMA", **STEP, **MANY, uncertain=["head"]),
    _learner("bmaml", "Bayesian MAML, 5 particles", "BMAML", **STEP, **MANY),
    _learner("pretrained", "fine-tuned pre-training", "Pretrained", **TUNED),
)
PROBLEMS = _problems()
BENCH = Bench(
    "omniglot", "Few-shot characters", PROBLEMS, LEARNERS, PROBLEMS[:1], sheets, NOTES, repeats=1, trains=True
)
