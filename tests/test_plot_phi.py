"""Pictures of φ and of the population: densities against truth, what is drawn where, and what is said."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy import stats

from bayesmeta.errors import DataError, OptionError, UnknownNameError
from bayesmeta.plot import adaptation, phi, population
from bayesmeta.plot.smooth import contour_heights, density, density_of_pairs, window
from bayesmeta.plot.style import BLACK, BLUE, GREY, LIGHT
from tests.plot_records import check, record, resembles
from tests.plotted import COUNTS, levels, lines, networks

HALF_LINE = (0.0, math.inf)


@pytest.fixture(autouse=True)
def figures_are_closed() -> Iterator[None]:
    yield
    plt.close("all")


# --- densities ------------------------------------------------------------------------------------------------


def test_the_density_of_normal_draws_is_the_normal_density() -> None:
    draws = np.random.default_rng(0).normal(2.0, 3.0, 4000)
    at = np.linspace(-7, 11, 200)

    np.testing.assert_allclose(density(draws, at), stats.norm(2, 3).pdf(at), atol=0.01)


def test_a_density_keeps_its_height_at_the_end_of_its_support() -> None:
    draws = np.abs(np.random.default_rng(0).normal(size=4000))
    at = np.linspace(0, 4, 400)
    truth = stats.halfnorm.pdf(at)

    np.testing.assert_allclose(density(draws, at, HALF_LINE), truth, atol=0.1)
    assert abs(density(draws, at)[0] - truth[0]) > 0.3, "without the end it falls to half"
    assert np.trapezoid(density(draws, at, HALF_LINE), at) == pytest.approx(1.0, abs=0.01)
    assert density(draws, np.array([-0.1]), HALF_LINE)[0] == 0


def test_heavy_tails_blur_nothing_and_are_cut_off() -> None:
    draws = stats.cauchy.rvs(size=4000, random_state=np.random.default_rng(0))
    low, high = window(draws)

    assert density(draws, np.zeros(1))[0] == pytest.approx(1 / math.pi, abs=0.05)
    assert high - low < np.ptp(draws)
    assert window(np.abs(draws), HALF_LINE)[0] == 0
    assert np.ptp(window(np.full(10, 3.0))) > 0


def test_the_highest_regions_hold_what_they_promise() -> None:
    x, y = np.random.default_rng(0).multivariate_normal([0, 0], [[1.0, 0.6], [0.6, 1.0]], 4000).T
    at = np.linspace(-4, 4, 80)
    lattice = density_of_pairs(x, y, at, at)
    outer, inner = contour_heights(lattice, (0.5, 0.9))
    own = lattice[np.searchsorted(at, y.clip(-4, 4)).clip(max=79), np.searchsorted(at, x.clip(-4, 4)).clip(max=79)]

    assert np.mean(own >= inner) == pytest.approx(0.5, abs=0.05)
    assert np.mean(own >= outer) == pytest.approx(0.9, abs=0.03)
    assert lattice.sum() * (at[1] - at[0]) ** 2 == pytest.approx(1.0, abs=0.01)


# --- φ --------------------------------------------------------------------------------------------------------


def test_each_number_of_phi_has_its_interval_and_says_how_much_of_its_prior_is_outside() -> None:
    posterior = lines(85)
    panels = phi(posterior, level=0.5)
    draws = posterior.phi["mu"][:, 0].numpy()
    found = check(panels[0, 0], xlabel=False)
    (bar,) = found.of("line", BLUE, "median and 50% interval")
    low, high = found.xlim
    outside = 1 - stats.norm(0, 3).cdf(high) + stats.norm(0, 3).cdf(low)

    assert panels.shape == (5, 5)
    np.testing.assert_allclose(bar.x, np.quantile(draws, [0.25, 0.75]))
    (text,) = found.of("text")
    assert float(text.label.split("%")[0]) / 100 == pytest.approx(outside, abs=0.03)
    assert low <= draws.min() + 0.2 * np.ptp(draws)
    assert [panels[4, k].get_xlabel() for k in range(5)] == ["mu[0]", "mu[1]", "tau[0]", "tau[1]", "sigma"]


def test_pairs_are_the_draws_and_a_scale_ends_at_zero() -> None:
    posterior = lines(85)
    panels = phi(posterior, sites=["mu", "sigma"])
    pair = record(panels[2, 0])
    both = np.stack([posterior.phi["mu"][:, 0].numpy(), posterior.phi["sigma"].numpy()], 1)

    np.testing.assert_allclose(pair.data("points", BLUE), both)
    prior = pair.data("points", LIGHT)
    assert ((prior[:, 0] >= pair.xlim[0]) & (prior[:, 0] <= pair.xlim[1])).all()
    assert check(panels[2, 2], ylabel=False).xlim[0] >= 0


def test_the_prior_is_left_out_or_brought_along() -> None:
    posterior = lines(85)
    without, own = phi(posterior, sites="tau", prior=False), phi(posterior, sites="tau", prior=posterior.prior(50))

    assert "prior" not in record(without[0, 1]).legend
    assert "prior" in record(own[0, 1]).legend
    assert len(record(own[1, 0]).data("points", LIGHT)) <= 50


def test_one_number_stands_alone_and_many_side_by_side() -> None:
    alone = phi(lines(85), sites="sigma")
    many = phi(networks())
    last = [panel for panel in many.reshape(-1) if panel.axison]

    assert check(alone[0, 0]).xlabel == "sigma"
    assert len(last) == 24
    assert "24 of 41 numbers, evenly spread" in record(many[0, 0]).title
    assert check(last[-1], ylabel=False).xlabel == "w[39]"
    assert len(record(last[-1]).of("bars", BLUE, "posterior: each draw")[0].x) == 2 * 4, "four members have no density"
    assert phi(lines(85), pairs=False).shape == (2, 4)


def test_a_point_is_a_line() -> None:
    from dataclasses import replace

    posterior = lines(3)
    draws = replace(posterior.draws, u=torch.zeros_like(posterior.draws.u))
    point = type(posterior)(posterior.hierarchy, posterior.tasks, posterior.collapsed, draws, posterior.info)
    found = check(phi(point, sites="sigma")[0, 0])

    assert found.of("bars", BLUE, "posterior: a point")[0].x[0] == pytest.approx(1.0)
    check(population(point, elements=0)[0, 0])


# --- the population -------------------------------------------------------------------------------------------


def test_the_curve_is_the_distribution_of_a_new_task_at_its_context() -> None:
    posterior = levels(85)
    dose = float(posterior.tasks.context["dose"].mean())

    def middle(**options: Any) -> float:
        (curve,) = check(population(posterior, **options)[0, 0]).of("line", BLUE, "a new task")
        return float((curve.x * curve.y).sum() / curve.y.sum())

    assert middle() == pytest.approx(float(posterior.phi["mu"].mean()) + dose, abs=0.3)
    assert middle(context={"dose": dose + 5.0}) == pytest.approx(middle() + 5.0, abs=0.1)


def test_the_tasks_of_the_fit_stand_below_it_with_their_intervals() -> None:
    posterior = levels(85)
    found = check(population(posterior, level=0.5)[0, 0])
    theta = posterior.theta["theta"].numpy()
    order = np.argsort(theta.mean(0))
    dots, bars = found.data("points", BLACK), found.data("bars", GREY)

    np.testing.assert_allclose(dots[:, 0], theta.mean(0)[order])
    np.testing.assert_allclose(bars[0::2, 0], np.quantile(theta, 0.25, axis=0)[order])
    np.testing.assert_allclose(bars[1::2, 0], np.quantile(theta, 0.75, axis=0)[order])
    assert (dots[:, 1] < 0).all()
    assert found.xlim[0] < bars[:, 0].min()
    assert found.xlim[1] > bars[:, 0].max()
    assert found.legend == ("a new task, at mean dose", "task: mean and 50% interval")


def test_pairs_of_theta_have_regions_and_the_tasks_on_them() -> None:
    posterior = lines(85)
    panels = population(posterior)
    pair = check(panels[1, 0])
    means = posterior.theta["theta"].mean(0).numpy()

    assert pair.of("contour", BLUE)
    np.testing.assert_allclose(np.sort(pair.data("points", BLACK), 0), np.sort(means, 0))
    assert not pair.of("patch", GREY), "85 ellipses are too many"
    assert len(record(population(lines(3))[1, 0]).of("patch", GREY)) == 3
    assert "a new task: 50% and 90% regions" in record(panels[0, 1]).legend


def test_of_very_many_tasks_an_even_spread_stands_on_the_population() -> None:
    found = check(population(levels(10_000))[0, 0])

    assert len(found.data("points", BLACK)) == 100
    assert "task (100 of 10,000 tasks, evenly spread): mean and 90% interval" in found.legend


@pytest.mark.parametrize("count", COUNTS)
def test_every_number_of_tasks_can_be_drawn(count: int) -> None:
    posterior = levels(count)
    new = adaptation(posterior, posterior.tasks, name="0", shots=[0, 1])

    assert len(check(population(posterior)[0, 0]).data("points", BLACK)) == min(count, 100)
    check(phi(posterior, sites="tau")[0, 0])
    check(new[0, 0])
    check(new[0, 1], ylabel=False)


# --- axes, images, errors -------------------------------------------------------------------------------------


def test_they_draw_in_axes_given() -> None:
    figure, panels = plt.subplots(2, 2)
    _, other = plt.subplots()
    drawn = population(lines(3), ax=panels)

    assert drawn[1, 0] is panels[1, 0]
    assert plt.gca() is other, "the current axes stay what they were"
    assert len(plt.get_fignums()) == 2
    assert phi(lines(3), sites="sigma", ax=other)[0, 0] is other
    with pytest.raises(OptionError, match="got 1 axes for 4 panels"):
        population(lines(3), ax=other)
    assert figure is not other.figure


def test_the_pictures_look_as_they_did() -> None:
    assert resembles(phi(lines(85), sites=["mu"])[0, 0].figure, "phi")
    assert resembles(population(levels(85))[0, 0].figure, "population")
    assert resembles(population(lines(3))[0, 0].figure, "population_pairs")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"site": "tehta"}, UnknownNameError, "unknown site 'tehta'; valid: 'theta'; did you mean"),
        ({"elements": 1}, OptionError, "elements must lie between 0 and 0, got 1"),
        ({"elements": []}, OptionError, "elements must name some, each once"),
        ({"level": 0.0}, OptionError, r"level must lie between 0 and 1, got 0\.0"),
        ({"context": {"does": 1.0}}, UnknownNameError, "unknown context 'does'; valid: 'dose'"),
        ({"context": {"dose": [1.0, 2.0]}}, DataError, r"'dose' has shape \(2,\), in the fit \(\)"),
    ],
)
def test_a_population_that_cannot_be_drawn_is_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        population(levels(85), **options)
    assert plt.get_fignums() == []


def test_phi_that_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown site 'theta'; valid: 'mu', 'tau', 'sigma'"):
        phi(lines(85), sites="theta")
    with pytest.raises(OptionError, match="sites: got none"):
        phi(lines(85), sites=[])
    assert plt.get_fignums() == []
