"""Shots of each class, chunks of tasks, inner steps that are computed again: the same numbers as the plain way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import bayesmeta as bm
from bayesmeta.errors import BayesmetaError, DataError, OptionError
from bayesmeta.meta.episodes import Episodes, Rows, episodes, rows_of
from bayesmeta.meta.flat import Flat
from bayesmeta.meta.module import Functional
from bayesmeta.meta.training import chunks
from bayesmeta.meta.training.chunks import at_once, in_chunks, parts, peak_bytes
from bayesmeta.meta.training.climb import Climb
from bayesmeta.meta.training.feed import Part
from bayesmeta.meta.training.recompute import recomputed


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


def test_rows_are_those_of_the_tasks_in_their_order() -> None:
    for tasks in (RAGGED, RAGGED[[1, 0]], images()):
        rows = rows_of(tasks, torch.float32)
        assert rows.mask.sum(1).tolist() == tasks.sizes.tolist()
        for t, task in enumerate(tasks):
            assert torch.equal(rows.x[t][rows.mask[t]], task.x.float())
            assert torch.equal(rows.y[t][rows.mask[t]], task.y.float())


# --- a few tasks at a time ----------------------------------------------------------------------------------


def conv_net(ways: int = 3) -> bm.meta.Conv4:
    return bm.meta.Conv4(1, ways, size=8, filters=4, norm="group").double()


def images(count: int = 5, rows: int = 9, seed: int = 0) -> bm.Tasks:
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(3.0), (count, rows // 3))
    return bm.Tasks.from_arrays(rng.normal(labels[:, :, None, None, None], 1.0, (count, rows, 1, 8, 8)), labels)


def climbed(weight: torch.Tensor, **settings: Any) -> tuple[Climb, torch.Tensor, torch.Tensor]:
    """Value and gradient of a batch of five image tasks."""
    algorithm = bm.meta.MAML(loss="cross_entropy", inner_steps=2, inner_learning_rate=0.1, steps=1, **settings)
    net = Functional(conv_net())
    flat = Flat(net.weights)
    climb = Climb(algorithm, net, flat)
    found = episodes(images(), 1, 0, torch.float64, by_class=True)
    value, grad = climb(flat.vector(net.weights).unsqueeze(0), Part(found, weight, 0))
    return climb, value, grad


@pytest.mark.parametrize("chunk", [1, 2, 4, 5, 50])
def test_parts_of_a_batch_have_the_gradient_of_the_whole(chunk: int) -> None:
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.5], dtype=torch.float64)
    _, value, grad = climbed(weight, chunk=5)
    climb, other, slope = climbed(weight, chunk=chunk)

    assert climb.chunk is not None
    assert climb.chunk <= chunk
    torch.testing.assert_close(other, value, rtol=1e-12, atol=0)
    torch.testing.assert_close(slope, grad, rtol=1e-10, atol=1e-13)


def test_parts_are_all_but_equal() -> None:
    assert [part.stop - part.start for part in parts(10, 4)] == [3, 3, 4]
    assert [part.stop - part.start for part in parts(3, 50)] == [3]


def test_as_many_tasks_as_memory_holds_go_through_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Functional(conv_net())
    rows = rows_of(images(20), torch.float64)

    def one(x: torch.Tensor) -> torch.Tensor:
        return net(net.weights, x)

    counted = torch.func.vmap(one)
    two = peak_bytes(counted, (rows.x[:2],))
    assert two > rows.x[:2].nbytes
    assert two < peak_bytes(counted, (rows.x,)) <= 10 * two
    monkeypatch.setattr(chunks, "BUDGET", 3 * two)
    assert at_once(net, counted, (rows.x,), "some") == 6
    monkeypatch.setattr(chunks, "BUDGET", 1)
    assert at_once(net, counted, (rows.x,), "one") == 1
    whole = torch.func.vmap(one)(rows.x)
    torch.testing.assert_close(in_chunks(net, one, (rows.x,), "one"), whole, rtol=1e-12, atol=1e-14)


def test_tasks_that_the_machine_cannot_hold_are_refused_before_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Functional(conv_net())
    rows, counted = rows_of(images(20), torch.float64), torch.func.vmap(lambda x: net(net.weights, x))
    two = peak_bytes(counted, (rows.x[:2],))
    monkeypatch.setattr(chunks, "_memory", lambda: two / chunks.SHARE + 1)
    assert peak_bytes(counted, (rows.x[:2],)) == two

    monkeypatch.setattr(chunks, "_memory", lambda: two / chunks.SHARE / 2)
    with pytest.raises(BayesmetaError, match=r"2 tasks take more than 0\.0 GiB, 60% of this machine's memory\. Take "):
        at_once(net, counted, (rows.x,), "too much")


def test_small_networks_are_not_measured() -> None:
    with torch.random.fork_rng(devices=[]):
        net = Functional(torch.nn.Linear(2, 3).double())
    rows = rows_of(RAGGED, torch.float64)
    assert at_once(net, lambda x: x, (rows.x,), "small") == 2
    assert net.peaks == {}


def test_adapting_in_chunks_is_adapting_at_once() -> None:
    support, query = images(7, 12).split(6)
    learners = [
        bm.meta.fit(
            conv_net(),
            images(),
            bm.meta.MAML(loss="cross_entropy", shots=1, by_class=True, inner_steps=1, steps=3, chunk=chunk),
            progress=False,
        )
        for chunk in (None, 2)
    ]
    found = [learner.adapt(support).predict(query).probabilities for learner in learners]
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("chunk", [0, 2.5])
def test_a_chunk_is_a_whole_number_of_tasks(chunk: Any) -> None:
    with pytest.raises(OptionError, match="chunk"):
        bm.meta.MAML(chunk=chunk)


# --- steps that are computed again --------------------------------------------------------------------------

FAMILY = {
    "MAML": bm.meta.MAML,
    "ANIL": bm.meta.ANIL,
    "BOIL": bm.meta.BOIL,
    "MetaSGD": bm.meta.MetaSGD,
    "MAML++": bm.meta.MAMLPlusPlus,
    "CAVIA": bm.meta.CAVIA,
    "ProtoMAML": bm.meta.ProtoMAML,
}


def small(inputs: int, outputs: int = 3) -> Functional:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = torch.nn.Linear(inputs, 5), torch.nn.Tanh(), torch.nn.Linear(5, outputs)
    return Functional(torch.nn.Sequential(*layers).double())


@pytest.mark.parametrize("name", FAMILY)
def test_computing_steps_again_gives_the_same_gradient(name: str) -> None:
    settings: dict[str, Any] = {"loss": "cross_entropy", "inner_steps": 3, "inner_learning_rate": 0.3}
    kept, again = (FAMILY[name](**settings, recompute=how).for_tasks(RAGGED) for how in (False, True))
    net, found, weight = small(7 if name == "CAVIA" else 2), drawn(), torch.tensor([1.0, 3.0], dtype=torch.float64)
    meta = kept.begin(net)
    value, grad = kept.value_and_grad(net, meta, found, weight)
    other, slope = again.value_and_grad(net, meta, found, weight)
    flat = Flat(meta)

    torch.testing.assert_close(other, value, rtol=1e-12, atol=0)
    torch.testing.assert_close(flat.vector(slope), flat.vector(grad), rtol=1e-10, atol=1e-13)
    assert float(flat.vector(grad).abs().max()) > 1e-3


def long_loop(steps: int, *, recompute: bool) -> int:
    """Bytes that a meta-gradient through so many inner steps takes."""
    algorithm = bm.meta.MAML(inner_steps=steps, inner_learning_rate=0.01, recompute=recompute)
    net, x = small(1, 1), torch.linspace(-1, 1, 500, dtype=torch.float64)
    rows = Rows(x.reshape(1, -1, 1), x.sin().unsqueeze(0), torch.ones(1, 500, dtype=torch.bool))
    found, weight = Episodes(rows, rows, torch.zeros(1, 0)), torch.ones(1, dtype=torch.float64)
    return peak_bytes(algorithm.value_and_grad, (net, net.weights, found, weight))


def test_memory_then_hardly_grows_with_inner_steps() -> None:
    assert long_loop(16, recompute=False) > 3 * long_loop(4, recompute=False)
    assert long_loop(16, recompute=True) < 1.2 * long_loop(4, recompute=True)


def test_what_is_computed_again_is_right_under_vmap_for_arguments_of_all_kinds() -> None:
    """Against the same function kept: some arguments shared, one a flag, one a number."""

    def function(values: dict[str, torch.Tensor], mask: torch.Tensor, power: int) -> dict[str, torch.Tensor]:
        return {"out": torch.where(mask, values["a"] ** power * values["b"], values["b"]).sum()}

    a, b = torch.arange(1.0, 7.0).double().reshape(2, 3), torch.tensor([0.5, -1.0, 2.0]).double()
    mask = torch.tensor([[True, False, True], [True, True, False]])

    def total(b: torch.Tensor, *, again: bool) -> torch.Tensor:
        def one(a: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            values = {"a": a, "b": b}
            return (recomputed(function, values, mask, 3) if again else function(values, mask, 3))["out"]

        return torch.func.vmap(one)(a, mask).sum()

    expected = torch.func.grad(lambda b: total(b, again=False))(b)
    torch.testing.assert_close(torch.func.grad(lambda b: total(b, again=True))(b), expected)


def test_memory_or_time() -> None:
    with pytest.raises(OptionError, match="recompute and compile do not go together"):
        bm.meta.MAML(recompute=True, compile=True)


# --- batch normalisation ------------------------------------------------------------------------------------


def normalised(norm: torch.nn.Module) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(2, 4), norm, torch.nn.Tanh(), torch.nn.Linear(4, 3)).double()


def test_what_is_said_of_a_row_depends_on_the_others_by_rows_alone() -> None:
    x, other = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other[0] = x[0]
    at_hand = Functional(normalised(torch.nn.BatchNorm1d(4, track_running_stats=False)))
    as_they_are = Functional(normalised(torch.nn.BatchNorm1d(4)).eval())

    assert (at_hand.by_rows, as_they_are.by_rows) == (True, False)
    assert not torch.allclose(at_hand(at_hand.weights, x)[0], at_hand(at_hand.weights, other)[0])
    torch.testing.assert_close(
        as_they_are(as_they_are.weights, x)[0], as_they_are(as_they_are.weights, other)[0], rtol=1e-12, atol=0
    )


def test_running_statistics_stay_as_they_are() -> None:
    net = normalised(torch.nn.BatchNorm1d(4))
    net(torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    kept = {name: value.clone() for name, value in net.named_buffers()}
    settings = bm.meta.MAML(loss="cross_entropy", shots=1, by_class=True, inner_steps=1, steps=3)
    learner = bm.meta.fit(net.eval(), RAGGED, settings, progress=False)

    assert all(torch.equal(value, kept[name]) for name, value in net.named_buffers())
    assert learner.adapt(RAGGED).predict(RAGGED).probabilities.shape == (2, 12, 3)


def test_padded_rows_are_not_normalised_by() -> None:
    net = normalised(torch.nn.BatchNorm1d(4, track_running_stats=False))
    settings = bm.meta.MAML(loss="cross_entropy", shots=1, by_class=True, inner_steps=1, steps=1)
    with pytest.raises(DataError, match="tasks have 6 to 9 observations, and batch normalisation would count"):
        bm.meta.fit(net, RAGGED, settings, progress=False)
    learner = bm.meta.fit(net, RAGGED[:1], settings, progress=False)
    with pytest.raises(DataError, match="tasks have 9 to 12 observations, and batch normalisation"):
        learner.adapt(RAGGED)
    nobody = bm.Tasks.without_observations(["new"], like=RAGGED)
    assert learner.adapt(RAGGED[:1] + nobody).names == ("0", "new")
    assert learner.chunk == 1


def test_maml_plus_plus_normalises_each_step_in_its_own_way() -> None:
    """The scale of step k is used after k inner steps, and does not adapt."""
    algorithm = bm.meta.MAMLPlusPlus(
        loss="cross_entropy", inner_steps=2, inner_learning_rate=0.3, norm_by_step=True, multi_step=0.0
    )
    net = Functional(normalised(torch.nn.LayerNorm(4)))
    meta, found = algorithm.begin(net), drawn()
    support = Rows(*(part[0] for part in found.support))
    start = algorithm.adapted(net, meta, support, 2)
    plain = bm.meta.MAML(loss="cross_entropy", inner_steps=2, inner_learning_rate=0.3)

    assert meta["by step, 1.weight"].shape == (3, 4)
    assert "rates of 1.weight" not in meta
    assert torch.equal(start["1.weight"], net.weights["1.weight"])
    assert not torch.equal(plain.adapted(net, net.weights, support, 2)["1.weight"], net.weights["1.weight"])
    slopes = algorithm.value_and_grad(net, meta, found, torch.ones(2, dtype=torch.float64))[1]
    assert (slopes["by step, 1.weight"].abs().amax(1) > 1e-6).all()
    last = meta | {"by step, 1.weight": meta["by step, 1.weight"] + torch.tensor([0.0, 0.0, 1.0]).unsqueeze(1)}
    after = algorithm.adapted(net, last, support, 2)
    torch.testing.assert_close(after["0.weight"], start["0.weight"], rtol=1e-12, atol=0)
    torch.testing.assert_close(after["1.weight"], start["1.weight"] + 1, rtol=1e-12, atol=0)
