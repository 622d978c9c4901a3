"""Prototypes by hand, the head that begins as they do, meta-gradients by finite differences; the network for images."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.errors import DataError, OptionError
from bayesmeta.meta import Conv4, ProtoMAML, ProtoNet
from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.episodes import Episodes, Rows, episodes
from bayesmeta.meta.flat import Flat
from bayesmeta.meta.module import Functional

ALGORITHMS: dict[str, Algorithm] = {
    "ProtoNet": ProtoNet(),
    "ProtoMAML": ProtoMAML(inner_steps=2, inner_learning_rate=0.1),
}


def network(inputs: int = 2, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def clouds(count: int = 4, ways: int = 3, each: int = 4, seed: int = 0) -> bm.Tasks:
    """Classes are clouds of points about centres of each task's own; rows are in no order."""
    rng = np.random.default_rng(seed)
    y = np.stack([rng.permutation(np.arange(ways).repeat(each)) for _ in range(count)])
    centres = rng.normal(0, 1.5, (count, ways, 2))
    x = centres[np.arange(count)[:, None], y] + rng.normal(0, 0.5, (*y.shape, 2))
    return bm.Tasks.from_arrays(x, y)


def trained(algorithm: Algorithm, tasks: bm.Tasks, steps: int = 1, rate: float = 1e-9) -> bm.meta.Learner:
    """A learner that has hardly moved, or has learnt."""
    return bm.meta.fit(network(), tasks, replace(algorithm, steps=steps, learning_rate=rate), progress=False)


# --- predictions ---------------------------------------------------------------------------------------------


def test_the_nearest_mean_of_features_is_predicted_by_distance() -> None:
    support, query = clouds(seed=1), clouds(each=2, seed=2)
    learner = trained(ProtoNet(), clouds())
    raw = learner.adapt(support).predict(query).raw
    net = Functional(network())

    for t, (one, other) in enumerate(zip(support, query, strict=True)):
        features = net(learner.weights, one.x)
        centres = [features[one.y == k].mean(0) for k in range(3)]
        for m, row in enumerate(net(learner.weights, other.x)):
            expected = torch.stack([-(row - centre).square().sum() for centre in centres])
            torch.testing.assert_close(raw[t, m], expected, rtol=1e-9, atol=1e-12)


def test_without_steps_proto_maml_predicts_as_prototypes_and_with_steps_better_on_its_support() -> None:
    support, query = clouds(seed=1), clouds(each=2, seed=2)
    prototypes = trained(ProtoNet(), clouds()).adapt(support)
    learner = trained(ProtoMAML(inner_learning_rate=0.1), clouds())

    expected = prototypes.predict(query).probabilities
    torch.testing.assert_close(learner.adapt(support, steps=0).predict(query).probabilities, expected)
    assert not torch.allclose(learner.adapt(support, steps=3).predict(query).probabilities, expected, atol=1e-3)
    losses = [learner.adapt(support, steps=k).predict(support).loss(support) for k in (0, 5)]
    assert bool((losses[1] < losses[0]).all())


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_what_a_class_is_called_makes_no_difference(name: str) -> None:
    support, query = clouds(seed=1), clouds(each=2, seed=2)
    other = torch.tensor([2.0, 0.0, 1.0], dtype=torch.float64)
    renamed = bm.Tasks(support.x, other[support.y.long()], support.offsets, support.names)
    learner = trained(ALGORITHMS[name], clouds())

    one, two = (learner.adapt(tasks).predict(query).probabilities for tasks in (support, renamed))
    torch.testing.assert_close(one, two[..., other.long()])


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_ragged_tasks_adapt_as_each_on_its_own(name: str) -> None:
    whole = clouds(3, each=4, seed=1)
    keep = [list(range(12)), [int((whole[1].y == k).nonzero()[0]) for k in range(3)], list(range(11))]
    pairs = list(zip(whole, keep, strict=True))
    ragged = bm.Tasks.from_lists([task.x[rows] for task, rows in pairs], [task.y[rows] for task, rows in pairs])
    learner = trained(ALGORITHMS[name], clouds())
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    together = learner.adapt(ragged).predict(x).probabilities
    alone = torch.cat([learner.adapt(ragged[[t]]).predict(x).probabilities for t in range(3)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_new_tasks_may_have_other_numbers_of_classes(name: str) -> None:
    learner = trained(ALGORITHMS[name], clouds(ways=3))
    support, query = clouds(ways=5, seed=1), clouds(ways=5, each=2, seed=2)

    predicted = learner.adapt(support).predict(query)
    assert predicted.probabilities.shape == (4, 10, 5)
    torch.testing.assert_close(predicted.probabilities.sum(-1), torch.ones(4, 10, dtype=torch.float64))
    assert learner.algorithm == replace(ALGORITHMS[name], steps=1, learning_rate=1e-9)


def test_what_no_task_changes_is_kept_once_for_all() -> None:
    tasks = clouds(seed=1)
    adapted = trained(ProtoNet(), clouds()).adapt(tasks)
    anil = trained(bm.meta.ANIL(loss="cross_entropy", by_class=True, shots=1), clouds()).adapt(tasks)

    assert {name: tuple(value.shape) for name, value in adapted.weights.items()} == {
        "0.weight": (4, 6, 2),
        "0.bias": (4, 6),
        "2.weight": (4, 3, 6),
        "2.bias": (4, 3),
        "prototypes": (4, 3, 3),
    }
    for found, own in ((adapted, {"prototypes"}), (anil, {"2.weight", "2.bias"})):
        copies = {name for name, value in found.members.items() if value.stride(0) > 0}
        assert copies == own


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_batches_and_watched_tasks_may_have_other_numbers_of_classes(name: str) -> None:
    """The loss of watched tasks is that of a learner which met no other kind."""
    watched = clouds(5, ways=2, each=3, seed=4)
    stream = bm.Stream(lambda seed: clouds(3, ways=2 + seed % 3, seed=seed), validation=watched)
    settings = replace(ALGORITHMS[name], steps=4, every=1, learning_rate=1e-12)
    mixed = bm.meta.fit(network(), stream, settings, progress=False)
    alone = bm.meta.fit(network(), bm.Stream(lambda seed: watched, validation=watched), settings, progress=False)

    assert mixed.curves["validation"] == pytest.approx(alone.curves["validation"], rel=1e-6)
    assert len(np.unique(mixed.curves["loss"].round(6))) > 1


# --- the meta-gradient ---------------------------------------------------------------------------------------


def gradient(algorithm: Algorithm) -> tuple[Flat, Tensor, Tensor, Episodes, Functional]:
    """The meta-parameters as a vector, the gradient there, and what it is of."""
    tasks, net = clouds(), Functional(network())
    known = algorithm.for_tasks(tasks)
    meta, found = known.begin(net), episodes(tasks, 2, seed=5, dtype=torch.float64, by_class=True)
    flat = Flat(meta)
    _, grad = known.value_and_grad(net, meta, found, torch.ones(4, dtype=torch.float64))
    return flat, flat.vector(meta), flat.vector(grad), found, net


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_the_meta_gradient_is_that_of_finite_differences(name: str) -> None:
    flat, u, grad, found, net = gradient(ALGORITHMS[name])
    known, weight = ALGORITHMS[name].for_tasks(clouds()), torch.ones(4, dtype=torch.float64)

    def value(u: Tensor) -> float:
        return float(known.value_and_grad(net, flat.named(u), found, weight)[0])

    for direction in torch.randn(3, len(u), generator=torch.Generator().manual_seed(1), dtype=torch.float64):
        slope = (value(u + 1e-5 * direction) - value(u - 1e-5 * direction)) / 2e-5
        assert slope == pytest.approx(float(grad @ direction), rel=1e-6, abs=1e-8)


def test_first_order_still_goes_through_the_head_that_the_support_makes() -> None:
    """Without a step the two orders are one and the same; a head taken as constant has another gradient."""
    begin = ProtoMAML(inner_steps=0)
    _, _, first, found, net = gradient(replace(begin, first_order=True))
    second = gradient(begin)[2]
    known, flat = begin.for_tasks(clouds()), Flat(net.weights)
    cut = torch.zeros_like(first)
    for t in range(4):
        support, query = (Rows(*(part[t] for part in rows)) for rows in found[:2])
        head = {k: v.detach() for k, v in known.adapted(net, net.weights, support, 0).items() if k not in net.weights}
        slope = torch.func.grad(lambda w, head=head, query=query: known.risk(net, w | head, query))(net.weights)
        cut += flat.vector(slope) / 4

    torch.testing.assert_close(first, second)
    assert float((first - cut).norm() / first.norm()) > 0.2
    steps = replace(ALGORITHMS["ProtoMAML"], first_order=True)  # type: ignore[call-arg]
    assert not torch.allclose(gradient(steps)[2], gradient(ALGORITHMS["ProtoMAML"])[2], rtol=1e-3)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_training_makes_new_tasks_easier(name: str) -> None:
    """Of six coordinates two tell the classes apart, the others are noise."""
    rng = np.random.default_rng(3)

    def tasks(count: int) -> bm.Tasks:
        y = np.arange(3).repeat(6)[None].repeat(count, 0)
        x = rng.normal(0, 1, (count, 18, 6))
        x[..., :2] += rng.normal(0, 2, (count, 3, 2))[np.arange(count)[:, None], y]
        return bm.Tasks.from_arrays(x, y)

    train, (support, query) = tasks(40), _split(tasks(100), 1)
    settings = replace(ALGORITHMS[name], learning_rate=0.02)
    losses = []
    for steps in (1, 80):
        learner = bm.meta.fit(network(6), train, replace(settings, steps=steps), progress=False)
        losses.append(learner.adapt(support).predict(query).loss(query))
    gain = losses[0] - losses[1]
    assert float(gain.mean()) > 4 * float(gain.std()) / math.sqrt(len(gain))


def _split(tasks: bm.Tasks, shots: int) -> tuple[bm.Tasks, bm.Tasks]:
    found = episodes(tasks, shots, seed=1, dtype=torch.float64, by_class=True)
    support, query = (bm.Tasks.from_arrays(rows.x, rows.y) for rows in found[:2])
    return support, query


# --- what goes wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ProtoNet, ProtoMAML])
def test_settings_are_for_classes(kind: type[ProtoNet] | type[ProtoMAML]) -> None:
    for options in ({"loss": "mse"}, {"by_class": False}):
        with pytest.raises(OptionError, match=rf"{kind.__name__} predicts classes: it wants by_class=True"):
            kind(**options)
    with pytest.raises(OptionError, match="ways must be a whole number of at least 2, got 1"):
        kind(ways=1)


def test_tasks_that_have_not_the_same_classes_are_refused() -> None:
    learner = trained(ProtoNet(), clouds())
    y = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    with pytest.raises(DataError, match=r"task '1' has classes up to 1 and task '0' up to 2"):
        learner.adapt(bm.Tasks.from_arrays(torch.zeros(2, 3, 2), y))
    with pytest.raises(DataError, match=r"task '0' has no observation of class 0"):
        learner.adapt(bm.Tasks.from_arrays(torch.zeros(2, 3, 2), y.clamp(min=1)[[0, 0]]))
    with pytest.raises(DataError, match=r"task 'new' has no observations"):
        learner.adapt(bm.Tasks.without_observations(["new"], like=clouds()))
    with pytest.raises(DataError, match=r"tasks have 3 classes each and the setting is ways=4"):
        trained(ProtoNet(ways=4), clouds())


# --- the network ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "size", "halve", "features"),
    [(1, 28, "pool", 64), (1, 28, "stride", 256), (3, 84, "pool", 1600), (1, 8, "pool", 64), (1, 5, "stride", 64)],
)
def test_four_blocks_halve_the_image(channels: int, size: int, halve: str, features: int) -> None:
    net = Conv4(channels, size=size, halve=halve)  # type: ignore[arg-type]

    assert net.features == features
    assert net(torch.zeros(2, channels, size, size)).shape == (2, features)
    convolutions = 9 * 64 * channels + 3 * 9 * 64 * 64 + 4 * 64
    assert sum(weight.numel() for weight in net.parameters()) == convolutions + 4 * 2 * 64
    assert Conv4(channels, size=size, blocks=1, halve=halve).features == 64 * ((size + (halve == "stride")) // 2) ** 2  # type: ignore[arg-type]
    assert Conv4(channels, 7, size=size, filters=8)(torch.zeros(2, channels, size, size)).shape == (2, 7)


def test_weights_are_those_of_the_seed() -> None:
    one, two, other = (Conv4(seed=seed, filters=8) for seed in (1, 1, 2))

    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


def test_by_batch_an_image_depends_on_the_others_and_by_group_it_does_not() -> None:
    x = torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    for norm, alone in (("batch", False), ("group", True), ("none", True)):
        net = Conv4(size=16, filters=16, norm=norm)  # type: ignore[arg-type]
        assert torch.allclose(net(x)[:3], net(x[:3]), atol=1e-5) is alone


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_tasks_go_through_it_together_as_one_by_one(norm: str) -> None:
    net = Functional(Conv4(ways=3, size=8, filters=8, norm=norm).double())  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 4, 1, 8, 8, generator=generator, dtype=torch.float64)
    weights = {
        k: v + 0.1 * torch.randn(3, *v.shape, generator=generator, dtype=v.dtype) for k, v in net.weights.items()
    }

    together = torch.func.vmap(net)(weights, x)
    alone = [net({name: value[t] for name, value in weights.items()}, x[t]) for t in range(3)]
    torch.testing.assert_close(together, torch.stack(alone))
    assert net.head() == ("head.weight", "head.bias")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "layer"}, "unknown norm 'layer'; valid: 'batch', 'group', 'none'"),
        ({"halve": "half"}, "unknown halve 'half'"),
        ({"filters": 12, "norm": "group"}, "a multiple of 8 filters, got 12"),
        ({"size": 0}, "size must be a whole number of at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Conv4(**options)  # type: ignore[arg-type]


# --- the digits ----------------------------------------------------------------------------------------------


def nearest_pixels(support: bm.Tasks, query: bm.Tasks) -> Tensor:
    """The share of each task's images whose class has the nearest mean image (T,)."""
    shares = []
    for one, other in zip(support, query, strict=True):
        means = torch.stack([one.x[one.y == k].mean(0) for k in range(5)])
        nearest = (other.x.unsqueeze(1) - means).square().flatten(2).sum(-1).argmin(1)
        shares.append((nearest == other.y).double().mean())
    return torch.stack(shares)


def test_five_digits_that_were_never_seen_are_told_apart_better_than_by_their_pixels() -> None:
    train, test = bm.data.digits().split(5, seed=3)
    net = Conv4(size=8, filters=32, blocks=2, norm="group")
    settings = ProtoNet(steps=60, learning_rate=3e-3)
    learner = bm.meta.fit(net, train.with_rotations().stream(20, 1, 3, batch=2), settings, progress=False)
    support, query = test.tasks(200, ways=5, shots=1, query=10, seed=1)
    right = learner.adapt(support).predict(query).probabilities.argmax(-1) == query.y.reshape(200, 50)
    share = right.double().mean(1)
    gain = share - nearest_pixels(support, query)

    assert float(share.mean()) > 0.6
    assert float(gain.mean()) > 3 * float(gain.std()) / math.sqrt(len(gain))
