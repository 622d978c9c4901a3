"""A live JupyterLab for the tests in the browser: a server of its own, with its settings in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["Server", "run_all", "serve"]

TOKEN = "for-the-tests-alone"
STARTED_WITHIN = 90.0  # seconds
QUIET = {"@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}}


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: its address, with a slash at the end.
        root: the folder whose notebooks it shows.
        log: what it and its kernels have written.
    """

    url: str
    root: Path
    log: Path

    def notebook(self, name: str, cells: list[str]) -> str:
        """The address of a new notebook with these cells, none of them run; its kernel has been started."""
        _write(self.root / name, cells)
        session = {"path": name, "name": name, "type": "notebook", "kernel": {"name": "python3"}}
        headers = {"Authorization": f"token {TOKEN}", "Content-Type": "application/json"}
        request = Request(f"{self.url}api/sessions", json.dumps(session).encode(), headers)
        with urlopen(request, timeout=STARTED_WITHIN) as answer:
            answer.read()
        return f"{self.url}doc/tree/{name}?token={TOKEN}"


def run_all(page: Page) -> None:
    """Run all cells of the notebook that the page shows, as a user does by the menu."""
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # in the status bar, once the kernel is connected
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """A JupyterLab on a free port, for as long as the block lasts."""
    root, home = folder / "notebooks", folder / "home"
    for path in (root, home):
        path.mkdir(parents=True)
    _settings(home / "settings")
    log = folder / "jupyter.log"
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(_command(root), env=_environment(home), stdout=stream, stderr=subprocess.STDOUT)
        try:
            yield Server(_address(home / "runtime", process, log), root, log)
        finally:
            process.terminate()
            process.wait(timeout=30)


def _write(path: Path, cells: list[str]) -> None:
    notebook = {
        "cells": [_cell(k, source) for k, source in enumerate(cells)],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(notebook), encoding="utf-8")


def _cell(k: int, source: str) -> dict[str, Any]:
    empty: dict[str, Any] = {"metadata": {}, "outputs": [], "execution_count": None}
    return {"cell_type": "code", "id": f"cell-{k}", "source": source, **empty}


def _command(root: Path) -> list[str]:
    options = {
        "ServerApp.open_browser": "False",
        "ServerApp.allow_root": "True",  # as containers are
        "ServerApp.port": "0",
        "ServerApp.root_dir": str(root),
        "IdentityProvider.token": TOKEN,
    }
    return [sys.executable, "-m", "jupyterlab", *(f"--{name}={value}" for name, value in options.items())]


def _environment(home: Path) -> dict[str, str]:
    """That of the tests, but for the user's own settings, extensions and kernels."""
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    own = {name: str(home / folder) for name, folder in places.items()}
    return {**os.environ, **own, "JUPYTER_PREFER_ENV_PATH": "1", "PYTHONPATH": str(Path.cwd())}


def _settings(folder: Path) -> None:
    for name, values in QUIET.items():
        path = folder / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values), encoding="utf-8")


def _address(runtime: Path, process: subprocess.Popen[bytes], log: Path) -> str:
    """The server's address, from the file that it writes when it listens."""
    until = time.monotonic() + STARTED_WITHIN
    while time.monotonic() < until and process.poll() is None:
        for path in runtime.glob("jpserver-*.json"):
            text = path.read_text(encoding="utf-8")
            if text.strip():
                return str(json.loads(text)["url"])
        time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')[-2000:]}")
