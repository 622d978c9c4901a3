"""Scores of class probabilities against an independent loop; what is wrong is found out, and what is right is not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.diagnose.classes import class_score
from bayesmeta.diagnose.metrics import score, score_table
from bayesmeta.errors import DataError, NotAvailableError
from tests.plot_records import check


@pytest.fixture(autouse=True)
def figures_are_closed() -> Iterator[None]:
    yield
    plt.close("all")


def predicted(tasks: int = 40, m: int = 15, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities (T, m, classes), and classes (T, m) that were drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.softmax(2 * torch.randn(tasks, m, classes, generator=generator, dtype=torch.float64), -1)
    y = torch.multinomial(p.reshape(-1, classes), 1, generator=generator).reshape(tasks, m)
    return p, y


def sharpened(p: Tensor, by: float) -> Tensor:
    return torch.softmax(by * p.log(), -1)


class Ragged:
    """Predictions of two inputs of one task and one of another."""

    names = ("a", "b")
    probabilities = torch.tensor(
        [[[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], [[0.3, 0.4, 0.3], [math.nan] * 3]], dtype=torch.float64
    )


def test_the_table_is_that_of_a_plain_loop() -> None:
    p, y = predicted(tasks=6, m=4, classes=3)
    rows = [(p[t, i].tolist(), int(y[t, i])) for t in range(6) for i in range(4)]

    result = score(p, y)

    assert result["accuracy"] == pytest.approx(np.mean([max(range(3), key=row.__getitem__) == c for row, c in rows]))
    assert result["nll"] == pytest.approx(-np.mean([math.log(row[c]) for row, c in rows]))
    squares = [sum((row[k] - (k == c)) ** 2 for k in range(3)) for row, c in rows]
    assert result["brier"] == pytest.approx(np.mean(squares))
    nll = torch.tensor([-math.log(row[c]) for row, c in rows]).reshape(6, 4).mean(1)
    assert result.table["standard_error"]["nll"] == pytest.approx(float(nll.std()) / math.sqrt(6), rel=1e-5)
    assert result["ece"] == pytest.approx(_calibration_error(rows))
    assert "24 observations of 6 tasks, 3 classes" in repr(result)
    assert "accuracy" in result._repr_html_()


def _calibration_error(rows: list[tuple[list[float], int]]) -> float:
    """In 15 bins of the largest probability, as it is written down in words."""
    bins: dict[int, list[tuple[float, float]]] = {}
    for row, c in rows:
        bins.setdefault(min(14, int(max(row) * 15)), []).append((max(row), float(row.index(max(row)) == c)))
    gaps = (abs(sum(right for _, right in found) - sum(conf for conf, _ in found)) for found in bins.values())
    return sum(gaps) / len(rows)


def test_ragged_tasks_count_by_their_observations() -> None:
    result = score(Ragged(), [[0, 1], [1]])

    assert result["nll"] == pytest.approx(-(math.log(0.7) + math.log(0.1) + math.log(0.4)) / 3)
    assert result.per_task["n"].to_dict() == {"a": 2, "b": 1}
    assert result.per_task["accuracy"].to_dict() == {"a": 0.5, "b": 1.0}
    tasks = bm.Tasks.from_lists([[0.0], [0.0, 1.0]], [[1], [0, 1]], names=["b", "a"])
    assert score(Ragged(), tasks).table.equals(result.table)


def test_a_right_prediction_has_what_it_promises_and_the_calibration_of_its_floor() -> None:
    results = [score(*predicted(seed=seed)) for seed in range(30)]

    for metric in ("accuracy", "nll", "brier"):
        tables = [result.table.loc[metric] for result in results]
        z = np.array([(row["value"] - row["perfect"]) / row["standard_error"] for row in tables], dtype=float)
        assert abs(z.mean()) < 4 / math.sqrt(30), metric
        assert 0.6 < z.std() < 1.5, metric
    away = np.array([(one.ece - one.ece_floor) / one.ece_spread for one in results])
    assert abs(away.mean()) < 4 / math.sqrt(30)


@pytest.mark.parametrize("by", [0.3, 2.5], ids=["timid", "overconfident"])
def test_a_wrong_prediction_is_found_out(by: float) -> None:
    p, y = predicted(tasks=60)
    right, wrong = score(p, y), score(sharpened(p, by), y)

    assert wrong.ece > wrong.ece_floor + 8 * wrong.ece_spread
    assert right.ece < right.ece_floor + 4 * right.ece_spread
    difference = wrong.minus(right)
    assert difference.loc["accuracy", "difference"] == 0
    for metric in ("nll", "brier"):
        value, error = (float(difference.loc[metric, name]) for name in ("difference", "standard_error"))  # type: ignore[arg-type]
        assert value > 4 * error, metric
        assert value == pytest.approx(wrong[metric] - right[metric])


def test_a_calibrated_prediction_that_knows_nothing_is_told_by_its_log_score() -> None:
    p, y = predicted()
    flat = torch.full_like(p, 0.2)
    y = torch.arange(y.numel()).reshape(y.shape) % 5  # of each class as many
    result = score(flat, y)

    assert result["nll"] == pytest.approx(math.log(5))
    assert result.ece == pytest.approx(0.0, abs=1e-12)


def test_paired_differences_need_the_same_tasks() -> None:
    p, y = predicted()
    with pytest.raises(DataError, match="the two scores are of different tasks or observations"):
        score(p, y).minus(score(p[:3], y[:3]))


def test_zero_probabilities_stay_numbers() -> None:
    p = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    result = score(p, [[0, 0]])

    assert math.isfinite(result["nll"])
    assert result["nll"] > 300
    assert result.table.loc["nll", "perfect"] == 0


@pytest.mark.parametrize(
    ("p", "y", "match"),
    [
        (torch.ones(1, 2), [[0, 1]], r"shape \(1, 2\); wanted probabilities of classes"),
        (torch.ones(1, 2, 3), [[0, 1]], "not at least 0 with a sum of 1.*softmax"),
        (torch.full((1, 2, 2), 0.5), [[0, 2]], "y has 2; wanted classes as whole numbers from 0 to 1"),
        (torch.full((1, 2, 2), 0.5), [[0, 0.5]], "y has 0.5; wanted classes"),
        (torch.full((1, 2, 2), 0.5), [[0, 1], [1, 1]], "y is for 2 tasks, predicted are 1"),
        (torch.full((1, 2, 2), 0.5), [[0, 1, 1]], r"y has shape \(3,\), predicted \(2,\)"),
        (torch.full((1, 2, 2), 0.5), [[]], "y is empty"),
    ],
    ids=["no classes", "logits", "no such class", "no number", "tasks", "rows", "nothing"],
)
def test_what_cannot_be_judged_is_refused(p: Tensor, y: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        class_score(p, y)


def test_nothing_to_predict_classes_from() -> None:
    with pytest.raises(DataError, match="got Level; wanted probabilities of classes"):
        class_score(Level(), [[0]])


class Level:
    """Predicts no classes, and says so."""

    @property
    def probabilities(self) -> Tensor:
        raise NotAvailableError("no classes")


def test_scores_stand_side_by_side() -> None:
    p, y = predicted()
    scores = {"right": score(p, y), "overconfident": score(sharpened(p, 3.0), y)}
    table = score_table(scores)

    assert list(table.columns)[:4] == ["accuracy", "accuracy_se", "nll", "nll_se"]
    drawn = check(bm.plot.compare(scores))
    assert next(item.label for item in drawn.of("text")) == "best"
    ax = bm.plot.compare(scores, metric="accuracy")
    assert "higher is better" in check(ax).xlabel


def test_reliability_is_drawn_against_what_right_probabilities_would_do() -> None:
    p, y = predicted(tasks=100)
    right = score(p, y)
    drawn = check(right.plot())
    there = right.reliability.size.numpy() > 0

    assert "likeliest class" in drawn.xlabel
    points = drawn.data("points")
    assert np.allclose(points, np.c_[right.reliability.probability, right.reliability.share][there])
    assert np.allclose(check(bm.plot.calibration(p_of(p), y)).data("points"), points)
    with pytest.raises(NotAvailableError, match=r"classes have no order.*kind='reliability'"):
        bm.plot.calibration(right, kind="ecdf")


def p_of(p: Tensor) -> Any:
    class Prediction:
        probabilities = p

    return Prediction()


def test_a_seed_says_it_all_and_global_numbers_are_left_alone() -> None:
    state = torch.get_rng_state()
    one, two = score(*predicted(), seed=3), score(*predicted(), seed=3)

    assert one.ece_floor == two.ece_floor
    assert torch.equal(torch.get_rng_state(), state)
