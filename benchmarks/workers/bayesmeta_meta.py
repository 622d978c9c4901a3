"""One meta-gradient of MAML as training takes it: eager, recorded as one graph, or that graph compiled."""

from __future__ import annotations

import json

from benchmarks.workers.common import Clock, arguments, load, peak_mb


def main() -> None:
    args = arguments()
    clock = Clock(args.started)
    import torch

    import bayesmeta as bm
    from bayesmeta.meta.episodes import Episodes, Rows
    from bayesmeta.meta.flat import Flat
    from bayesmeta.meta.module import Functional
    from bayesmeta.meta.training.climb import RECORDED_FROM, Climb
    from bayesmeta.meta.training.feed import Part
    from benchmarks.workers.meta_gradient import RATE, awake, case, measured, network

    torch.set_num_threads(1)
    awake()
    clock.mark("import")
    imports, found = peak_mb(), case(load(args.data))
    way = json.loads(args.set)["way"]
    algorithm = bm.meta.MAML(
        inner_steps=found.steps,
        inner_learning_rate=RATE,
        steps=1 if way == "eager" else RECORDED_FROM,
        compile=way == "compiled" and not args.no_compile,
    )
    net = Functional(network())
    flat = Flat(net.weights)
    climb, u = Climb(algorithm, net, flat), flat.vector(net.weights).unsqueeze(0)
    support, query = (
        Rows(x, y, torch.ones(y.shape, dtype=torch.bool)) for x, y in ((found.xs, found.ys), (found.xq, found.yq))
    )
    part = Part(Episodes(support, query, torch.zeros(len(found.xs), 0)), torch.ones(len(found.xs)), 0)

    def compute() -> torch.Tensor:
        return -climb(u, part)[1][0]

    measured(compute, found, clock, ["bayesmeta", "torch"], import_mb=imports)
    wanted = {"eager": "eager", "recorded": "traced"}.get(way, "compiled" if algorithm.compile else "traced")
    if climb.mode != wanted:
        raise SystemExit(f"evaluated by the {climb.mode} graph; wanted {wanted}")


if __name__ == "__main__":
    main()
