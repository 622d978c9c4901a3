"""φ, what all tasks share: its numbers in a table, and what the data have taught about them in a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayesmeta import plot
from bayesmeta.report.data import number
from bayesmeta.report.html import Section, paragraph, table
from bayesmeta.report.pictures import taken
from bayesmeta.report.subject import Subject
from bayesmeta.summary import overview

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["rows_of", "section"]

COLUMNS = ("mean", "sd", "q05", "q50", "q95", "ess_bulk", "ess_tail", "r_hat")
MOST_ROWS = 60
READING = (
    "sd is the posterior's standard deviation; q05 to q95 holds 90 % of it. ess counts how many independent draws the "
    "draws are worth, in the middle and in the tails; r_hat compares chains and is 1 where they agree. Draws by "
    "importance weights form no chain and have no r_hat."
)


def section(subject: Subject) -> Section:
    """The posterior of φ."""
    posterior = subject.posterior
    structure = posterior.collapsed.program.structure
    frame = overview(
        posterior.phi, posterior.draws.u.shape[:2], structure.phi, effective_size=posterior.info.effective_size
    )
    parts = [paragraph("What the data say about the parameters that all tasks share."), *_table(frame)]
    if not subject.ensemble:
        parts.append(_picture(subject))
    return Section("phi", "The population: φ", tuple(parts))


def rows_of(frame: pd.DataFrame, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The rows of a table of summaries as text, their names first."""
    values = frame[list(columns)].to_numpy(dtype=float)
    return [(str(name), *map(number, row)) for name, row in zip(frame.index, values, strict=True)]


def _table(frame: pd.DataFrame) -> list[str]:
    shown = tuple(name for name in COLUMNS if not frame[name].isna().all())
    rows = rows_of(frame.head(MOST_ROWS), shown)
    caption = "φ, number by number"
    if len(frame) > MOST_ROWS:
        caption += f": the first {MOST_ROWS} of {len(frame):,}; posterior.summary() has all"
    return [
        table(("φ", *shown), rows, numbers=range(1, 1 + len(shown)), caption=caption),
        paragraph(READING, note=True),
    ]


def _picture(subject: Subject) -> str:
    sites = ", ".join(subject.posterior.collapsed.program.structure.phi.names)
    alt = f"Posterior densities of the elements of φ ({sites}), each with its prior, and of pairs of them."
    caption = (
        "The posterior of each number with its prior behind it, and of pairs where numbers are few. A prior that "
        "reaches beyond the picture was told much by the data."
    )
    return taken(lambda: plot.phi(subject.light, seed=subject.seed), alt, caption)
