"""NUTS: whole posteriors of hierarchies with known answers, its statistics, its settings, and Ctrl-C."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.density import Density
from bayesmeta.errors import BayesmetaError, BayesmetaWarning, OptionError
from bayesmeta.infer.nuts import _kept, finite_start, sample
from tests.fitted import TINY, good
from tests.scenarios import SCENARIOS, Exact, normal_normal, quadrature
from tests.standard import chains_of, compare
from tests.truth import Array

ROOT = Path(__file__).parent.parent
KNOWN = sorted(name for name, make in SCENARIOS.items() if make().box)


# --- known answers ------------------------------------------------------------------------------------------


def phi_failures(posterior: bm.Posterior, exact: Exact, least_ess: float) -> list[str]:
    draws = chains_of(posterior)
    verdict = compare(draws, exact.mean, exact.sd)
    return verdict.failures(least_ess, mean=math.inf, spread=math.inf)


def theta_failures(posterior: bm.Posterior, exact: Exact, least_ess: float) -> list[str]:
    draws = chains_of(posterior, "theta")
    mean, sd = (dict(zip(draws, column.ravel().tolist(), strict=True)) for column in (exact.theta_mean, exact.theta_sd))
    return compare(draws, mean, sd).failures(least_ess, mean=math.inf, spread=math.inf)


def recovers(posterior: bm.Posterior, name: str, least_ess: float) -> None:
    """φ and θ are within 4 Monte Carlo standard errors of the exact moments, and not of those of fewer data."""
    scenario = SCENARIOS[name]()
    exact = quadrature(scenario)

    assert posterior.info.divergences < 0.005 * len(posterior.phi_coordinates)
    assert phi_failures(posterior, exact, least_ess) == []
    assert theta_failures(posterior, exact, least_ess) == []
    # the check can fail: the likelihood of two tasks is dropped
    assert phi_failures(posterior, quadrature(scenario, scenario.tasks[2:]), least_ess) != []


@pytest.mark.parametrize("name", KNOWN)
def test_it_finds_phi_and_theta_by_the_evidence_that_auto_takes(name: str) -> None:
    posterior = good(name)
    expected = SCENARIOS[name]().road

    assert posterior.info.evidence == ("exact" if expected == "gram" else expected)
    assert posterior.info.gram == (expected == "gram")
    recovers(posterior, name, 1000)


@pytest.mark.parametrize(
    "name", [n if n == "nested" else pytest.param(n, marks=pytest.mark.long) for n in KNOWN if n != "beta_binomial"]
)
def test_it_finds_phi_and_theta_jointly(name: str) -> None:
    scenario = SCENARIOS[name]()
    draws = 2500 if name == "nested" else 5000  # the quick one
    settings = bm.NUTS(draws=draws, tune=1000, evidence="joint", target_accept=0.95)
    posterior = bm.fit(scenario.hierarchy, scenario.tasks, settings, progress=False)

    assert posterior.info.evidence == "joint"
    recovers(posterior, name, 1000)


@pytest.mark.parametrize("name", ["normal_normal", pytest.param("beta_binomial", marks=pytest.mark.long)])
def test_pyros_sampler_finds_them_too(name: str) -> None:
    scenario = SCENARIOS[name]()
    settings = bm.NUTS(draws=900, tune=300, chains=2, engine="pyro")
    posterior = bm.fit(scenario.hierarchy, scenario.tasks, settings, progress=False)

    recovers(posterior, name, 200)


# --- a density of one's own ---------------------------------------------------------------------------------


def skewed(u: Tensor) -> Tensor:
    """A gamma variable of shape 3 on the log scale, and a correlated pair: a wrong sign would show."""
    gamma = 3 * u[0] - u[0].exp()
    pair = -(u[1] ** 2 - 1.2 * u[1] * u[2] + u[2] ** 2) / (2 * (1 - 0.36))
    return gamma + pair


def moments_are_right(chains: Array) -> list[str]:
    draws = {"gamma": np.exp(chains[..., 0]), "a": chains[..., 1], "product": chains[..., 1] * chains[..., 2]}
    mean = {"gamma": 3.0, "a": 0.0, "product": 0.6}
    sd = {"gamma": math.sqrt(3), "a": 1.0, "product": math.sqrt(1.36)}
    return compare(draws, mean, sd).failures(2000, mean=math.inf, spread=math.inf)


@pytest.mark.parametrize("low_rank", [False, True])
def test_a_skewed_and_a_correlated_target(low_rank: bool) -> None:
    draws = sample(Density(skewed, 3), bm.NUTS(draws=2500, tune=500, low_rank=low_rank), progress=False)
    chains = draws.u.numpy()

    assert moments_are_right(chains) == []
    mirrored = chains * np.array([1.0, -1.0, 1.0])
    assert moments_are_right(mirrored) != []


# --- statistics ---------------------------------------------------------------------------------------------

NUTPIE_STATS = {
    "diverging",
    "lp",
    "energy",
    "tree_depth",
    "n_steps",
    "step_size",
    "acceptance_rate",
    "reached_max_treedepth",
}


def test_statistics_of_draws_and_of_warm_up() -> None:
    settings = bm.NUTS(draws=60, tune=80, chains=3, compile=False, max_treedepth=2)
    density = Density(skewed, 3, compile=False)
    draws = sample(density, settings, progress=False)

    assert draws.u.shape == (3, 60, 3)
    assert set(draws.stats) == NUTPIE_STATS
    assert {name: value.shape for name, value in draws.stats.items()} == dict.fromkeys(NUTPIE_STATS, (3, 60))
    assert {name: value.shape for name, value in draws.warmup_stats.items()} == dict.fromkeys(NUTPIE_STATS, (3, 80))
    assert draws.stats["tree_depth"].max() <= 2
    assert draws.stats["n_steps"].max() <= 3
    values = torch.stack([density(u) for u in draws.u.reshape(-1, 3)])
    np.testing.assert_allclose(draws.stats["lp"].ravel(), values.numpy(), rtol=1e-10)
    assert not draws.interrupted
    assert draws.seconds > 0


def test_gradients_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in ("nutpie", "pyro"):
        calls = 0
        plain = Density.value_and_grad

        def counted(self: Density, u: Tensor, plain: Any = plain) -> tuple[Tensor, Tensor]:
            nonlocal calls
            calls += 1
            result: tuple[Tensor, Tensor] = plain(self, u)
            return result

        monkeypatch.setattr(Density, "value_and_grad", counted)
        settings = bm.NUTS(draws=40, tune=40, chains=2, engine=engine, compile=False)
        draws = sample(Density(skewed, 3, compile=False), settings, progress=False)
        monkeypatch.undo()
        # beside the leapfrog steps: starting points, and the search for a first step size
        assert 0.8 * calls < draws.gradients <= calls


def test_divergences_are_counted() -> None:
    def funnel(u: Tensor) -> Tensor:
        return -0.5 * u[0] ** 2 / 9 - 0.5 * (u[1:] ** 2 * torch.exp(-u[0])).sum() - 4.5 * u[0]

    settings = bm.NUTS(draws=300, tune=100, chains=2, compile=False, target_accept=0.5)
    draws = sample(Density(funnel, 10, compile=False), settings, progress=False)

    assert draws.divergences == int(draws.stats["diverging"].sum())
    assert draws.divergences > 0


def test_a_higher_target_takes_smaller_steps() -> None:
    def step(target: float) -> float:
        settings = bm.NUTS(draws=100, tune=300, chains=1, compile=False, target_accept=target)
        return float(sample(Density(skewed, 3, compile=False), settings, progress=False).stats["step_size"].mean())

    assert step(0.97) < 0.8 * step(0.7)


def test_the_same_seed_gives_the_same_draws_whatever_the_cores() -> None:
    def drawn(seed: int, cores: int, engine: str = "nutpie") -> Tensor:
        settings = bm.NUTS(draws=30, tune=40, chains=3, compile=False, cores=cores, engine=engine)  # type: ignore[arg-type]
        return sample(Density(skewed, 3, compile=False), settings, seed=seed, progress=False).u

    once = drawn(1, 1)
    assert torch.equal(once, drawn(1, 1))
    assert torch.equal(once, drawn(1, 2))
    assert not torch.equal(once, drawn(2, 1))
    assert torch.equal(drawn(1, 1, "pyro"), drawn(1, 1, "pyro"))
    assert len({tuple(chain[0].tolist()) for chain in once}) == 3, "chains do not share a seed"


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": 0}, "draws must be a whole number of at least 1, got 0"),
        ({"draws": 10.0}, "draws must be a whole number of at least 1, got 10.0"),
        ({"tune": -1}, "tune must be a whole number of at least 0, got -1"),
        ({"chains": True}, "chains must be a whole number of at least 1, got True"),
        ({"cores": 0}, "cores must be a whole number of at least 1, got 0"),
        ({"max_treedepth": 0}, "max_treedepth must be a whole number of at least 1, got 0"),
        ({"target_accept": 1.0}, "target_accept must lie between 0 and 1, got 1.0"),
        ({"target_accept": "high"}, "target_accept must lie between 0 and 1, got 'high'"),
        ({"evidence": "exat"}, "unknown evidence 'exat'; valid: .*; did you mean 'exact'"),
        ({"engine": "stan"}, "unknown engine 'stan'; valid: 'nutpie', 'pyro'"),
        ({"init": "modes"}, "unknown init 'modes'; valid: 'random', 'mode'"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        bm.NUTS(**settings)


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError, match="draws"):
        TINY.draws = 5  # type: ignore[misc]


# --- starting points ----------------------------------------------------------------------------------------


def two_populations() -> bm.Hierarchy:
    """mu about -6, or, four hundred times less likely, about 6, of which the observations say nothing."""

    def hyperprior() -> dict[str, Tensor]:
        which = dist.Categorical(logits=torch.tensor([0.0, -6.0]))
        return {"mu": pyro.sample("mu", dist.MixtureSameFamily(which, dist.Normal(torch.tensor([-6.0, 6.0]), 0.3)))}

    def task(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi["mu"], 1.0))
        return pyro.sample("y", dist.Normal(theta + 0 * x, 100.0).to_event(1), obs=y)

    return bm.Hierarchy(hyperprior, task)


def test_chains_that_begin_at_the_mode_are_not_caught_by_another() -> None:
    tasks = bm.Tasks.from_lists([torch.zeros(3)] * 4, [torch.tensor([-1.0, 0.0, 1.0])] * 4)
    caught = {}
    for init in ("random", "mode"):
        config = dataclasses.replace(TINY, chains=4, init=init)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BayesmetaWarning)
            posterior = bm.fit(two_populations(), tasks, config, progress=False)
        caught[init] = (posterior.draws.u.mean((1, 2)) > 0).sum()
    assert caught["random"] > 0
    assert caught["mode"] == 0


def test_starting_points_are_finite_and_of_their_seed() -> None:
    def half(u: Tensor) -> Tensor:
        return torch.where(u.sum() > 1.0, -(u**2).sum(), -math.inf)

    density = Density(half, 2, compile=False)
    starts = np.stack([finite_start(density, seed) for seed in range(20)])

    assert (starts.sum(1) > 1.0).all()
    assert np.array_equal(starts[3], finite_start(density, 3))


def test_impossible_observations_are_named() -> None:
    def hyperprior() -> Tensor:
        tau: Tensor = pyro.sample("tau", dist.HalfNormal(1.0))
        return tau

    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        rate = pyro.sample("rate", dist.LogNormal(0.0, phi))
        return pyro.sample("y", dist.Uniform(0.0, 5.0 + rate).expand([len(x)]).to_event(1), obs=y)

    tasks = bm.Tasks.from_lists(None, [[1.0, 2.0], [-3.0]])
    with pytest.raises(BayesmetaError, match=r"no starting point of finite log density .* negative values"):
        bm.fit(bm.Hierarchy(hyperprior, task), tasks, TINY, progress=False)


def test_what_fails_within_the_sampler_is_ours() -> None:
    calls = 0

    def failing(u: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 50:
            raise ZeroDivisionError("a bug of the user's")
        return -(u**2).sum()

    density = Density(failing, 2, trace=False)
    with pytest.raises(BayesmetaError, match=r"evaluating the density failed.*[\s\S]*a bug of the user's"):
        sample(density, TINY, progress=False)


# --- Ctrl-C -------------------------------------------------------------------------------------------------

INTERRUPTED = """
    import os, signal, sys, warnings
    import torch
    import bayesmeta as bm
    from bayesmeta.density import Density
    from tests.scenarios import normal_normal

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children would ignore it
    engine, chains, tune, at = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    plain, calls = Density.value_and_grad, 0

    def counted(self, u):
        global calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, u)

    Density.value_and_grad = counted
    settings = bm.NUTS(draws=200_000, tune=tune, chains=chains, engine=engine, compile=False)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        posterior = bm.fit(normal_normal().hierarchy, normal_normal().tasks, settings, progress=False)
    kept, count, _ = posterior.draws.u.shape
    assert posterior.info.interrupted, "info does not tell"
    assert bool(torch.isfinite(posterior.draws.u).all()), "draws that were never made"
    assert posterior.theta["theta"].shape == (kept * count, 8)
    assert all(value.shape == (kept, count) for value in posterior.draws.stats.values())
    print(kept, count, *[str(w.message) for w in said if w.category is bm.BayesmetaWarning])
"""


def interrupted(engine: str, tune: int, at: int, chains: int = 1) -> subprocess.CompletedProcess[str]:
    """A real SIGINT at the `at`-th gradient of a run in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(INTERRUPTED), engine, str(chains), str(tune), str(at)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("engine", ["nutpie", "pyro"])
def test_ctrl_c_returns_what_was_drawn(engine: str) -> None:
    result = interrupted(engine, tune=30, at=500)

    assert result.returncode == 0, result.stderr
    kept, count, warning = result.stdout.split(" ", 2)
    assert kept == "1"
    assert 0 < int(count) < 200_000
    said = f"sampling was interrupted: {count} of 200000 draws of 1 of 1 chains were kept"
    assert warning.startswith(f"{said} the draws are ")
    assert f"{int(count):,} draws were taken before it was interrupted" in warning


@pytest.mark.parametrize("engine", ["nutpie", "pyro"])
def test_ctrl_c_during_warm_up_is_a_keyboard_interrupt(engine: str) -> None:
    result = interrupted(engine, tune=100_000, at=200)

    assert result.returncode in (130, 1, -signal.SIGINT), result.stderr
    assert "KeyboardInterrupt: sampling was interrupted during warm-up" in result.stderr


@pytest.mark.parametrize(
    ("counts", "chains", "length"),
    [
        ([100, 100, 40, 0], [0, 1], 100),
        ([100, 90, 80, 70], [0, 1, 2, 3], 70),
        ([100, 3, 0, 0], [0], 100),
        ([0, 0, 12, 10], [2, 3], 10),
        ([5], [0], 5),
    ],
)
def test_of_an_interrupted_run_the_most_draws_are_kept(counts: list[int], chains: list[int], length: int) -> None:
    kept, found = _kept(np.array(counts))
    assert kept.tolist() == chains
    assert found == length


def test_of_a_run_without_draws_nothing_is_kept() -> None:
    with pytest.raises(KeyboardInterrupt, match="no draws were taken yet"):
        _kept(np.zeros(4, dtype=int))


def test_pyros_engine_keeps_the_chains_it_has_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = Density.value_and_grad, 0

    def counted(self: Density, u: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        if calls == 1500:
            raise KeyboardInterrupt
        return plain(self, u)

    monkeypatch.setattr(Density, "value_and_grad", counted)
    settings = bm.NUTS(draws=100, tune=30, chains=40, engine="pyro", compile=False)
    with pytest.warns(BayesmetaWarning, match=r"interrupted: 100 of 100 draws of \d+ of 40 chains"):
        draws = sample(Density(skewed, 3, compile=False), settings, progress=False)

    assert draws.interrupted
    assert 1 <= draws.u.shape[0] < 40
    assert draws.u.shape[1] == 100


def test_scenarios_cover_every_road() -> None:
    assert {make().road for make in SCENARIOS.values()} == {"gram", "exact", "quadrature"}
    assert normal_normal().name in KNOWN
