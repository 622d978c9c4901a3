"""Baselines: what they learn, what of it a new task changes, and that adapting by tasks beats them where it should."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.errors import OptionError
from bayesmeta.meta.baselines import labelled
from bayesmeta.meta.episodes import Episodes, Rows, rows_of
from bayesmeta.meta.flat import Flat
from bayesmeta.meta.module import Functional

FromScratch, Pooled, Pretrained = bm.meta.FromScratch, bm.meta.Pooled, bm.meta.Pretrained


def linear(outputs: int = 1, inputs: int = 1) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(inputs, outputs).double()


def lines(count: int, seed: int = 0, spread: float = 1.0) -> bm.Tasks:
    """Straight lines with slopes about 2, six rows each."""
    rng = np.random.default_rng(seed)
    xs = [rng.uniform(-1, 1, 6) for _ in range(count)]
    return bm.Tasks.from_lists(xs, [rng.normal(2, spread) * x + rng.normal(0, 0.05, 6) for x in xs])


def one(tasks: bm.Tasks) -> Rows:
    return Rows(*(part[0] for part in rows_of(tasks, torch.float64)))


def test_pooled_is_the_least_squares_line_of_all_rows() -> None:
    tasks = lines(20)
    settings = Pooled(shots=3, steps=120, learning_rate=0.15)
    learner = bm.meta.fit(linear(), tasks, settings, progress=False)
    design = np.c_[tasks.x.numpy(), np.ones(tasks.n_observations)]
    slope, level = np.linalg.lstsq(design, tasks.y.numpy(), rcond=None)[0]

    assert float(learner.weights["weight"]) == pytest.approx(slope, abs=0.01)
    assert float(learner.weights["bias"]) == pytest.approx(level, abs=0.01)
    predicted = learner.adapt(lines(3, seed=1)).predict(torch.tensor([1.0]))
    assert torch.equal(predicted.mean, predicted.mean[:1].expand(3, 1)), "a new task changes nothing"


@pytest.mark.parametrize("algorithm", [Pooled(shots=2), Pretrained(shots=2)], ids=["pooled", "pretrained"])
def test_their_objective_is_the_loss_of_all_rows_before_any_step(algorithm: Any) -> None:
    net = Functional(linear())
    rows = one(lines(1))
    support, query = (Rows(*(part[cut] for part in rows)) for cut in (slice(2), slice(2, None)))
    value = algorithm.objective(net, net.weights, Episodes(support, query, torch.zeros(0)))

    expected = (net(net.weights, rows.x).squeeze(1) - rows.y).square().mean()
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("kind", [Pretrained, FromScratch])
def test_new_tasks_take_plain_gradient_steps(kind: Any) -> None:
    net, rows = Functional(linear()), one(lines(1))
    weight, bias = (net.weights[name].clone().reshape(()) for name in ("weight", "bias"))
    for _ in range(3):
        error = weight * rows.x + bias - rows.y
        weight, bias = weight - 0.2 * (error * rows.x).mean(), bias - 0.2 * error.mean()
    found = kind(inner_learning_rate=0.1).adapted(net, net.weights, rows, 3)

    torch.testing.assert_close(found["weight"].reshape(()), weight)
    torch.testing.assert_close(found["bias"].reshape(()), bias)


def test_from_scratch_learns_nothing_from_other_tasks_but_how_large_errors_are() -> None:
    net, tasks = linear(), lines(40)
    settings = FromScratch(shots=3, inner_steps=20, inner_learning_rate=0.1, batch_size=40, steps=5)
    learner = bm.meta.fit(net, tasks, settings, progress=False)
    start = Functional(net).weights

    assert all(torch.equal(value, start[name]) for name, value in learner.weights.items())
    support, query = lines(200, seed=1).split(3)
    predicted = learner.adapt(support).predict(query)
    error = float((predicted.mean - query.y.reshape(200, 3)).square().mean().sqrt())
    assert learner.noise == pytest.approx(error, rel=0.3)


@pytest.mark.long
def test_fine_tuning_lies_between_pooling_and_learning_to_adapt() -> None:
    """Slopes differ little by task: starting from what tasks have in common is most of it, adapting the rest."""
    train, (support, query) = lines(60, spread=0.3), lines(200, seed=1, spread=0.3).split(3)
    shared: dict[str, Any] = {"shots": 3, "steps": 300, "learning_rate": 0.05, "inner_steps": 10}
    settings = {
        "scratch": FromScratch(inner_steps=10, inner_learning_rate=0.2, shots=3, steps=1),
        "pooled": Pooled(**shared),
        "pretrained": Pretrained(**shared, inner_learning_rate=0.2),
        "MAML": bm.meta.MAML(**shared, inner_learning_rate=0.2),
    }
    losses = {}
    for name, algorithm in settings.items():
        learner = bm.meta.fit(linear(), train, algorithm, progress=False)
        losses[name] = float(learner.adapt(support).predict(query).loss(query).mean())

    assert losses["scratch"] > 2 * losses["pooled"]
    assert losses["pretrained"] < 0.8 * losses["pooled"]
    assert losses["MAML"] < 1.05 * losses["pretrained"]


# --- classes ------------------------------------------------------------------------------------------------


def stripes(classes: int = 12, each: int = 12) -> Any:
    """Images with a bright line at an angle of each class's own, in noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:10j, -1:1:10j]
    pixels, labels = [], []
    for k in range(classes):
        angle = np.pi * k / classes
        line = np.exp(-8 * (np.cos(angle) * x + np.sin(angle) * y) ** 2)
        pixels += [line + rng.normal(0, 0.3, (10, 10)) for _ in range(each)]
        labels += [k] * each
    return bm.data.Images.from_arrays(np.stack(pixels), labels)


def perceptron(outputs: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(100, 16), nn.ReLU(), nn.Linear(16, outputs)).double()


def test_a_new_head_has_an_output_for_each_class_of_a_new_task_and_starts_at_zero() -> None:
    net = Functional(perceptron(8))
    support, _ = stripes().tasks(2, ways=3, shots=2, query=1)
    algorithm = Pretrained(loss="cross_entropy", new_head=True).for_tasks(support)
    rows = one(support)
    untouched = algorithm.adapted(net, net.weights, rows, 0)

    assert algorithm.ways == 3
    assert untouched["3.weight"].shape == (3, 16)
    assert not untouched["3.weight"].any()
    assert algorithm.forward(net, untouched, rows.x).shape == (6, 3)
    frozen = replace(algorithm, frozen=True).adapted(net, net.weights, rows, 5)
    assert torch.equal(frozen["1.weight"], net.weights["1.weight"])
    assert frozen["3.weight"].any()
    moved = algorithm.adapted(net, net.weights, rows, 5)
    assert not torch.equal(moved["1.weight"], net.weights["1.weight"])


def test_classes_are_learnt_first_and_new_ones_after() -> None:
    train, new = stripes().split(8, seed=1)
    settings = Pretrained(
        loss="cross_entropy", new_head=True, steps=120, learning_rate=0.02, inner_learning_rate=0.1, shots=1
    )
    learner = bm.meta.fit(perceptron(train.n_classes), labelled(train, 64), settings, progress=False)
    support, query = new.tasks(60, ways=4, shots=1, query=3, seed=5)
    result = bm.score(learner.adapt(support).predict(query), query)
    scratch = bm.meta.fit(perceptron(4), train.stream(4, 1, 3), _scratch(), progress=False)
    other = bm.score(scratch.adapt(support).predict(query), query)

    assert result["accuracy"] > 0.6
    assert result["accuracy"] > other["accuracy"] > 0.3


def _scratch() -> Any:
    return FromScratch(loss="cross_entropy", shots=1, by_class=True, steps=1, inner_learning_rate=0.1)


def test_labelled_images_are_those_of_their_class_rotations_too() -> None:
    images = stripes(4, 3).with_rotations()
    batch = labelled(images, 64).batch(0)

    for image, label in zip(batch.x, batch.y, strict=True):
        of_class = images.of(images.names[int(label)])
        assert any(torch.equal(image, known) for known in of_class)
    assert len(set(batch.y.tolist())) > 12
    assert not torch.equal(batch.y, labelled(images, 64).batch(1).y)
    assert torch.equal(batch.x, labelled(images, 64).batch(0).x)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(OptionError, match=r"new_head=True is for classes: it wants loss='cross_entropy'"):
        Pretrained(new_head=True)
    with pytest.raises(OptionError, match="size"):
        labelled(stripes(3, 2), 1)


def test_the_gradient_of_pooling_is_that_of_finite_differences() -> None:
    net, tasks = Functional(perceptron(1)), 2
    x = torch.randn(tasks, 5, 10, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = x.mean((2, 3))
    real = torch.ones_like(y).bool()
    support, query = (Rows(x[:, cut], y[:, cut], real[:, cut]) for cut in (slice(2), slice(2, 5)))
    episodes = Episodes(support, query, torch.zeros(tasks, 0))
    flat, weight = Flat(net.weights), torch.tensor([1.0, 3.0], dtype=torch.float64)
    u = flat.vector(net.weights)

    def value(u: Tensor) -> Tensor:
        return Pooled().value_and_grad(net, flat.named(u), episodes, weight)[0]

    grad = flat.vector(Pooled().value_and_grad(net, net.weights, episodes, weight)[1])
    direction = torch.randn(len(u), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    slope = (value(u + 1e-5 * direction) - value(u - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close(slope, grad @ direction, rtol=1e-5, atol=1e-8)
