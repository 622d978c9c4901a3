"""The gallery of models and the presets, as files: found by name, copied, and a model file loaded.

In a checkout they are the top-level folders `models/` and `inference/`; in an installed package the same
files lie under `bayesmeta/gallery/`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from bayesmeta.errors import FileFormatError, HierarchyError, NotAvailableError, UnknownNameError, unknown

if TYPE_CHECKING:
    from torch import nn

    from bayesmeta.hierarchy import Hierarchy
    from bayesmeta.streams import Stream
    from bayesmeta.tasks import Tasks

__all__ = ["Kind", "ModelFile", "copy", "find", "folder", "is_network", "load_model", "names", "path_of", "title"]

Kind: TypeAlias = Literal["model", "preset"]

_FOLDERS: dict[Kind, str] = {"model": "models", "preset": "inference"}
_SUFFIXES: dict[Kind, str] = {"model": ".py", "preset": ".toml"}


@dataclass(frozen=True)
class ModelFile:
    """A model file, loaded.

    Attributes:
        name: the file's name without its suffix.
        path: where it lies.
        model: its `hierarchy`, or its `net`: a network that the algorithms of `bayesmeta.meta` learn to adapt.
        load: its `load()`, which gives the tasks that it is fitted on.
        settings: what its data ask of such an algorithm, as `loss="cross_entropy"`, in place of the preset's.
        held_out: its `held_out()`, if it has one: tasks, an environment or an image set that nothing is fitted on, to
            compare learners on.
        source: the file as it was when it was loaded.
    """

    name: str
    path: Path
    model: Hierarchy | nn.Module
    load: Callable[[], Tasks | Stream]
    settings: Mapping[str, Any] = field(default_factory=dict)
    held_out: Callable[[], Any] | None = None
    source: bytes = b""

    @property
    def is_network(self) -> bool:
        """Whether it has a network in place of a hierarchy."""
        from bayesmeta.hierarchy import Hierarchy

        return not isinstance(self.model, Hierarchy)

    @property
    def hierarchy(self) -> Hierarchy:
        """Its hierarchy.

        Raises:
            HierarchyError: it has a network in its place.
        """
        from bayesmeta.hierarchy import Hierarchy

        if not isinstance(self.model, Hierarchy):
            raise HierarchyError(
                f"{self.path}: is a network, without p(φ) and p(θ | φ); this needs a file with hierarchy = "
                "bayesmeta.Hierarchy(hyperprior, task). A network is fitted by presets such as maml"
            )
        return self.model

    def data(self) -> Tasks | Stream:
        """What `load()` returns: tasks, or a stream of them.

        Raises:
            HierarchyError: it returned neither.
        """
        from bayesmeta.streams import Stream

        found = self.load()
        return found if isinstance(found, Stream) else _as_tasks(self.path, found)

    def tasks(self) -> Tasks:
        """What `load()` returns.

        Raises:
            HierarchyError: it did not return `Tasks`.
        """
        return _as_tasks(self.path, self.load())


def _as_tasks(path: Path, found: object) -> Tasks:
    from bayesmeta.tasks import Tasks

    if not isinstance(found, Tasks):
        raise HierarchyError(
            f"{path}: load() returned {type(found).__name__}; wanted bayesmeta.Tasks "
            "(Tasks.from_frame, from_lists or from_arrays)"
        )
    return found


def folder(kind: Kind) -> Path:
    """The folder that holds the gallery's models, or the presets."""
    package = Path(__file__).resolve().parent
    installed = package / "gallery" / _FOLDERS[kind]
    if installed.is_dir():
        return installed
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / _FOLDERS[kind]).is_dir():
        return checkout / _FOLDERS[kind]
    raise NotAvailableError(f"the {kind}s that come with bayesmeta are missing: no folder {installed}; install again")


def names(kind: Kind) -> list[str]:
    """The names of the gallery's models, or of the presets, sorted.

    >>> "nuts" in names("preset")
    True
    """
    return sorted(path.stem for path in folder(kind).glob(f"*{_SUFFIXES[kind]}") if not path.name.startswith("_"))


def path_of(kind: Kind, name: str) -> Path:
    """The file of a gallery model or of a preset.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in names(kind):
        raise UnknownNameError(unknown(kind, name, names(kind)))
    return folder(kind) / f"{name}{_SUFFIXES[kind]}"


def find(kind: Kind, name_or_path: str | Path) -> Path:
    """The file meant by a name of the gallery or by a path.

    A path is what ends in the suffix of its kind or has a folder in it; anything else is a name.

    Raises:
        UnknownNameError: no model or preset has that name.
        NotAvailableError: no file lies at that path.
    """
    text, suffix = str(name_or_path), _SUFFIXES[kind]
    path = Path(text).expanduser()
    if isinstance(name_or_path, str) and path.suffix != suffix and path.name == text:
        return path_of(kind, text)
    if not path.is_file():
        valid = ", ".join(repr(name) for name in names(kind))
        raise NotAvailableError(
            f"{kind}: no file {text!r} (looked in {Path.cwd()}); wanted the path of a {suffix} file, or one of {valid}"
        )
    return path


def title(path: Path) -> str:
    """The first line of a model's docstring, or of a preset's comment.

    >>> title(path_of("preset", "nuts"))
    'NUTS over phi, or over phi and theta: the thorough road.'
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    line = text.strip().partition("\n")[0]
    return line.lstrip("# ").strip()


def copy(kind: Kind, name: str, to: Path | str = ".") -> Path:
    """Put a file of the gallery where the user can change it.

    Args:
        kind: "model" or "preset".
        name: its name.
        to: a folder (made if it ends in none of the suffixes and is missing), or the path of the new file.

    Returns:
        The path of the new file.

    Raises:
        UnknownNameError: there is none of that name.
        NotAvailableError: a file is there already (nothing is overwritten), or it cannot be written.
    """
    source, target = path_of(kind, name), Path(to).expanduser()
    if target.suffix != source.suffix:
        target = target / source.name
    if target.exists():
        raise NotAvailableError(f"to: {str(target)!r} exists already; remove it, or pass another place")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    except OSError as error:
        raise NotAvailableError(f"to: cannot write {str(target)!r}: {error}") from error
    return target


def is_network(path: Path) -> bool:
    """Whether a model file has a network, `net`, in place of a hierarchy; the file is read, not run.

    >>> is_network(path_of("model", "radon"))
    False
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    names = {target.id for target in targets if isinstance(target, ast.Name)}
    return "net" in names and "hierarchy" not in names


def load_model(name_or_path: str | Path) -> ModelFile:
    """A model file as a module of its own, with its hierarchy or network and its `load`.

    The file is run as Python runs any module: load only files that you trust. Weights that a network draws in it are
    the same every time, and nobody else's random numbers move.

    Raises:
        UnknownNameError: no model of the gallery has that name.
        NotAvailableError: no file lies at that path.
        FileFormatError: the file fails to run, or lacks `hierarchy` (or `net`) or `load`.
    """
    import torch

    path = find("model", name_or_path)
    source = path.read_bytes()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = _module(path)
    load, settings = getattr(module, "load", None), getattr(module, "settings", {})
    model = _model(path, module)
    if not callable(load):
        raise FileFormatError(
            f"{path}: {_missing('load', load)}; wanted, at module level, a function load() that returns bayesmeta.Tasks"
        )
    if not isinstance(settings, Mapping):
        raise FileFormatError(f"{path}: {_missing('settings', settings)}; wanted a dict of settings by name")
    held_out = getattr(module, "held_out", None)
    if held_out is not None and not callable(held_out):
        raise FileFormatError(f"{path}: {_missing('held_out', held_out)}; wanted a function without arguments")
    return ModelFile(path.stem, path, model, load, settings, held_out, source)


def _model(path: Path, module: ModuleType) -> Hierarchy | nn.Module:
    """The hierarchy of a model file, or its network where it has none."""
    from torch import nn

    from bayesmeta.hierarchy import Hierarchy

    hierarchy, net = getattr(module, "hierarchy", None), getattr(module, "net", None)
    if isinstance(hierarchy, Hierarchy):
        return hierarchy
    if hierarchy is None and isinstance(net, nn.Module):
        return net
    if hierarchy is None and net is not None:
        raise FileFormatError(f"{path}: {_missing('net', net)}; wanted, at module level, net = a torch.nn.Module")
    raise FileFormatError(
        f"{path}: {_missing('hierarchy', hierarchy)}; wanted, at module level, "
        "hierarchy = bayesmeta.Hierarchy(hyperprior, task), or net = a torch.nn.Module"
    )


def _missing(name: str, got: object) -> str:
    return f"has no {name!r}" if got is None else f"{name!r} is of type {type(got).__name__}"


def _module(path: Path) -> ModuleType:
    """Run the file under a name that no other module has."""
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(f"bayesmeta_model_{path.stem}_{digest}", path)
    if spec is None or spec.loader is None:
        raise FileFormatError(f"{path}: not a Python file; wanted one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look their module up here
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise FileFormatError(f"{path}{_line(path, error)}: {type(error).__name__}: {error}") from error
    return module


def _line(path: Path, error: Exception) -> str:
    """Where in the file it happened, if in the file."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}" if error.filename == str(path) else ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""
