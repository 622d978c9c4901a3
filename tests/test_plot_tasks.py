"""Pictures of predictions: bands and intervals are those of the predictive distribution, data are where they are."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

import bayesmeta as bm
from bayesmeta.errors import DataError, NotAvailableError, OptionError, UnknownNameError
from bayesmeta.plot import adaptation, adaptation_path, phi, population, tasks
from bayesmeta.plot.style import BLACK, BLUE, LIGHT, RED
from tests.fitted import tiny
from tests.plot_records import Record, check, record, resembles
from tests.plotted import COUNTS, counts, levels, lines, outcomes
from tests.truth import Array


@pytest.fixture(autouse=True)
def figures_are_closed() -> Iterator[None]:
    yield
    plt.close("all")


def band(found: Record) -> tuple[Array, Array, Array]:
    """Inputs, lower and upper ends of the band of a panel."""
    (area,) = found.of("band", BLUE)
    x = np.unique(area.x)
    ends = [area.y[area.x == value] for value in x]
    return x, np.array([end.min() for end in ends]), np.array([end.max() for end in ends])


def shown(panels: Any) -> list[Axes]:
    return [panel for panel in panels.reshape(-1) if panel.axison]


# --- tasks ----------------------------------------------------------------------------------------------------


def test_a_band_is_the_interval_of_the_prediction_and_points_outside_are_red() -> None:
    posterior = lines(3)
    panels = tasks(posterior, level=0.5)
    found = check(panels[0, 2], ylabel=False)
    x, lower, upper = band(found)
    task = posterior.tasks["2"]
    adapted = posterior.adapt(posterior.tasks[["2"]], strangers="ignore")
    low, high = adapted.predict(torch.from_numpy(x)).interval(0.5)

    np.testing.assert_allclose(lower, low[0].numpy(), atol=0.3)
    np.testing.assert_allclose(upper, high[0].numpy(), atol=0.3)
    inside, outside = found.data("points", BLACK), found.data("points", RED)
    assert sorted([*inside[:, 1], *outside[:, 1]]) == sorted(task.y.tolist())
    for points, are in ((inside, True), (outside, False)):
        ends = np.interp(points[:, 0], x, lower), np.interp(points[:, 0], x, upper)
        assert (((points[:, 1] >= ends[0]) & (points[:, 1] <= ends[1])) == are).all()
    assert x[0] == float(posterior.tasks.x.min())
    assert x[-1] == float(posterior.tasks.x.max())


def test_without_inputs_observations_stand_side_by_side_in_their_intervals() -> None:
    posterior = levels(3)
    found = check(tasks(posterior, names="2")[0, 0])
    y = posterior.tasks["2"].y.numpy()

    points = np.concatenate([found.data("points", BLACK), found.data("points", RED)])
    np.testing.assert_allclose(points[np.argsort(points[:, 0]), 1], np.sort(y))
    assert len(found.data("bars", BLUE)) == 2 * len(y)
    assert found.xlabel == "observations"


def test_an_input_of_few_values_has_an_interval_at_each() -> None:
    few = bm.Tasks.from_lists([[0.0, 1.0, 1.0, 1.0], [1.0]], [[1.0, 0.0, 0.1, 0.2], [0.5]], names=["a", "b"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bm.BayesmetaWarning)
        adapted = lines(85).adapt(few, strangers="ignore")
    panels = tasks(adapted)
    found = check(panels[0, 1], ylabel=False)
    places = np.sort(np.concatenate([found.data("points", BLACK), found.data("points", RED)])[:, 0])

    assert [label.get_text() for label in panels[0, 1].get_xticklabels()] == ["0", "1"]
    assert np.unique(found.data("bars", BLUE)[:, 0]).tolist() == [0.0, 1.0]
    assert places[0] == 0.0
    assert places[1] < places[2] == 1.0 < places[3], "side by side, about their value"


def test_a_new_task_is_drawn_at_its_own_inputs_however_few_those_of_the_fit_are() -> None:
    rng = np.random.default_rng(0)
    x = np.tile([0.0, 1.0, 2.0], 4)
    known = bm.Tasks.from_lists([x] * 4, [x + rng.normal(size=12) for _ in range(4)])
    new = bm.Tasks.from_lists([[0.0, 1.0, 5.0, 9.0]], [[0.1, 1.0, 5.2, 8.7]], names=["new"])
    posterior = bm.fit(bm.families.linear(known), known, bm.Laplace(draws=50), progress=False)

    (panel, *_) = shown(adaptation(posterior, new, shots=[2]))
    low, high = panel.get_xlim()

    assert low <= 0.0
    assert high >= 9.0


def test_a_binary_outcome_has_the_interval_of_its_probability() -> None:
    posterior = outcomes()
    found = check(tasks(posterior, names=["1"])[0, 0])
    x, lower, upper = band(found)
    predicted = posterior.adapt(posterior.tasks[["1"]], strangers="ignore").predict(torch.from_numpy(x))
    low, high = predicted.mean_interval(0.9)

    np.testing.assert_allclose(lower, low[0].numpy(), atol=0.1)
    np.testing.assert_allclose(upper, high[0].numpy(), atol=0.1)
    assert (lower > 0).all()
    assert (upper < 1).all()
    assert "probability: mean and 90% interval" in found.legend
    assert not found.of("points", RED)
    assert set(predicted.interval(0.9)[1][0].tolist()) <= {0.0, 1.0}, "that of the outcome would say nothing"


def test_counts_have_the_interval_of_the_next_count() -> None:
    found = check(tasks(counts(), names=["0"])[0, 0])
    _, lower, upper = band(found)

    assert (np.concatenate([lower, upper]) % 1 == 0).all()
    assert "prediction: mean and 90% interval" in found.legend


def test_several_columns_stand_side_by_side_or_over_one_of_them() -> None:
    posterior = two_columns()
    side, over = (check(tasks(posterior, names="a", column=column)[0, 0]) for column in (None, "dose"))
    task = posterior.tasks["a"]

    assert (side.xlabel, over.xlabel) == ("observations", "dose")
    drawn = np.concatenate([over.data("points", BLACK), over.data("points", RED)])
    np.testing.assert_allclose(np.sort(drawn[:, 0]), np.sort(task.x[:, 1].numpy()))
    assert over.ylabel == "response"
    assert check(tasks(posterior, names="a", column=0)[0, 0]).xlabel == "age"


@cache
def two_columns() -> bm.Posterior:
    import pandas as pd

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.normal(size=30), "dose": rng.uniform(size=30), "site": list("abc") * 10})
    frame["response"] = frame["age"] + frame["dose"] + rng.normal(size=30)
    made = bm.Tasks.from_frame(frame, task="site", x=["age", "dose"], y="response")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bm.BayesmetaWarning)
        return bm.fit(bm.families.linear(made), made, bm.Laplace(draws=60), progress=False)


@pytest.mark.parametrize("count", COUNTS)
def test_every_number_of_tasks_can_be_drawn(count: int) -> None:
    panels = shown(tasks(lines(count)))

    assert len(panels) == min(count, 12)
    for panel in panels:
        check(panel, xlabel=panel in panels[-4:], ylabel=panel in panels[::4])
    figure = panels[0].get_figure(root=True)
    said = "" if figure is None or figure._suptitle is None else figure._suptitle.get_text()  # type: ignore[attr-defined]
    assert said == (f"12 of {count:,} tasks, evenly spread" if count > 12 else "")


def test_a_joint_fit_and_an_updated_one_are_drawn_as_any_other() -> None:
    joint = tiny("normal_normal", "joint")
    new = bm.Tasks.from_lists(None, [[0.3, 0.6]], names=["new"], context={"dose": [0.5]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bm.BayesmetaWarning)
        updated = levels(85).update(new, move=False)

    assert len(shown(tasks(joint))) == 8
    for posterior in (joint, updated):
        check(shown(tasks(posterior, names=posterior.tasks.names[-1]))[0])
        check(population(posterior)[0, 0])
        check(phi(posterior, pairs=False)[0, 0])
    assert "new" in updated.tasks


# --- as observations come in ----------------------------------------------------------------------------------


def test_the_first_panel_is_the_population_and_the_last_knows_everything() -> None:
    posterior = lines(85)
    new = bm.Tasks.from_lists([[1.0, 4.0, 6.0, 9.0]], [[0.5, -2.0, -5.0, -8.0]], names=["new"])
    panels = adaptation(posterior, new, shots=[0, 2, 4])
    first, middle, last = (check(panel, ylabel=False) for panel in panels[0])
    x, lower, upper = band(first)
    nothing = bm.Tasks.without_observations(["new"], like=posterior.tasks)
    low, high = posterior.adapt(nothing).predict(torch.from_numpy(x)).interval()

    np.testing.assert_allclose(lower, low[0].numpy(), atol=1.0)
    np.testing.assert_allclose(upper, high[0].numpy(), atol=1.0)
    widths = [float((ends[2] - ends[1]).mean()) for ends in map(band, (first, middle, last))]
    assert widths == sorted(widths, reverse=True)
    assert "2 observations" in middle.title
    for found in (middle, last):
        np.testing.assert_allclose(found.data("line", label="interval of the first panel")[:, 1], lower)
    assert not [item for item in last.of("points") if "not yet" in item.label]
    assert sum(len(item.data) for item in middle.of("points") if item.label.startswith("observed")) == 2


def test_a_task_of_the_fit_is_adapted_to_anew_and_this_is_said() -> None:
    posterior = levels(85)
    panels = adaptation(posterior, posterior.tasks, name="3")
    figure = panels[0, 0].figure

    assert figure._suptitle.get_text() == "3, which the fit has seen"
    assert [panel.get_title() for panel in shown(panels)] == [
        "the population alone",
        "1 observation",
        "2 observations",
        "4 observations",
    ]
    check(panels[0, 0])


def test_the_path_is_drawn_step_by_step() -> None:
    adapted = fine_tuned()
    plane, steps = check(adaptation_path(adapted)), check(adaptation_path(adapted, elements=1))
    path = adapted.path[:, :, 0].numpy()

    assert len(plane.of("line", LIGHT)) == 20
    np.testing.assert_allclose(plane.data("points", label="start"), path[0])
    np.testing.assert_allclose(plane.data("points", label="end"), path[-1])
    np.testing.assert_allclose(steps.of("line", BLUE, "median")[0].y, np.median(path[..., 1], 1))
    assert (plane.xlabel, plane.ylabel, steps.xlabel, steps.ylabel) == ("theta[0]", "theta[1]", "steps", "theta[1]")
    assert plane.title == "new: 4 steps"


@cache
def fine_tuned() -> bm.Adapted:
    new = bm.Tasks.from_lists([[1.0, 4.0, 6.0]], [[0.5, -2.0, -5.0]], names=["new"])
    options = bm.adapt.Gradient(steps=4, members=20, path=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bm.BayesmetaWarning)
        return lines(85).adapt(new, method=options, strangers="ignore")


# --- images and errors ----------------------------------------------------------------------------------------


def test_the_pictures_look_as_they_did() -> None:
    assert resembles(tasks(lines(3))[0, 0].figure, "tasks")
    assert resembles(adaptation(lines(85), lines(85).tasks, name="4")[0, 0].figure, "adaptation")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"names": "Z"}, UnknownNameError, "unknown task 'Z'; valid: '0', '1', '2'"),
        ({"names": []}, OptionError, "names: got no task at all"),
        ({"column": "age"}, UnknownNameError, "unknown input column 'age'"),
        ({"column": 1}, OptionError, "column must be a name or a number below 1, got 1"),
        ({"output": 1}, OptionError, "output must lie between 0 and 0, got 1"),
        ({"level": 2.0}, OptionError, r"level must lie between 0 and 1, got 2\.0"),
        ({"ax": []}, OptionError, "got 0 axes for 3 panels"),
    ],
)
def test_tasks_that_cannot_be_drawn_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tasks(lines(3), **options)
    assert plt.get_fignums() == []


def test_adaptation_that_cannot_be_drawn_is_refused() -> None:
    posterior = lines(3)
    nothing = bm.Tasks.without_observations(["new"], like=posterior.tasks)

    with pytest.raises(OptionError, match=r"shots must be numbers from 0 to 2, .*, got \[5\]"):
        adaptation(posterior, posterior.tasks, shots=[5])
    with pytest.raises(DataError, match="task 'new' has no observations"):
        adaptation(posterior, nothing)
    with pytest.raises(NotAvailableError, match="no path was kept by method"):
        adaptation_path(posterior.adapt(posterior.tasks))
    with pytest.raises(OptionError, match="at most 2 can be drawn in one picture"):
        adaptation_path(fine_tuned(), elements=[0, 1, 2])
    with pytest.raises(OptionError, match="at: inputs of a band are for tasks with one input"):
        tasks(levels(3), at=[0.0, 1.0])


def test_the_interval_of_the_expected_observation_leaves_the_noise_out() -> None:
    posterior = lines(85)
    predicted = posterior.adapt(posterior.tasks[["4"]]).predict(torch.tensor([1.0, 5.0], dtype=torch.float64))
    theta = posterior.adapt(posterior.tasks[["4"]]).theta["theta"][:, 0]
    lower, upper = predicted.mean_interval(0.8)
    at = theta[:, 0] + 5.0 * theta[:, 1]

    assert float(lower[0, 1]) == pytest.approx(float(at.quantile(0.1)), abs=0.05)
    assert float(upper[0, 1]) == pytest.approx(float(at.quantile(0.9)), abs=0.05)
    assert bool((upper - lower < torch.stack(predicted.interval(0.8)).diff(dim=0)[0]).all())
    with pytest.raises(OptionError, match="level must lie between 0 and 1, got 1"):
        predicted.mean_interval(1)
    assert record(tasks(posterior, names="4")[0, 0]).title.startswith("4")
