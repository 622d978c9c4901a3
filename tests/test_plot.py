"""The picture of shrinkage: what is drawn where, its words, its axes, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import same_color
from scipy import stats
from torch import Tensor

import bayesmeta as bm
from bayesmeta.errors import BayesmetaWarning, OptionError, UnknownNameError
from bayesmeta.evidence import Joint
from bayesmeta.plot import shrinkage
from bayesmeta.plot.style import BLACK, BLUE, GREY
from tests.fitted import tiny
from tests.plot_records import check, resembles
from tests.scenarios import CURVED, SCENARIOS, correlated, log_normal, normal_normal
from tests.test_posterior import plates
from tests.truth import Array


@pytest.fixture(autouse=True)
def figures_are_closed() -> Iterator[None]:
    yield
    plt.close("all")


@cache
def fitted(count: int, stray: float | None = None, equal: bool = True) -> bm.Posterior:
    """So many small tasks, and one more of a single stray observation."""

    def hyperprior() -> Tensor:
        mu: Tensor = pyro.sample("mu", dist.Normal(0.0, 2.0))
        return mu

    def task(mu: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(mu, 0.5))
        return pyro.sample("y", dist.Normal(theta, 1.0).expand([len(x)]).to_event(1), obs=y)

    rng = np.random.default_rng(0)
    ys = [list(rng.normal(size=2 if equal else 1 + k % 3)) for k in range(count)]
    ys += [] if stray is None else [[stray]]
    return bm.fit(bm.Hierarchy(hyperprior, task), bm.Tasks.from_lists(None, ys), bm.Laplace(draws=400), progress=False)


def of_colour(shades: Any, colour: str) -> bool:
    """Whether the first of some colours is that one, however transparent."""
    rows = np.atleast_2d(np.asarray(shades, dtype=np.float64))
    return len(rows) > 0 and same_color(tuple(rows[0, :3].tolist()), colour)


def scattered(ax: Axes, colour: str) -> Array:
    """Where the points with faces or edges of that colour are, (n, 2)."""
    markers = [item for item in ax.collections if isinstance(item, PathCollection)]
    kept = [m for m in markers if of_colour(m.get_edgecolor(), colour) or of_colour(m.get_facecolor(), colour)]
    return np.concatenate([np.zeros((0, 2)), *(np.asarray(m.get_offsets()) for m in kept)])


def bars(ax: Axes, colour: str) -> Array:
    """Both ends of the vertical lines of that colour, (n, 2, 2)."""
    for item in ax.collections:
        if isinstance(item, LineCollection) and of_colour(item.get_color(), colour):
            return np.array(list(item.get_segments()))
    return np.zeros((0, 2, 2))


def words(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def heights(ax: Axes) -> dict[str, float]:
    """Heights of level lines by their label."""
    ends = {str(line.get_label()): np.atleast_1d(np.asarray(line.get_ydata())) for line in ax.lines}
    return {label: float(y[0]) for label, y in ends.items() if len(y)}


# --- what is drawn ------------------------------------------------------------------------------------------


def test_dots_and_bars_are_the_posterior_and_rings_are_each_task_alone() -> None:
    posterior = tiny("normal_normal")
    ax = shrinkage(posterior, level=0.5)
    theta, y = posterior.theta["theta"].numpy(), normal_normal().tasks.y.numpy()
    middles, ends, rings = scattered(ax, BLUE), bars(ax, BLUE), scattered(ax, GREY)

    np.testing.assert_allclose(middles[:, 1], np.quantile(theta, 0.5, axis=0))
    np.testing.assert_allclose(ends[:, :, 1], np.quantile(theta, [0.25, 0.75], axis=0).T)
    np.testing.assert_allclose(rings, np.stack([np.arange(8.0), y], 1))
    np.testing.assert_allclose(bars(ax, GREY)[:, :, 1], np.stack([y, middles[:, 1]], 1))


def test_the_lines_are_complete_pooling_and_the_mean_of_the_population() -> None:
    posterior = tiny("normal_normal")
    tasks = posterior.tasks
    weight = tasks.context["sigma"].numpy() ** -2
    drawn = heights(shrinkage(posterior))

    together = (weight * tasks.y.numpy()).sum() / weight.sum()
    assert drawn["all as one (complete pooling)"] == pytest.approx(together)
    assert drawn["mean of the population"] == pytest.approx(float(posterior.phi["mu"].mean()))


def test_tasks_that_are_linear_in_their_logarithms_have_pooled_estimates_too() -> None:
    scenario = log_normal()
    posterior = bm.fit(scenario.hierarchy, scenario.tasks, bm.Laplace(draws=400), progress=False)
    rings = scattered(shrinkage(posterior), GREY)
    order = np.argsort(scenario.tasks.sizes.numpy(), kind="stable")
    alone = [float((task.y.log() - 0.3 * task.x).mean().exp()) for task in scenario.tasks]

    np.testing.assert_allclose(rings[:, 1], np.array(alone)[order], rtol=1e-6)


@cache
def curved(name: str) -> bm.Posterior:
    scenario = CURVED[name]()
    return bm.fit(scenario.hierarchy, scenario.tasks, bm.Laplace(draws=200), progress=False)


@pytest.mark.parametrize("name", ["beta_binomial", "poisson_gamma"])
def test_where_theta_is_a_rate_a_task_alone_is_its_share_of_hits_or_counts(name: str) -> None:
    posterior = curved(name)
    ax = shrinkage(posterior)
    drawn = check(ax)
    order = np.argsort(posterior.tasks.sizes.numpy(), kind="stable")
    hits = np.array([float(task.y.sum()) for task in posterior.tasks])
    trials = np.array([float(task.x.sum()) for task in posterior.tasks])

    assert 0.0 in hits, "whose logarithm falls without end"
    np.testing.assert_allclose(scattered(ax, GREY)[:, 1], (hits / trials)[order], atol=1e-6)
    assert heights(ax)["all as one (complete pooling)"] == pytest.approx(hits.sum() / trials.sum(), abs=1e-6)
    a, b = (float(posterior.phi[site].log().mean().exp()) for site in ("a", "b"))
    median = stats.beta(a, b).median() if name == "beta_binomial" else stats.gamma(a, scale=1 / b).median()
    assert heights(ax)["median of the population"] == pytest.approx(median, abs=0.05)
    assert "task alone (no pooling)" in drawn.legend


@pytest.mark.parametrize("name", ["correlated", "log_normal"])
def test_a_search_finds_what_the_formulas_say(name: str) -> None:
    """After a joint fit, here with the draws of an exact one: rings, lines and dots are where these are."""
    scenario = SCENARIOS[name]()
    exact = bm.fit(scenario.hierarchy, scenario.tasks, bm.Laplace(draws=100), progress=False)
    evidence = Joint(exact.collapsed.program, exact.tasks, 1.0)
    u = torch.cat([exact.phi_coordinates, exact.theta_coordinates.flatten(1)], 1)
    joint = bm.Posterior(exact.hierarchy, exact.tasks, evidence, bm.Draws(u.unsqueeze(0)), exact.info)
    left, right = shrinkage(exact), shrinkage(joint)

    for colour in (GREY, BLUE, BLACK):
        np.testing.assert_allclose(scattered(left, colour), scattered(right, colour), atol=1e-6)
        np.testing.assert_allclose(check(left).data("line", colour), check(right).data("line", colour), atol=1e-6)
    assert heights(left) == pytest.approx(heights(right), abs=1e-6)
    assert words(left) == words(right)
    assert len(scattered(left, GREY)) == len(exact.tasks) - (name == "correlated"), "one leaves its level open"


def test_a_task_that_says_never_is_beyond_the_picture_and_one_that_says_nothing_has_no_ring() -> None:
    """Log odds: none of 4 is minus infinity; and a task whose inputs are zero leaves its θ open."""

    def hyperprior() -> Tensor:
        mu: Tensor = pyro.sample("mu", dist.Normal(0.0, 1.0))
        return mu

    def task(mu: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(mu, 1.0))
        return pyro.sample("y", dist.Bernoulli(logits=theta * x).to_event(1), obs=y)

    ys = [[0.0, 1.0, 1.0, 1.0], [0.0] * 4, [1.0, 0.0]]
    tasks = bm.Tasks.from_lists([np.ones(4), np.ones(4), np.zeros(2)], ys, names=["some", "none", "blank"])
    ax = shrinkage(bm.fit(bm.Hierarchy(hyperprior, task), tasks, bm.Laplace(draws=200), progress=False))
    rings = scattered(ax, GREY)
    check(ax)

    assert ax.get_xticklabels()[0].get_text() == "blank (2)"
    assert sorted(rings[:, 0]) == [1.0, 2.0]
    assert rings[rings[:, 0] == 1, 1] == pytest.approx(math.log(3), abs=1e-6)
    assert "task alone, beyond the picture" in words(ax)
    assert rings[rings[:, 0] == 2, 1] < min(bars(ax, BLUE)[:, :, 1].min(), 0)


def test_elements_that_observations_determine_have_rings_though_others_are_open() -> None:
    """A level and what group 1 adds: of a task with group 0 alone, the level is known and the other is not."""

    def hyperprior() -> Tensor:
        mu: Tensor = pyro.sample("mu", dist.Normal(0.0, 1.0))
        return mu

    def task(mu: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(mu, 1.0).expand([2]).to_event(1))
        return pyro.sample("y", dist.Poisson((theta[0] + theta[1] * x).exp()).to_event(1), obs=y)

    tasks = bm.Tasks.from_lists([[0.0, 0.0], [0.0, 1.0, 1.0]], [[2.0, 4.0], [1.0, 5.0, 3.0]])
    posterior = bm.fit(bm.Hierarchy(hyperprior, task), tasks, bm.Laplace(draws=100), progress=False)
    level, more = (scattered(shrinkage(posterior, element=k), GREY) for k in range(2))

    np.testing.assert_allclose(level, [[0.0, math.log(3)], [1.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(more, [[1.0, math.log(4)]], atol=1e-6)


def test_no_task_is_searched_for_where_theta_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    from bayesmeta.plot import pooling

    monkeypatch.setattr(pooling, "MOST_COORDINATES", 0)
    ax = shrinkage(curved("poisson_gamma"))
    check(ax)

    assert words(ax) == ["median of the population", "task in the population: median and 90% interval"]
    assert len(scattered(ax, GREY)) == 0


def test_tasks_that_are_run_one_by_one_have_one_median_of_the_population() -> None:
    """Their samplers share no random numbers: medians task by task would differ by chance alone."""

    def hyperprior() -> Tensor:
        mu: Tensor = pyro.sample("mu", dist.Normal(0.0, 1.0))
        return mu

    def task(mu: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Gamma(2.0, 2.0 if float(mu.detach()) > 0 else 3.0))
        return pyro.sample("y", dist.Exponential(theta).expand([len(x)]).to_event(1), obs=y)

    tasks = bm.Tasks.from_lists(None, [[0.5, 1.0], [2.0, 4.0, 3.0]])
    inference = bm.NUTS(draws=10, tune=10, chains=1, compile=False, max_treedepth=2, evidence="joint")
    with pytest.warns(BayesmetaWarning, match="the hierarchy cannot be vectorised"):
        posterior = bm.fit(bm.Hierarchy(hyperprior, task), tasks, inference, progress=False)
    ax = shrinkage(posterior)
    drawn = heights(ax)
    rate = 2.0 if float(posterior.phi["mu"].mean()) > 0 else 3.0

    assert not posterior.collapsed.program.structure.vectorised
    assert drawn["median of the population"] == pytest.approx(stats.gamma(2, scale=1 / rate).median(), rel=0.35)
    np.testing.assert_allclose(scattered(ax, GREY)[:, 1], [2 / 1.5, 3 / 9.0], atol=1e-6)
    assert drawn["all as one (complete pooling)"] == pytest.approx(5 / 10.5)


def test_of_an_ensemble_one_member_is_taken_for_the_lines() -> None:
    posterior = tiny("normal_normal")
    draws = bm.Draws(posterior.draws.u, members=60)
    members = bm.Posterior(posterior.hierarchy, posterior.tasks, posterior.collapsed, draws, posterior.info)

    drawn = heights(shrinkage(members))
    assert drawn["mean of the population"] == pytest.approx(float(posterior.phi["mu"][0]))


def test_an_element_of_a_site_is_drawn_and_named() -> None:
    posterior = tiny("correlated")
    ax = shrinkage(posterior, element=1)
    order = np.argsort(posterior.tasks.sizes.numpy(), kind="stable")
    middle = np.quantile(posterior.theta["theta"][..., 1].numpy(), 0.5, axis=0)

    assert ax.get_ylabel() == "theta[1]"
    np.testing.assert_allclose(scattered(ax, BLUE)[:, 1], middle[order])
    assert "mean of the population, given its context" in words(ax)
    assert [label.get_text() for label in ax.get_xticklabels()][:2] == ["B (1)", "D (2)"]
    assert len(correlated().tasks) == len(scattered(ax, BLUE))


def test_a_context_gives_the_horizontal_axis() -> None:
    posterior = tiny("normal_normal")
    ax = shrinkage(posterior, along="sigma")

    assert ax.get_xlabel() == "sigma"
    np.testing.assert_allclose(scattered(ax, BLUE)[:, 0], np.sort(posterior.tasks.context["sigma"].numpy()))


# --- words and axes -----------------------------------------------------------------------------------------


def test_labels_are_those_of_the_table_or_ones_own() -> None:
    posterior = plates()
    ax = shrinkage(posterior, site="weight", label="effect per year")

    assert ax.get_ylabel() == "effect per year"
    assert "town in the population: median and 90% interval" in words(ax)
    assert "town alone (no pooling)" in words(ax)
    assert ax.get_xlabel().startswith("town (observations: in brackets")


def test_it_draws_in_the_axes_given_and_in_no_other() -> None:
    _, (left, right) = plt.subplots(1, 2)
    returned = shrinkage(tiny("normal_normal"), ax=right)

    assert returned is right
    assert not left.collections
    assert len(plt.get_fignums()) == 1
    assert shrinkage(tiny("normal_normal")).figure is not right.figure


@pytest.mark.parametrize("count", [1, 3, 85, 10_000])
def test_any_number_of_tasks(count: int) -> None:
    posterior = fitted(count)
    ax = shrinkage(posterior)
    drawn = check(ax)
    shown = min(count, 100)

    assert len(scattered(ax, BLUE)) == len(scattered(ax, GREY)) == shown
    assert ("100 of 10,000 tasks, evenly spread" in drawn.xlabel) == (count > 100)
    together = float(posterior.tasks.y.mean())
    assert heights(ax)["all as one (complete pooling)"] == pytest.approx(together)
    assert ("theta" in vars(posterior)) == (count <= 100), "no more θ are drawn than are shown"


def test_it_looks_as_it_did() -> None:
    figure = shrinkage(fitted(20, stray=8.0)).get_figure(root=True)

    assert figure is not None
    assert resembles(figure, "shrinkage")


def test_one_task() -> None:
    ax = shrinkage(fitted(1))

    assert scattered(ax, BLUE).shape == (1, 2)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0"]
    assert ax.get_xlabel() == "task (observations: 2 each)"


def test_of_very_many_tasks_an_even_spread_is_drawn() -> None:
    posterior = fitted(130, equal=False)
    ax = shrinkage(posterior)

    assert len(scattered(ax, BLUE)) == 100
    assert ax.get_xlabel() == "observations per task, fewest first (100 of 130 tasks, evenly spread)"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "3", "3"]


def test_a_task_that_is_far_off_alone_does_not_squeeze_the_others() -> None:
    ax = shrinkage(fitted(20, stray=300.0))
    bottom, top = ax.get_ylim()

    assert "task alone, beyond the picture" in words(ax)
    assert top < 300
    assert ((scattered(ax, GREY)[:, 1] > bottom) & (scattered(ax, GREY)[:, 1] < top)).all()
    assert "task alone, beyond the picture" not in words(shrinkage(fitted(1)))


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"site": "tehta"}, UnknownNameError, "unknown site 'tehta'; valid: 'theta'; did you mean 'theta'"),
        ({"element": 2}, OptionError, "element must lie between 0 and 1, got 2"),
        ({"level": 1.0}, OptionError, r"level must lie between 0 and 1, got 1\.0"),
        ({"along": "groups"}, UnknownNameError, "unknown context 'groups'; valid: .*'group'"),
        ({"along": "group"}, OptionError, r"context 'group' has shape \(2,\) per task; wanted one number"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        shrinkage(tiny("correlated"), **options)
    assert plt.get_fignums() == [], "no empty figure is left behind"


def test_draws_are_not_changed_by_looking_at_them() -> None:
    posterior = tiny("normal_normal")
    before = posterior.theta["theta"].clone()
    shrinkage(posterior)

    assert torch.equal(posterior.theta["theta"], before)
