"""The Bayesian last layer: its formulas against the generic route and against plain numpy, and what it learns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.evidence import Collapsed, Joint, choose, kind
from bayesmeta.evidence.conditional import log_evidence, theta_coordinates
from bayesmeta.families import Periodic, last_layer
from bayesmeta.families.rows_normal import RowsNormal
from bayesmeta.mapping import over_draws
from bayesmeta.program import Program, Row
from bayesmeta.sites import quiet_pyro

SIZES = (1, 4, 9, 0, 2)
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "known noise": {"noise": 0.3},
    "noise by x": {"noise": nn.Linear(1, 1)},
    "diagonal, no bias": {"covariance": "diagonal", "bias": False},
    "two outputs": {"outputs": 2},
    "two outputs, noise by x": {"outputs": 2, "noise": nn.Linear(1, 1)},
}
POPULATIONS: dict[str, dict[str, Any]] = {
    "three": {"populations": 3},
    "noise by x": {"populations": 3, "noise": nn.Linear(1, 3)},
    "two outputs": {"populations": 2, "outputs": 2, "noise": 0.5},
}


def tasks_of(outputs: int = 1, sizes: tuple[int, ...] = SIZES, seed: int = 0) -> bm.Tasks:
    generator = torch.Generator().manual_seed(seed)
    xs = [torch.rand(n, 1, generator=generator, dtype=torch.float64) for n in sizes]
    shape = () if outputs == 1 else (outputs,)
    ys = [torch.randn(n, *shape, generator=generator, dtype=torch.float64) for n in sizes]
    return bm.Tasks.from_lists(xs, ys, allow_empty=True)


def linear(inputs: int, outputs: int) -> nn.Module:
    """A layer, made without moving the global random state, from which torch fills it."""
    with torch.random.fork_rng(devices=[]):
        return nn.Linear(inputs, outputs)


def net() -> nn.Module:
    return nn.Sequential(linear(1, 4), nn.Tanh())


def program_of(options: dict[str, Any], tasks: bm.Tasks) -> Program:
    return last_layer(net(), **options).program(tasks)


def points(program: Program, count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 0.5 * torch.randn(count, program.structure.phi.size, generator=generator, dtype=torch.float64)


def collapsed(program: Program, tasks: bm.Tasks, method: str = "auto") -> Collapsed:
    found = choose(program, tasks, method)
    assert not isinstance(found, Joint)
    return found


@pytest.mark.parametrize("name", KINDS)
def test_log_z_is_that_of_the_generic_route(name: str) -> None:
    tasks = tasks_of(KINDS[name].get("outputs", 1))
    program = program_of(KINDS[name], tasks)
    own, generic = collapsed(program, tasks), collapsed(program, tasks, "exact")
    u = points(program)

    assert (kind(own), kind(generic)) == ("own", "exact")
    torch.testing.assert_close(log_evidence(own, u), log_evidence(generic, u), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["plain", "two outputs"])
def test_theta_is_distributed_as_on_the_generic_route(name: str) -> None:
    tasks = tasks_of(KINDS[name].get("outputs", 1))
    program = program_of(KINDS[name], tasks)
    u = points(program, 1).expand(4000, -1)
    one, other = (theta_coordinates(collapsed(program, tasks, method), u, 0) for method in ("own", "exact"))

    assert ((one.mean(0) - other.mean(0)) / other.std(0)).abs().max() < 4 * math.sqrt(2 / 4000)
    assert (one.std(0) / other.std(0) - 1).abs().max() < 4 / math.sqrt(4000)
    for t in range(len(tasks)):
        assert np.abs(np.corrcoef(one[:, t].T) - np.corrcoef(other[:, t].T)).max() < 0.1


def by_population(program: Program, tasks: bm.Tasks, u: Tensor, options: dict[str, Any]) -> Tensor:
    """log Z (S, T) at φ (S, q): the sum over populations of the generic route's log Z of each by itself."""
    each = []
    for k in range(options["populations"]):
        alone = {**options, "populations": 1}
        if isinstance(alone.get("noise"), nn.Module):
            alone["noise"] = linear(1, 1)
        single = program_of(alone, tasks)
        generic = collapsed(single, tasks, "exact")
        terms = []
        for phi in (program.phi(point) for point in u):
            values = {name: alone_in(name, value, k) for name, value in phi.values.items() if name != "share"}
            log_z = generic.per_task(single.phi_at(values), generic.data)
            terms.append(log_z + phi.values["share"][k].log())
        each.append(torch.stack(terms))
    return torch.logsumexp(torch.stack(each), 0)


def alone_in(name: str, value: Tensor, k: int) -> Tensor:
    """What population k has of a site."""
    if name.startswith("noise_net"):
        return value[k : k + 1]
    return value if name.startswith("net") else value[k]


@pytest.mark.parametrize("name", POPULATIONS)
def test_log_z_of_populations_is_the_sum_over_them(name: str) -> None:
    options = POPULATIONS[name]
    tasks = tasks_of(options.get("outputs", 1))
    program = program_of(options, tasks)
    u = points(program, 3)
    found = log_evidence(collapsed(program, tasks), u)

    with quiet_pyro():
        expected = by_population(program, tasks, u, options)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_populations_are_drawn_as_the_task_has_them() -> None:
    """For draws of θ | y and any density q, the mean of q(θ) / p(y, θ) is 1 / Z (Gelfand, Dey 1994)."""
    options = POPULATIONS["noise by x"]
    tasks = tasks_of(sizes=(3, 1))
    program = program_of(options, tasks)
    own = collapsed(program, tasks)
    u = points(program, 1)
    theta = theta_coordinates(own, u.expand(20_000, -1), 0)
    log_z = log_evidence(own, u)[0]
    with quiet_pyro():
        phi = program.phi(u[0]).returned
    for t, task in enumerate(tasks):
        row = Row(task.x, task.y, torch.ones(task.n, dtype=torch.bool), {})
        log_p = over_draws(program, lambda v, row=row: program.log_joint(phi, v, row), (theta[:, t],), 2000)
        cell = torch.bucketize(torch.special.ndtr(theta[:, t, 0]), phi["share"].cumsum(0)[:-1])
        ratio = torch.empty(len(theta), dtype=torch.float64)
        for k in range(3):
            label, w = theta[cell == k, t, 0], theta[cell == k, t, 1:]
            near = torch.distributions.MultivariateNormal(w.mean(0), 0.5 * torch.cov(w.mT))
            q = near.log_prob(w) + torch.distributions.Normal(0.0, 1.0).log_prob(label)
            ratio[cell == k] = (q - log_p[cell == k] + log_z[t]).exp()
        assert float(abs(ratio.mean() - 1)) < 4 * float(ratio.std()) / math.sqrt(len(ratio))
        assert float(ratio.std()) < 5


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("factors", [2, 7])
def test_the_density_of_rows_is_that_of_their_covariance(outputs: int, factors: int) -> None:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n = 4
    root = torch.linalg.cholesky(torch.eye(outputs, dtype=torch.float64) + 0.3) * 0.5
    loc, factor, scale = normal(n, outputs), normal(n, factors), normal(n).exp()
    y = normal(n, outputs)
    covariance = np.kron((factor @ factor.mT + torch.diag(scale**2)).numpy(), (root @ root.mT).numpy())
    fn = RowsNormal(loc, factor, scale, root) if outputs > 1 else RowsNormal(loc[:, 0], factor, scale, root)
    value = y if outputs > 1 else y[:, 0]

    expected = stats.multivariate_normal(loc.reshape(-1).numpy(), covariance).logpdf(y.reshape(-1).numpy())
    assert float(fn.log_prob(value)) == pytest.approx(expected)
    assert fn.variance.reshape(-1).numpy() == pytest.approx(covariance.diagonal())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = fn.sample(torch.Size([20_000])).reshape(20_000, -1).numpy()
    assert np.abs(np.cov(drawn.T) - covariance).max() < 0.05 * covariance.diagonal().max()
    assert np.abs(drawn.mean(0) - loc.reshape(-1).numpy()).max() < 4 * math.sqrt(covariance.diagonal().max() / 20_000)


@pytest.mark.parametrize("options", [KINDS["plain"], POPULATIONS["three"]], ids=["plain", "populations"])
def test_predictions_are_those_of_many_draws_of_theta(options: dict[str, Any]) -> None:
    tasks = tasks_of(sizes=(3, 5, 4))
    hierarchy = last_layer(net(), **options)
    posterior = bm.fit(hierarchy, tasks, bm.Ensemble(members=1, steps=30), progress=False)
    new = tasks_of(sizes=(3, 0), seed=4).with_names(["a", "b"])
    x = torch.linspace(0, 1, 3, dtype=torch.float64).unsqueeze(-1)
    y = [torch.tensor([0.2, 0.0, -0.4], dtype=torch.float64)] * 2
    adapted = posterior.adapt(new)
    closed = adapted.predict(x)
    phi = posterior.phi_coordinates
    many = theta_coordinates(collapsed(posterior.collapsed.program, new), phi.expand(20_000, -1), 1)
    drawn = type(closed)(
        posterior.collapsed.program, closed.query, phi.unsqueeze(1).expand(20_000, 2, -1), many, "draws"
    )

    assert ((closed.mean - drawn.mean) / drawn.sd).abs().max() < 4 / math.sqrt(20_000)
    assert (closed.sd / drawn.sd - 1).abs().max() < 0.05
    assert ((closed.quantile(0.9) - drawn.quantile(0.9)) / drawn.sd).abs().max() < 0.05
    assert (closed.log_prob(y, pointwise=True) - drawn.log_prob(y, pointwise=True)).abs().max() < 0.1
    together = [torch.cat([task.y, more]) for task, more in zip(new, y, strict=True)]
    longer = bm.Tasks.from_lists([torch.cat([task.x, x]) for task in new], together, names=new.names)
    torch.testing.assert_close(closed.log_prob(y), (posterior.evidence(longer) - posterior.evidence(new))[0])
    sampled = closed.sample(20_000, seed=3)
    assert ((sampled.mean(0) - closed.mean) / closed.sd).abs().max() < 4 / math.sqrt(20_000)
    assert (sampled.std(0) / closed.sd - 1).abs().max() < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": 0}, "inputs must be a whole number of at least 1, got 0"),
        ({"inputs": 2}, r"does not take inputs of shape \(2, 2\)"),
        ({"covariance": "ful"}, "unknown covariance 'ful'.*did you mean 'full'"),
        ({"scale": -1.0}, "scale must be a number above 0, got -1.0"),
        ({"noise": 0.0}, "noise must be 'learnt', a number above 0 or a network, got 0.0"),
        ({"noise": "known"}, "noise must be 'learnt', a number above 0 or a network, got 'known'"),
        ({"populations": 0}, "populations must be a whole number of at least 1, got 0"),
        ({"populations": 3, "noise": nn.Linear(1, 2)}, r"noise network gives 2 numbers .* wanted 1 or 3"),
    ],
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(bm.BayesmetaError, match=message):
        last_layer(net(), **options)


def learnt(steps: int, **options: Any) -> tuple[bm.Posterior, Any]:
    """A last layer on periodic features, trained on a stream of sines, and their environment."""
    env = bm.data.MixedNoiseSines() if "noise" in options else bm.data.DKTSines()
    hierarchy = last_layer(Periodic(8), scale=2.0, **options)
    stream = bm.Stream(lambda seed: env.tasks(25, (10, 15), seed=1000 + seed))
    ensemble = bm.Ensemble(members=1, steps=steps, learning_rate=0.03)
    return bm.fit(hierarchy, stream, ensemble, progress=False), env


def excess(posterior: bm.Posterior, env: Any, inputs: str, count: int) -> tuple[float, float]:
    """Squared error relative to the best possible, and nats lost per observation, at five shots."""
    support, query = env.tasks(count, 5, query=100, seed=7, inputs=inputs)
    predicted, best = posterior.adapt(support).predict(query), env.optimal(support, query)
    y = torch.stack([task.y for task in query])
    errors = [(each.mean - y).square().mean() for each in (predicted, best)]
    lost = (best.log_prob(query) - predicted.log_prob(query)).mean() / 100
    return float(errors[0] / errors[1]), float(lost)


def test_sines_are_learnt_and_go_on_beyond_the_data() -> None:
    posterior, env = learnt(250)
    for inputs in ("in", "out"):
        ratio, lost = excess(posterior, env, inputs, 50)
        assert ratio < 3
        assert lost < 0.3


@pytest.mark.long
def test_sines_are_predicted_about_as_well_as_can_be() -> None:
    """Squared error at most 1.05 times the least in range, 1.3 times out of range, in half a minute of training."""
    posterior, env = learnt(1500)
    assert excess(posterior, env, "in", 500)[0] < 1.05
    assert excess(posterior, env, "out", 500)[0] < 1.3


@pytest.mark.long
def test_noise_that_depends_on_the_task_is_learnt_by_populations() -> None:
    """Nats lost against the best possible; a single population of noise by x loses far more."""
    several = learnt(2500, populations=8, noise=nn.Sequential(linear(1, 32), nn.ReLU(), linear(32, 8)))
    one = learnt(1500, noise=nn.Sequential(linear(1, 32), nn.ReLU(), linear(32, 1)))
    lost = {name: excess(*found, "in", 300)[1] for name, found in (("several", several), ("one", one))}
    assert lost["several"] < 0.2
    assert lost["one"] > 1.5 * lost["several"]
