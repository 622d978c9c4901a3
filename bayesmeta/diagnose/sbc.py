"""Simulation-based calibration: the ranks of true values among posterior draws, and whether they are uniform.

Draw φ*, θ* from the prior, observations y* from the task, and fit: over such data sets the true value of any
quantity f(φ, θ, y) has a uniform rank among independent draws from the posterior, if hierarchy, data and back-end
fit together (Talts, Betancourt, Simpson, Vehtari, Gelman 2018, "Validating Bayesian inference algorithms with
simulation-based calibration"). φ and θ alone would not see a dropped likelihood, under which the posterior is the
prior and ranks are uniform; log densities of the data do (Modrák, Moon, Kim, Bürkner, Huurre, Faltejsková, Gelman,
Vehtari 2023, "Simulation-based calibration checking for Bayesian computation: the choice of test quantities shapes
sensitivity").

`bayesmeta.sbc` makes the ranks; this file holds and judges them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bayesmeta import archive
from bayesmeta.diagnose.bands import band, counts_below, holm, p_value
from bayesmeta.diagnose.verdict import Finding, Level, Verdict
from bayesmeta.errors import DataError, OptionError
from bayesmeta.psis import K_HAT

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["STATS", "Calibration", "rank"]

FORMAT, WHAT = "bayesmeta calibration 1", "a calibration"
STATS = ("effective", "seconds", "divergences", "k_hat")
"""What is kept of each replication besides its ranks."""

FAILED, DOUBTFUL = 0.001, 0.05
MORE = "make more replications: chance alone does this once in a while"
REMEDY = "longer chains or another back-end; if it stays, data are not drawn from what is fitted"
Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """Ranks of the true values of N replications, and what they say.

    Attributes:
        quantities: Names of the Q quantities that were ranked.
        ranks: How many of the draws lie below the true value, from 0 to `draws`, (N, Q).
        draws: Number of draws L that each true value was ranked among.
        positions: Which replication each row is, (N,), counted from 0.
        stats: Per replication (N,): ``effective`` (least effective number of draws), ``seconds``, ``divergences``,
            ``k_hat`` (NaN where there were no importance weights).
        unfitted: Why a replication has no ranks, by its position.
        asked: Number of replications that were asked for; fewer were made where it was interrupted.
        record: What was calibrated: fingerprints of hierarchy and tasks, settings, seed, versions.
    """

    quantities: tuple[str, ...]
    ranks: IntArray
    draws: int
    positions: IntArray
    stats: Mapping[str, Array] = field(default_factory=dict)
    unfitted: Mapping[int, str] = field(default_factory=dict)
    asked: int = 0
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.ranks.ndim != 2 or self.ranks.shape != (len(self.positions), len(self.quantities)):
            raise DataError(
                f"ranks have shape {self.ranks.shape}; wanted one row for each of {len(self.positions)} replications "
                f"and one column for each of {len(self.quantities)} quantities"
            )
        if self.ranks.size == 0:
            raise DataError("there are no ranks to judge: no replication was made")
        if self.ranks.min() < 0 or self.ranks.max() > self.draws:
            raise DataError(
                f"ranks lie between {self.ranks.min()} and {self.ranks.max()}; among {self.draws} draws they are 0 to "
                f"{self.draws}"
            )

    def __len__(self) -> int:
        return len(self.ranks)

    @staticmethod
    def of(ranks: Mapping[str, npt.ArrayLike], draws: int) -> Calibration:
        """Ranks that were made elsewhere, by name, each (N,), among so many draws.

        Example:
            >>> Calibration.of({"mu": [0, 3, 1, 2]}, draws=3).verdict
            fine: the ranks of all 1 quantities are uniform as far as 4 replications tell
        """
        columns = np.stack([np.asarray(column, dtype=np.int64) for column in ranks.values()], 1)
        return Calibration(tuple(ranks), columns, draws, np.arange(len(columns)), asked=len(columns))

    # --- the judgement --------------------------------------------------------------------------------------

    @cached_property
    def counts(self) -> IntArray:
        """How many ranks lie below k, for k = 1..L, (L, Q)."""
        return counts_below(self.ranks, self.draws)

    @cached_property
    def p_values(self) -> Array:
        """How likely uniform ranks look at least so odd, for each quantity by itself, (Q,)."""
        return np.array([p_value(column, len(self)) for column in self.counts.T])

    @cached_property
    def corrected(self) -> Array:
        """The p-values corrected for the number of quantities, by Holm's method, (Q,)."""
        return holm(self.p_values)

    def ecdf(self, level: float = 0.95) -> tuple[Array, Array, Array, Array]:
        """Empirical minus uniform distribution function of the ranks, and its simultaneous band.

        Args:
            level: Probability that the curves of all quantities stay inside everywhere, if ranks are uniform
                (at least that: what the quantities have in common only helps).

        Returns:
            The points z (L,), the differences (L, Q), the lower and the upper edge of the band (L,).
        """
        if not 0 < level < 1:
            raise OptionError(f"level must lie between 0 and 1, got {level!r}")
        z = np.arange(1, self.draws + 1) / (self.draws + 1)
        lower, upper = band(len(self), self.draws, 1 - (1 - level) / len(self.quantities))
        return z, self.counts / len(self) - z[:, None], lower / len(self) - z, upper / len(self) - z

    def table(self) -> pd.DataFrame:
        """One row per quantity.

        Columns: ``mean`` of the ranks over L (uniform: 0.5), their ``spread`` over that of uniform ranks (1), the
        p-values ``p`` and ``p_corrected``, and what ``draws`` are if that is below .05.
        """
        import pandas as pd

        mean, spread = self._shape()
        columns = {
            "mean": mean,
            "spread": spread,
            "p": self.p_values,
            "p_corrected": self.corrected,
            "draws": [self._word(k) if self.corrected[k] < DOUBTFUL else "" for k in range(len(self.quantities))],
        }
        return pd.DataFrame(columns, index=pd.Index(self.quantities, name="quantity"))

    @cached_property
    def verdict(self) -> Verdict:
        """``fine``, ``doubtful`` (p < .05 for some quantity, corrected) or ``failed`` (p < .001), and why.

        Replications that could not be fitted make it doubtful at best.
        """
        found = [self._finding(k) for k in range(len(self.quantities))]
        odd = [finding for finding in found if finding.level != "fine"]
        if self.unfitted:
            odd.append(_unfitted(self.unfitted))
        if odd:
            return Verdict(tuple(odd))
        least = float(self.corrected.min())
        reason = f"the ranks of all {len(found)} quantities are uniform as far as {len(self):,} replications tell"
        return Verdict((Finding("ranks", least, "fine", reason),))

    def failures(self, alpha: float = DOUBTFUL) -> list[str]:
        """The quantities whose ranks are not uniform: those with a corrected p-value below alpha."""
        return [name for name, p in zip(self.quantities, self.corrected, strict=True) if p < alpha]

    def _finding(self, k: int) -> Finding:
        p = float(self.corrected[k])
        level: Level = "failed" if p < FAILED else "doubtful" if p < DOUBTFUL else "fine"
        reason = f"{self.quantities[k]}: draws are {self._word(k)} (p = {_shown(p)})"
        return Finding("ranks", p, level, reason, MORE if level == "doubtful" else REMEDY)

    @property
    def interrupted(self) -> bool:
        """Whether fewer replications were made than asked for."""
        return len(self) + len(self.unfitted) < self.asked

    def notes(self) -> list[str]:
        """What to keep in mind, a sentence each."""
        said = []
        if self.interrupted:
            said.append(f"interrupted: {len(self):,} of {self.asked:,} replications were made")
        few = int((self.stats.get("effective", np.full(1, np.inf)) < self.draws).sum())
        if few:
            said.append(
                f"{few:,} replications had fewer than {self.draws} effective draws and were ranked among as many as "
                "they had"
            )
        diverging = int((self.stats.get("divergences", np.zeros(1)) > 0).sum())
        if diverging:
            said.append(f"{diverging:,} replications had divergent transitions")
        bad = int((np.nan_to_num(self.stats.get("k_hat", np.zeros(1)), nan=-np.inf) > K_HAT).sum())
        if bad:
            said.append(f"{bad:,} replications had a Pareto k-hat above {K_HAT}")
        return said

    def _shape(self) -> tuple[Array, Array]:
        u = (self.ranks + 0.5) / (self.draws + 1)
        uniform = (1 - (self.draws + 1.0) ** -2) / 12
        return u.mean(0), u.std(0) / np.sqrt(uniform)

    def _word(self, k: int) -> str:
        """What is most wrong with the draws of a quantity: where they are, or how far they spread."""
        u = (self.ranks[:, k] + 0.5) / (self.draws + 1) - 0.5
        shift = u.mean() * np.sqrt(12 * len(u))
        stretch = (u.var() - 1 / 12) * np.sqrt(180 * len(u))
        if max(abs(shift), abs(stretch)) < 2:
            return "of another shape"
        if abs(shift) > abs(stretch):
            return "too low" if shift > 0 else "too high"
        return "too narrow" if stretch > 0 else "too wide"

    # --- showing --------------------------------------------------------------------------------------------

    def plot(self, **options: Any) -> Axes:
        """The distribution of the ranks with its band. See `bayesmeta.plot.sbc`."""
        from bayesmeta.plot.sbc import sbc

        return sbc(self, **options)

    def _title(self) -> str:
        return f"{self.verdict.level}: {len(self):,} replications, ranks among {self.draws} draws"

    def __repr__(self) -> str:
        table = self.table().to_string(float_format=lambda v: f"{v:.3g}", index_names=False)
        return "\n".join([f"Calibration {self._title()}", table, *self.verdict.reasons, *self.notes()])

    def _repr_html_(self) -> str:
        table = self.table().to_html(float_format=lambda v: f"{v:.3g}", index_names=False)
        said = "".join(f"<li>{escape(line)}</li>" for line in (*self.verdict.reasons, *self.notes()))
        return f"<div><p><b>Calibration</b> {escape(self._title())}</p>{table}<ul>{said}</ul></div>"

    # --- files ----------------------------------------------------------------------------------------------

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything to one file of NumPy arrays (npz, no pickle), replacing it whole."""
        record = {
            "quantities": self.quantities,
            "draws": self.draws,
            "asked": self.asked,
            "unfitted": {str(position): reason for position, reason in self.unfitted.items()},
            "record": self.record,
        }
        arrays = {"ranks": self.ranks, "positions": self.positions, **self.stats}
        archive.write(path, FORMAT, record, arrays, compress=True)

    @staticmethod
    def load(path: str | PathLike[str]) -> Calibration:
        """Open a file that `save` wrote, or that `bayesmeta.sbc` wrote while it ran.

        Raises:
            NotAvailableError: There is no such file.
            FileFormatError: The file is something else.
        """
        record, arrays = archive.read(path, FORMAT, WHAT)
        with archive.understood(path, WHAT):
            return Calibration(
                tuple(record["quantities"]),
                arrays.pop("ranks"),
                record["draws"],
                arrays.pop("positions"),
                arrays,
                {int(position): reason for position, reason in record["unfitted"].items()},
                record["asked"],
                record["record"],
            )


def rank(truth: Array, draws: Array, most: int, rng: np.random.Generator) -> IntArray:
    """Ranks (Q,) from 0 to `most` of true values (Q,) among draws (l, Q).

    Ties are broken at random. Where there are fewer than `most` draws, ranks among them are spread over 0..`most`
    at random: uniform ranks stay uniform.
    """
    ties = (draws == truth).sum(0)
    ranks: IntArray = (draws < truth).sum(0) + rng.integers(0, ties + 1)
    count = len(draws)
    if count != most:
        share = (ranks + rng.random(len(ranks))) / (count + 1)
        ranks = np.minimum((share * (most + 1)).astype(np.int64), most)
    return ranks


def _unfitted(reasons: Mapping[int, str]) -> Finding:
    position = min(reasons)
    said = f"{len(reasons):,} replication(s) have no ranks; number {position}: {reasons[position]}"
    remedy = "narrow priors that draw extreme data, or use another back-end"
    return Finding("fits", float(len(reasons)), "doubtful", said, remedy)


def _shown(p: float) -> str:
    return f"{p:.2g}" if p >= 1e-9 else "< 1e-9"
