"""Minibatches of tasks: unbiased, the same for model and guide, and quiet where φ is near its mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import bayesmeta as bm
from bayesmeta.evidence import Gram, Joint, choose
from bayesmeta.infer.svi_amortised import LocalAmortised
from bayesmeta.infer.svi_fit import _fit, _loss, starting_point
from bayesmeta.infer.svi_guides import LocalNormal, Structured, model_of, phi_guide
from bayesmeta.infer.svi_minibatch import Minibatches, shuffled
from bayesmeta.infer.svi_train import PathELBO
from bayesmeta.sites import quiet_pyro
from bayesmeta.target import Target
from tests.evidences import gallery
from tests.scenarios import SCENARIOS

PARTICLES = 3


@contextmanager
def own_randomness(seed: int = 0) -> Iterator[None]:
    with quiet_pyro(), torch.random.fork_rng(devices=[]), pyro.settings.context(module_local_params=True):
        torch.manual_seed(seed)
        yield


def target_of(name: str, evidence: str = "auto") -> Target:
    scenario = SCENARIOS[name]()
    return Target(choose(scenario.hierarchy.program(scenario.tasks), scenario.tasks, evidence))


def points(target: Target, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.5 * torch.randn(PARTICLES, target.dim, generator=generator, dtype=torch.float64)


def of_batch(target: Target, u: Tensor, index: Tensor) -> Tensor:
    """The coordinates of φ and of the θ of some tasks."""
    if not target.is_joint:
        return u
    p = target.program.structure.theta.size
    theta = u[:, target.q :].reshape(len(u), -1, p)[:, index]
    return torch.cat([u[:, : target.q], theta.reshape(len(u), -1)], 1)


# --- the log density ----------------------------------------------------------------------------------------

ROADS = [
    ("normal_normal", "auto", 4),
    ("log_normal", "auto", 3),
    ("beta_binomial", "joint", 5),
    pytest.param("beta_binomial", "laplace", 5, marks=pytest.mark.long),
]


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize(("name", "evidence", "size"), ROADS)
def test_minibatches_of_an_epoch_average_to_all_tasks(name: str, evidence: str, size: int, near: bool) -> None:
    target = target_of(name, evidence)
    mode = torch.full((target.q,), 0.1, dtype=torch.float64) if near else None
    batches = Minibatches(target, PARTICLES, size, mode=mode)
    u = points(target)
    parts = list(shuffled(batches.count, size, torch.Generator().manual_seed(1)))
    estimates = [float(batches.at(index).mean(of_batch(target, u, index))) for index in parts]
    full = float(target.log_prob(u).mean())

    assert len(parts) * size == batches.count
    assert math.isclose(sum(estimates) / len(parts), full, rel_tol=1e-9)
    assert math.isclose(float(batches.everything().mean(u)), full, rel_tol=1e-9)
    assert not math.isclose(estimates[0], full, rel_tol=1e-6)


@pytest.mark.parametrize(("name", "evidence", "size"), ROADS[:3])
def test_gradients_of_an_epoch_average_to_that_of_all_tasks(name: str, evidence: str, size: int) -> None:
    target = target_of(name, evidence)
    batches = Minibatches(target, PARTICLES, size, mode=torch.full((target.q,), 0.1, dtype=torch.float64))
    u = points(target).requires_grad_(True)
    parts = list(shuffled(batches.count, size, torch.Generator().manual_seed(1)))
    total = torch.stack([batches.at(index).mean(of_batch(target, u, index)) for index in parts]).mean()
    (grad,) = torch.autograd.grad(total, u)

    assert torch.allclose(PARTICLES * grad, target.value_and_grad(u.detach())[1], rtol=1e-7, atol=1e-7)


def test_the_prior_is_not_scaled() -> None:
    target = target_of("normal_normal")
    index = torch.arange(4)
    u = points(target)
    ours = float(Minibatches(target, PARTICLES, 4).at(index).mean(u))
    part = Minibatches(target, 1).part(index)
    wrong = float(2 * part.log_prob(u).mean())
    prior = torch.stack([target.program.phi(one).log_prior for one in u]).mean()

    assert math.isclose(ours, wrong - float(prior), rel_tol=1e-9)


def test_the_control_variate_takes_the_noise_off() -> None:
    model = gallery("radon")
    tasks = model.load()
    target = Target(choose(model.hierarchy.program(tasks), tasks))
    mode = torch.tensor([1.47, 0.72, -0.67, math.log(0.16), math.log(0.76)], dtype=torch.float64)
    u = (mode + 0.02 * points(target)).requires_grad_(True)

    def noise(**options: Any) -> float:
        batches = Minibatches(target, PARTICLES, 10, **options)
        parts = shuffled(85, 10, torch.Generator().manual_seed(0))
        grads = [torch.autograd.grad(batches.at(index).mean(u), u)[0] for index in parts]
        return float(torch.stack(grads).std(0).norm())

    assert noise(mode=mode) < 0.2 * noise()


def test_a_shuffled_epoch_has_no_task_twice() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (list(shuffled(10, 3, generator)) for _ in range(2))

    assert [len(index) for index in one] == [3, 3, 3]
    assert len(set(torch.cat(one).tolist())) == 9
    assert torch.cat(one).tolist() != torch.cat(other).tolist()


def test_gram_matrices_of_some_tasks_are_those_of_their_own() -> None:
    scenario = SCENARIOS["correlated"]()
    program = scenario.hierarchy.program(scenario.tasks)
    gram = Gram.find(program, scenario.tasks)
    assert gram is not None
    index = torch.tensor([5, 0, 3])
    with quiet_pyro():
        phi = program.phi(torch.full((program.structure.phi.size,), 0.2))
        ours = gram.per_task(phi, gram.take(index))

        assert torch.allclose(ours, gram.per_task(phi, gram.data)[index])
        assert torch.allclose(gram.total(phi, gram.take(index)), ours.sum())


# --- model and guide ----------------------------------------------------------------------------------------


def pieces(size: int, *, amortised: bool = False) -> tuple[Target, Minibatches, Callable[..., Any], Structured]:
    """Model and guide of a joint target over minibatches."""
    target = target_of("correlated", "joint")
    with own_randomness():
        start = starting_point(target, bm.SVI(), 0)
        count, p = len(target.evidence.tasks), target.program.structure.theta.size
        assert start.local is not None
        local = LocalAmortised(target.evidence.tasks, target.q, p) if amortised else LocalNormal(start.local)
        guide = Structured(phi_guide("fullrank", target.q, 0.1, None), local, count)
    model = model_of(target.q, p, count, start.phi)
    return target, Minibatches(target, 1, size, look=amortised), model, guide


def same_tasks(model: Callable[..., Any], guide: Callable[..., Any], arguments: tuple[Any, ...], index: Tensor) -> bool:
    """Whether model and guide both stand in a plate over these tasks when an ELBO runs them."""
    guide_trace = poutine.trace(guide).get_trace(*arguments)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*arguments)
    seen: list[Any] = [trace.nodes["task"]["value"] for trace in (guide_trace, model_trace)]
    return all(torch.equal(value, index) for value in seen)


@pytest.mark.parametrize("amortised", [False, True])
def test_model_and_guide_see_the_tasks_they_are_given(amortised: bool) -> None:
    _, batches, model, guide = pieces(3, amortised=amortised)
    with own_randomness():
        for index in (torch.tensor([4, 1, 6]), torch.tensor([0, 5, 2])):
            batch = batches.at(index)

            assert same_tasks(model, guide, (batch,), index)
            trace = poutine.trace(guide).get_trace(batch)
            assert trace.nodes["theta"]["scale"] == pytest.approx(7 / 3)
            assert trace.nodes["phi"]["scale"] == 1.0


def test_an_autoguide_with_a_plate_would_see_others() -> None:
    """Pyro issue 3468, which the guides here are built around: the check above finds it."""
    index = torch.tensor([4, 1, 6])

    def model(index: Tensor) -> None:
        with pyro.plate("task", 1000, subsample=index):
            pyro.sample("theta", dist.Normal(0.0, 1.0))

    with own_randomness():
        guide = AutoNormal(model)
        guide(index)
        assert not same_tasks(model, guide, (index,), index)


def test_theta_of_a_batch_is_that_of_its_tasks() -> None:
    _, batches, _, guide = pieces(3)
    index = torch.tensor([4, 1, 6])
    with own_randomness(), torch.no_grad():
        w = torch.zeros(1, guide.phi.latent_dim)
        some = guide.local(w, batches.at(index)).mean
        everything = guide.local(w, batches.everything()).mean

    assert torch.equal(some, everything[index])
    assert not torch.allclose(some, everything[:3])


def test_the_elbo_of_minibatches_is_that_of_all_tasks_on_average() -> None:
    target = target_of("correlated", "joint")
    config = bm.SVI(particles=8, batch_size=3, evidence="joint")
    with own_randomness(), torch.no_grad():
        start = starting_point(target, config, 0)
        assert start.local is not None
        guide = Structured(phi_guide("fullrank", target.q, 0.3, None), LocalNormal(start.local), 7)
        loss = _loss(target, config, start, guide)
        batches = Minibatches(target, 8, 3)
        stream = batches.stream(torch.Generator().manual_seed(2))
        some = torch.stack([loss(next(stream)) for _ in range(60)])
        full = torch.stack([loss(batches.everything()) for _ in range(20)])
    error = math.hypot(float(some.std()) / math.sqrt(60), float(full.std()) / math.sqrt(20))

    assert error < 0.05 * abs(float(full.mean()))
    assert abs(float(some.mean() - full.mean())) < 4 * error
    assert abs(float(3 / 7 * some.mean() - full.mean())) > 4 * error  # without the scale it would not be


def test_the_gradient_has_no_score_where_the_guide_is_exact() -> None:
    """The guide is the Gaussian posterior itself: the path gradient vanishes for every draw, Pyro's does not."""

    def model(batch: Any) -> None:
        w = pyro.sample("phi", dist.Normal(torch.zeros(2), 1.0).to_event(1).mask(False))
        pyro.factor("log_density", -0.5 * w.square().sum(-1))

    with own_randomness():
        guide = phi_guide("fullrank", 2, 1.0, None)

        def gradient(elbo: Any) -> float:
            loss = elbo.differentiable_loss(model, lambda batch: guide(), None)
            return float(torch.stack([g.norm() for g in torch.autograd.grad(loss, list(guide.parameters()))]).sum())

        make: Any = PathELBO
        path = gradient(make(num_particles=8, max_plate_nesting=0, vectorize_particles=True))
        plain = gradient(Trace_ELBO(num_particles=8, max_plate_nesting=0, vectorize_particles=True))

    assert path < 1e-10
    assert plain > 0.01


def test_a_joint_density_of_some_tasks_is_part_of_that_of_all() -> None:
    target = target_of("correlated", "joint")
    evidence: Any = target.evidence
    assert isinstance(evidence, Joint)
    part = evidence.take(torch.tensor([6, 2]))

    assert part.tasks.names == tuple(evidence.tasks.names[k] for k in (6, 2))
    assert part.cells <= evidence.cells
    assert {name: degree.shape[0] for name, degree in part.centring.items()} == dict.fromkeys(part.centring, 2)


def test_a_fit_over_minibatches_counts_its_gradients() -> None:
    target = target_of("normal_normal")
    config = bm.SVI(steps=20, patience=10, tolerance=0.0, particles=4, batch_size=4)
    with own_randomness():
        fitted = _fit(target, config, 0, lambda *_: None)

    assert fitted.evaluations >= 20 * 4
    assert len(fitted.trained.elbo) == 20
