"""Meta-gradients against finite differences, a plain loop and each other; training, adapting, and what goes wrong."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import archive
from bayesmeta.errors import (
    BayesmetaError,
    BayesmetaWarning,
    DataError,
    FileFormatError,
    HierarchyError,
    NotAvailableError,
    OptionError,
    UnknownNameError,
)
from bayesmeta.infer.ensemble_train import Trainer
from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.episodes import Episodes, Rows, episodes, rows_of
from bayesmeta.meta.flat import Flat
from bayesmeta.meta.hierarchy.feed import shuffled
from bayesmeta.meta.module import Functional, Weights
from bayesmeta.meta.training.climb import Climb
from bayesmeta.meta.training.feed import Part, feed_of
from bayesmeta.streams import seed_of

MAML, Reptile = bm.meta.MAML, bm.meta.Reptile
ALGORITHMS = {
    "MAML": MAML(inner_steps=3, inner_learning_rate=0.1),
    "ANIL": bm.meta.ANIL(inner_steps=3, inner_learning_rate=0.1),
    "BOIL": bm.meta.BOIL(inner_steps=3, inner_learning_rate=0.1),
    "MetaSGD": bm.meta.MetaSGD(inner_steps=3, inner_learning_rate=0.1),
    "MAML++": bm.meta.MAMLPlusPlus(inner_steps=3, inner_learning_rate=0.1).at(0.05),
    "CAVIA": bm.meta.CAVIA(inner_steps=3, size=2),
}


def network(outputs: int = 1, inputs: int = 1, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, outputs)).double()


def sines(count: int = 4, sizes: tuple[int, ...] = (7, 5, 9, 6), seed: int = 0) -> bm.Tasks:
    """Ragged sine waves with inputs (n, 1)."""
    rng = np.random.default_rng(seed)
    xs = [rng.uniform(-2, 2, (sizes[k % len(sizes)], 1)) for k in range(count)]
    return bm.Tasks.from_lists(xs, [rng.uniform(0.5, 2) * np.sin(x[:, 0] + rng.uniform(0, 3)) for x in xs])


def classes(count: int = 6) -> bm.Tasks:
    """Two classes on either side of a threshold of each task's own."""
    rng = np.random.default_rng(1)
    xs = [rng.uniform(-2, 2, (12, 1)) for _ in range(count)]
    return bm.Tasks.from_lists(xs, [(x[:, 0] > rng.uniform(-1, 1)).astype(float) for x in xs])


def parts(tasks: bm.Tasks, shots: int = 3) -> Episodes:
    return episodes(tasks, shots, seed=5, dtype=torch.float64)


def gradient(algorithm: Algorithm, tasks: bm.Tasks, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The meta-objective and its gradient as one vector, at the initial meta-parameters."""
    net = Functional(network(inputs=3 if isinstance(algorithm, bm.meta.CAVIA) else 1))
    meta, found = algorithm.begin(net), parts(tasks)
    weight = torch.ones(len(tasks), dtype=torch.float64) if weight is None else weight
    value, grad = algorithm.value_and_grad(net, meta, found, weight)
    return value, Flat(meta).vector(grad)


def by_plain_loop(algorithm: Algorithm, tasks: bm.Tasks) -> tuple[Tensor, Tensor]:
    """MAML as a textbook has it: a Python loop over tasks, real rows only, `torch.autograd` with create_graph."""
    net = Functional(network())
    leaves = {name: value.clone().requires_grad_(True) for name, value in net.weights.items()}
    episode, total = parts(tasks), torch.zeros((), dtype=torch.float64)
    for t in range(len(tasks)):
        (xs, ys), (xq, yq) = ((rows.x[t][rows.mask[t]], rows.y[t][rows.mask[t]]) for rows in episode[:2])
        weights: Weights = dict(leaves)
        for _ in range(algorithm.inner_steps):
            loss = (net(weights, xs).squeeze(-1) - ys).square().mean()
            slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            moved = zip(weights.items(), slopes, strict=True)
            weights = {name: value - algorithm.inner_learning_rate * slope for (name, value), slope in moved}
        total = total + (net(weights, xq).squeeze(-1) - yq).square().mean() / len(tasks)
    grads = torch.autograd.grad(total, list(leaves.values()))
    return total.detach(), torch.cat([grad.reshape(-1) for grad in grads])


# --- the meta-gradient --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_the_meta_gradient_is_that_of_finite_differences(name: str) -> None:
    algorithm, net = ALGORITHMS[name], Functional(network(inputs=3 if name == "CAVIA" else 1))
    meta, found = algorithm.begin(net), parts(sines())
    flat, weight = Flat(meta), torch.ones(4, dtype=torch.float64)
    u = flat.vector(meta)
    _, grad = gradient(algorithm, sines())

    def value(u: Tensor) -> float:
        return float(algorithm.value_and_grad(net, flat.named(u), found, weight)[0])

    for direction in torch.randn(3, len(u), generator=torch.Generator().manual_seed(1), dtype=torch.float64):
        step = 1e-5 * direction
        slope = (value(u + step) - value(u - step)) / 2e-5
        assert slope == pytest.approx(float(grad @ direction), rel=1e-6, abs=1e-8)


def test_it_is_that_of_a_plain_loop_over_ragged_tasks() -> None:
    value, grad = gradient(ALGORITHMS["MAML"], sines())
    expected, slope = by_plain_loop(ALGORITHMS["MAML"], sines())

    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grad, slope, rtol=1e-10, atol=1e-12)


def test_the_gradient_at_the_initial_weights_is_another_one() -> None:
    """The widespread mistake: the query loss differentiated before adaptation."""
    _, grad = gradient(ALGORITHMS["MAML"], sines())
    _, mistaken = gradient(replace(ALGORITHMS["MAML"], inner_steps=0), sines())

    assert float(torch.cosine_similarity(grad, mistaken, 0)) < 0.99


def test_first_order_is_the_gradient_at_the_adapted_weights() -> None:
    algorithm = MAML(inner_steps=3, inner_learning_rate=0.1, first_order=True)
    value, grad = gradient(algorithm, sines())
    net, found = Functional(network()), parts(sines())
    expected = torch.zeros_like(grad)
    for t in range(4):
        support, query = (Rows(*(part[t] for part in rows)) for rows in found[:2])
        weights = algorithm.adapted(net, net.weights, support, 3)
        slope = torch.func.grad(lambda w, query=query: algorithm.risk(net, w, query))(weights)
        expected += Flat(weights).vector(slope) / 4

    torch.testing.assert_close(grad, expected, rtol=1e-10, atol=1e-12)
    second = gradient(ALGORITHMS["MAML"], sines())
    assert float(value) == pytest.approx(float(second[0]), rel=1e-12)
    assert not torch.allclose(grad, second[1], rtol=1e-3)


def test_reptile_moves_to_where_descent_on_all_rows_ends() -> None:
    algorithm = Reptile(inner_steps=4, inner_learning_rate=0.1)
    _, move = gradient(algorithm, sines())
    net, rows = Functional(network()), rows_of(sines(), torch.float64)
    ends = [algorithm.adapted(net, net.weights, Rows(*(part[t] for part in rows)), 4) for t in range(4)]
    flat = Flat(net.weights)
    expected = flat.vector(net.weights) - torch.stack([flat.vector(end) for end in ends]).mean(0)

    torch.testing.assert_close(move, expected, rtol=1e-10, atol=1e-12)


def test_the_implicit_gradient_is_that_of_the_bottom_of_the_bowl() -> None:
    """Finite differences of the query loss at the bottom; few steps of conjugate gradients do not give it."""
    algorithm = bm.meta.IMAML(inner_steps=400, inner_learning_rate=0.2, regularisation=1.5, cg_steps=19)
    net, found, weight = Functional(network()), parts(sines()), torch.ones(4, dtype=torch.float64)
    flat = Flat(net.weights)
    u = flat.vector(net.weights)
    _, grad = gradient(algorithm, sines())
    _, rough = gradient(replace(algorithm, cg_steps=1), sines())

    def value(u: Tensor) -> float:
        return float(algorithm.value_and_grad(net, flat.named(u), found, weight)[0])

    direction = torch.randn(len(u), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slope = (value(u + 1e-4 * direction) - value(u - 1e-4 * direction)) / 2e-4
    assert slope == pytest.approx(float(grad @ direction), rel=1e-5)
    assert slope != pytest.approx(float(rough @ direction), rel=1e-2)


def test_maml_plus_plus_begins_with_all_inner_steps_and_ends_as_maml() -> None:
    algorithm = bm.meta.MAMLPlusPlus(inner_steps=3, inner_learning_rate=0.1, multi_step=0.5, first_order_until=0.2)
    value, _ = gradient(algorithm.at(1.0), sines())
    expected, _ = gradient(ALGORITHMS["MAML"], sines())
    losses = [gradient(replace(ALGORITHMS["MAML"], inner_steps=k), sines())[0] for k in (1, 2, 3)]
    early, _ = gradient(algorithm.at(0.0), sines())

    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(early, torch.stack(losses).mean(), rtol=1e-12, atol=0)
    assert algorithm.at(0.1).first_order
    assert not algorithm.at(0.3).first_order


def test_tasks_count_by_their_weights() -> None:
    some, second = torch.tensor([[2.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    _, others = gradient(MAML(), sines(), some)
    _, alone = gradient(MAML(), sines(), second)
    _, both = gradient(MAML(), sines(), some + 4 * second)

    torch.testing.assert_close(both, others + 4 * alone, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(alone, others, rtol=1e-3)


def test_weights_count_the_same_in_batches_of_any_size() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0, 0.0])
    words: dict[str, Any] = {"shots": 2, "validation": 0.0, "seed": 0, "dtype": torch.float64}
    for size in (1, 2, 4):
        feed, _ = feed_of(sines(), weights, size=size, **words)
        epoch = torch.cat([feed.part(step).weight for step in range(4 // size)])
        assert epoch.sort().values.tolist() == pytest.approx([0.0, 2 / 3, 4 / 3, 2.0])

    def learnt(weights: Tensor | None) -> Tensor:
        settings = MAML(shots=2, batch_size=1, steps=8, learning_rate=0.01)
        learner = bm.meta.fit(network(), sines(), settings, weights=weights, progress=False)
        return Flat(learner.weights).vector(learner.weights)

    assert torch.equal(learnt(torch.full((4,), 3.0)), learnt(None))
    assert not torch.allclose(learnt(weights), learnt(None), rtol=1e-3)


# --- what adapts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "moving"),
    [
        (MAML(), {"0.weight", "0.bias", "2.weight", "2.bias"}),
        (bm.meta.ANIL(), {"2.weight", "2.bias"}),
        (bm.meta.ANIL(head=("2.bias",)), {"2.bias"}),
        (bm.meta.BOIL(), {"0.weight", "0.bias"}),
    ],
    ids=["MAML", "ANIL", "ANIL, bias", "BOIL"],
)
def test_only_what_shall_adapt_does(algorithm: Algorithm, moving: set[str]) -> None:
    net, rows = Functional(network()), rows_of(sines(), torch.float64)
    after = algorithm.adapted(net, net.weights, Rows(*(part[0] for part in rows)), 2)

    assert {name for name, value in after.items() if not torch.equal(value, net.weights[name])} == moving


def test_a_head_of_an_unknown_name_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"'last'.*'2\.weight'"):
        bm.meta.fit(network(), sines(), bm.meta.ANIL(head=("last",), shots=2, steps=1), progress=False)


# --- training and adapting ----------------------------------------------------------------------------------


def trained(**settings: Any) -> bm.meta.Learner:
    algorithm = MAML(shots=3, inner_steps=2, inner_learning_rate=0.1, steps=60, batch_size=8, learning_rate=0.01)
    return bm.meta.fit(network(), sines(24), replace(algorithm, **settings), progress=False)


def test_training_makes_new_tasks_easier() -> None:
    support, query = sines(60, (9,), seed=8).split(3)
    before = bm.meta.fit(network(), sines(24), MAML(shots=3, steps=1, learning_rate=1e-9), progress=False)
    after = trained(steps=300)

    def loss(learner: bm.meta.Learner) -> Tensor:
        return learner.adapt(support, steps=2).predict(query).loss(query)

    gain = loss(before) - loss(after)
    assert float(gain.mean()) > 4 * float(gain.std()) / math.sqrt(len(gain))


def test_the_module_that_was_given_is_not_changed() -> None:
    net = network()
    kept = copy.deepcopy(net.state_dict())
    bm.meta.fit(net, sines(), MAML(shots=2, steps=3), progress=False)

    assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())


def test_a_seed_says_it_all_and_global_numbers_are_left_alone() -> None:
    state = torch.get_rng_state()
    one, two = trained(), trained()

    assert all(torch.equal(value, two.weights[name]) for name, value in one.weights.items())
    assert torch.equal(torch.get_rng_state(), state)


def test_training_goes_on_from_a_checkpoint_to_the_same_weights(tmp_path: Path) -> None:
    path = str(tmp_path / "maml.npz")
    whole = trained(steps=60, schedule="constant", every=10)
    trained(steps=30, schedule="constant", every=10, checkpoint=path)
    rest = trained(steps=60, schedule="constant", every=10, checkpoint=path)

    assert all(torch.equal(value, rest.weights[name]) for name, value in whole.weights.items())
    with pytest.raises(FileFormatError, match="inner_steps was 2 and is 1"):
        trained(steps=60, schedule="constant", every=10, checkpoint=path, inner_steps=1)


def surprise(out: Tensor, y: Tensor) -> Tensor:
    return (out.squeeze(-1) - y).abs()


RESUMED = {name: type(algorithm) for name, algorithm in ALGORITHMS.items()} | {
    name: getattr(bm.meta, name) for name in ("Reptile", "IMAML", "LLAMA", "BMAML", "PLATIPUS", "ABML", "VAMPIRE")
}


@pytest.mark.parametrize("name", sorted(RESUMED))
def test_every_algorithm_goes_on_from_its_checkpoint(name: str, tmp_path: Path) -> None:
    settings = RESUMED[name](shots=3, inner_steps=1, steps=2, schedule="constant")
    if name == "MAML++":
        settings = replace(settings, multi_step=0.0)
    net = network(inputs=1 + settings.size) if isinstance(settings, bm.meta.CAVIA) else network()
    kept = replace(settings, checkpoint=str(tmp_path / "here.npz"))
    whole = bm.meta.fit(net, sines(8), replace(settings, steps=4), progress=False)
    bm.meta.fit(net, sines(8), kept, progress=False)
    rest = bm.meta.fit(net, sines(8), replace(kept, steps=4), progress=False)

    assert rest.steps == 4
    assert all(torch.equal(value, rest.weights[name]) for name, value in whole.weights.items())


def test_a_checkpoint_knows_a_loss_by_its_name_and_tasks_by_their_weights(tmp_path: Path) -> None:
    settings = MAML(shots=3, steps=2, checkpoint=str(tmp_path / "own.npz"), loss=surprise)
    bm.meta.fit(network(), sines(), settings, progress=False)
    record, _ = archive.read(tmp_path / "own.npz", "bayesmeta ensemble 1", "a checkpoint")
    assert record["settings"]["loss"].startswith(f"{surprise.__module__}.surprise ")
    assert "0x" not in record["settings"]["loss"]
    with pytest.raises(FileFormatError, match="weights was None and is"):
        bm.meta.fit(network(), sines(), settings, weights=torch.arange(4.0), progress=False)


def test_what_is_interrupted_in_its_first_step_is_a_learner_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Climb, "__call__", stop)
    monkeypatch.setattr(Trainer, "settled", lambda self, state: state.u)
    with pytest.warns(BayesmetaWarning, match="interrupted after 0 of 60 steps"):
        learner = trained()
    assert learner.noise is not None
    assert "0 steps" in repr(learner)


def test_what_is_support_has_nothing_to_do_with_how_data_were_drawn() -> None:
    """A source whose numbers are those of a generator with the seed it is given."""

    def drawn(seed: int) -> bm.Tasks:
        x = torch.rand(8, 10, 1, generator=torch.Generator().manual_seed(seed))
        return bm.Tasks.from_arrays(x, x.squeeze(-1))

    words: dict[str, Any] = {"shots": 5, "size": 8, "validation": 0.0, "seed": 0, "dtype": torch.float32}
    feed, _ = feed_of(bm.Stream(drawn), None, **words)
    parts = [feed.part(step).episodes for step in range(25)]
    lower = torch.cat([part.support.x.mean((1, 2)) - part.query.x.mean((1, 2)) for part in parts])
    assert float(lower.mean().abs()) < 4 * float(lower.std()) / math.sqrt(len(lower))
    rows = shuffled(drawn(seed_of(0, 0)), 5, seed_of(0, 0)).rows.x.squeeze(-1)
    assert not bool((rows[:, :10].sort(1).values == rows[:, :10]).all(1).any())


def test_a_source_that_cannot_go_back_is_gone_through_once() -> None:
    batches, read = [sines(4, (8,), seed=seed) for seed in range(30)], []

    class Loader:
        def __iter__(self) -> Iterator[bm.Tasks]:
            for number, batch in enumerate(batches):
                read.append(number)
                yield batch

    learner = bm.meta.fit(network(), bm.Stream(Loader()), MAML(shots=4, steps=30), progress=False)
    assert learner.noise is not None
    assert len(read) <= 30 + 2


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.long)], ids=["recorded", "compiled"])
def test_a_recorded_step_is_the_same_step(compile: bool) -> None:
    """Ragged batches have few shapes; what is recorded serves them all."""
    algorithm = MAML(shots=3, inner_steps=2, inner_learning_rate=0.1, steps=400, batch_size=8, compile=compile)
    net, found = Functional(network()), parts(sines())
    flat = Flat(net.weights)
    u, part = flat.vector(net.weights), Part(found, torch.ones(4, dtype=torch.float64), 0)
    climb = Climb(algorithm, net, flat)
    value, grad = climb(u.unsqueeze(0), part)
    expected, slope = gradient(algorithm, sines())

    assert climb.mode == ("compiled" if compile else "traced")
    torch.testing.assert_close(-value[0], expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(-grad[0], slope, rtol=1e-9, atol=1e-12)


def test_implicit_gradients_stay_finite_where_the_loss_is_no_bowl() -> None:
    wild = bm.meta.IMAML(inner_steps=1, inner_learning_rate=0.01, regularisation=0.001, cg_steps=8)
    assert bool(torch.isfinite(gradient(wild, sines())[1]).all())


def test_watched_tasks_end_training_and_give_the_best_weights() -> None:
    learner = trained(steps=400, validation=0.25, every=5, patience=2, learning_rate=0.2)

    assert learner.steps < 400
    assert len(learner.curves["validation"]) == len(learner.curves["looks"])
    assert learner.curves["validation"].argmin() == len(learner.curves["validation"]) - 3


def test_classes_are_learnt_and_predicted_with_probabilities() -> None:
    tasks = classes()
    algorithm = MAML(loss="cross_entropy", shots=6, inner_steps=3, inner_learning_rate=0.5, steps=150)
    learner = bm.meta.fit(network(2), tasks, replace(algorithm, learning_rate=0.02), progress=False)
    outputs = learner.adapt(tasks).predict(tasks)

    assert outputs.probabilities.shape == (6, 12, 2)
    torch.testing.assert_close(outputs.probabilities.sum(-1), torch.ones(6, 12, dtype=torch.float64))
    right = outputs.probabilities.argmax(-1) == tasks.y.reshape(6, 12)
    assert float(right.double().mean()) > 0.85


def test_a_loss_of_ones_own_is_gone_down() -> None:
    def absolute(out: Tensor, y: Tensor) -> Tensor:
        return (out.squeeze(-1) - y).abs()

    algorithm = MAML(loss=absolute, shots=2, inner_steps=1)
    net, rows = Functional(network()), rows_of(sines()[:1], torch.float64)
    one = Rows(*(part[0] for part in rows))
    expected = (net(net.weights, one.x).squeeze(-1) - one.y).abs().mean()
    torch.testing.assert_close(algorithm.risk(net, net.weights, one), expected)


def test_ragged_queries_end_in_nan() -> None:
    tasks = sines()
    outputs = trained(steps=2).adapt(tasks).predict(tasks)

    assert outputs.mean.shape == (4, 9)
    assert torch.isnan(outputs.mean).sum(1).tolist() == [2, 4, 0, 3]
    assert bool(torch.isfinite(outputs.loss(tasks)).all())


def test_without_observations_the_initialisation_predicts() -> None:
    learner = trained(steps=2)
    nobody = bm.Tasks.without_observations(["new"], like=sines())
    x = torch.tensor([[0.5], [1.0]], dtype=torch.float64)

    torch.testing.assert_close(
        learner.adapt(nobody).predict(x).mean[0], learner.net(learner.weights, x).squeeze(-1), rtol=1e-12, atol=0
    )


def test_predictions_are_scored_beside_those_of_any_posterior() -> None:
    """Normal with the error of other tasks: SciPy's density, and right on the whole for new tasks."""
    support, query = sines(150, (9,), seed=8).split(3)
    learner = trained(steps=200)
    outputs = learner.adapt(support).predict(query)
    found = bm.score(outputs, query)
    y, there = torch.stack([task.y for task in query]).numpy(), stats.norm(outputs.mean.numpy(), outputs.sd.numpy())

    assert found["rmse"] == pytest.approx(float(np.sqrt(np.square(y - outputs.mean.numpy()).mean())), rel=1e-6)
    assert found["nll"] == pytest.approx(-there.logpdf(y).mean(), rel=1e-6)
    np.testing.assert_allclose(outputs.cdf(query).numpy(), there.cdf(y), rtol=1e-6)
    np.testing.assert_allclose(outputs.quantile(0.9).numpy(), there.ppf(0.9), rtol=1e-6)
    drawn = bm.score(_Draws(outputs), query)
    assert found["crps"] == pytest.approx(drawn["crps"], rel=0.02)
    assert found["rmse"] == pytest.approx(float(learner.noise or 0.0), rel=0.35)


class _Draws:
    """The same prediction without a CRPS of its own: `score` takes draws."""

    def __init__(self, outputs: bm.meta.Outputs) -> None:
        self.names, self.mean = outputs.names, outputs.mean
        self.quantile, self.sample, self.log_prob = outputs.quantile, outputs.sample, outputs.log_prob


def test_without_a_squared_loss_errors_are_not_known() -> None:
    algorithm = MAML(loss="cross_entropy", shots=6, steps=2)
    outputs = bm.meta.fit(network(2), classes(), algorithm, progress=False).adapt(classes()).predict(classes())
    with pytest.raises(NotAvailableError, match="classes, which have no mean"):
        _ = outputs.mean
    with pytest.raises(NotAvailableError, match="loss='mse' alone"):
        _ = outputs.sd


def test_inputs_of_one_number_a_row_need_no_axis_of_their_own() -> None:
    plain = bm.Tasks.from_lists([task.x[:, 0] for task in sines()], [task.y for task in sines()])
    settings = MAML(shots=3, steps=3)
    one, two = (bm.meta.fit(network(), tasks, settings, progress=False) for tasks in (sines(), plain))

    assert all(torch.equal(value, two.weights[name]) for name, value in one.weights.items())
    assert (
        one.adapt(sines()).predict(torch.zeros(2, 1)).mean.shape == two.adapt(plain).predict(torch.zeros(2)).mean.shape
    )
    bm.meta.fit(network(inputs=3), plain, bm.meta.CAVIA(size=2, shots=3, steps=2, loss=surprise), progress=False)


def test_a_stream_is_learnt_from() -> None:
    stream = bm.Stream(lambda seed: sines(6, (6,), seed=seed))
    learner = bm.meta.fit(network(), stream, MAML(shots=3, steps=5), progress=False)

    assert learner.steps == 5
    assert repr(learner).startswith("Learner by MAML: 19 meta-parameters, 5 steps, loss ")


# --- what goes wrong ----------------------------------------------------------------------------------------


def test_errors_that_are_known_only_of_what_a_large_network_was_trained_on_are_said_to_be_too_small() -> None:
    settings = MAML(shots=3, steps=2)
    with pytest.warns(BayesmetaWarning, match=r"19 weights were learnt from 12 observations.*validation=0.2"):
        bm.meta.fit(network(), sines(2), settings, progress=False)
    bm.meta.fit(network(), sines(2), replace(settings, validation=0.5), progress=False)


def test_too_few_observations_are_named() -> None:
    with pytest.raises(DataError, match=r"task '(1|3)' has (5|6) observations, and 2 of 4 tasks have no more"):
        bm.meta.fit(network(), sines(), MAML(shots=6), progress=False)


def test_an_inner_loop_that_runs_away_is_said() -> None:
    with pytest.raises(BayesmetaError, match="inner loop runs away"):
        bm.meta.fit(network(), sines(), MAML(shots=3, inner_steps=60, inner_learning_rate=1e6), progress=False)


def test_a_loss_that_looks_at_values_is_refused() -> None:
    def looking(out: Tensor, y: Tensor) -> Tensor:
        return (out.squeeze(-1) - y).abs() if float(y.sum()) > 0 else out.squeeze(-1)

    with pytest.raises(HierarchyError, match="net or loss look at values"):
        bm.meta.fit(network(), sines(), MAML(shots=2, loss=looking), progress=False)


def test_a_new_task_that_runs_away_is_named() -> None:
    wild = bm.Tasks.from_lists([np.full((4, 1), 1e8)], [np.full(4, 1e200)], names=["wild"])
    with pytest.raises(DataError, match=r"adapting 'wild' ended at a loss of (nan|inf) \(1 of 1 tasks\)"):
        trained(steps=2).adapt(wild)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4)), "1 is BatchNorm1d, which keeps running statistics"),
        (nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5)), "1 is Dropout, which is random"),
        (nn.Sequential(nn.LazyLinear(4)), "0 is LazyLinear, whose parameters have no shape yet"),
        (nn.Sequential(nn.RNN(1, 2)), "0 is RNN, which torch cannot batch"),
        (nn.Sequential(nn.Tanh()), "net has no parameters"),
        (torch.sin, "net must be a torch.nn.Module, got builtin_function_or_method"),
    ],
    ids=["batch normalisation", "dropout", "lazy", "recurrent", "no parameters", "no module"],
)
def test_a_module_that_is_no_function_of_its_weights_is_refused(net: Any, words: str) -> None:
    with pytest.raises(HierarchyError, match=words):
        bm.meta.fit(net, sines(), MAML(shots=2), progress=False)


@pytest.mark.changes_rng
def test_batch_normalisation_by_the_rows_at_hand_is_welcome() -> None:
    net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 1)).double()
    assert bm.meta.fit(net, sines(4, (8,)), MAML(shots=4, steps=2), progress=False).steps == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": "hinge"}, "'hinge'.*mse"),
        ({"inner_steps": -1}, "inner_steps"),
        ({"inner_learning_rate": 0.0}, "inner_learning_rate must be a number above 0, got 0.0"),
        ({"schedule": "linear"}, "'linear'.*cosine"),
        ({"validation": 20}, "validation must be a number of at least 0 and below 1, got 20"),
    ],
    ids=["loss", "steps", "rate", "schedule", "validation"],
)
def test_settings_are_checked(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        MAML(**settings)


@pytest.mark.parametrize("name", ["multi_step", "first_order_until"])
def test_shares_of_training_are_checked(name: str) -> None:
    settings: dict[str, Any] = {name: 2}
    with pytest.raises(OptionError, match=f"{name} is a share of training, from 0 to 1, got 2"):
        bm.meta.MAMLPlusPlus(**settings)


def test_a_rate_may_be_a_whole_number_and_support_empty() -> None:
    learner = trained(inner_learning_rate=1, shots=0, steps=2)
    assert learner.adapt(sines()).predict(torch.zeros(1, 1)).mean.shape == (4, 1)


@pytest.mark.changes_rng
@pytest.mark.parametrize(
    ("net", "settings", "words"),
    [
        (network(inputs=2), {}, "x of shape \\(1,\\) and y of shape \\(\\)"),
        (network(3), {}, r"gives \(3, 3\) for 3 rows; wanted \(3, 1\)"),
        (network(1), {"loss": "cross_entropy"}, "classes 0 to 1.*as many as there are"),
        (nn.Sequential(network(), nn.Flatten(0)), {"loss": "cross_entropy"}, "a logit for each class"),
        (
            nn.Sequential(network(2), nn.BatchNorm1d(2, track_running_stats=False).double()),
            {"shots": 1, "loss": "cross_entropy"},
            "batch normalisation needs two rows",
        ),
    ],
    ids=["inputs", "outputs", "classes", "logits", "one row"],
)
def test_networks_that_do_not_fit_the_data_are_told_what_to_fit(net: Any, settings: Any, words: str) -> None:
    with pytest.raises(BayesmetaError, match=words):
        bm.meta.fit(net, classes(), MAML(**({"shots": 3, "steps": 2} | settings)), progress=False)


def test_a_stream_takes_no_weights() -> None:
    with pytest.raises(OptionError, match="weights are one for each task that is held"):
        bm.meta.fit(network(), bm.Stream(lambda seed: sines()), MAML(shots=2), weights=torch.ones(4), progress=False)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0, 1.0, 1.0], [0.0] * 4], ids=["too few", "negative", "zero"])
def test_weights_are_checked(weights: list[float]) -> None:
    with pytest.raises(OptionError, match="weights"):
        bm.meta.fit(network(), sines(), MAML(shots=2), weights=torch.tensor(weights), progress=False)
