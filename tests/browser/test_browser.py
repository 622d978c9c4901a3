"""The browser itself: what a page complains of is seen, and what it lacks."""

from __future__ import annotations

from pathlib import Path

from tests.browser.conftest import DESK, PHONE, Open

GOOD = '<!doctype html><html lang="en"><title>t</title><p>well</p></html>'
BAD = """<!doctype html><html lang="en"><title>t</title><img src="missing.png" alt="a picture">
<div style="width: 600px">wide</div><script>console.error("oh"); missing()</script></html>"""


def test_a_page_that_is_well_has_no_problems(visit: Open, tmp_path: Path) -> None:
    page = tmp_path / "good.html"
    page.write_text(GOOD, encoding="utf-8")
    visited = visit(page, width=PHONE)

    assert visited.problems == []
    assert visited.overflow() == 0
    assert visited.broken_images() == []
    assert visited.requests == [page.as_uri()]


def test_errors_missing_pictures_and_overflow_are_seen(visit: Open, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(BAD, encoding="utf-8")
    visited = visit(page, width=PHONE)
    found = "\n".join(visited.problems)

    assert "error: oh" in found
    assert "exception: missing is not defined" in found
    assert "missing.png" in found
    assert visited.broken_images() == ["a picture"]
    assert visited.overflow() > 200
    assert visit(page, width=DESK).overflow() == 0
