"""Train a learner on an environment, adapt to few observations of unseen tasks, and score it beside the optimum."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.workers.common import Clock, arguments, load, say

OPTIMAL = "optimal"
LEVEL, DRAWS = 0.95, 20
METRICS = ("nll", "nll_joint", "crps", "rmse", "coverage", "width", "ece")


class Light:
    """A prediction whose CRPS and ranks are taken by draws: for the paired differences they are not needed."""

    def __init__(self, predictive: Any) -> None:
        self.names, self.mean = predictive.names, predictive.mean
        self.quantile, self.sample, self.log_prob = predictive.quantile, predictive.sample, predictive.log_prob


def main() -> None:
    args = arguments()
    clock = Clock(args.started)
    import bayesmeta as bm
    from benchmarks.learners import ENVIRONMENTS, LEARNERS, fitted

    warnings.simplefilter("ignore", bm.BayesmetaWarning)
    name, learner = str(load(args.data).kind), json.loads(args.set)["learner"]
    setting, env = ENVIRONMENTS[name], ENVIRONMENTS[name].make()
    clock.mark("import")
    posterior, count = None, 3 if args.no_compile else args.draws
    if learner != OPTIMAL:
        posterior = fitted(name, learner, members=args.chains, steps=args.tune, seed=args.seed)
    clock.mark("train")
    scores: dict[str, Any] = {}
    for inputs in setting.ranges:
        for shots in setting.shots:
            support, query = setting.test(count, shots, inputs)
            kept = args.data.with_name(f"{name}-{inputs}-{shots}-{count}.csv")
            if posterior is None:
                best = bm.score(env.optimal(support, query), query, level=LEVEL, draws=DRAWS)
                best.per_task.to_csv(kept)
                scores[f"{inputs} {shots}"] = _plain(best)
                continue
            started = time.perf_counter()
            adapted = posterior.adapt(support, draws=LEARNERS[name, learner].draws)
            seconds = time.perf_counter() - started
            found = bm.score(adapted.predict(query), query, level=LEVEL, draws=DRAWS)
            best = _best(kept, env, support, query)
            beside = {"adapt_ms": 1000 * seconds / len(support), "method": adapted.method, **_beside(found, best)}
            scores[f"{inputs} {shots}"] = _plain(found) | beside
    clock.mark("judge")
    road = "exact by quadrature" if posterior is None else posterior.info.road
    numbers = 0 if posterior is None else posterior.phi_coordinates.shape[1]
    say(clock, ["bayesmeta", "torch"], scores=scores, road=road, numbers=numbers)


def _best(kept: Path, env: Any, support: Any, query: Any) -> Any:
    """The score of the optimum: as another worker left it on the way, or made and left for the next."""
    import pandas as pd
    import torch

    import bayesmeta as bm

    if not kept.exists():
        made = bm.score(Light(env.optimal(support, query)), query, level=LEVEL, draws=DRAWS)
        made.per_task.to_csv(kept)
        return made
    nan = float("nan")
    frame = pd.read_csv(kept, index_col=0)
    return bm.Score(frame.set_axis(frame.index.astype(str)), torch.zeros(0), nan, nan, nan, LEVEL)


def _plain(score: Any) -> dict[str, Any]:
    """Each metric with its standard error, and the floor of the calibration error."""
    table = score.table
    found = {metric: [table["value"][metric], table["standard_error"][metric]] for metric in METRICS}
    return found | {"ece_floor": score.ece_floor}


def _beside(score: Any, best: Any) -> dict[str, Any]:
    """The mean squared error in units of the optimum's, and how many nats are missing, with standard errors."""
    gap = score.minus(best)
    least = best["rmse"] ** 2
    missing = {f"{name}_gap": [gap["difference"][name], gap["standard_error"][name]] for name in ("nll", "nll_joint")}
    ratio = [1 + gap["difference"]["mse"] / least, gap["standard_error"]["mse"] / least]
    return missing | {"ratio": ratio}


if __name__ == "__main__":
    main()
