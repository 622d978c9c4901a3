"""The front door: what may be handed in, what is said about how it was done, and that nothing leaks out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.errors import BayesmetaWarning, DataError, HierarchyError, OptionError, UnknownNameError
from bayesmeta.evidence import Exact, choose
from bayesmeta.fit import log_density
from bayesmeta.presets import write_toml
from tests.fitted import TINY, tiny
from tests.scenarios import SCENARIOS, normal_normal, plated


def fit(inference: Any = TINY, **options: Any) -> bm.Posterior:
    scenario = normal_normal()
    return bm.fit(scenario.hierarchy, scenario.tasks, inference, **({"progress": False} | options))


# --- what may be handed in ----------------------------------------------------------------------------------


def test_inference_is_a_config_or_the_path_of_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    options = {"draws": 30, "tune": 60, "chains": 2, "compile": False, "max_treedepth": 5}
    path.write_text(write_toml({"back_end": "nuts", "options": options}), encoding="utf-8")

    by_config = fit(TINY)
    for inference in (path, str(path)):
        by_file = fit(inference)
        assert torch.equal(by_config.draws.u, by_file.draws.u)
        assert by_file.info.inference == by_config.info.inference


def test_a_preset_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def read_preset(name: object) -> bm.NUTS:
        seen.append(name)
        return TINY

    monkeypatch.setattr(sys.modules["bayesmeta.fit"], "read_preset", read_preset)
    fit("nuts-joint")
    bm.fit(normal_normal().hierarchy, normal_normal().tasks, progress=False)

    assert seen == ["nuts-joint", "auto"]


@pytest.mark.parametrize(
    ("inference", "error", "message"),
    [
        ("nut", UnknownNameError, r"unknown preset 'nut'; valid: .*; did you mean 'nuts'"),
        (bm.NUTS, OptionError, "inference must be a preset's name, .* such as NUTS\\(...\\), got type"),
        (17, OptionError, "inference must be .*, got int"),
    ],
)
def test_an_unknown_inference_is_refused(inference: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fit(inference)


def test_wrong_arguments_are_named() -> None:
    scenario = normal_normal()
    with pytest.raises(OptionError, match=r"hierarchy must be a Hierarchy\(hyperprior, task\), got function"):
        bm.fit(scenario.hierarchy.task, scenario.tasks, TINY)  # type: ignore[call-overload]
    with pytest.raises(OptionError, match=r"tasks must be a Tasks, got list: make one by Tasks\.from_frame"):
        bm.fit(scenario.hierarchy, list(scenario.tasks), TINY)  # type: ignore[call-overload]
    for seed in (-1, 1.5, "now"):
        with pytest.raises(OptionError, match="seed must be a whole number of at least 0, got"):
            fit(seed=seed)


def test_tasks_without_observations_cannot_be_fitted() -> None:
    scenario = normal_normal()
    nothing = bm.Tasks.without_observations(["later"], like=scenario.tasks, context={"sigma": [1.0]})
    with pytest.raises(
        DataError, match=r"task\(s\) \['later'\] have no observations: .* posterior.adapt predicts them"
    ):
        bm.fit(scenario.hierarchy, scenario.tasks + nothing, TINY, progress=False)


def test_exact_evidence_is_refused_where_there_is_none() -> None:
    scenario = SCENARIOS["beta_binomial"]()
    settings = bm.NUTS(evidence="exact")
    with pytest.raises(HierarchyError, match=r"evidence='exact' needs tasks whose .* quadratic in θ"):
        bm.fit(scenario.hierarchy, scenario.tasks, settings, progress=False)


def test_an_error_of_the_users_is_said_with_its_place() -> None:
    def hyperprior() -> Tensor:
        mu: Tensor = pyro.sample("mu", dist.Normal(0.0, 1.0))
        return mu

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi, 1.0))
        return pyro.sample("y", dist.Normal(theta * x[:, 7], 1.0).to_event(1), obs=y)

    tasks = bm.Tasks.from_arrays(np.zeros((3, 2, 2)), np.zeros((3, 2)), names=["a", "b", "c"])
    with pytest.raises(HierarchyError, match=r"task raised IndexError on task 'a' \(x \(2, 2\), y \(2,\)\)"):
        bm.fit(bm.Hierarchy(hyperprior, task), tasks, TINY, progress=False)


# --- what is said -------------------------------------------------------------------------------------------


def test_info_tells_how_it_was_done() -> None:
    info = tiny("normal_normal").info

    assert info.evidence == "exact"
    assert info.gram
    assert "Gram" in info.road
    assert set(info.seconds) == {"setup", "compile", "sample", "total"}
    assert 0 < info.seconds["sample"] < info.seconds["total"]
    assert sum(value for name, value in info.seconds.items() if name != "total") <= info.seconds["total"] + 1e-6
    assert info.density == "traced"
    assert info.gradients == tiny("normal_normal").draws.gradients > 180
    assert info.divergences == tiny("normal_normal").draws.divergences
    assert not info.interrupted
    assert info.seed == 0
    assert {"python", "bayesmeta", "torch", "pyro-ppl", "nutpie"} <= set(info.versions)
    assert info.inference["back_end"] == "nuts"
    assert info.inference["draws"] == 30
    for word in ("Gram", "nuts(draws=30", "traced", "setup", "gradients", "seed", "torch"):
        assert word in repr(info)


@pytest.mark.parametrize(
    ("name", "evidence", "said"),
    [
        ("normal_normal", "auto", ("exact", True, "exact, from Gram matrices")),
        ("normal_normal", "joint", ("joint", False, "joint: φ and the θ of all tasks are sampled together")),
        ("log_normal", "auto", ("exact", False, "exact: θ is integrated out in closed form")),
        ("beta_binomial", "auto", ("quadrature", False, "quadrature: θ is integrated out by adaptive Gauss-Hermite")),
    ],
)
def test_the_road_is_said(name: str, evidence: str, said: tuple[str, bool, str]) -> None:
    info = tiny(name, evidence).info

    assert (info.evidence, info.gram) == said[:2]
    assert info.road.startswith(said[2])


def test_a_task_that_branches_on_values_is_fitted_all_the_same() -> None:
    def hyperprior() -> Tensor:
        mu: Tensor = pyro.sample("mu", dist.Normal(0.0, 1.0))
        return mu

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi, 1.0))
        slope = theta if float(x.sum()) > 0 else -theta
        return pyro.sample("y", dist.Normal(slope * x, 1.0).to_event(1), obs=y)

    tasks = bm.Tasks.from_lists([[1.0, 2.0], [-1.0], [0.5]], [[1.0, 1.5], [0.3], [0.2]])
    with pytest.warns(BayesmetaWarning, match=r"cannot be vectorised: .* branch on values; use torch\.where"):
        posterior = bm.fit(bm.Hierarchy(hyperprior, task), tasks, bm.NUTS(draws=10, tune=10, chains=1), progress=False)

    assert posterior.info.density == "eager"
    assert posterior.info.evidence == "exact"
    assert posterior.theta["theta"].isfinite().all()
    adapted = posterior.adapt(tasks[:2])
    assert adapted.predict(torch.tensor([1.0, -1.0])).mean.shape == (2, 2)


# --- that it is the same density ----------------------------------------------------------------------------


def test_compiled_and_traced_are_the_same_density() -> None:
    scenario = plated()
    program = scenario.hierarchy.program(scenario.tasks)
    roads = (choose(program, scenario.tasks), Exact(program, scenario.tasks), choose(program, scenario.tasks, "joint"))
    for evidence in roads:
        compiled, traced = (log_density(evidence, compile=flag) for flag in (True, False))
        assert (compiled.mode, traced.mode) == ("compiled", "traced")
        for k in range(3):
            u = torch.randn(traced.dim, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
            for one, other in zip(compiled.value_and_grad(u), traced.value_and_grad(u), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_the_order_of_tasks_does_not_matter() -> None:
    scenario = plated()
    u = torch.tensor([0.3, -0.2], dtype=torch.float64)

    def density(tasks: bm.Tasks) -> Tensor:
        return log_density(choose(scenario.hierarchy.program(tasks), tasks), compile=False)(u)

    there = density(scenario.tasks)
    torch.testing.assert_close(density(scenario.tasks[::-1]), there, rtol=1e-12, atol=0)
    assert not torch.isclose(density(scenario.tasks[1:]), there, rtol=1e-6)


def test_one_task_with_one_observation() -> None:
    scenario = normal_normal()
    posterior = bm.fit(scenario.hierarchy, scenario.tasks[:1], TINY, progress=False)

    assert posterior.theta["theta"].shape == (60, 1)


# --- nothing leaks ------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_posterior_bit_for_bit() -> None:
    for settings in (TINY, bm.NUTS(draws=20, tune=30, chains=2, evidence="joint", compile=False)):
        one, other, third = fit(settings, seed=5), fit(settings, seed=5), fit(settings, seed=6)
        assert torch.equal(one.draws.u, other.draws.u)
        assert torch.equal(one.theta["theta"], other.theta["theta"])
        assert not torch.equal(one.draws.u, third.draws.u)
        assert one.info.seed == 5


def test_nothing_global_is_touched(capfd: pytest.CaptureFixture[str]) -> None:
    """Beside what the guard of every test watches: two threads, float32, a scope of parameters, and silence."""
    before, store = torch.get_num_threads(), pyro.get_param_store()
    torch.set_num_threads(2)
    try:
        fit().adapt(normal_normal().tasks[:2]).predict(torch.zeros(1, 0)).interval(0.9)
        assert torch.get_num_threads() == 2
        assert torch.zeros(1).dtype == torch.float32
        assert len(store.keys()) == 0
    finally:
        torch.set_num_threads(before)
    assert capfd.readouterr() == ("", "")


def test_progress_goes_to_no_file(capfd: pytest.CaptureFixture[str]) -> None:
    """Standard output stays clean, so that what a script prints can be piped."""
    posterior = fit(progress=True)

    assert capfd.readouterr().out == ""
    assert torch.equal(posterior.draws.u, fit().draws.u)
