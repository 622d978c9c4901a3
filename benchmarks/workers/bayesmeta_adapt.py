"""Adapting 1,000 new tasks of 5 observations under 1,000 draws of φ in one call: seconds and memory."""

from __future__ import annotations

import numpy as np

from benchmarks.workers.common import Clock, arguments, load, peak_mb, say

NEW_TASKS, OBSERVATIONS, QUERIES = 1_000, 5, 10


def main() -> None:
    args = arguments()
    clock = Clock(args.started)
    import torch

    import bayesmeta as bm
    from benchmarks.problems import linear_data
    from benchmarks.workers.bayesmeta_models import hierarchy, tasks

    data = load(args.data)
    clock.mark("import")
    nuts = bm.NUTS(chains=args.chains, draws=args.draws, tune=args.tune, compile=not args.no_compile)
    posterior = bm.fit(hierarchy("linear"), tasks(data), inference=nuts, seed=args.seed, progress=False)
    new = linear_data(NEW_TASKS, OBSERVATIONS, seed=21)
    shape = (NEW_TASKS, OBSERVATIONS)
    new_tasks = bm.Tasks.from_arrays(
        new.x.reshape(shape), new.y.reshape(shape), names=[f"new {i}" for i in range(NEW_TASKS)]
    )
    clock.mark("fit")
    before = peak_mb()
    adapted = posterior.adapt(new_tasks)
    _ = {name: draws.sum() for name, draws in adapted.theta.items()}
    clock.mark("adapt")
    after = peak_mb()
    k_hat = np.asarray(adapted.k_hat)
    predictive = adapted.predict(torch.linspace(-2.0, 2.0, QUERIES, dtype=torch.float64))
    _ = predictive.mean, predictive.interval(0.9)
    clock.mark("predict")
    say(
        clock,
        ["bayesmeta", "torch"],
        new_tasks=NEW_TASKS,
        observations=OBSERVATIONS,
        phi_draws=args.chains * args.draws,
        queries=QUERIES,
        k_hat_below_07=float((k_hat < 0.7).mean()),
        before_mb=round(before),
        adapt_mb=round(after - before),
    )


if __name__ == "__main__":
    main()
