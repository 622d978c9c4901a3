"""Comparisons: the same tasks for all, scores as `bm.score` has them, files that go on, and what cannot be compared."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.compare import measure
from bayesmeta.compare.held import Held, held_of
from bayesmeta.compare.measure import identity
from bayesmeta.errors import (
    BayesmetaError,
    BayesmetaWarning,
    DataError,
    FileFormatError,
    NotAvailableError,
    OptionError,
    UnknownNameError,
)
from bayesmeta.streams import own_seed
from tests.plot_records import check

ENV = bm.data.DKTSines()


@pytest.fixture(autouse=True)
def figures_are_closed() -> Iterator[None]:
    yield
    plt.close("all")


class Guess:
    """Every observation of a task is Normal about the mean of those that were seen, with a given sd."""

    def __init__(self, support: bm.Tasks, query: bm.Tasks, sd: float = 3.0) -> None:
        self.names = query.names
        level = torch.stack([support[name].y.mean().nan_to_num() for name in query.names])
        width = int(query.sizes.max())
        self.mean = level.unsqueeze(1).expand(-1, width)
        self._normal = torch.distributions.Normal(self.mean, sd)

    def quantile(self, q: Any) -> Tensor:
        return torch.stack([self._normal.icdf(torch.tensor(level).double()) for level in q])

    def sample(self, n: int = 1000, seed: int = 0) -> Tensor:
        noise = torch.randn(n, *self.mean.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return self.mean + self._normal.scale * noise

    def log_prob(self, y: Any, *, pointwise: bool = False) -> Tensor:
        each: Tensor = self._normal.log_prob(torch.stack([y[name].y for name in self.names]))
        return each if pointwise else each.sum(1)


@dataclass(frozen=True)
class Owner:
    """A guess as the method of something that is known by its repr."""

    sd: float = 3.0
    calls: list[int] = field(default_factory=list, repr=False)

    @property
    def asked(self) -> int:
        return len(self.calls)

    def guess(self, support: bm.Tasks, query: bm.Tasks) -> Guess:
        self.calls.extend([1] * (len(query) > 1))
        assert not query.y.any(), "what is to be predicted is hidden"
        return Guess(support, query, self.sd)


def number(table: pd.DataFrame, shots: int, name: str, metric: str) -> float:
    return float(table.loc[(shots, name), metric])  # type: ignore[arg-type]


@cache
def once() -> bm.Comparison:
    return compared()


def compared(**options: Any) -> bm.Comparison:
    learners = {"optimal": ENV.optimal, "guess": Owner().guess}
    return bm.compare(learners, ENV, **{"shots": [1, 3], "count": 20, "query": 6, "progress": False, **options})


# --- the same tasks for all ---------------------------------------------------------------------------------


def ragged(count: int = 6, classes: int | None = None) -> bm.Tasks:
    rng = np.random.default_rng(0)
    xs = [rng.normal(size=(12 + 3 * k, 2)) for k in range(count)]
    ys = [np.arange(len(x)) % classes if classes else x[:, 0] for x in xs]
    return bm.Tasks.from_lists(xs, ys, context={"size": np.arange(count)})


def held(tasks: Any, most: int = 3, **options: Any) -> Held:
    return held_of(tasks, most, **{"count": 10, "ways": 3, "query": None, "by_class": None, "seed": 1, **options})


def rows(tasks: bm.Tasks, name: str) -> set[tuple[float, ...]]:
    return {tuple(row) for row in tasks[name].x.reshape(tasks[name].n, -1).tolist()}


@pytest.mark.parametrize("classes", [None, 3], ids=["numbers", "classes"])
def test_a_split_shows_more_and_more_and_asks_for_the_same(classes: int | None) -> None:
    tasks = ragged(classes=classes)
    found = held(tasks, 3, by_class=classes is not None)

    for task in tasks:
        seen: set[tuple[float, ...]] = set()
        for k in (1, 2, 3):
            now = rows(found.at(k), task.name)
            assert len(now) == k * (classes or 1)
            assert seen < now
            seen = now
            if classes:
                assert found.at(k)[task.name].y.sort().values.tolist() == sorted([0.0, 1.0, 2.0] * k)
        asked = rows(found.query, task.name)
        assert not seen & asked
        assert seen | asked == rows(tasks, task.name)
    assert found.at(0).sizes.tolist() == [0] * 6
    assert torch.equal(found.at(2).context["size"], tasks.context["size"])
    assert found.at(2).fingerprint() == held(tasks, 3, by_class=classes is not None).at(2).fingerprint()
    assert found.at(2).fingerprint() != held(tasks, 3, by_class=classes is not None, seed=2).at(2).fingerprint()


def test_the_query_may_be_shortened() -> None:
    assert held(ragged(), 3, query=4).query.sizes.tolist() == [4] * 6
    assert held(ragged(classes=3), 2, query=1, by_class=True).query.sizes.tolist() == [3] * 6


def test_a_pair_is_shown_from_the_first_row_on() -> None:
    support, query = ENV.tasks(5, shots=4, query=6, seed=3)
    found = held((support, query), 3)

    assert found.query is query
    for task in support:
        assert torch.equal(found.at(2)[task.name].y, task.y[:2])


def test_environments_and_image_sets_are_drawn_from() -> None:
    support, query = ENV.tasks(10, shots=2, query=15, seed=own_seed(1))
    found = held(ENV, 3)
    assert found.at(2).fingerprint() == support.fingerprint()
    assert found.query.fingerprint() == query.fingerprint()

    images = bm.data.Images.from_arrays(np.random.default_rng(0).normal(size=(60, 4, 4)), [k % 6 for k in range(60)])
    support, query = images.tasks(10, ways=3, shots=2, query=4, seed=own_seed(1))
    found = held(images, 3, query=4)
    assert found.ways == 3
    assert found.at(2).fingerprint() == support.fingerprint()
    assert found.query.fingerprint() == query.fingerprint()


@pytest.mark.parametrize(
    ("tasks", "options", "error", "match"),
    [
        ("tasks", {}, OptionError, "tasks: got str; wanted Tasks that no learner was trained on"),
        (ENV, {"query": 0}, OptionError, "query must be at least 1, got 0"),
        (
            ragged(),
            {"most": 12},
            DataError,
            "'0' has 12 observations, and 1 of 6 .* 13 that 12 shots and one to",
        ),
        (ragged(classes=3), {"most": 4, "by_class": True}, DataError, "task '0' has 4 observations of class 0"),
        ((ragged(), ragged(3)), {}, DataError, "support and query are of different tasks"),
        ((ragged(), ragged()), {"most": 13}, DataError, "fewer than the 13 that 13 shots ask for"),
        ((ragged(), held(ragged()).at(0)), {}, DataError, "the query of task '0' is empty"),
        (
            (ragged(classes=3), ragged(classes=2)),
            {"by_class": True},
            DataError,
            "the support has 3 classes and the query 2",
        ),
    ],
    ids=["kind", "query", "too few", "too few of a class", "others", "pair too short", "no query", "classes"],
)
def test_tasks_that_cannot_be_compared_on_are_refused(tasks: Any, options: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        held(tasks, **options)


# --- what is found ------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_same_prediction_by_hand() -> None:
    found = compared(seed=4)
    table = found.table

    for k in (1, 3):
        support, query = ENV.tasks(20, shots=k, query=6, seed=own_seed(4))
        expected = {
            "optimal": bm.score(ENV.optimal(support, query), query, seed=4),
            "guess": bm.score(Guess(support, query), query, seed=4),
        }
        for name, score in expected.items():
            for metric in ("rmse", "nll", "nll_joint", "crps", "coverage"):
                assert number(table, k, name, metric) == pytest.approx(score[metric], rel=1e-9)
            assert number(table, k, name, "nll_se") == pytest.approx(score.table.loc["nll", "standard_error"])
            assert number(table, k, name, "ece_floor") == pytest.approx(score.ece_floor)
    assert list(table.index.names) == ["shots", "learner"]
    assert bool((table["adapt_ms"] > 0).all())
    assert bool(table["train_seconds"].isna().all()), "functions were not trained"


def test_differences_are_paired_and_far_sharper() -> None:
    found = once()
    away = found.differences()
    by_hand = found["guess", 3].minus(found["optimal", 3])  # type: ignore[arg-type]

    assert number(away, 3, "optimal", "nll") == 0
    assert number(away, 3, "guess", "nll") == pytest.approx(by_hand.loc["nll", "difference"])
    assert number(away, 3, "guess", "nll_se") == pytest.approx(by_hand.loc["nll", "standard_error"])
    assert number(away, 3, "guess", "nll") > 4 * number(away, 3, "guess", "nll_se")
    turned = found.differences("guess")
    assert number(turned, 3, "optimal", "mse") == pytest.approx(-number(away, 3, "guess", "mse"))
    with pytest.raises(UnknownNameError, match=r"unknown learner 'gues'.*did you mean 'guess'"):
        found.differences("gues")


def test_a_learner_without_a_number_does_not_hide_the_others() -> None:
    known = once()
    cell = known.cells["guess", 3]
    lost = cell._replace(score=replace(cell.score, per_task=cell.score.per_task.assign(nll=np.nan)))
    both = replace(known, cells={("lost", 3): lost} | dict(known.cells), learners=("lost", *known.learners))

    assert number(both.differences(), 3, "guess", "nll") == number(known.differences(), 3, "guess", "nll")


@pytest.mark.changes_rng  # nn.Linear draws its weights
def test_posteriors_and_networks_stand_side_by_side() -> None:
    rng = np.random.default_rng(1)
    xs = [rng.uniform(-1, 1, 14) for _ in range(40)]
    tasks = bm.Tasks.from_lists(xs, [rng.normal(2, 1) * x + rng.normal(0, 1) + rng.normal(0, 0.2, 14) for x in xs])
    posterior = bm.fit(bm.families.linear(tasks), tasks[:25], progress=False)
    settings = bm.meta.MAML(shots=4, inner_steps=1, inner_learning_rate=0.1, steps=20, learning_rate=0.1)
    learner = bm.meta.fit(nn.Linear(1, 1).double(), tasks[:25], settings, progress=False)
    state = torch.get_rng_state()
    learners = {"posterior": posterior, "MAML": learner}
    found = bm.compare(learners, tasks[25:], shots=[0, 5], draws=50, progress=False)

    assert torch.equal(torch.get_rng_state(), state)
    assert number(found.table, 5, "posterior", "train_seconds") == posterior.info.seconds["total"]
    assert number(found.table, 5, "MAML", "train_seconds") == learner.seconds
    assert found["posterior", 5]["nll"] < found["MAML", 5]["nll"]
    assert found["posterior", 5]["nll"] < found["posterior", 0]["nll"] - 0.5
    adapted = posterior.adapt(held(tasks[25:], 5, seed=0).at(5), draws=50)
    by_hand = bm.score(adapted.predict(held(tasks[25:], 5, seed=0).query), held(tasks[25:], 5, seed=0).query)
    assert found["posterior", 5]["crps"] == pytest.approx(by_hand["crps"], rel=1e-6)


def test_a_learner_that_fails_is_left_out_with_the_reason() -> None:
    def broken(support: bm.Tasks, query: bm.Tasks) -> Guess:
        if int(support.sizes.max()) > 1:
            raise DataError("too much   is known")
        return Guess(support, query)

    found = bm.compare({"guess": Guess, "broken": broken}, ENV, shots=[1, 2], count=10, progress=False)

    assert math.isnan(number(found.table, 2, "broken", "nll"))
    assert number(found.table, 1, "broken", "nll") == number(found.table, 1, "guess", "nll")
    assert "broken, 2 shots: failed: too much is known" in found.remarks()
    assert "too much is known" in repr(found)
    assert "too much is known" in found._repr_html_()
    assert not found.interrupted
    with pytest.raises(NotAvailableError, match="'broken' has no score at 2 shots: too much is known"):
        found["broken", 2]
    with pytest.raises(BayesmetaError, match="no learner could be compared; the first, 'broken' at 2 shots"):
        bm.compare({"broken": broken}, ENV, shots=[2], count=10, progress=False)


def test_what_a_learner_warns_of_is_kept_and_not_shown() -> None:
    def warning(support: bm.Tasks, query: bm.Tasks) -> Guess:
        import warnings

        warnings.warn("k-hat is high", BayesmetaWarning, stacklevel=2)
        return Guess(support, query)

    found = bm.compare({"a": warning}, ENV, shots=[1], count=5, progress=False)
    assert found.remarks() == ["a, 1 shots: k-hat is high"]


# --- classes ------------------------------------------------------------------------------------------------


def nearest(support: bm.Tasks, query: bm.Tasks, sharp: float = 1.0) -> Tensor:
    """Probabilities by the distance to the means of classes."""
    out = []
    for name in query.names:
        task, x = support[name], query[name].x.flatten(1)
        centres = torch.stack([task.x.flatten(1)[task.y == c].mean(0) for c in task.y.unique()])
        out.append(torch.softmax(-sharp * torch.cdist(x, centres).square(), -1))
    return torch.stack(out)


def spots() -> Any:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(8, 4, 4))
    labels = np.arange(160) % 8
    return bm.data.Images.from_arrays(centres[labels] + rng.normal(0, 0.8, (160, 4, 4)), labels)


def test_classes_have_accuracy_and_their_calibration_error_beside_its_floor() -> None:
    learners = {"timid": lambda s, q: nearest(s, q, 0.02), "sharp": lambda s, q: nearest(s, q, 2.0)}
    found = bm.compare(learners, spots(), shots=[1, 5], count=30, ways=4, query=5, progress=False)
    table = found.table

    assert list(table.columns[:4]) == ["accuracy", "accuracy_se", "nll", "nll_se"]
    assert bool((table["accuracy"].xs(5) > table["accuracy"].xs(1)).all())
    assert number(table, 1, "timid", "accuracy") == number(table, 1, "sharp", "accuracy")
    assert number(table, 1, "sharp", "nll") > number(table, 5, "sharp", "nll")
    support, query = spots().tasks(30, ways=4, shots=5, query=5, seed=own_seed(0))
    by_hand = bm.score(nearest(support, query, 2.0), [task.y for task in query])
    assert number(table, 5, "sharp", "nll") == pytest.approx(by_hand["nll"])
    assert found["sharp", 5].per_task.index.tolist() == list(query.names)
    assert "ece (floor)" in repr(found)


def test_large_tasks_are_predicted_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"shots": [2], "count": 7, "ways": 4, "query": 3, "progress": False}
    whole = bm.compare({"near": nearest}, spots(), **options)
    asked = []

    def noted(support: bm.Tasks, query: bm.Tasks) -> Tensor:
        asked.append(len(query))
        return nearest(support, query)

    monkeypatch.setattr(measure, "AT_ONCE", 3 * 4 * 5 * 16)
    parts = bm.compare({"near": noted}, spots(), **options)
    assert asked[:3] == [3, 3, 1]
    assert parts["near", 2].table.equals(whole["near", 2].table)


@pytest.mark.changes_rng
def test_yes_or_no_counts_as_two_classes_beside_networks() -> None:
    """A Bernoulli mean is the probability of a one; numbers beside classes are refused."""
    rng = np.random.default_rng(2)
    xs = [rng.uniform(-2, 2, 20) for _ in range(24)]
    tasks = bm.Tasks.from_lists(xs, [(rng.uniform(-1, 1) + 2 * x > rng.logistic(size=20)).astype(float) for x in xs])
    net = nn.Linear(1, 2)
    settings = bm.meta.MAML(loss="cross_entropy", shots=5, inner_steps=1, steps=20)
    learner = bm.meta.fit(net, tasks[:12], settings, progress=False)

    def even(support: bm.Tasks, query: bm.Tasks) -> Any:
        guess = Guess(support, query)
        guess.mean = torch.full_like(guess.mean, 0.25)
        return guess

    found = bm.compare({"MAML": learner, "even": even}, tasks[12:], shots=[5], progress=False)
    ones = float(held(tasks[12:], 5, seed=0).query.y.mean())
    assert found["even", 5]["accuracy"] == pytest.approx(1 - ones)
    assert found["even", 5]["nll"] == pytest.approx(-ones * math.log(0.25) - (1 - ones) * math.log(0.75))
    far = bm.compare({"MAML": learner, "far": lambda s, q: _far(s, q)}, tasks[12:], shots=[5], progress=False)
    assert "it gives no probabilities of 2 classes: Guess predicts numbers" in far.remarks()[0]
    with pytest.raises(DataError, match="'p' predicts classes and 'guess' numbers: compare them apart"):
        bm.compare(
            {"p": lambda s, q: torch.full((len(q), 15, 2), 0.5), "guess": Guess}, tasks[12:], shots=[5], progress=False
        )


def _far(support: bm.Tasks, query: bm.Tasks) -> Guess:
    guess = Guess(support, query)
    guess.mean = guess.mean + 5
    return guess


# --- files --------------------------------------------------------------------------------------------------


def test_a_file_has_everything_and_needs_no_pickle(tmp_path: Path) -> None:
    found = once()
    found.save(tmp_path / "deep" / "found.npz")
    again = bm.Comparison.load(tmp_path / "deep" / "found.npz")

    assert again.table.equals(found.table)
    assert again["guess", 3].per_task.equals(found["guess", 3].per_task)
    assert repr(again) == repr(found)
    assert again.record == found.record
    check(again["guess", 3].plot())
    with np.load(tmp_path / "deep" / "found.npz", allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


def test_classes_come_back_from_a_file_too(tmp_path: Path) -> None:
    found = bm.compare({"near": nearest}, spots(), shots=[1], count=5, query=2, progress=False)
    found.save(tmp_path / "found.npz")
    again = bm.Comparison.load(tmp_path / "found.npz")

    assert again.table.equals(found.table)
    check(again["near", 1].plot())


def test_an_interrupted_comparison_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "found.npz"
    first = Owner(2.0)

    class Stopped(Owner):
        stop = True

        def guess(self, support: bm.Tasks, query: bm.Tasks) -> Guess:
            if self.stop and int(support.sizes.max()) == 3:
                raise KeyboardInterrupt
            return super().guess(support, query)

    second = Stopped()
    learners = {"first": first.guess, "second": second.guess}
    options: dict[str, Any] = {"shots": [1, 3], "count": 10, "path": path, "progress": False}
    with pytest.warns(BayesmetaWarning, match="interrupted: 3 of 4 were made"):
        part = bm.compare(learners, ENV, **options)
    assert part.interrupted
    assert "interrupted: 3 of 4 were made" in part.remarks()
    with pytest.raises(NotAvailableError, match="it was interrupted before that"):
        part["second", 3]
    second.stop = False
    whole = bm.compare(learners, ENV, **options)

    assert not whole.interrupted
    assert (first.asked, second.asked) == (2, 2)
    fresh = bm.compare(learners, ENV, **{**options, "path": None})
    for column in ("rmse", "nll", "ece", "ece_floor"):
        assert whole.table[column].equals(fresh.table[column])


def test_a_file_is_added_to_and_learners_that_changed_are_made_again(tmp_path: Path) -> None:
    path, owner, other = tmp_path / "found.npz", Owner(2.0), Owner(3.0)
    options: dict[str, Any] = {"count": 10, "path": path, "progress": False}
    bm.compare({"a": owner.guess, "b": other.guess}, ENV, shots=[1, 3], **options)
    owner = replace(owner, sd=4.0)
    found = bm.compare({"a": owner.guess}, ENV, shots=[1], **options)
    more = bm.compare({"b": other.guess, "c": Owner(5.0).guess}, ENV, shots=[3, 2], **options)

    assert found["a", 1]["width"] == pytest.approx(2 * 1.6448536 * 4.0)
    assert more.shots == (2, 3)
    assert other.asked == 3
    kept = bm.Comparison.load(path)
    assert set(kept.learners) == {"a", "b", "c"}
    assert set(kept.cells) == {("a", 1), ("b", 1), ("b", 3), ("b", 2), ("c", 2), ("c", 3)}
    with pytest.raises(FileFormatError, match="holds a comparison with another query, support: name another file"):
        bm.compare({"b": other.guess}, ENV, shots=[1], **{**options, "count": 9})
    with pytest.raises(FileFormatError, match="another query, seed, support"):
        bm.compare({"b": other.guess}, ENV, shots=[1], seed=3, **options)


def test_functions_that_cannot_be_known_again_are_made_again() -> None:
    assert identity(Guess) is None
    assert identity(lambda s, q: None) is None
    assert identity(ENV.optimal) == identity(bm.data.DKTSines().optimal)
    assert identity(ENV.optimal) != identity(replace(ENV, noise=0.2).optimal)


@pytest.mark.changes_rng  # nn.Linear draws its weights
def test_learners_are_known_again_by_their_weights() -> None:
    def trained(steps: int) -> bm.meta.Learner:
        settings = bm.meta.Pooled(shots=1, steps=steps)
        net = nn.Linear(1, 1)
        nn.init.zeros_(net.weight)
        nn.init.zeros_(net.bias)
        return bm.meta.fit(net, ENV.tasks(4, shots=3), settings, progress=False)

    assert identity(trained(2)) == identity(trained(2))
    assert identity(trained(2)) != identity(trained(3))


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "found.npz"
    with pytest.raises(NotAvailableError, match="there is no file"):
        bm.Comparison.load(path)
    path.write_text("no archive")
    with pytest.raises(FileFormatError, match="is not a comparison saved by bayesmeta"):
        bm.Comparison.load(path)
    np.savez(path, record=np.array('{"format": "other 1"}'))
    with pytest.raises(FileFormatError, match="has format 'other 1', this version reads 'bayesmeta comparison 1'"):
        compared(path=path)
    with pytest.raises(NotAvailableError, match="path: cannot write"):
        once().save(path / "below")


# --- pictures and options -----------------------------------------------------------------------------------


def test_a_line_for_each_learner_in_a_panel_for_each_metric() -> None:
    found = once()
    panels = found.plot()
    drawn = [check(panel) for panel in panels.reshape(-1)]

    assert panels.shape == (1, 2)
    assert [one.ylabel.split(" (")[0] for one in drawn] == ["root mean squared error", "-log p(y) per observation"]
    line = drawn[0].data("line", label="guess")
    assert np.allclose(line[:, 1], found.table["rmse"].xs("guess", level="learner"))
    bars = drawn[1].of("bars")
    half = 1.959964 * number(found.table, 1, "optimal", "nll_se")
    assert np.ptp(bars[0].y[:2]) == pytest.approx(2 * half)


def test_single_metrics_have_what_they_should_be_beside_them() -> None:
    found = once()
    covered = check(bm.plot.compare(found, metric="coverage"))
    error = check(bm.plot.compare(found, metric="ece", label="error"))

    assert covered.data("line", label="promised: 0.9")[0, 1] == 0.9
    assert error.ylabel == "error"
    floors = np.concatenate([item.y for item in error.of("points")])
    assert set(np.round(floors, 9)) >= set(np.round(found.table["ece_floor"], 9))
    assert "95% interval over tasks" in check(bm.plot.compare(found)).legend
    rows = check(bm.plot.compare(found.scores(3), metric="crps"))
    assert "units of y" in rows.xlabel


def test_what_cannot_be_drawn_is_refused() -> None:
    found = once()
    with pytest.raises(UnknownNameError, match="unknown metric 'accuracy'; valid: 'rmse'"):
        bm.plot.compare(found, metric="accuracy")
    with pytest.raises(OptionError, match="metric is empty"):
        found.plot([])
    with pytest.raises(OptionError, match="level must lie between 0 and 1"):
        found.plot(level=1.0)
    with pytest.raises(UnknownNameError, match="unknown number of shots"):
        found.scores(7)
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("learners", "options", "match"),
    [
        ({}, {}, "learners: got dict; wanted a learner by each name, and one at least"),
        ([Guess], {}, "learners: got list"),
        ({"a": 3}, {}, "learners: 'a' is of type int; wanted a posterior"),
        ({"a": Guess}, {"shots": []}, "shots is empty"),
        ({"a": Guess}, {"shots": [-1]}, "shots must be a whole number of at least 0, got -1"),
        ({"a": Guess}, {"level": 90}, "level must lie between 0 and 1, got 90"),
    ],
)
def test_settings_out_of_range_are_refused(learners: Any, options: Any, match: str) -> None:
    with pytest.raises(OptionError, match=match):
        bm.compare(learners, ENV, progress=False, **options)


def test_it_shows_itself() -> None:
    found = once()
    html = found._repr_html_()

    assert "Comparison of 2 learners on 20 tasks, 120 observations predicted" in repr(found)
    assert html.count("<b>") >= 8, "the best of each metric at each number of shots"
    assert "<b>guess" not in html


def test_new_tasks_are_not_those_that_the_same_seed_gives_for_training() -> None:
    train = ENV.tasks(20, shots=10, seed=0)
    asked: list[bm.Tasks] = []

    def noted(support: bm.Tasks, query: bm.Tasks) -> Guess:
        asked.append(query)
        return Guess(support, query)

    bm.compare({"guess": noted}, ENV, shots=[1], count=20, progress=False)
    assert not set(asked[0].x.flatten().tolist()) & set(train.x.flatten().tolist())


def test_tasks_that_a_posterior_was_fitted_to_are_refused_by_name() -> None:
    rng = np.random.default_rng(0)
    x = [rng.uniform(0, 1, 4) for _ in range(3)]
    tasks = bm.Tasks.from_lists(x, [1 + one + rng.normal(size=4) for one in x], names=["a", "b", "c"])
    posterior = bm.fit(bm.families.linear(tasks), tasks, bm.Laplace(draws=200), progress=False)
    with pytest.raises(DataError, match=r"3 of them have names of tasks that 'bayes' was fitted to.*with_names"):
        bm.compare({"bayes": posterior}, tasks, shots=[1], progress=False)
    named = tasks.with_names(["d", "e", "f"])
    assert bm.compare({"bayes": posterior}, named, shots=[1], progress=False).shots == (1,)


def test_a_learner_that_breaks_leaves_the_others_standing() -> None:
    def broken(support: bm.Tasks, query: bm.Tasks) -> Any:
        nothing: dict[str, int] = {}
        return nothing[support.names[0]]

    found = bm.compare({"broken": broken, "guess": Owner().guess}, ENV, shots=[1], count=5, progress=False)
    assert ("guess", 1) in found.cells
    assert "KeyError" in found.failed["broken", 1]


def test_what_may_have_changed_inside_is_made_again() -> None:
    class Loose:
        def guess(self) -> None:
            """Nothing that its repr would tell."""

    assert identity(Loose().guess) is None
    assert identity(Owner(2.0).guess) == identity(Owner(2.0).guess) != identity(Owner(3.0).guess)


def test_a_file_of_numbers_is_not_gone_on_with_where_classes_are_compared(tmp_path: Path) -> None:
    x = torch.randn(6, 12, 1, generator=torch.Generator().manual_seed(0))
    tasks = bm.Tasks.from_arrays(x, (x.squeeze(-1) > 0).double())
    options: dict[str, Any] = {"shots": [2], "path": tmp_path / "found.npz", "progress": False}
    bm.compare({"guess": Owner().guess}, tasks, **options)
    settings = bm.meta.MAML(loss="cross_entropy", shots=2, steps=2)
    with torch.random.fork_rng(devices=[]):
        learner = bm.meta.fit(torch.nn.Linear(1, 2), tasks, settings, progress=False)
    with pytest.raises(FileFormatError, match="holds a comparison with another classes"):
        bm.compare({"guess": Owner().guess, "maml": learner}, tasks, **options)
    assert set(bm.Comparison.load(tmp_path / "found.npz").learners) == {"guess"}


@pytest.mark.parametrize("seed", [-1, 0.5])
def test_a_seed_is_checked(seed: Any) -> None:
    with pytest.raises(OptionError, match="seed must be a whole number of at least 0"):
        bm.compare({"guess": Owner().guess}, ENV, seed=seed, progress=False)
