"""The wheel holds the package and nothing beside it, and works away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from bayesmeta import shelf

ROOT = Path(__file__).parent.parent

LOCATE = "import bayesmeta, bayesmeta.shelf as s; print(bayesmeta.__file__); print(s.folder('model'))"


def _run(*command: str | Path, cwd: Path) -> str:
    """What a command prints, in an environment that knows nothing of the checkout."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a fresh environment: the wheel installed, and its dependencies from this environment.

    The dependencies come by a .pth line. It appends, so that what is installed there wins; and .pth files in
    the folder it names are not read, so that an editable install of the checkout is not seen.
    """
    home = tmp_path_factory.mktemp("fresh")
    venv.create(home, with_pip=False, symlinks=True)
    scheme = {"base": str(home), "platbase": str(home)}
    site = Path(sysconfig.get_path("purelib", "venv", scheme))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    scripts = Path(sysconfig.get_path("scripts", "venv", scheme))
    python = next(scripts.glob("python*"))
    _run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel),
        cwd=home,
    )
    return scripts


def test_the_wheel_holds_the_package_and_nothing_beside_it(wheel: Path) -> None:
    files = zipfile.ZipFile(wheel).namelist()

    assert {name.split("/")[0] for name in files} == {
        "bayesmeta",
        wheel.name.rsplit("-", 3)[0] + ".dist-info",
    }
    assert "bayesmeta/py.typed" in files
    assert not [name for name in files if "__pycache__" in name]


def test_the_wheel_carries_gallery_and_presets_as_files(wheel: Path) -> None:
    files = set(zipfile.ZipFile(wheel).namelist())

    assert {f"bayesmeta/gallery/models/{name}.py" for name in shelf.names("model")} <= files
    assert {f"bayesmeta/gallery/inference/{name}.toml" for name in shelf.names("preset")} <= files


def test_the_wheel_carries_every_file_of_the_package(wheel: Path) -> None:
    files = set(zipfile.ZipFile(wheel).namelist())
    tracked = _run("git", "ls-files", "bayesmeta", cwd=ROOT).split()

    assert set(tracked) <= files


def test_a_gallery_model_is_fitted_by_name_away_from_the_checkout(environment: Path, tmp_path: Path) -> None:
    located, gallery = _run(environment / "python", "-c", LOCATE, cwd=tmp_path).split()
    assert Path(located).is_relative_to(environment.parent)
    assert Path(gallery).is_relative_to(environment.parent)

    budget = ("--draws", "20", "--tune", "20", "--chains", "1")
    _run(
        *(environment / "bayesmeta", "fit", "eight_schools", "--inference", "nuts", *budget, "--out", "run"),
        cwd=tmp_path,
    )

    written = {path.name for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert written == {"model.py", "posterior.nc", "run.toml", "summary.csv"}
