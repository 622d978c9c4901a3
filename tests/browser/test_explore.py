"""The interactive view in a live JupyterLab: points are clicked, dragged and typed, and the numbers follow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import DESK, Open, Visit
from tests.browser.jupyter import Server, run_all, serve

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

STARTING = 240_000  # milliseconds: torch is loaded and a posterior fitted, on a machine that may be busy
CELL = "from tests.exploring import {kind}, clinics\nview = {kind}().explore({arguments})\nview"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("jupyter")) as running:
        yield running


class View:
    """The widget on a page, and what a user does with it."""

    def __init__(self, visited: Visit) -> None:
        self.visited = visited
        self.page: Page = visited.page
        self.root: Locator = self.page.locator(".bm-explore")
        self.root.wait_for(timeout=STARTING)
        self.prediction = self.root.locator(".bm-prediction")
        self.prediction.scroll_into_view_if_needed()
        visited.problems = [problem for problem in visited.problems if " to activate." not in problem]

    @property
    def words(self) -> str:
        return str(self.root.locator(".bm-words").inner_text())

    @property
    def mean(self) -> float:
        """The number that the words begin with: the mean of θ."""
        return float(self.words.split(": ")[1].split(" ±")[0])

    def changed(self, before: str) -> None:
        """Wait until the words are others and nothing is under way."""
        self.page.wait_for_function(
            "before => document.querySelector('.bm-words').innerText !== before", arg=before, timeout=STARTING
        )
        self.settled()

    def settled(self) -> None:
        """Wait until Python has answered."""
        self.page.wait_for_function("() => !document.querySelector('.bm-explore[data-waiting]')", timeout=STARTING)

    def place(self, across: float, up: float) -> tuple[float, float]:
        """A place in the picture of the prediction, as shares of its width and height from the lower left."""
        box = self.prediction.bounding_box()
        if box is None:
            pytest.fail("the picture of the prediction is not there")
        return box["x"] + across * box["width"], box["y"] + (1 - up) * box["height"]

    def point(self, k: int) -> Locator:
        return self.prediction.locator(f"[data-point='{k}']")

    def field(self, label: str) -> Locator:
        return self.root.get_by_label(label, exact=True)


def show(visit: Open, server: Server, kind: str, arguments: str = "", width: int = DESK) -> View:
    """A notebook with the view of one of the posteriors of `tests.exploring`, run."""
    address = server.notebook(f"{kind}-{width}.ipynb", [CELL.format(kind=kind, arguments=arguments)])
    visited = visit(address, width=width, height=1000)
    visited.page.set_default_timeout(STARTING)
    run_all(visited.page)
    return View(visited)


def test_points_are_clicked_dragged_typed_and_removed(visit: Open, server: Server) -> None:
    view = show(visit, server, "curve")
    population = view.words
    assert view.root.locator("tbody input").count() == 0

    view.page.mouse.click(*view.place(0.7, 0.75))  # a click adds
    view.changed(population)
    clicked = view.mean
    assert view.point(0).count() == 1
    assert "trange" in view.root.locator(".bm-novelty").inner_text()

    before = view.words
    view.point(0).hover()  # a drag moves
    view.page.mouse.down()
    view.page.mouse.move(*view.place(0.5, 0.3), steps=6)
    view.page.mouse.up()
    view.changed(before)
    assert view.mean < clicked
    dragged = float(view.field("response of observation 1").input_value())

    before = view.words
    view.field("response of observation 1").fill("2.5")  # typing, too
    view.changed(before)
    assert dragged < 2.5
    assert view.point(0).get_attribute("aria-valuenow") == "2.5"

    before = view.words
    view.root.get_by_role("button", name="Remove observation 1").click()
    view.changed(before)
    assert view.words == population
    assert view.visited.problems == []
    elsewhere = [one for one in view.visited.requests if not one.startswith((server.url, "data:", "blob:"))]
    assert elsewhere == []

    view.root.evaluate("element => element.style.maxWidth = '340px'")  # nothing is cut off where it is narrow
    for part in (".bm-pictures", ".bm-observations", ".bm-controls"):
        wider = view.root.locator(part).evaluate("element => element.scrollWidth - element.clientWidth")
        assert wider <= 0


def test_the_keyboard_does_all_of_it(visit: Open, server: Server) -> None:
    view = show(visit, server, "at_levels")
    before = view.words
    view.root.get_by_role("button", name="Add an observation").focus()
    view.page.keyboard.press("Enter")
    view.changed(before)
    start = float(view.field("y of observation 1").input_value())

    view.point(0).focus()
    before = view.words
    for _ in range(3):
        view.page.keyboard.press("ArrowUp")
    view.changed(before)
    assert float(view.field("y of observation 1").input_value()) > start
    view.page.keyboard.press("ArrowRight")  # to the next level
    view.settled()
    assert view.field("x of observation 1").input_value() == "1"
    assert view.page.evaluate("document.activeElement.getAttribute('data-point')") == "0"
    before = view.words
    view.page.keyboard.press("Delete")
    view.changed(before)
    assert view.point(0).count() == 0
    assert view.visited.problems == []


def test_tasks_columns_and_contexts_are_chosen(visit: Open, server: Server) -> None:
    view = show(visit, server, "columns_and_context")
    before = view.words
    view.field("size").fill("2")
    view.changed(before)
    before, of_new = view.words, view.mean
    view.field("horizontal axis").select_option("x[1]")
    view.settled()
    assert "x[1]" in view.prediction.inner_html()
    assert view.field("x[0] held at").count() == 1
    assert view.words == before  # θ is the same

    view.root.get_by_label("task").select_option("clinic 3")
    view.changed(before)
    assert view.mean != of_new
    assert view.field("size").is_disabled()
    assert view.prediction.locator("circle").count() == 6
    assert view.prediction.locator("[data-point]").count() == 0

    view.root.get_by_role("button", name="Copy to a new task").click()
    view.point(5).wait_for()
    view.settled()
    assert view.prediction.locator("circle").count() == 6
    assert view.root.locator("select").first.input_value() == "new"
    assert view.visited.problems == []


def test_without_inputs_what_is_half_typed_waits(visit: Open, server: Server) -> None:
    view = show(visit, server, "nothing", arguments="task='4'")
    assert view.prediction.locator("circle").count() == 8
    before = view.words
    view.page.mouse.click(*view.place(0.95, 0.9))
    view.changed(before)
    before = view.words
    view.field("y of observation 1").fill("")
    assert view.field("y of observation 1").get_attribute("aria-invalid") == "true"
    view.field("y of observation 1").press_sequentially("-")
    view.settled()
    assert view.words == before
    view.field("y of observation 1").fill("-3")
    view.changed(before)
    assert view.field("y of observation 1").get_attribute("aria-invalid") == "false"
    assert view.visited.problems == []
