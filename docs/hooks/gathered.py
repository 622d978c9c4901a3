"""Pages made from files that stand elsewhere: gallery, presets, notebooks, results of benchmarks, changelog.

They are written where they are used, and shown here as they are. Links between all of them are relative paths that
work in the repository; here they are turned into links between pages.
"""

from __future__ import annotations

import ast
import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")
MOST_TEXT = 4000  # characters of one output of a notebook


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Enter the pages in the navigation."""
    for section in config.nav or []:
        for name, children in section.items():
            children += [page for page, (where, _) in gathered().items() if where == name]
    config.nav = [section for section in config.nav or [] if all(section.values())]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for page, (_, source) in gathered().items():
        files.append(File.generated(config, page, content=content_of(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn relative paths of the repository into links between pages."""
    return linked(markdown, page.file.src_uri)


def gathered() -> dict[str, tuple[str, str]]:
    """Page by page: the section of the navigation that it belongs to, and its file in the repository."""
    found = {"gallery/index.md": ("Gallery", "models")}
    for section, folder, pattern, target in (
        ("Gallery", "models", "*.py", "gallery"),
        ("Notebooks", "notebooks", "*.ipynb", "notebooks"),
        ("Benchmarks", "benchmarks/results", "*.md", "results"),
    ):
        for path in sorted((ROOT / folder).glob(pattern)):
            found[f"{target}/{path.stem}.md"] = (section, f"{folder}/{path.name}")
    found["gallery/presets.md"] = ("Gallery", "inference")
    found["changelog.md"] = ("Reference", "CHANGELOG.md")
    found["contributing.md"] = ("Reference", "CONTRIBUTING.md")
    return found


def content_of(path: Path) -> str:
    """The page of a file or a folder."""
    if path.is_dir():
        return shelf_of_models(path) if path.name == "models" else shelf_of_presets(path)
    if path.suffix == ".py":
        return model_page(path)
    if path.suffix == ".ipynb":
        return notebook_page(path)
    return path.read_text(encoding="utf-8")


def linked(markdown: str, page: str) -> str:
    """The page with links to files of the repository turned into links to their pages."""
    sources = {source: target for target, (_, source) in gathered().items()}
    here = sources_by_page().get(page, f"docs/{page}")

    def turned(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), found[1]))
        inside = target.removeprefix("docs/") if target.startswith("docs/") else sources.get(target)
        return found[1] if inside is None else posixpath.relpath(inside, posixpath.dirname(page) or ".")

    return LINK.sub(turned, markdown)


def sources_by_page() -> dict[str, str]:
    """The file of the repository that a gathered page comes from."""
    return {page: source for page, (_, source) in gathered().items()}


# ---------------------------------------------------------------------------------------------------------
# Models and presets


def title_of(path: Path) -> str:
    """The first line of a model's docstring or of a preset's comment."""
    text = path.read_text(encoding="utf-8")
    first = (ast.get_docstring(ast.parse(text)) or path.stem) if path.suffix == ".py" else text.lstrip("# ")
    return first.splitlines()[0]


def shelf_of_models(folder: Path) -> str:
    """The gallery at a glance."""
    rows = [f"| [`{path.stem}`]({path.name}) | {title_of(path)} |" for path in sorted(folder.glob("*.py"))]
    rows = [row.replace(".py)", ".md)") for row in rows]
    head = (
        "# Gallery\n\nWorked models, one file each: story, formula, the two functions (or a network), data. "
        "`bayesmeta fit NAME` fits one, `bayesmeta models copy NAME` puts its file where you are, to change it.\n\n"
        "| model | |\n| --- | --- |\n"
    )
    return head + "\n".join(rows) + "\n\n[Presets](presets.md) has the ways to fit them.\n"


def model_page(path: Path) -> str:
    """A model: its docstring, formula and references, and its code."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    title, _, story = (ast.get_docstring(tree) or path.stem).partition("\n")
    how = " --inference maml" if "hierarchy =" not in source else ""
    body = source.splitlines()[tree.body[0].end_lineno or 0 :]
    code = "\n".join(body).strip()
    return (
        f"# {path.stem}\n\n**{title}**\n{story}\n\n```bash\nbayesmeta fit {path.stem}{how}\n```\n\n"
        f"## The file\n\n`models/{path.name}`, below its docstring:\n\n```python\n{code}\n```\n"
    )


def shelf_of_presets(folder: Path) -> str:
    """All presets with their comments, on one page."""
    head = (
        "# Presets\n\nA preset is a back-end with its settings, in a file of a few lines. "
        "`bayesmeta fit MODEL --inference NAME` takes it, and so does `bm.fit(hierarchy, tasks, inference=NAME)`; "
        "`bayesmeta presets copy NAME` puts it where you are. [Which road to take](../roads.md) compares them.\n"
    )
    parts = [head]
    for path in sorted(folder.glob("*.toml")):
        text = path.read_text(encoding="utf-8").strip()
        parts.append(f"## {path.stem}\n\n```toml\n{text}\n```\n")
    return "\n".join(parts)


# ---------------------------------------------------------------------------------------------------------
# Notebooks


def notebook_page(path: Path) -> str:
    """A notebook as it was saved: text, code, what the code printed and drew."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = [_cell(cell) for cell in cells if "hide" not in cell.get("metadata", {}).get("tags", [])]
    note = f"\n\n*This page is `notebooks/{path.name}`, as it was last run.*\n"
    return "\n\n".join(parts) + note


def _cell(cell: dict[str, Any]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return source
    shown = [_output(output) for output in cell.get("outputs", [])]
    return "\n\n".join([f"```python\n{source}\n```", *(part for part in shown if part)])


def _output(output: dict[str, Any]) -> str:
    """An output: its picture, else its table, else its text."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        return f'<img alt="Picture drawn by the code above" src="data:image/png;base64,{picture}">'
    if "text/html" in data:
        lines = "".join(data["text/html"]).splitlines()
        return '<div class="output">' + "".join(line.strip() + " " for line in lines if line.strip()) + "</div>"
    text = "".join(data.get("text/plain", "")).rstrip()
    return f"```text\n{text[:MOST_TEXT]}\n```" if text else ""
