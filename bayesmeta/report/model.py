"""The hierarchy in words and formula: the story that its file tells, and its sites as they were found."""

from __future__ import annotations

from bayesmeta.plot.style import input_label
from bayesmeta.report.formula import Line, formula
from bayesmeta.report.html import Section, paragraph, preformatted
from bayesmeta.report.story import as_html, title_of
from bayesmeta.report.subject import Subject

__all__ = ["section"]

MOST_INPUTS = 12


def section(subject: Subject) -> Section:
    """What all tasks have in common, how one arises from it, and what is observed of it."""
    lines = formula(subject.light)
    parts = _told(subject.story)
    parts += ["<h3>As the program found it</h3>", *map(paragraph, _in_words(subject, lines))]
    parts += [preformatted(_aligned(lines)), paragraph(READING, note=True)]
    parts.append(paragraph(f"How it was computed: {subject.posterior.info.road}."))
    return Section("hierarchy", "The hierarchy", tuple(parts))


def _in_words(subject: Subject, lines: list[Line]) -> list[str]:
    """What is shared, what is a task's own, and what is observed, a sentence each."""
    noun = subject.noun
    words = []
    for level, start in (("phi", "All tasks share φ: "), ("theta", f"Each {noun} has a θ of its own: ")):
        sites = [f"{line.name} ({_kind(line)})" for line in lines if line.level == level]
        if sites:
            words.append(start + ", ".join(sites) + ".")
    names = ", ".join(line.name for line in lines if line.level == "observed")
    given = [*_inputs(subject), *subject.tasks.context]
    words.append(f"Observed is {names}" + (f", given {', '.join(given)}." if given else "."))
    return words


def _kind(line: Line) -> str:
    return line.support if line.shape == "scalar" else f"{line.support}, {line.shape}"


def _inputs(subject: Subject) -> list[str]:
    """Names of the inputs, as many as can be read."""
    x = subject.tasks.x
    count = x.shape[1] if x.dim() == 2 else 1
    names = [input_label(subject.tasks, k) for k in range(count)]
    return names if count <= MOST_INPUTS else [*names[:MOST_INPUTS], f"and {count - MOST_INPUTS} more"]


READING = (
    "loc(a, b) stands for a location that the model computes from a and b, and likewise for other parameters; "
    "what a name alone stands for is the value of that site, of a context or of an input column."
)


def _told(story: str) -> list[str]:
    """The story without its first line, which is the title of the page."""
    head = title_of(story)
    rest = story.strip().partition("\n")[2]
    return as_html(rest) if rest.strip() else [paragraph(head)] if head else []


def _aligned(lines: list[Line]) -> str:
    """One line per site: name ~ distribution, θ and observations with the index of their task."""
    names = [line.name if line.level == "phi" else f"{line.name}_t" for line in lines]
    width = max(map(len, names))
    rows = [f"{name:<{width}} ~ {line.distribution}" for name, line in zip(names, lines, strict=True)]
    kinds = [line.level for line in lines]
    breaks = {k for k in range(1, len(lines)) if kinds[k] != kinds[k - 1]}
    return "\n".join(("\n" if k in breaks else "") + row for k, row in enumerate(rows))
