"""Simulation-based calibration: does this back-end, on this hierarchy and this design, give the right posteriors?

`sbc` draws data from the prior again and again, fits each data set, and ranks the true values among the draws.
What the ranks say is judged by `bayesmeta.diagnose.sbc`.
"""

from __future__ import annotations

import dataclasses
import json
import time
import warnings
from contextlib import closing
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from bayesmeta.calibrate.replicate import Outcome, Replicator
from bayesmeta.calibrate.workers import run_all
from bayesmeta.diagnose.sbc import STATS, Calibration
from bayesmeta.draws import versions
from bayesmeta.errors import BayesmetaError, BayesmetaWarning, FileFormatError, OptionError
from bayesmeta.fingerprint import differences, fingerprint
from bayesmeta.fit import check, configured
from bayesmeta.hierarchy import Hierarchy
from bayesmeta.infer.options import check_whole
from bayesmeta.presets import Config, back_end_of
from bayesmeta.tasks import Tasks
from bayesmeta.track import bar, stage

__all__ = ["sbc"]

SAVE_SECONDS = 2.0
HOPELESS = 10  # replications without ranks, and none with: the rest would fail likewise


def sbc(
    hierarchy: Hierarchy,
    tasks: Tasks,
    inference: str | PathLike[str] | Config = "auto",
    replications: int = 1000,
    *,
    truth: Hierarchy | None = None,
    draws: int = 99,
    theta: int = 3,
    seed: int = 0,
    cores: int | None = None,
    path: str | PathLike[str] | None = None,
    progress: bool = True,
) -> Calibration:
    """Simulation-based calibration of a back-end on a hierarchy.

    For each replication φ* is drawn from the hyperprior, θ* and y* from the task, with the inputs, contexts and
    sizes of `tasks`; the back-end is run on y*, its draws are thinned until they hardly depend on each other, and
    the true values are ranked among them: every element of φ, θ of a few tasks, and log densities of the data,
    which see what φ and θ alone do not (a dropped likelihood). All is set up and compiled once.

    Args:
        hierarchy: What is fitted.
        tasks: The design; of their observations only the shapes matter.
        inference: A preset's name, the path of a preset, or a configured back-end, as for `bayesmeta.fit`.
        replications: How many; 100 find gross errors, 1,000 an sd that is off by 10 %.
        truth: The hierarchy that data are drawn from, in place of the one that is fitted: shows what a wrong
            prior or likelihood does, and that the check would find it.
        draws: Number of draws that a true value is ranked among, at most.
        theta: Number of tasks whose θ is ranked, evenly spread over sizes.
        seed: Seeds everything; the result depends neither on the number of cores nor on interruptions.
        cores: Processes at once; all available cores by default. Elsewhere than on Linux, one.
        path: A file to keep the ranks in while they are made; with an existing one of the same settings, what it
            holds is not made again.
        progress: Show a progress bar.

    Returns:
        The ranks and what they say; after Ctrl-C those made until then.

    Raises:
        HierarchyError: Data cannot be drawn from the hierarchy (factors, observations that are not y itself).
        FileFormatError: `path` holds something else, or replications of something else.
        OptionError: An unknown preset or setting.
        BayesmetaError: No replication could be fitted.

    Example:
        >>> import bayesmeta as bm
        >>> from bayesmeta import shelf
        >>> schools = shelf.load_model("eight_schools")
        >>> quick = bm.NUTS(draws=50, tune=100, chains=2, compile=False)
        >>> bm.sbc(schools.hierarchy, schools.tasks(), quick, 4, cores=1, progress=False).ranks.shape
        (4, 8)
    """
    config = configured(inference)
    check(hierarchy, tasks, seed)
    if truth is not None:
        check(truth, tasks, seed)
    for name, value, least in (("replications", replications, 1), ("draws", draws, 1), ("theta", theta, 0)):
        check_whole(name, value, least)
    with stage("looking at the hierarchy", progress):
        settings: dict[str, Any] = {"draws": draws, "theta": theta, "seed": seed}
        replicator = Replicator(hierarchy, truth or hierarchy, tasks, config, **settings)
    book = _Book(replicator, _record(replicator, settings), replications, path)
    _fill(book, replicator, cores, progress)
    return book.calibration()


def _fill(book: _Book, replicator: Replicator, cores: int | None, progress: bool) -> None:
    """Make what is missing, the first in this process, so that what it compiles is there for all others."""
    missing = book.missing()
    try:
        with bar("calibrating", book.asked, progress) as step:
            step(book.asked - len(missing))
            for batch, count in ((missing[:1], 1), (missing[1:], cores)):
                with closing(run_all(replicator, batch, count)) as outcomes:
                    for outcome in outcomes:
                        book.enter(outcome)
                        step(1)
    except KeyboardInterrupt:
        if not book.ranks:
            raise
        warnings.warn(
            f"interrupted: {len(book.ranks):,} of {book.asked:,} replications were made", BayesmetaWarning, stacklevel=3
        )
    finally:
        book.save()


def _record(replicator: Replicator, settings: dict[str, Any]) -> dict[str, Any]:
    """What must agree for replications to belong together, as plain data."""
    config, design = replicator.config, replicator.design
    record = {
        "hierarchy": fingerprint(replicator.program, design),
        "truth": fingerprint(replicator.simulator, design),
        "tasks": design.fingerprint(),
        "inference": {"back_end": back_end_of(config), **dataclasses.asdict(config)},
        **settings,
        "road": replicator.evidence.road,
        "versions": versions(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(record, default=str))
    return plain


class _Book:
    """The replications made so far, in memory and in a file."""

    def __init__(
        self, replicator: Replicator, record: dict[str, Any], asked: int, path: str | PathLike[str] | None
    ) -> None:
        self.names, self.draws = replicator.quantities.names, replicator.draws
        self.record, self.asked = record, asked
        self.path = None if path is None else Path(path)
        self.ranks: dict[int, Any] = {}
        self.stats: dict[int, tuple[float, ...]] = {}
        self.unfitted: dict[int, str] = {}
        self._saved = time.monotonic()
        if self.path is not None and self.path.exists():
            self._read(Calibration.load(self.path))

    def missing(self) -> list[int]:
        """Positions that are still to be made."""
        return [k for k in range(self.asked) if k not in self.ranks and k not in self.unfitted]

    def enter(self, outcome: Outcome) -> None:
        """Take in a replication, and write the file now and then.

        Raises:
            BayesmetaError: One after the other cannot be fitted.
        """
        if outcome.ranks is None:
            self.unfitted[outcome.position] = outcome.reason
        else:
            self.ranks[outcome.position], self.stats[outcome.position] = outcome.ranks, outcome.stats
        if not self.ranks and len(self.unfitted) >= min(HOPELESS, self.asked):
            raise BayesmetaError(f"no replication could be fitted; the first: {self.unfitted[min(self.unfitted)]}")
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write what there is, of this run and of longer ones before it."""
        if self.path is not None and self.ranks:
            self._gathered(sorted(self.ranks), max(self.asked, 1 + max(self.ranks))).save(self.path)
        self._saved = time.monotonic()

    def calibration(self) -> Calibration:
        """The replications that were asked for."""
        return self._gathered([k for k in sorted(self.ranks) if k < self.asked], self.asked)

    def _gathered(self, order: list[int], asked: int) -> Calibration:
        ranks = np.array([self.ranks[k] for k in order], dtype=np.int64).reshape(len(order), len(self.names))
        stats = np.array([self.stats[k] for k in order], dtype=np.float64).reshape(len(order), len(STATS))
        unfitted = {k: reason for k, reason in self.unfitted.items() if k < asked}
        named = {name: stats[:, column] for column, name in enumerate(STATS)}
        positions = np.array(order, dtype=np.int64)
        return Calibration(self.names, ranks, self.draws, positions, named, unfitted, asked, self.record)

    def _read(self, found: Calibration) -> None:
        odd = self._differences(found)
        if odd:
            raise FileFormatError(
                f"path: {str(self.path)!r} holds replications of something else ({'; '.join(odd)}): name another file"
            )
        rows = np.stack([found.stats[name] for name in STATS], 1)
        for position, ranks, row in zip(found.positions.tolist(), found.ranks, rows.tolist(), strict=True):
            self.ranks[position], self.stats[position] = ranks, tuple(row)
        self.unfitted |= found.unfitted

    def _differences(self, found: Calibration) -> list[str]:
        if not found.record:
            return ["it was not made by bm.sbc"]
        odd = [
            sentence for key in ("hierarchy", "truth") for sentence in differences(found.record[key], self.record[key])
        ]
        for key in ("tasks", "inference", "draws", "theta", "seed"):
            if found.record[key] != self.record[key]:
                short = "other" if key == "tasks" else f"{found.record[key]!r} in place of {self.record[key]!r}"
                odd.append(f"{key}: {short}")
        return odd
