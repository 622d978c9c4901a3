"""Whether the draws can be trusted: the verdict, each check behind it, and what to do about it."""

from __future__ import annotations

from html import escape

from bayesmeta.report.html import Section, chip, paragraph, table
from bayesmeta.report.subject import Subject

__all__ = ["section"]

MEANING = {
    "fine": "Every check came out well: the numbers below may be used.",
    "doubtful": "Something is not as it should be: read the reasons before using the numbers below.",
    "failed": "The draws are not draws of the posterior: do not use the numbers below.",
}


def section(subject: Subject) -> Section:
    """The verdict on the draws."""
    verdict = subject.posterior.verdict
    parts = [f"<p>{chip(verdict.level)} {escape(MEANING[verdict.level])}</p>"]
    if verdict.findings:
        rows = [(one.check, one.level, one.reason, one.remedy or "–") for one in verdict.findings]
        head = ("check", "verdict", "what was found", "what to do")
        kept = 4 if verdict.remedies else 3
        parts.append(table(head[:kept], [row[:kept] for row in rows], long=(2, 3)))
    else:
        parts.append(paragraph("No check was made of these draws."))
    if subject.posterior.weighted is not None:
        parts.append(
            paragraph("Tasks were added after the fit, without a refit; how that went is told at the end of the page.")
        )
    return Section("verdict", "Can it be trusted?", tuple(parts))
