"""What the view says in sentences: θ with its interval, and whether the task belongs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bayesmeta.plot.style import percent

if TYPE_CHECKING:
    from bayesmeta.diagnose.novelty import Novelty

__all__ = ["novelty_in_words", "theta_in_words"]


def theta_in_words(label: str, after: Tensor, before: Tensor, level: float) -> str:
    """Mean, sd and interval of one element of θ, and what the population alone says of it, of draws (S,).

    Examples:
        >>> draws = torch.linspace(1.0, 3.0, 101, dtype=torch.float64)
        >>> theta_in_words("alpha", draws, draws - 1, 0.9)
        'alpha: 2 ± 0.586, 90% between 1.1 and 2.9 (before any observation 1 ± 0.586)'
    """
    tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    lower, upper = torch.quantile(after, tail).tolist()
    now = f"{_mean_and_sd(after)}, {percent(level)} between {lower:.3g} and {upper:.3g}"
    return f"{label}: {now} (before any observation {_mean_and_sd(before)})"


def novelty_in_words(found: Novelty, of_fit: bool) -> str:
    """Whether the one task belongs to the population."""
    less = float(found.tail_probability[0])
    (part,) = found.part()
    if part:
        return f"Strange: {part} (p = {float(found.p_value()[0]):.2g} if it belongs to the population)."
    lenient = " The fit has seen it, and takes it for less strange than it is." if of_fit else ""
    share = "less than 1%" if less < 0.01 else percent(round(less, 2))
    return f"Nothing strange: {share} of the tasks of the population are less likely.{lenient}"


def _mean_and_sd(draws: Tensor) -> str:
    sd = float(draws.std()) if len(draws) > 1 else 0.0
    return f"{float(draws.mean()):.3g} ± {sd:.3g}"
