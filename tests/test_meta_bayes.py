"""Tasks with several networks: mixtures, posteriors against exact ones, Stein's particles, and what goes wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.diagnose.metrics import Score
from bayesmeta.errors import BayesmetaError, NotAvailableError, OptionError
from bayesmeta.meta import ABML, BMAML, LLAMA, MAML, PLATIPUS, VAMPIRE
from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.distribution.bayesian import LOG_NOISE, Bayesian
from bayesmeta.meta.distribution.curvature import Laplace, log_probabilities, root_of_curvature
from bayesmeta.meta.distribution.mean_field import LOG_SD, divergence
from bayesmeta.meta.distribution.stein import stein_direction
from bayesmeta.meta.episodes import Episodes, Rows, episodes
from bayesmeta.meta.flat import Flat
from bayesmeta.meta.module import Functional, Weights
from bayesmeta.meta.residual import residual_sd
from bayesmeta.meta.training.climb import Climb
from bayesmeta.meta.training.feed import Part

STEPS: dict[str, Any] = {"inner_steps": 3, "inner_learning_rate": 0.05, "draws": 3}
ALGORITHMS: dict[str, Bayesian] = {
    "LLAMA": LLAMA(goal="evidence", **STEPS),
    "LLAMA, predictive": LLAMA(prior_in_steps=True, **STEPS),
    "LLAMA, last layer, diagonal": LLAMA(uncertain=("2",), diagonal=True, **STEPS),
    "BMAML": BMAML(**STEPS),
    "PLATIPUS": PLATIPUS(**STEPS),
    "ABML": ABML(prior_sd=0.3, **STEPS),
    "VAMPIRE": VAMPIRE(prior_sd=0.3, pairs=2, **STEPS),
}
EVERY = ALGORITHMS | {"BMAML, chaser": BMAML(goal="chaser", **STEPS)}


def but_for_some_long(*quick: str) -> list[Any]:
    """All algorithms, of which these are not left to the long tests."""
    return [pytest.param(name, marks=[pytest.mark.long] * (name not in quick)) for name in sorted(EVERY)]


def network(outputs: int = 1) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, outputs)).double()


def line(inputs: int = 2, outputs: int = 1, *, bias: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(inputs, outputs, bias=bias).double()


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


def parts(algorithm: Algorithm, net: Functional, tasks: bm.Tasks) -> Episodes:
    return episodes(tasks, 3, seed=5, dtype=torch.float64, randoms=algorithm.randoms(net))


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plane(n: int = 6, seed: int = 3) -> Rows:
    """Rows of a linear-Gaussian task with two inputs, the last of them padding."""
    x = numbers(n, 2, seed=seed)
    y = x @ torch.tensor([1.0, -0.5], dtype=torch.float64) + 0.3 * numbers(n, seed=seed + 1)
    return Rows(x, y, torch.arange(n) < n - 1)


def none_of(rows: Rows) -> Rows:
    return rows._replace(mask=torch.zeros_like(rows.mask))


def real(rows: Rows) -> tuple[Tensor, Tensor]:
    return rows.x[rows.mask], rows.y[rows.mask]


# --- several networks a task --------------------------------------------------------------------------------


def test_members_predict_as_a_mixture() -> None:
    """By SciPy, member by member."""
    tasks = sines()
    out, mask = numbers(3, 4, 9, 1), torch.arange(9) < tasks.sizes.unsqueeze(1)
    outputs = bm.meta.Outputs(tasks, out, mask, "mse", 0.4)
    there = [stats.norm(member.numpy(), 0.4) for member in out[..., 0]]
    y = torch.stack([torch.nn.functional.pad(task.y, (0, 9 - len(task.y))) for task in tasks])
    density, below = (np.mean([getattr(one, name)(y.numpy()) for one in there], 0) for name in ("pdf", "cdf"))
    real = mask.numpy()

    assert np.isnan(outputs.mean.numpy()[~real]).all()
    np.testing.assert_allclose(outputs.mean.numpy()[real], out[..., 0].mean(0).numpy()[real])
    sd = np.sqrt(0.16 + out[..., 0].var(0, correction=0).numpy())
    np.testing.assert_allclose(outputs.sd.numpy()[real], sd[real])
    np.testing.assert_allclose(outputs.log_prob(tasks, pointwise=True).numpy()[real], np.log(density)[real])
    np.testing.assert_allclose(outputs.cdf(tasks).numpy()[real], below[real])
    whole = np.array([[one.logpdf(y.numpy())[t][real[t]].sum() for t in range(4)] for one in there])
    np.testing.assert_allclose(outputs.log_prob(tasks).numpy(), np.log(np.exp(whole).mean(0)))
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    for level, at in zip(levels, outputs.quantile(levels.tolist()), strict=True):
        cdf = np.mean([one.cdf(at.numpy()) for one in there], 0)
        np.testing.assert_allclose(cdf[real], float(level), atol=1e-8)


def test_draws_come_from_one_member_each() -> None:
    tasks = bm.Tasks.from_lists([[0.0, 1.0]], [[0.0, 0.0]])
    out = torch.tensor([[-5.0, -5.0], [5.0, 5.0]], dtype=torch.float64).reshape(2, 1, 2)
    drawn = bm.meta.Outputs(tasks, out, torch.ones(1, 2, dtype=torch.bool), "mse", 0.1).sample(4000)

    assert bool((drawn[:, 0, 0].sign() == drawn[:, 0, 1].sign()).all())
    assert float((drawn[:, 0, 0] > 0).double().mean()) == pytest.approx(0.5, abs=0.04)
    assert float(drawn[:, 0, 0].abs().std()) == pytest.approx(0.1, rel=0.1)


def test_probabilities_are_the_mean_of_the_members() -> None:
    tasks, logits = classes(2), numbers(3, 2, 12, 2)
    outputs = bm.meta.Outputs(tasks, logits, torch.ones(2, 12, dtype=torch.bool), "cross_entropy")
    expected = torch.softmax(logits, -1).mean(0)

    torch.testing.assert_close(outputs.probabilities, expected)
    right = expected.gather(-1, tasks.y.reshape(2, 12, 1).long()).squeeze(-1)
    torch.testing.assert_close(outputs.loss(tasks), -right.log().mean(1))


@dataclass(frozen=True)
class Knowing(MAML):
    """Knows how sure it is: less so far from zero."""

    def spread(self, net: Functional, weights: Weights, x: Tensor) -> Tensor:
        return 0.5 + x[:, 0].abs()


def test_an_algorithm_may_know_the_standard_deviation_of_each_observation() -> None:
    learner = bm.meta.fit(network(), sines(), Knowing(shots=3, steps=2), progress=False)
    outputs = learner.adapt(sines()).predict(torch.tensor([[0.0], [2.0]]))

    assert learner.noise is None
    torch.testing.assert_close(outputs.sd, torch.tensor([0.5, 2.5], dtype=torch.float64).expand(4, 2))


def test_one_network_is_handed_over_as_such_and_several_are_not() -> None:
    one = bm.meta.fit(network(), sines(), MAML(shots=3, steps=1), progress=False).adapt(sines())
    assert one.weights["0.weight"].shape == (4, 6, 1)
    assert one.predict(sines()).raw.shape == (4, 9, 1)
    three = bm.meta.fit(network(), sines(), BMAML(shots=3, steps=1, draws=3), progress=False).adapt(sines())
    assert three.members["0.weight"].shape == (4, 3, 6, 1)
    with pytest.raises(NotAvailableError, match=r"a task has 3 networks here: take the weights of all, `members`"):
        _ = three.weights
    with pytest.raises(NotAvailableError, match="a task has 3 networks here: ask for what they give"):
        _ = three.predict(sines()).raw


def test_the_error_left_is_the_likeliest_one() -> None:
    square, weight = numbers(3, 40).square(), torch.rand(40, generator=torch.Generator().manual_seed(1)).double()
    weight[:3] = 0
    sd = residual_sd(square, weight)

    def likelihood(sd: float) -> float:
        each = torch.logsumexp(-0.5 * square / sd**2 - math.log(sd), 0)
        return float(weight @ each)

    assert likelihood(sd) > max(likelihood(0.98 * sd), likelihood(1.02 * sd))
    assert residual_sd(square[:1], weight) == pytest.approx(float((square[0] @ weight / weight.sum()).sqrt()))


def test_particles_begin_apart_also_where_a_weight_is_one_number() -> None:
    particles = BMAML(draws=4).begin(Functional(line(1)))["weight"]
    assert particles.shape == (4, 1, 1)
    assert len(particles.flatten().unique()) == 4


@pytest.mark.parametrize("name", but_for_some_long("BMAML", "LLAMA", "VAMPIRE"))
def test_a_seed_says_which_networks(name: str) -> None:
    state = torch.get_rng_state()
    algorithm = replace(EVERY[name], shots=3, steps=3, batch_size=4)
    one, two = (bm.meta.fit(network(), sines(), algorithm, seed=4, progress=False) for _ in range(2))
    x = torch.tensor([[0.5]], dtype=torch.float64)
    first, again, other = (
        learner.adapt(sines(), seed=s).predict(x).members for learner, s in ((one, 1), (two, 1), (one, 2))
    )

    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert first.shape == (3, 4, 1, 1)
    assert torch.equal(first, other) == (algorithm.randoms(Functional(network())) == 0)


def test_training_goes_on_from_a_checkpoint_to_the_same_weights(tmp_path: Path) -> None:
    algorithm = VAMPIRE(shots=3, steps=12, batch_size=2, schedule="constant", every=3, **STEPS)
    whole = bm.meta.fit(network(), sines(), algorithm, progress=False)
    kept = replace(algorithm, checkpoint=str(tmp_path / "vampire.npz"))
    bm.meta.fit(network(), sines(), replace(kept, steps=6), progress=False)
    rest = bm.meta.fit(network(), sines(), kept, progress=False)

    assert all(torch.equal(value, rest.weights[name]) for name, value in whole.weights.items())


# --- gradients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_the_meta_gradient_is_that_of_finite_differences(name: str) -> None:
    algorithm, net = ALGORITHMS[name], Functional(network())
    meta, found = algorithm.begin(net), parts(algorithm, net, sines())
    flat, weight = Flat(meta), torch.ones(4, dtype=torch.float64)
    u = flat.vector(meta)
    grad = flat.vector(algorithm.value_and_grad(net, meta, found, weight)[1])

    def value(u: Tensor) -> float:
        return float(algorithm.value_and_grad(net, flat.named(u), found, weight)[0])

    assert bool((grad != 0).all())
    for direction in numbers(2, len(u), seed=1):
        step = 1e-5 * direction
        slope = (value(u + step) - value(u - step)) / 2e-5
        assert slope == pytest.approx(float(grad @ direction), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", ["LLAMA, predictive", "LLAMA, last layer, diagonal", "BMAML", "VAMPIRE"])
def test_the_meta_gradient_of_classes_is_that_of_finite_differences(name: str) -> None:
    algorithm, net = replace(ALGORITHMS[name], loss="cross_entropy"), Functional(network(2))
    meta, found = algorithm.begin(net), parts(algorithm, net, classes(2))
    flat, weight = Flat(meta), torch.ones(2, dtype=torch.float64)
    u, direction = flat.vector(meta), numbers(flat.vector(meta).numel(), seed=1)
    grad = flat.vector(algorithm.value_and_grad(net, meta, found, weight)[1])

    def value(u: Tensor) -> float:
        return float(algorithm.value_and_grad(net, flat.named(u), found, weight)[0])

    slope = (value(u + 1e-5 * direction) - value(u - 1e-5 * direction)) / 2e-5
    assert LOG_NOISE not in meta
    assert slope == pytest.approx(float(grad @ direction), rel=1e-5, abs=1e-7)


def test_the_chaser_is_chased_to_where_it_stands_still() -> None:
    """Finite differences of the distance to a place that is held; the noise learns from the likelihood alone."""
    algorithm, net = BMAML(goal="chaser", chaser_steps=2, **STEPS), Functional(network())
    meta, found = algorithm.begin(net), parts(algorithm, net, sines(1))
    support, query = (Rows(*(part[0] for part in rows)) for rows in found[:2])
    noise = meta.pop(LOG_NOISE)
    flat = Flat(meta)
    u, direction = flat.vector(meta), numbers(flat.vector(meta).numel(), seed=1)
    _, grads = algorithm.value_and_grad(net, meta | {LOG_NOISE: noise}, found, torch.ones(1, dtype=torch.float64))

    def ends(u: Tensor) -> Tensor:
        moved = algorithm.members(net, flat.named(u) | {LOG_NOISE: noise}, support, 3, torch.zeros(0))
        return flat.vector(moved)

    both = Rows(*(torch.cat(pair) for pair in zip(support, query, strict=True)))
    there = flat.vector(algorithm.members(net, flat.named(ends(u)) | {LOG_NOISE: noise}, both, 2, torch.zeros(0)))
    step = 1e-5 * direction
    slope = ((ends(u + step) - there).square().sum() - (ends(u - step) - there).square().sum()) / 2e-5
    assert float(slope) == pytest.approx(float(flat.vector(grads) @ direction), rel=1e-6)
    moved = flat.named(ends(u))
    told = torch.func.grad(lambda n: algorithm.judged(net, {LOG_NOISE: n}, moved, query))(noise)
    torch.testing.assert_close(grads[LOG_NOISE], told, rtol=1e-9, atol=1e-12)


# --- Laplace ------------------------------------------------------------------------------------------------


def exact_posterior(rows: Rows, start: Tensor, tau: float, noise: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance of weights (2,) with N(start, 1/τ), of a line without intercept."""
    x, y = real(rows)
    precision = tau * torch.eye(2, dtype=torch.float64) + x.T @ x / noise**2
    return torch.linalg.solve(precision, tau * start + x.T @ y / noise**2), torch.linalg.inv(precision)


def llama_of_a_line(**settings: Any) -> tuple[LLAMA, Functional, Weights]:
    algorithm = LLAMA(prior_sd=0.7, noise=0.4, inner_learning_rate=0.2, prior_in_steps=True, **settings)
    net = Functional(line())
    return algorithm, net, algorithm.begin(net)


def test_the_posterior_of_a_line_is_exact() -> None:
    algorithm, net, meta = llama_of_a_line(draws=2)
    mode = algorithm.adapted(net, meta, plane(), 400)
    mean, covariance = exact_posterior(plane(), net.weights["weight"][0], 1 / 0.49, 0.4)
    torch.testing.assert_close(mode["weight"][0], mean, rtol=1e-9, atol=1e-9)
    laplace = algorithm.posterior(net, meta, mode, plane())
    root = laplace.sample(torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(root.T @ root, covariance, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(laplace.variance(plane().x), (plane().x @ covariance * plane().x).sum(1))
    assert float(laplace.log_det_ratio()) == pytest.approx(float(-covariance.logdet() + 2 * math.log(0.49)))

    members = algorithm.members(net, meta, plane(), 400, numbers(4))
    drawn = algorithm.outputs(net, members, plane().x)[0]
    expected = (mean + numbers(4).reshape(2, 2) @ root) @ plane().x.T
    torch.testing.assert_close(drawn.squeeze(-1), expected, rtol=1e-9, atol=1e-9)
    rough = replace(algorithm, diagonal=True).posterior(net, meta, mode, plane()).sample(torch.eye(2).double())
    assert not torch.allclose(rough.T @ rough, covariance, rtol=0.05)


def test_what_llama_adds_makes_it_the_evidence() -> None:
    """The support in place of the query: minus the log marginal likelihood of a line, by SciPy."""
    algorithm, net, meta = llama_of_a_line(inner_steps=400, goal="evidence")
    x, y = real(plane())
    start = net.weights["weight"][0]
    covariance = 0.16 * torch.eye(len(y), dtype=torch.float64) + 0.49 * x @ x.T
    exact = stats.multivariate_normal((x @ start).numpy(), covariance.numpy()).logpdf(y.numpy())
    found = algorithm.objective(net, meta, Episodes(plane(), plane(), numbers(0)))
    without = replace(algorithm, occam=0.0).objective(net, meta, Episodes(plane(), plane(), numbers(0)))

    assert float(found) == pytest.approx(-exact / len(y), rel=1e-9)
    assert float(without) < float(found) - 0.1


def test_the_predictive_goal_is_the_exact_predictive_density_of_a_line() -> None:
    algorithm, net, meta = llama_of_a_line(inner_steps=400)
    query = plane(5, seed=9)
    mean, covariance = exact_posterior(plane(), net.weights["weight"][0], 1 / 0.49, 0.4)
    x, y = real(query)
    sd = ((x @ covariance * x).sum(1) + 0.16).sqrt()
    exact = stats.norm((x @ mean).numpy(), sd.numpy()).logpdf(y.numpy()).mean()

    assert float(algorithm.objective(net, meta, Episodes(plane(), query, numbers(0)))) == pytest.approx(-exact)


def test_the_curvature_of_classes_is_the_hessian_of_logistic_regression() -> None:
    """For a linear network, Gauss-Newton is Newton."""
    net, x = Functional(line(2, 3)), numbers(5, 2)
    flat, y = Flat(net.weights), torch.tensor([0, 2, 1, 1, 0])
    mask = torch.tensor([True, True, True, True, False])
    at = flat.vector(net.weights)

    def loss(w: Tensor) -> Tensor:
        return nn.functional.cross_entropy(net(flat.named(w), x)[mask], y[mask], reduction="sum")

    root = root_of_curvature(lambda w: net(flat.named(w), x), at, mask, None)
    torch.testing.assert_close(root.T @ root, torch.func.hessian(loss)(at), rtol=1e-9, atol=1e-12)


def test_draws_of_a_posterior_with_more_weights_than_rows_have_its_covariance() -> None:
    curved, log_precision = numbers(3, 8), torch.tensor(0.6, dtype=torch.float64)
    exact = torch.linalg.inv(math.exp(0.6) * torch.eye(8, dtype=torch.float64) + curved.T @ curved)
    root = Laplace.of(curved, log_precision, diagonal=False).sample(torch.eye(8, dtype=torch.float64))
    torch.testing.assert_close(root.T @ root, exact, rtol=1e-9, atol=1e-12)
    alone = Laplace.of(curved, log_precision, diagonal=True)
    root = alone.sample(torch.eye(8, dtype=torch.float64))
    diagonal = 1 / (math.exp(0.6) + curved.square().sum(0))
    torch.testing.assert_close(root.T @ root, diagonal.diag(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(alone.variance(torch.eye(8, dtype=torch.float64)), diagonal)
    assert float(alone.log_det_ratio()) == pytest.approx(float(-diagonal.log().sum() - 8 * 0.6))


def test_normal_logits_have_about_the_mean_of_their_probabilities() -> None:
    """Against draws; and without variance they are a softmax."""
    mean, variance = numbers(4, 3), 2 * torch.rand(4, 3, generator=torch.Generator().manual_seed(1)).double()
    drawn = mean + variance.sqrt() * numbers(20_000, 4, 3, seed=2)
    found = log_probabilities(mean, variance).exp()

    torch.testing.assert_close(found.sum(1), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(found, torch.softmax(drawn, -1).mean(0), rtol=0, atol=0.03)
    assert float((torch.softmax(mean, -1) - torch.softmax(drawn, -1).mean(0)).abs().max()) > 0.06
    torch.testing.assert_close(log_probabilities(mean, 0 * variance), torch.log_softmax(mean, -1))


def test_without_observations_llama_has_its_prior() -> None:
    algorithm, net, meta = llama_of_a_line()
    mode = algorithm.adapted(net, meta, none_of(plane()), 5)
    torch.testing.assert_close(mode["weight"], net.weights["weight"])
    root = algorithm.posterior(net, meta, mode, none_of(plane())).sample(torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(root.T @ root, 0.49 * torch.eye(2, dtype=torch.float64))


# --- Stein's particles --------------------------------------------------------------------------------------


def test_of_a_large_network_the_last_layer_is_uncertain() -> None:
    with torch.random.fork_rng(devices=[]):
        small, large = (Functional(nn.Sequential(nn.Linear(9, width), nn.Linear(width, 2))) for width in (10, 1000))

    assert LLAMA(draws=1).randoms(small) == 9 * 10 + 10 + 10 * 2 + 2
    assert LLAMA(draws=1).randoms(large) == 1000 * 2 + 2
    assert LLAMA(draws=1, uncertain=("0", "1")).randoms(large) == 9 * 1000 + 1000 + 1000 * 2 + 2


def test_steins_direction_is_that_of_a_plain_loop() -> None:
    w, descent = numbers(4, 3), numbers(4, 3, seed=1)
    square = (w.unsqueeze(0) - w.unsqueeze(1)).square().sum(-1)
    width = square[np.triu_indices(4, 1)].sort().values[2] / math.log(4)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-(a - b).square().sum() / width)

    expected = torch.stack(
        [
            torch.stack([kernel(w[m], w[j]) * descent[m] + 0.3 * torch.func.grad(kernel)(w[m], w[j]) for m in range(4)])
            for j in range(4)
        ]
    ).mean(1)
    torch.testing.assert_close(stein_direction(w, descent, 0.3), expected, rtol=1e-9, atol=1e-12)


def test_many_particles_have_the_moments_of_a_known_gaussian() -> None:
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=torch.float64)
    precision = torch.linalg.inv(covariance)
    particles = collapsed = 3 + 0.5 * numbers(80, 2)
    for _ in range(400):
        particles = particles + 0.5 * stein_direction(particles, (mean - particles) @ precision, 1.0)
        collapsed = collapsed + 0.5 * stein_direction(collapsed, (mean - collapsed) @ precision, 0.0)

    torch.testing.assert_close(particles.mean(0), mean, rtol=0, atol=0.03)
    torch.testing.assert_close(particles.T.cov(), covariance, rtol=0, atol=0.12)
    assert float(collapsed.T.cov().abs().max()) < 0.1


def test_a_single_particle_is_maml() -> None:
    net = Functional(network())
    alone, maml = BMAML(draws=1, inner_steps=3, noise=1.0), MAML(inner_steps=3)
    found, weight = parts(maml, net, sines()), torch.ones(4, dtype=torch.float64)
    _, grad = maml.value_and_grad(net, net.weights, found, weight)
    _, same = alone.value_and_grad(net, alone.begin(net), found, weight)

    for name in net.weights:
        torch.testing.assert_close(2 * same[name][0], grad[name], rtol=1e-9, atol=1e-12)


def test_without_observations_particles_stay() -> None:
    algorithm, net = BMAML(**STEPS), Functional(line())
    meta = algorithm.begin(net)
    members = algorithm.members(net, meta, none_of(plane()), 5, torch.zeros(0))
    torch.testing.assert_close(members["weight"], meta["weight"])
    assert members["weight"].shape == (3, 1, 2)


# --- variational posteriors ---------------------------------------------------------------------------------


def test_many_steps_lead_to_the_exact_posterior_of_a_slope() -> None:
    """One weight, so that a mean field has room for it; a pair of draws one sd to either side is exact."""
    algorithm = VAMPIRE(
        prior_sd=0.7, divergence_weight=1.0, noise=0.4, inner_learning_rate=0.8, inner_steps=170, draws=1
    )
    net = Functional(line(1))
    rows, meta = plane()._replace(x=plane().x[:, :1]), algorithm.begin(net)
    x, y = real(rows)
    precision = 1 / 0.49 + float(x.square().sum()) / 0.16
    mean = (float(net.weights["weight"]) / 0.49 + float(x[:, 0] @ y) / 0.16) / precision
    found = algorithm.posterior(net, meta, rows, 170, torch.ones(2, dtype=torch.float64))

    assert float(found["weight"]) == pytest.approx(mean, rel=1e-7)
    assert float(found[LOG_SD + "weight"]) == pytest.approx(-0.5 * math.log(precision), rel=1e-7)
    members = algorithm.members(net, meta, rows, 170, torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert float(members["weight"]) == pytest.approx(mean + 2 * precision**-0.5, rel=1e-7)
    query = plane(5, seed=9)._replace(x=plane(5, seed=9).x[:, :1])
    x, y = real(query)
    square = (y - mean * x[:, 0]).square() + x[:, 0].square() / precision
    expected = (square / 0.32 + math.log(0.4) + 0.5 * math.log(2 * math.pi)).mean()
    surprise = algorithm.objective(net, meta, Episodes(rows, query, torch.ones(2, dtype=torch.float64)))
    assert float(surprise) == pytest.approx(float(expected))


def test_abml_goes_down_a_bound_of_the_evidence_and_reaches_it() -> None:
    """Without query and hyperprior, by SciPy; with few steps the bound is not tight."""
    algorithm = ABML(
        prior_sd=0.7,
        divergence_weight=1.0,
        noise=0.4,
        inner_learning_rate=0.8,
        inner_steps=170,
        draws=1,
        hyperprior=0.0,
    )
    net = Functional(line(1))
    rows, meta = plane()._replace(x=plane().x[:, :1]), algorithm.begin(net)
    x, y = real(rows)
    mean, covariance = (
        x[:, 0] * float(net.weights["weight"]),
        0.16 * torch.eye(len(y), dtype=torch.float64) + 0.49 * x @ x.T,
    )
    exact = -stats.multivariate_normal(mean.numpy(), covariance.numpy()).logpdf(y.numpy()) / len(y)
    episode = Episodes(rows, none_of(rows), torch.ones(2, dtype=torch.float64))

    assert float(algorithm.objective(net, meta, episode)) == pytest.approx(exact, rel=1e-9)
    assert float(replace(algorithm, inner_steps=2).objective(net, meta, episode)) > exact + 0.01


def test_the_hyperprior_of_abml_is_normal_and_gamma() -> None:
    some = ABML(hyperprior=0.5, shape=2.0, rate=0.3, **STEPS)
    net, tasks = Functional(network()), sines()
    meta, weight = some.begin(net), torch.ones(4, dtype=torch.float64)
    other = meta | {name: value + 0.1 for name, value in meta.items() if name != LOG_NOISE}

    def log_prior(meta: Weights) -> float:
        means = torch.cat([meta[name].flatten() for name in net.weights]).numpy()
        precisions = torch.cat([(-2 * meta[LOG_SD + name]).exp().flatten() for name in net.weights]).numpy()
        gamma = stats.gamma(2.0, scale=1 / 0.3)
        return float(stats.norm().logpdf(means).sum() + gamma.logpdf(precisions).sum())

    found = parts(some, net, tasks)
    gains = [
        float(one.value_and_grad(net, other, found, weight)[0] - one.value_and_grad(net, meta, found, weight)[0])
        for one in (some, replace(some, hyperprior=0.0))
    ]
    assert gains[0] - gains[1] == pytest.approx(-0.5 * (log_prior(other) - log_prior(meta)))


def test_the_divergence_is_that_of_torch() -> None:
    net = Functional(network())
    q, p = (
        {kind + name: numbers(*value.shape, seed=seed) for kind in ("", LOG_SD) for name, value in net.weights.items()}
        for seed in (1, 2)
    )
    expected = torch.zeros((), dtype=torch.float64)
    for name in net.weights:
        pair = (torch.distributions.Normal(d[name], d[LOG_SD + name].exp()) for d in (q, p))
        expected = expected + torch.distributions.kl_divergence(*pair).sum()
    torch.testing.assert_close(divergence(net, q, p), expected)


def test_platipus_of_a_slope_by_hand() -> None:
    """One weight, one inner step: every part of the objective in closed form."""
    algorithm = PLATIPUS(prior_sd=0.2, noise=0.4, inner_learning_rate=0.1, inner_steps=1, draws=2)
    net = Functional(line(1))
    rows, query = plane()._replace(x=plane().x[:, :1]), plane(5, seed=9)._replace(x=plane(5, seed=9).x[:, :1])
    meta, e = algorithm.begin(net), numbers(2)
    start = float(net.weights["weight"])

    def step(w: float, rows: Rows) -> float:
        x, y = real(rows)
        return w - 0.1 * float((2 * (w * x[:, 0] - y) * x[:, 0]).mean())

    prior, posterior = step(start, rows), step(start, query)
    end = step(posterior + 0.2 * float(e[0]), rows)
    x, y = real(query)
    surprise = -stats.norm(end * x[:, 0].numpy(), 0.4).logpdf(y.numpy()).mean()
    cost = (posterior - prior) ** 2 / (2 * 0.04) / len(y)
    assert float(algorithm.objective(net, meta, Episodes(rows, query, e))) == pytest.approx(surprise + cost)
    members = algorithm.members(net, meta, rows, 1, e)["weight"].flatten().tolist()
    assert members == pytest.approx([step(prior + 0.2 * float(one), rows) for one in e])
    assert float(algorithm.adapted(net, meta, rows, 1)["weight"]) == pytest.approx(step(prior, rows))


# --- on tasks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(EVERY))
def test_the_mixture_is_what_is_watched(name: str) -> None:
    """The nats of `judged` are those of a prediction with the noise that was learnt."""
    algorithm, net = EVERY[name], Functional(network())
    meta = algorithm.begin(net)
    support, query = (Rows(*(part[0] for part in rows)) for rows in parts(algorithm, net, sines())[:2])
    members = algorithm.members(net, meta, support, 2, numbers(algorithm.randoms(net)))
    outs = algorithm.outputs(net, members, query.x)[0].squeeze(-1)
    each = torch.distributions.Normal(outs, meta[LOG_NOISE].exp()).log_prob(query.y).exp().mean(0).log()

    torch.testing.assert_close(algorithm.judged(net, meta, members, query), -each[query.mask].mean())


@pytest.mark.parametrize("name", but_for_some_long("BMAML", "LLAMA, predictive", "PLATIPUS"))
def test_classes_are_learnt_with_probabilities(name: str) -> None:
    algorithm = replace(EVERY[name], loss="cross_entropy", shots=6, inner_learning_rate=0.5, steps=30)
    learner = bm.meta.fit(network(2), classes(), replace(algorithm, learning_rate=0.05), progress=False)
    outputs = learner.adapt(classes()).predict(classes())

    assert outputs.members.shape == (3, 6, 12, 2)
    assert float(outputs.loss(classes()).mean()) < 0.55
    torch.testing.assert_close(outputs.probabilities.sum(-1), torch.ones(6, 12, dtype=torch.float64))


@pytest.mark.parametrize("name", but_for_some_long("BMAML"))
def test_a_recorded_step_is_the_same_step(name: str) -> None:
    algorithm, net = replace(EVERY[name], steps=400, inner_steps=1), Functional(network())
    meta = algorithm.begin(net)
    flat, part = Flat(meta), Part(parts(algorithm, net, sines()), torch.ones(4, dtype=torch.float64), 0)
    climb = Climb(algorithm, net, flat)
    value, grad = climb(flat.vector(meta).unsqueeze(0), part)
    expected, slope = algorithm.value_and_grad(net, meta, part.episodes, part.weight)

    assert climb.mode == "traced"
    torch.testing.assert_close(-value[0], expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(-grad[0], flat.vector(slope), rtol=1e-8, atol=1e-11)


def scored(algorithm: Algorithm) -> Score:
    """Waves by three points each: trained on a stream of them, judged on 200 new ones."""
    env = bm.data.DKTSines(inputs=(-2.0, 2.0), amplitude=(0.5, 2.0))
    stream = bm.Stream(lambda seed: env.tasks(12, shots=12, seed=seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))
    settings = replace(algorithm, shots=3, inner_steps=3, inner_learning_rate=0.05, steps=1000, learning_rate=5e-3)
    support, query = env.tasks(200, shots=3, query=50, seed=999)
    return bm.score(bm.meta.fit(net, stream, settings, progress=False).adapt(support).predict(query), query, draws=200)


@pytest.mark.long
def test_networks_that_differ_where_little_is_known_are_better_calibrated() -> None:
    """Paired over tasks, against MAML with the best error bar of one size."""
    point = scored(MAML())
    for algorithm in (LLAMA(), BMAML(), PLATIPUS()):
        gain = scored(algorithm).minus(point).to_dict("index")
        assert gain["nll"]["difference"] < 0
        assert gain["nll_joint"]["difference"] < -2 * gain["nll_joint"]["standard_error"]


# --- what goes wrong ----------------------------------------------------------------------------------------


def test_an_inner_loop_that_runs_away_in_training_is_said() -> None:
    """A loss that has no value far from zero, where a large learning rate leads every time."""

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return (out.squeeze(-1) - y).square() - (3 - out.squeeze(-1).abs()).log()

    algorithm = MAML(loss=loss, shots=3, inner_steps=1, steps=90, learning_rate=9.0)
    with pytest.raises(BayesmetaError, match=r"not finite at 20 of the last \d+ steps.* of 90: the inner"):
        bm.meta.fit(network(), sines(), algorithm, progress=False)


@pytest.mark.parametrize(
    ("algorithm", "settings", "words"),
    [
        (LLAMA, {"loss": torch.sub}, "'mse' or 'cross_entropy', whose curvature is known"),
        (LLAMA, {"goal": "evidenc"}, "'evidenc'.*did you mean 'evidence'"),
        (LLAMA, {"occam": -1.0}, "occam must be a number of at least 0, got -1.0"),
        (BMAML, {"goal": "chase"}, "'chase'.*did you mean 'chaser'"),
        (BMAML, {"apart": 0.0}, "apart must be a number above 0"),
        (VAMPIRE, {"prior_sd": 0.0}, "prior_sd must be a number above 0"),
        (VAMPIRE, {"pairs": 0}, "pairs must be a whole number of at least 1"),
        (ABML, {"hyperprior": -0.1}, "hyperprior must be a number of at least 0"),
        (PLATIPUS, {"noise": math.inf}, "noise must be a number above 0"),
        (PLATIPUS, {"draws": 0}, "draws must be a whole number of at least 1"),
    ],
)
def test_settings_are_checked(algorithm: type[Bayesian], settings: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        algorithm(**settings)
