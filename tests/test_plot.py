"""The picture of shrinkage: what is drawn where, its words, its axes, and what is refused."""

from __future__ import annotations

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
from torch import Tensor

import bayesmeta as bm
from bayesmeta.errors import OptionError, UnknownNameError
from bayesmeta.plot import shrinkage
from bayesmeta.plot.style import BLUE, GREY
from tests.fitted import tiny
from tests.scenarios import correlated, log_normal, normal_normal
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


def test_after_a_joint_fit_the_posterior_stands_by_itself() -> None:
    ax = shrinkage(tiny("normal_normal", "joint"))

    assert words(ax) == ["task in the population: median and 90% interval"]
    assert len(scattered(ax, BLUE)) == 8
    assert len(scattered(ax, GREY)) == 0


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
