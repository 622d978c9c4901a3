"""LLAMA: MAML whose tasks have a posterior, the Laplace approximation about the adapted weights.

    p(w | task) ≈ N(ŵ, H⁻¹),   ŵ = w⁰ after some gradient steps,   H = τ I + Gauss-Newton of the support
    min of  E_t [ -log p(query | ŵ) - η { log N(ŵ; w⁰, 1/τ) - ½ log det(H / 2π) } ]

What is behind η is the part of Laplace's evidence that MAML leaves out: how far a task had to go, and how little of the
prior its observations leave. τ, the precision of the weights from task to task, and the noise are learnt along with the
initialisation. That objective takes the noise to be as large as the error of ŵ, and what the posterior adds comes on
top; so by default the density of the query under the whole posterior stands in its place.

A new task predicts with draws of its posterior, of the network linearised about ŵ, for which that posterior is meant
(Immer, Korzepa and Bauer 2021, Improving predictions of Bayesian neural nets via local linearization, AISTATS).

Grant, Finn, Levine, Darrell and Griffiths (2018), Recasting gradient-based meta-learning as hierarchical Bayes, ICLR,
who take K-FAC for H; with the few rows of a task its Gauss-Newton form is had without that approximation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bayesmeta.errors import OptionError, unknown
from bayesmeta.meta.distribution.bayesian import HALF_LOG_2PI, LOG_NOISE, Bayesian, check_positive
from bayesmeta.meta.distribution.curvature import Laplace, log_probabilities, root_of_curvature
from bayesmeta.meta.episodes import Episodes, Rows
from bayesmeta.meta.flat import Flat
from bayesmeta.meta.losses import cross_entropy, masked_mean
from bayesmeta.meta.module import Functional, Weights
from bayesmeta.meta.training.inner import descend

__all__ = ["LLAMA"]

LOG_PRECISION = "log precision of the weights"
SHIFT = "shift of "
GOALS = ("predictive", "evidence")
MOST = 10_000  # weights that all have a posterior, unless it is asked for


@dataclass(frozen=True)
class LLAMA(Bayesian):
    """Settings of LLAMA: those of Bayesian ones, and more. The loss is ``"mse"`` or ``"cross_entropy"``.

    Args:
        prior_sd: 1/√τ, how much weights differ from task to task, to begin with; it is learnt.
        goal: ``"predictive"``: the density that the whole posterior gives each row of the query, which asks of τ and
            the noise what predictions need; or ``"evidence"``: the paper's meta-objective, above.
        occam: η, for the evidence.
        uncertain: What the names of the weights begin with that have a posterior. The others adapt too, but count as
            known. By default all, and of a network of more than 10,000 weights those of the last layer: the posterior
            of all takes memory in proportion to weights times outputs times rows.
        diagonal: Take the diagonal of the curvature alone: for supports of some hundred rows times outputs.
        linearised: Predict with the network linearised about ŵ, or else with the network itself.
        prior_in_steps: The steps go down the posterior, that is the support's loss and τ/2 |w - w⁰|², and not the loss
            alone: with many of them ŵ is its mode.
        first_order: Leave out the second derivatives of the inner steps.
    """

    prior_sd: float = 0.1
    goal: Literal["predictive", "evidence"] = "predictive"
    occam: float = 1.0
    uncertain: tuple[str, ...] = ()
    diagonal: bool = False
    linearised: bool = True
    prior_in_steps: bool = False
    first_order: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("prior_sd", self.prior_sd)
        if self.loss not in ("mse", "cross_entropy"):
            raise OptionError(f"loss must be 'mse' or 'cross_entropy', whose curvature is known; got {self.loss!r}")
        if self.goal not in GOALS:
            raise OptionError(unknown("goal", self.goal, GOALS))
        if not isinstance(self.occam, int | float) or not 0 <= self.occam < math.inf:
            raise OptionError(f"occam must be a number of at least 0, got {self.occam!r}")

    def begin(self, net: Functional) -> Weights:
        """The module's own weights, log τ, and the logarithm of the noise."""
        self._names(net)
        return super().begin(net) | {LOG_PRECISION: torch.tensor(-2 * math.log(self.prior_sd), dtype=net.dtype)}

    def randoms(self, net: Functional) -> int:
        """Those of the draws."""
        return self.draws * sum(net.weights[name].numel() for name in self._names(net))

    def forward(self, net: Functional, weights: Weights, x: Tensor) -> Tensor:
        """The network at x (n, ...), and where there are shifts what they add to it, linearly."""
        plain = {name: weights[name] for name in net.weights}
        shift = {name: weights[SHIFT + name] for name in net.weights if SHIFT + name in weights}
        if not shift:
            return net(plain, x)
        at = {name: plain[name].clone() for name in shift}  # an expanded one cannot carry a tangent
        parts = torch.func.jvp(lambda some: net(plain | some, x), (at,), (shift,))
        moved: Tensor = parts[0] + parts[1]
        return moved

    def adapted(self, net: Functional, meta: Weights, support: Rows, steps: int) -> Weights:
        """ŵ of one task: its weights after so many steps."""
        start = {name: meta[name] for name in net.weights}
        pull = 0.5 * self.share(meta, support) * meta[LOG_PRECISION].exp()

        def loss(weights: Weights) -> Tensor:
            risk = self.risk(net, weights, support)
            return risk + pull * self._distance(net, weights, start) if self.prior_in_steps else risk

        return descend(loss, start, self.inner_learning_rate, steps, first_order=self.first_order)

    def posterior(self, net: Functional, meta: Weights, mode: Weights, support: Rows) -> Laplace:
        """What is known of one task's weights about `mode`, in the order of their names."""
        noise = meta[LOG_NOISE].exp() if self.loss == "mse" else None
        at, out = self._outputs(net, mode, support.x)
        return Laplace.of(root_of_curvature(out, at, support.mask, noise), meta[LOG_PRECISION], self.diagonal)

    def members(self, net: Functional, meta: Weights, support: Rows, steps: int, noise: Tensor) -> Weights:
        """Draws of one task's posterior (M, ...): ŵ with shifts beside it, or moved by them."""
        mode, flat = self.adapted(net, meta, support, steps), self._flat(net)
        drawn = self.posterior(net, meta, mode, support).sample(noise.reshape(self.draws, -1))
        shifts: Weights = torch.func.vmap(flat.named)(drawn)
        common = {name: value.unsqueeze(0) for name, value in mode.items()}
        if self.linearised:
            return common | {SHIFT + name: value for name, value in shifts.items()}
        return common | {name: common[name] + value for name, value in shifts.items()}

    def objective(self, net: Functional, meta: Weights, episode: Episodes) -> Tensor:
        """What one task adds, in nats per row of its query, ()."""
        mode = self.adapted(net, meta, episode.support, self.inner_steps)
        laplace = self.posterior(net, meta, mode, episode.support)
        if self.goal == "predictive":
            return self._predictive_surprise(net, meta, mode, laplace, episode.query)
        away = meta[LOG_PRECISION].exp() * self._distance(net, mode, meta)
        left_out = 0.5 * (away + laplace.log_det_ratio()) / episode.query.mask.sum().clamp(min=1)
        return self.surprise(net, meta, mode, episode.query) + self.occam * left_out

    def _predictive_surprise(
        self, net: Functional, meta: Weights, mode: Weights, laplace: Laplace, query: Rows
    ) -> Tensor:
        """-log of the density of each row under the whole posterior of the linearised network, their mean, ()."""
        at, out = self._outputs(net, mode, query.x)
        mean, slopes = out(at), torch.func.jacrev(out)(at)
        variance = laplace.variance(slopes.flatten(0, 1)).reshape(mean.shape)
        if self.loss == "cross_entropy":
            return masked_mean(cross_entropy(log_probabilities(mean, variance), query.y), query.mask)
        whole = variance + (2 * meta[LOG_NOISE]).exp()
        away = query.y.reshape(mean.shape) - mean
        return masked_mean((0.5 * away.square() / whole + 0.5 * whole.log() + HALF_LOG_2PI).sum(1), query.mask)

    def _outputs(self, net: Functional, weights: Weights, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The uncertain weights (p,), and what the network says of rows x by them, (n, c)."""
        flat = self._flat(net)

        def out(some: Tensor) -> Tensor:
            return net(weights | flat.named(some), x).reshape(len(x), -1)

        return flat.vector(weights), out

    def _names(self, net: Functional) -> tuple[str, ...]:
        if self.uncertain:
            return net.named(self.uncertain)
        return net.head() if sum(weight.numel() for weight in net.weights.values()) > MOST else tuple(net.weights)

    def _flat(self, net: Functional) -> Flat:
        return Flat({name: net.weights[name] for name in self._names(net)})

    def _distance(self, net: Functional, weights: Weights, start: Weights) -> Tensor:
        """|w - w⁰|² of the uncertain weights, ()."""
        return torch.stack([(weights[name] - start[name]).square().sum() for name in self._names(net)]).sum()
