"""The house is in order: nothing forgotten, no room imports one further down, no `assert` and no `print`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import bayesmeta
from bayesmeta import shelf

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "bayesmeta"

# From low to high; rooms on one line stand equally high and may import each other.
ROOMS = (
    {"errors"},
    {"normals", "psis", "quantiles", "threads", "track"},
    {"archive", "arrays", "columns", "frames", "modules", "padding", "query", "showing", "streams", "tasks"},
    {"data"},
    {
        "centring",
        "classes",
        "closed_form",
        "drawing",
        "sites",
        "program",
        "mapping",
        "outcomes",
        "pyro_model",
        "vectorising",
    },
    {"arguments", "constant", "plates", "reading", "plated", "hierarchy"},
    {"workspace"},
    {"batched", "density", "recordings"},
    {"evidence"},
    {"target"},
    {"likelihood", "fingerprint"},
    {"draws", "summary"},
    {"infer"},
    {
        "observation",
        "predict",
    },  # below adapt, as the plain Draws are below infer: `adapted.predict` only forwards to it
    {"adapt"},
    {"meta", "families"},
    {"replicas"},
    {"diagnose", "export", "plot", "prior"},
    {"explore", "report"},
    {"posterior", "load", "update"},
    {"shelf", "presets"},
    {"fit"},
    {"calibrate", "compare"},  # loops over fits and learners; what they found is in diagnose
    {"tune"},
    {"csv_tables", "runs", "network_runs", "compare_runs", "terminal", "cli", "demo"},
)
HEIGHT = {room: height for height, rooms in enumerate(ROOMS) for room in rooms}
TOP = len(ROOMS) - 1
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))


def _id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker sees."""
    yield node
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        children: list[ast.AST] = list(node.orelse)
    else:
        children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from _runtime_nodes(child)


def imported_rooms(tree: ast.Module) -> set[str]:
    """The rooms that a module imports, at any depth; "" is the package itself."""
    found: set[str] = set()
    for node in _runtime_nodes(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "bayesmeta":
            names = [f"bayesmeta.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        else:
            continue
        found |= {f"{name}.".split(".")[1] for name in names if name.split(".")[0] == "bayesmeta"}
    return found


def too_high(room: str, imports: set[str]) -> set[str]:
    """The imports that stand higher than the room; only the top rooms may import the package itself."""
    height = HEIGHT[room]
    return {name for name in imports if (HEIGHT[name] if name else TOP) > height}


@pytest.mark.parametrize("path", MODULES, ids=_id)
def test_every_module_has_its_place(path: Path) -> None:
    assert _room(path) in HEIGHT, f"enter {_room(path)!r} in ROOMS, above all that it imports"


@pytest.mark.parametrize("path", MODULES, ids=_id)
def test_no_room_imports_one_further_down(path: Path) -> None:
    imports = imported_rooms(_tree(path))

    assert not imports - set(HEIGHT) - {""}
    assert not too_high(_room(path), imports)


@pytest.mark.parametrize("path", MODULES, ids=_id)
def test_imports_inside_the_package_are_absolute(path: Path) -> None:
    assert not [node for node in ast.walk(_tree(path)) if isinstance(node, ast.ImportFrom) and node.level]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from bayesmeta.posterior import Posterior", {"posterior"}),
        ("def later():\n    import bayesmeta.fit", {"fit"}),
        ("from bayesmeta import predict", {"predict"}),
        ("import bayesmeta as bm", {""}),
        (
            "if TYPE_CHECKING:\n    from bayesmeta.fit import fit\nelse:\n    import bayesmeta.draws",
            {"draws"},
        ),
        ("import bayesmetal.fit", set()),
    ],
)
def test_imports_are_found(source: str, expected: set[str]) -> None:
    assert imported_rooms(ast.parse(source)) == expected


def test_a_room_further_down_is_caught() -> None:
    assert too_high("tasks", {"errors", "arrays", "fit", ""}) == {"fit", ""}
    assert too_high("cli", {"errors", "fit", ""}) == set()


@pytest.mark.parametrize("path", [PACKAGE / "__init__.py", *MODULES], ids=_id)
def test_no_assert_and_no_print(path: Path) -> None:
    for node in ast.walk(_tree(path)):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: raise an error of bayesmeta.errors"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"line {node.lineno}: return it, warn, or leave it to terminal.py"


@pytest.mark.parametrize("path", TEST_FILES, ids=_id)
def test_every_expected_error_has_its_message(path: Path) -> None:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("pytest.raises", "pytest.warns"):
            assert any(word.arg == "match" for word in node.keywords), f"line {node.lineno}: add match="


def test_the_public_names_are_all_there_and_no_others() -> None:
    public = {
        name
        for name in dir(bayesmeta)
        if not name.startswith("_")
        and (name in bayesmeta.__all__ or not isinstance(getattr(bayesmeta, name), ModuleType))
    }

    assert public - {"annotations", "TYPE_CHECKING"} == set(bayesmeta.__all__)
    assert len(set(bayesmeta.__all__)) == len(bayesmeta.__all__)


@pytest.mark.parametrize(("kind", "folder"), [("model", "models"), ("preset", "inference")])
def test_the_shelf_lists_every_file_of_its_folder(kind: shelf.Kind, folder: str) -> None:
    files = [path.name for path in (ROOT / folder).iterdir() if path.name != "__pycache__" and path.name[0] != "."]

    assert files
    assert sorted(shelf.path_of(kind, name).name for name in shelf.names(kind)) == sorted(files)


def test_the_matrix_is_taken_from_the_shelf() -> None:
    calls = [
        ast.unparse(node) for node in ast.walk(_tree(ROOT / "tests" / "test_matrix.py")) if isinstance(node, ast.Call)
    ]

    assert "shelf.names('model')" in calls
    assert "shelf.names('preset')" in calls


@pytest.mark.parametrize("name", ["models", "inference"])
def test_no_room_is_named_like_a_folder_of_files(name: str) -> None:
    assert not list(PACKAGE.rglob(name))
    assert not list(PACKAGE.rglob(f"{name}.py"))
