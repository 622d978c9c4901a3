"""The interactive view without a browser: what it answers is what the library says, and what it cannot do it says."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch

import bayesmeta as bm
from bayesmeta.errors import DataError, NotAvailableError, OptionError, UnknownNameError
from bayesmeta.explore import explore
from bayesmeta.explore.density import bounds, density
from bayesmeta.explore.quantity import Quantity
from bayesmeta.explore.scene import Scene, Settings
from bayesmeta.explore.state import MOST_POINTS
from bayesmeta.explore.subject import Subject
from bayesmeta.explore.words import novelty_in_words
from tests.exploring import KINDS, clinics, columns_and_context, curve, nothing

DRAWS = 200


def scene(posterior: bm.Posterior, tasks: bm.Tasks | None = None, **settings: Any) -> Scene:
    subject = Subject(posterior, tasks)
    return Scene(subject, subject.start(), Settings(**{"draws": DRAWS, "novelty": False, **settings}))


def points(rows: Sequence[tuple[Sequence[float], float]]) -> list[dict[str, Any]]:
    return [{"x": list(x), "y": y} for x, y in rows]


def ask(view: Scene, **changes: Any) -> dict[str, Any]:
    return view.answer({**view.state.plain(), "id": 1, **changes})


def adapt(tasks: bm.Tasks) -> bm.Adapted:
    return curve().adapt(tasks, draws=DRAWS, strangers="ignore")


# --- what is answered is what the library says ---------------------------------------------------------------


def test_the_band_is_the_prediction_of_the_adapted_task() -> None:
    shown = ask(scene(curve(), level=0.8), points=points([([0.5], 2.5), ([-0.5], 0.5)]))
    expected = adapt(bm.Tasks.from_lists([[0.5, -0.5]], [[2.5, 0.5]], names=["new"]))
    predicted = expected.predict(torch.tensor(shown["band"]["x"], dtype=torch.float64))
    lower, upper = predicted.interval(0.8)

    assert shown["error"] == ""
    assert shown["band"]["mean"] == predicted.mean[0].tolist()
    assert shown["band"]["lower"] == lower[0].tolist()
    assert shown["band"]["upper"] == upper[0].tolist()
    assert shown["before"]["mean"] != shown["band"]["mean"]
    assert shown["limits"][0] <= min(shown["before"]["lower"])
    assert shown["limits"][1] >= max(*shown["before"]["upper"], *shown["band"]["upper"], 2.5)


def test_without_points_the_band_is_that_of_the_population() -> None:
    shown = ask(scene(curve()))

    assert shown["band"] == shown["before"]
    assert shown["method"] == "population"


def test_points_that_are_moved_up_take_prediction_and_theta_with_them() -> None:
    view = scene(curve())
    low, high = (ask(view, points=points([([0.0], y), ([0.2], y)])) for y in (0.0, 3.0))

    def mean(shown: dict[str, Any]) -> float:
        weights = torch.tensor(shown["theta"]["after"])
        return float((weights * torch.tensor(shown["theta"]["x"])).sum() / weights.sum())

    assert min(high["band"]["mean"]) > min(low["band"]["mean"])
    assert mean(high) > mean(low) + 0.5
    assert high["theta"]["rug"] == low["theta"]["rug"]


def test_to_a_task_of_the_fit_points_are_added() -> None:
    name, view = "clinic 3", scene(curve())
    alone, with_point = ask(view, task=name, points=None), ask(view, task=name, points=points([([0.0], 2.0)]))
    expected = adapt(bm.Tasks.from_lists([[0.0]], [[2.0]], names=[name]))
    known = adapt(curve().tasks[[name]])
    at = torch.tensor(alone["band"]["x"], dtype=torch.float64)

    assert alone["seen"]["y"] == curve().tasks[name].y.tolist()
    assert alone["state"]["points"] == []
    torch.testing.assert_close(torch.tensor(alone["band"]["mean"]), known.predict(at).mean[0].float())
    assert with_point["band"]["mean"] == expected.predict(at).mean[0].tolist()


def test_a_task_of_the_fit_is_copied_to_one_whose_points_move() -> None:
    view = scene(curve())
    ask(view, task="clinic 3", points=points([([0.0], 2.0)]))
    copied = ask(view, copy=True)

    assert copied["state"]["task"] == "new"
    assert [one["y"] for one in copied["state"]["points"]] == [*curve().tasks["clinic 3"].y.tolist(), 2.0]
    assert copied["seen"]["count"] == 0


def test_further_tasks_start_with_points_that_can_be_moved() -> None:
    hidden = clinics(2, seed=7, name="hidden")
    shown = ask(scene(curve(), hidden), task="hidden 1", points=None)
    at = torch.tensor(shown["band"]["x"], dtype=torch.float64)

    assert [one["y"] for one in shown["state"]["points"]] == hidden["hidden 1"].y.tolist()
    assert shown["band"]["mean"] == adapt(hidden[["hidden 1"]]).predict(at).mean[0].tolist()


def test_what_a_further_task_has_too_much_of_is_seen_but_not_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bayesmeta.explore.subject.MOST_POINTS", 3)
    hidden = clinics(1, seed=7, name="hidden")
    shown = ask(scene(curve(), hidden), task="hidden 0", points=None)
    at = torch.tensor(shown["band"]["x"], dtype=torch.float64)

    assert (shown["state"]["points"], shown["seen"]["count"]) == ([], 6)
    assert shown["band"]["mean"] == adapt(hidden).predict(at).mean[0].tolist()


def test_novelty_is_that_of_all_observations_and_waits_until_nothing_moves() -> None:
    view = scene(curve(), novelty=True)
    belongs = bm.Tasks.from_lists([[0.0]], [[1.0]], names=["new"])
    found = curve().novelty(belongs, replicates=400)

    assert ask(view)["novelty"] == ""
    assert ask(view, points=points([([0.0], 1.0)]))["novelty"] == novelty_in_words(found, False)
    assert ask(view, points=points([([0.0], 1.0)]), settled=False)["novelty"] is None
    stranger = ask(view, points=points([([0.0], 20.0)]))
    assert stranger["strange"]
    assert "θ is far out" in stranger["novelty"]
    assert any("k-hat" in note for note in stranger["notes"])
    assert "The fit has seen it" in ask(view, task="clinic 3", points=None)["novelty"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_input_and_outcome_is_shown_in_plain_numbers(kind: str) -> None:
    posterior = KINDS[kind]()
    view = explore(posterior, draws=50, novelty=False)
    column = view.setup["columns"][0] if view.setup["columns"] else None
    point = {"x": [one["middle"] for one in view.setup["columns"]], "y": view.setup["outcome"]["high"]}
    view.asked = {**view.shown["state"], "points": [point], "id": 2}

    assert view.shown["error"] == ""
    assert view.shown["id"] == 2
    assert (
        len(view.shown["band"]["x"]) == {"curve": 61, "levels": 2, "nothing": 1, "columns": 61, "yes_or_no": 61}[kind]
    )
    assert all(low < high for low, high in zip(view.shown["band"]["lower"], view.shown["band"]["upper"], strict=True))
    assert kind != "yes_or_no" or 0 < min(view.shown["band"]["lower"]) < max(view.shown["band"]["upper"]) < 1
    assert column is None or column["low"] <= min(view.shown["band"]["x"]) <= max(view.shown["band"]["x"])
    json.dumps([view.setup, view.shown], allow_nan=False)


def test_columns_that_are_not_the_axis_are_held_and_a_context_is_typed() -> None:
    view = scene(columns_and_context())
    first = ask(view, column=0, held=[0.0, 2.0])
    second = ask(view, column=1, held=[0.0, 0.0])

    assert [one.name for one in view.subject.columns] == ["x[0]", "x[1]"]
    assert second["band"]["x"] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    assert second["band"]["mean"][2] == pytest.approx(first["band"]["mean"][0], rel=1e-12)
    higher = ask(view, context={"size": 2.0})["band"]["mean"][0]
    assert higher - ask(view, context={"size": 1.0})["band"]["mean"][0] == pytest.approx(1.0, abs=0.2)
    of_fit = ask(view, task="clinic 3", points=[], context={"size": 99.0})["state"]["context"]
    assert of_fit == {"size": float(columns_and_context().tasks["clinic 3"].context["size"])}


def test_an_element_of_theta_is_chosen() -> None:
    view = explore(curve(), draws=DRAWS, site="beta[1]", novelty=False)
    draws = adapt(bm.Tasks.without_observations(["new"], like=curve().tasks)).theta["beta"][:, 0, 1]

    assert view.shown["theta"]["label"] == "beta[1]"
    assert view.shown["words"].startswith(f"beta[1]: {float(draws.mean()):.3g} ± {float(draws.std()):.3g}, 90% between")
    assert explore(curve(), draws=DRAWS, site="beta").shown["theta"]["label"] == "beta[0]"


def test_a_population_of_one_task_can_be_looked_at() -> None:
    posterior = nothing()
    alone = bm.fit(posterior.hierarchy, posterior.tasks[[4]], bm.Laplace(draws=100), progress=False)

    assert ask(scene(alone), points=points([((), 3.0)]))["error"] == ""


def test_members_of_an_ensemble_are_used_as_often_as_it_takes() -> None:
    trained = bm.fit(curve().hierarchy, curve().tasks, bm.Ensemble(members=2, steps=20), progress=False)
    view = scene(trained)

    assert ask(view, points=points([([0.0], 1.0)]))["error"] == ""
    assert len(view.adapted.theta["beta"]) == DRAWS


def test_of_many_tasks_an_even_spread_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bayesmeta.explore.scene.MOST_OF_FIT", 5)
    monkeypatch.setattr("bayesmeta.explore.subject.MOST_NAMES", 4)
    view = scene(curve())

    assert len(ask(view)["theta"]["rug"]) == 5
    assert view.subject.plain()["fit"] == ["clinic 0", "clinic 1", "clinic 2", "clinic 3"]
    assert view.subject.plain()["count"] == 12
    assert ask(view, task="clinic 11", points=None)["error"] == ""


# --- what is asked wrongly -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "clinic 99"}, "unknown task 'clinic 99'"),
        ({"points": [{"x": [0.0], "y": None}]}, "response: got None; wanted a finite number"),
        ({"points": [{"x": [math.nan], "y": 1.0}]}, "dose: got nan; wanted a finite number"),
        ({"points": [{"x": [0.0, 1.0], "y": 1.0}]}, "wanted x, 1 numbers, and y"),
        ({"points": [{"x": 0.0, "y": 1.0}]}, "wanted x, 1 numbers, and y"),
        ({"points": "many"}, "wanted a list of points"),
        ({"points": [{"x": [0.0], "y": 1.0}] * (MOST_POINTS + 1)}, "the view moves up to 200"),
        ({"element": 2}, "element: got 2; wanted a whole number from 0 to 1"),
        ({"column": -1}, "column: got -1; wanted a whole number from 0 to 0"),
        ({"held": [0.0, 1.0]}, "held: got \\[0.0, 1.0\\]; wanted one number for each column of x, 1"),
    ],
)
def test_what_is_not_valid_is_said_and_nothing_changes(changes: dict[str, Any], message: str) -> None:
    view = scene(curve())
    ask(view, points=points([([0.0], 1.0)]))
    before = view.state
    shown = ask(view, **changes)

    assert message.replace("\\", "") in shown["error"]
    assert shown["state"] == before.plain()
    assert view.state is before


def test_an_impossible_observation_is_said() -> None:
    shown = ask(scene(KINDS["yes_or_no"]()), points=points([([0.0], 0.5)]))

    assert shown["error"] == "observation 1: y is 0.5; wanted 0 or 1, as in the data of the fit"
    assert shown["state"]["points"] == []


def test_a_task_with_too_much_to_move_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bayesmeta.explore.subject.MOST_POINTS", 5)
    view = scene(curve())
    ask(view, task="clinic 3", points=None)

    assert "6 observations; the view moves up to 5" in ask(view, copy=True)["error"]


def test_bad_arguments() -> None:
    with pytest.raises(OptionError, match="level must lie between 0 and 1"):
        explore(curve(), level=90)
    with pytest.raises(OptionError, match="draws must be a whole number of at least 1, got 0"):
        explore(curve(), draws=0)
    with pytest.raises(UnknownNameError, match=r"unknown task 'clinc 3'.*did you mean 'clinic 3'"):
        explore(curve(), task="clinc 3")
    with pytest.raises(UnknownNameError, match="unknown element of θ 'gamma'; valid: 'beta\\[0\\]'"):
        explore(curve(), site="gamma")
    with pytest.raises(DataError, match="the fit has seen 'clinic 0'"):
        explore(curve(), clinics(1))
    with pytest.raises(DataError, match="context must be"):
        explore(columns_and_context(), bm.Tasks.from_lists([[[1.0, 2.0]]], [[1.0]], names=["z"]))


def test_observations_of_several_numbers_are_not_shown() -> None:
    posterior = curve()
    wide = bm.Posterior.__new__(bm.Posterior)
    wide.tasks = bm.Tasks.from_lists([[0.0]], [[[1.0, 2.0]]])

    with pytest.raises(NotAvailableError, match="an observation has shape \\(2,\\)"):
        Subject(wide)
    assert Subject(posterior).new == "new"


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    monkeypatch.delitem(sys.modules, "bayesmeta.explore.widget", raising=False)

    with pytest.raises(NotAvailableError, match=r"\(anywidget\): pip install 'bayesmeta\[explore\]'"):
        curve().explore()


# --- the widget ----------------------------------------------------------------------------------------------


def test_what_was_typed_can_be_had_back() -> None:
    view = curve().explore(task="clinic 3", draws=DRAWS, novelty=False)
    view.asked = {**view.shown["state"], "task": "new", "points": points([([0.5], 2.5)]), "id": 1}

    assert repr(view) == "Explorer of 12 tasks: 'new', 1 new observations"
    assert view.tasks.names == ("new",)
    assert (view.tasks.x.tolist(), view.tasks.y.tolist()) == ([0.5], [2.5])
    assert torch.equal(view.adapted.theta["beta"], adapt(view.tasks).theta["beta"])


def test_nothing_is_fetched_from_elsewhere() -> None:
    from bayesmeta.explore.widget import Explorer

    script, style = Explorer._esm, Explorer._css

    assert "export default { render }" in script
    assert script.replace("http://www.w3.org/2000/svg", "").count("://") == 0
    assert "import " not in script.replace("// ", "")
    assert "url(" not in style
    assert "@import" not in style


def test_warnings_are_told_on_the_page_and_settings_of_warnings_stay() -> None:
    filters = list(warnings.filters)
    shown = ask(scene(curve()), points=points([([0.0], 50.0)]))

    assert len(shown["notes"]) == 1
    assert list(warnings.filters) == filters


# --- numbers and densities -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind", "low", "high", "levels"),
    [
        ([0.0, 1.0, 1.0], "levels", 0.0, 1.0, (0.0, 1.0)),
        ([8.0, 10.0, 12.0, 14.0], "whole", 8.0, 14.0, ()),
        ([0.0, 0.5, 10.0], "real", 0.0, 10.5, ()),
        ([-10.0, 0.5, 10.0], "real", -11.0, 11.0, ()),
        ([-10.5, -0.5], "real", -11.0, 0.0, ()),
        ([0.5, 0.5], "real", 0.0, 1.5, ()),
    ],
)
def test_what_an_input_may_be(
    values: list[float], kind: str, low: float, high: float, levels: tuple[float, ...]
) -> None:
    found = Quantity.of("x", torch.tensor(values))

    assert (found.kind, found.low, found.high, found.values) == (kind, low, high, levels)
    assert set(found.grid()) >= set(levels or (low, high))


@pytest.mark.parametrize(
    ("values", "kind", "low"),
    [
        ([0.0, 1.0], "levels", 0.0),
        ([0.0, 3.0, 9.0], "whole", 0.0),
        ([1.0, 2.0], "whole", 0.9),
        ([-3.0, 4.0], "real", -3.7),
    ],
)
def test_what_an_outcome_may_be(values: list[float], kind: str, low: float) -> None:
    found = Quantity.outcome("y", torch.tensor(values))

    assert found.kind == kind
    assert found.low == pytest.approx(low)
    assert found.is_binary == (kind == "levels")


def test_a_density_is_mirrored_where_the_support_ends() -> None:
    rates = -torch.log1p(-torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64))  # of an exponential
    at = torch.linspace(0, 12, 481, dtype=torch.float64)
    mirrored, cut = density(rates, at, (0.0, math.inf)), density(rates, at)
    truth = torch.exp(-at)

    assert float(torch.trapezoid(mirrored, at)) == pytest.approx(1, abs=0.01)
    assert float((mirrored - truth).abs().max()) < 0.15
    assert float((cut - truth).abs().max()) > 0.4
    assert float(torch.trapezoid(cut, at)) < 0.95
    assert density(rates, at - 1, (0.0, math.inf))[0] == 0


def test_draws_that_are_all_the_same_have_a_finite_density() -> None:
    at = torch.linspace(0, 1, 101, dtype=torch.float64)

    assert bool(torch.isfinite(density(torch.full((10,), 0.5, dtype=torch.float64), at)).all())
    assert bool(torch.isfinite(density(torch.tensor([0.5], dtype=torch.float64), at)).all())


def test_ends_of_supports() -> None:
    constraints = torch.distributions.constraints

    assert bounds(constraints.positive) == (0.0, math.inf)
    assert bounds(constraints.independent(constraints.unit_interval, 1)) == (0.0, 1.0)
    assert bounds(constraints.real) == (-math.inf, math.inf)
    assert bounds(constraints.interval(torch.zeros(3), torch.ones(3))) == (-math.inf, math.inf)
