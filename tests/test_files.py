"""Saved posteriors: what comes back, who else can read them, and what is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import arviz
import h5py  # type: ignore[import-untyped]
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from torch import Tensor

import bayesmeta as bm
from bayesmeta.errors import BayesmetaWarning, FileFormatError, NotAvailableError
from tests.fitted import TINY, tiny
from tests.scenarios import SCENARIOS, normal_normal

FITS = [(name, "auto") for name in sorted(SCENARIOS)] + [("normal_normal", "joint")]


@pytest.fixture(params=FITS, ids="-".join)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[bm.Posterior, Path]:
    posterior = tiny(*request.param)
    path = tmp_path / "fit.nc"
    posterior.save(path)
    return posterior, path


@pytest.fixture
def schools(tmp_path: Path) -> Path:
    path = tmp_path / "schools.nc"
    tiny("normal_normal").save(path)
    return path


# --- what comes back ----------------------------------------------------------------------------------------


def test_everything_comes_back_bit_for_bit(saved: tuple[bm.Posterior, Path]) -> None:
    posterior, path = saved
    loaded = bm.load(path, posterior.hierarchy)

    assert torch.equal(loaded.draws.u, posterior.draws.u)
    for ours, theirs in ((loaded.phi, posterior.phi), (loaded.theta, posterior.theta)):
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert loaded.tasks.fingerprint() == posterior.tasks.fingerprint()
    assert loaded.tasks.names == posterior.tasks.names
    assert loaded.info == posterior.info
    assert set(loaded.draws.stats) == set(posterior.draws.stats)
    for name, value in posterior.draws.stats.items():
        np.testing.assert_array_equal(loaded.draws.stats[name], value)
    assert repr(loaded) == repr(posterior)


def test_a_loaded_posterior_adapts_and_predicts_alike(saved: tuple[bm.Posterior, Path]) -> None:
    posterior, path = saved
    loaded = bm.load(path, posterior.hierarchy)
    tasks = posterior.tasks[:2]
    ours, theirs = (p.adapt(tasks, seed=3).predict(tasks) for p in (loaded, posterior))

    assert torch.equal(ours.mean[~ours.mean.isnan()], theirs.mean[~theirs.mean.isnan()])
    assert torch.equal(ours.log_prob(tasks), theirs.log_prob(tasks))


def test_columns_names_and_contexts_come_back(tmp_path: Path) -> None:
    from tests.test_posterior import plates

    posterior = plates()
    posterior.save(str(tmp_path / "plates.nc"))
    loaded = bm.load(str(tmp_path / "plates.nc"), posterior.hierarchy)

    assert loaded.tasks.columns == posterior.tasks.columns
    assert loaded.tasks.context.keys() == {"size"}
    assert torch.equal(loaded.tasks.context["size"], posterior.tasks.context["size"])


def test_names_are_text_whatever_they_look_like(tmp_path: Path) -> None:
    scenario = normal_normal()
    names = ["007", "Åland", "a/b", "'", "", " ", "1e3", "\n"]
    posterior = bm.fit(scenario.hierarchy, scenario.tasks.with_names(names), TINY, progress=False)
    posterior.save(tmp_path / "names.nc")

    assert bm.load(tmp_path / "names.nc", scenario.hierarchy).tasks.names == tuple(names)


def test_the_log_likelihood_may_stay_out(tmp_path: Path) -> None:
    tiny("normal_normal").save(tmp_path / "small.nc", log_likelihood=False)

    assert "log_likelihood" not in arviz.from_netcdf(tmp_path / "small.nc").groups()
    assert len(bm.load(tmp_path / "small.nc", normal_normal().hierarchy).phi["mu"]) == 60


def test_an_ensemble_is_one_when_it_comes_back(tmp_path: Path) -> None:
    scenario = normal_normal()
    settings = bm.Ensemble(members=2, steps=4)
    posterior = bm.fit(scenario.hierarchy, scenario.tasks, settings, progress=False)
    posterior.save(tmp_path / "two.nc")
    loaded = bm.load(tmp_path / "two.nc", scenario.hierarchy)

    assert loaded.draws.members == posterior.draws.members == 2
    assert loaded.draws.unwatched == posterior.draws.unwatched
    assert loaded._repr_html_() == posterior._repr_html_()


@pytest.mark.parametrize("evidence", ["auto", "joint"])
def test_a_slash_in_a_name_is_no_folder(tmp_path: Path, evidence: Any) -> None:
    def hyperprior() -> Tensor:
        return pyro.sample("all/mu", dist.Normal(0.0, 3.0))

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None, **context: Tensor) -> Tensor:
        theta = pyro.sample("own/level", dist.Normal(phi + context["per/head"], 1.0))
        return pyro.sample("seen/y", dist.Normal(theta + 0 * x, 1.0).to_event(1), obs=y)

    context = {"per/head": [1.0, 2.0, 3.0]}
    tasks = bm.Tasks.from_lists([[0.0, 1.0]] * 3, [[1.0, 1.5], [2.0, 2.5], [3.0, 2.0]], context=context)
    hierarchy = bm.Hierarchy(hyperprior, task)
    posterior = bm.fit(hierarchy, tasks, replace(TINY, evidence=evidence), progress=False)
    posterior.save(tmp_path / "slash.nc")
    loaded = bm.load(tmp_path / "slash.nc", hierarchy)

    assert torch.equal(loaded.theta["own/level"], posterior.theta["own/level"])
    assert torch.equal(loaded.tasks.context["per/head"], tasks.context["per/head"])
    assert {"all.mu", "own.level"} <= set(arviz.from_netcdf(tmp_path / "slash.nc").posterior.data_vars)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotAvailableError, match=r"is a folder; wanted a file, such as .*fit\.nc"):
        tiny("normal_normal").save(tmp_path)


# --- who else can read it -----------------------------------------------------------------------------------


def test_arviz_opens_it(saved: tuple[bm.Posterior, Path]) -> None:
    posterior, path = saved
    opened, direct = arviz.from_netcdf(path), posterior.to_arviz()

    assert set(opened.groups()) >= set(direct.groups())
    for name in direct.groups():
        xr.testing.assert_equal(opened[name].load(), direct[name])
    assert len(arviz.summary(opened, var_names=list(posterior.phi), kind="stats")) >= len(posterior.phi)


def objects_in(path: Path) -> list[str]:
    """Everything in the file that is neither a number nor text."""
    found: list[str] = []

    def strange(dtype: Any) -> bool:
        return dtype.kind == "V" or (dtype.kind == "O" and h5py.check_string_dtype(dtype) is None)

    def look(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and strange(item.dtype):
            found.append(name)
        for key in item.attrs:
            if key not in ("DIMENSION_LIST", "REFERENCE_LIST") and strange(item.attrs.get_id(key).dtype):
                found.append(f"{name}.{key}")

    with h5py.File(path) as file:
        look("/", file)
        file.visititems(look)
    return found


def test_there_are_only_numbers_and_text_in_it(saved: tuple[bm.Posterior, Path]) -> None:
    assert objects_in(saved[1]) == []


def test_opaque_content_would_be_seen(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "opaque.nc", "w") as file:
        file["code"] = np.void(pickle.dumps({"a": 1}))

    assert objects_in(tmp_path / "opaque.nc") == ["code"]


def test_nothing_is_pickled_or_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    posterior = tiny("normal_normal")

    def never(*_: object, **__: object) -> None:
        pytest.fail("pickle was used")

    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, never)
    posterior.save(tmp_path / "fit.nc")
    bm.load(tmp_path / "fit.nc", posterior.hierarchy)


def test_what_the_file_says_is_plain_json(schools: Path) -> None:
    """Nothing in it is code, and opening it needs the functions from the user."""
    with h5py.File(schools) as file:
        record = json.loads(file.attrs["bayesmeta"])

    assert record["format"] == "bayesmeta posterior 1"
    assert record["info"]["versions"]["bayesmeta"] == bm.__version__
    assert record["info"]["seed"] == 0
    assert record["fingerprint"]["phi"][0][:2] == ["mu", "Normal"]


# --- files that are not ours, or no longer whole ------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotAvailableError, match=r"there is no file .*nowhere\.nc"):
        bm.load(tmp_path / "nowhere.nc", normal_normal().hierarchy)
    with pytest.raises(NotAvailableError, match="there is no file"):
        bm.load(tmp_path, normal_normal().hierarchy)


def _text(path: Path) -> None:
    path.write_text("not a netCDF file", encoding="utf-8")


def _nothing(path: Path) -> None:
    path.write_bytes(b"")


def _another_netcdf(path: Path) -> None:
    xr.Dataset({"a": ("b", [1.0])}).to_netcdf(path, engine="h5netcdf")


def _arvizs_own(path: Path) -> None:
    arviz.from_dict({"mu": np.zeros((2, 5))}).to_netcdf(str(path))


def _not_json(path: Path) -> None:
    xr.Dataset(attrs={"bayesmeta": "os.system('true')"}).to_netcdf(path, engine="h5netcdf")


def _json_of_something_else(path: Path) -> None:
    xr.Dataset(attrs={"bayesmeta": "[1, 2]"}).to_netcdf(path, engine="h5netcdf")


@pytest.mark.parametrize("make", [_text, _nothing, _another_netcdf, _arvizs_own, _not_json, _json_of_something_else])
def test_a_file_that_is_not_ours_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "other.nc"
    make(path)
    with pytest.raises(FileFormatError, match=r"other\.nc is not a posterior saved by bayesmeta"):
        bm.load(path, normal_normal().hierarchy)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "later.nc"
    attributes = {"bayesmeta": json.dumps({"format": "bayesmeta posterior 9"})}
    xr.Dataset(attrs=attributes).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(FileFormatError, match="has format 'bayesmeta posterior 9', this version reads 'bayesmeta post"):
        bm.load(path, normal_normal().hierarchy)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(schools: Path, share: float) -> None:
    whole = schools.read_bytes()
    schools.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(FileFormatError, match=r"schools\.nc (is not a posterior saved by bayesmeta|lacks the group)"):
        bm.load(schools, normal_normal().hierarchy)


def test_a_file_that_lacks_a_group_is_refused(schools: Path) -> None:
    with h5py.File(schools, "a") as file:
        del file["unconstrained_posterior"]
    with pytest.raises(FileFormatError, match="lacks the group 'unconstrained_posterior': it was cut short or changed"):
        bm.load(schools, normal_normal().hierarchy)


# --- another hierarchy --------------------------------------------------------------------------------------


def variant(
    *, prior: float = 5.0, noise: float = 1.0, name: str = "mu", cauchy: bool = False, size: tuple[int, ...] = ()
) -> bm.Hierarchy:
    """The hierarchy of `normal_normal`, changed."""

    def hyperprior() -> tuple[Tensor, Tensor]:
        mu = pyro.sample(name, dist.Normal(torch.zeros(size), prior).to_event(len(size)))
        return mu.sum(), pyro.sample("tau", dist.HalfCauchy(4.0) if cauchy else dist.HalfNormal(4.0))

    def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None, *, sigma: Tensor) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(*phi))
        return pyro.sample("y", dist.Normal(theta, noise * sigma).expand([len(x)]).to_event(1), obs=y)

    return bm.Hierarchy(hyperprior, task)


@pytest.mark.parametrize("change", [{"prior": 5.001}, {"noise": 0.999}])
def test_a_changed_prior_or_likelihood_is_seen(schools: Path, change: dict[str, Any]) -> None:
    wrong = r"schools.nc was fitted with another hierarchy: the sites are the same, but a prior or a likelihood gives"
    with pytest.raises(FileFormatError, match=wrong + r".*Pass the hierarchy of that fit, or check=False"):
        bm.load(schools, variant(**change))
    with pytest.warns(BayesmetaWarning, match=wrong):
        loaded = bm.load(schools, variant(**change), check=False)
    assert torch.equal(loaded.phi["mu"], tiny("normal_normal").phi["mu"])


@pytest.mark.parametrize("change", [{"name": "mean"}, {"cauchy": True}, {"size": (2,)}])
def test_other_sites_are_refused(schools: Path, change: dict[str, Any]) -> None:
    for check in (True, False):
        with pytest.raises(
            FileFormatError, match=r"fitted with another hierarchy: the phi sites were \[\['mu', 'Normal'"
        ):
            bm.load(schools, variant(**change), check=check)


def test_the_same_hierarchy_written_anew_is_the_same(schools: Path) -> None:
    loaded = bm.load(schools, variant())

    assert torch.equal(loaded.theta["theta"], tiny("normal_normal").theta["theta"])


# --- writing ------------------------------------------------------------------------------------------------


def test_an_interrupted_write_leaves_the_old_file(schools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = schools.read_bytes()
    plain, calls = xr.Dataset.to_netcdf, 0

    def failing(self: xr.Dataset, *args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt("in the middle of it")
        return plain(self, *args, **options)

    monkeypatch.setattr(xr.Dataset, "to_netcdf", failing)
    with pytest.raises(KeyboardInterrupt, match="in the middle of it"):
        tiny("normal_normal", "joint").save(schools)
    monkeypatch.undo()

    assert [path.name for path in schools.parent.iterdir()] == ["schools.nc"]
    assert schools.read_bytes() == before
    assert bm.load(schools, normal_normal().hierarchy).info.evidence == "exact"
    tiny("normal_normal", "joint").save(schools)
    assert bm.load(schools, normal_normal().hierarchy).info.evidence == "joint"
    assert [path.name for path in schools.parent.iterdir()] == ["schools.nc"]


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(NotAvailableError, match="cannot make the folder"):
        tiny("normal_normal").save(tmp_path / "file" / "fit.nc")
