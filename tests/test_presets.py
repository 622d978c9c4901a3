"""A preset is data: what it says is what the back-end gets, and what it gets wrong is named."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest

from bayesmeta import presets, shelf
from bayesmeta.errors import FileFormatError, NotAvailableError, OptionError, UnknownNameError
from bayesmeta.infer.nuts import NUTS
from bayesmeta.infer.svi import SVI


@pytest.mark.parametrize("name", shelf.names("preset"))
def test_what_a_preset_says_is_what_the_back_end_gets(name: str) -> None:
    path = shelf.path_of("preset", name)
    content = tomllib.loads(path.read_text())

    config = presets.read_preset(name)

    assert presets.back_end_of(config) == content["back_end"]
    assert set(content) == {"back_end", "options"}
    assert {key: getattr(config, key) for key in content["options"]} == content["options"]
    assert presets.read_preset(path) == presets.read_preset(str(path)) == config


@pytest.mark.parametrize("name", shelf.names("preset"))
def test_a_preset_explains_itself(name: str) -> None:
    head = shelf.path_of("preset", name).read_text().split("back_end")[0]

    assert all(f"# {word}:" in head for word in ("When", "Costs", "Good"))


@pytest.mark.parametrize("name", shelf.names("preset"))
def test_a_preset_writes_every_option_out(name: str) -> None:
    """But those that are None by default, for which TOML has no value, and empty lists."""
    content = tomllib.loads(shelf.path_of("preset", name).read_text())
    config = presets.read_preset(name)
    given = [field.name for field in dataclasses.fields(config) if field.init]
    options = {name for name in given if getattr(config, name) not in (None, ())}

    assert set(content["options"]) == options


@pytest.mark.parametrize("name", sorted({*presets.BACK_ENDS, *presets.ALGORITHMS} & {*shelf.names("preset")}))
def test_the_preset_named_like_its_back_end_holds_the_defaults(name: str) -> None:
    config = presets.read_preset(name)

    assert config == type(config)()


def test_the_preset_of_vectorised_chains_holds_the_defaults() -> None:
    config = presets.read_preset("hmc-vectorised")

    assert config == type(config)()


GUIDES = {
    "svi-meanfield": SVI(guide="meanfield", steps=1000, tolerance=0.0),
    "svi-fullrank": SVI(),
    "svi-lowrank": SVI(guide="lowrank"),
    "svi-flow": SVI(guide="flow", steps=1500, particles=32, tolerance=0.0),
    "svi-map": SVI(guide="map"),
}


def test_presets_of_svi_hold_the_defaults_but_for_their_guide_and_its_budget() -> None:
    found = {name: presets.read_preset(name) for name in shelf.names("preset") if name.startswith("svi-")}

    assert found == GUIDES


@pytest.mark.parametrize("name", GUIDES)
def test_presets_of_svi_say_what_to_set_for_very_many_tasks(name: str) -> None:
    head = shelf.path_of("preset", name).read_text().split("back_end")[0]
    advice = ("batch_size = 500", "learning_rate = 0.02", *(["tolerance = 0.0"] if GUIDES[name].tolerance else []))

    assert all(words in head for words in advice)


def test_what_a_preset_leaves_out_keeps_its_default(tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    path.write_text('back_end = "nuts"\n')
    assert presets.read_preset(path) == NUTS()

    path.write_text('back_end = "nuts"\n[options]\ndraws = 7\n')
    assert presets.read_preset(path) == NUTS(draws=7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"mine\.toml: has no key 'back_end'; wanted a line back_end = \"nuts\" or "),
        ("back_end = 3", r"mine\.toml: unknown back_end 3; valid: 'nuts', "),
        ('back_end = "nutz"', r"unknown back_end 'nutz'; valid: .*; did you mean 'nuts'\?"),
        ('back_end = "nuts"\noption = 1', r"unknown key 'option'; valid: .*; did you mean 'options'\?"),
        ('back_end = "nuts"\noptions = 1', r"options: got 1; wanted a table, headed by a line \[options\]"),
        (
            'back_end = "nuts"\n[options]\ndraw = 1',
            r"mine\.toml: unknown option 'draw'; valid: .*did you mean 'draws'\?",
        ),
        ('back_end = "nuts"\n[options]\ndraws = -1', r"mine\.toml: draws .*-1"),
        ('back_end = "nuts"\n[options]\nevidence = "exat"', r"mine\.toml: .*evidence.*'exat'.*'exact'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)

    with pytest.raises(OptionError, match=message):
        presets.read_preset(path)


def test_what_is_not_toml_says_where(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("back_end = nuts\n")

    with pytest.raises(FileFormatError, match=r"mine\.toml: not TOML: .*line 1"):
        presets.read_preset(path)


def test_unknown_names_and_missing_files() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown preset 'pyro-nut'.*did you mean 'pyro-nuts'\?"):
        presets.read_preset("pyro-nut")
    with pytest.raises(NotAvailableError, match=r"preset: no file 'pyro-nut\.toml'"):
        presets.read_preset("pyro-nut.toml")


def test_options_are_replaced_and_checked() -> None:
    assert presets.with_options(NUTS(chains=2), {"draws": 5}) == NUTS(chains=2, draws=5)
    with pytest.raises(OptionError, match=r"NUTS: draws .*0"):
        presets.with_options(NUTS(), {"draws": 0})
    with pytest.raises(OptionError, match="NUTS: unknown option 'thin'"):
        presets.with_options(NUTS(), {"thin": 2})


def test_a_config_survives_toml() -> None:
    config = NUTS(draws=5, target_accept=0.95, cores=2)

    back = tomllib.loads(presets.write_toml({"options": dataclasses.asdict(config)}))

    assert NUTS(**back["options"]) == config


def test_odd_values_survive_toml() -> None:
    odd = {
        'a "key"': 'quotes " and \\ and \n line \x7f ends',
        "café": "κ 🙂",
        "dotted.key": [1, 2.5, True, "x"],
        "float": 1e-30,
    }

    assert tomllib.loads(presets.write_toml({"table": odd}))["table"] == odd
