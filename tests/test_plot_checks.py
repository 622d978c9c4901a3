"""Pictures of checks: shots, novelty, calibration, leaving out, learners side by side. What they draw, and of what."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

import bayesmeta as bm
from bayesmeta.diagnose.loo import Left, elpd_data
from bayesmeta.errors import DataError, NotAvailableError, OptionError, UnknownNameError
from bayesmeta.plot.style import BLACK, BLUE, GREY, PALE, RED, new_axes
from tests.plot_records import Record, check, resembles
from tests.test_metrics import Level, _coins, _data
from tests.truth import Array


@pytest.fixture(autouse=True)
def figures_are_closed() -> Iterator[None]:
    yield
    plt.close("all")


# --- shots --------------------------------------------------------------------------------------------------


def shots_of(*counts: int) -> bm.Shots:
    """A table as simulation makes it: everything falls with the number of shots."""
    k = np.array(counts, dtype=np.float64)
    sd = np.sqrt(1 + 1 / (k + 0.5))
    columns = {"rmse": 1.01 * sd, "rmse_se": 0.02 * sd, "sd": sd, "sd_se": 0.01 * sd}
    columns |= {"nll": np.log(sd) + 1.4, "nll_se": 0.01 * sd, "coverage": 0.9 + 0 * k, "coverage_se": 0.01 + 0 * k}
    table = pd.DataFrame(columns | {"sd theta": 1 / np.sqrt(k + 0.5)}, index=pd.Index(counts, name="shots"))
    return bm.Shots(table, 1.0, 200)


def test_spread_and_error_stand_side_by_side_above_the_floor() -> None:
    found = shots_of(0, 1, 5)
    drawn = check(bm.plot.shots(found, level=0.9))

    assert np.allclose(drawn.data("line", label="predicted"), np.c_[[0, 1, 5], found.table["sd"]])
    assert np.allclose(drawn.data("line", label="error made").T[1], found.table["rmse"])
    ends = drawn.data("bars", GREY)[:2, 1]
    assert np.diff(ends) == pytest.approx(2 * 1.6448536 * found.table["rmse_se"].iloc[0])
    assert drawn.data("line", label="if θ were known")[0, 1] == 1.0
    assert "200 simulated tasks" in drawn.xlabel


@pytest.mark.parametrize(("target", "needed"), [(1.3, "reached with 1 shot"), (1.2, "5 shots"), (0.5, "not reached")])
def test_a_target_is_drawn_with_the_shots_that_reach_it(target: float, needed: str) -> None:
    drawn = check(bm.plot.shots(shots_of(0, 1, 5), target=target))

    (line,) = drawn.of("line", RED, "wanted")
    assert needed in line.label
    assert set(line.y) == {target}
    upright = [item for item in drawn.of("line", RED) if item is not line]
    assert [item.x[0] for item in upright] == {"5 shots": [5], "not reached": []}.get(needed, [1])


def test_other_measures_and_elements_of_theta() -> None:
    found = shots_of(0, 1, 5)

    assert check(bm.plot.shots(found, of="theta")).ylabel == "posterior sd of theta"
    assert "nats" in check(bm.plot.shots(found, measure="nll")).ylabel
    covered = check(found.plot(measure="coverage", label="inside"))
    assert covered.ylabel == "inside"
    assert covered.data("line", label="as promised")[0, 1] == 0.9


def test_one_number_of_shots_or_very_many_of_them() -> None:
    assert len(check(bm.plot.shots(shots_of(3))).data("line", BLUE)) == 1
    ax = bm.plot.shots(shots_of(*range(60), 1000))
    drawn = check(ax)

    assert ax.get_xscale() == "symlog"
    ticks = [label.get_text() for label in ax.get_xticklabels()]
    assert {"0", "1", "1,000"} <= set(ticks)
    assert len(ticks) < 25
    assert len(drawn.data("line", BLUE)) == 61


def test_what_shots_cannot_draw_is_refused() -> None:
    with pytest.raises(OptionError, match="unknown measure 'mse'; valid: 'sd', 'rmse', 'nll', 'coverage'"):
        bm.plot.shots(shots_of(1), measure="mse")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="a coverage is to be right, not reached"):
        bm.plot.shots(shots_of(1), measure="coverage", target=0.9)
    with pytest.raises(UnknownNameError, match="unknown element of θ 'tau'; valid: 'theta'"):
        bm.plot.shots(shots_of(1), of="tau")
    assert plt.get_fignums() == []


# --- novelty ------------------------------------------------------------------------------------------------


def novelty_of(count: int, *, far: int = 0, noisy: int = 0, empty: int = 0) -> bm.Novelty:
    """Tasks of the population, and strangers of two kinds and tasks without observations behind them."""
    rng = np.random.default_rng(0)
    tail, theta, noise = torch.from_numpy(rng.uniform(0.02, 0.98, (3, count + far + noisy + empty)))
    sizes = torch.ones(len(tail), dtype=torch.int64)
    at = count
    tail[at : at + far], theta[at : at + far] = 0.0, 0.0005
    noise[at + far : at + far + noisy] = 0.0002
    if empty:
        sizes[-empty:] = 0
        tail[-empty:] = theta[-empty:] = noise[-empty:] = math.nan
    names = tuple(f"task {k}" for k in range(len(tail)))
    nothing = torch.zeros(len(tail), dtype=torch.float64)
    return bm.Novelty(names, tail, theta, noise, nothing, nothing, nothing, sizes, 1000)


def test_strangers_are_red_on_top_and_said_in_words() -> None:
    found = novelty_of(10, far=1, noisy=2, empty=1)
    ax = found.plot()
    drawn = check(ax)
    names = [label.get_text() for label in ax.get_yticklabels()]

    assert sorted(names[:3]) == ["task 10", "task 11", "task 12"]
    assert "task 13" not in names, "of nothing observed there is no probability"
    assert drawn.title == "3 of 14 tasks strange (1 without observations)"
    assert sorted(item.label for item in drawn.of("text", RED)) == ["scatters more", "scatters more", "θ far out"]
    assert set(drawn.data("points", RED)[:, 1]) == {0, 1, 2}
    assert set(drawn.data("points", BLUE)[:, 1]) == set(range(3, 13))


def test_a_task_left_of_the_line_is_a_stranger_and_no_other() -> None:
    found = novelty_of(200, far=3, noisy=3)
    drawn = check(bm.plot.novelty(found, level=0.1, most=500))
    limit = drawn.data("line", label="strangers left of it")[0, 0]
    red, blue = drawn.data("points", RED), drawn.data("points", BLUE)

    assert limit == pytest.approx(0.1 / 3)
    assert len(found.strangers(0.1)) > 6
    assert set(red[red[:, 0] < limit][:, 1]) == set(red[:, 1])
    assert (blue[:, 0] >= limit).all()


@pytest.mark.parametrize("count", [1, 3, 85, 10_000])
def test_any_number_of_tasks(count: int) -> None:
    drawn = check(bm.plot.novelty(novelty_of(count, far=1)))

    rows = min(count + 1, 30)
    assert sorted(set(drawn.data("points")[:, 1])) == list(range(rows))
    assert ("30 strangest drawn" in drawn.title) == (count > 29)


def test_tasks_without_theta_have_one_probability() -> None:
    found = novelty_of(4)
    found.theta_probability[:] = math.nan
    found.noise_probability[:] = math.nan
    drawn = check(bm.plot.novelty(found, level=0.05))

    assert drawn.legend == ("task as a whole", "0.05: strangers left of it")
    assert len(drawn.data("points")) == 4


def test_what_novelty_cannot_draw_is_refused() -> None:
    with pytest.raises(NotAvailableError, match="no task has observations"):
        bm.plot.novelty(novelty_of(0, empty=3))
    with pytest.raises(OptionError, match="most must be a whole number of at least 1, got 0"):
        bm.plot.novelty(novelty_of(3), most=0)
    with pytest.raises(OptionError, match="level must lie between 0 and 1, got 0"):
        bm.plot.novelty(novelty_of(3), level=0)
    assert plt.get_fignums() == []


# --- calibration --------------------------------------------------------------------------------------------

TOGETHER = Level(tasks=30, m=8, shared=2.0)  # observations of a task agree


def curve_and_band(drawn: Record) -> tuple[Array, Array]:
    """The curve (n, 2) and the upper edge of its band at the same places (n,)."""
    curve = drawn.data("line", BLUE)
    edge = drawn.data("band", PALE)
    upper = edge[edge[:, 1] >= 0]
    upper = upper[np.argsort(upper[:, 0])]
    return curve, np.interp(curve[:, 0], upper[:, 0], upper[:, 1])


def inside(drawn: Record) -> bool:
    curve, edge = curve_and_band(drawn)
    return bool((np.abs(curve[:, 1]) <= edge + 1e-12).all())


@cache
def together(seed: int) -> bm.Score:
    return bm.score(TOGETHER, _data(TOGETHER, seed), draws=200)


def held(results: Iterator[Any]) -> int:
    """In how many pictures with a band of 90 % the curve stays inside."""
    ax, count = new_axes(3, 2), 0
    for result in results:
        ax.clear()
        count += inside(check(bm.plot.calibration(result, level=0.9, ax=ax)))
    return count


def test_a_right_prediction_stays_in_its_band_though_observations_of_a_task_agree() -> None:
    scores = [together(seed) for seed in range(25)]

    assert held(iter(scores)) >= 18  # of 25 by 90 %: fewer once in a hundred times
    assert held(one.pit for one in scores) < 13, "the band of independent observations is too narrow for these"


def test_bare_places_that_are_uniform_stay_in_their_band() -> None:
    rng = np.random.default_rng(1)

    assert held(rng.uniform(size=20_000) for _ in range(25)) >= 18
    assert not inside(check(bm.plot.calibration(rng.uniform(size=20_000) ** 1.1)))


def test_a_prediction_with_too_narrow_intervals_leaves_the_band_as_it_should() -> None:
    bold = Level(tasks=60, m=5, shared=0.5, claimed=0.4)
    y = _data(Level(tasks=60, m=5, shared=0.5), 1)
    drawn = check(bm.plot.calibration(bold, y))
    curve, edge = curve_and_band(drawn)
    covered = check(bm.plot.calibration(bold, y, kind="coverage")).data("line", BLUE)

    assert not inside(drawn)
    assert curve[10, 1] > edge[10], "above zero on the left"
    assert curve[-10, 1] < -edge[-10], "below it on the right"
    assert covered[25, 1] < covered[25, 0] - 0.2


def test_the_kinds_show_the_same_places() -> None:
    result = together(0)
    pit = result.pit.numpy()
    ecdf = check(result.plot()).data("line", BLUE)
    covered = check(result.plot(kind="coverage")).data("line", BLUE)
    (stairs,) = check(result.plot(kind="histogram")).of("patch", BLUE)

    assert ecdf[30, 1] == pytest.approx((pit < 0.3).mean() - 0.3)
    assert covered[20, 1] == pytest.approx((np.abs(2 * pit - 1) < 0.4).mean())
    assert covered[20, 0] == pytest.approx(0.4)
    assert stairs.y.max() == pytest.approx(np.histogram(pit, 20, (0, 1), density=True)[0].max())


def test_probabilities_of_outcomes_are_compared_with_their_shares() -> None:
    right, y = _coins(1500, 0.0, 1)
    drawn = check(bm.plot.calibration(right, y, kind="reliability"))
    dots = drawn.data("points", BLUE)
    low = next(k for k in range(15) if k >= 3)
    p = right.mean[:, 0].numpy()
    here = (p >= low / 15) & (p < (low + 1) / 15)

    assert len(dots) == 15
    assert np.abs(dots[:, 1] - dots[:, 0]).max() < 0.2
    assert dots[low, 1] == pytest.approx(float(y[here].mean()), abs=0.06)
    biased = check(bm.plot.calibration(*_coins(1500, 1.0, 1), kind="reliability")).data("points", BLUE)
    assert (biased[3:12, 1] - biased[3:12, 0]).min() > 0.08
    assert "PIT" in check(bm.plot.calibration(right, y)).xlabel


def test_one_observation_and_very_many() -> None:
    for kind in ("ecdf", "histogram", "coverage"):
        one = check(bm.plot.calibration([0.3], kind=kind))
        assert "1 observations" in one.words
        many = check(bm.plot.calibration(np.linspace(0.001, 0.999, 200_000), kind=kind))
        assert "200,000 observations" in many.words


def test_what_calibration_cannot_draw_is_refused() -> None:
    for result, options, error, message in [
        (together(0), {"kind": "roc"}, OptionError, "unknown kind 'roc'; valid: 'ecdf', 'histogram'"),
        (together(0), {"kind": "reliability"}, NotAvailableError, "reliability is for outcomes that are all 0 or 1"),
        (TOGETHER, {}, DataError, "a prediction needs the observations that it is for: pass them as y"),
        ([0.2, 1.2], {}, DataError, r"PITs are probabilities, .* got 0\.2 to 1\.2"),
        ([math.nan], {}, DataError, "got none that is a number"),
        ("score", {}, DataError, "result is a str; wanted a Score"),
        (together(0), {"level": 95}, OptionError, "level must lie between 0 and 1, got 95"),
    ]:
        with pytest.raises(error, match=message):
            bm.plot.calibration(result, **options)  # type: ignore[arg-type]
    assert plt.get_fignums() == []


# --- leave one task out -------------------------------------------------------------------------------------


def left_out(count: int, bad: int = 0, refitted: tuple[int, ...] = ()) -> Any:
    """ArviZ's `ELPDData`; the last tasks are those that draws cannot leave out, the first is far out."""
    rng = np.random.default_rng(2)
    elpd, k_hat = torch.from_numpy(rng.normal(-3, 1, count)), torch.from_numpy(rng.uniform(-0.1, 0.5, count))
    elpd[0] = -40.0
    k_hat[count - bad :] = 0.9
    left = Left(elpd, elpd + 0.1, k_hat)
    return elpd_data(left, tuple(f"t{k}" for k in range(count)), 1000, [f"t{k}" for k in refitted])


def test_k_hats_that_are_no_numbers_tell_as_little_as_the_worst() -> None:
    found = left_out(6)
    found["pareto_k"][:2] = [math.inf, math.nan]
    drawn = check(bm.plot.loo(found))

    assert len(drawn.data("points", RED)) == 2


def test_k_hats_have_their_limit_and_refits_are_told_apart() -> None:
    found = left_out(40, bad=2, refitted=(5, 6))
    drawn = check(bm.plot.loo(found))
    k_hat = np.asarray(found["pareto_k"])

    assert drawn.data("line", label="limit")[0, 1] == pytest.approx(2 / 3)
    np.testing.assert_allclose(drawn.data("points", RED), np.c_[[38, 39], [0.9, 0.9]])
    np.testing.assert_allclose(drawn.data("points", label="refitted"), np.c_[[5, 6], k_hat[[5, 6]]])
    assert len(drawn.data("points", label="draws tell")) == 36
    assert [item.label for item in drawn.of("text")] == ["t38"], "the name of its neighbour would lie on it"


def test_log_densities_are_drawn_with_their_sum_and_those_far_out_named() -> None:
    found = left_out(40)
    drawn = check(bm.plot.loo(found, what="elpd", label="nats"))

    np.testing.assert_allclose(drawn.data("points", BLUE)[:, 1], found["loo_i"])
    assert drawn.title.startswith(f"sum {found['elpd_loo']:.1f}, standard error {found['se']:.1f}")
    assert [item.label for item in drawn.of("text")] == ["t0"]
    assert drawn.ylabel == "nats"


@pytest.mark.parametrize("count", [1, 3, 85, 10_000])
def test_any_number_of_tasks_left_out(count: int) -> None:
    for what in ("k_hat", "elpd"):
        drawn = check(bm.plot.loo(left_out(count), what=what))
        assert len(drawn.data("points", BLUE)) == count
    few = bm.plot.loo(left_out(3))
    assert [label.get_text() for label in few.get_xticklabels()] == ["t0", "t1", "t2"]


def test_a_posterior_is_asked_to_leave_out() -> None:
    class Fitted:
        def loo(self) -> Any:
            return left_out(3)

    assert len(check(bm.plot.loo(Fitted())).data("points", BLUE)) == 3
    with pytest.raises(DataError, match="result is a float; wanted a posterior, or what"):
        bm.plot.loo(1.0)
    with pytest.raises(OptionError, match="unknown what 'p'; valid: 'k_hat', 'elpd'"):
        bm.plot.loo(left_out(3), what="p")  # type: ignore[arg-type]
    assert len(plt.get_fignums()) == 1, "no empty figure is left behind"


# --- learners side by side ----------------------------------------------------------------------------------


@cache
def learners() -> dict[str, bm.Score]:
    """A right prediction, one that is a little too wide, and one that is far too narrow, of the same observations."""
    y = _data(Level(tasks=80, shared=0.3), 3)
    claims = {"narrow": 0.4, "right": 1.0, "wide": 1.3}
    return {name: bm.score(Level(tasks=80, shared=0.3, claimed=one), y, draws=50) for name, one in claims.items()}


def rows_of(ax: Any) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def test_the_best_is_on_top_and_differences_are_paired() -> None:
    scores = learners()
    ax = bm.plot.compare(scores)
    drawn = check(ax)
    paired = scores["wide"].minus(scores["right"]).loc["nll"]
    table = scores["right"].table

    assert rows_of(ax) == ["right", "wide", "narrow"]
    np.testing.assert_allclose(drawn.data("points")[:, 0], [scores[name]["nll"] for name in rows_of(ax)])
    first = drawn.data("bars", BLUE)[:2, 0]
    assert np.diff(first) == pytest.approx(2 * 1.959964 * table["standard_error"]["nll"])
    said = [item.label for item in drawn.of("text")]
    assert said[0] == "best"
    away, half = (float(part) for part in said[1].split(" ± "))
    assert away == pytest.approx(paired["difference"], abs=0.002)
    assert half == pytest.approx(1.96 * paired["standard_error"], rel=0.06)
    assert half < np.diff(first) / 4, "sharper than the bars"


def test_the_difference_of_errors_is_that_of_their_squares() -> None:
    y = _data(Level(tasks=80), 3)

    class Shifted(Level):
        @property
        def mean(self) -> torch.Tensor:
            return super().mean + 0.5

    scores = {"right": bm.score(Level(tasks=80), y, draws=20), "off": bm.score(Shifted(tasks=80), y, draws=20)}
    said = [item.label for item in check(bm.plot.compare(scores, metric="rmse")).of("text")]
    names = sorted(scores, key=lambda name: scores[name]["rmse"])
    away, half = (float(part) for part in said[1].split(" ± "))
    square = scores[names[1]].minus(scores[names[0]]).loc["mse"]

    assert away == pytest.approx(scores[names[1]]["rmse"] - scores[names[0]]["rmse"], abs=0.01)
    assert half == pytest.approx(
        1.96 * square["standard_error"] / (scores["right"]["rmse"] + scores["off"]["rmse"]), rel=0.06
    )


def test_coverage_is_best_where_it_is_as_promised() -> None:
    ax = bm.plot.compare(learners(), metric="coverage")

    assert rows_of(ax) == ["right", "wide", "narrow"]
    assert check(ax).data("line", BLACK, "promised: 0.9")[0, 0] == 0.9


def test_tables_are_drawn_too() -> None:
    ax = bm.plot.compare(bm.score_table(learners()), metric="crps", label="CRPS, m")
    drawn = check(ax)

    assert rows_of(ax)[0] == "right"
    assert drawn.xlabel == "CRPS, m"
    assert drawn.of("text") == [], "a table does not tell the differences task by task"

    hierarchies = bm.loo_compare({"plain": left_out(20), "better": _shifted(1.0)})
    ax = bm.plot.compare(hierarchies)
    assert rows_of(ax) == ["better", "plain"]
    best, away = (item.label for item in check(ax).of("text"))
    assert best == "best"
    assert float(away.split(" ± ")[0]) == pytest.approx(-20, abs=0.5)


def _shifted(by: float) -> Any:
    plain = left_out(20)
    each = torch.from_numpy(np.asarray(plain["loo_i"])) + by
    each += torch.linspace(-0.1, 0.1, 20)
    return elpd_data(Left(each, each + 0.1, torch.zeros(20)), tuple(f"t{k}" for k in range(20)), 1000, [])


def test_learners_without_a_value_are_left_out_and_none_is_an_error() -> None:
    table = bm.score_table(learners())
    table.loc["wide", "nll_joint"] = math.nan

    assert rows_of(bm.plot.compare(table, metric="nll_joint")) == ["right", "narrow"]
    table["nll_joint"] = math.nan
    plt.close("all")
    with pytest.raises(DataError, match="'nll_joint' is not a number for any of"):
        bm.plot.compare(table, metric="nll_joint")
    with pytest.raises(OptionError, match="results is empty: pass a score by the name of each learner"):
        bm.plot.compare({})
    with pytest.raises(UnknownNameError, match=r"unknown metric 'nlll'; valid: 'nll'.*did you mean 'nll'"):
        bm.plot.compare(learners(), metric="nlll")
    with pytest.raises(UnknownNameError, match="unknown metric 'mse'; valid: 'nll'"):
        bm.plot.compare(table, metric="mse")
    assert plt.get_fignums() == []


def test_one_learner() -> None:
    drawn = check(bm.plot.compare({"right": learners()["right"]}))

    assert len(drawn.data("points")) == 1


# --- pictures as they look ----------------------------------------------------------------------------------

PICTURES: dict[str, Callable[[], Any]] = {
    "shots": lambda: bm.plot.shots(shots_of(0, 1, 2, 5, 10), target=1.2),
    "novelty": lambda: bm.plot.novelty(novelty_of(10, far=1, noisy=2)),
    "calibration": lambda: bm.plot.calibration(together(0)),
    "loo": lambda: bm.plot.loo(left_out(40, bad=2)),
    "compare": lambda: bm.plot.compare(learners()),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_look_as_they_did(name: str) -> None:
    assert resembles(PICTURES[name]().figure, name)


def test_a_picture_of_other_numbers_does_not() -> None:
    other = bm.plot.shots(shots_of(0, 1, 2, 3, 4)).get_figure(root=True)

    assert other is not None
    assert not resembles(other, "shots")


def test_the_current_figure_is_left_alone() -> None:
    figure, (mine, other) = plt.subplots(1, 2)
    plt.sca(other)
    for name, options in (("shots", shots_of(1, 2)), ("novelty", novelty_of(3)), ("loo", left_out(3))):
        mine.clear()
        assert getattr(bm.plot, name)(options, ax=mine) is mine
        check(mine)
    assert plt.gca() is other
    assert plt.get_fignums() == [figure.number]
