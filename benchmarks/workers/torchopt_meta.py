"""One meta-gradient by TorchOpt: a loop with its `MetaSGD`, or its functional `sgd` under `torch.func.vmap`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.workers.common import Clock, arguments, load, peak_mb

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.workers.meta_gradient import Case


def main() -> None:
    args = arguments()
    clock = Clock(args.started)
    import torch
    import torchopt  # noqa: F401

    from benchmarks.workers.meta_gradient import awake, case, measured

    threads = sorted({1, torch.get_num_threads()})
    awake()
    clock.mark("import")
    imports, found = peak_mb(), case(load(args.data))
    way = json.loads(args.set)["way"]
    compute = _loop(found) if way == "loop" else _vmap(found)
    measured(compute, found, clock, ["torchopt", "torch"], threads=threads, import_mb=imports)


def _loop(found: Case) -> Callable[[], Tensor]:
    import torchopt

    from benchmarks.workers.meta_gradient import RATE, gradient_of, network, squared

    net = network()

    def compute() -> Tensor:
        net.zero_grad()
        inner = torchopt.MetaSGD(net, lr=RATE)
        begin = torchopt.extract_state_dict(net, by="reference")
        start = torchopt.extract_state_dict(inner, by="reference")
        for xs, ys, xq, yq in zip(found.xs, found.ys, found.xq, found.yq, strict=True):
            for _ in range(found.steps):
                inner.step(squared(net(xs), ys))
            (squared(net(xq), yq) / len(found.xs)).backward()
            torchopt.recover_state_dict(net, begin)
            torchopt.recover_state_dict(inner, start)
        return gradient_of(net)

    return compute


def _vmap(found: Case) -> Callable[[], Tensor]:
    import torch
    import torchopt

    from benchmarks.workers.meta_gradient import RATE, flat, network, squared

    net = network()
    weights = {name: weight.detach() for name, weight in net.named_parameters()}
    inner = torchopt.sgd(lr=RATE)

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return squared(torch.func.functional_call(net, weights, (x,)), y)

    def one(weights: dict[str, Tensor], xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
        state = inner.init(weights)
        for _ in range(found.steps):
            slope = torch.func.grad(loss)(weights, xs, ys)
            updates, state = inner.update(slope, state, inplace=False)
            weights = torchopt.apply_updates(weights, updates, inplace=False)
        return loss(weights, xq, yq)

    def total(weights: dict[str, Tensor]) -> Tensor:
        rows = (found.xs, found.ys, found.xq, found.yq)
        return torch.func.vmap(one, in_dims=(None, 0, 0, 0, 0))(weights, *rows).mean()

    def compute() -> Tensor:
        return flat(torch.func.grad(total)(weights).values())

    return compute


if __name__ == "__main__":
    main()
