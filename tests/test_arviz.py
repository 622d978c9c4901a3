"""ArviZ 0.23 and 1.x on groups made from NumPy arrays: nothing in this file needs torch.

`make test` runs it on the ArviZ that the package is installed with, `make test-arviz1` on ArviZ 1.x in an environment
of its own, without torch.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import arviz
import numpy as np
import pytest
import xarray as xr

from bayesmeta.export.container import to_arviz
from bayesmeta.export.elpd import arviz_elpd
from bayesmeta.export.groups import ASSUMED, Population, Sampled, groups

OLD = "InferenceData" in vars(arviz)
ROOT = Path(__file__).parent.parent
SAVED = Path(__file__).parent / "files" / "eight_tasks_0_1.nc"
TASKS = ("Åland", "Björkö", "a/b", "007")
SIZES = np.array([2, 4, 1, 3])
CHAINS, DRAWS = 2, 100
Plot = Callable[[Any], Any]
# ArviZ's own use of matplotlib, numpy and pandas is deprecated in places, and it warns of few draws.
noisy = pytest.mark.filterwarnings("ignore")


def population(y: np.ndarray[Any, Any]) -> Population:
    """Four ragged tasks; `slope` stands in a plate, `site` is a vector of two, `feature` is a plate of φ and θ."""
    rng = np.random.default_rng(1)
    return Population(
        tasks=TASKS,
        sizes=SIZES,
        x=rng.normal(size=10),
        y=y,
        observed="obs",
        plates={"mu": ("feature",), "theta": (), "slope": ("feature",), "site": (None,)},
        context={"size": np.arange(4.0)},
    )


def sampled(chains: int, draws: int, *, kind: str = "normal", stats: bool = True) -> Sampled:
    """Draws of a φ of three numbers, of θ and of observations, for shapes and pictures."""
    rng = np.random.default_rng(chains + draws)
    count = chains * draws
    tau = rng.gamma(2.0, size=count)
    theta = rng.normal(size=(count, 4)) * tau[:, None]
    rows = np.repeat(theta, SIZES, axis=1)
    made: Mapping[str, Callable[[], Any]] = {
        "normal": lambda: rng.normal(rows),
        "binary": lambda: rng.binomial(1, 1 / (1 + np.exp(-rows))),
        "count": lambda: rng.poisson(np.exp(rows.clip(-3, 3))),
    }
    found: dict[str, Any] = {"diverging": rng.random((chains, draws)) < 0.02}
    found |= {name: rng.normal(size=(chains, draws)) for name in ("energy", "lp", "acceptance_rate")}
    return Sampled(
        shape=(chains, draws),
        phi={"mu": rng.normal(size=(count, 2)), "tau": tau},
        theta={"theta": theta, "slope": rng.normal(size=(count, 4, 2)), "site": rng.normal(size=(count, 4, 2))},
        y=made[kind](),
        stats=found if stats else {},
        log_likelihood=-0.5 * (rows - 0.3) ** 2,
        by_task=-0.3 * theta**2,
        log_prior={"mu": rng.normal(size=count), "tau": -tau},
        attrs={"seed": 3},
    )


@cache
def parts(kind: str = "normal") -> dict[str, xr.Dataset]:
    posterior, prior = sampled(CHAINS, DRAWS, kind=kind), sampled(1, DRAWS, kind=kind)
    assert posterior.y is not None
    return groups(population(posterior.y[7]), posterior=posterior, prior=prior)


@cache
def container(kind: str = "normal") -> Any:
    return to_arviz(parts(kind))


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


# --- groups -------------------------------------------------------------------------------------------------


def test_groups_have_named_axes() -> None:
    main = parts()["posterior"]

    assert {name: value.dims for name, value in main.data_vars.items()} == {
        "mu": ("chain", "draw", "feature"),
        "tau": ("chain", "draw"),
        "theta": ("chain", "draw", "task"),
        "slope": ("chain", "draw", "task", "feature"),
        "site": ("chain", "draw", "task", "site_dim_0"),
    }
    assert main["task"].values.tolist() == list(TASKS)
    assert main.attrs == {"inference_library": "bayesmeta", "seed": 3}
    for name in ("observed_data", "posterior_predictive", "prior_predictive", "log_likelihood"):
        assert parts()[name]["obs"].dims[-1] == "obs_id"
        assert parts()[name]["obs_task"].values.tolist() == np.repeat(TASKS, SIZES).tolist()
    assert parts()["log_likelihood"]["obs_by_task"].dims == ("chain", "draw", "task")
    assert parts()["constant_data"]["context_size"].dims == ("task",)
    assert parts()["prior"].sizes["chain"] == 1


def test_draws_stay_in_their_chains() -> None:
    draws = sampled(CHAINS, DRAWS)

    np.testing.assert_array_equal(parts()["posterior"]["tau"].values[1], draws.phi["tau"][DRAWS:])
    np.testing.assert_array_equal(
        parts()["posterior"]["slope"].sel(task="007").values[0, 5], draws.theta["slope"][5, 3]
    )
    np.testing.assert_array_equal(parts()["log_prior"]["tau"].values.ravel(), -draws.phi["tau"])


def test_what_is_not_there_is_left_out() -> None:
    lean = Sampled((1, 3), {"mu": np.zeros(3)}, {"theta": np.zeros((3, 4))})

    assert set(groups(population(np.zeros(10)), posterior=lean)) == {
        "posterior",
        "sample_stats",
        "observed_data",
        "constant_data",
    }
    assert set(groups(population(np.zeros(10)), prior=lean)) == {"prior", "observed_data", "constant_data"}


def test_draws_of_no_chain_have_not_diverged() -> None:
    """ArviZ's parallel and pair plots ask; that nobody said so is written beside it."""
    diverging = groups(population(np.zeros(10)), posterior=sampled(1, 5, stats=False))["sample_stats"]["diverging"]

    assert not diverging.any()
    assert ASSUMED in diverging.attrs
    assert ASSUMED not in parts()["sample_stats"]["diverging"].attrs


@pytest.mark.parametrize(
    ("plates", "shape", "dims"),
    [
        (("feature",), (3,), ["theta_dim_0"]),  # mu has two features
        (("task",), (2,), ["theta_dim_0"]),
        (("mu",), (2,), ["theta_dim_0"]),
        (("room", "room"), (2, 2), ["room", "theta_dim_1"]),
        ((None, "feature"), (3, 2), ["theta_dim_0", "feature"]),
    ],
)
def test_a_plate_whose_name_is_taken_keeps_to_itself(
    plates: tuple[str | None, ...], shape: tuple[int, ...], dims: list[str]
) -> None:
    who = Population(TASKS, SIZES, np.zeros(10), np.zeros(10), plates={"mu": ("feature",), "theta": plates})
    draws = Sampled((1, 2), {"mu": np.zeros((2, 2))}, {"theta": np.zeros((2, 4, *shape))})

    assert list(groups(who, posterior=draws)["posterior"]["theta"].dims[3:]) == dims


def test_observations_of_several_numbers() -> None:
    who = Population(TASKS, SIZES, np.zeros((10, 2)), np.zeros((10, 3)), columns=["age", "dose"])
    draws = Sampled((1, 2), {"mu": np.zeros(2)}, {}, y=np.zeros((2, 10, 3)))
    found = groups(who, posterior=draws)

    assert found["posterior_predictive"]["y"].dims == ("chain", "draw", "obs_id", "y_dim_0")
    assert found["observed_data"]["y"].dims == ("obs_id", "y_dim_0")
    assert found["constant_data"]["x_dim_0"].values.tolist() == ["age", "dose"]


def test_the_converter_needs_no_torch() -> None:
    code = "import sys; sys.modules |= {'torch': None, 'pyro': None}; import bayesmeta.export.groups as g; g.Population"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    guilty = "import sys; sys.modules['torch'] = None; import bayesmeta.tasks"
    assert subprocess.run([sys.executable, "-c", guilty], cwd=ROOT, capture_output=True, check=False).returncode


# --- containers and files -----------------------------------------------------------------------------------


def test_the_container_is_that_of_the_arviz_installed() -> None:
    found = container()

    if OLD:
        assert set(found.groups()) == set(parts())
    else:
        assert isinstance(found, xr.DataTree)
        assert set(found.children) == set(parts())
    for name, dataset in parts().items():
        xr.testing.assert_identical(found[name] if OLD else found[name].to_dataset(), dataset)


@pytest.fixture(scope="module")
def saved() -> Any:
    return arviz.from_netcdf(SAVED)


def test_arviz_opens_a_saved_posterior(saved: Any) -> None:
    """A file that bayesmeta 0.1.0 wrote: eight tasks of one observation, 2 chains of 30 draws."""
    main = saved["posterior"]

    assert main["theta"].dims == ("chain", "draw", "task")
    assert dict(main["theta"].sizes) == {"chain": 2, "draw": 30, "task": 8}
    assert saved["observed_data"]["y"].values[:3].tolist() == [6.1, -2.4, 3.3]
    assert {"diverging", "energy", "lp"} <= set(saved["sample_stats"].data_vars)
    table = arviz.summary(saved, var_names=["mu", "tau"], round_to="none")
    np.testing.assert_allclose(table.loc["mu", "mean"], float(main["mu"].mean()))


@noisy
def test_arviz_leaves_one_task_out(saved: Any) -> None:
    by_task, by_row = (arviz.loo(saved, var_name=name, pointwise=True) for name in ("y_by_task", "y"))

    assert by_task.n_data_points == by_row.n_data_points == 8
    elpd = "elpd_loo" if OLD else "elpd"
    assert np.isfinite([getattr(by_task, elpd), getattr(by_row, elpd)]).all()


def test_the_diagnostics_of_summaries_are_there() -> None:
    """The calls of `bayesmeta.summary`, on draws that are independent."""
    chains = np.random.default_rng(0).normal(size=(4, 500))
    sizes = [arviz.ess(chains, method=method) for method in ("bulk", "mean")]
    sizes.append(arviz.ess(chains, method="tail", prob=(0.05, 0.95)))

    assert all(1500 < float(size) < 2600 for size in sizes)
    assert float(arviz.rhat(chains)) == pytest.approx(1.0, abs=0.01)


@noisy
def test_tasks_left_out_come_as_arvizs_own_object() -> None:
    """What `posterior.loo()` returns, as the ArviZ that is installed makes it."""
    elpd, k_hat = np.array([-1.0, -2.5, -0.5]), np.array([0.1, 0.9, -0.2])
    names = ["a", "b", "c"]
    found = arviz_elpd(elpd, k_hat, p_loo=0.7, names=names, draws=500, good_k=0.63, refitted=["b"])
    each = found.loo_i if OLD else found.elpd_i

    assert isinstance(found, type(loo(None)))
    assert each.sel(task="b") == -2.5
    assert "Computed from 500 posterior samples and 3 observations" in str(found)
    assert float(found.elpd_loo if OLD else found.elpd) == -4.0
    assert float(found.se) == pytest.approx(np.sqrt(3) * elpd.std())
    assert found.pareto_k.attrs == {"refitted": ["b"]}
    assert found.warning


# --- plots --------------------------------------------------------------------------------------------------

SHARED: dict[str, Plot] = {
    "plot_autocorr": lambda d: arviz.plot_autocorr(d, var_names=["mu"]),
    "plot_bf": lambda d: arviz.plot_bf(d, **({"var_name": "tau"} if OLD else {"var_names": ["tau"]}), ref_val=1.0),
    "plot_compare": lambda d: arviz.plot_compare(arviz.compare({"one": loo(d), "other": loo(d)})),
    "plot_energy": lambda d: arviz.plot_energy(d),
    "plot_ess": lambda d: arviz.plot_ess(d, var_names=["tau"]),
    "plot_forest": lambda d: arviz.plot_forest(d, var_names=["theta"], combined=True),
    "plot_khat": lambda d: arviz.plot_khat(loo(d)),
    "plot_mcse": lambda d: arviz.plot_mcse(d, var_names=["tau"]),
    "plot_pair": lambda d: arviz.plot_pair(d, var_names=["mu", "tau"]),
    "plot_parallel": lambda d: arviz.plot_parallel(d, var_names=["mu", "tau"]),
    "plot_rank": lambda d: arviz.plot_rank(d, var_names=["mu"]),
    "plot_trace": lambda d: arviz.plot_trace(d, var_names=["mu"]),
}
ARVIZ_0: dict[str, Plot] = {
    "plot_bpv": lambda d: arviz.plot_bpv(d),
    "plot_density": lambda d: arviz.plot_density(d, var_names=["tau"]),
    "plot_dist": lambda d: arviz.plot_dist(d["posterior"]["tau"].values),
    "plot_dist_comparison": lambda d: arviz.plot_dist_comparison(d, var_names=["tau"]),
    "plot_dot": lambda d: arviz.plot_dot(d["posterior"]["tau"].values.ravel()),
    "plot_ecdf": lambda d: arviz.plot_ecdf(d["posterior"]["tau"].values.ravel()),
    "plot_elpd": lambda d: arviz.plot_elpd({"one": loo(d), "other": loo(d)}),
    "plot_hdi": lambda d: arviz.plot_hdi(d["constant_data"]["x"], d["posterior_predictive"]["obs"]),
    "plot_kde": lambda d: arviz.plot_kde(d["posterior"]["tau"].values),
    "plot_lm": lambda d: arviz.plot_lm(y="obs", x="x", idata=d, num_samples=20),
    "plot_loo_pit": lambda d: arviz.plot_loo_pit(d, y="obs"),
    "plot_posterior": lambda d: arviz.plot_posterior(d, var_names=["mu", "tau"]),
    "plot_ppc": lambda d: arviz.plot_ppc(d, num_pp_samples=10),
    "plot_separation": lambda d: arviz.plot_separation(container("binary"), y="obs"),
    "plot_ts": lambda d: arviz.plot_ts(d, y="obs", num_samples=20),
    "plot_violin": lambda d: arviz.plot_violin(d, var_names=["theta"]),
}
BY_TASK = {"likelihood_var_names": ["obs_by_task"]}  # what φ is inferred from
ARVIZ_1: dict[str, Plot] = {
    "plot_convergence_dist": lambda d: arviz.plot_convergence_dist(d),
    "plot_dgof": lambda d: arviz.plot_dgof(d, var_names=["tau"]),
    "plot_dgof_dist": lambda d: arviz.plot_dgof_dist(d, var_names=["tau"]),
    "plot_dist": lambda d: arviz.plot_dist(d, var_names=["mu", "tau"]),
    "plot_ess_evolution": lambda d: arviz.plot_ess_evolution(d, var_names=["tau"]),
    "plot_lm": lambda d: arviz.plot_lm(d, x="x", y="obs"),
    "plot_loo_interval": lambda d: arviz.plot_loo_interval(d, var_names=["obs"]),
    "plot_loo_pava": lambda d: arviz.plot_loo_pava(container("binary"), var_names=["obs"]),
    "plot_loo_pit": lambda d: arviz.plot_loo_pit(d, var_names=["obs"]),
    "plot_pair_focus": lambda d: arviz.plot_pair_focus(d, focus_var="tau", var_names=["mu"]),
    "plot_ppc_dist": lambda d: arviz.plot_ppc_dist(d),
    "plot_ppc_dist_pit": lambda d: arviz.plot_ppc_dist_pit(d),
    "plot_ppc_interval": lambda d: arviz.plot_ppc_interval(d),
    "plot_ppc_pava": lambda d: arviz.plot_ppc_pava(container("binary")),
    "plot_ppc_pava_residuals": lambda d: arviz.plot_ppc_pava_residuals(container("binary"), x_var="x"),
    "plot_ppc_pit": lambda d: arviz.plot_ppc_pit(d),
    "plot_ppc_rootogram": lambda d: arviz.plot_ppc_rootogram(container("count")),
    "plot_ppc_tstat": lambda d: arviz.plot_ppc_tstat(d),
    "plot_prior_posterior": lambda d: arviz.plot_prior_posterior(d, var_names=["mu", "tau"]),
    "plot_psense_dist": lambda d: arviz.plot_psense_dist(d, var_names=["tau"], **BY_TASK),
    "plot_psense_quantities": lambda d: arviz.plot_psense_quantities(d, var_names=["tau"], **BY_TASK),
    "plot_rank_dist": lambda d: arviz.plot_rank_dist(d, var_names=["tau"]),
    "plot_ridge": lambda d: arviz.plot_ridge(d, var_names=["theta"]),
    "plot_trace_dist": lambda d: arviz.plot_trace_dist(d, var_names=["tau"]),
}
PLOTS = SHARED | (ARVIZ_0 if OLD else ARVIZ_1)
NOT_FOR_US = {
    "plot_collection": "a module",
    "plot_ecdf_pit": "of ranks that a simulation-based calibration leaves behind",
    "plot_matrix": "a module",
    "plot_ppc_censored": "of survival times with a status",
}


@cache
def _loo(name: str) -> Any:
    return arviz.loo(container(), var_name=name, pointwise=True)


def loo(d: Any) -> Any:
    """Leave one observation out."""
    return _loo("obs")


def test_no_plot_of_arviz_is_forgotten() -> None:
    """A name that a later ArviZ adds fails here, and gets its line above."""
    there = {name for name in dir(arviz) if name.startswith("plot_")}

    assert there - set(NOT_FOR_US) == set(PLOTS)


@noisy
@pytest.mark.changes_rng
@pytest.mark.parametrize("name", PLOTS)
def test_arviz_plots_it(name: str) -> None:
    assert PLOTS[name](container()) is not None


@noisy
def test_a_forest_has_the_names_of_the_tasks() -> None:
    import matplotlib.pyplot as plt
    from matplotlib.text import Text

    SHARED["plot_forest"](container())
    plt.gcf().canvas.draw()
    shown = " ".join(text.get_text() for text in plt.gcf().findobj(Text))

    assert all(task in shown for task in TASKS)
