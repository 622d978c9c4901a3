"""The verdict: each check by draws that must pass it and draws that must not."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import bayesmeta as bm
from bayesmeta.diagnose.verdict import Finding, Verdict, judge
from bayesmeta.draws import Draws
from tests.scenarios import normal_normal

Array = npt.NDArray[np.float64]
SHAPE = (4, 1000)


def white(seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=SHAPE)


def energies(step: float, seed: int = 1) -> Array:
    """Chains of energies whose steps are `step` times their spread: E-BFMI is about step²."""
    rng = np.random.default_rng(seed)
    out = np.zeros(SHAPE)
    decay = 1 - step**2 / 2
    for k in range(1, SHAPE[1]):
        out[:, k] = decay * out[:, k - 1] + math.sqrt(1 - decay**2) * rng.normal(size=SHAPE[0])
    return out


def draws(**options: Any) -> Draws:
    return Draws(torch.zeros(*SHAPE, 2, dtype=torch.float64), **options)


def level(given: Draws, check: str, phi: dict[str, Array] | None = None, error: dict[str, float] | None = None) -> str:
    verdict = judge(given, phi or {"mu": white()}, error)
    return next(finding.level for finding in verdict.findings if finding.check == check)


def test_good_chains_are_fine() -> None:
    verdict = judge(draws(stats={"diverging": np.zeros(SHAPE, bool), "energy": energies(1.2)}), {"mu": white()})

    assert verdict.level == "fine"
    assert not verdict.remedies
    assert {f.check for f in verdict.findings} == {"R-hat", "ESS bulk", "ESS tail", "divergences", "E-BFMI"}


@pytest.mark.parametrize(("shift", "expected"), [(0.0, "fine"), (0.25, "doubtful"), (1.5, "failed")])
def test_chains_that_disagree(shift: float, expected: str) -> None:
    apart = white() + shift * np.array([[0.0], [0.0], [0.0], [1.0]])

    assert level(draws(), "R-hat", {"mu": white(), "tau": apart}) == expected


@pytest.mark.parametrize(("repeats", "expected"), [(1, "fine"), (20, "doubtful"), (100, "failed")])
@pytest.mark.parametrize("check", ["ESS bulk", "ESS tail"])
def test_chains_that_hardly_move(repeats: int, expected: str, check: str) -> None:
    slow = np.repeat(white(), repeats, axis=1)[:, : SHAPE[1]]

    assert level(draws(), check, {"mu": slow}) == expected


@pytest.mark.parametrize(("count", "expected"), [(0, "fine"), (3, "doubtful"), (100, "failed")])
def test_divergences(count: int, expected: str) -> None:
    diverging = np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) < count

    assert level(draws(stats={"diverging": diverging}), "divergences") == expected


@pytest.mark.parametrize(("step", "expected"), [(1.0, "fine"), (0.45, "doubtful"), (0.2, "failed")])
def test_energy(step: float, expected: str) -> None:
    assert level(draws(stats={"energy": energies(step)}), "E-BFMI") == expected


@pytest.mark.parametrize(("share", "expected"), [(0.01, "fine"), (0.2, "doubtful"), (0.9, "failed")])
def test_trees_that_are_cut_short(share: float, expected: str) -> None:
    reached = np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) < share * SHAPE[0] * SHAPE[1]

    assert level(draws(stats={"reached_max_treedepth": reached}), "tree depth") == expected


@pytest.mark.parametrize(
    ("k_hat", "expected"),
    [(-math.inf, "fine"), (0.3, "fine"), (0.8, "doubtful"), (1.4, "failed"), (math.inf, "failed")],
)
def test_importance_weights(k_hat: float, expected: str) -> None:
    weighted = draws(k_hat=k_hat, effective_size=2000.0)

    assert level(weighted, "k-hat") == expected
    assert {f.check for f in judge(weighted, {"mu": white()}).findings} == {"k-hat", "effective size"}


@pytest.mark.parametrize(("size", "expected"), [(2000.0, "fine"), (200.0, "doubtful"), (20.0, "failed")])
def test_effective_size(size: float, expected: str) -> None:
    assert level(draws(k_hat=0.2, effective_size=size), "effective size") == expected


def test_weights_without_a_variance_need_more_effective_draws() -> None:
    """At the default of 4,000 draws: what was off by five standard errors on orthodont had k-hat .56, 940 draws."""
    assert level(draws(k_hat=0.45, effective_size=940.0), "effective size") == "fine"
    assert level(draws(k_hat=0.56, effective_size=940.0), "effective size") == "doubtful"
    assert level(draws(k_hat=0.56, effective_size=1100.0), "effective size") == "fine"


@pytest.mark.parametrize(("rate", "expected"), [(400.0, "fine"), (5000.0, "doubtful")])
def test_an_elbo_that_still_rises(rate: float, expected: str) -> None:
    steps = np.arange(4000)
    curve = -100 * np.exp(-steps / rate) + np.random.default_rng(0).normal(size=4000)

    assert level(draws(k_hat=0.2, curves={"elbo": curve}), "ELBO") == expected


def test_draws_that_were_weighed_but_not_corrected_are_doubtful() -> None:
    """k-hat tells whether weights would correct them, not that the approximation needs no correction."""
    assert level(draws(k_hat=0.2), "correction") == "doubtful"
    assert judge(draws(k_hat=0.2, effective_size=3000.0), {"mu": white()}).level == "fine"


def test_what_is_constant_in_the_model_is_not_judged() -> None:
    cholesky = {"L[0,0]": np.ones(SHAPE), "L[1,0]": white(1)}
    stuck = {"mu": white(), "tau": np.ones(SHAPE) * np.array([[0.0], [0.0], [0.0], [1.0]])}

    assert judge(draws(), cholesky).level == "fine"
    assert judge(draws(), stuck).level != "fine", "each chain stands still, but not at the same place"


def test_a_point_is_said_to_be_one() -> None:
    verdict = judge(draws(k_hat=None), {"mu": np.zeros(SHAPE)})

    assert verdict.level == "doubtful"
    assert "single point" in repr(verdict)


@pytest.mark.parametrize(
    ("error", "check", "expected"),
    [
        ({"doubling": 1e-6}, "quadrature", "fine"),
        ({"doubling": 0.3}, "quadrature", "doubtful"),
        ({"doubling": 3.0}, "quadrature", "failed"),
        ({"k_hat": 0.2}, "Laplace evidence", "fine"),
        ({"k_hat": 0.9}, "Laplace evidence", "doubtful"),
    ],
)
def test_the_error_of_the_evidence(error: dict[str, float], check: str, expected: str) -> None:
    assert level(draws(), check, error=error) == expected


def test_what_was_interrupted_is_doubtful() -> None:
    assert level(draws(interrupted=True), "interrupted") == "doubtful"


def test_too_few_draws_to_tell_are_doubtful() -> None:
    few = judge(Draws(torch.zeros(1, 3, 1, dtype=torch.float64)), {"mu": white()[:1, :3]})

    assert few.level == "doubtful"


def test_the_worst_check_is_the_verdict_and_says_what_to_do() -> None:
    verdict = Verdict((Finding("a", 0.0, "fine", "all well"), Finding("b", 1.0, "failed", "b broke", "mend b")))

    assert verdict.level == "failed"
    assert repr(verdict) == "failed: b broke. Remedy: mend b"
    assert "mend b" in verdict._repr_html_()
    assert Verdict.of(verdict.plain()) == verdict


def test_a_fit_ends_with_its_verdict() -> None:
    scenario = normal_normal()
    with warnings.catch_warnings():
        warnings.simplefilter("error", bm.BayesmetaWarning)
        warnings.simplefilter("error", bm.BayesmetaWarning)
        posterior = bm.fit(scenario.hierarchy, scenario.tasks, inference=bm.Auto(), progress=False)

    assert posterior.verdict.level == "fine"
    assert "fine" in repr(posterior)
    assert "fine" in posterior._repr_html_()


def test_a_fit_that_is_not_fine_warns() -> None:
    scenario = normal_normal()
    few = bm.NUTS(draws=20, tune=10, chains=2, compile=False)
    with pytest.warns(bm.BayesmetaWarning, match=r"the draws are (doubtful|failed): .*ESS.*Remedy: "):
        posterior = bm.fit(scenario.hierarchy, scenario.tasks, inference=few, progress=False)

    assert posterior.verdict.level != "fine"
