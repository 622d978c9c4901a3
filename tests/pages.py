"""Pages that run: the code of a Markdown page, what the page says that it prints, and the pictures it shows.

A page is one program from top to bottom. Four kinds of blocks count:

* ``python`` is run, ``bash`` too where it calls ``bayesmeta``;
* ``text`` after a block that prints is what it printed, word for word, and number for number to a few per cent;
* ``<!-- file: NAME -->`` before a block writes it to that file first;
* a picture of ``figures/`` is the figure that the code before it drew last.

``python -m tests.pages`` draws the pictures of all pages anew, and writes down what their code printed.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

import bayesmeta as bm
from bayesmeta.cli import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PART = re.compile(
    r"^```(?P<language>\w+)\n(?P<code>.*?)^```$"
    r"|^<!-- file: (?P<file>\S+) -->$"
    r"|^!\[[^\]]*\]\((?P<picture>(?:\.\./)?figures/\S+)\)$",
    re.MULTILINE | re.DOTALL,
)
NUMBER = re.compile(r"-?\d[\d,]*\.?\d*(?:e[-+]?\d+)?%?")
RELATIVE, ABSOLUTE = 0.05, 0.02
DOTS = "..."


# Back-ends and simulations that take minutes as the page has them.
FEWER: dict[str, dict[str, dict[str, Any]]] = {
    "howto/diagnosing.md": {"sbc": {"replications": 3, "cores": 1}},
    "training.md": {"Ensemble": {"steps": 3}},
    "families.md": {"SVI": {"steps": 30}},
}


def page_of(path: Path, pictures: Path | None = None) -> Page:
    """A page of the documentation, on a small budget."""
    name = path.relative_to(DOCS).as_posix()
    return Page(path.read_text(encoding="utf-8"), name, FEWER.get(name, {}), pictures)


def pages() -> list[Path]:
    """The pages with code: all but the reference."""
    return [path for path in sorted(DOCS.rglob("*.md")) if "```python" in path.read_text(encoding="utf-8")]


@dataclass
class Page:
    """A page as a program.

    Attributes:
        text: The page.
        name: What errors call it.
        fewer: Settings in place of those that the page gives a back-end, by its name: a small budget.
        pictures: The folder that pictures are written to; by default none are.
        printed: What the last block printed.
        problems: Where the page is not true.
        true_text: The page with what was printed in place of what it shows.
    """

    text: str
    name: str
    fewer: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pictures: Path | None = None
    printed: str = ""
    problems: list[str] = field(default_factory=list)
    true_text: str = ""

    def run(self) -> list[str]:
        """Run the page in the current folder; what is not true about it."""
        namespace: dict[str, Any] = {}
        file: str | None = None
        self.true_text = self.text
        with _quiet(self.fewer):
            for part in PART.finditer(self.text):
                if part["file"]:
                    file = part["file"]
                elif part["picture"]:
                    self._picture(part["picture"])
                else:
                    self._block(part, file, namespace)
                    file = None
        return self.problems

    def _block(self, part: re.Match[str], file: str | None, namespace: dict[str, Any]) -> None:
        language, code = part["language"], part["code"]
        line = self.text[: part.start()].count("\n") + 2
        if file is not None:
            Path(file).write_text(code, encoding="utf-8")
        elif language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile("\n" * (line - 1) + code, self.name, "exec"), namespace)
            self.printed = out.getvalue()
        elif language == "bash":
            self.printed = "".join(_command(command) for command in code.splitlines())
        elif language == "text":
            found = [f"{self.name}, line {line}: {problem}" for problem in differences(code, self.printed)]
            if DOTS not in code.splitlines():
                self.true_text = self.true_text.replace(part[0], f"```text\n{_plain(self.printed)}```", 1)
            self.problems += found

    def _picture(self, name: str) -> None:
        """The figure drawn last, which the page shows."""
        import matplotlib.pyplot as plt

        if not plt.get_fignums():
            return  # of another page, or of the demo
        if self.pictures is not None:
            plt.gcf().savefig(self.pictures / Path(name).name, dpi=110, bbox_inches="tight")
        plt.close("all")


@contextlib.contextmanager
def _quiet(fewer: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Fits without a progress bar, back-ends with smaller budgets, figures closed at the end."""
    import matplotlib.pyplot as plt

    kept = {name: getattr(bm, name) for name in ("fit", *fewer)}
    bm.fit = functools.partial(kept["fit"], progress=False)
    for name, settings in fewer.items():
        setattr(bm, name, lambda *args, _made=kept[name], _few=settings, **given: _made(*args, **{**given, **_few}))
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(bm, name, value)
        plt.close("all")


def _command(line: str) -> str:
    """What a command of ours prints; others are not run."""
    program, *words = shlex.split(line)
    if program != "bayesmeta":
        return ""
    done = CliRunner().invoke(app, words)
    if done.exit_code != 0:
        raise RuntimeError(f"{line!r} ended with exit code {done.exit_code}: {done.output}")
    return str(done.output)


def differences(shown: str, printed: str) -> list[str]:
    """Where what a page shows is not what was printed; a line of three dots stands for any number of lines."""
    wanted, got = shown.strip().splitlines(), printed.strip().splitlines()
    if DOTS in wanted:
        cut = wanted.index(DOTS)
        tail = len(wanted) - cut - 1
        wanted, got = [*wanted[:cut], *wanted[cut + 1 :]], [*got[:cut], *got[len(got) - tail :]]
    if len(wanted) != len(got):
        return [f"{len(wanted)} lines are shown, {len(got)} were printed:\n{printed}"]
    pairs = zip(wanted, got, strict=True)
    return [f"shown {line!r}, printed {other!r}" for line, other in pairs if not _alike(line, other)]


def _alike(shown: str, printed: str) -> bool:
    if NUMBER.sub("#", shown).split() != NUMBER.sub("#", printed).split():
        return False
    numbers = [[_number(found) for found in NUMBER.findall(line)] for line in (shown, printed)]
    return all(abs(a - b) <= ABSOLUTE + RELATIVE * abs(b) for a, b in zip(*numbers, strict=True))


def _plain(printed: str) -> str:
    return "\n".join(line.rstrip() for line in printed.rstrip().splitlines()) + "\n"


def _number(text: str) -> float:
    return float(text.rstrip("%").rstrip(",").replace(",", ""))


def main(names: list[str]) -> None:
    """Make pages true, all or those named: draw their pictures anew, and write down what their code printed."""
    import os
    import tempfile
    import time

    for path in [DOCS / name for name in names] or pages():
        with tempfile.TemporaryDirectory() as folder:
            before, start = Path.cwd(), time.process_time()
            os.chdir(folder)
            page = page_of(path, pictures=DOCS / "figures")
            found = page.run()
            os.chdir(before)
        path.write_text(page.true_text, encoding="utf-8")
        seconds = time.process_time() - start
        sys.stderr.write("\n".join([f"{path.name}: {len(found)} changes, {seconds:.1f} s", *found, ""]))


if __name__ == "__main__":
    main(sys.argv[1:])
