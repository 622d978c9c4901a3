"""The documentation is true: it builds without a warning, links lead somewhere, code runs and prints what is shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from typer.main import get_command

import bayesmeta as bm
from bayesmeta.cli import app
from tests import pages

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
# Whose code takes longer than a few seconds; what they show is tested elsewhere too.
SLOW = {
    "families.md",
    "howto/compare.md",
    "howto/diagnosing.md",
    "howto/looking.md",
    "howto/many.md",
    "howto/outcomes.md",
    "howto/saving.md",
    "population.md",
    "training.md",
}


class Links(HTMLParser):
    """What a page links to or loads, and the places in it that can be linked to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.places: set[str] = set()
        self.unnamed: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the links and the names of one element."""
        given = dict(attrs)
        self.places |= {value for name in ("id", "name") if (value := given.get(name))}
        if tag == "a" and given.get("href"):
            self.linked.append(str(given["href"]))
        elif tag in ("img", "script", "link", "iframe"):
            self.loaded += [str(given[name]) for name in ("src", "href") if given.get(name)]
        if tag == "img" and not given.get("alt"):
            self.unnamed.append(str(given.get("src"))[:60])


def broken(site: Path) -> Iterator[str]:
    """What is wrong with the links of a built site: nothing there, no such place, or loaded from elsewhere."""
    found = {path: Links(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    for path, page in found.items():
        name = path.relative_to(site).as_posix()
        yield from (f"{name}: no alt text: {picture}" for picture in page.unnamed)
        foreign = [link for link in page.loaded if re.match(r"(https?:)?//", link)]
        yield from (f"{name}: loads {link}" for link in foreign)
        for link in [*page.linked, *page.loaded]:
            if name == "404.html" or re.match(r"[a-z]+:|//", link):
                continue
            file, _, place = unquote(link.split("?")[0]).partition("#")
            target = (path.parent / file).resolve() if file else path
            if not target.exists():
                yield f"{name}: {link} leads nowhere"
            elif place and target in found and place not in found[target].places:
                yield f"{name}: no place {place!r} in {target.name}"


def test_the_site_is_built_strictly_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", site],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert list(broken(site)) == []
    text = {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert "<math" in text["mathematics.html"]
    assert "arithmatex" not in "".join(text.values())
    assert all(f"gallery/{path.stem}.html" in text for path in (ROOT / "models").glob("*.py"))
    assert all(f"results/{path.stem}.html" in text for path in (ROOT / "benchmarks" / "results").glob("*.md"))
    assert all(f"notebooks/{path.stem}.html" in text for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert missing_from("".join(page for name, page in text.items() if name.startswith("api/"))) == []


def missing_from(reference: str) -> list[str]:
    """Public names that no heading of the reference has."""
    headings = set(re.findall(r"<h\d[^>]*>\s*([\w.]+)\s*<", reference))
    packages = {name: getattr(bm, name) for name in ("data", "families", "meta", "plot")}
    wanted = [f"bm.{name}" for name in bm.__all__ if name not in packages and name != "adapt"]
    wanted += [f"bm.{package}.{name}" for package, module in packages.items() for name in module.__all__]
    return [name for name in wanted if name not in headings]


def test_a_name_that_is_missing_is_found() -> None:
    assert "bm.fit" in missing_from("<h2>bm.load</h2>")
    assert "bm.load" not in missing_from('<h2 id="a">\n bm.load\n<a href="#a"></a></h2>')


def test_what_is_broken_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there">b</a><a href="b.html#gone">b</a><a href="c.html">c</a>'
        '<script src="https://example.org/x.js"></script><img src="b.html">'
    )
    (tmp_path / "b.html").write_text('<h1 id="there">b</h1><a href="https://example.org">out</a>')

    assert list(broken(tmp_path)) == [
        "a.html: no alt text: b.html",
        "a.html: loads https://example.org/x.js",
        "a.html: no place 'gone' in b.html",
        "a.html: c.html leads nowhere",
    ]


@pytest.mark.changes_rng  # modules of torch.nn draw their weights
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=pytest.mark.long if name in SLOW else ())
        for path in pages.pages()
        for name in [path.relative_to(DOCS).as_posix()]
    ],
    ids=lambda path: path.relative_to(DOCS).as_posix(),
)
def test_the_code_of_a_page_runs_and_prints_what_it_shows(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    assert pages.page_of(path).run() == []


def test_all_code_is_compiled_and_no_page_is_forgotten() -> None:
    run = {path.relative_to(DOCS).as_posix() for path in pages.pages()}

    assert run >= SLOW | set(pages.FEWER)
    for path in pages.pages():
        for part in pages.PART.finditer(path.read_text(encoding="utf-8")):
            if part["language"] == "python":
                compile(part["code"], str(path), "exec")


def test_a_page_that_is_not_true_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    code = "```python\nprint('two', 2.0)\n```\n\n"

    assert pages.Page(f"{code}```text\ntwo 2.01\n```\n", "page").run() == []
    assert len(pages.Page(f"{code}```text\ntwo 2.2\n```\n", "page").run()) == 1
    assert len(pages.Page(f"{code}```text\nthree 2.0\n```\n", "page").run()) == 1
    assert len(pages.Page(f"{code}```text\ntwo 2.0\nmore\n```\n", "page").run()) == 1
    with pytest.raises(ZeroDivisionError, match="division"):
        pages.Page("```python\n1 / 0\n```\n", "page").run()
    with pytest.raises(RuntimeError, match="exit code 2"):
        pages.Page("```bash\nbayesmeta fit no_such_model\n```\n", "page").run()


def test_what_is_true_is_written_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    code = "from pathlib import Path\nprint(Path('a.txt').read_text())\n"
    text = f"<!-- file: a.txt -->\n```csv\nx\n```\n\n```python\n{code}```\n\n```text\ny\n```\n"
    page = pages.Page(text, "page")

    assert page.run() == ["page, line 12: shown 'y', printed 'x'"]
    assert page.true_text == text.replace("y\n", "x\n")


def test_every_command_is_in_the_reference() -> None:
    page = (DOCS / "api" / "commands.md").read_text(encoding="utf-8")
    commands = getattr(get_command(app), "commands")  # noqa: B009

    assert [name for name in commands if f"`bayesmeta {name}" not in page] == []


def test_figures_of_the_benchmarks_are_those_of_their_pages() -> None:
    """The table of `many.md` has seconds and memory as the results have them."""
    results = (ROOT / "benchmarks" / "results" / "scaling.md").read_text(encoding="utf-8")
    page = (DOCS / "howto" / "many.md").read_text(encoding="utf-8")

    for tasks, seconds, memory in re.findall(r"^\| ([\d,]+) \| ([\d.]+) \| ([\d.]+) GB \|$", page, re.MULTILINE):
        row = re.search(
            rf"^\| {tasks} \| auto \| \d+ \| ([\d.]+) \|(?:[^|]*\|){{2}} ([\d,]+) \|", results, re.MULTILINE
        )
        assert row is not None, tasks
        assert float(seconds) == pytest.approx(float(row[1]), rel=0.03)
        assert float(memory) == pytest.approx(float(row[2].replace(",", "")) / 1000, rel=0.04)
