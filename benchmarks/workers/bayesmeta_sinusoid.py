"""Train a learner on sines without noise by MAML's protocol, adapt to few points of unseen sines, and score it."""

from __future__ import annotations

import json
import math
import time
import warnings
from dataclasses import replace
from typing import Any

from benchmarks.workers.common import Clock, arguments, load, say

BATCH, QUICK = 25, 30
SHOTS, QUERY, TEST = (5, 10, 20), 100, 2
METRICS = ("nll", "rmse", "coverage", "ece")


def main() -> None:
    args = arguments()
    clock = Clock(args.started)
    import torch

    import bayesmeta as bm

    warnings.simplefilter("ignore", bm.BayesmetaWarning)
    torch.manual_seed(args.seed)
    shots, settings = int(str(load(args.data).kind).rpartition("-")[2]), json.loads(args.set)
    clock.mark("import")
    learner, facts = _learnt(settings, shots, args.tune, compiled=not args.no_compile, seed=args.seed)
    clock.mark("train")
    count = 10 if args.no_compile else args.draws
    scores = {str(seen): _scored(learner, count, seen, settings.get("adapt_draws")) for seen in SHOTS}
    clock.mark("judge")
    say(clock, ["bayesmeta", "torch"], scores=scores, **facts)


def _learnt(settings: dict[str, Any], shots: int, steps: int, *, compiled: bool, seed: int) -> tuple[Any, Any]:
    """A learner by its name in `bm.meta`, or the Bayesian last layer, and facts about it."""
    from torch import nn

    import bayesmeta as bm

    env = bm.data.MAMLSines()
    stream = bm.Stream(lambda seed: env.tasks(BATCH, shots=2 * shots, seed=seed))
    name, options = settings["learner"], settings.get("options", {})
    if name == "last-layer":
        body = [nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh()]
        tasks = bm.Stream(lambda seed: env.tasks(BATCH, shots=(5, 15), seed=seed))
        hierarchy = bm.families.last_layer(nn.Sequential(*body), scale=3.0)
        posterior = bm.fit(hierarchy, tasks, bm.Ensemble(members=2, steps=steps, batch_size=BATCH), progress=False)
        return posterior, {"steps": steps, "numbers": posterior.phi_coordinates.shape[1]}
    kind = getattr(bm.meta, name)
    algorithm = replace(kind(shots=shots, batch_size=BATCH, steps=steps), compile=compiled, **options)
    inputs = 1 + (algorithm.size if name == "CAVIA" else 0)
    net = nn.Sequential(nn.Linear(inputs, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    learner = bm.meta.fit(net, stream, algorithm, seed=seed, progress=False)
    return learner, {"steps": learner.steps, "numbers": sum(value.numel() for value in learner.weights.values())}


def _scored(learner: Any, count: int, shots: int, draws: int | None) -> dict[str, Any]:
    """The score on unseen sines: the mean squared error with its standard error over tasks, and more."""
    import bayesmeta as bm

    support, query = bm.data.MAMLSines().tasks(count, shots, query=QUERY, seed=TEST)
    started = time.perf_counter()
    adapted = learner.adapt(support, **({} if draws is None else {"draws": draws}))
    seconds = time.perf_counter() - started
    score = bm.score(adapted.predict(query), query, level=0.95, draws=20)
    errors = score.per_task["mse"]
    found = {name: float(score[name]) for name in METRICS}
    mse = [float(errors.mean()), float(errors.std() / math.sqrt(len(errors))), float(errors.median())]
    return found | {"mse": mse, "ece_floor": score.ece_floor, "adapt_ms": 1000 * seconds / count}


if __name__ == "__main__":
    main()
