"""Train a learner on Omniglot's background characters for a given time, and judge it on unseen characters."""

from __future__ import annotations

import json
import time
import warnings
from dataclasses import replace
from typing import Any

from benchmarks.workers.common import Clock, arguments, load, say

QUERY, TEST, AT_ONCE = 15, 2, 25
TRIAL, PILOT = 12, 0.05  # steps of a short run; part of the time for a longer one, which says how long a step takes
TRAINED_ON = {5: 5, 20: 2}  # query images of each class in training, by the number of classes
JUDGED_BY = {5: 1, 20: 3}  # one task of so many: those of 20 classes have four times the images
METRICS = ("accuracy", "nll", "brier", "ece")
FEATURES = ("ProtoNet", "ProtoMAML", "ClassHead")  # learners whose network gives features


def main() -> None:
    args = arguments()
    clock = Clock(args.started)
    import bayesmeta as bm

    warnings.simplefilter("ignore", bm.BayesmetaWarning)
    ways, shots = map(int, str(load(args.data).kind).split("-")[1:])
    seconds, episodes = (3.0, 4) if args.no_compile else (float(args.tune), args.draws)
    clock.mark("import")
    settings = json.loads(args.set)
    learner = _learnt(settings, ways, shots, seconds, args.seed)
    clock.mark("train")
    score, adapting = _scored(learner, max(1, episodes // JUDGED_BY[ways]), ways, shots)
    clock.mark("judge")
    table = score.table
    scores = {name: [float(table["value"][name]), float(table["standard_error"][name])] for name in METRICS}
    numbers = sum(value.numel() for value in learner.weights.values())
    facts = {"steps": learner.steps, "tasks": learner.steps * learner.algorithm.batch_size, "numbers": numbers}
    say(clock, ["bayesmeta", "torch"], scores=scores, ece_floor=score.ece_floor, adapt_ms=adapting, **facts)


def _learnt(settings: dict[str, Any], ways: int, shots: int, seconds: float, seed: int) -> Any:
    """The learner of that name in `bm.meta`, after as many steps as fit into the time by the speed of a shorter run."""
    import bayesmeta as bm

    name, options = settings["learner"], {**settings["options"]}
    many = options.pop("20", {})
    images = bm.data.omniglot(split="background").with_rotations()
    kind, net = getattr(bm.meta, name), settings["net"]
    given = {"by_class": True, "shots": shots} | options | (many if ways == 20 else {})
    algorithm = kind(loss="cross_entropy", **{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
    outputs = None if name in FEATURES else ways
    if name == "Pretrained":  # whose tasks number all classes alike, and adapt to others
        outputs, stream = images.n_classes, bm.meta.labelled(images)
        algorithm = replace(algorithm, batch_size=1)
    else:
        stream = images.stream(ways, shots, TRAINED_ON[ways], batch=algorithm.batch_size)
    conv = bm.meta.Conv4(1, outputs, seed=seed, **net)
    steps = TRIAL
    for part in (PILOT, 1.0):
        trial = bm.meta.fit(conv, stream, replace(algorithm, steps=steps), seed=seed, progress=False)
        steps = max(2, int(part * seconds * trial.steps / trial.seconds))
    return bm.meta.fit(conv, stream, replace(algorithm, steps=steps), seed=seed, progress=False)


def _scored(learner: Any, count: int, ways: int, shots: int) -> tuple[Any, float]:
    """The score over tasks of unseen characters, and the milliseconds that adapting to one took."""
    import torch

    import bayesmeta as bm

    images = bm.data.omniglot(split="evaluation")
    probabilities, labels, taken = [], [], 0.0
    for begin in range(0, count, AT_ONCE):
        size = min(AT_ONCE, count - begin)
        support, query = images.tasks(size, ways=ways, shots=shots, query=QUERY, seed=1000 * TEST + begin)
        started = time.perf_counter()
        adapted = learner.adapt(support)
        taken += time.perf_counter() - started
        probabilities.append(adapted.predict(query).probabilities)
        labels.append(query.y.reshape(size, -1))
    return bm.score(torch.cat(probabilities), torch.cat(labels)), 1000 * taken / count


if __name__ == "__main__":
    main()
