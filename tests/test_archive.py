"""Files of arrays with a record: what goes in comes out, nothing is run, nothing is left half written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bayesmeta import archive
from bayesmeta.errors import FileFormatError, NotAvailableError, OptionError

KIND, WHAT = "bayesmeta thing 1", "a thing"


@pytest.mark.parametrize("compress", [False, True])
def test_a_file_gives_back_what_it_was_given(compress: bool, tmp_path: Path) -> None:
    path, arrays = tmp_path / "new" / "thing.npz", {"a b/c": np.arange(3.0), "record 2": np.zeros((0, 2))}

    archive.write(path, KIND, {"name": "x", "numbers": [1, 2]}, arrays, compress=compress)
    record, found = archive.read(path, KIND, WHAT)

    assert record == {"format": KIND, "name": "x", "numbers": [1, 2]}
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], value) for name, value in arrays.items())
    assert [file.name for file in path.parent.iterdir()] == ["thing.npz"]


def test_what_fails_in_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "thing.npz"
    archive.write(path, KIND, {"name": "old"}, {})

    def full(*args: object, **arrays: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(NotAvailableError, match=r"checkpoint: cannot write .*thing\.npz': no space left"):
        archive.write(path, KIND, {"name": "new"}, {}, argument="checkpoint")

    assert archive.read(path, KIND, WHAT)[0]["name"] == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["thing.npz"]


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "thing.npz"
    with pytest.raises(NotAvailableError, match=r"path: there is no file .*thing\.npz"):
        archive.read(path, KIND, WHAT)
    path.write_text("something")
    with pytest.raises(FileFormatError, match=r"thing\.npz' is not a thing saved by bayesmeta .*name another file"):
        archive.read(path, KIND, WHAT)
    archive.write(path, "bayesmeta thing 2", {}, {})
    with pytest.raises(FileFormatError, match="has format 'bayesmeta thing 2', this version reads 'bayesmeta thing 1'"):
        archive.read(path, KIND, WHAT)


def test_a_pickle_within_is_not_opened(tmp_path: Path) -> None:
    opened = tmp_path / "opened"

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (opened,)

    with (tmp_path / "thing.npz").open("wb") as file:
        np.savez(file, record=np.array([Trap()], dtype=object))
    with pytest.raises(FileFormatError, match="is not a thing saved by bayesmeta"):
        archive.read(tmp_path / "thing.npz", KIND, WHAT)
    assert not opened.exists()


def test_what_is_missing_in_a_file_is_said_of_the_file() -> None:
    with pytest.raises(FileFormatError, match="'t' is not a thing saved by bayesmeta"), archive.understood("t", WHAT):
        raise KeyError("draws")
    with pytest.raises(OptionError, match="a word of ours"), archive.understood("t", WHAT):
        raise OptionError("a word of ours")
