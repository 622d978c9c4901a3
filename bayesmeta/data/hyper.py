"""Gaussian processes whose hyperparameters are each task's own: the exact posterior predictive, by quadrature.

    p(y | x) = ∫∫∫ N(y; 0, s² R(ℓ, p) + noise² I) p(ℓ) p(p) p(s) dℓ dp ds      (uniform densities)

The correlations R are decomposed once for each (ℓ, p), so that every scale s costs next to nothing. The period, or
without one the length scale, or without either the scale, is integrated adaptively; the others by Gauss-Legendre
rules in their logarithms. With the period it takes seconds for each task, because the evidence has many narrow peaks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bayesmeta.data.panels import Nodes, integrate, legendre
from bayesmeta.data.waves import joined
from bayesmeta.normals import Normals
from bayesmeta.tasks import Tasks
from bayesmeta.threads import one_thread

__all__ = ["HyperGaussian"]

Range = tuple[float, float]
Shape = Callable[[Tensor, Tensor, Tensor], Tensor]
ORDERS = {"length": {"scale": 64}, "period": {"length": 20, "scale": 32}, "scale": {}}
TOLERANCE = 1e-7
PANELS = {"period": 24, "length": 3, "scale": 3}
NEGLIGIBLE = -17.0
NUMBERS = 4_000_000


class HyperGaussian:
    """The posterior predictive of tasks with hyperparameters of their own."""

    def __init__(self, support: Tasks, shape: Shape, ranges: Mapping[str, Range], noise: float) -> None:
        self._support, self._shape, self._ranges, self._noise = support, shape, ranges, noise
        self._outer = next(name for name in PANELS if ranges[name][0] < ranges[name][1])
        self._rules = {name: self._rule(name, order) for name, order in ORDERS[self._outer].items()}
        found = self._integral(support)
        self.log_z, self.error = found.log_z, found.error
        self._nodes = [self._posterior(found, t) for t in range(len(support))]

    def mixture(self, task: int, x: Tensor) -> Normals:
        """The distribution of each observation at x (m,): a normal for each node."""
        log_weight, hyper = self._nodes[task]
        parts = [self._marginal(task, x, some) for some in hyper.split(self._at_once(task, x))]
        loc, scale = (torch.cat(column) for column in zip(*parts, strict=True))
        return Normals(loc, scale, log_weight)

    def log_prob(self, query: Tasks) -> Tensor:
        """Evidence of support and query together, less that of the support (T,)."""
        return self._integral(joined(self._support, query)).log_z - self.log_z

    def pointwise(self, query: Tasks, mixture: Callable[[int], Normals]) -> Tensor:
        """The log density of each query observation (N,)."""
        return torch.cat([mixture(t).log_prob(task.y) for t, task in enumerate(query)])

    def draws(self, task: int, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Joint draws (n, m)."""
        log_weight, hyper = self._nodes[task]
        pick = torch.multinomial(log_weight.exp(), n, replacement=True, generator=generator)
        noise = torch.randn(n, len(x), generator=generator, dtype=torch.float64)
        step, parts = self._at_once(task, x), []
        for some, z in zip(hyper[pick].split(step), noise.split(step), strict=True):
            mean, prior, cross = self._given(task, x, some)
            root = torch.linalg.cholesky(prior - cross.mT @ cross)
            parts.append(mean + (root @ z[..., None])[..., 0])
        return torch.cat(parts)

    def _at_once(self, task: int, x: Tensor) -> int:
        """How many nodes to look at together, so that memory stays bounded."""
        rows = self._support[task].n + len(x)
        return max(1, NUMBERS // (1 + rows * rows))

    def _marginal(self, task: int, x: Tensor, hyper: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations (K, m) at new inputs."""
        mean, prior, cross = self._given(task, x, hyper)
        return mean, (prior.diagonal(dim1=1, dim2=2) - cross.square().sum(1)).sqrt()

    def _given(self, task: int, at: Tensor, hyper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Under hyperparameters (K, 3): means (K, m), prior covariances (K, m, m) and their known part (K, n, m)."""
        x, y = self._support[task].x, self._support[task].y
        length, scale, period = hyper.T[..., None, None]

        def kernel(a: Tensor, b: Tensor) -> Tensor:
            covariance: Tensor = scale.square() * self._shape(a[:, None] - b, length, period)
            return covariance

        def noise(count: int) -> Tensor:
            return self._noise**2 * torch.eye(count, dtype=at.dtype)

        root = torch.linalg.cholesky(kernel(x, x) + noise(len(x)))
        cross = torch.linalg.solve_triangular(root, kernel(x, at), upper=False)
        rest = torch.linalg.solve_triangular(root, y[:, None].expand(len(hyper), -1, 1), upper=False)
        return (cross * rest).sum(1), kernel(at, at) + noise(len(at)), cross

    # -----------------------------------------------------------------------------------------------------

    def _rule(self, name: str, order: int) -> tuple[Tensor, Tensor]:
        """Nodes and log weights of the average over a hyperparameter."""
        low, high = self._ranges[name]
        if low == high:
            return torch.tensor([low], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        unit, weights = legendre(order)
        nodes = low * (high / low) ** unit
        return nodes, (weights * nodes * math.log(high / low) / (high - low)).log()

    def _integral(self, tasks: Tasks) -> Nodes:
        low, high = self._ranges[self._outer]
        edges = torch.linspace(low, high, PANELS[self._outer] + 1, dtype=torch.float64).expand(len(tasks), -1)
        x, y, missing = _padded(tasks)
        inner = math.prod(len(nodes) for nodes, _ in self._rules.values())

        def log_f(task: Tensor, at: Tensor) -> Tensor:
            step = max(1, NUMBERS // (at.shape[1] * x.shape[1] * (x.shape[1] + inner)))
            parts = []
            for k in range(0, len(task), step):
                some = task[k : k + step]
                terms = self._terms(x[some], y[some], missing[some], at[k : k + step])
                parts.append(torch.logsumexp(terms.flatten(2), 2))
            return torch.cat(parts) - math.log(high - low)

        with one_thread():
            return integrate(log_f, edges, TOLERANCE)

    def _terms(self, x: Tensor, y: Tensor, missing: Tensor, at: Tensor) -> Tensor:
        """Log evidence plus log weights of the inner rules, (K, P, lengths, scales), for outer nodes `at` (K, P)."""
        length, period, scale, log_weight = self._grids(at)
        distance = (x[:, :, None] - x[:, None, :])[:, None, None]
        present = (~missing).to(x.dtype)
        both = (present[:, :, None] * present[:, None, :])[:, None, None]
        values, vectors = torch.linalg.eigh(self._shape(distance, length[..., None], period[..., None]) * both)
        turned = (vectors.mT @ y[:, None, None, :, None])[..., 0].square()
        variance = scale[..., None] ** 2 * values.clamp(min=0)[..., None, :] + self._noise**2
        fit = (turned[..., None, :] / variance + variance.log()).sum(-1)
        count = present.sum(1)
        excess = missing.sum(1) * math.log(self._noise**2)
        constant = count * math.log(2 * math.pi) - excess
        terms: Tensor = log_weight - 0.5 * (fit + constant[:, None, None, None])
        return terms

    def _grids(self, at: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Length, period, scale and log weight of the inner nodes, as they broadcast to (K, P, lengths, scales)."""
        grids = {name: at.new_tensor(ends[0]).reshape(1, 1) for name, ends in self._ranges.items()}
        log_weight = at.new_zeros(1, 1)
        for name, (nodes, log_weights) in self._rules.items():
            along = (-1, 1) if name == "length" else (1, -1)
            grids[name] = nodes.reshape(along)
            log_weight = log_weight + log_weights.reshape(along)
        grids[self._outer] = at[:, :, None, None]
        return grids["length"], grids["period"], grids["scale"], log_weight

    def _posterior(self, found: Nodes, task: int) -> tuple[Tensor, Tensor]:
        """Log weights (K,) and (length, scale, period) (K, 3) of the nodes that count."""
        mine = found.task == task
        at = found.at[mine][None]
        x, y, missing = _padded(self._support[[task]])
        with one_thread():
            terms = self._terms(x, y, missing, at)
        share = terms - torch.logsumexp(terms, (2, 3), keepdim=True) + found.log_weight[mine][:, None, None]
        length, period, scale, _ = self._grids(at)
        share, *hyper = torch.broadcast_tensors(share, length, scale, period)
        kept = share > NEGLIGIBLE
        return share[kept] - torch.logsumexp(share[kept], 0), torch.stack([one[kept] for one in hyper], 1)


def _padded(tasks: Tasks) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and what is missing of them, (T, n) each."""
    most = max(1, int(tasks.sizes.max()))
    present = torch.arange(most) < tasks.sizes[:, None]
    x, y = (torch.zeros(len(tasks), most, dtype=torch.float64) for _ in range(2))
    x[present], y[present] = tasks.x, tasks.y
    return x, y, ~present
