"""Image sets: what a task is made of, splits without a class in common, rotations, and where images come from."""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

import bayesmeta as bm
from bayesmeta.data import omniglot_files
from bayesmeta.data import remote as remote_module
from bayesmeta.data.images import Images
from bayesmeta.data.omniglot_files import read_zip, shrunk
from bayesmeta.data.sheet import contact_sheet
from bayesmeta.errors import DataError, FileFormatError, NotAvailableError, OptionError, UnknownNameError


def coded(classes: int = 12, each: int = 6, sizes: list[int] | None = None) -> Images:
    """Images that say in their corners which class and which image they are: [0, 0] and [0, 1]."""
    labels = [k for k in range(classes) for _ in range(each if sizes is None else sizes[k])]
    pixels = np.zeros((len(labels), 4, 4), np.uint8)
    pixels[:, 0, 0] = labels
    pixels[:, 0, 1] = [labels[:k].count(label) for k, label in enumerate(labels)]
    return Images.from_arrays(pixels, labels, names=[f"class {k}" for k in range(classes)], top=1)


def codes(tasks: bm.Tasks) -> Tensor:
    """Label, class and image of every row (N, 3)."""
    return torch.stack([tasks.y, tasks.x[:, 0, 0, 0], tasks.x[:, 0, 0, 1]], 1)


@pytest.fixture(scope="session")
def folder() -> Path:
    """The data folder. Without it the test is skipped, except in CI, where it is meant to be there."""
    path = os.environ.get("BAYESMETA_DATA")
    if path and (Path(path) / "omniglot").is_dir():
        return Path(path)
    if os.environ.get("CI") == "true":
        pytest.fail("BAYESMETA_DATA names no folder with omniglot in it, and CI=true")
    pytest.skip("BAYESMETA_DATA names no folder with omniglot in it")


# --- tasks ---------------------------------------------------------------------------------------------------


def test_a_task_has_so_many_classes_and_so_many_images_of_each_all_different() -> None:
    support, query = coded().tasks(20, ways=5, shots=2, query=3, seed=1)

    assert support.names == query.names
    assert set(support.sizes.tolist()) == {10}
    assert set(query.sizes.tolist()) == {15}
    for one, other in zip(support, query, strict=True):
        rows = torch.cat([codes_of(one), codes_of(other)])
        assert Counter(rows[:, 0].tolist()) == dict.fromkeys(range(5), 5)
        assert len(torch.unique(rows[:, 1:], dim=0)) == 25
        assert len(torch.unique(rows[:, :2], dim=0)) == len(torch.unique(rows[:, 1])) == 5


def codes_of(task: bm.Task) -> Tensor:
    return torch.stack([task.y, task.x[:, 0, 0, 0], task.x[:, 0, 0, 1]], 1)


def test_a_seed_says_it_all_and_more_shots_are_the_same_and_some_more() -> None:
    images = coded()
    few, query = images.tasks(4, ways=3, shots=1, query=2, seed=7)
    many, same = images.tasks(4, ways=3, shots=3, query=2, seed=7)
    alone = images.tasks(4, ways=3, shots=3, query=None, seed=7)

    assert query.fingerprint() == same.fingerprint()
    assert images.tasks(4, ways=3, shots=3, query=2, seed=7)[0].fingerprint() == many.fingerprint()
    assert images.tasks(4, ways=3, shots=3, query=2, seed=8)[0].fingerprint() != many.fingerprint()
    assert isinstance(alone, bm.Tasks)
    first = codes(many).reshape(4, 3, 3, 3)[:, :, 0]
    assert torch.equal(codes(few).reshape(4, 3, 3), first)


def test_classes_and_images_come_equally_often_and_labels_mean_nothing() -> None:
    sizes = [4, 8, 8, 8, 8, 8]
    rows = codes(coded(6, sizes=sizes).tasks(3_000, ways=2, shots=1, query=None, seed=3)).long()
    for column, among in ((rows[:, 1], 6), (rows[rows[:, 1] == 3, 2], 8), (rows[rows[:, 1] == 0, 2], 4)):
        counts = torch.bincount(column).double()
        expected = len(column) / among
        assert len(counts) == among
        assert float((counts - expected).abs().max()) < 4.5 * expected**0.5
    low = (rows[:, 1] < 3).reshape(-1, 2).double().mean(0)
    assert float((low - 0.5).abs().max()) < 4.5 * 0.5 / 3_000**0.5


def test_pixels_are_divided_by_their_top() -> None:
    pixels = np.arange(16, dtype=np.uint8).reshape(1, 4, 4).repeat(4, 0)
    for top, expected in ((None, 15 / 255), (15.0, 1.0)):
        tasks = Images.from_arrays(pixels, [0, 0, 1, 1], top=top).tasks(1, 2, 1, query=None)
        assert float(tasks.x.max()) == pytest.approx(expected, rel=1e-7)
    floats = Images.from_arrays(pixels / 15, [0, 0, 1, 1]).tasks(1, 2, 1, query=None)
    assert float(floats.x.max()) == 1.0
    assert floats.x.dtype == torch.float64


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"ways": 13}, r"ways=13: there are 12 classes"),
        ({"ways": 1}, r"ways at least 2.*ways=1"),
        ({"count": 0}, r"count must be at least 1.*count=0"),
        ({"shots": 0, "query": None}, r"one of them above.*shots=0, query=0"),
    ],
)
def test_what_cannot_be_asked_for_is_said(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        coded().tasks(**{"count": 2} | asked)


def test_a_class_with_too_few_images_is_named() -> None:
    images = coded(4, sizes=[6, 6, 3, 2])
    with pytest.raises(DataError, match=r"class 'class 2' has 3 images, and 2 of 4 classes .*shots=1 and query=3"):
        images.tasks(2, ways=2, shots=1, query=3)
    assert len(images.take([0, 1]).tasks(2, ways=2, shots=1, query=3)) == 2


# --- splits and rotations ------------------------------------------------------------------------------------


def test_parts_have_no_class_in_common_and_together_have_all() -> None:
    images = coded().with_rotations()
    parts = images.split(0.5, 0.25, seed=3)

    assert [part.n_classes for part in parts] == [24, 12, 12]
    assert Counter(name for part in parts for name in part.names) == dict.fromkeys(images.names, 1)
    seen = [set(codes(part.tasks(200, 2, 1, query=None))[:, 1].tolist()) for part in (p.take(range(6)) for p in parts)]
    assert not seen[0] & seen[1]
    for part in parts:
        bare = [name.partition(",")[0] for name in part.names]
        assert set(Counter(bare).values()) == {4}


def test_a_split_is_that_of_its_seed() -> None:
    one, two, other = (coded().split(8, seed=seed) for seed in (1, 1, 2))

    assert [part.names for part in one] == [part.names for part in two]
    assert one[0].names != other[0].names
    assert [part.n_classes for part in one] == [8, 4]
    assert [part.n_classes for part in coded().split(6, 3, 3)] == [6, 3, 3]
    assert [part.n_classes for part in coded().split(0.64, 0.16, 0.2)] == [8, 2, 2]


@pytest.mark.parametrize("parts", [(), (13,), (0.7, 0.7), (0.5, -0.1), (12,), (1.0,), (0.01,), (0.99,), (6, 0.2)])
def test_a_split_that_cannot_be_is_refused(parts: tuple[float, ...]) -> None:
    with pytest.raises(OptionError, match=r"split: .*12 classes"):
        coded().split(*parts)


def test_a_rotation_is_a_rotation() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 1, 5, 5)).astype(np.uint8)
    images = Images.from_arrays(pixels, range(6), top=1).with_rotations()

    assert images.n_classes == 24
    for k, mark in enumerate(("", ", turned 90°", ", turned 180°", ", turned 270°")):
        expected = np.rot90(pixels[2], k, (1, 2)).astype(float)
        np.testing.assert_array_equal(images.of(f"2{mark}").numpy()[0], expected)
    tasks = images.tasks(30, ways=10, shots=1, query=None, seed=1)
    turned = {np.rot90(image, k, (1, 2)).astype(float).tobytes() for image in pixels for k in range(4)}
    assert {row.numpy().tobytes() for row in tasks.x} == turned
    assert torch.equal(images.pixels, torch.from_numpy(pixels))


def test_rotations_are_of_square_images_that_were_not_rotated_before() -> None:
    with pytest.raises(DataError, match=r"square images.*the images are 2 x 3"):
        Images.from_arrays(np.zeros((2, 2, 3)), [0, 1]).with_rotations()
    with pytest.raises(DataError, match="they have been rotated before"):
        coded().with_rotations().with_rotations()


def test_some_classes_are_taken_by_name_or_place() -> None:
    some = coded().take(["class 7", -1])

    assert some.names == ("class 7", "class 11")
    assert some.sizes.tolist() == [6, 6]
    assert set(codes(some.tasks(9, 2, 1, query=None))[:, 1].tolist()) == {7.0, 11.0}
    with pytest.raises(UnknownNameError, match=r"unknown class 'class 99'.*'class 0'"):
        coded().take(["class 99"])
    with pytest.raises(UnknownNameError, match="class 12: wanted a name, or a position from 0 to 11"):
        coded().take([12])
    with pytest.raises(DataError, match="one class at least, each of them once"):
        coded().take(["class 1", 1])


# --- training on them ----------------------------------------------------------------------------------------


def test_a_stream_has_support_and_query_together_and_watches_other_classes() -> None:
    train, other = coded().split(8, seed=1)
    stream = train.stream(ways=3, shots=2, query=4, batch=6, validation=other, watched=5)
    batch = stream.batch(3, seed=1)

    assert batch.sizes.tolist() == [18] * 6
    assert batch.fingerprint() == stream.batch(3, seed=1).fingerprint() != stream.batch(4, seed=1).fingerprint()
    assert stream.validation is not None
    assert stream.validation.sizes.tolist() == [18] * 5
    assert not set(codes(batch)[:, 1].tolist()) & set(codes(stream.validation)[:, 1].tolist())
    with pytest.raises(DataError, match=r"fewer than shots=7"):
        train.stream(ways=3, shots=3, query=4)


# --- looking -------------------------------------------------------------------------------------------------


def test_a_set_says_what_is_in_it() -> None:
    words = repr(coded(12, sizes=[*range(2, 13), 200]))

    assert words.splitlines()[0] == "Images: images"
    assert "12: class 0, class 1, ..., class 11" in words
    assert "2 to 200 of each class, 277 in all" in words
    assert "1 x 4 x 4" in words


def test_the_sheet_in_a_notebook_is_a_picture_of_the_first_classes() -> None:
    images = Images.from_arrays(np.random.default_rng(0).random((30, 3, 5, 5)), [f"<{k % 3}>" for k in range(30)])
    page = images._repr_html_()
    found = re.search(r"data:image/png;base64,([^']+)", page)

    assert "&lt;0&gt;" in page
    assert "<0>" not in page
    assert found is not None
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))))
    np.testing.assert_array_equal(picture, contact_sheet(images).numpy())
    assert picture.shape == (3 * 6 - 1, 10 * 6 - 1, 3)
    second = (255 * images.of("<1>")[4]).round().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(picture[6:11, 24:29], second)
    assert contact_sheet(coded()).shape == (8 * 5 - 1, 10 * 5 - 1)


# --- arrays --------------------------------------------------------------------------------------------------


def test_labels_may_be_text_and_names_may_be_given() -> None:
    pixels = np.zeros((4, 3, 3), bool)
    pixels[2] = True
    images = Images.from_arrays(torch.from_numpy(pixels), ["b", "a", "b", "a"])

    assert images.names == ("a", "b")
    assert float(images.of("b")[1].min()) == 1.0
    assert Images.from_arrays(pixels, [5, 3, 5, 3], names=["three", "five"]).names == ("three", "five")


@pytest.mark.parametrize(
    ("images", "labels", "more", "message"),
    [
        (np.zeros((3, 4)), [0, 1, 2], {}, r"images: got float64 of shape \(3, 4\); wanted numbers"),
        (np.zeros((0, 4, 4)), [], {}, "one image at least"),
        (np.full((2, 4, 4), "a"), [0, 1], {}, r"images: got <U1 of shape"),
        (np.full((2, 4, 4), np.nan), [0, 1], {}, "not finite"),
        (np.full((2, 4, 4), 300), [0, 1], {}, "whole numbers from 300 to 300; wanted 0 to 255"),
        (np.zeros((3, 4, 4)), [0, 1], {}, r"labels: got shape \(2,\) for 3 images"),
        (np.zeros((2, 4, 4)), [0, 1], {"names": ["a", "a"]}, "names: got 2, 1 of them distinct, for 2 classes"),
        (np.zeros((2, 4, 4)), [0, 1], {"top": 0.0}, "top must be a number above 0"),
    ],
)
def test_arrays_that_are_no_images_are_refused(images: Any, labels: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises((DataError, OptionError), match=message):
        Images.from_arrays(images, labels, **more)


# --- Omniglot ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def originals(folder: Path) -> npt.NDArray[np.uint8]:
    """The first three characters of the background set as they were drawn (3, 20, 105, 105)."""
    with np.load(folder / "omniglot" / "omniglot_background_105x105_packbits.npz") as arrays:
        packed = arrays["images_packed"][:3]
    return np.unpackbits(packed, axis=-1, count=105 * 105).reshape(3, 20, 105, 105)


def written_zip(path: Path, drawings: npt.NDArray[np.uint8], number: int = 1, each: int = 20) -> Path:
    """A zip as the authors' are, in an order that is not that of the characters; ink is black."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images_background/Arcadian/", "")
        for k in reversed(range(len(drawings))):
            for drawer in range(each):
                buffer = io.BytesIO()
                Image.fromarray(drawings[k, drawer] == 0).save(buffer, "PNG")
                name = f"Arcadian/character{k + 1:02}/{number + k:04}_{drawer + 1:02}.png"
                archive.writestr(f"images_background/{name}", buffer.getvalue())
    return path


def test_omniglot_is_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omniglot_files, "retrieved", lambda *_: pytest.fail("fetched although the file is there"))
    images = bm.data.omniglot("evaluation")

    assert images.n_classes == 659
    assert set(images.sizes.tolist()) == {20}
    assert images.shape == (1, 28, 28)
    assert len({name.partition("/")[0] for name in images.names}) == 20
    assert 0.05 < float(images.pixels.double().mean()) / 255 < 0.12


def test_small_images_are_the_area_average_of_the_originals(folder: Path, originals: npt.NDArray[np.uint8]) -> None:
    with np.load(folder / "omniglot" / "omniglot_background_28x28.npz") as arrays:
        np.testing.assert_array_equal(shrunk(originals, 28), arrays["images"][:3])
    blocks = originals.reshape(3, 20, 21, 5, 21, 5).mean((3, 5))
    np.testing.assert_array_equal(shrunk(originals, 21), np.rint(255 * blocks))
    np.testing.assert_array_equal(shrunk(originals, 105), originals * 255)


def test_the_authors_zip_gives_the_same_drawings(originals: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    drawings, names = read_zip(written_zip(tmp_path / "a.zip", originals))

    np.testing.assert_array_equal(drawings, originals)
    assert names == [f"Arcadian/character0{k}" for k in (1, 2, 3)]


def test_without_the_folder_the_zip_is_fetched(
    originals: npt.NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BAYESMETA_DATA", raising=False)
    monkeypatch.setattr(omniglot_files, "retrieved", lambda *_: written_zip(tmp_path / "a.zip", originals))
    images = bm.data.omniglot("background", size=35)

    assert images.names[2] == "Arcadian/character03"
    np.testing.assert_array_equal(images.of("Arcadian/character03")[:, 0] * 255, shrunk(originals[2], 35))


@pytest.mark.parametrize(("each", "number"), [(19, 1), (0, 1)])
def test_a_zip_of_something_else_is_refused(
    originals: npt.NDArray[np.uint8], tmp_path: Path, each: int, number: int
) -> None:
    with pytest.raises(FileFormatError, match=r"a\.zip is not one of Omniglot's: wanted 20 drawings"):
        read_zip(written_zip(tmp_path / "a.zip", originals, number, each))


def test_what_is_no_zip_or_has_no_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"not a zip")
    with pytest.raises(FileFormatError, match=r"a\.zip is no zip of PNG images"):
        read_zip(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("images_background/Greek/character01/0394_01.png", b"not an image")
    with pytest.raises(FileFormatError, match=r"b\.zip is no zip of PNG images"):
        read_zip(tmp_path / "b.zip")


def test_a_changed_file_in_the_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "omniglot").mkdir()
    (tmp_path / "omniglot" / "omniglot_background_28x28.npz").write_bytes(b"other")
    monkeypatch.setenv("BAYESMETA_DATA", str(tmp_path))
    with pytest.raises(FileFormatError, match=r"28x28\.npz is not the registered file of data set 'omniglot'"):
        bm.data.omniglot()


def test_out_of_reach_both_roads_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Port 9 (discard) of this machine: nothing listens there.
    monkeypatch.delenv("BAYESMETA_DATA", raising=False)
    monkeypatch.setattr(remote_module, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(omniglot_files, "URL", "http://127.0.0.1:9")
    with pytest.raises(NotAvailableError, match=r"omniglot-evaluation.*connect.*BAYESMETA_DATA .*evaluation_105x105"):
        bm.data.omniglot("evaluation")


def test_an_unknown_half_or_size_is_said() -> None:
    with pytest.raises(OptionError, match=r"unknown split 'train'; valid: 'background', 'evaluation'"):
        bm.data.omniglot("train")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="size must be a whole number of pixels from 1 to 105, got 106"):
        bm.data.omniglot(size=106)


# --- digits, folders -----------------------------------------------------------------------------------------


def test_the_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    images, theirs = bm.data.digits(), load_digits()

    assert images.names == tuple("0123456789")
    np.testing.assert_array_equal(images.of("7")[:, 0] * 16, theirs.images[theirs.target == 7])


def test_without_scikit_learn_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(NotAvailableError, match=r"pip install 'bayesmeta\[images\]'"):
        bm.data.digits()


def saved(path: Path, pixels: npt.NDArray[Any], **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def test_each_folder_with_images_is_a_class(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for name in ("birds/robin/1.png", "birds/robin/2.png", "birds/wren/1.png", "cats/1.PNG", "1.png", ".no/1.png"):
        saved(tmp_path / name, grey)
    (tmp_path / "cats" / "notes.txt").write_text("mine", encoding="utf-8")
    images = bm.data.image_folder(tmp_path, size=8, channels=1, progress=False)

    assert images.names == ("birds/robin", "birds/wren", "cats")
    assert images.sizes.tolist() == [2, 1, 1]
    np.testing.assert_array_equal(255 * images.of("cats")[0, 0], grey)


def test_images_are_cut_about_their_middle_brought_to_size_and_turned_upright(tmp_path: Path) -> None:
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 20:100] = (200, 100, 50)
    saved(tmp_path / "a" / "1.png", wide)
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held on its side: turn by 90 degrees, clockwise
    tall = np.zeros((8, 8), np.uint8)
    tall[:4] = 255
    saved(tmp_path / "b" / "1.png", tall, exif=turned)
    colour = bm.data.image_folder(tmp_path, size=2, progress=False)
    grey = bm.data.image_folder(tmp_path, size=(2, 4), channels=1, progress=False)

    assert colour.shape == (3, 2, 2)
    assert grey.shape == (1, 2, 4)
    np.testing.assert_array_equal(255 * colour.of("a")[0], np.full((2, 2, 3), (200, 100, 50)).transpose(2, 0, 1))
    assert grey.of("b")[0, 0].mean(0)[[0, -1]].tolist() == pytest.approx([0.0, 1.0], abs=0.1)


def test_a_folder_that_will_not_do_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is no folder"):
        bm.data.image_folder(tmp_path / "nowhere", size=8)
    with pytest.raises(DataError, match=r"has no images in folders of it"):
        bm.data.image_folder(tmp_path, size=8)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"1\.png cannot be read as an image"):
        bm.data.image_folder(tmp_path, size=8, progress=False)
    saved(tmp_path / "a" / "1.png", np.zeros((4, 4), np.uint16))
    with pytest.raises(DataError, match=r"1\.png has more than 8 bits a colour"):
        bm.data.image_folder(tmp_path, size=8, progress=False)


@pytest.mark.parametrize("size", [0, (8,), "8", (8, 0), True])
def test_a_size_that_cannot_be_is_refused(tmp_path: Path, size: Any) -> None:
    with pytest.raises(OptionError, match="size must be a side in pixels"):
        bm.data.image_folder(tmp_path, size=size)
    with pytest.raises(OptionError, match="channels must be 1 for grey or 3 for colours, got 2"):
        bm.data.image_folder(tmp_path, size=8, channels=2)
