"""Baselines: what learning to adapt has to beat. One network for all tasks, one fine-tuned, one from scratch.

    Pooled        one network trained on the observations of all tasks alike; a new task changes nothing
    Pretrained    the same, then gradient steps on the support of a new task: fine-tuned pre-training
    FromScratch   no other tasks: gradient steps on the support from the weights that the module was given with

They are settings like those of `MAML` and its kin, so that they are trained, adapted and compared like them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bayesmeta.data.images import Images
from bayesmeta.errors import OptionError
from bayesmeta.infer.options import check_whole
from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.episodes import Episodes, Rows
from bayesmeta.meta.module import Functional, Weights
from bayesmeta.meta.training.inner import descend
from bayesmeta.streams import Stream
from bayesmeta.tasks import Tasks

__all__ = ["FromScratch", "Pooled", "Pretrained", "labelled"]


@dataclass(frozen=True)
class Pooled(Algorithm):
    """Settings of one network for all tasks: those of every algorithm, of which the inner ones have no effect.

    Where tasks number their classes each in its own way, as N-way K-shot ones do, nothing can be learnt so.
    """

    def adapted(self, net: Functional, meta: Weights, support: Rows, steps: int) -> Weights:
        """The weights as they are."""
        return meta

    def objective(self, net: Functional, meta: Weights, episode: Episodes) -> Tensor:
        """The mean loss of all rows of one task, support and query alike, ()."""
        return self.risk(net, meta, _together(episode))


@dataclass(frozen=True)
class Pretrained(Algorithm):
    """Settings of fine-tuned pre-training: those of every algorithm, and some more.

    Training sees the rows of all tasks alike; a new task takes gradient steps from there.

    Args:
        new_head: Whether a new task starts with a last layer at zero that has an output for each of its classes,
            because they are others than those of training. The network then has an output for each class of training,
            which has the same number in all tasks (`labelled` makes such): the "Baseline" of Chen, Liu, Kira, Wang and
            Huang (2019), A closer look at few-shot classification, ICLR. By default the last layer is kept, for
            regression and for classes that all tasks share.
        frozen: Whether the last layer alone adapts to a new task.
        ways: Classes of a new task; found from the tasks.
    """

    inner_steps: int = 50
    new_head: bool = False
    frozen: bool = False
    ways: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.new_head and self.loss == "mse":
            raise OptionError("new_head=True is for classes: it wants loss='cross_entropy', got loss='mse'")

    def for_tasks(self, tasks: Tasks) -> Pretrained:
        """The algorithm for tasks of as many classes as these."""
        if not self.new_head or self.ways is not None or not len(tasks.y):
            return self
        return replace(self, ways=1 + int(tasks.y.max()))

    def adapted(self, net: Functional, meta: Weights, support: Rows, steps: int) -> Weights:
        """The weights of one task after so many steps on its support."""
        start = dict(meta)
        if self.new_head:
            for name in net.head():
                start[name] = meta[name].new_zeros(self.ways or len(meta[name]), *meta[name].shape[1:])
        moving = net.head() if self.frozen else tuple(start)

        def risk(fast: Weights) -> Tensor:
            return self.risk(net, start | fast, support)

        return start | descend(risk, {name: start[name] for name in moving}, self.inner_learning_rate, steps)

    def objective(self, net: Functional, meta: Weights, episode: Episodes) -> Tensor:
        """The mean loss of all rows of one task before any step, support and query alike, ()."""
        return self.risk(net, meta, _together(episode))


@dataclass(frozen=True)
class FromScratch(Algorithm):
    """Settings of learning each task on its own: those of every algorithm.

    Nothing is learnt from the tasks of training but how large errors are, which is what predictions have as their
    standard deviation: a few `steps` look at as many batches.
    """

    inner_steps: int = 100
    steps: int = 20

    def value_and_grad(
        self, net: Functional, meta: Weights, episodes: Episodes, weight: Tensor
    ) -> tuple[Tensor, Weights]:
        """The query loss after adaptation, and nowhere to go."""
        each = torch.func.vmap(lambda *episode: self.objective(net, meta, Episodes(*episode)))(*episodes)
        return (weight * each).mean(), {name: torch.zeros_like(value) for name, value in meta.items()}


def _together(episode: Episodes) -> Rows:
    """Support and query of one task as one set of rows."""
    return Rows(*(torch.cat(parts) for parts in zip(episode.support, episode.query, strict=True)))


def labelled(images: Images, size: int = 128) -> Stream:
    """Batches of images at random with the number of their class among all, for pre-training without end.

    Args:
        images: The image set, of `n_classes` classes.
        size: Images of a batch, which is one task.

    Example:
        >>> import numpy as np
        >>> images = Images.from_arrays(np.zeros((40, 8, 8)), [k % 10 for k in range(40)])
        >>> batch = labelled(images, 16).batch(0)
        >>> len(batch), batch.x.shape, bool(batch.y.max() < images.n_classes)
        (1, torch.Size([16, 1, 8, 8]), True)
    """
    check_whole("size", size, 2)
    order = torch.argsort(images.label, stable=True)
    count = torch.bincount(images.label)
    begin = count.cumsum(0) - count

    def batch(seed: int) -> Tasks:
        generator = torch.Generator().manual_seed(seed)
        which = torch.randint(images.n_classes, (size,), generator=generator)
        label = images.origin[which]
        place = (torch.rand(size, generator=generator) * count[label]).long()
        x = images.pixels[order[begin[label] + place]].double() / images.top
        turned = [torch.rot90(one, int(turn), (-2, -1)) for one, turn in zip(x, images.turns[which], strict=True)]
        return Tasks.from_arrays(torch.stack(turned).unsqueeze(0), which.double().unsqueeze(0))

    return Stream(batch)
