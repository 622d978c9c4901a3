"""Shots of each class, chunks of tasks, inner steps that are computed again: the same numbers as the plain way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bayesmeta as bm
from bayesmeta.errors import DataError
from bayesmeta.meta.episodes import Episodes, episodes


def labelled(labels: list[list[float]], seed: int = 0) -> bm.Tasks:
    """A task for each list of labels, x (n, 2) about a centre of its class."""
    rng = np.random.default_rng(seed)
    xs = [rng.normal(np.array(task)[:, None], 0.3, (len(task), 2)) for task in labels]
    return bm.Tasks.from_lists(xs, labels)


RAGGED = labelled([[0, 1, 2] * 3, [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2]])


# --- shots of each class ------------------------------------------------------------------------------------


def drawn(seed: int = 0, shots: int = 2) -> Episodes:
    return episodes(RAGGED, shots, seed, torch.float64, by_class=True)


def test_every_class_gives_as_many_rows_and_the_others_are_query() -> None:
    found = drawn()

    assert found.support.mask.all()
    assert found.support.x.shape == (2, 6, 2)
    for task, name in enumerate(RAGGED.names):
        assert torch.bincount(found.support.y[task].long()).tolist() == [2, 2, 2]
        real = found.query.mask[task]
        together = torch.cat([found.support.x[task], found.query.x[task][real]])
        assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, RAGGED[name].x.tolist()))


def test_a_seed_says_which_and_each_row_is_as_likely() -> None:
    assert torch.equal(drawn(3).support.x, drawn(3).support.x)
    counts = torch.zeros(5)
    last = RAGGED["1"].x[RAGGED["1"].y == 2]
    for seed in range(400):
        chosen = drawn(seed, shots=1).support
        row = chosen.x[1][chosen.y[1] == 2]
        counts[(last == row).all(1)] += 1
    assert float(((counts - 80) ** 2 / 80).sum()) < 18.5  # chi-squared of 4 degrees, one in a thousand


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([[0, 0, 1, 1], [0, 0, 0, 1]], r"task '1' has 1 observations of class 1, and 1 of 2 .* shots=1"),
        ([[0, 1, 0, 1], [0, 1, 2, 2]], r"task '0' has classes up to 1 and task '1' up to 2 \(1 of 2 tasks differ\)"),
        ([[0, 2, 0, 2]], "task '0' has no observation of class 1, though of class 2"),
        ([[0.5, 1, 0, 1]], "task '0' has an observation 0.5"),
        ([[-1, 1, 0, 1]], "task '0' has an observation -1"),
        ([[0, 964, 0, 964]], "task '0' has a class 964, with 4 observations in all"),
    ],
    ids=["too few", "different", "gap", "half", "negative", "original labels"],
)
def test_classes_that_cannot_be_drawn_from_are_named(labels: list[list[float]], words: str) -> None:
    with pytest.raises(DataError, match=words):
        episodes(labelled(labels), 1, 0, torch.float64, by_class=True)


def test_tasks_without_observations_or_with_several_numbers_a_row_have_no_classes() -> None:
    empty = RAGGED + bm.Tasks.without_observations(["new"], like=RAGGED)
    with pytest.raises(DataError, match="task 'new' has no observations: classes are told by observations"):
        episodes(empty, 1, 0, torch.float64, by_class=True)
    wide = bm.Tasks.from_arrays(torch.zeros(1, 4), torch.zeros(1, 4, 2))
    with pytest.raises(DataError, match=r"shape \(n, 2\).*one class a row"):
        episodes(wide, 1, 0, torch.float64, by_class=True)


def test_training_takes_its_shots_from_each_class() -> None:
    seen: list[torch.Tensor] = []

    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append(torch.tensor(y.shape))
        return -torch.log_softmax(out, -1).gather(-1, y.long().unsqueeze(-1)).squeeze(-1)

    settings = bm.meta.MAML(loss=loss, shots=1, by_class=True, inner_steps=1, steps=1)
    with torch.random.fork_rng(devices=[]):
        net = torch.nn.Linear(2, 3)
    bm.meta.fit(net, RAGGED, settings, progress=False)
    assert {int(shape[0]) for shape in seen} == {3, 9}
