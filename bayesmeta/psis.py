"""Pareto-smoothed importance sampling, many sets of weights at once.

The largest weights are replaced by quantiles of a generalised Pareto distribution fitted to them; its shape k
says whether the weighted draws can be trusted: below .5 well, below .7 in practice, above it not (Vehtari,
Simpson, Gelman, Yao, Gabry 2024, "Pareto smoothed importance sampling"). The fit is the empirical-Bayes
estimate of Zhang and Stephens (2009), with the weakly informative prior on k of the first paper.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["K_HAT", "effective_size", "fit_pareto", "psis", "resample"]

K_HAT = 0.7
"""Above this k-hat weighted draws are not to be trusted, whatever their number (the first paper)."""


def psis(log_weights: Tensor, tail: int | None = None) -> tuple[Tensor, Tensor]:
    """Smoothed, normalised log weights and k-hat.

    Args:
        log_weights: Unnormalised log weights (S, ...), one set per column.
        tail: How many of the largest weights are the tail; None for min(S/5, 3 √S).

    Returns:
        Log weights (S, ...), each column summing to one after `exp`, and k-hat (...). A column of equal weights
        has k-hat -inf; with fewer than 21 draws there is no tail to fit, and k-hat is +inf.
    """
    flat = log_weights.reshape(log_weights.shape[0], -1).to(torch.float64)
    flat = flat - flat.max(0, keepdim=True).values
    draws = flat.shape[0]
    tail = math.ceil(min(0.2 * draws, 3 * math.sqrt(draws))) if tail is None else tail
    equal = (flat.max(0).values - flat.min(0).values) < 1e-12
    if tail < 5:
        k = torch.where(equal, -math.inf, math.inf).to(flat.dtype)
    else:
        flat, k = _smooth(flat, tail)
        k = torch.where(equal, -math.inf, k)
    flat = flat - torch.logsumexp(flat, 0, keepdim=True)
    return flat.reshape(log_weights.shape), k.reshape(log_weights.shape[1:])


def _smooth(log_weights: Tensor, tail: int) -> tuple[Tensor, Tensor]:
    ordered, order = log_weights.sort(0)
    cutoff = ordered[-tail - 1].clamp(min=math.log(torch.finfo(torch.float64).tiny))
    exceed = ordered[-tail:].exp() - cutoff.exp()
    k, sigma = fit_pareto(exceed.clamp(min=1e-300))
    p = (torch.arange(tail, dtype=torch.float64).unsqueeze(-1) + 0.5) / tail
    small = k.abs() < 1e-12
    safe = torch.where(small, 1.0, k)
    quantile = torch.where(small, -sigma * torch.log1p(-p), sigma * torch.expm1(-safe * torch.log1p(-p)) / safe)
    smoothed = (quantile + cutoff.exp()).log().clamp(max=0.0)
    possible = torch.isfinite(ordered[-tail:]).all(0)  # of fewer weights than a tail there is nothing to go by
    k = torch.where(possible, k, math.inf)
    usable = torch.isfinite(k) & torch.isfinite(smoothed).all(0)
    ordered = ordered.clone()
    ordered[-tail:] = torch.where(usable, smoothed, ordered[-tail:])
    return torch.empty_like(ordered).scatter_(0, order, ordered), torch.where(torch.isfinite(k), k, math.inf)


def fit_pareto(exceed: Tensor) -> tuple[Tensor, Tensor]:
    """Shape k and scale σ of a generalised Pareto distribution, from ascending exceedances (n, columns)."""
    n = exceed.shape[0]
    points = 30 + int(math.sqrt(n))
    grid = torch.arange(1, points + 1, dtype=torch.float64).unsqueeze(-1)
    quartile = exceed[int(n / 4 + 0.5) - 1]
    b = (1 - (points / (grid - 0.5)).sqrt()) / (3 * quartile) + 1 / exceed[-1]
    k = torch.stack([torch.log1p(-row * exceed).mean(0) for row in b])
    profile = n * ((-b / k).log() - k - 1)
    weights = torch.softmax(torch.where(torch.isfinite(profile), profile, -math.inf), 0)
    best = (b * weights).sum(0)
    shape = torch.log1p(-best * exceed).mean(0)
    scale = -shape / best
    return shape * n / (n + 10) + 0.5 * 10 / (n + 10), scale


def effective_size(log_weights: Tensor) -> Tensor:
    """Kish's effective number of draws (...) of normalised log weights (S, ...)."""
    return torch.exp(-torch.logsumexp(2 * log_weights, 0))


def resample(log_weights: Tensor, seed: int) -> Tensor:
    """Indices (S, ...) of equally weighted draws, by systematic resampling of each column, shuffled."""
    flat = log_weights.reshape(log_weights.shape[0], -1)
    draws, columns = flat.shape
    generator = torch.Generator().manual_seed(seed)
    offset = torch.rand(columns, generator=generator, dtype=torch.float64)
    places = (torch.arange(draws, dtype=torch.float64).unsqueeze(-1) + offset) / draws
    cumulative = flat.exp().cumsum(0)
    cumulative = cumulative / cumulative[-1]
    index = torch.searchsorted(cumulative.T.contiguous(), places.T.contiguous()).clamp(max=draws - 1)
    order = torch.rand(index.shape, generator=generator).argsort(1)
    return index.gather(1, order).T.reshape(log_weights.shape)
