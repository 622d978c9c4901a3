"""One meta-gradient by `higher`: a loop over tasks, as its own example of MAML has it."""

from __future__ import annotations

from benchmarks.workers.common import Clock, arguments, load, peak_mb


def main() -> None:
    args = arguments()
    clock = Clock(args.started)
    import higher
    import torch

    from benchmarks.workers.meta_gradient import RATE, awake, case, gradient_of, measured, network, squared

    threads = sorted({1, torch.get_num_threads()})
    awake()
    clock.mark("import")
    imports, found, net = peak_mb(), case(load(args.data)), network()
    inner = torch.optim.SGD(net.parameters(), lr=RATE)

    def compute() -> torch.Tensor:
        net.zero_grad()
        for xs, ys, xq, yq in zip(found.xs, found.ys, found.xq, found.yq, strict=True):
            with higher.innerloop_ctx(net, inner, copy_initial_weights=False) as (fast, optimiser):
                for _ in range(found.steps):
                    optimiser.step(squared(fast(xs), ys))
                (squared(fast(xq), yq) / len(found.xs)).backward()
        return gradient_of(net)

    measured(compute, found, clock, ["higher", "torch"], threads=threads, import_mb=imports)


if __name__ == "__main__":
    main()
