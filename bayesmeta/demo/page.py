"""The demonstration as one self-contained page: tables, pictures, and how it was made."""

from __future__ import annotations

import base64
from pathlib import Path

from bayesmeta.demo import pictures, tables
from bayesmeta.demo.result import Result
from bayesmeta.report.html import Section, figure, page, paragraph, preformatted, table

__all__ = ["write"]


def write(result: Result, out: Path) -> list[Path]:
    """Write the page, its pictures and the predictions into a folder; files of an earlier run are replaced.

    Returns:
        The files, the page first.
    """
    out.mkdir(parents=True, exist_ok=True)
    drawn = pictures.draw(result, out)
    predictions = out / "predictions.csv"
    result.frame("both").to_csv(predictions, index=False)
    index = out / "index.html"
    index.write_text(_page(result, drawn), encoding="utf-8")
    return [index, *(picture.path for picture in drawn), predictions]


def _page(result: Result, drawn: list[pictures.Picture]) -> str:
    scores, examples = tables.scores(result), tables.examples(result)
    first, *others = drawn[::-1]
    made = [paragraph(sentence) for sentence in tables.timing(result)]
    sections = [
        Section("scores", scores.title, (_table(scores), paragraph(tables.reading(result)), _figure(first))),
        Section("examples", examples.title, (_table(examples),)),
        Section("population", "What the population does", tuple(_figure(picture) for picture in others[::-1])),
        Section("making", "How it was made", (*made, preformatted(repr(result.first.posterior.info)))),
    ]
    return page(_title(result), [paragraph(_story(result))], sections)


def _title(result: Result) -> str:
    words, setting = result.words, result.setting
    few = f"{setting.support} {words.rows}"
    return f"{Path(setting.model).stem}: {setting.hidden} new {words.tasks}, {few} from each"


def _story(result: Result) -> str:
    words, setting, first = result.words, result.setting, result.first
    others = len(result.rounds) - 1
    more = f" The scores are of this and {others} more rounds, which hid other {words.tasks}." if others else ""
    return (
        f"A population was learnt from {len(first.posterior.tasks)} {words.tasks}. {setting.hidden} others were "
        f"hidden from it: {', '.join(first.query.names)}. Each was adapted to {setting.support} of its {words.rows}, "
        f"without a refit, and its other {words.rows} were predicted, {first.query.n_observations} in all. Zero-shot "
        f"predicts them from the population, before any {words.row} of the {words.task} is seen.{more}"
    )


def _table(shown: tables.Table) -> str:
    return table(shown.head, shown.rows, numbers=shown.numbers)


def _figure(picture: pictures.Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    return figure(f"data:image/png;base64,{data}", picture.alt, picture.caption)
