"""Does a new task belong to the population? Where its evidence lies among those of tasks that do.

The predictive density of a task under the population is log p(y | D) = log 1/S Σ_s Z(φ_s). Tasks are drawn from the
population at the same inputs, φ from the posterior, θ and y from the task, and the share of them with a lower density
is the tail probability: the rank of one number among exchangeable ones, and therefore uniform for tasks of the
population, whatever is used for Z (Box 1980, "Sampling and Bayes' inference in scientific modelling and
robustness"). A stranger has a small one.

Two more ranks, of statistics of the task's own θ, say which part is strange: `bayesmeta.diagnose.novelty_ranks`.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bayesmeta.adapt import Adapted, check_like
from bayesmeta.diagnose.novelty_ranks import ranks_of, strangers_at_a_glance
from bayesmeta.errors import BayesmetaWarning, OptionError
from bayesmeta.psis import K_HAT
from bayesmeta.tasks import Tasks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmeta.posterior import Posterior

__all__ = ["Novelty", "novelty", "warn_of_strangers"]

LEVEL = 0.01


@dataclass(frozen=True, eq=False, repr=False)
class Novelty:
    """How strange tasks are to a population.

    Attributes:
        names: Names of the tasks.
        tail_probability: Share of the tasks of the population that are less likely than this one (T,): uniform on
            [0, 1] for tasks that belong, small for strangers; NaN for tasks without observations.
        theta_probability: Share of them whose θ lies farther out (T,); NaN where the task samples no θ.
        noise_probability: Share of them whose observations fit their own θ worse (T,): near 0 where observations
            scatter more than in the population, near 1 where they scatter less.
        log_density: log p(y | D) in nats (T,).
        expected: Its mean over tasks of the population at the same inputs (T,).
        spread: Its standard deviation over them (T,).
        sizes: Observations per task (T,).
        replicates: How many tasks of the population each was compared with: no probability is known to be smaller
            than 1 / replicates.
    """

    names: tuple[str, ...]
    tail_probability: Tensor
    theta_probability: Tensor
    noise_probability: Tensor
    log_density: Tensor
    expected: Tensor
    spread: Tensor
    sizes: Tensor
    replicates: int

    def __len__(self) -> int:
        return len(self.names)

    def p_value(self) -> Tensor:
        """The smallest of the three probabilities (T,), twice that of noise's nearer end, corrected for its choice."""
        noise = 2 * torch.minimum(self.noise_probability, 1 - self.noise_probability)
        every = torch.stack([self.tail_probability, self.theta_probability, noise])
        count = (~torch.isnan(every)).sum(0)
        least = torch.where(torch.isnan(every), math.inf, every).min(0).values
        return torch.where(count > 0, (count * least).clamp(max=1.0), math.nan)

    def strangers(self, level: float = LEVEL) -> tuple[str, ...]:
        """Names of the tasks that do not belong; of those that do, a share of at most `level` is among them."""
        _check_level(level)
        strange = self.p_value() < level
        return tuple(name for name, one in zip(self.names, strange.tolist(), strict=True) if one)

    def part(self, level: float = LEVEL) -> tuple[str, ...]:
        """What is strange about each task, in words; empty where nothing is."""
        _check_level(level)
        named = set(self.strangers(level))
        return tuple(self._part(t, level / 2) if name in named else "" for t, name in enumerate(self.names))

    def _part(self, t: int, level: float) -> str:
        theta, noise = float(self.theta_probability[t]), float(self.noise_probability[t])
        found = []
        if theta < level:
            found.append("θ is far out")
        if noise < level:
            found.append("observations scatter more than in the population")
        if noise > 1 - level:
            found.append("observations scatter less than in the population")
        return " and ".join(found) or "unlikely as a whole"

    def frame(self, level: float = LEVEL) -> pd.DataFrame:
        """One row per task: its size, densities, probabilities, and what is strange about it."""
        columns = {
            "observations": self.sizes,
            "log_density": self.log_density,
            "expected": self.expected,
            "spread": self.spread,
            "tail_probability": self.tail_probability,
            "theta_probability": self.theta_probability,
            "noise_probability": self.noise_probability,
        }
        table = pd.DataFrame({name: value.numpy() for name, value in columns.items()})
        table.insert(0, "task", np.array(self.names, dtype=object))
        table["strange"] = np.array(self.part(level), dtype=object)
        return table

    def plot(self, **options: Any) -> Axes:
        """The probabilities of the tasks, strangers in words. See `bayesmeta.plot.novelty`."""
        from bayesmeta.plot.novelty import novelty

        return novelty(self, **options)

    def __repr__(self) -> str:
        strange = [(name, part) for name, part in zip(self.names, self.part(), strict=True) if part]
        head = f"Novelty of {len(self):,} task{'s' * (len(self) != 1)} among {self.replicates:,} of the population: "
        if not strange:
            return head + "none is strange"
        shown = "; ".join(f"{name!r}: {part}" for name, part in strange[:5])
        return f"{head}{len(strange)} strange ({shown}{'; ...' if len(strange) > 5 else ''})"

    def _repr_html_(self) -> str:
        table = self.frame().sort_values("tail_probability").head(30)
        return f"<p>{escape(repr(self))}</p>" + table.to_html(index=False, float_format=lambda v: f"{v:.4g}")


def novelty(
    posterior: Posterior, tasks: Tasks, *, replicates: int = 1000, seed: int = 0, progress: bool = False
) -> Novelty:
    """How strange tasks are to the population of a fit.

    A task of the fit itself has helped to make the population, and looks less strange than it is.

    Args:
        posterior: The population.
        tasks: The tasks, with observations.
        replicates: How many tasks of the population each is compared with.
        seed: Seeds them.
        progress: Show a bar.

    Raises:
        DataError: Tasks are not shaped as those of the fit.
        OptionError: Fewer than 20 replicates.
        NotAvailableError: A joint fit whose tasks have no mode.
    """
    if not isinstance(replicates, int) or replicates < 20:
        raise OptionError(f"replicates must be a whole number of at least 20, got {replicates!r}")
    check_like(posterior.tasks, tasks)
    ranks = ranks_of(posterior, tasks, replicates, seed=seed, progress=progress)
    return Novelty(tasks.names, *ranks, sizes=tasks.sizes, replicates=replicates)


def warn_of_strangers(posterior: Posterior, adapted: Adapted) -> None:
    """Say which of the tasks adapted to do not belong, where a glance tells and their k-hat has not said so already."""
    if adapted._program.structure.prior_sees_rows:
        return  # what the population looks like is not known without the observations of a task
    follow = (adapted.k_hat <= K_HAT).tolist()
    keep = [t for t, one in enumerate(follow) if one]
    found = strangers_at_a_glance(posterior, adapted.tasks[keep]) if keep else []
    if found:
        warnings.warn(
            f"{len(found)} of {len(adapted)} tasks ({found[:5]}) are far less likely than those of the population: "
            "what is predicted of them leans on a population that they do not belong to; posterior.novelty(tasks) says "
            "what is strange about them, and strangers='ignore' saves the look",
            BayesmetaWarning,
            stacklevel=3,
        )


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise OptionError(f"level must lie between 0 and 1, got {level!r}")
