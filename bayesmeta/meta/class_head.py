"""A Bayesian last layer for few-shot classes: prototypes that know how uncertain they are.

With features z = f(x) in D dimensions, K_c of them of class c in the support,

    class means   μ_c ~ N(m, b I),  m anywhere       features   z | c ~ N(μ_c, w I)
    of a new picture, z | c, support ~ t_ν(μ̂_c, (w + v_c) I)

    k_c = b / (b + w / K_c)                          how far a class is believed
    μ̂_c = k_c z̄_c + (1 - k_c) m̂                      its mean is drawn to the middle of the task's classes
    v_c = k_c w / K_c + (1 - k_c)² v_m               and is not known: by how much

m̂ and v_m are the mean and the variance of m given the support. Classes compare by the density of z, so that a
probability says how far apart classes are *and* how well they are known: from one picture of each a class is believed
less than from five, and the same learner is calibrated for both. A prototypical network has one temperature instead.
The tails of Student's t, ν degrees of freedom, allow for pictures that are unlike all of their class: what is left of
each new picture has a scale of its own. b, w and ν are learnt together with the network, by the probabilities of the
query.

The two variances are those of probabilistic linear discriminant analysis (Ioffe 2006, Probabilistic linear discriminant
analysis, ECCV), here of learnt features; the network is free to make them the same in all directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.episodes import Rows
from bayesmeta.meta.losses import Loss
from bayesmeta.meta.module import Functional, Weights
from bayesmeta.meta.proto_net import by_classes, features_of, membership, ways_at, ways_in
from bayesmeta.tasks import Tasks

__all__ = ["ClassHead", "ClassMeans", "class_means", "log_shares"]

MEANS, VARIANCES = "class means", "class variances"
BETWEEN, WITHIN, TAILS = "variance between classes", "variance within classes", "tails"
BEGIN = {BETWEEN: 1.0, WITHIN: 1.0, TAILS: 20.0}
TINY = 1e-6
PACE = 20.0  # how much faster than weights of the network the logarithms of these three are learnt


class ClassMeans(NamedTuple):
    """What is known of the classes of a task: their means (N, D), and the variance of a new feature about each (N,)."""

    means: Tensor
    variances: Tensor


@dataclass(frozen=True)
class ClassHead(Algorithm):
    """Settings of the Bayesian last layer for classes: those of every algorithm, and one more.

    The network gives features (n, D), such as `Conv4` without `ways`. Settings of inner steps have no effect. New tasks
    may have other numbers of classes and of shots than those of training, and more shots of one class than of another.

    Args:
        ways: Classes of a task; found from the tasks by default.

    Example:
        >>> import bayesmeta as bm
        >>> net = bm.meta.Conv4(1, size=8, filters=8, norm="group")
        >>> x = torch.rand(2, 12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> tasks = bm.Tasks.from_arrays(x, torch.arange(3.0).repeat(2, 4))
        >>> learner = bm.meta.fit(net, tasks, ClassHead(shots=2, steps=3), progress=False)
        >>> learner.adapt(tasks).predict(x[0, :5]).probabilities.shape
        torch.Size([2, 5, 3])
    """

    loss: str | Loss = "cross_entropy"
    shots: int = 1
    by_class: bool = True
    inner_steps: int = 0
    ways: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        by_classes(self, self.ways)

    def begin(self, net: Functional) -> Weights:
        """The module's own weights, and the logarithms of b, w and ν, each ()."""
        own = {name: torch.tensor(math.log(value) / PACE, dtype=net.dtype) for name, value in BEGIN.items()}
        return dict(net.weights) | own

    def for_tasks(self, tasks: Tasks) -> ClassHead:
        """The algorithm for tasks of as many classes as these."""
        return replace(self, ways=ways_in(tasks, self.ways))

    def common(self, net: Functional) -> tuple[str, ...]:
        """All that is learnt of the population: a task has means and variances of its classes alone."""
        return (*net.weights, *BEGIN)

    def adapted(self, net: Functional, meta: Weights, support: Rows, steps: int) -> Weights:
        """What is learnt of the population as it is, and what is known of one task's classes."""
        between, within = ((PACE * meta[name]).exp() for name in (BETWEEN, WITHIN))
        member = membership(support, ways_at(support, self.ways, self.shots), net.dtype)
        found = class_means(features_of(net, meta, support.x), member, between, within)
        return meta | {MEANS: found.means, VARIANCES: found.variances}

    def forward(self, net: Functional, weights: Weights, x: Tensor) -> Tensor:
        """Log probabilities of the classes for rows x (n, ...): (n, ways)."""
        known = ClassMeans(weights[MEANS], weights[VARIANCES])
        return log_shares(features_of(net, weights, x), known, (PACE * weights[TAILS]).exp())


def class_means(features: Tensor, member: Tensor, between: Tensor, within: Tensor) -> ClassMeans:
    """What is known of classes from some features of each.

    Args:
        features: Of the support (n, D).
        member: Which class each is of, as a row of zeros with a single one (n, N); padding is all zeros.
        between: b, the variance of class means, ().
        within: w, the variance of features about them, ().
    """
    count = member.sum(0)
    own = member.T @ features / count.clamp(min=1).unsqueeze(1)
    weight = count / (between * count + within)  # 1 / (b + w / K), nought for a class that was not seen
    total = weight.sum().clamp(min=TINY)
    middle = weight @ own / total
    belief = between * weight
    variance = within * between / (between * count + within) + (1 - belief).square() / total
    return ClassMeans(belief.unsqueeze(1) * own + (1 - belief).unsqueeze(1) * middle, within + variance)


def log_shares(features: Tensor, known: ClassMeans, tails: Tensor) -> Tensor:
    """Log probabilities (m, N) of the classes of features (m, D), all as likely beforehand.

    Args:
        features: Of new pictures.
        known: What is known of the classes.
        tails: ν, degrees of freedom, ().
    """
    size = features.shape[1]
    away = (features.unsqueeze(1) - known.means).square().sum(2) / known.variances
    density = -0.5 * (tails + size) * torch.log1p(away / tails) - 0.5 * size * known.variances.log()
    return torch.log_softmax(density, 1)
