"""Bayesian last layers for classes: against the generic route, quadrature, sampling and finite differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.errors import NotAvailableError, OptionError
from bayesmeta.evidence import Collapsed, Joint, choose, kind
from bayesmeta.evidence.conditional import log_evidence, theta_coordinates
from bayesmeta.families import last_layer
from bayesmeta.families.class_laplace import fitted
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
    return last_layer(linear(2, 2), inputs=2, classes=3, scale=3.0, **options).program(tasks)


def collapsed(program: Program, tasks: bm.Tasks, method: str) -> Collapsed:
    found = choose(program, tasks, method)
    assert not isinstance(found, Joint)
    return found


def points(program: Program, count: int) -> Tensor:
    return 0.5 * torch.randn(count, program.structure.phi.size, generator=generator(1), dtype=torch.float64)


@pytest.mark.parametrize("bias", [True, False])
def test_the_evidence_of_classes_is_that_of_the_generic_laplace_route(bias: bool) -> None:
    tasks = blobs(4, (4, 7, 0, 2))
    program = program_of(tasks, bias=bias)
    own, generic = collapsed(program, tasks, "auto"), collapsed(program, tasks, "laplace")
    u = points(program, 4)

    assert (kind(own), kind(generic)) == ("own", "laplace")
    torch.testing.assert_close(log_evidence(own, u), log_evidence(generic, u), rtol=1e-8, atol=1e-8)


def test_weights_of_classes_are_distributed_as_on_the_generic_route() -> None:
    tasks = blobs(2, (7, 3))
    program = program_of(tasks)
    u = points(program, 1).expand(2000, -1)
    one, other = (theta_coordinates(collapsed(program, tasks, method), u, 0) for method in ("auto", "laplace"))

    assert ((one.mean(0) - other.mean(0)) / other.std(0)).abs().max() < 4 * math.sqrt(2 / 2000)
    assert (one.std(0) / other.std(0) - 1).abs().max() < 4 / math.sqrt(2000)
    assert np.abs(np.corrcoef(one[:, 0].T) - np.corrcoef(other[:, 0].T)).max() < 0.12


def test_the_evidence_of_classes_is_near_the_integral() -> None:
    """Two classes of one feature: the integral over the difference of their weights is a sum over a grid."""
    rows = torch.tensor([[0.4], [-1.1], [0.9], [2.0], [-0.3]], dtype=torch.float64)
    label = torch.tensor([0, 1, 0, 0, 0])
    found = fitted(rows, torch.eye(2, dtype=torch.float64)[label], torch.ones(5, dtype=torch.bool))
    d = torch.linspace(-12, 12, 4001, dtype=torch.float64)  # w_0 - w_1 ~ Normal(0, √2)
    signs = 1 - 2 * label.double()
    likelihood = torch.nn.functional.logsigmoid(signs.unsqueeze(1) * rows * d).sum(0)
    prior = -0.25 * d.square() - 0.5 * math.log(4 * math.pi)
    exact = torch.logsumexp(likelihood + prior, 0) + math.log(float(d[1] - d[0]))

    assert float(found.log_z) == pytest.approx(float(exact), abs=0.05)
    assert float(found.log_z) != pytest.approx(5 * math.log(0.5), abs=0.2)


def test_its_gradient_is_that_of_finite_differences_and_padding_has_no_say() -> None:
    rows = 1.5 * torch.randn(6, 3, generator=generator(2), dtype=torch.float64)
    y = torch.eye(3, dtype=torch.float64)[torch.tensor([0, 1, 2, 0, 1, 0])]
    mask = torch.tensor([True] * 5 + [False])

    def log_z(rows: Tensor) -> Tensor:
        return fitted(rows, y, mask).log_z

    grad = torch.func.grad(log_z)(rows)
    step = 1e-5 * torch.randn(6, 3, generator=generator(3), dtype=torch.float64)
    slope = float(log_z(rows + step) - log_z(rows - step))
    assert slope == pytest.approx(2 * float((grad * step).sum()), rel=1e-5)
    assert not grad[5].any()
    torch.testing.assert_close(log_z(rows), fitted(rows[:5], y[:5], mask[:5]).log_z)


def test_the_mode_is_found_where_whole_steps_overshoot() -> None:
    """Features of size 30: the classes are all but certain, and Newton's steps from zero go too far."""
    rows = 30 * torch.randn(12, 4, generator=generator(4), dtype=torch.float64)
    label = torch.arange(12) % 3
    y = torch.eye(3, dtype=torch.float64)[label]
    found = fitted(rows, y, torch.ones(12, dtype=torch.bool))

    slope = rows.mT @ (y - torch.softmax(rows @ found.weights, -1)) - found.weights
    assert float(slope.abs().max()) < 1e-6


@pytest.mark.filterwarnings("ignore:the draws are doubtful")  # of a single point for φ
def test_a_posterior_over_it_adapts_and_predicts_classes() -> None:
    tasks = blobs(30, (9, 12))
    hierarchy = last_layer(linear(2, 3), inputs=2, classes=3, scale=3.0)
    posterior = bm.fit(hierarchy, tasks, inference=bm.Ensemble(members=1, steps=100), progress=False)
    support, query = blobs(40, (30,), seed=1).split(9)
    predicted = posterior.adapt(support).predict(query)
    shares, y = predicted.probabilities, torch.stack([task.y for task in query]).long()
    each = shares.gather(-1, y.unsqueeze(-1)).squeeze(-1)

    assert shares.shape == (40, 21, 3)
    torch.testing.assert_close(shares.sum(-1), torch.ones(40, 21, dtype=torch.float64))
    torch.testing.assert_close(predicted.log_prob(query, pointwise=True), each.log())
    assert bool((predicted.log_prob(query) > each.log().sum(1) - 1e-9).double().mean() > 0.5)  # they go together
    scored = bm.score(predicted, query).table["value"]
    assert scored["accuracy"] > 0.8
    assert scored["nll"] < 0.6  # log 3 is 1.10
    drawn = predicted.sample(2000, seed=1)
    torch.testing.assert_close((drawn == 1).double().mean(0), shares[..., 1], rtol=0, atol=0.06)
    with pytest.raises(NotAvailableError, match="not Normal"):
        predicted.cdf(query)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 1}, "classes must be a whole number of at least 2, got 1"),
        ({"classes": 3, "outputs": 2}, "outputs, populations, covariance and noise are for observations that are"),
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
