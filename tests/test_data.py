"""Data sets: the numbers are the published ones, and a file that is not the registered one is refused."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bayesmeta import data
from bayesmeta.data import remote as remote_module
from bayesmeta.data.bundled import BUNDLED, read_bundled
from bayesmeta.data.entry import checked
from bayesmeta.data.registry import REMOTE
from bayesmeta.data.remote import Remote, fetch
from bayesmeta.errors import FileFormatError, NotAvailableError, UnknownNameError

CLASSICS = list(BUNDLED)


@pytest.fixture(scope="session")
def folder() -> Path:
    """The data folder. Without it the test is skipped, except in CI, where it is meant to be there."""
    path = os.environ.get("BAYESMETA_DATA")
    if path:
        return Path(path)
    if os.environ.get("CI") == "true":
        pytest.fail("BAYESMETA_DATA is not set, and CI=true")
    pytest.skip("BAYESMETA_DATA is not set")


# --- what comes with the package -------------------------------------------------------------------------


def test_the_classics_come_first() -> None:
    assert data.available() == [*CLASSICS, *REMOTE]
    assert {"eight_schools", "radon", "sleepstudy", "seeds", "epil"} <= set(CLASSICS)
    assert {"rats", "cbpp", "hsb82"} <= set(REMOTE)


@pytest.mark.parametrize("name", CLASSICS)
def test_a_classic_is_whole_and_each_load_is_a_fresh_copy(name: str) -> None:
    frame = data.load(name)
    entry = BUNDLED[name]
    assert list(frame.columns) == list(entry.columns)
    assert len(frame) == entry.n_rows
    frame["another"] = 0
    assert "another" not in data.load(name)


@pytest.mark.parametrize("name", data.available())
def test_describe_names_columns_source_and_licence(name: str) -> None:
    text = data.describe(name)
    entry = BUNDLED[name] if name in BUNDLED else REMOTE[name].entry
    assert text.startswith(f"{name}: ")
    for part in (*entry.columns, "source:", "licence:", "cite:", "read from:"):
        assert part in text


@pytest.mark.parametrize("ask", [data.load, data.describe])
def test_an_unknown_name_shows_the_nearest(ask: Any) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown data set 'raddon'.*did you mean 'radon'\?"):
        ask("raddon")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.iloc[:-1], r"rows: got 7, wanted 8\. Replace the file"),
        (lambda frame: frame.rename(columns={"y": "z"}), r"columns: got \['school', 'z', 'sigma'\], wanted"),
        (lambda frame: frame.assign(school="A"), "tasks: got 1, wanted 8"),
        (lambda frame: frame.assign(y=frame["y"].where(frame["y"] > 0)), "empty cells: got 2, wanted 0"),
        (lambda frame: frame.drop(columns="school"), "columns: got"),
    ],
)
def test_a_frame_with_other_counts_is_refused(change: Any, message: str) -> None:
    with pytest.raises(FileFormatError, match=f"schools.csv is not the data set 'eight_schools': {message}"):
        checked(change(read_bundled("eight_schools")), BUNDLED["eight_schools"], "schools.csv")


# --- the numbers against an independent copy -------------------------------------------------------------


def test_eight_schools_has_rubins_numbers(folder: Path) -> None:
    other = pd.read_csv(folder / "classic" / "eight_schools.csv")
    pd.testing.assert_frame_equal(data.load("eight_schools"), other)


def test_baseball_agrees(folder: Path) -> None:
    other = pd.read_csv(folder / "classic" / "baseball_efron_morris.csv")
    frame = data.load("baseball")
    for ours, theirs in {"player": "name", "hits": "r", "rest_average": "p", "rest_at_bats": "n"}.items():
        assert frame[ours].tolist() == other[theirs].tolist()
    np.testing.assert_allclose(frame["hits"] / frame["at_bats"], other["y"], atol=5e-4)


def test_radon_agrees_and_floor_is_coded_the_same_way(folder: Path) -> None:
    other = pd.read_csv(folder / "classic" / "radon_mn.csv")
    frame = data.load("radon")
    assert frame["county"].tolist() == other["county"].tolist()
    assert frame["floor"].tolist() == other["floor"].tolist()
    np.testing.assert_allclose(frame["log_radon"], other["log_radon"], atol=1e-6)
    np.testing.assert_allclose(frame["log_uranium"], other["log_uranium"], atol=1e-6)
    # Basements (0) hold more radon than first floors (1).
    assert frame.groupby("floor")["log_radon"].mean().diff().iloc[-1] < -0.5


def test_sleepstudy_agrees(folder: Path) -> None:
    other = pd.read_csv(folder / "classic" / "sleepstudy.csv")
    pd.testing.assert_frame_equal(data.load("sleepstudy")[["Reaction", "Days", "Subject"]], other)


@pytest.mark.parametrize("name", ["orthodont", "contraception", "theoph"])
def test_the_other_tables_of_r_agree(name: str, folder: Path) -> None:
    pd.testing.assert_frame_equal(data.load(name), pd.read_csv(folder / "classic" / f"{name}.csv"))


def test_seeds_has_crowders_numbers(folder: Path) -> None:
    other = json.loads((folder / "posteriordb" / "data" / "seeds_data.json").read_text())
    frame = data.load("seeds")
    assert frame["germinated"].tolist() == other["n"]
    assert frame["seeds"].tolist() == other["N"]
    assert frame["seed"].str.endswith("73").astype(int).tolist() == other["x1"]
    assert (frame["extract"] == "cucumber").astype(int).tolist() == other["x2"]


def test_epil_differs_from_older_copies_in_one_number(folder: Path) -> None:
    other = pd.read_csv(folder / "classic" / "epil.csv")
    frame = data.load("epil")
    differs = (frame != other).to_numpy()
    assert differs.sum() == 1
    row = frame[differs.any(axis=1)].iloc[0]
    assert (row["subject"], row["period"], row["y"]) == (8, 3, 23)
    # the mean and the variance that go with 23 seizures: 8.71 and 213.3 would go with 21
    third = frame.loc[(frame["trt"] == "placebo") & (frame["period"] == 3), "y"]
    assert round(third.mean(), 2) == 8.79
    assert round(third.var(), 1) == 215.3


def test_heart_has_the_patients_of_the_four_papers(folder: Path) -> None:
    ill = data.load("heart").assign(ill=lambda frame: frame["num"] > 0).groupby("hospital")["ill"]
    assert ill.size().to_dict() == {"cleveland": 303, "hungary": 294, "switzerland": 123, "va_long_beach": 200}
    assert ill.sum().to_dict() == {"cleveland": 139, "hungary": 106, "switzerland": 115, "va_long_beach": 149}


def test_kidney_has_the_patients_of_the_paper() -> None:
    frame = data.load("kidney")
    assert frame.groupby("patient").size().tolist() == [2] * 38
    assert frame.drop_duplicates("patient")["sex"].value_counts().to_dict() == {"female": 28, "male": 10}
    assert frame["infection"].sum() == 58


# --- from the folder -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(REMOTE))
def test_the_folder_is_read_first(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "retrieved", lambda *_: pytest.fail("fetched although the file is there"))
    assert list(data.load(name).columns) == list(REMOTE[name].entry.columns)


def test_a_changed_file_in_the_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "classic").mkdir()
    (tmp_path / "classic" / "rats.csv").write_text("rat,day,weight\n1,8,151\n", encoding="utf-8")
    monkeypatch.setenv("BAYESMETA_DATA", str(tmp_path))
    with pytest.raises(FileFormatError, match=r"rats\.csv is not the registered file of data set 'rats'.*unset"):
        data.load("rats")


@pytest.mark.parametrize("name", [name for name, remote in REMOTE.items() if remote.original is None])
def test_what_only_a_folder_has_says_so(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAYESMETA_DATA", str(tmp_path))
    where = REMOTE[name].folder.location
    message = f"'{name}' is only read from a folder: set BAYESMETA_DATA to one that holds {where}"
    with pytest.raises(NotAvailableError, match=message):
        data.load(name)
    assert "from nowhere else" in data.describe(name)


# --- fetched ---------------------------------------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and logs nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder, the address at which this machine serves it, and an empty cache; no data folder."""
    served = tmp_path / "served"
    served.mkdir()
    monkeypatch.delenv("BAYESMETA_DATA", raising=False)
    monkeypatch.setattr(remote_module, "cache_folder", lambda: tmp_path / "cache")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served))) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield served, f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()


def moved(name: str, address: str) -> Remote:
    """The data set with its original at another address; the checksum stays the registered one."""
    remote = REMOTE[name]
    assert remote.original is not None
    return replace(
        remote, original=replace(remote.original, location=f"{address}/{Path(remote.original.location).name}")
    )


def original_text(name: str, folder: Path) -> str:
    """The original's text, written anew from the folder's copy; its checksum says that it is the same."""
    frame = pd.read_csv(folder / "classic" / f"{name}.csv")
    if name == "rats":
        wide = frame.pivot(index="rat", columns="day", values="weight")
        rows = ",\n".join(f"    {json.dumps(row)}" for row in wide.to_numpy().tolist())
        x = json.dumps(wide.columns.tolist())
        return f'{{\n  "x": {x},\n  "y": [\n{rows}\n  ],\n  "xbar": 22,\n  "N": 30,\n  "T": 5\n}}\n'
    frame.insert(0, "rownames", range(1, len(frame) + 1))
    return frame.to_csv(index=False, lineterminator="\n")


@pytest.mark.parametrize("name", ["rats", "cbpp"])
def test_an_original_is_fetched_once_and_gives_the_folders_frame(
    name: str, folder: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, address = server
    remote = moved(name, address)
    assert remote.original is not None
    file = served / Path(remote.original.location).name
    file.write_text(original_text(name, folder), encoding="utf-8", newline="\n")
    assert hashlib.sha256(file.read_bytes()).hexdigest() == remote.original.sha256
    fetched = fetch(remote)
    file.unlink()
    pd.testing.assert_frame_equal(fetch(remote), fetched)
    monkeypatch.setenv("BAYESMETA_DATA", str(folder))
    pd.testing.assert_frame_equal(fetch(REMOTE[name]), fetched)


def test_a_corrupted_original_is_refused_and_not_kept(server: tuple[Path, str]) -> None:
    served, address = server
    (served / "cbpp.csv").write_text("rownames,herd\n1,1\n", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(FileFormatError, match=r"cbpp\.csv is not the registered original of data set 'cbpp'"):
            fetch(moved("cbpp", address))
    assert not [file for file in (served.parent / "cache").glob("*") if file.is_file()]


def test_an_original_that_is_not_there_names_both_roads(server: tuple[Path, str]) -> None:
    with pytest.raises(NotAvailableError, match=r"could not be fetched .*404.*connect and try again.*BAYESMETA_DATA"):
        fetch(moved("cbpp", server[1]))


def test_without_a_connection_both_roads_are_named(server: tuple[Path, str]) -> None:
    # Port 9 (discard) of this machine: nothing listens there.
    with pytest.raises(NotAvailableError, match=r"data set 'cbpp' could not be fetched .*connect.*BAYESMETA_DATA"):
        fetch(moved("cbpp", "http://127.0.0.1:9"))


@pytest.mark.parametrize("name", [name for name, remote in REMOTE.items() if remote.original is not None])
def test_an_original_is_pinned_to_a_commit(name: str) -> None:
    original = REMOTE[name].original
    assert original is not None
    assert any(len(part) == 40 and set(part) <= set("0123456789abcdef") for part in original.location.split("/"))
    assert len(original.sha256) == len(REMOTE[name].folder.sha256) == 64


def test_the_cache_is_the_users() -> None:
    assert "bayesmeta" in remote_module.cache_folder().name
