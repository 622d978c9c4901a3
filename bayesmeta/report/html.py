"""How a page of the house is written: one file of HTML that needs nothing else, and the few parts it is made of.

Every text is escaped here, so that a task named `<b>` is shown as it is called. A page has no script and asks for
nothing over the network, which its content security policy says too. Wide tables and pictures scroll in a frame of
their own, so that the page never does; in print they are shown whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["STYLE", "Section", "chip", "facts", "figure", "page", "paragraph", "preformatted", "table"]

STYLE = """
:root { color-scheme: light; --ink: #111; --soft: #4a4a4a; --line: #d5d5d5; --pale: #f5f6f8; --blue: #1f5fa8; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; color: var(--ink);
       background: #fff; margin: 0 auto; padding: 1rem 1rem 3rem; max-width: 56rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 1rem; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.5rem 0 .75rem; padding-top: .5rem;
     border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { margin: .6rem 0; max-width: 44rem; } ul { padding-left: 1.2rem; max-width: 44rem; }
a { color: var(--blue); } :focus-visible { outline: 2px solid var(--blue); outline-offset: 2px; }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1rem; max-width: none; }
figure { margin: 1.25rem 0; } figcaption, caption, .note { color: var(--soft); font-size: .9rem; }
figcaption { max-width: 44rem; } caption { text-align: left; padding-bottom: .3rem; }
img { display: block; width: 100%; height: auto; }
.wide { overflow-x: auto; margin: .75rem 0; background: no-repeat local, no-repeat local, no-repeat, no-repeat;
  background-image: linear-gradient(90deg, #fff 30%, #fff0), linear-gradient(270deg, #fff 30%, #fff0),
    linear-gradient(90deg, #0003, #0000), linear-gradient(270deg, #0003, #0000);
  background-position: 0 0, 100% 0, 0 0, 100% 0; background-size: 2rem 100%, 2rem 100%, .5rem 100%, .5rem 100%; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .6rem .25rem 0; text-align: left; vertical-align: top; white-space: nowrap;
         border-bottom: 1px solid var(--line); }
tbody th { font-weight: 600; } .long { white-space: normal; min-width: 12rem; }
th.number, td.number { text-align: right; padding: .25rem .6rem; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: .75rem 0; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", Consolas, monospace; font-size: .85rem; }
pre { overflow-x: auto; background: var(--pale); padding: .7rem .9rem; margin: .75rem 0; }
.chip { display: inline-block; padding: .05rem .6rem; border-radius: 1rem; font-weight: 600; color: #fff; }
.fine { background: #1d6b3f; } .doubtful { background: #8a5200; } .failed { background: #a32a1e; }
summary { cursor: pointer; color: var(--blue); }
footer { margin-top: 3rem; }
@media (max-width: 30rem) {
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; }
  table { font-size: .85rem; } th, td { padding-right: .4rem; } th.number, td.number { padding: .25rem .35rem; }
}
@media print {
  body { font-size: 10.5pt; max-width: none; padding: 0; } nav { display: none; }
  a { color: inherit; text-decoration: none; } h2, h3 { break-after: avoid; } figure, tr { break-inside: avoid; }
  img { min-width: 0 !important; max-height: 21cm; width: auto; max-width: 100% !important; }
  .wide, pre { overflow: visible; background-image: none; }
  pre { white-space: pre-wrap; } .chip { color: inherit; background: none; border: 1px solid; }
}
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading.

    Attributes:
        anchor: Its address within the page.
        title: Its heading, plain text.
        parts: Its HTML, piece by piece.
    """

    anchor: str
    title: str
    parts: tuple[str, ...]


def page(title: str, lead: Sequence[str], sections: Sequence[Section], footer: str = "") -> str:
    """A whole page.

    Args:
        title: Its title, plain text.
        lead: HTML between the title and the contents.
        sections: What follows, each under its heading; two or more have a list of contents.
        footer: The last line, plain text.
    """
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    body = [f"<h1>{escape(title)}</h1>", *lead, *(_contents(sections) if len(sections) > 1 else ())]
    body += [_section(section) for section in sections]
    main = "\n".join(body)
    end = f'\n<footer class="note">{escape(footer)}</footer>' if footer else ""
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{main}\n</main>{end}\n</body></html>\n'


def _contents(sections: Sequence[Section]) -> list[str]:
    items = "".join(f'<li><a href="#{one.anchor}">{escape(one.title)}</a></li>' for one in sections)
    return [f'<nav aria-label="Contents"><ul>{items}</ul></nav>']


def _section(section: Section) -> str:
    inner = "\n".join(section.parts)
    heading = f'<h2 id="{section.anchor}">{escape(section.title)}</h2>'
    return f'<section aria-labelledby="{section.anchor}">\n{heading}\n{inner}\n</section>'


# --- parts ----------------------------------------------------------------------------------------------------


def paragraph(text: str, *, note: bool = False) -> str:
    """A paragraph of plain text; as a note in smaller type."""
    return f'<p class="note">{escape(text)}</p>' if note else f"<p>{escape(text)}</p>"


def preformatted(text: str) -> str:
    """Text whose line breaks and spaces count, such as a formula. It can be scrolled by the keyboard."""
    return f'<pre tabindex="0">{escape(text)}</pre>'


def chip(level: str) -> str:
    """A verdict as a coloured word: ``"fine"``, ``"doubtful"`` or ``"failed"``."""
    return f'<span class="chip {escape(level)}">{escape(level)}</span>'


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Terms and what is said of each, plain text, one below the other."""
    return f"<dl>{''.join(f'<dt>{escape(term)}</dt><dd>{escape(text)}</dd>' for term, text in pairs)}</dl>"


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Sequence[int] = (),
    long: Sequence[int] = (),
    caption: str = "",
) -> str:
    """A table of plain text in a frame that scrolls sideways; the first cell of a row is its heading.

    Args:
        head: The headings.
        rows: The cells, row by row.
        numbers: Positions of the columns that hold numbers, which stand to the right.
        long: Positions of the columns that hold sentences, which may break.
        caption: What the table shows.
    """
    kinds = ["number" if k in numbers else "long" if k in long else "" for k in range(len(head))]
    top = "".join(_cell("th", cell, kind, ' scope="col"') for cell, kind in zip(head, kinds, strict=True))
    body = "".join(f"<tr>{_row(row, kinds)}</tr>" for row in rows)
    words = f"<caption>{escape(caption)}</caption>" if caption else ""
    name = escape(caption or ", ".join(head))
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{name}"><table>{words}<thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(row: Sequence[str], kinds: Sequence[str]) -> str:
    first, *rest = row
    cells = [_cell("td", cell, kind) for cell, kind in zip(rest, kinds[1:], strict=True)]
    return _cell("th", first, kinds[0], ' scope="row"') + "".join(cells)


def _cell(tag: str, text: str, kind: str, more: str = "") -> str:
    mark = f' class="{kind}"' if kind else ""
    return f"<{tag}{mark}{more}>{escape(text)}</{tag}>"


def figure(source: str, alt: str, caption: str, *, width: int = 900) -> str:
    """A picture with its caption, as wide as there is room but never so narrow that it cannot be read: then it scrolls.

    Args:
        source: A data URI.
        alt: What the picture shows, for those who do not see it.
        caption: What stands below it.
        width: How wide it is drawn at most, in CSS pixels.
    """
    style = f"max-width:{width}px;min-width:min(28rem,{width}px)"
    image = f'<img src="{source}" alt="{escape(alt)}" style="{style}">'
    name = escape(f"Picture: {alt[:80]}")
    frame = f'<div class="wide" tabindex="0" role="region" aria-label="{name}">{image}</div>'
    return f"<figure>{frame}<figcaption>{escape(caption)}</figcaption></figure>"
