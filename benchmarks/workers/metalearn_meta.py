"""One meta-gradient by parallel-metalearn: its `MAML` with a squared loss in the place of its classification loss.

Its step ends with the outer optimiser, which here is SGD with a rate of zero: a fraction of a percent of the time.
"""

from __future__ import annotations

from typing import Any

from benchmarks.workers.common import Clock, arguments, load, peak_mb


def main() -> None:
    args = arguments()
    clock = Clock(args.started)
    import torch
    from metalearn.algorithms import MAML
    from metalearn.inner_optimizers import InnerSGD
    from metalearn.loss.base import BaseLoss
    from metalearn.model_wrappers import MAML_Model
    from torch import Tensor, nn

    from benchmarks.workers.meta_gradient import RATE, awake, case, flat, measured, network, squared

    class Part(nn.Module):
        """A part of the network that takes the further arguments that theirs are called with."""

        def __init__(self, layers: nn.Module) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: Tensor, **_: Any) -> Any:
            return self.layers(x)

    class Squared(BaseLoss):  # type: ignore[misc]
        """The mean squared error, twice: their metric as well."""

        def forward(self, out_dict: Any, targets: Any, model_states: Any = None, **_: Any) -> tuple[Tensor, Tensor]:
            loss = squared(out_dict["logits"], targets["labels"])
            return loss, loss

    threads = sorted({1, torch.get_num_threads()})
    awake()
    clock.mark("import")
    imports, found, net = peak_mb(), case(load(args.data)), network()
    model = MAML_Model(backbone=Part(net[:-1]), head=Part(net[-1:]))
    inner = InnerSGD(model.get_fast_weights(), inner_lr=RATE, learn_lr=False)
    outer = torch.optim.SGD(model.parameters(), lr=0.0)
    device = torch.device("cpu")
    maml = MAML(
        model=model,
        optimizer=outer,
        inner_optimizer=inner,
        support_loss_fn=Squared(),
        inner_steps=found.steps,
        device=device,
    )
    batch = (found.xs, {"labels": found.ys}, found.xq, {"labels": found.yq})

    def compute() -> Tensor:
        outer.zero_grad()
        maml.step(iter([batch]))
        return flat(weight.grad for weight in net.parameters())

    measured(compute, found, clock, ["parallel-metalearn", "torch"], threads=threads, import_mb=imports)


if __name__ == "__main__":
    main()
