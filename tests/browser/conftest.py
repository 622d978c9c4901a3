"""Pages opened in a real browser: Debian's Chromium without a window, driven by playwright.

Run by `make test-browser`; `make test` leaves these tests out, so that it needs no browser. Here a browser that is
missing is a failure, never a skip. `BAYESMETA_CHROMIUM` names one that is not found by itself.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HERE = Path(__file__).parent
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
PHONE, DESK = 380, 1280
PATIENCE = 60_000  # milliseconds that anything on a page may take: the machine may be busy


@dataclass
class Visit:
    """A page that was opened, and what it complained of.

    Attributes:
        page: the page, as playwright has it.
        problems: errors and warnings of its console, exceptions, and requests that failed.
        requests: every address that was asked for.
    """

    page: Page
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Take down from now on what goes wrong."""
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        self.page.on("requestfailed", lambda request: self.problems.append(f"failed: {request.url[:200]}"))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _on_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text}")

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window: 0 where nothing scrolls sideways."""
        width = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.page.evaluate(width))

    def broken_images(self) -> list[str]:
        """Alternative texts of the images that were not loaded."""
        script = "Array.from(document.images).filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)"
        return [str(alt) for alt in self.page.evaluate(script)]


Open = Callable[..., Visit]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is marked `browser`."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("browser")


def find_chromium() -> str:
    """The path of a Chromium; a failure where there is none."""
    named = os.environ.get("BAYESMETA_CHROMIUM")
    found = named or next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        pytest.fail("no Chromium: apt-get install chromium, or set BAYESMETA_CHROMIUM to the path of one")
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """`visit(file or address, width=1280, height=900)` opens a page of its own, with its own cookies and storage."""
    contexts = []

    def open_page(where: Path | str, width: int = DESK, height: int = 900) -> Visit:
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        visited = Visit(context.new_page())
        visited.watch()
        visited.page.goto(where.resolve().as_uri() if isinstance(where, Path) else where)
        return visited

    yield open_page
    for context in contexts:
        context.close()
