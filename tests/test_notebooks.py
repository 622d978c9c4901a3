"""What is written in `notebooks/`: run in order, small, whole, and readable away from the machine that ran them.

That they run is what nbmake tests, with the smaller numbers in the metadata of their cells: `pytest notebooks`.
"""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_BYTES = 200_000
MOST_PIXELS = 1_400  # of the width of a picture


def _id(path: Path) -> str:
    return path.stem


@pytest.fixture(params=NOTEBOOKS, ids=_id)
def path(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


@pytest.fixture
def cells(path: Path) -> list[Any]:
    notebook: Any = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return list(notebook.cells)


def _code(cells: list[Any]) -> list[Any]:
    return [cell for cell in cells if cell.cell_type == "code"]


def _outputs(cells: list[Any]) -> list[Any]:
    return [output for cell in _code(cells) for output in cell.outputs]


def test_they_are_small(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES


def test_they_were_run_from_top_to_bottom(cells: list[Any]) -> None:
    assert [cell.execution_count for cell in _code(cells)] == list(range(1, len(_code(cells)) + 1))


def test_nothing_went_wrong_when_they_were_run(cells: list[Any]) -> None:
    assert [output for output in _outputs(cells) if output.output_type == "error"] == []
    assert [output.text for output in _outputs(cells) if output.get("name") == "stderr"] == []


def test_no_output_names_the_machine(cells: list[Any]) -> None:
    for output in _outputs(cells):
        shown = "".join(str(value) for kind, value in output.get("data", {}).items() if kind != "image/png")
        assert re.search(r"(/root|/home|/work|/tmp|/Users|[A-Z]:\\)", shown + output.get("text", "")) is None


def test_there_are_pictures_with_words_for_them(cells: list[Any]) -> None:
    pictures = [output for output in _outputs(cells) if "image/png" in output.get("data", {})]

    assert pictures
    for picture in pictures:
        assert len(picture.metadata["image/png"]["alt"]) > 20
        width = int.from_bytes(base64.b64decode(picture.data["image/png"])[16:20], "big")
        assert 300 < width < MOST_PIXELS


def test_words_come_before_code(cells: list[Any]) -> None:
    """A reader is told what is about to be done: no long run of cells without a word."""
    kinds = "".join("c" if cell.cell_type == "code" else "m" for cell in cells)

    assert kinds.startswith("m")
    assert "cccc" not in kinds
    assert cells[0].source.startswith("# ")


def test_what_they_point_to_exists(cells: list[Any]) -> None:
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in link or (FOLDER / link).exists(), link


def test_smaller_numbers_for_the_tests_are_those_of_a_cell_of_settings(cells: list[Any]) -> None:
    for cell in _code(cells):
        for name, value in cell.metadata.get("nbmake", {}).get("mock", {}).items():
            assert "parameters" in cell.metadata.tags
            assert re.search(rf"^{name} = ", cell.source, flags=re.MULTILINE), name
            assert re.search(rf"^{name} = {re.escape(repr(value))}(\s|$)", cell.source, flags=re.MULTILINE) is None


def test_all_are_listed_and_run() -> None:
    """The index names each, and nbmake takes every file of the folder."""
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert NOTEBOOKS
    assert re.findall(r"\]\((\d_\w+\.ipynb)\)", index) == [path.name for path in NOTEBOOKS]

    told = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n0", "notebooks"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    for path in NOTEBOOKS:
        assert f"notebooks/{path.name}" in told
