"""How it was made: back-end and settings, times, what was done on the way, seed and versions."""

from __future__ import annotations

from bayesmeta.report.html import Section, facts, paragraph
from bayesmeta.report.subject import Subject

__all__ = ["section"]


def section(subject: Subject) -> Section:
    """What is needed to make it again."""
    info = subject.posterior.info
    chains, draws = subject.posterior.draws.u.shape[:2]
    settings = ", ".join(f"{name} = {value}" for name, value in info.inference.items() if name != "back_end")
    seconds = ", ".join(f"{name} {value:.2f} s" for name, value in info.seconds.items())
    pairs = [
        ("back-end", str(info.inference.get("back_end"))),
        ("settings", settings or "none"),
        ("draws kept", f"{chains} × {draws:,}"),
        ("evidence of a task", info.road),
        ("log density", f"{info.density}, {info.gradients:,} gradients, {info.divergences} divergences"),
        ("time", seconds),
        ("seed", str(info.seed)),
        ("versions", ", ".join(f"{name} {value}" for name, value in info.versions.items())),
    ]
    parts = [facts(pairs)]
    if info.log:
        parts += ["<h3>What was done on the way</h3>", *(paragraph(line) for line in info.log)]
    if info.interrupted:
        parts.append(paragraph("It was interrupted before all draws were taken."))
    return Section("making", "How it was made", tuple(parts))
