"""What a model says of itself: the docstring of its file, as paragraphs and formulas.

A model file of the gallery opens with its story and its formula; a copy of it lies in every run. A hierarchy that
was written elsewhere is told by the docstrings of its two functions, or of the Pyro model it came from.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

from bayesmeta.hierarchy import Hierarchy
from bayesmeta.report.html import paragraph, preformatted

__all__ = ["as_html", "story_of", "title_of"]

LOADED = "bayesmeta_model_"  # what `bayesmeta.shelf` calls the modules of model files
REFERENCE = re.compile(r"[^\W\d_][\w'-]+, (?:[^\W\d_]\.[ -]?)+")  # "Gelman, A. and Hill, J. (2007)"


def story_of(hierarchy: Hierarchy) -> str:
    """The docstring of the model file that the hierarchy stands in, else those of its functions; perhaps empty."""
    plated = hierarchy._plated
    functions = [hierarchy.hyperprior, hierarchy.task] if plated is None else [plated.model]
    around = [getattr(function, "__globals__", {}) for function in functions]
    files = [vars(module) for name, module in list(sys.modules.items()) if name.startswith(LOADED)]
    for module in (*around, *files):
        # a notebook is a module as well, without a file, and its docstring is IPython's
        if module.get("hierarchy") is hierarchy and module.get("__doc__") and module.get("__file__"):
            return inspect.cleandoc(str(module["__doc__"]))
    return "\n\n".join(text for text in map(_docstring, functions) if text)


def _docstring(function: Callable[..., Any]) -> str:
    """Of a function; an object that is called has the docstring of its class, which is not about the model."""
    return inspect.cleandoc(function.__doc__ or "") if inspect.isfunction(function) else ""


def title_of(story: str) -> str:
    """The first line of a story, without its full stop."""
    return story.strip().partition("\n")[0].strip().rstrip(".")


def as_html(story: str) -> list[str]:
    """Paragraphs as paragraphs, indented blocks as they stand."""
    parts: list[str] = []
    for block in _blocks(story):
        indented = all(line.startswith("    ") for line in block)
        parts.append(
            preformatted(inspect.cleandoc("\n".join(["", *block]))) if indented else paragraph(" ".join(block))
        )
    return parts


def _blocks(story: str) -> list[list[str]]:
    """Runs of lines between empty ones; a list of references is cut where each begins."""
    blocks: list[list[str]] = [[]]
    for line in story.strip("\n").splitlines():
        if not line.strip() or (blocks[-1] and REFERENCE.match(line) and REFERENCE.match(blocks[-1][0])):
            blocks.append([])
        if line.strip():
            blocks[-1].append(line.rstrip())
    return [block for block in blocks if block]
