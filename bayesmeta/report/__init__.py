"""A posterior as one page to send to a colleague: a single file of HTML that needs no network.

The hierarchy in words and formula, the data, whether the draws can be trusted, φ, θ of the tasks, predictive checks,
leave-one-task-out, calibration, and how it was made. What does not apply to a posterior is a sentence in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from bayesmeta.archive import written_whole
from bayesmeta.errors import BayesmetaError, NotAvailableError, OptionError
from bayesmeta.report import calibrating, checking, data, leaving, making, model, population, shrinking, verdicts
from bayesmeta.report.data import counted
from bayesmeta.report.html import Section, chip, page, paragraph
from bayesmeta.report.story import story_of, title_of
from bayesmeta.report.subject import Subject
from bayesmeta.track import bar

if TYPE_CHECKING:
    from bayesmeta.posterior import Posterior

__all__ = ["as_page", "report"]

SECTIONS: tuple[tuple[str, str, Callable[[Subject], Section]], ...] = (
    ("verdict", "Can it be trusted?", verdicts.section),
    ("hierarchy", "The hierarchy", model.section),
    ("data", "The data", data.section),
    ("phi", "The population: φ", population.section),
    ("theta", shrinking.TITLE, shrinking.section),
    ("checks", checking.TITLE, checking.section),
    ("loo", leaving.TITLE, leaving.section),
    ("calibration", calibrating.TITLE, calibrating.section),
    ("making", "How it was made", making.section),
)


def report(
    posterior: Posterior,
    path: str | PathLike[str],
    *,
    title: str | None = None,
    story: str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Write a posterior as one self-contained page of HTML.

    Args:
        posterior: The posterior.
        path: The file; its folder is made where it is missing, and a file that is there is replaced.
        title: The heading; by default the first line of the story.
        story: What the model is about, in plain text; indented blocks are kept as they stand. By default the
            docstring of the model file, or those of the functions of the hierarchy.
        seed: Seeds what is drawn for the page.
        progress: Show a bar while it is made.

    Returns:
        The path of the file.

    Raises:
        NotAvailableError: The file cannot be written there.
        OptionError: A seed below 0.
    """
    target = Path(path)
    if target.is_dir():
        raise NotAvailableError(f"path: {str(target)!r} is a folder; wanted the path of a file, such as report.html")
    text = as_page(posterior, title=title, story=story, seed=seed, progress=progress)
    with written_whole(target) as partial:
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
    return target


def as_page(
    posterior: Posterior,
    *,
    title: str | None = None,
    story: str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> str:
    """The page as text; see `report`."""
    if not isinstance(seed, int) or seed < 0:
        raise OptionError(f"seed must be a whole number of at least 0, got {seed!r}")
    told = story_of(posterior.hierarchy) if story is None else story
    subject = Subject(posterior, told, seed)
    heading = title or title_of(told) or f"A population of {counted(len(posterior.tasks), 'task')}"
    with bar("writing the report", len(SECTIONS), progress) as step:
        sections = [_written(subject, *one, step) for one in SECTIONS]
    version = posterior.info.versions.get("bayesmeta", "")
    return page(heading, _lead(subject), sections, f"Made by bayesmeta {version}".strip())


def _written(
    subject: Subject, anchor: str, title: str, make: Callable[[Subject], Section], step: Callable[[], None]
) -> Section:
    """A section, or the reason why there is none."""
    try:
        return make(subject)
    except BayesmetaError as error:
        return Section(anchor, title, (paragraph(f"Not shown: {error}"),))
    finally:
        step()


def _lead(subject: Subject) -> Sequence[str]:
    posterior = subject.posterior
    verdict, structure = posterior.verdict, posterior.collapsed.program.structure
    shared, own = counted(structure.phi.size, "parameter"), structure.theta.size
    text = (
        f"{counted(len(subject.tasks), 'task')}, {counted(subject.tasks.n_observations, 'observation')}; "
        f"all tasks share {shared} (φ)" + (f", each has {own:,} of its own (θ). " if own else ". ")
    )
    return [f"<p>{escape(text)}The draws are {chip(verdict.level)}</p>"]
