"""Run notebooks at full size and write what comes out into them, pictures small: `make notebooks`.

The tests run the same notebooks by nbmake, with the smaller numbers that stand in the metadata of the cell of
settings (``nbmake: {"mock": ...}``), and write nothing.

Examples:
    python notebooks/refresh.py              # all of them
    python notebooks/refresh.py 1 3          # those whose names begin so
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

__all__ = ["main", "refresh"]

HERE = Path(__file__).parent
COLOURS = 128  # of a picture: text and lines need no more
OCTREE = Image.Quantize.FASTOCTREE  # which keeps the colour of a single dot
TIMEOUT = 1800  # seconds for a cell


def refresh(path: Path) -> None:
    """Run one notebook from an empty kernel and write it back with its outputs, but for those that ended empty."""
    notebook: Any = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=TIMEOUT, record_timing=False, resources={"metadata": {"path": HERE}}).execute()
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.outputs = [output for output in cell.outputs if output.get("data", {}).get("text/html") != ""]
        for output in cell.outputs:
            _tidy(output, cell.metadata.get("alt"))
    notebook.metadata.language_info = {"name": "python"}  # the version of the interpreter changes nothing
    text = nbformat.writes(notebook)
    path.write_text(f"{text.rstrip()}\n", encoding="utf-8")


def _tidy(output: Any, alt: str | None) -> None:
    """Make the picture of an output small, and give it the words that stand for it."""
    data = output.get("data", {})
    if "image/png" not in data:
        return
    data["image/png"] = _small(data["image/png"])
    data.pop("text/plain", None)  # <Figure size ...>
    if alt:
        output.metadata["image/png"] = {"alt": alt}


def _small(encoded: str) -> str:
    """The same picture with few colours, base64."""
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        few = picture.convert("RGB").quantize(COLOURS, method=OCTREE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    few.save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def main(arguments: list[str] | None = None) -> None:
    """Refresh the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="how the names of the notebooks begin; all by default")
    names = tuple(parser.parse_args(arguments).names) or ("",)
    chosen = [path for path in sorted(HERE.glob("*.ipynb")) if path.name.startswith(names)]
    if not chosen:
        parser.error(f"no notebook begins with {', '.join(names)}")
    for path in chosen:
        sys.stderr.write(f"{path.name}\n")
        refresh(path)


if __name__ == "__main__":
    main()
