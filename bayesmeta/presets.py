"""Presets: a back-end and its settings, as data in a TOML file.

A preset says `back_end = "nuts"` and, in a table `[options]`, fields of that back-end's config; what it
leaves out keeps the config's default. A back-end is of hierarchies, as `nuts`, or an algorithm that adapts networks, as
`maml`; some of the latter learn a point φ of a hierarchy, too.
"""

from __future__ import annotations

import dataclasses
import importlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol

from bayesmeta import shelf
from bayesmeta.errors import FileFormatError, OptionError, unknown


class Config(Protocol):
    """The settings of a back-end: a frozen dataclass that checks itself."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


__all__ = [
    "ALGORITHMS",
    "BACK_ENDS",
    "Config",
    "back_end_of",
    "evidence_of",
    "is_algorithm",
    "module_of",
    "read_preset",
    "takes_hierarchies",
    "with_options",
    "write_toml",
]

BACK_ENDS: dict[str, tuple[str, str]] = {
    "nuts": ("bayesmeta.infer.nuts", "NUTS"),
    "laplace": ("bayesmeta.infer.laplace", "Laplace"),
    "pathfinder": ("bayesmeta.infer.pathfinder", "Pathfinder"),
    "auto": ("bayesmeta.infer.auto", "Auto"),
    "svi": ("bayesmeta.infer.svi", "SVI"),
    "hmc": ("bayesmeta.infer.hmc", "HMC"),
    "ensemble": ("bayesmeta.infer.ensemble", "Ensemble"),
}
"""Each back-end's name in a preset: the module, which has `run`, and the name of its config; loaded when asked for."""

ALGORITHMS: dict[str, tuple[str, str]] = {
    "maml": ("bayesmeta.meta.maml", "MAML"),
    "reptile": ("bayesmeta.meta.reptile", "Reptile"),
    "anil": ("bayesmeta.meta.anil", "ANIL"),
    "boil": ("bayesmeta.meta.anil", "BOIL"),
    "metasgd": ("bayesmeta.meta.meta_sgd", "MetaSGD"),
    "mamlpp": ("bayesmeta.meta.maml_plus_plus", "MAMLPlusPlus"),
    "imaml": ("bayesmeta.meta.imaml", "IMAML"),
    "cavia": ("bayesmeta.meta.cavia", "CAVIA"),
    "protonet": ("bayesmeta.meta.proto_net", "ProtoNet"),
    "protomaml": ("bayesmeta.meta.proto_maml", "ProtoMAML"),
    "bmaml": ("bayesmeta.meta.bmaml", "BMAML"),
    "llama": ("bayesmeta.meta.llama", "LLAMA"),
    "platipus": ("bayesmeta.meta.platipus", "PLATIPUS"),
    "abml": ("bayesmeta.meta.abml", "ABML"),
    "vampire": ("bayesmeta.meta.vampire", "VAMPIRE"),
    "classhead": ("bayesmeta.meta.class_head", "ClassHead"),
    "pooled": ("bayesmeta.meta.baselines", "Pooled"),
    "pretrained": ("bayesmeta.meta.baselines", "Pretrained"),
    "from-scratch": ("bayesmeta.meta.baselines", "FromScratch"),
}
"""Each algorithm of `bayesmeta.meta` likewise: its module, and the name of its config."""

ON_HIERARCHIES = ("maml", "reptile")
BASE = ("bayesmeta.meta.algorithm", "Algorithm")
HIERARCHY_MODULE = "bayesmeta.meta.hierarchy.fit"


def read_preset(name_or_path: str | Path) -> Config:
    """The config of a back-end from a preset: a name that comes with bayesmeta, or the path of a TOML file.

    Raises:
        UnknownNameError: no preset has that name.
        NotAvailableError: no file lies at that path.
        FileFormatError: the file is not TOML.
        OptionError: a key, back-end or option is unknown, or a value is of the wrong kind or out of range.

    Examples:
        >>> read_preset("nuts").chains
        4
    """
    path = shelf.find("preset", name_or_path)
    content = _content(path)
    for key in content:
        if key not in ("back_end", "options"):
            raise OptionError(f"{path}: {unknown('key', key, ['back_end', 'options'])}")
    back_end, options = content.get("back_end"), content.get("options", {})
    if not isinstance(back_end, str) or back_end not in BACK_ENDS | ALGORITHMS:
        raise OptionError(f"{path}: {_wrong_back_end(back_end)}")
    if not isinstance(options, dict):
        raise OptionError(f"{path}: options: got {options!r}; wanted a table, headed by a line [options]")
    return _build(_config_type(back_end), options, str(path))


def with_options(config: Config, options: Mapping[str, Any]) -> Config:
    """The config with some of its fields replaced, checked like those of a preset.

    Raises:
        OptionError: an option is unknown, or a value is of the wrong kind or out of range.
    """
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.init}
    return _build(type(config), fields | dict(options), type(config).__name__)


def back_end_of(config: Config) -> str:
    """The name that a preset calls the back-end of this config by.

    >>> back_end_of(read_preset("nuts-joint"))
    'nuts'
    """
    for name, (module, kind) in (BACK_ENDS | ALGORITHMS).items():
        if (type(config).__module__, type(config).__name__) == (module, kind):
            return name
    raise OptionError(f"{type(config).__name__} is not the config of a back-end; those are {_configs()}")


def _configs() -> str:
    return ", ".join(kind for _, kind in (BACK_ENDS | ALGORITHMS).values())


def is_algorithm(config: Config) -> bool:
    """Whether this is an algorithm of `bayesmeta.meta`, which adapts networks; it may be the user's own.

    >>> is_algorithm(read_preset("nuts"))
    False
    """
    return any((base.__module__, base.__name__) == BASE for base in type(config).__mro__)


def takes_hierarchies(config: Config) -> bool:
    """Whether a hierarchy can be fitted with it; an algorithm of `bayesmeta.meta` may need a network.

    >>> takes_hierarchies(read_preset("nuts"))
    True
    """
    return not is_algorithm(config) or back_end_of(config) in ON_HIERARCHIES


def evidence_of(config: Config) -> str:
    """What a back-end is asked to do about θ, one of `bayesmeta.evidence.METHODS`.

    Raises:
        OptionError: it is an algorithm, which finds a point φ and draws nothing.
    """
    if is_algorithm(config):
        raise OptionError(
            f"{type(config).__name__} finds one point φ and draws nothing from p(φ | D): use a back-end that does, "
            "such as 'auto' or NUTS(...)"
        )
    method: str = getattr(config, "evidence")  # noqa: B009  (the settings of all back-ends have it)
    return method


def module_of(config: Config) -> ModuleType:
    """The module of a config's back-end, whose `run(target, config, *, seed, progress)` gives draws."""
    module = HIERARCHY_MODULE if is_algorithm(config) else BACK_ENDS[back_end_of(config)][0]
    return importlib.import_module(module)


def write_toml(tables: Mapping[str, object]) -> str:
    """Plain values and one level of tables as TOML; what is None is left out.

    >>> print(write_toml({"back_end": "nuts", "options": {"draws": 10, "cores": None, "compile": True}}))
    back_end = "nuts"
    <BLANKLINE>
    [options]
    draws = 10
    compile = true
    <BLANKLINE>
    """
    plain = {key: value for key, value in tables.items() if not isinstance(value, Mapping)}
    blocks = [_lines(plain)] if plain else []
    for name, table in tables.items():
        if isinstance(table, Mapping):
            blocks.append(f"[{_quoted_key(name)}]\n{_lines(table)}")
    return "\n".join(blocks)


def _content(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path}: not TOML: {error}") from error


def _wrong_back_end(got: object) -> str:
    if got is None:
        valid = " or ".join(f'back_end = "{name}"' for name in BACK_ENDS | ALGORITHMS)
        return f"has no key 'back_end'; wanted a line {valid}"
    return unknown("back_end", got, BACK_ENDS | ALGORITHMS)


def _config_type(back_end: str) -> type[Config]:
    module, name = (BACK_ENDS | ALGORITHMS)[back_end]
    config: type[Config] = getattr(importlib.import_module(module), name)
    return config


def _build(kind: type[Config], options: Mapping[str, Any], source: str) -> Config:
    """The config; its own checks see the values, and their errors say which file they come from."""
    valid = [field.name for field in dataclasses.fields(kind) if field.init]
    for key in options:
        if key not in valid:
            raise OptionError(f"{source}: {unknown('option', key, valid)}")
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in options.items()})
    except (OptionError, TypeError) as error:
        raise OptionError(f"{source}: {error}") from error


def _lines(table: Mapping[str, object]) -> str:
    shown = {key: value for key, value in table.items() if value is not None}
    return "".join(f"{_quoted_key(key)} = {_literal(value)}\n" for key, value in shown.items())


def _quoted_key(key: str) -> str:
    bare = key.replace("-", "").replace("_", "")
    return key if bare.isascii() and bare.isalnum() else _literal(key)


def _literal(value: object) -> str:
    """One TOML value: text, truth, number, or a list of them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_literal(part) for part in value) + "]"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
