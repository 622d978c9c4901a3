"""Every method of adaptation against what is exactly true, on fits of either kind; each check is seen to fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.adapt import METHODS
from bayesmeta.errors import BayesmetaWarning, DataError, NotAvailableError, OptionError
from bayesmeta.psis import psis
from tests.adapting import Mixture, close, counts, counts_of, line_of, lines, new_counts, new_lines

APPROXIMATE = ("laplace", "gradient", "svi", "langevin")
BY_NUTS = bm.adapt.NUTS(draws=300, tune=150, components=150)


def size_of(adapted: bm.Adapted, t: int) -> float:
    """Effective draws of a task, of the fit's own and of those that came out; half of them, to be careful."""
    draws = len(adapted.theta_coordinates)
    share = min(1.0, float(adapted.effective_size[t]) / 1000)
    return 0.5 * share * draws


def check(adapted: bm.Adapted, fit: bm.Posterior, truth: Callable[[bm.Posterior, bm.Task], Mixture]) -> list[bool]:
    """Whether θ of each task is as it should be."""
    theta = adapted.theta["theta"]
    return [close(theta[:, t], truth(fit, task), size_of(adapted, t)) for t, task in enumerate(adapted.tasks)]


# --- exact truths ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("own", "nuts")])
def test_lines_by_every_method(method: str) -> None:
    fit, new = lines(), new_lines()
    adapted = fit.adapt(new, method=method, seed=2)

    assert adapted.method == method
    assert adapted.reason.startswith("asked for")
    assert adapted.k_hat.max() < 0.7
    assert adapted.k_hat_theta.max() < 0.7
    assert adapted.effective_size.min() > 300
    assert all(check(adapted, fit, line_of))


@pytest.mark.parametrize("method", ["exact", "quadrature", "laplace", "gradient", "svi", "langevin"])
def test_lines_by_every_method_after_a_joint_fit(method: str) -> None:
    fit, new = lines("joint"), new_lines()

    assert all(check(fit.adapt(new, method=method, seed=3), fit, line_of))


@pytest.mark.parametrize("method", ["quadrature", *APPROXIMATE, pytest.param(BY_NUTS, id="nuts")])
def test_counts_by_every_method(method: Any) -> None:
    fit, new = counts(), new_counts()
    adapted = fit.adapt(new, method=method, seed=4)

    assert adapted.k_hat_theta.max() < 0.7
    assert all(check(adapted, fit, counts_of))


@pytest.mark.parametrize(
    "method",
    [
        bm.adapt.Laplace(correct=False),
        bm.adapt.Gradient(spread="laplace"),
        bm.adapt.Gradient(spread="none"),
        bm.adapt.Gradient(weights="equal", spread="none"),
    ],
    ids=["laplace", "gradient", "points", "unweighted points"],
)
@pytest.mark.filterwarnings("ignore:k-hat")
def test_without_correction_the_checks_fail(method: Any) -> None:
    fit, new = counts(), new_counts()

    assert not all(check(fit.adapt(new, method=method, seed=4), fit, counts_of))


def test_phi_is_weighted_too() -> None:
    """Draws of φ beside a task that tells much about it, against weights by hand."""
    fit = lines()
    far = bm.Tasks.from_lists([[0.0, 1.0]], [[5.0, 6.0]], names=["far"])
    weights = line_of(fit, far[0]).weights
    wanted = float((weights * fit.phi["spread"][:, 0].numpy()).sum())
    sd = float(fit.phi["spread"][:, 0].std())
    for method in APPROXIMATE:
        adapted = fit.adapt(far, method=method, seed=5)
        bound = 4 * sd / size_of(adapted, 0) ** 0.5
        assert abs(float(adapted.phi["spread"][:, 0, 0].mean()) - wanted) < bound
    equal = fit.adapt(far, method=bm.adapt.Gradient(weights="equal"))
    assert abs(float(equal.phi["spread"][:, 0, 0].mean()) - wanted) > 4 * sd / 1000**0.5


@pytest.mark.parametrize("method", ["laplace", "gradient", "svi", "langevin"])
def test_a_task_of_the_fit_goes_on(method: str) -> None:
    fit = lines()
    old = fit.tasks[["3"]]
    more = bm.Tasks.from_lists([[0.5, -1.0]], [[2.0, 1.0]], names=["3"])
    exact = fit.adapt(more, method="exact", seed=1)
    adapted = fit.adapt(more, method=method, seed=1)
    stranger = fit.adapt(more.with_names(["other"]), method=method, seed=1)
    again = fit.adapt(old, method=method, seed=1)
    spread = exact.theta["theta"][:, 0].std(0)

    def off(other: bm.Adapted) -> float:
        gap = other.theta["theta"][:, 0].mean(0) - exact.theta["theta"][:, 0].mean(0)
        return float((gap.abs() / spread).max())

    assert off(adapted) < 4 * (1 / 500 + 1 / 1000) ** 0.5
    assert off(stranger) > 4 * (1 / 500 + 1 / 1000) ** 0.5
    known = fit.theta["theta"][:, fit.tasks.index("3")]
    gap = (again.theta["theta"][:, 0].mean(0) - known.mean(0)).abs() / known.std(0)
    assert float(gap.max()) < 4 * (1 / 500 + 1 / 1000) ** 0.5


# --- auto -----------------------------------------------------------------------------------------------------


def test_auto_takes_the_evidence_of_the_fit() -> None:
    assert lines().adapt(new_lines()).method == "exact"
    adapted = counts().adapt(new_counts())
    assert (adapted.method, adapted.reason) == ("quadrature", "as in the fit")


def test_auto_after_a_joint_fit_says_why() -> None:
    closed = lines("joint").adapt(new_lines())
    assert (closed.method, closed.reason) == ("exact", "the fit was joint, but log p(y, θ | φ) is quadratic in θ")
    fit = counts("joint")
    curved = fit.adapt(new_counts(), seed=6)
    assert curved.method == "laplace"
    assert curved.reason.startswith("one mode, and k-hat of θ at most")
    assert repr(curved).endswith(f"method 'laplace' ({curved.reason})")
    assert all(check(curved, fit, counts_of))


def two_sided(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
    """Of θ only its size is seen, where x is one: two modes."""
    theta = pyro.sample("theta", dist.Normal(0.0, phi))
    mean = torch.where(x > 0, theta.square(), theta)
    value: Tensor = pyro.sample("y", dist.Normal(mean, 0.3).to_event(1), obs=y)
    return value


def test_auto_leaves_tasks_with_two_modes_to_nuts() -> None:
    hierarchy = bm.Hierarchy(lambda: pyro.sample("tau", dist.HalfNormal(2.0)), two_sided)
    tasks = bm.Tasks.from_lists([[0.0, 0.0]] * 4, [[1.0, 1.3], [-1.0, -0.5], [2.0, 1.8], [0.2, 0.1]])
    settings = bm.NUTS(draws=100, tune=200, chains=2, compile=False, evidence="joint")
    fit = bm.fit(hierarchy, tasks, settings, progress=False)
    new = bm.Tasks.from_lists([[1.0], [0.0], [1.0]], [[1.5], [0.7], [2.5]], names=["two", "one", "two too"])
    with pytest.warns(BayesmetaWarning, match=r"chains of θ have not come together for task.*'two', 'two too'.*modes"):
        adapted = fit.adapt(new, seed=1)
    theta = adapted.theta["theta"]

    assert adapted.method == "laplace, nuts"
    assert "have not come together" in adapted.reason
    assert "NUTS for 'two', 'two too', Laplace's method would not do" in adapted.reason
    assert abs(float(theta[:, 1].mean()) - 0.7) < 0.1
    assert theta.shape == (200, 3)


# --- what is asked --------------------------------------------------------------------------------------------


def test_options_by_name_by_config_and_as_the_method() -> None:
    fit, new = lines(), new_lines(1)
    config = bm.adapt.Gradient(steps=3, members=50)
    first = fit.adapt(new, method="gradient", options={"steps": 3, "members": 50})

    assert len(first.theta_coordinates) == 50
    for other in (fit.adapt(new, method="gradient", options=config), fit.adapt(new, method=config)):
        assert torch.equal(other.theta_coordinates, first.theta_coordinates)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "gradients"}, "unknown method 'gradients'.*did you mean 'gradient'"),
        ({"method": 3}, "method must be a name .* or the config of one, got int"),
        ({"method": "auto", "options": {"steps": 3}}, "method='auto' chooses it"),
        ({"method": "gradient", "options": {"step": 3}}, "unknown option of method 'gradient' 'step'.*'steps'"),
        ({"method": "gradient", "options": bm.adapt.SVI()}, "options must be a Gradient from bayesmeta.adapt or a map"),
        ({"method": bm.adapt.SVI(), "options": {}}, "method is a SVI already"),
    ],
)
def test_what_is_no_method_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        lines().adapt(new_lines(), **arguments)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ("Gradient", {"steps": -1}, "steps must be a whole number of at least 0"),
        ("Gradient", {"optimiser": "adams"}, "unknown optimiser 'adams'.*did you mean 'adam'"),
        ("Gradient", {"learning_rate": 0.1}, "L-BFGS finds the length of its steps"),
        ("Gradient", {"optimiser": "sgd", "learning_rate": 0.0}, "learning_rate must be positive"),
        ("Gradient", {"held_out": 1.0}, r"held_out is a share of the observations in \[0, 1\)"),
        ("Gradient", {"start": "mean"}, "unknown start 'mean'"),
        ("Gradient", {"spread": "wide"}, "unknown spread 'wide'"),
        ("Gradient", {"weights": "none"}, "unknown weights 'none'"),
        ("Laplace", {"proposals": 0}, "proposals must be a whole number of at least 1"),
        ("Laplace", {"correct": "yes"}, "correct must be True, False or None"),
        ("SVI", {"full": 2}, "full must be True, False or None"),
        ("Langevin", {"steps": 1}, "steps must be a whole number of at least 3"),
        ("Langevin", {"target_accept": 1.5}, "target_accept must lie between 0 and 1"),
        ("NUTS", {"components": 0}, "components must be a whole number of at least 1"),
        ("Quadrature", {"nodes": 0}, "nodes must be a whole number of at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(config: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        getattr(bm.adapt, config)(**options)


def test_methods_that_do_not_serve_are_refused() -> None:
    with pytest.raises(NotAvailableError, match=r"method='exact' needs tasks whose log p.* is quadratic in θ"):
        counts().adapt(new_counts(), method="exact")
    with pytest.raises(NotAvailableError, match="method='own' is for families"):
        counts().adapt(new_counts(), method="own")


# --- what is said ---------------------------------------------------------------------------------------------


def test_nothing_known_is_the_population_beside_any_method() -> None:
    fit = counts()
    mixed = bm.Tasks.from_lists(None, [[], [2.0, 1.0]], names=["nothing", "some"], allow_empty=True)
    adapted = fit.adapt(mixed, method="langevin", options={"steps": 30}, draws=800)
    alone = fit.adapt(mixed[[0]])
    mu, tau = fit.phi["mu"], fit.phi["tau"]

    assert adapted.names == ("nothing", "some")
    assert (alone.method, alone.reason) == ("population", "nothing is known of these tasks")
    for draws in (adapted.theta["theta"][:, 0], alone.theta["theta"][:, 0]):
        assert abs(float(draws.mean() - mu.mean())) < 4 * float((tau.square().mean() + mu.var()).sqrt()) / 400**0.5


def test_impossible_observations_are_refused() -> None:
    fit = bm.fit(_binomials(), _hits(), bm.Laplace(draws=200), progress=False)
    seven_of_three = bm.Tasks.from_lists([[3.0]], [[7.0]], names=["odd"])
    for method in ("quadrature", "laplace", "svi"):
        with pytest.raises(DataError, match=r"y of task 'odd' .*Binomial, cannot give"):
            fit.adapt(seven_of_three, method=method)


def test_observations_of_density_zero_are_refused() -> None:
    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi, 1.0))
        value: Tensor = pyro.sample("y", dist.StudentT(9.0, theta + torch.zeros(len(x)), 1.0).to_event(1), obs=y)
        if y is not None:
            pyro.factor("at most five", torch.where((y > 5.0).any(), -torch.inf, 0.0))
        return value

    hierarchy = bm.Hierarchy(lambda: pyro.sample("mu", dist.Normal(0.0, 1.0)), task)
    fit = bm.fit(hierarchy, bm.Tasks.from_lists(None, [[1.0, 2.0], [0.5, 1.0]]), bm.Laplace(draws=50), progress=False)

    with pytest.raises(DataError, match="observations of task 'odd' have density zero under every draw of φ"):
        fit.adapt(bm.Tasks.from_lists(None, [[1.0, 7.0]], names=["odd"]), strangers="ignore")


def _binomials() -> bm.Hierarchy:
    def task(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi, 1.0))
        value: Tensor = pyro.sample("y", dist.Binomial(x, logits=theta + 0 * x).to_event(1), obs=y)
        return value

    return bm.Hierarchy(lambda: pyro.sample("mu", dist.Normal(0.0, 1.0)), task)


def _hits() -> bm.Tasks:
    return bm.Tasks.from_lists([[10.0], [12.0], [8.0]], [[4.0], [7.0], [1.0]])


def test_an_infinite_k_hat_is_said_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def infinite(log_weights: Tensor) -> tuple[Tensor, Tensor]:
        smoothed, k_hat = psis(log_weights)
        return smoothed, torch.full_like(k_hat, torch.inf)

    monkeypatch.setattr("bayesmeta.adapt.problem.psis", infinite)
    with pytest.warns(BayesmetaWarning, match=r"k-hat is above 0.7 for 2 of 2 tasks"):
        lines().adapt(new_lines(2))
    lines().adapt(new_lines(2), draws=20)  # too few draws to tell: nothing is said


def test_too_few_steps_are_said() -> None:
    sharp = bm.Tasks.from_lists([[-2.0, -1.0, 0.0, 1.0, 2.0] * 4], [[8.0, 5.0, 2.0, -1.0, -4.0] * 4], names=["sharp"])
    with pytest.warns(BayesmetaWarning, match="k-hat"):
        few = lines().adapt(sharp, method=bm.adapt.Gradient(steps=1, optimiser="sgd", learning_rate=1e-3))
    assert float(few.k_hat_theta[0]) > 0.7


def test_a_task_that_branches_on_values_is_adapted_one_by_one() -> None:
    def branching(phi: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi, 1.0))
        mean = theta * x if float(x.sum()) > 0 else -theta * x
        value: Tensor = pyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=y)
        return value

    hierarchy = bm.Hierarchy(lambda: pyro.sample("mu", dist.Normal(0.0, 1.0)), branching)
    tasks = bm.Tasks.from_lists([[1.0, 2.0]] * 3, [[1.0, 2.1], [0.4, 1.1], [1.6, 2.9]])
    settings = bm.NUTS(draws=15, tune=30, chains=1, compile=False, max_treedepth=3, evidence="joint")
    with pytest.warns(BayesmetaWarning, match="cannot be vectorised"):
        fit = bm.fit(hierarchy, tasks, settings, progress=False)
    new = bm.Tasks.from_lists([[1.0, 1.5]], [[1.0, 1.4]], names=["new"])
    adapted = fit.adapt(new, method=bm.adapt.Gradient(steps=3))

    assert adapted.theta["theta"].isfinite().all()
