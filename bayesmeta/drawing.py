"""Drawing from distributions in operations that `torch.func.vmap` gives fresh randomness per draw and task.

torch's own samplers often fill tensors in place or take one path for all draws, which vmap refuses. A draw is
made from normal, uniform, gamma and Poisson numbers instead: by the inverse distribution function where there is
one, else by how the family is made of these. Any other family is asked for its own `sample`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Gamma, TransformedDistribution

__all__ = ["draw"]


def draw(fn: Any) -> Tensor:
    """A draw from a distribution, of its batch and event shape."""
    while type(fn).__name__ == "Independent":
        fn = fn.base_dist
    by_name = _FAMILIES.get(type(fn).__name__)
    if by_name is not None:
        return by_name(fn)
    if isinstance(fn, Gamma):  # and Chi2, which is one
        return _gamma(fn.concentration, fn.rate, _shape(fn))
    try:
        value: Tensor = fn.icdf(_uniform(_shape(fn)))
    except (NotImplementedError, AttributeError):
        value = _transformed(fn) if isinstance(fn, TransformedDistribution) else fn.sample()
    return value


def _shape(fn: Any) -> torch.Size:
    shape: torch.Size = fn.batch_shape + fn.event_shape
    return shape


def _uniform(shape: torch.Size) -> Tensor:
    return torch.rand(shape, dtype=torch.float64).clamp(min=torch.finfo(torch.float64).tiny)


def _gamma(concentration: Tensor, rate: Tensor, shape: torch.Size) -> Tensor:
    return torch._standard_gamma(concentration.expand(shape)).clamp(min=torch.finfo(torch.float64).tiny) / rate


def _transformed(fn: Any) -> Tensor:
    value = draw(fn.base_dist)
    for transform in fn.transforms:
        value = transform(value)
    return value


def _multivariate_normal(fn: Any) -> Tensor:
    noise = torch.randn(_shape(fn))
    value: Tensor = fn.loc + (fn.scale_tril * noise.unsqueeze(-2)).sum(-1)
    return value


def _student_t(fn: Any) -> Tensor:
    chi2 = 2 * torch._standard_gamma((fn.df / 2).expand(_shape(fn)))
    value: Tensor = fn.loc + fn.scale * torch.randn(_shape(fn)) * torch.rsqrt(chi2 / fn.df)
    return value


def _multivariate_student_t(fn: Any) -> Tensor:
    chi2 = 2 * torch._standard_gamma((fn.df / 2).expand(fn.batch_shape))
    noise = (fn.scale_tril * torch.randn(_shape(fn)).unsqueeze(-2)).sum(-1)
    value: Tensor = fn.loc + noise * torch.rsqrt(chi2 / fn.df).unsqueeze(-1)
    return value


def _beta(fn: Any) -> Tensor:
    one = torch.ones(())
    a = _gamma(fn.concentration1, one, _shape(fn))
    return a / (a + _gamma(fn.concentration0, one, _shape(fn)))


def _dirichlet(fn: Any) -> Tensor:
    parts = _gamma(fn.concentration, torch.ones(()), _shape(fn))
    return parts / parts.sum(-1, keepdim=True)


def _lkj_cholesky(fn: Any) -> Tensor:
    """Row by row: row i has the length √y, y ~ Beta(i/2, η + (d - 1 - i)/2), before its diagonal, in any direction.

    Lewandowski, Kurowicka, Joe (2009), "Generating random correlation matrices based on vines and extended onion
    method". The sampler of torch 2.13 has i - 1/2 in place of i/2, which is another distribution from d = 3 on.
    """
    row, one = torch.arange(1, fn.dim), torch.ones(())
    shape = torch.Size((*fn.batch_shape, fn.dim - 1))
    inside = _gamma(row / 2, one, shape)
    y = inside / (inside + _gamma(fn.concentration.unsqueeze(-1) + (fn.dim - 1 - row) / 2, one, shape))
    direction = torch.randn(*shape, fn.dim, dtype=y.dtype).tril()
    below = y.sqrt().unsqueeze(-1) * direction / direction.norm(dim=-1, keepdim=True)
    identity = torch.eye(fn.dim, dtype=y.dtype)
    first = identity[:1].expand(*fn.batch_shape, 1, fn.dim)
    return torch.cat([first, below + (1 - y).sqrt().unsqueeze(-1) * identity[1:]], -2)


def _binomial(fn: Any) -> Tensor:
    return _hits(fn.total_count, fn.probs, _shape(fn))


def _hits(trials: Tensor, probability: Tensor, shape: torch.Size) -> Tensor:
    """`torch.binomial`, with both arguments batched alike: it does not broadcast under vmap."""
    probability = probability.expand(shape)
    trials = trials + torch.zeros_like(probability)
    return torch.binomial(trials, probability + torch.zeros_like(trials))


def _beta_binomial(fn: Any) -> Tensor:
    return _hits(fn.total_count, _beta(fn._beta), _shape(fn))


def _negative_binomial(fn: Any) -> Tensor:
    return torch.poisson(_gamma(fn.total_count, torch.exp(-fn.logits), _shape(fn)))


def _gamma_poisson(fn: Any) -> Tensor:
    return torch.poisson(_gamma(fn.concentration, fn.rate, _shape(fn)))


def _geometric(fn: Any) -> Tensor:
    return (_uniform(_shape(fn)).log() / torch.log1p(-fn.probs)).floor()


_FAMILIES: dict[str, Callable[[Any], Tensor]] = {
    "MultivariateNormal": _multivariate_normal,
    "StudentT": _student_t,
    "MultivariateStudentT": _multivariate_student_t,
    "Beta": _beta,
    "Dirichlet": _dirichlet,
    "LKJCholesky": _lkj_cholesky,
    "Binomial": _binomial,
    "BetaBinomial": _beta_binomial,
    "NegativeBinomial": _negative_binomial,
    "GammaPoisson": _gamma_poisson,
    "Geometric": _geometric,
}
