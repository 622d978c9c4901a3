"""µs per gradient of Pyro's own potential, eager, on the model that `pyro_nuts` samples."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from benchmarks.workers.common import Clock, arguments, load, say

BUDGET = 5.0


def microseconds(gradient: Callable[[], object]) -> float:
    """The median time of a call, over `BUDGET` seconds or 300 calls, after ten to warm up."""
    for _ in range(10):
        gradient()
    taken: list[float] = []
    while len(taken) < 300 and sum(taken) < BUDGET:
        start = time.perf_counter()
        gradient()
        taken.append(time.perf_counter() - start)
    return 1e6 * statistics.median(taken)


def main() -> None:
    args = arguments()
    clock = Clock(args.started)
    import pyro
    import torch
    from pyro.infer.mcmc.util import initialize_model
    from pyro.ops.integrator import potential_grad

    from benchmarks.workers.pyro_models import model

    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(args.seed)
    data = load(args.data)
    clock.mark("import")
    start, potential, _, _ = initialize_model(model(data, args.form))
    threads = {}
    for count in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(count)
        threads[str(count)] = round(microseconds(lambda: potential_grad(potential, start)), 1)
    clock.mark("sample")
    best = min(threads.values())
    say(clock, ["pyro-ppl", "torch"], us_per_gradient=best, us_by_threads=threads, form=args.form)


if __name__ == "__main__":
    main()
