"""Bayesian last layers for classes: against the generic route, quadrature, sampling and finite differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.errors import NotAvailableError, OptionError
from bayesmeta.evidence import Collapsed, Joint, choose, kind
from bayesmeta.evidence.conditional import log_evidence, theta_coordinates
from bayesmeta.families import last_layer
from bayesmeta.families.class_laplace import Data, fitted
from bayesmeta.families.slicing import numbers, sliced
from bayesmeta.meta import ClassHead
from bayesmeta.meta.class_head import BETWEEN, PACE, TAILS, WITHIN, ClassMeans, class_means, log_shares
from bayesmeta.meta.episodes import episodes
from bayesmeta.meta.flat import Flat
from bayesmeta.meta.module import Functional
from bayesmeta.program import Program


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(inputs: int, outputs: int, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(inputs, outputs).double()


def blobs(count: int, sizes: tuple[int, ...], classes: int = 3, seed: int = 0) -> bm.Tasks:
    """Points (n, 2) about centres of a task's own, one for each class."""
    rng = np.random.default_rng(seed)
    xs, ys = [], []
    for t in range(count):
        y = np.arange(sizes[t % len(sizes)]) % classes
        xs.append(rng.normal(0, 2, (classes, 2))[y] + rng.normal(0, 0.6, (len(y), 2)))
        ys.append(y.astype(float))
    return bm.Tasks.from_lists(xs, ys, names=[f"{seed}:{t}" for t in range(count)], allow_empty=True)


# --- the hierarchy: `families.last_layer(net, classes=N)` ----------------------------------------------------


def program_of(tasks: bm.Tasks, **options: Any) -> Program:
    return last_layer(linear(2, 2), inputs=2, scale=3.0, **options).program(tasks)


def collapsed(program: Program, tasks: bm.Tasks, method: str) -> Collapsed:
    found = choose(program, tasks, method)
    assert not isinstance(found, Joint)
    return found


def points(program: Program, count: int) -> Tensor:
    return 0.5 * torch.randn(count, program.structure.phi.size, generator=generator(1), dtype=torch.float64)


def test_the_evidence_of_classes_is_that_of_the_generic_laplace_route() -> None:
    tasks = blobs(2, (5, 0), classes=2)
    program = program_of(tasks, classes=2)
    own, generic = collapsed(program, tasks, "auto"), collapsed(program, tasks, "laplace")
    u = points(program, 2)

    assert (kind(own), kind(generic)) == ("own", "laplace")
    torch.testing.assert_close(log_evidence(own, u), log_evidence(generic, u), rtol=1e-8, atol=1e-8)


ROWS, LABEL = torch.tensor([[0.4], [-1.1], [0.9], [3.0], [-0.3]], dtype=torch.float64), torch.tensor([0, 1, 0, 0, 0])


def on_a_grid() -> tuple[Tensor, Tensor]:
    """d = w_0 - w_1 ~ Normal(0, √2) of two classes of one feature, and log p(y, d) times the width of a cell."""
    d = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    signs = 1 - 2 * LABEL.double()
    likelihood = torch.nn.functional.logsigmoid(signs.unsqueeze(1) * ROWS * d).sum(0)
    return d, likelihood - 0.25 * d.square() - 0.5 * math.log(4 * math.pi) + math.log(float(d[1] - d[0]))


def of(rows: Tensor, label: Tensor, classes: int, mask: Tensor | None = None, offset: Tensor | None = None) -> Data:
    y = torch.eye(classes, dtype=torch.float64)[label]
    mask = torch.ones(len(rows), dtype=torch.bool) if mask is None else mask
    return Data(rows, y, torch.zeros_like(y) if offset is None else offset, mask)


def test_the_evidence_of_classes_is_near_the_integral() -> None:
    _, log_density = on_a_grid()

    assert float(fitted(of(ROWS, LABEL, 2)).log_z) == pytest.approx(float(log_density.logsumexp(0)), abs=0.05)


def test_draws_of_weights_are_from_the_posterior_and_not_from_laplaces_normal() -> None:
    """One feature without a constant: mean, sd and skewness of w_0 - w_1 are those of sums over a grid."""
    tasks = bm.Tasks.from_lists([ROWS], [LABEL.double()])
    hierarchy = last_layer(nn.Identity(), inputs=1, classes=2, bias=False, exchangeable=True, scale=1.0)
    d, log_density = on_a_grid()
    p = torch.softmax(log_density, 0)
    mean = p @ d
    away = d - mean
    sd = (p @ away.square()).sqrt()
    program = hierarchy.program(tasks)
    assert program.structure.phi.size == 1
    u = torch.zeros(8000, 1, dtype=torch.float64)  # s = 1
    w = theta_coordinates(collapsed(program, tasks, "auto"), u, 0)[:, 0]
    found = w[:, 0] - w[:, 1]

    assert float((found.mean() - mean) / sd) == pytest.approx(0, abs=4 / math.sqrt(8000))
    assert float(found.std() / sd) == pytest.approx(1, abs=4 / math.sqrt(8000))
    skewness = float(p @ away**3 / sd**3)
    assert skewness > 0.15
    assert float(((found - found.mean()) ** 3).mean() / found.std() ** 3) == pytest.approx(skewness, abs=0.1)


def test_slices_leave_a_normal_posterior_as_it_is_and_find_it_from_elsewhere() -> None:
    """Standard normal weights, each seen once with noise of sd 1/2."""
    seen = torch.tensor([1.5, -1.0], dtype=torch.float64)
    z = torch.randn(4000, numbers(2, 25), generator=generator(), dtype=torch.float64)

    def likelihood(v: Tensor) -> Tensor:
        return -2 * (v - seen).square().sum(1)

    v = sliced(likelihood, torch.full((4000, 2), -1.0, dtype=torch.float64), z, 25)
    assert v.mean(0).tolist() == pytest.approx((0.8 * seen).tolist(), abs=0.04)
    assert v.std(0).tolist() == pytest.approx([0.2**0.5] * 2, rel=0.06)


def test_its_gradient_is_that_of_finite_differences_and_padding_has_no_say() -> None:
    rows = 1.5 * torch.randn(6, 3, generator=generator(2), dtype=torch.float64)
    offset = torch.randn(6, 3, generator=generator(5), dtype=torch.float64)
    label, mask = torch.tensor([0, 1, 2, 0, 1, 0]), torch.tensor([True] * 5 + [False])

    def log_z(rows: Tensor, offset: Tensor) -> Tensor:
        return fitted(of(rows, label, 3, mask, offset)).log_z

    for k, at in enumerate((rows, offset)):
        grad = torch.func.grad(log_z, k)(rows, offset)
        step = 1e-5 * torch.randn(6, 3, generator=generator(3), dtype=torch.float64)
        ends = [[at + sign * step if k == j else one for j, one in enumerate((rows, offset))] for sign in (1, -1)]
        slope = float(log_z(*ends[0]) - log_z(*ends[1]))
        assert slope == pytest.approx(2 * float((grad * step).sum()), rel=1e-5)
        assert not grad[5].any()
    alone = fitted(of(rows[:5], label[:5], 3, offset=offset[:5])).log_z
    torch.testing.assert_close(log_z(rows, offset), alone)


def test_the_mode_is_found_where_whole_steps_overshoot() -> None:
    """Features of size 30: the classes are all but certain, and Newton's steps from zero go too far."""
    rows = 30 * torch.randn(12, 4, generator=generator(4), dtype=torch.float64)
    data = of(rows, torch.arange(12) % 3, 3)
    found = fitted(data)

    slope = rows.mT @ (data.y - torch.softmax(rows @ found.weights, -1)) - found.weights
    assert float(slope.abs().max()) < 1e-6


@pytest.mark.parametrize("size", [10.0, 20.0, 40.0])
def test_the_mode_is_found_where_an_offset_is_sure_of_another_class(size: float) -> None:
    rows = size / 6**0.5 * torch.randn(25, 6, generator=generator(1), dtype=torch.float64)
    label = torch.arange(25) % 5
    offset = size * torch.eye(5, dtype=torch.float64)[label]
    wrong = label.clone()
    wrong[0] = (label[0] + 1) % 5
    data = of(rows, wrong, 5, offset=offset)
    found = fitted(data)

    slope = rows.mT @ (data.y - torch.softmax(offset + rows @ found.weights, -1)) - found.weights
    assert float(slope.abs().max()) < 1e-4


def test_features_beyond_all_numbers_have_no_evidence_and_raise_nothing() -> None:
    rows = 1e9 * torch.randn(8, 3, generator=generator(4), dtype=torch.float64)

    for scale in (1.0, math.inf):
        assert fitted(of(scale * rows, torch.arange(8) % 2, 2)).log_z.dim() == 0


@pytest.mark.filterwarnings("ignore:the draws are doubtful")  # of a single point for φ
def test_a_posterior_over_it_adapts_and_predicts_classes() -> None:
    tasks = blobs(20, (9,))
    hierarchy = last_layer(linear(2, 3), inputs=2, classes=3, exchangeable=True, scale=3.0)
    posterior = bm.fit(hierarchy, tasks, inference=bm.Ensemble(members=1, steps=40), progress=False)
    support, query = blobs(20, (30,), seed=1).split(9)
    predicted = posterior.adapt(support).predict(query)
    shares, y = predicted.probabilities, torch.stack([task.y for task in query]).long()
    each = shares.gather(-1, y.unsqueeze(-1)).squeeze(-1)

    assert shares.shape == (20, 21, 3)
    torch.testing.assert_close(shares.sum(-1), torch.ones(20, 21, dtype=torch.float64))
    torch.testing.assert_close(predicted.log_prob(query, pointwise=True), each.log())
    assert bool((predicted.log_prob(query) > each.log().sum(1) - 1e-9).double().mean() > 0.5)  # they go together
    scored = bm.score(predicted, query).table["value"]
    assert scored["accuracy"] > 0.8
    assert scored["nll"] < 0.6  # log 3 is 1.10
    drawn = predicted.sample(100, seed=1)
    torch.testing.assert_close((drawn == 1).double().mean((0, 2)), shares[..., 1].mean(1), rtol=0, atol=0.1)
    with pytest.raises(NotAvailableError, match="not Normal"):
        predicted.cdf(query)
    with pytest.raises(NotAvailableError, match="classes, which have no mean and no order: ask for probabilities"):
        _ = predicted.mean
    assert "20 tasks" in predicted._repr_html_()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 1}, "classes must be a whole number of at least 2, got 1"),
        ({"classes": 3, "outputs": 2}, "outputs, populations, covariance and noise are for observations that are"),
        ({"exchangeable": True}, "exchangeable=True is about classes"),
        ({"classes": 3, "inputs": (2, 0)}, "inputs must be a whole number of at least 1, got 0"),
    ],
)
def test_options_of_classes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        last_layer(linear(2, 2), **({"inputs": 2} | options))


@pytest.mark.filterwarnings("ignore:the draws are doubtful")
def test_numbers_have_no_probabilities_of_classes() -> None:
    tasks = bm.Tasks.from_lists([[[0.0], [1.0]]] * 3, [[0.0, 1.0], [1.0, 2.0], [0.5, 1.0]])
    posterior = bm.fit(last_layer(linear(1, 2)), tasks, inference=bm.Ensemble(members=1, steps=2), progress=False)
    with pytest.raises(NotAvailableError, match="not Categorical"):
        _ = posterior.adapt(tasks[:1].with_names(["new"])).predict(torch.zeros(2, 1)).probabilities


# --- the head of learnt prototypes: `meta.ClassHead` ---------------------------------------------------------


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def one_hot(label: list[int], classes: int) -> Tensor:
    return torch.eye(classes, dtype=torch.float64)[torch.tensor(label)]


def by_conditioning(z: Tensor, label: list[int], classes: int, b: float, w: float) -> tuple[list[float], list[float]]:
    """Mean and variance of a new feature of each class: numbers that are jointly normal, given some of them."""
    vague = 1e7  # the variance of m
    same = np.equal.outer(np.array([*label, *range(classes)]), np.array([*label, *range(classes)]))
    covariance = vague + b * same + w * np.eye(len(label) + classes)
    n = len(label)
    gain = np.linalg.solve(covariance[:n, :n], covariance[:n, n:]).T
    left = covariance[n:, n:] - gain @ covariance[:n, n:]
    return (gain @ z.numpy()).tolist(), left.diagonal().tolist()


def test_what_is_known_of_classes_is_that_of_conditioning_a_joint_normal() -> None:
    label = [0, 0, 1, 2, 2, 2]  # of class 3 nothing was seen
    z = torch.randn(6, 2, generator=generator(), dtype=torch.float64)
    known = class_means(z, one_hot(label, 4), number(0.7), number(0.3))

    for d in range(2):
        means, variances = by_conditioning(z[:, d], label, 4, 0.7, 0.3)
        assert known.means[:, d].tolist() == pytest.approx(means, abs=1e-5)
        assert known.variances.tolist() == pytest.approx(variances, rel=1e-5)
    assert float(known.variances[3]) > float(known.variances[1]) > float(known.variances[2])


def test_padding_has_no_say_in_what_is_known_of_classes() -> None:
    z = torch.randn(5, 3, generator=generator(), dtype=torch.float64)
    member = one_hot([0, 1, 1, 0], 2)
    padded = torch.cat([member, torch.zeros(1, 2, dtype=torch.float64)])
    some, all_rows = (class_means(z[: len(part)], part, number(2.0), number(0.5)) for part in (member, padded))

    torch.testing.assert_close(some, all_rows)


def test_probabilities_are_by_the_density_of_students_t() -> None:
    z = torch.randn(7, 3, generator=generator(), dtype=torch.float64)
    known = ClassMeans(torch.randn(4, 3, generator=generator(1), dtype=torch.float64), number(1.0) + torch.arange(4))
    found = log_shares(z, known, number(5.0))
    each = [
        stats.multivariate_t(mean.numpy(), float(variance) * np.eye(3), df=5).pdf(z.numpy())
        for mean, variance in zip(*known, strict=True)
    ]

    np.testing.assert_allclose(found.exp().numpy(), np.stack(each, 1) / np.sum(each, 0)[:, None], rtol=1e-6)


def test_with_all_variance_between_classes_and_no_tails_it_is_a_prototypical_network() -> None:
    z = torch.randn(12, 3, generator=generator(), dtype=torch.float64)
    member = one_hot([0, 1, 2] * 2, 3)
    known = class_means(z[:6], member, number(1e9), number(1 / 3))  # w (1 + 1/2) = 1/2
    prototypes = member.T @ z[:6] / 2
    expected = torch.log_softmax(-torch.cdist(z[6:], prototypes).square(), 1)

    torch.testing.assert_close(log_shares(z[6:], known, number(1e9)), expected, rtol=1e-5, atol=1e-5)


def simulated(shots: int, count: int = 3000, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features of three classes, b = 1 and w = 0.5 in two dimensions: support, query and the query's classes."""
    one = generator(seed)
    label = torch.arange(3).repeat(shots)
    means = torch.randn(count, 3, 2, generator=one, dtype=torch.float64)
    wanted = torch.randint(3, (count, 1), generator=one)
    rows = [means[:, label], means[torch.arange(count), wanted.squeeze(1)].unsqueeze(1)]
    support, query = (row + 0.5**0.5 * torch.randn(row.shape, generator=one, dtype=torch.float64) for row in rows)
    return support, query, wanted


@pytest.mark.parametrize("shots", [1, 5])
def test_it_is_calibrated_whatever_the_number_of_shots(shots: int) -> None:
    """On features that are as it says; a temperature that is right for five shots is wrong for one."""
    support, query, wanted = simulated(shots)
    member = one_hot([0, 1, 2] * shots, 3)

    def shares(support: Tensor, query: Tensor) -> Tensor:
        return log_shares(query, class_means(support, member, number(1.0), number(0.5)), number(1e6)).exp()

    def prototypical(support: Tensor, query: Tensor) -> Tensor:
        away = torch.cdist(query, member.T @ support / shots).square()
        return torch.softmax(-away / (2 * 0.5 * (1 + 1 / 5)), 1)

    right, wrong = (bm.score(torch.func.vmap(fn)(support, query), wanted.double()) for fn in (shares, prototypical))
    assert right.ece < 1.6 * right.ece_floor
    if shots == 1:
        assert wrong.ece > 3 * wrong.ece_floor
        assert wrong.table["value"]["nll"] > right.table["value"]["nll"] + 0.03


def network() -> nn.Module:
    return nn.Sequential(linear(2, 6), nn.Tanh(), linear(6, 4, seed=1))


def test_its_meta_gradient_is_that_of_finite_differences() -> None:
    algorithm = ClassHead(shots=2, ways=3)
    net, tasks = Functional(network()), blobs(3, (12, 15))
    meta = algorithm.begin(net)
    meta[BETWEEN], meta[TAILS] = number(0.02), number(math.log(4.0) / PACE)
    found, flat, weight = episodes(tasks, 2, 0, torch.float64, by_class=True), Flat(meta), torch.ones(3).double()
    _, grad = algorithm.value_and_grad(net, meta, found, weight)
    u = flat.vector(meta)

    def value(u: Tensor) -> float:
        return float(algorithm.value_and_grad(net, flat.named(u), found, weight)[0])

    for step in 1e-5 * torch.randn(3, len(u), generator=generator(1), dtype=torch.float64):
        slope = value(u + step) - value(u - step)
        assert slope == pytest.approx(2 * float(flat.vector(grad) @ step), rel=1e-5)
    assert all(float(grad[name].abs()) > 1e-4 for name in (BETWEEN, WITHIN, TAILS))


def test_a_learner_adapts_to_other_numbers_of_classes_and_shots() -> None:
    settings = ClassHead(shots=2, steps=30, batch_size=8, learning_rate=0.01)
    learner = bm.meta.fit(network(), blobs(24, (15,)), settings, progress=False)
    xs = [torch.randn(7, 2, generator=generator(2), dtype=torch.float64)]
    support = bm.Tasks.from_lists(xs, [[0.0, 1.0, 2.0, 3.0, 3.0, 3.0, 1.0]], names=["four"])
    predicted = learner.adapt(support).predict(xs[0][:3])
    z = learner.net(learner.weights, xs[0])
    between, within, tails = ((PACE * learner.weights[name]).exp() for name in (BETWEEN, WITHIN, TAILS))
    known = class_means(z, one_hot([0, 1, 2, 3, 3, 3, 1], 4), between, within)

    assert learner.curves["loss"][-5:].mean() < learner.curves["loss"][:5].mean()
    torch.testing.assert_close(predicted.probabilities[0], log_shares(z[:3], known, tails).exp())
    assert learner.algorithm == settings


def test_it_is_for_classes_alone() -> None:
    with pytest.raises(OptionError, match="ClassHead predicts classes: it wants by_class=True"):
        ClassHead(by_class=False)


def test_digits_that_were_not_learnt_from_are_told_apart() -> None:
    learn, test = bm.data.digits().with_rotations().split(5, seed=1)
    net = bm.meta.Conv4(1, size=8, filters=16, norm="group")
    settings = ClassHead(shots=1, steps=25, learning_rate=0.003)
    learner = bm.meta.fit(net, learn.stream(ways=5, shots=1, query=3, batch=4), settings, progress=False)
    support, query = test.tasks(40, ways=5, shots=1, query=5, seed=2)
    table = bm.score(learner.adapt(support).predict(query), query).table["value"]

    assert table["accuracy"] > 0.5
    assert table["nll"] < 1.3  # log 5 is 1.61
