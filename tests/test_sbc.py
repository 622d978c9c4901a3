"""Simulation-based calibration from end to end: data from the prior, fits, ranks; resumed, in parallel, interrupted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

import bayesmeta as bm
from bayesmeta import presets
from bayesmeta.calibrate import sbc, workers
from bayesmeta.calibrate.quantities import Quantities
from bayesmeta.calibrate.replicate import Replicator, effective_draws, thinned
from bayesmeta.calibrate.simulate import check_simulates, simulate
from bayesmeta.calibrate.workers import run_all
from bayesmeta.diagnose.sbc import Calibration
from bayesmeta.draws import Draws
from bayesmeta.errors import BayesmetaError, BayesmetaWarning, DataError, FileFormatError, HierarchyError, OptionError
from tests import sbc_models
from tests.plated_models import PAIRS
from tests.sbc_models import Conjugate, design, gaussian
from tests.scenarios import SCENARIOS


@pytest.fixture(autouse=True)
def _conjugate_back_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(presets.BACK_ENDS, "conjugate", ("tests.sbc_models", "Conjugate"))


def conjugate(replications: int, **options: Any) -> Calibration:
    settings: dict[str, Any] = {"cores": 1, "progress": False, "draws": 49} | options
    hierarchy, config = settings.pop("hierarchy", gaussian()), settings.pop("config", Conjugate())
    return sbc(hierarchy, settings.pop("tasks", design()), config, replications, **settings)


def same(one: Calibration, other: Calibration) -> bool:
    return (
        one.quantities == other.quantities
        and np.array_equal(one.ranks, other.ranks)
        and np.array_equal(one.positions, other.positions)
        and np.array_equal(one.stats["effective"], other.stats["effective"])
    )


# ---------------------------------------------------------------------------------------------------------
# The judgement, through everything


def test_exact_draws_are_calibrated() -> None:
    found = conjugate(100)

    assert found.quantities == ("mu", "theta[A]", "theta[B]", "theta[C]", *found.quantities[-3:])
    assert found.quantities[-3:] == ("log p(φ, θ, D)", "log p(D | φ, θ)", "log p(φ, D)")
    assert found.verdict.level == "fine"
    assert found.corrected.min() > 0.05
    assert found.record["inference"]["back_end"] == "conjugate"


@pytest.mark.parametrize(
    ("options", "failures"),
    [
        ({"config": Conjugate(stretch=0.4)}, {"log p(φ, D)"}),
        ({"config": Conjugate(shift=1.0)}, {"mu"}),
        ({"truth": gaussian(prior_mean=2.0)}, {"mu"}),
        ({"hierarchy": gaussian(noise=1000.0), "truth": gaussian()}, {"log p(D | φ, θ)"}),
    ],
    ids=["over-confident", "biased", "a biased prior", "a dropped likelihood"],
)
def test_wrong_posteriors_fail(options: dict[str, Any], failures: set[str]) -> None:
    found = conjugate(50, **options)

    assert found.verdict.level == "failed"
    assert failures <= set(found.failures(0.001))
    if "hierarchy" in options:  # the posterior is the prior: φ and θ cannot see it
        assert all(name.startswith("log p") for name in found.failures(0.001))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("normal_normal", bm.NUTS(draws=30, tune=60, chains=2, compile=False, max_treedepth=5)),
        ("log_normal", bm.Laplace(draws=400, starts=2)),
    ],
)
def test_back_ends_run_on_hierarchies(name: str, config: Any) -> None:
    scenario = SCENARIOS[name]()

    found = sbc(scenario.hierarchy, scenario.tasks, config, 2, cores=1, progress=False)

    assert len(found) == 2
    assert not found.unfitted
    assert np.all(found.stats["effective"] > 1)
    assert found.quantities[-1] == "log p(φ, D)"


@pytest.mark.parametrize("name", ["radon", "schools-reparametrised", "baseball"])
def test_a_plated_model_is_calibrated_as_the_hierarchy_by_hand(name: str) -> None:
    pair, quick = PAIRS[name](), bm.Laplace(draws=60, starts=1)
    plated, by_hand = (sbc(h, pair.tasks, quick, 2, cores=1, progress=False) for h in (pair.plated, pair.by_hand))
    other = sbc(pair.plated, pair.tasks, quick, 2, seed=1, cores=1, progress=False)

    assert plated.quantities == by_hand.quantities
    assert np.array_equal(plated.ranks, by_hand.ranks)
    assert not np.array_equal(other.ranks, by_hand.ranks)


def test_a_plated_model_with_a_factor_cannot_be_run_forwards() -> None:
    pair = PAIRS["factors"]()
    with pytest.raises(HierarchyError, match=r"the hyperprior observes \['shrink'\] .*pyro\.factor"):
        sbc(pair.plated, pair.tasks, bm.Laplace(), 2, cores=1, progress=False)


def test_joint_sampling_has_no_collapsed_density_to_rank() -> None:
    scenario = SCENARIOS["beta_binomial"]()
    config = bm.NUTS(draws=20, tune=30, chains=1, compile=False, max_treedepth=3, evidence="joint")

    found = sbc(scenario.hierarchy, scenario.tasks, config, 2, cores=1, theta=1, progress=False)

    assert "log p(φ, D)" not in found.quantities
    assert len(found) == 2


# ---------------------------------------------------------------------------------------------------------
# The same whatever happens


def test_the_number_of_cores_changes_nothing() -> None:
    assert same(conjugate(12, cores=1), conjugate(12, cores=2))


def test_another_seed_does() -> None:
    assert not np.array_equal(conjugate(5).ranks, conjugate(5, seed=1).ranks)


def interrupted_at(call: int) -> Callable[..., Draws]:
    """The exact back-end until Ctrl-C comes."""
    run, calls = sbc_models.run, iter(range(1, 1000))

    def until(*args: Any, **kwargs: Any) -> Draws:
        if next(calls) == call:
            raise KeyboardInterrupt
        return run(*args, **kwargs)

    return until


@pytest.mark.parametrize("cores", [1, 2])
def test_an_interruption_loses_nothing(cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ranks.npz"
    with monkeypatch.context() as patch:
        patch.setattr(sbc_models, "run", interrupted_at(5))
        with pytest.warns(BayesmetaWarning, match="interrupted: 4 of 12 replications"):
            part = conjugate(12, path=path)
    assert len(part) == 4
    assert "4 of 12" in part.notes()[0]
    assert same(Calibration.load(path), part)

    whole = conjugate(12, path=path, cores=cores)

    assert same(whole, conjugate(12))
    assert same(Calibration.load(path), whole)
    assert whole.notes() == []


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ranks.npz"
    conjugate(4, path=path)
    conjugate(6, path=path)
    monkeypatch.setattr(sbc_models, "run", interrupted_at(1))  # nothing is left to do

    assert same(conjugate(6, path=path), conjugate_six := Calibration.load(path))
    shorter = conjugate(5, path=path)
    assert np.array_equal(shorter.ranks, conjugate_six.ranks[:5])
    assert len(Calibration.load(path)) == 6


def test_an_interruption_before_the_first_replication(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sbc_models, "run", interrupted_at(1))

    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        conjugate(3, path=tmp_path / "ranks.npz")

    assert not list(tmp_path.iterdir())


def test_draws_of_an_interrupted_fit_are_not_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    run, calls = sbc_models.run, iter(range(100))
    monkeypatch.setattr(sbc_models, "run", lambda *a, **k: replace(run(*a, **k), interrupted=next(calls) == 2))

    with pytest.warns(BayesmetaWarning, match="interrupted: 2 of 5"):
        found = conjugate(5)

    assert len(found) == 2


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"seed": 1}, "seed: 0 in place of 1"),
        ({"draws": 19}, "draws: 49 in place of 19"),
        ({"config": Conjugate(stretch=2.0)}, "inference: "),
        ({"hierarchy": gaussian(noise=2.0)}, "gives other log densities"),
        ({"tasks": design()[:4]}, "tasks: other"),
    ],
)
def test_replications_of_something_else_are_not_taken_on(options: dict[str, Any], match: str, tmp_path: Path) -> None:
    conjugate(2, path=tmp_path / "ranks.npz")

    with pytest.raises(FileFormatError, match=match):
        conjugate(2, path=tmp_path / "ranks.npz", **options)


def test_fits_that_fail_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = sbc_models.run

    def now_and_then(target: Any, config: Any, *, seed: int, progress: bool) -> Draws:
        if seed % 3 == 0:
            raise RuntimeError("singular\nmatrix")
        return run(target, config, seed=seed, progress=progress)

    monkeypatch.setattr(sbc_models, "run", now_and_then)
    found = conjugate(8, path=tmp_path / "ranks.npz")

    assert 0 < len(found.unfitted) < 8
    assert len(found) + len(found.unfitted) == 8
    assert set(found.unfitted.values()) == {"RuntimeError: singular matrix"}
    assert found.verdict.level != "fine"
    assert Calibration.load(tmp_path / "ranks.npz").unfitted == found.unfitted


def test_where_no_fit_works_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> Draws:
        raise BayesmetaError("no starting point")

    monkeypatch.setattr(sbc_models, "run", never)

    with pytest.raises(BayesmetaError, match="no replication could be fitted; the first: no starting point"):
        conjugate(50)


# ---------------------------------------------------------------------------------------------------------
# Processes


def test_results_come_from_other_processes() -> None:
    import os

    found = dict(run_all(lambda item: (item, os.getpid()), range(6), 2))

    assert sorted(found) == list(range(6))
    assert os.getpid() not in found.values()


def test_a_process_that_dies_is_told_of() -> None:
    import os

    with pytest.raises(BayesmetaError, match="a process died in the middle of its work"):
        list(run_all(lambda item: os._exit(1), range(4), 2))


def test_an_error_in_a_process_reaches_the_caller() -> None:
    def fails(item: int) -> int:
        raise KeyError(item)

    with pytest.raises(BayesmetaError, match="KeyError: 0"):
        list(run_all(fails, [0, 0], 2))


def test_where_forks_cannot_compute_items_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_probe", lambda: "no threads after a fork")

    with pytest.warns(BayesmetaWarning, match="one after another, on one core: no threads after a fork"):
        assert list(run_all(lambda item: item + 1, range(3), 2)) == [1, 2, 3]


def test_elsewhere_than_on_linux_nothing_is_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")

    assert list(run_all(lambda item: item, range(3))) == [0, 1, 2]
    with pytest.warns(BayesmetaWarning, match="cannot be forked safely on Darwin"):
        assert list(run_all(lambda item: item, range(3), 2)) == [0, 1, 2]


# ---------------------------------------------------------------------------------------------------------
# Data from the prior


def test_simulated_data_have_the_moments_of_the_prior() -> None:
    tasks, hierarchy = design(), gaussian()
    program = hierarchy.program(tasks)

    many = [simulate(program, tasks, seed) for seed in range(250)]

    mu = np.array([float(one.phi["mu"]) for one in many])
    theta = np.array([one.theta["theta"].numpy() for one in many])
    y = np.array([one.tasks.y.numpy() for one in many])
    task = tasks.task_index.numpy()
    for values, sd in ((mu, 1.0), (theta - mu[:, None], 1.0), (y - theta[:, task], 1.0)):
        assert stats.kstest(values.ravel(), stats.norm(0, sd).cdf).pvalue > 0.001
    assert float(many[0].u) == float(many[0].phi["mu"])


def test_data_belong_to_their_tasks_and_rows() -> None:
    """Ragged tasks with inputs and contexts: the noise is next to nothing, so that every y can be computed."""

    def hyperprior() -> Tensor:
        beta: Tensor = pyro.sample("beta", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return beta

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None, *, offset: Tensor) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(torch.zeros(2), phi.abs()).to_event(1))
        drawn: Tensor = pyro.sample("y", dist.Normal(x @ theta + offset, 1e-9).to_event(1), obs=y)
        return drawn

    rng = np.random.default_rng(0)
    xs = [rng.normal(size=(n, 2)) for n in (2, 40, 1, 7)]
    tasks = bm.Tasks.from_lists(xs, [np.zeros(len(x)) for x in xs], context={"offset": [0.0, 10.0, -5.0, 3.0]})
    one = simulate(bm.Hierarchy(hyperprior, task).program(tasks), tasks, 3)

    for k, part in enumerate(one.tasks):
        expected = part.x @ one.theta["theta"][k] + part.context["offset"]
        assert torch.allclose(part.y, expected, atol=1e-6)
    assert torch.equal(one.tasks.x, tasks.x)
    assert one.tasks.names == tasks.names


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_every_scenario_simulates(name: str) -> None:
    scenario = SCENARIOS[name]()
    program = scenario.hierarchy.program(scenario.tasks)
    check_simulates(program, scenario.tasks)

    one, again, other = (simulate(program, scenario.tasks, seed) for seed in (1, 1, 2))

    assert torch.equal(one.tasks.y, again.tasks.y)
    assert not torch.equal(one.tasks.y, other.tasks.y)
    values = program.phi(one.u).values
    assert all(torch.allclose(values[site], one.phi[site]) for site in one.phi)
    assert all(len(value) == len(scenario.tasks) for value in one.theta.values())


def test_data_beyond_all_numbers_are_told_of() -> None:
    def hyperprior() -> Tensor:
        mu: Tensor = pyro.sample("mu", dist.Normal(1000.0, 1.0))
        return mu

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi, 1.0))
        drawn: Tensor = pyro.sample("y", dist.Normal(theta.exp(), 1.0).expand([len(x)]).to_event(1), obs=y)
        return drawn

    program = bm.Hierarchy(hyperprior, task).program(design())

    with pytest.raises(DataError, match=r"not all finite, at mu = .*: narrow the hyperprior"):
        simulate(program, design(), 0)


def _factor_in_hyperprior() -> bm.Hierarchy:
    def hyperprior() -> Tensor:
        mu: Tensor = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.factor("more", -mu.square())
        return mu

    return bm.Hierarchy(hyperprior, gaussian().task)


def _observed(observe: Callable[[Tensor, Tensor, Tensor | None], Any]) -> bm.Hierarchy:
    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Any:
        theta = pyro.sample("theta", dist.Normal(phi, 1.0))
        return observe(theta, x, y)

    return bm.Hierarchy(gaussian().hyperprior, task)


def _factor_in_task(theta: Tensor, x: Tensor, y: Tensor | None) -> None:
    pyro.sample("y", dist.Normal(theta, 1.0).expand([len(x)]).to_event(1), obs=y)
    pyro.factor("more", -theta.square())


def _transformed(theta: Tensor, x: Tensor, y: Tensor | None) -> None:
    pyro.sample("y", dist.Normal(theta, 1.0).expand([len(x)]).to_event(1), obs=None if y is None else y.exp())


def _needs_y(theta: Tensor, x: Tensor, y: Tensor | None) -> None:
    pyro.sample("y", dist.Normal(theta, 1.0).expand([len(y)]).to_event(1), obs=y)  # type: ignore[arg-type]


def _always_observed(theta: Tensor, x: Tensor, y: Tensor | None) -> None:
    pyro.sample("y", dist.Normal(theta, 1.0).expand([len(x)]).to_event(1), obs=torch.zeros(len(x)) if y is None else y)


@pytest.mark.parametrize(
    ("hierarchy", "match"),
    [
        (_factor_in_hyperprior(), r"the hyperprior observes \['more'\]"),
        (_observed(_factor_in_task), "must have one observed site"),
        (_observed(_transformed), r"given y itself \(obs=y\)"),
        (_observed(_needs_y), "task raised TypeError with y=None"),
        (_observed(_always_observed), "with y=None the task does not draw 'y'"),
    ],
    ids=["factor in the hyperprior", "factor in the task", "a function of y", "no y=None", "never drawn"],
)
def test_hierarchies_that_cannot_be_run_forwards(hierarchy: bm.Hierarchy, match: str) -> None:
    with pytest.raises(HierarchyError, match=match):
        conjugate(2, hierarchy=hierarchy)


# ---------------------------------------------------------------------------------------------------------
# Quantities, thinning, options


def test_quantities_against_scipy() -> None:
    tasks = design()
    replicator = Replicator(gaussian(), gaussian(), tasks, Conjugate(), draws=9, theta=2, seed=0)
    one = simulate(replicator.program, tasks, 5)
    phi, theta = {"mu": one.phi["mu"][None]}, {"theta": one.theta["theta"][None]}

    found = replicator.quantities.of(replicator._target(one.tasks), one.tasks, one.u[None], phi, theta)[0].numpy()

    mu, y, task = float(one.phi["mu"]), one.tasks.y.numpy(), tasks.task_index.numpy()
    levels = one.theta["theta"].numpy()
    likelihood = stats.norm(levels[task], 1).logpdf(y).sum()
    joint = likelihood + stats.norm(mu, 1).logpdf(levels).sum() + stats.norm(0, 1).logpdf(mu)
    covariance = np.eye(len(y)) + (task[:, None] == task[None, :])
    collapsed = stats.multivariate_normal(np.full(len(y), mu), covariance).logpdf(y) + stats.norm(0, 1).logpdf(mu)
    assert replicator.quantities.names[:3] == ("mu", "theta[B]", "theta[C]")  # the smallest and the largest task
    assert found == pytest.approx([mu, levels[1], levels[2], joint, likelihood, collapsed])


def test_elements_of_phi_that_never_change_are_not_ranked() -> None:
    scenario = SCENARIOS["correlated"]()

    made = Replicator(scenario.hierarchy, scenario.hierarchy, scenario.tasks, Conjugate(), draws=9, theta=1, seed=0)

    assert "L[1,0]" in made.quantities.names
    assert not {"L[0,0]", "L[0,1]"} & set(made.quantities.names)
    assert "theta[B,0]" in made.quantities.names


def test_draws_are_thinned_to_those_that_are_effective() -> None:
    rng = np.random.default_rng(0)
    slow = np.zeros((2, 500))
    for k in range(1, 500):
        slow[:, k] = 0.95 * slow[:, k - 1] + rng.normal(size=2)
    chains = torch.tensor(np.stack([slow, rng.normal(size=(2, 500))], -1))
    effective = effective_draws(Draws(chains), 2)

    assert effective == pytest.approx(1000 * 0.05 / 1.95, rel=0.6)
    assert len(thinned(Draws(chains), 99, effective)) == max(int(effective), 20)
    assert effective_draws(Draws(chains), 1) == effective
    assert effective_draws(Draws(chains[..., 1:]), 1) > 700
    assert len(thinned(Draws(chains), 99, 700.0)) == 99
    assert len(thinned(Draws(chains[:, :5]), 99, 700.0)) == 10
    assert effective_draws(Draws(chains, effective_size=12.5), 2) == 12.5


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"draws": 0}, "draws must be a whole number of at least 1, got 0"),
        ({"theta": -1}, "theta must be a whole number of at least 0"),
        ({"cores": 0}, "cores must be a whole number of at least 1, got 0"),
        ({"config": "nutz"}, "unknown preset 'nutz'"),
    ],
)
def test_options_are_checked(options: dict[str, Any], match: str) -> None:
    with pytest.raises(BayesmetaError, match=match):
        conjugate(2, **options)


def test_replications_are_checked() -> None:
    with pytest.raises(OptionError, match="replications must be a whole number of at least 1, got 0"):
        conjugate(0)


def test_the_truth_must_have_the_same_sites() -> None:
    scenario = SCENARIOS["normal_normal"]()

    with pytest.raises(HierarchyError, match="both must have the same names and shapes"):
        conjugate(2, truth=bm.Hierarchy(scenario.hierarchy.hyperprior, _observed_alike(scenario.hierarchy.task)))


def _observed_alike(task: Callable[..., Any]) -> Callable[..., Any]:
    def with_sigma(phi: Any, x: Tensor, y: Tensor | None = None) -> Any:
        return task(phi, x, y, sigma=torch.ones(()))

    return with_sigma


def test_nothing_is_warned_of_and_no_random_state_is_moved() -> None:
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conjugate(2)

    assert torch.equal(torch.get_rng_state(), before)


def test_a_value_that_is_no_number_is_not_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    of, calls = Quantities.of, iter(range(100))

    def broken(*args: Any) -> Tensor:
        values = of(*args)
        if next(calls) == 1:
            values[2, 0] = torch.nan
        return values

    monkeypatch.setattr(Quantities, "of", broken)

    assert "not a number at a draw" in conjugate(3).unfitted[1]
