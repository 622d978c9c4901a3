"""The benchmark runs, keeps its rows, goes on where it stopped; nothing here looks at how fast it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bayesmeta import shelf
from bayesmeta.presets import is_algorithm, read_preset
from benchmarks import chains, cold, plan, report, roads, scaling, speed
from benchmarks.__main__ import BENCHES, main
from benchmarks.bench import Bench
from benchmarks.measure import least_ess, worst_r_hat
from benchmarks.peers import PeersError, peers_python
from benchmarks.plan import Limits, carry_out, jobs
from benchmarks.problems import PROBLEMS, linear_data, radon_data, save
from benchmarks.store import Store
from benchmarks.tools import TOOLS, Tool, quick
from benchmarks.workers.common import load

LINEAR = PROBLEMS[1]
TOOL = {tool.name: tool for tool in TOOLS}
SECONDS = ("cold_s", "import_s", "compile_s", "sample_s", "fit_s")
FIT = (*SECONDS, "ess", "r_hat", "ess_per_s_fit", "gradients", "us_per_gradient", "steps_per_draw", "peak_mb")


def silent(_: str) -> None:
    pass


def a_row(**values: Any) -> dict[str, Any]:
    row = {"problem": "linear-85", "tool": "bayesmeta", "cache": "empty", "repeat": 0, "ok": True}
    budget = {"chains": 2, "draws": 1000, "tune": 1000}
    return row | budget | {"cold_s": 4.0, "ess": 800.0, "ess_per_s_fit": 300.0} | values


def test_our_worker_end_to_end(tmp_path: Path) -> None:
    words = ["speed", "--quick", "--only", "bayesmeta", "--only", "linear-20", "--out", str(tmp_path)]
    assert main(words) == 0
    held = json.loads((tmp_path / "speed.json").read_text())
    assert held["schema"] == 1
    (row,) = held["rows"]
    assert {"problem": "linear-20", "tool": "bayesmeta", "chains": 2, "draws": 100}.items() <= row.items()
    assert all(row[name] > 0 for name in FIT)
    assert row["evidence"] == "exact"
    assert row["gram"] is True
    assert row["cold_s"] > row["fit_s"]
    assert {"bayesmeta", "torch", "nutpie"} <= set(row["versions"])
    page = (tmp_path / "speed.md").read_text()
    assert "| bayesmeta | none | 1 |" in page

    before = (tmp_path / "speed.json").read_text()
    assert main(words) == 0
    assert (tmp_path / "speed.json").read_text() == before


def test_a_round_of_all_tools_before_the_next_round() -> None:
    tools = (TOOL["bayesmeta"], TOOL["numpyro"], TOOL["pyro"])
    order = [(job.repeat, job.problem.name, job.tool.name, job.cache) for job in jobs(PROBLEMS, tools, 2)]
    assert [repeat for repeat, *_ in order] == sorted(repeat for repeat, *_ in order)
    assert (0, "linear-2000", "numpyro", "warm") in order
    assert (0, "linear-20000", "numpyro", "warm") not in order
    assert {name for _, name, tool, _ in order if tool == "pyro"} == {"radon", "linear-85"}


def test_what_is_there_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []

    def run(job: plan.Job, *_: object) -> dict[str, Any]:
        seen.append((job.cache, job.repeat))
        return {"ok": True, "cold_s": 700.0 if job.cache == "warm" else 1.0}

    monkeypatch.setattr(plan, "_run", run)
    store = Store(tmp_path / "speed.json", [a_row()])
    todo = list(jobs((LINEAR,), (TOOL["bayesmeta"],), 2))
    carry_out(todo, store, Limits(repeats=2, once_beyond=600.0), tmp_path, silent)
    assert seen == [("warm", 0), ("empty", 1)]
    assert len(Store.open(tmp_path / "speed.json").rows) == 3


def test_another_budget_or_a_failure_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_run", lambda *_: {"ok": True, "cold_s": 1.0})
    store = Store(tmp_path / "speed.json", [a_row(draws=100), a_row(cache="warm", ok=False, error="broken")])
    carry_out(list(jobs((LINEAR,), (TOOL["bayesmeta"],), 1)), store, Limits(1), tmp_path, silent)
    assert [(row["ok"], row["draws"]) for row in store.rows] == [(True, 1000), (True, 1000)]


def test_a_run_over_the_limit_is_said_and_left(tmp_path: Path) -> None:
    said: list[str] = []
    row = a_row(ok=False, over_limit=True, error="stopped after 9 s")
    store = Store(tmp_path / "speed.json", [row])
    tool = replace(TOOL["bayesmeta"], caches=("empty",))
    carry_out(list(jobs((LINEAR,), (tool,), 2)), store, Limits(2), tmp_path, said.append)
    assert "stopped after 9 s" in said[0]
    assert "not repeated" in said[1]
    assert any("stopped after 9 s" in remark for remark in report.remarks(store))


def test_without_the_peers_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Path:
        raise PeersError("no network")

    monkeypatch.setattr(plan, "peers_python", fails)
    monkeypatch.setattr(plan, "_run", lambda *_: {"ok": True, "cold_s": 1.0})
    store = Store(tmp_path / "speed.json")
    tools = (quick(TOOL["numpyro"]), quick(TOOL["bayesmeta"]))
    carry_out(list(jobs((LINEAR,), tools, 1)), store, Limits(1), tmp_path, silent)
    assert [row["tool"] for row in store.rows] == ["bayesmeta"]
    assert "no network" in store.left_out["the peers"]


def test_peers_that_pip_cannot_install(tmp_path: Path) -> None:
    python = tmp_path / "peers" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 'no matching distribution' >&2\nexit 1\n")
    python.chmod(0o755)
    wanted = tmp_path / "requirements.txt"
    wanted.write_text("numpyro\n")
    with pytest.raises(PeersError, match="no matching distribution"):
        peers_python(tmp_path / "peers", wanted)


def test_a_store_of_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    path.write_text('{"schema": 0}')
    with pytest.raises(ValueError, match="has schema 0"):
        Store.open(path)


def test_an_unknown_name_lists_the_valid_ones() -> None:
    with pytest.raises(SystemExit, match=r"--only stan: not a problem or a tool; there are bayesmeta, "):
        main(["speed", "--only", "stan"])


def test_medians_and_ratios(tmp_path: Path) -> None:
    ours = [a_row(repeat=i, cold_s=cold, us_per_gradient=20.0) for i, cold in enumerate((3.0, 4.0, 9.0))]
    peer = a_row(tool="numpyro", cold_s=10.0, ess_per_s_fit=50.0, form="centred")
    potential = a_row(tool="pyro-potential", cache="none", us_per_gradient=3000.0, peak_mb=240)
    store = Store(tmp_path / "speed.json", [*ours, peer, potential])
    assert [row["cold_s"] for row in report.medians(store)][:2] == [4.0, 10.0]
    pages = {page.title: page for page in speed.sheets(store, PROBLEMS, TOOLS)}
    ratios = pages["bayesmeta beside the others"].rows
    assert [line[2] for line in ratios] == ["empty", "empty"]
    assert [LINEAR.title, "NumPyro, centred", "empty", "2.5", "6.0", "–"] in ratios
    assert any("µs per gradient: 150.0" in line for line in ratios)


def test_effective_sizes_of_independent_draws() -> None:
    rng = np.random.default_rng(0)
    phi = {"mu": rng.standard_normal((2, 1000, 2)), "sigma": rng.standard_normal((2, 1000))}
    assert 1500 < least_ess(phi) < 2500
    assert worst_r_hat(phi) < 1.01
    assert worst_r_hat({"mu": rng.standard_normal((1, 1000))}) < 1.02
    apart = rng.standard_normal((2, 1000)) + np.array([[0.0], [3.0]])
    assert worst_r_hat({"mu": apart}) > 1.5


def test_the_data_are_the_same_each_time(tmp_path: Path) -> None:
    first, second = linear_data(20), linear_data(20)
    np.testing.assert_array_equal(first.y, second.y)
    save(first, tmp_path / "data.npz")
    read = load(tmp_path / "data.npz")
    assert (read.kind, read.n_tasks, read.by_task[0].shape) == ("linear", 20, (20, 11))
    radon = radon_data()
    assert (len(radon.y), radon.n_tasks) == (919, 85)
    assert (np.diff(radon.task) >= 0).all()


# --- cold, scaling, chains, roads ---------------------------------------------------------------------------


def a_fit(tool: str, problem: str = "radon", **values: Any) -> dict[str, Any]:
    """A row as `bayesmeta_fit` leaves it."""
    found: dict[str, Any] = {
        "fit_s": 2.0,
        "sample_s": 1.0,
        "compile_s": 1.0,
        "import_s": 1.0,
        "peak_mb": 300,
        "gradients": 100,
    }
    found |= {"evidence": "exact", "gram": True, "verdict": "fine", "kept": [4, 100], "r_hat": None, "k_hat": 0.2}
    return a_row(tool=tool, problem=problem, cache="none", moments={"mu[0]": [1.0, 0.5]}) | found | values


def test_a_benchmark_that_is_not_there() -> None:
    with pytest.raises(SystemExit, match="roades: not a benchmark; there are speed, cold, scaling, chains, roads"):
        main(["roades"])
    with pytest.raises(SystemExit, match="--only: say which benchmark it is of"):
        main(["--only", "radon"])


def test_a_preset_end_to_end(tmp_path: Path) -> None:
    words = ["roads", "--quick", "--only", "bayesmeta-laplace", "--only", "eight_schools", "--out", str(tmp_path)]
    assert main(words) == 0
    (row,) = json.loads((tmp_path / "roads.json").read_text())["rows"]
    assert {
        "problem": "eight_schools",
        "verdict": "fine",
        "evidence": "exact",
        "kept": [1, 4000],
    }.items() <= row.items()
    assert row["ess"] == pytest.approx(row["effective_size"], abs=0.1)
    mean, sd = roads.errors(row["moments"], roads.EXACT["eight_schools"])
    assert mean < 0.15
    assert sd < 0.25
    page = (tmp_path / "roads.md").read_text()
    assert "| laplace | exact, Gram |" in page
    assert "Made by `python -m benchmarks roads --quick`" in page


def test_what_counts_as_diagnosed() -> None:
    assert cold.diagnosed({"k_hat": 0.5, "ess": 1500.0})
    assert not cold.diagnosed({"k_hat": 0.8, "ess": 1500.0})
    assert not cold.diagnosed({"k_hat": 0.5, "ess": 900.0})
    assert cold.diagnosed({"k_hat": None, "r_hat": 1.005, "ess": 500.0})
    assert not cold.diagnosed({"r_hat": 1.02, "ess": 500.0})
    assert not cold.diagnosed({"r_hat": None, "ess": 500.0})


def test_errors_are_in_true_sds_and_leave_constants_out() -> None:
    truth = {"mu": [1.0, 0.5], "L[0,0]": [1.0, 0.0], "tau": [2.0, 1.0]}
    ours = {"mu": [1.1, 0.5], "L[0,0]": [1.0, 0.0], "tau": [2.0, 0.9]}
    assert roads.errors(ours, truth) == pytest.approx((0.2, 0.1))
    assert roads.errors(truth, truth) == (0.0, 0.0)


def test_the_other_tables(tmp_path: Path) -> None:
    peer = a_row(tool="numpyro", problem="radon", cache="empty", r_hat=1.004, import_s=1.0, peak_mb=9, form="centred")
    store = Store(tmp_path / "cold.json", [a_fit("bayesmeta-auto", cold_s=3.0, ess=3000.0), peer | {"cold_s": 12.0}])
    (page,) = cold.sheets(store, cold.BENCH.problems, cold.BENCH.tools)
    assert [(line[0], line[-2], line[-1]) for line in page.rows] == [
        ("bayesmeta, auto", "yes", "1.0"),
        ("NumPyro, centred", "yes", "4.0"),
    ]

    rows = [a_fit("bayesmeta-auto", f"linear-{n}", fit_s=n / 1000) for n in (1_000, 10_000)]
    rows.append(a_fit("bayesmeta-svi", "linear-1000", moments={"mu[0]": [1.5, 0.5]}))
    (page,) = scaling.sheets(Store(tmp_path / "scaling.json", rows), scaling.BENCH.problems, scaling.BENCH.tools)
    assert [line[5] for line in page.rows] == ["–", "10.0", "–"]
    assert [line[9] for line in page.rows] == ["0", "0", "1"]

    reference = a_fit(roads.REFERENCE, "radon", cache="empty", moments={"mu[0]": [1.05, 0.5]})
    found = Store(tmp_path / "roads.json", [reference, a_fit("bayesmeta-auto", "radon")])
    glance, page = roads.sheets(found, roads.BENCH.problems, roads.BENCH.tools)
    assert (glance.header, glance.rows) == (("road", "radon"), [["auto", "2 s, 0.10"]])
    assert [(line[0], line[7]) for line in page.rows] == [("reference", "0.000"), ("auto", "0.100")]

    name = chains.BENCH.tools[1].name
    (page,) = chains.sheets(Store(tmp_path / "chains.json", [a_fit(name)]), chains.BENCH.problems, chains.BENCH.tools)
    assert page.rows[0][:2] == ["16 chains", "exact"]


@pytest.mark.parametrize("bench", BENCHES.values(), ids=list(BENCHES))
def test_tools_have_names_of_their_own_and_ours_run_without_a_compiler(bench: Bench) -> None:
    names = [tool.name for tool in bench.tools]
    assert len(set(names)) == len(names)
    assert all("--no-compile" in quick(tool).options for tool in bench.tools if tool.name.startswith("bayesmeta"))


def test_the_table_goes_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "roads.md"
    page.write_text(f"before\n{roads.BEGIN}\nold\n{roads.END}\nafter\n")
    monkeypatch.setattr(roads, "PAGE", page)
    for _ in range(2):
        roads.publish([report.Sheet("At a glance", ("road", "radon"), [["auto", "2 s, 0.10"]])])
    assert page.read_text() == (
        f"before\n{roads.BEGIN}\n| road | radon |\n| --- | --- |\n| auto | 2 s, 0.10 |\n{roads.END}\nafter\n"
    )


def test_every_road_is_a_preset() -> None:
    used = {word for bench in BENCHES.values() for tool in bench.tools for word in preset_of(tool)}
    assert used <= set(shelf.names("preset"))
    of_networks = {name for name in shelf.names("preset") if is_algorithm(read_preset(name))}
    assert set(shelf.names("preset")) - used - of_networks == set(roads.SLOW)


def preset_of(tool: Tool) -> list[str]:
    words = list(tool.options)
    return [words[k + 1] for k, word in enumerate(words) if word == "--preset"]
