"""Models and presets are found by name or path, copied, and a broken model file says what is wrong where."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bayesmeta import shelf
from bayesmeta.errors import FileFormatError, HierarchyError, NotAvailableError, UnknownNameError

GOOD = '''"""A level per site.

A story.
"""

import pyro
import pyro.distributions as dist

import bayesmeta as bm


def hyperprior():
    return pyro.sample("mu", dist.Normal(0.0, 5.0))


def task(mu, x, y=None):
    level = pyro.sample("level", dist.Normal(mu, 1.0))
    return pyro.sample("y", dist.Normal(level + 0.0 * x, 1.0).to_event(1), obs=y)


hierarchy = bm.Hierarchy(hyperprior, task)


def load():
    return bm.Tasks.from_lists([[0.0], [0.0, 0.0]], [[1.0], [2.0, 3.0]])
'''


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "wards.py"
    path.write_text(GOOD)
    return path


def test_a_name_is_looked_up_in_the_folder() -> None:
    assert shelf.find("preset", "nuts") == shelf.folder("preset") / "nuts.toml"


def test_a_path_is_taken_as_it_is(model: Path) -> None:
    assert shelf.find("model", str(model)) == model
    assert shelf.find("model", model) == model


def test_a_file_in_the_working_directory_is_a_path(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)

    assert shelf.find("model", "wards.py") == Path("wards.py")


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown preset 'nut'; valid: .*did you mean 'nuts'\?"):
        shelf.find("preset", "nut")


def test_a_missing_file_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(NotAvailableError, match=r"preset: no file '.*mine\.toml' \(looked in .*wanted the path"):
        shelf.find("preset", tmp_path / "mine.toml")


def test_every_file_has_a_title() -> None:
    for kind in ("model", "preset"):
        for name in shelf.names(kind):
            assert len(shelf.title(shelf.path_of(kind, name))) > 10


def test_copy_puts_the_file_into_a_folder_or_under_a_new_name(tmp_path: Path) -> None:
    original = shelf.path_of("preset", "nuts").read_text()

    in_folder = shelf.copy("preset", "nuts", tmp_path / "new")
    renamed = shelf.copy("preset", "nuts", tmp_path / "mine.toml")

    assert in_folder == tmp_path / "new" / "nuts.toml"
    assert renamed == tmp_path / "mine.toml"
    assert in_folder.read_text() == renamed.read_text() == original


def test_copy_overwrites_nothing(tmp_path: Path) -> None:
    shelf.copy("preset", "nuts", tmp_path)

    with pytest.raises(NotAvailableError, match=r"to: .*nuts\.toml' exists already"):
        shelf.copy("preset", "nuts", tmp_path)


def test_an_installed_package_reads_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "bayesmeta"
    (installed / "gallery" / "inference").mkdir(parents=True)
    monkeypatch.setattr(shelf, "__file__", str(installed / "shelf.py"))

    assert shelf.folder("preset") == installed / "gallery" / "inference"
    with pytest.raises(NotAvailableError, match="the models that come with bayesmeta are missing"):
        shelf.folder("model")


def test_a_model_file_is_loaded_as_a_module_of_its_own(model: Path) -> None:
    other = model.parent / "other" / "wards.py"
    other.parent.mkdir()
    other.write_text(GOOD.replace('"level"', '"height"'))

    first, second = shelf.load_model(model), shelf.load_model(other)

    assert (first.name, first.path) == ("wards", model)
    assert first.tasks().names == ("0", "1")
    assert first.hierarchy is not second.hierarchy
    assert "wards" not in sys.modules


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("hierarchy = ", "model = "),
            r"wards\.py: has no 'hierarchy'; wanted, at module level, hierarchy = ",
        ),
        (("hierarchy = ", "hierarchy = 1 or "), r"wards\.py: 'hierarchy' is of type int; wanted"),
        (("def load", "def read"), r"wards\.py: has no 'load'; wanted, at module level, a function load\(\)"),
        (("import pyro\n", "import pyrogenic\n"), r"wards\.py, line 6: ModuleNotFoundError: No module named"),
        (("bm.Hierarchy(", "bm.Hierarchy(("), r"wards\.py, line 21: SyntaxError"),
        (("hierarchy = ", "1 / 0\nhierarchy = "), r"wards\.py, line 21: ZeroDivisionError: division by zero"),
    ],
)
def test_a_broken_model_file_says_what_and_where(model: Path, change: tuple[str, str], message: str) -> None:
    model.write_text(GOOD.replace(*change))

    with pytest.raises(FileFormatError, match=message):
        shelf.load_model(model)


def test_load_must_return_tasks(model: Path) -> None:
    model.write_text(GOOD.replace("return bm.Tasks", "return [0]  # "))

    with pytest.raises(HierarchyError, match=r"wards\.py: load\(\) returned list; wanted bayesmeta\.Tasks"):
        shelf.load_model(model).tasks()
