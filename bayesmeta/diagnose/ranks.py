"""Where observations lie among draws of their prediction, and the calibration error with its floor.

A calibration error is never zero: 500 probabilities that are right have an error of .04 in 15 bins. So it is shown
beside the error of data drawn from the prediction itself. Each joint draw is such data, and its place among the
others is had by sorting them once; observations of a task, which share what is not known of the task, stay together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayesmeta.errors import NotAvailableError

__all__ = ["LEVELS", "Ranks", "Reliability", "ranked"]

BINS = 15
REPLICATES = 100
REFERENCES = 400  # data sets drawn from the prediction: enough for a band
LEVELS = torch.arange(1, 100, dtype=torch.float64) / 100
NUMBERS = 10_000_000


class Reliability(NamedTuple):
    """Of outcomes that are 0 or 1: what was predicted and what came, in B bins of the predicted probability.

    Attributes:
        probability: Mean predicted probability (B,); NaN in bins that are empty.
        share: Share of ones (B,).
        size: Number of observations (B,).
        replicates: The share in data sets drawn from the prediction itself (R, B).
    """

    probability: Tensor
    share: Tensor
    size: Tensor
    replicates: Tensor


@dataclass(frozen=True)
class Ranks:
    """What the draws say.

    Attributes:
        pit: where each observation lies in its predictive distribution, (T, m).
        crps: the score of each observation by draws (T, m).
        calibration: expected calibration error, and its mean and standard deviation under the prediction itself.
        reference: share of the places below each of `LEVELS`, in data sets drawn from the prediction itself (R, 99).
        reliability: of outcomes that are 0 or 1.
        coverage: the share of draws in an interval, where observations are discrete; NaN where they are not.
    """

    pit: Tensor
    crps: Tensor
    calibration: tuple[float, float, float]
    reference: Tensor | None = None
    reliability: Reliability | None = None
    coverage: float = math.nan


def ranked(
    predictive: Any, y: Any, observed: Tensor, draws: int, seed: int, interval: tuple[Tensor, Tensor] | None = None
) -> Ranks:
    """The ranks of observations (T, m), NaN where there are none; how many draws lie in an interval (T, m) each."""
    there = ~torch.isnan(observed)
    cells = int(there.sum())
    if not cells:
        nothing = torch.full_like(observed, math.nan)
        return Ranks(nothing, nothing, (math.nan, math.nan, math.nan))
    few = max(20, min(draws, NUMBERS // cells))
    sampled = predictive.sample(few, seed)[:, there].double()
    generator = torch.Generator().manual_seed(seed)
    values = observed[there]
    place = _place(sampled, values, generator)
    pit, crps = torch.full_like(observed, math.nan), torch.full_like(observed, math.nan)
    pit[there] = place if (exact := _cdf(predictive, y)) is None else exact[there]
    crps[there] = _crps(sampled, values)
    places = _ranks(sampled, generator)
    calibration = _calibration(sampled, places, values, pit[there], generator)
    reference, reliability = _reference(places, generator), _reliability(sampled, values)
    return Ranks(pit, crps, calibration, reference, reliability, _inside(sampled, interval, there))


def _ranks(sampled: Tensor, generator: torch.Generator) -> Tensor:
    """The ranks of draws (S, N) among each other, column by column; those of equal draws in random order."""
    shuffled = torch.rand(sampled.shape, generator=generator).argsort(0)
    order = shuffled.gather(0, sampled.gather(0, shuffled).argsort(dim=0, stable=True))
    return order.argsort(0)


def _cdf(predictive: Any, y: Any) -> Tensor | None:
    if not hasattr(predictive, "cdf"):
        return None
    try:
        exact: Tensor = predictive.cdf(y)
    except NotAvailableError:
        return None
    return exact


def _inside(sampled: Tensor, interval: tuple[Tensor, Tensor] | None, there: Tensor) -> float:
    """The share of draws of discrete observations in their intervals; NaN of others, where it is that promised."""
    ordered = sampled.sort(0).values
    if interval is None or not bool((ordered[1:] == ordered[:-1]).any(0).all()):
        return math.nan
    lower, upper = (end[there] for end in interval)
    return float(((lower <= sampled) & (sampled <= upper)).double().mean())


def _place(sampled: Tensor, values: Tensor, generator: torch.Generator) -> Tensor:
    """The share of draws below each value (N,), a random part of its ties and of its own place counted as below."""
    below, ties = (sampled < values).sum(0), (sampled == values).sum(0)
    part = torch.rand(len(values), generator=generator, dtype=torch.float64)
    return (below + part * (ties + 1)) / (len(sampled) + 1)


def _crps(sampled: Tensor, values: Tensor) -> Tensor:
    """E|Y - y| - ½ E|Y - Y'| by draws; unbiased, the second term by order statistics."""
    count = len(sampled)
    ordered = sampled.sort(0).values
    weight = 2 * torch.arange(count, dtype=torch.float64) - (count - 1)
    return (sampled - values).abs().mean(0) - (weight[:, None] * ordered).sum(0) / (count * (count - 1))


def _calibration(
    sampled: Tensor, places: Tensor, values: Tensor, pit: Tensor, generator: torch.Generator
) -> tuple[float, float, float]:
    """Expected calibration error of the values, and its mean and standard deviation over draws in their place.

    `places` are the ranks of the draws (S, N) among each other.
    """
    chosen = torch.randperm(len(sampled), generator=generator)[:REPLICATES]
    if _are_binary(sampled, values):
        probability = sampled.mean(0)
        bins = (probability * BINS).long().clamp(max=BINS - 1)
        errors = torch.stack([_binary(one, probability, bins) for one in (values, *sampled[chosen])])
    else:
        some = places[chosen]
        part = torch.rand(some.shape, generator=generator, dtype=torch.float64)
        errors = torch.stack([_uniform(one) for one in (pit, *(some + part) / len(sampled))])
    return float(errors[0]), float(errors[1:].mean()), float(errors[1:].std())


def _are_binary(*parts: Tensor) -> bool:
    """Whether all are zeros and ones: outcomes of numbers may be so by chance, draws of a prediction of numbers not."""
    return all(bool(((values == 0) | (values == 1)).all()) for values in parts)


def _reference(places: Tensor, generator: torch.Generator) -> Tensor:
    """How the places of data sets drawn from the prediction are distributed, (R, levels), by their ranks (S, N).

    Observations of a task rise and fall together, in these as in those observed.
    """
    some = places[torch.randperm(len(places), generator=generator)[:REFERENCES]]
    part = torch.rand(some.shape, generator=generator, dtype=torch.float64)
    bins = ((some + part) / len(places) * (len(LEVELS) + 1)).long().clamp(max=len(LEVELS))
    counts = torch.zeros(len(some), len(LEVELS) + 1, dtype=torch.float64)
    counts.scatter_add_(1, bins, torch.ones_like(part))
    return counts.cumsum(1)[:, :-1] / places.shape[1]


def _reliability(sampled: Tensor, values: Tensor) -> Reliability | None:
    """Predicted and observed shares of ones; the draws are data sets of the prediction."""
    if not _are_binary(sampled, values):
        return None
    probability, some = sampled.mean(0), sampled[:REFERENCES]
    bins = (probability * BINS).long().clamp(max=BINS - 1)
    sums = torch.zeros(2 + len(some), BINS, dtype=torch.float64)
    sums.index_add_(1, bins, torch.stack([probability, values, *some]))
    count = torch.bincount(bins, minlength=BINS).double()
    mean, share, *_ = (means := sums / count)
    return Reliability(mean, share, count, means[2:])


def _binary(values: Tensor, probability: Tensor, bins: Tensor) -> Tensor:
    """Σ over bins of |sum of outcomes - sum of probabilities| / N (Naeini, Cooper and Hauskrecht 2015)."""
    gap = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, values - probability)
    return gap.abs().sum() / len(values)


def _uniform(pit: Tensor) -> Tensor:
    """Mean over levels of |share of observations at or below the level - level| (Kuleshov, Fenner and Ermon 2018)."""
    levels = torch.arange(1, BINS, dtype=torch.float64) / BINS
    shares = torch.searchsorted(pit.sort().values.contiguous(), levels, right=True) / len(pit)
    return (shares - levels).abs().mean()
