"""The report as a reader has it: on a desk, on a phone, on paper."""

from __future__ import annotations

from pathlib import Path

import pytest

from bayesmeta import shelf
from tests.browser.conftest import DESK, PHONE, Open
from tests.fitted import tiny

PAPER = 720

# The least contrast of text with what lies behind it, by the formula of WCAG 2.1, section 1.4.3.
CONTRAST = """() => {
  const numbers = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => numbers(c).slice(0, 3).map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, k) => sum + v * [.2126, .7152, .0722][k], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor, n = numbers(c);
      if (n.length < 4 || n[3] > 0) return c;
    }
    return "rgb(255, 255, 255)";
  };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let least = 21, where = "";
  while (walk.nextNode()) {
    if (!walk.currentNode.textContent.trim()) continue;
    const e = walk.currentNode.parentElement;
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < least) { least = ratio; where = walk.currentNode.textContent; }
  }
  return [least, where];
}"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of tasks of several sizes, with a story as long as those of the gallery."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    story = shelf.path_of("model", "orthodont").read_text(encoding="utf-8").split('"""')[1]
    return tiny("correlated").report(path, story=story)


@pytest.mark.parametrize("width", [PHONE, PAPER, DESK])
def test_it_opens_without_a_complaint_and_scrolls_one_way_only(visit: Open, page: Path, width: int) -> None:
    visited = visit(page, width=width)

    assert visited.problems == []
    assert visited.requests[0] == page.as_uri()
    assert all(address.startswith("data:") for address in visited.requests[1:])
    assert visited.broken_images() == []
    assert visited.page.locator("img").count() >= 6
    assert visited.overflow() == 0


def test_it_is_printed_whole(visit: Open, page: Path) -> None:
    visited = visit(page, width=PAPER)
    visited.page.emulate_media(media="print")
    beyond = "i => i.getBoundingClientRect().right > innerWidth"
    cut = visited.page.evaluate(f"Array.from(document.images).filter({beyond}).length")

    assert not visited.page.locator("nav").is_visible()
    assert cut == 0
    assert visited.overflow() == 0
    assert len(visited.page.pdf(format="A4")) > 50_000


def test_text_stands_out_from_what_lies_behind_it(visit: Open, page: Path) -> None:
    visited = visit(page)
    least, where = visited.page.evaluate(CONTRAST)

    assert least >= 4.5, where
    visited.page.add_style_tag(content="h1 { color: #999 }")
    least, where = visited.page.evaluate(CONTRAST)
    assert least < 3, "the measure finds a pale heading"


def test_it_can_be_read_by_machine_and_by_keyboard(visit: Open, page: Path) -> None:
    opened = visit(page).page

    assert opened.evaluate("document.documentElement.lang") == "en"
    assert opened.get_by_role("navigation", name="Contents").count() == 1
    assert opened.get_by_role("heading", level=1).count() == 1
    assert opened.evaluate("Array.from(document.images).every(i => i.alt.length > 20)")
    frames = "Array.from(document.querySelectorAll('.wide, pre')).every(e => e.tabIndex === 0)"
    assert opened.evaluate(frames), "what scrolls can be scrolled by keys"
    opened.get_by_role("link", name="Predictive checks").click()
    assert opened.evaluate("location.hash") == "#checks"
    opened.locator("summary").focus()
    opened.keyboard.press("Enter")
    assert opened.get_by_role("region", name="θ of every task").is_visible()
