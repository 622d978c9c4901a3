"""The demonstration as one self-contained page: tables, pictures, and how it was made."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from bayesmeta.demo import pictures, tables
from bayesmeta.demo.result import Result

__all__ = ["write"]

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #111; background: #fff; margin: 0 auto; padding: 1rem;
       max-width: 56rem; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin-top: 2rem; }
figure { margin: 1.5rem 0; } figcaption { color: #444; font-size: .9rem; }
img { width: 100%; min-width: 38rem; height: auto; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .5rem; text-align: left; white-space: nowrap; border-bottom: 1px solid #ddd; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
code, pre { font-size: .85rem; } pre { overflow-x: auto; background: #f5f5f5; padding: .7rem; }
"""


def write(result: Result, out: Path) -> list[Path]:
    """Write the page, its pictures and the predictions into a folder; files of an earlier run are replaced.

    Returns:
        The files, the page first.
    """
    out.mkdir(parents=True, exist_ok=True)
    drawn = pictures.draw(result, out)
    predictions = out / "predictions.csv"
    result.frame("both").to_csv(predictions, index=False)
    page = out / "index.html"
    page.write_text(_page(result, drawn), encoding="utf-8")
    return [page, *(picture.path for picture in drawn), predictions]


def _page(result: Result, drawn: list[pictures.Picture]) -> str:
    title = _title(result)
    scores, examples = tables.scores(result), tables.examples(result)
    first, *others = drawn[::-1]
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(_story(result))}</p>",
        f"<h2>{escape(scores.title)}</h2>",
        _table(scores),
        f"<p>{escape(tables.reading(result))}</p>",
        _figure(first),
        f"<h2>{escape(examples.title)}</h2>",
        _table(examples),
        "<h2>What the population does</h2>",
        *(_figure(picture) for picture in others[::-1]),
        "<h2>How it was made</h2>",
        *(f"<p>{escape(sentence)}</p>" for sentence in tables.timing(result)),
        f"<pre>{escape(repr(result.first.posterior.info))}</pre>",
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{body}\n</main></body></html>\n'


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


def _table(table: tables.Table) -> str:
    def cells(tag: str, row: tuple[str, ...]) -> str:
        marks = ['<{} class="number">' if k in table.numbers else "<{}>" for k in range(len(row))]
        return "".join(f"{mark.format(tag)}{escape(cell)}</{tag}>" for mark, cell in zip(marks, row, strict=True))

    head = f"<thead><tr>{cells('th', table.head)}</tr></thead>"
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


def _figure(picture: pictures.Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    image = f'<img src="data:image/png;base64,{data}" alt="{escape(picture.alt)}">'
    return f'<figure><div class="wide">{image}</div><figcaption>{escape(picture.caption)}</figcaption></figure>'
