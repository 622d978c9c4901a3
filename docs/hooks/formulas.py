"""Formulas as MathML, which browsers draw by themselves: no page asks another machine for a script."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
# The converter leaves no room between the name of a function and what it is applied to.
FUNCTION = re.compile(r"<m[io][^>]*>(log|exp|det|min|max)</m[io]>(?!<mo stretchy)")

TILDE = "<mi>&#x0007E;</mi>"  # it is a relation, and the converter does not say so


def on_page_content(content: str, **_: Any) -> str:
    """Draw the formulas of a page that was rendered."""
    return FORMULA.sub(_drawn, content)


def _drawn(found: re.Match[str]) -> str:
    wrapper, bracket, source = found.groups()
    latex = html.unescape(source).strip()
    display = "block" if bracket == "[" else "inline"
    mathml = FUNCTION.sub(r'<mi>\1</mi><mspace width="0.17em"/>', convert(latex, display=display))
    mathml = mathml.replace(TILDE, '<mo lspace="0.28em" rspace="0.28em">&#x0223C;</mo>')
    return f'<{wrapper} class="formula" title="{html.escape(latex)}">{mathml}</{wrapper}>'
