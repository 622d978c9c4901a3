"""Environments: their optimum against brute force, against itself by the chain rule, and against published floors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta.data import (
    DKTSines,
    Environment,
    GPTasks,
    MAMLSines,
    MixedNoiseSines,
    PACOHCauchy,
    PACOHSinusoid,
)
from bayesmeta.data.panels import integrate
from bayesmeta.data.wave_statistics import Even
from bayesmeta.data.waves import WavePrior, Waves
from bayesmeta.errors import DataError, NotAvailableError, OptionError, UnknownNameError
from bayesmeta.tasks import Tasks

NOISY: dict[str, Environment] = {
    "dkt": DKTSines(),
    "mixed noise": MixedNoiseSines(),
    "sinusoid": PACOHSinusoid(),
    "cauchy": PACOHCauchy(),
    "gp": GPTasks("matern52", length=0.3, scale=1.0, noise=0.1),
    "gp, lengths and scales": GPTasks(),
    "gp, scales": GPTasks("rbf", length=0.4),
}
ALL = NOISY | {"maml": MAMLSines()}
each = pytest.mark.parametrize("name", list(ALL))
noisy = pytest.mark.parametrize("name", list(NOISY))


def _together(first: Tasks, second: Tasks, rows: int) -> Tasks:
    """The first tasks with the first so many rows of the second."""
    xs = [torch.cat([a.x, b.x[:rows]]) for a, b in zip(first, second, strict=True)]
    ys = [torch.cat([a.y, b.y[:rows]]) for a, b in zip(first, second, strict=True)]
    return Tasks.from_lists(xs, ys, names=first.names)


def _rows(tasks: Tasks, rows: slice) -> Tasks:
    return Tasks.from_lists([task.x[rows] for task in tasks], [task.y[rows] for task in tasks], names=tasks.names)


def test_a_density_that_is_no_number_ends_the_integration() -> None:
    with pytest.raises(DataError, match="is not a number"):
        integrate(lambda task, at: torch.where(at > 0.5, math.nan, -at), torch.tensor([[0.0, 1.0]]))


def test_a_density_that_never_becomes_smooth_has_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bayesmeta.data.panels.PANELS", 20)
    rough = torch.Generator().manual_seed(0)
    found = integrate(
        lambda task, at: torch.rand(at.shape, generator=rough, dtype=torch.float64), torch.tensor([[0.0, 1.0]])
    )

    assert float(found.error) > 1e-3


def test_nothing_observed_and_nothing_asked_are_fine() -> None:
    for env in (DKTSines(), GPTasks()):
        support, _ = env.tasks(2, 0, query=3)
        assert env.optimal(support, torch.zeros(3)).mean.shape == (2, 3)
        nothing = env.optimal(env.tasks(2, 3), torch.zeros(0))
        assert nothing.mean.shape == (2, 0)
        assert nothing.log_prob([torch.zeros(0)] * 2, pointwise=True).shape == (2, 0)


def test_a_single_column_of_inputs_is_as_good_as_a_vector() -> None:
    env = DKTSines()
    support = env.tasks(3, 4, seed=1)
    column = replace(support, x=support.x.unsqueeze(-1))

    assert torch.equal(env.optimal(column, torch.zeros(2, 1)).mean, env.optimal(support, torch.zeros(2)).mean)


# --- tasks ---------------------------------------------------------------------------------------------------


@each
def test_tasks_have_the_sizes_asked_for(name: str) -> None:
    support, query = ALL[name].tasks(4, 3, query=7, seed=2)

    assert support.sizes.tolist() == [3] * 4
    assert query.sizes.tolist() == [7] * 4
    assert support.names == query.names == ("2-0", "2-1", "2-2", "2-3")
    assert ALL[name].tasks(4, 3, seed=3).names[0] == "3-0"
    assert ALL[name].tasks(4, 3, seed=2).fingerprint() == ALL[name].tasks(4, 3, seed=2).fingerprint()
    assert ALL[name].tasks(4, 3, seed=2).fingerprint() != ALL[name].tasks(4, 3, seed=3).fingerprint()


@each
def test_more_shots_are_the_same_tasks_with_more_observations(name: str) -> None:
    few, query = ALL[name].tasks(5, 2, query=6, seed=1)
    many, same = ALL[name].tasks(5, 9, query=6, seed=1)

    assert torch.equal(query.x, same.x)
    assert torch.allclose(query.y, same.y, atol=1e-9)
    assert torch.allclose(_rows(many, slice(2)).y, few.y, atol=1e-9)


def test_ragged_tasks_have_sizes_of_their_own() -> None:
    tasks = DKTSines().tasks(300, (10, 15), seed=1)

    assert set(tasks.sizes.tolist()) == set(range(10, 16))


def test_ranges_of_inputs() -> None:
    env = DKTSines()
    inside, outside = env.tasks(200, 20, seed=1), env.tasks(200, 20, seed=1, inputs="out")
    own = env.tasks(200, 20, seed=1, inputs=(1.0, 2.0))

    assert float(inside.x.abs().max()) <= 5
    assert 9.9 < float(outside.x.max()) <= 10
    assert 1.0 <= float(own.x.min()) < float(own.x.max()) <= 2.0


def test_the_cauchy_environment_is_as_published() -> None:
    env = PACOHCauchy()
    tasks = env.tasks(500, 40, seed=1)

    assert float(tasks.x.min()) > -7.5
    assert float(tasks.x.max()) < 5.0
    assert float(env.mean(torch.tensor([-1.0, -1.0]).double())) == pytest.approx(1 + 6 / math.pi + 3 / (math.pi * 19))
    rest = (tasks.y - env.mean(tasks.x)).reshape(500, 40)
    assert float(rest.square().mean().sqrt()) == pytest.approx(math.hypot(0.2, 0.05), rel=0.03)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: DKTSines().tasks(0, 5), "count must be at least 1"),
        (lambda: DKTSines().tasks(3, (4, 2)), "count must be at least 1"),
        (lambda: DKTSines().tasks(3, 5, inputs="outside"), "inputs must be one of"),
        (lambda: PACOHCauchy().tasks(3, 5, inputs="out"), "inputs must be 'in'"),
        (lambda: DKTSines(amplitude=(5.0, 1.0)), r"amplitude: got .*wanted \(low, high\)"),
        (lambda: GPTasks("rational"), "unknown kernel 'rational'"),
        (lambda: GPTasks(length=-1.0), "length: got -1.0; wanted a number above 0"),
        (lambda: GPTasks(length=[0.1, 0.6]), "length: got"),  # type: ignore[arg-type]
        (lambda: GPTasks(noise=-0.1), "noise: got -0.1"),
        (lambda: DKTSines(noise=0.0), "noise: got 0.0; wanted a number above 0"),
        (lambda: PACOHSinusoid(slope=(0.5, 0.0)), "slope: got .*a mean|slope: got .*standard deviation"),
        (lambda: DKTSines().tasks(3, 2.5), "are whole numbers"),  # type: ignore[call-overload]
        (lambda: DKTSines().tasks(3, 2, seed=-1), "are whole numbers"),
    ],
)
def test_what_cannot_be_made(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        make()


def test_what_cannot_be_predicted() -> None:
    env = DKTSines()
    support, query = env.tasks(3, 2, query=4, seed=1)
    best = env.optimal(support, query)

    with pytest.raises(UnknownNameError, match="unknown task '2-0'"):
        env.optimal(support, env.tasks(1, 2, seed=2))
    with pytest.raises(DataError, match="x is a list of 2 inputs"):
        env.optimal(support, [torch.zeros(3), torch.zeros(3)])
    with pytest.raises(DataError, match="y has 3 observations, predicted are 4"):
        best.log_prob(torch.zeros(3, 3))
    with pytest.raises(DataError, match="y has 1 values that are NaN or infinite"):
        best.log_prob([torch.tensor([math.nan, 0.0, 0.0, 0.0]), *torch.zeros(2, 4)])
    with pytest.raises(DataError, match="no wave of these amplitudes and phases passes through"):
        MAMLSines().optimal(Tasks.from_lists([[1.0]], [[6.0]]), torch.zeros(2))
    with pytest.raises(OptionError, match="q must lie between 0 and 1"):
        best.quantile(1.0)
    with pytest.raises(NotAvailableError, match="without noise"):
        MAMLSines().optimal(support, query).log_prob(query)


def test_environments_are_found_in_the_package() -> None:
    assert bm.data.DKTSines is DKTSines
    with pytest.raises(AttributeError, match="has no attribute 'Sines'"):
        bm.data.Sines  # noqa: B018


# --- the optimum ---------------------------------------------------------------------------------------------


def _brute(env: Environment, support: Tasks, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log evidence, mean and sd at x of waves, by a fine grid over A and b and nothing else."""
    mixed = isinstance(env, MixedNoiseSines)
    a = torch.linspace(0.1, 5.0, 801, dtype=torch.float64)[:, None]
    b = torch.linspace(0.0, math.pi, 1201, dtype=torch.float64)[None]
    rule = torch.outer(_trapezoid(801), _trapezoid(1201)).log()
    out = []
    for task in support:
        log_p = rule.clone()
        for xi, yi in zip(task.x.tolist(), task.y.tolist(), strict=True):
            sd = 0.1 * (xi + b).abs() if mixed else torch.tensor(0.1, dtype=torch.float64)
            log_p += -0.5 * ((yi - a * torch.sin(xi + b)) / sd) ** 2 - sd.log() - 0.5 * math.log(2 * math.pi)
        log_z = torch.logsumexp(log_p, (0, 1))
        weight = (log_p - log_z).exp()
        mean = torch.stack([(weight * a * torch.sin(xi + b)).sum() for xi in x])
        square = torch.stack([(weight * (a * torch.sin(xi + b)) ** 2).sum() for xi in x])
        noise = [(weight * (0.1 * (xi + b)) ** 2).sum() if mixed else torch.tensor(0.01) for xi in x]
        out.append((log_z, mean, (square - mean**2 + torch.stack(noise)).sqrt()))
    log_z, mean, sd = (torch.stack(column) for column in zip(*out, strict=True))
    return log_z, mean, sd


def _trapezoid(count: int) -> Tensor:
    weight = torch.full((count,), 1.0 / (count - 1), dtype=torch.float64)
    weight[[0, -1]] /= 2
    return weight


@pytest.mark.parametrize("shots", [0, 1, 4])
@pytest.mark.parametrize("name", ["dkt", "mixed noise"])
def test_waves_are_as_a_fine_grid_has_them(name: str, shots: int) -> None:
    env = NOISY[name]
    support = env.tasks(3, shots, seed=4)
    x = torch.tensor([-4.0, 0.5, 3.0], dtype=torch.float64)

    best = env.optimal(support, x)

    log_z, mean, sd = _brute(env, support, x)
    tolerance = 1e-3 if name == "mixed noise" else 1e-4
    assert float(best.error.max()) < 1e-6
    assert torch.allclose(best._conditional.log_z, log_z, atol=tolerance)  # type: ignore[attr-defined]
    assert torch.allclose(best.mean, mean, atol=tolerance)
    assert torch.allclose(best.sd, sd, atol=tolerance)
    if shots == 4:
        wrong = _brute(env, env.tasks(3, shots, seed=5), x)[1]
        assert not torch.allclose(best.mean, wrong, atol=100 * tolerance)


@noisy
def test_joint_density_is_the_product_of_one_step_ahead(name: str) -> None:
    """log p(y1 y2 y3) = Σ log p(y_k | before): marginals, evidence and adaptive integrals agree with each other."""
    env = NOISY[name]
    support, query = env.tasks(4, 4, query=3, seed=3)
    joint = env.optimal(support, query).log_prob(query)

    steps = torch.zeros(4, dtype=torch.float64)
    for k in range(3):
        one = _rows(query, slice(k, k + 1))
        steps += env.optimal(_together(support, query, k), one).log_prob(one, pointwise=True)[:, 0]

    assert torch.allclose(joint, steps, atol=2e-4)
    alone = env.optimal(support, query).log_prob(query, pointwise=True).sum(1)
    assert not torch.allclose(joint, alone, atol=1e-3)


@noisy
def test_the_faces_of_the_optimum_agree(name: str) -> None:
    """Moments, quantiles, distribution function, density and draws are of one distribution."""
    env = NOISY[name]
    support, query = env.tasks(3, 4, query=2, seed=6)
    best = env.optimal(support, query)
    draws = best.sample(4000, seed=1)

    error = best.sd / math.sqrt(4000)
    assert bool(((draws.mean(0) - best.mean).abs() < 4.5 * error).all())
    lower, upper = best.interval(0.8)
    assert torch.allclose(best.cdf(lower), torch.full_like(lower, 0.1), atol=1e-6)
    inside = ((lower < draws) & (draws < upper)).double().mean(0)
    assert bool(((inside - 0.8).abs() < 4.5 * math.sqrt(0.16 / 4000)).all())
    below, above = (best.cdf(query.y.reshape(3, 2) + step) for step in (-1e-4, 1e-4))
    density = best.log_prob(query, pointwise=True).exp()
    assert torch.allclose((above - below) / 2e-4, density, rtol=2e-2, atol=1e-4)
    crps = (draws - query.y.reshape(3, 2)).abs().mean(0) - 0.5 * (draws[:2000] - draws[2000:]).abs().mean(0)
    assert torch.allclose(best.crps(query), crps, atol=0.15 * float(best.sd.max()))


def test_draws_of_a_task_belong_together() -> None:
    """At one input twice, two observations differ by noise alone."""
    for env in (DKTSines(), PACOHSinusoid(), GPTasks(noise=0.1), GPTasks("rbf", length=0.3, scale=1.0, noise=0.1)):
        support = env.tasks(2, 1, seed=1)
        draws = env.optimal(support, torch.tensor([1.0, 1.0])).sample(2000, seed=2)
        assert float((draws[..., 0] - draws[..., 1]).std()) == pytest.approx(0.1 * math.sqrt(2), rel=0.1)


@pytest.mark.parametrize("kernel", ["rbf", "matern52"])
def test_hyperparameters_are_integrated_as_a_fine_grid_does(kernel: str) -> None:
    env = GPTasks(kernel)
    support = env.tasks(1, 6, seed=2)
    x = torch.tensor([-1.0, 0.3], dtype=torch.float64)
    best = env.optimal(support, x)

    length = np.linspace(0.1, 0.6, 61)
    scale = np.linspace(0.1, 1.0, 61)
    for t, task in enumerate(support):
        log_z, means = np.zeros((61, 61)), np.zeros((61, 61, 2))
        for i, ell in enumerate(length):
            for j, s in enumerate(scale):
                hyper = float(ell), float(s), env.noise
                log_z[i, j], means[i, j] = _by_hand(kernel, hyper, task.x.numpy(), task.y.numpy(), x.numpy())
        rule = _trapezoid(61).numpy()
        weight = np.exp(log_z - log_z.max()) * np.outer(rule, rule)
        expected = math.log(weight.sum()) + log_z.max()
        assert float(best._conditional.log_z[t]) == pytest.approx(expected, abs=2e-3)  # type: ignore[attr-defined]
        assert best.mean[t].numpy() == pytest.approx((weight[..., None] * means).sum((0, 1)) / weight.sum(), abs=1e-3)


def _by_hand(name: str, hyper: tuple[float, float, float], x: Any, y: Any, at: Any) -> tuple[float, Any]:
    """Log evidence, and mean at new inputs, of a Gaussian process, by inverses."""
    length, scale, noise = hyper

    def kernel(a: Any, b: Any) -> Any:
        d = np.abs(a[:, None] - b[None]) / length
        if name == "rbf":
            return scale**2 * np.exp(-0.5 * d**2)
        return scale**2 * (1 + math.sqrt(5) * d + 5 * d**2 / 3) * np.exp(-math.sqrt(5) * d)

    covariance = kernel(x, x) + noise**2 * np.eye(len(x))
    inverse = np.linalg.inv(covariance)
    log_z = -0.5 * (y @ inverse @ y + np.linalg.slogdet(covariance)[1] + len(x) * math.log(2 * math.pi))
    return float(log_z), kernel(at, x) @ inverse @ y


def test_periodic_kernels_are_integrated_over_their_period() -> None:
    """By the chain rule, with the period of each task its own."""
    env = GPTasks("periodic", length=0.5, scale=1.0, period=(0.3, 0.5), noise=0.1)
    support, query = env.tasks(2, 4, query=1, seed=1)
    best = env.optimal(support, query)

    assert float(best.error.max()) < 1e-5
    assert torch.allclose(best.log_prob(query), best.log_prob(query, pointwise=True)[:, 0], atol=1e-4)


@pytest.mark.parametrize("turns", [(0.0, 2.0), (-1.0, 1.0), (0.0, 4.0)])
def test_without_noise_phases_may_go_round(turns: tuple[float, float]) -> None:
    env = MAMLSines(phase=(turns[0] * math.pi, turns[1] * math.pi))
    support, x = env.tasks(10, 1, seed=3), torch.linspace(-5.0, 5.0, 5, dtype=torch.float64)
    found = env.optimal(support, x).mean
    phase = torch.linspace(*env.phase, 200_001, dtype=torch.float64)

    for t, task in enumerate(support):
        unit = torch.sin(task.x[0] - phase)
        amplitude = task.y[0] / unit
        weight = ((amplitude >= env.amplitude[0]) & (amplitude <= env.amplitude[1])) / unit.abs()
        waves = torch.where(weight > 0, amplitude, 0.0) * torch.sin(x[:, None] - phase)
        torch.testing.assert_close(found[t], (weight * waves).sum(1) / weight.sum(), rtol=0, atol=2e-3)


def test_without_noise_two_observations_settle_the_wave() -> None:
    env = MAMLSines()
    support, query = env.tasks(40, 2, query=20, seed=1)
    best = env.optimal(support, query)

    assert torch.allclose(best.mean, query.y.reshape(40, 20), atol=1e-6)
    assert float(best.sd.max()) < 1e-6


@pytest.mark.parametrize("shots", [0, 1])
def test_without_noise_one_observation_leaves_what_little_noise_would(shots: int) -> None:
    env = MAMLSines()
    support = env.tasks(12, shots, seed=2)
    x = torch.linspace(-5, 5, 9, dtype=torch.float64)
    best = env.optimal(support, x)

    def statistics(tasks: Tasks) -> Even:
        return Even(tasks, 0.01, frequency=1.0, sign=-1)

    near = Waves(WavePrior(env.amplitude, env._log_phase, env._edges, statistics), support)
    for t in range(12):
        mixture = near.mixture(t, x)
        assert torch.allclose(best.mean[t], mixture.mean, atol=0.02)
        assert torch.allclose(best.sd[t], (mixture.sd**2 - 0.01**2).sqrt(), atol=0.03)


# --- floors --------------------------------------------------------------------------------------------------


def _floor(env: Environment, count: int, shots: int, m: int, **options: Any) -> bm.Score:
    support, query = env.tasks(count, shots, query=m, seed=11, **options)
    return bm.score(env.optimal(support, query), query, level=0.95, draws=20)


def _agrees(result: bm.Score, metric: str, expected: float, rounding: float) -> None:
    value, error = result[metric], result.table["standard_error"][metric]
    assert abs(value - expected) < 4 * error + rounding, (metric, value, expected)


def test_the_floor_of_dkt_sines_at_five_shots() -> None:
    result = _floor(DKTSines(), 100, 5, 20)

    _agrees(result, "rmse", math.sqrt(0.0154), 0.0005)
    _agrees(result, "nll", -0.675, 0.001)
    _agrees(result, "coverage", 0.949, 0.001)
    assert result.ece < result.ece_floor + 4 * result.ece_spread


def test_no_prediction_beats_the_optimum() -> None:
    """One that thinks amplitudes lie in a narrower range loses, and so does one that thinks the noise smaller."""
    env = DKTSines()
    support, query = env.tasks(100, 2, query=30, seed=12)
    best = env.optimal(support, query).log_prob(query)

    for wrong in (replace(env, amplitude=(0.1, 2.0)), replace(env, noise=0.05)):
        gain = best - wrong.optimal(support, query).log_prob(query)
        assert float(gain.mean()) > 4 * float(gain.std()) / 10


def _squared(env: Environment, count: int, shots: int, m: int, **options: Any) -> tuple[float, float]:
    """The optimum's mean squared error and its standard error over tasks."""
    support, query = env.tasks(count, shots, query=m, seed=11, **options)
    errors = (env.optimal(support, query).mean - query.y.reshape(count, m)).square().mean(1)
    return float(errors.mean()), float(errors.std()) / math.sqrt(count)


@pytest.mark.long
@pytest.mark.parametrize(("shots", "mse"), [(1, 1.28), (2, 0.121), (3, 0.028), (5, 0.0154), (10, 0.0123)])
def test_the_floor_of_dkt_sines_by_shots(shots: int, mse: float) -> None:
    found, error = _squared(DKTSines(), 1000, shots, 40)

    assert abs(found - mse) < 4 * error + 0.005 * mse


@pytest.mark.long
def test_the_floor_of_dkt_sines_outside_is_that_inside() -> None:
    found, error = _squared(DKTSines(), 1000, 5, 40, inputs="out")

    assert abs(found - 0.0154) < 4 * error + 0.0001


@pytest.mark.long
@pytest.mark.parametrize(("inputs", "nll"), [("in", 0.06), ("out", 0.47)])
def test_the_floor_of_mixed_noise_sines(inputs: str, nll: float) -> None:
    """Of five query observations together; the support is in range, the query there or beyond."""
    env = MixedNoiseSines()
    support, _ = env.tasks(2000, 5, query=5, seed=11)
    _, query = env.tasks(2000, 5, query=5, seed=11, inputs=inputs)
    values = -env.optimal(support, query).log_prob(query) / 5

    assert abs(float(values.mean()) - nll) < 4 * float(values.std()) / math.sqrt(2000)


@pytest.mark.long
@pytest.mark.parametrize(("shots", "rmse"), [(20, 0.172), (0, 0.206)])
def test_the_floor_of_the_cauchy_environment(shots: int, rmse: float) -> None:
    """With adaptation, and by the true mean alone."""
    found, error = _squared(PACOHCauchy(), 500, shots, 200)

    assert abs(math.sqrt(found) - rmse) < 4 * error / (2 * rmse) + 0.001


@pytest.mark.long
def test_the_floor_of_pacoh_sinusoids() -> None:
    """Better than the function that all tasks have in common, which leaves slope, amplitude and shift unknown."""
    found, error = _squared(PACOHSinusoid(), 400, 5, 100)
    nothing, _ = _squared(PACOHSinusoid(), 400, 0, 100)

    assert 0.01 < found < 0.1 * nothing
    assert abs(math.sqrt(found) - 0.1576) < 4 * error / (2 * 0.1576)
