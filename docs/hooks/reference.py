"""The reference of a whole package in one line: what its `__all__` names, each from its own docstring.

A page that says `<!-- everything in bayesmeta.plot -->` lists what that package offers, so that nothing is
forgotten where something new is added. Names are found by reading the file, and nothing is imported.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WISH = re.compile(r"^<!-- everything in (bayesmeta[\w.]*)(?: but ([\w, ]+))? -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Write out the names of the packages that a page asks for."""
    return WISH.sub(lambda found: _entries(found[1], (found[2] or "").replace(" ", "").split(",")), markdown)


def _entries(package: str, without: list[str]) -> str:
    called = package.replace("bayesmeta", "bm", 1)
    return "\n".join(
        f"::: {path}\n    options:\n      heading: {called}.{name}\n      toc_label: {name}\n"
        for name, path in public(package).items()
        if name not in without
    )


def public(package: str) -> dict[str, str]:
    """The public names of a package, each with the path of where it is defined."""
    folder = ROOT.joinpath(*package.split("."))
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    names: list[str] = []
    places: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            places |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = ast.literal_eval(node.value)
    return {name: places.get(name, f"{package}.{name}") for name in sorted(names, key=str.lower)}
