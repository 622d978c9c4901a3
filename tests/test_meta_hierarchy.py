"""MAML on a hierarchy against plain loops, closed forms and the evidence; `bm.fit` of networks; the implicit prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import meta
from bayesmeta.errors import BayesmetaError, BayesmetaWarning, DataError, FileFormatError, HierarchyError, OptionError
from bayesmeta.evidence.conditional import log_evidence
from bayesmeta.meta.hierarchy import fit as on_hierarchy
from bayesmeta.meta.hierarchy import objective
from bayesmeta.meta.hierarchy.beginning import Beginning
from bayesmeta.meta.hierarchy.feed import Feed, Shuffled, shuffled
from bayesmeta.meta.hierarchy.objective import Climb, Objective
from bayesmeta.sites import quiet_pyro
from bayesmeta.target import Target

SETTINGS = meta.MAML(shots=3, inner_steps=2, inner_learning_rate=0.05, learning_rate=0.1, steps=12)
pytestmark = pytest.mark.filterwarnings("ignore:the draws are doubtful:bayesmeta.errors.BayesmetaWarning")


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_hierarchy, "DRAWS", 100)


# --- hierarchies ------------------------------------------------------------------------------------------


def lines_prior() -> dict[str, Tensor]:
    return {
        "mu": pyro.sample("mu", dist.Normal(torch.zeros(2), 2.0).to_event(1)),
        "shared": pyro.sample("shared", dist.Normal(0.0, 1.0)),
        "tau": pyro.sample("tau", dist.HalfNormal(torch.ones(2)).to_event(1)),
        "sigma": pyro.sample("sigma", dist.HalfNormal(1.0)),
    }


def lines_task(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
    """A level and a slope of each task, and a curvature that all share."""
    theta = pyro.sample("theta", dist.Normal(phi["mu"], phi["tau"]).to_event(1))
    mean = theta[0] + theta[1] * x + phi["shared"] * x**2
    result: Tensor = pyro.sample("y", dist.Normal(mean, phi["sigma"]).to_event(1), obs=y)
    return result


LINES = bm.Hierarchy(lines_prior, lines_task)


def waits_prior() -> tuple[Tensor, Tensor]:
    return pyro.sample("a", dist.Gamma(4.0, 2.0)), pyro.sample("b", dist.Gamma(4.0, 2.0))


def waits_task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
    rate = pyro.sample("rate", dist.Gamma(*phi))
    result: Tensor = pyro.sample("y", dist.Exponential(rate).expand([len(x)]).to_event(1), obs=y)
    return result


WAITS = bm.Hierarchy(waits_prior, waits_task)


def lines(sizes: list[int], seed: int = 0) -> bm.Tasks:
    """Lines of these numbers of points, and noise .3."""
    g = torch.Generator().manual_seed(seed)
    xs = [torch.randn(n, generator=g, dtype=torch.float64) for n in sizes]
    theta = torch.tensor([1.0, -0.5]) + torch.tensor([0.8, 0.6]) * torch.randn(len(sizes), 2, generator=g)
    noise = [0.3 * torch.randn(n, generator=g, dtype=torch.float64) for n in sizes]
    ys = [a + b * x + 0.2 * x**2 + e for (a, b), x, e in zip(theta.double().tolist(), xs, noise, strict=True)]
    return bm.Tasks.from_lists(xs, ys, names=[f"{seed}-{k}" for k in range(len(sizes))])


RAGGED = lines([5, 3, 1, 8, 4, 2])
COORDINATES = torch.tensor([0.5, -0.2, 0.1, -0.3, -0.6, -0.4], dtype=torch.float64)


def objective_of(
    hierarchy: bm.Hierarchy, tasks: bm.Tasks, algorithm: meta.Algorithm, total: float = 10.0
) -> tuple[Objective, Shuffled]:
    program, episode = hierarchy.program(tasks), shuffled(tasks, algorithm.shots, 1)
    return Objective(program, Beginning(program, tasks, episode.rows), algorithm, total), episode


# --- the objective ----------------------------------------------------------------------------------------


def by_hand(u: Tensor, episode: Shuffled, algorithm: meta.MAML, total: float, *, through: bool = True) -> Tensor:
    """The meta-objective of LINES: task after task, derivatives of each step written down."""
    mu, shared, tau, sigma = u[:2], u[2], u[3:5].exp(), u[5].exp()
    losses = []
    for k in range(len(episode.taken)):
        taken, n = int(episode.taken[k]), int(episode.rows.mask[k].sum())
        x, y = episode.rows.x[k].reshape(len(episode.rows.y[k]), -1)[:, 0], episode.rows.y[k]
        design = torch.stack([torch.ones_like(x), x], 1)
        theta = mu
        for _ in range(algorithm.inner_steps):
            error = (design @ theta + shared * x**2 - y)[:taken]
            slope = design[:taken].T @ error / sigma**2 / max(taken, 1)
            theta = theta - algorithm.inner_learning_rate * (slope if through else slope.detach())
        error = (design @ theta + shared * x**2 - y)[taken:n]
        losses.append((0.5 * (error / sigma) ** 2 + sigma.log() + 0.5 * math.log(2 * math.pi)).mean())
    prior = dist.Normal(0.0, 2.0).log_prob(mu).sum() + dist.Normal(0.0, 1.0).log_prob(shared)
    scales = torch.cat([tau, sigma.unsqueeze(0)])
    prior = prior + (dist.HalfNormal(1.0).log_prob(scales) + scales.log()).sum()
    left = torch.stack([mask.sum() for mask in episode.rows.mask]) - episode.taken
    total_loss: Tensor = torch.stack(losses).mean() - prior / (total * left.clamp(min=1).double().mean())
    return total_loss


def gradient_of(value: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    leaf = u.clone().requires_grad_(True)
    with quiet_pyro():
        grad: Tensor = torch.autograd.grad(value(leaf), leaf)[0]
    return grad


def test_value_and_gradient_are_those_of_a_plain_loop() -> None:
    objective, episode = objective_of(LINES, RAGGED, SETTINGS)
    with quiet_pyro():
        value, grad = objective.value_and_grad(COORDINATES, episode)
        expected = by_hand(COORDINATES, episode, SETTINGS, 10.0)
    slope = gradient_of(lambda u: by_hand(u, episode, SETTINGS, 10.0), COORDINATES)

    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grad, slope, rtol=1e-10, atol=1e-12)
    without = by_hand(COORDINATES, episode, replace(SETTINGS, inner_steps=0), 10.0)
    assert abs(float(without - expected)) > 1e-2  # the query loss before the steps is another one


def test_the_first_order_leaves_the_second_derivatives_out() -> None:
    first = replace(SETTINGS, first_order=True)
    objective, episode = objective_of(LINES, RAGGED, first)
    with quiet_pyro():
        _, grad = objective.value_and_grad(COORDINATES, episode)
    slope = gradient_of(lambda u: by_hand(u, episode, first, 10.0, through=False), COORDINATES)

    torch.testing.assert_close(grad, slope, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(
        grad, gradient_of(lambda u: by_hand(u, episode, SETTINGS, 10.0), COORDINATES), rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize(("hierarchy", "dim"), [(LINES, 6), (WAITS, 2)])
def test_the_gradient_is_that_of_finite_differences(hierarchy: bm.Hierarchy, dim: int) -> None:
    tasks = RAGGED if dim == 6 else bm.Tasks.from_lists(None, [[0.5, 1.0, 0.2], [2.0, 0.1], [0.7, 0.9, 1.4, 0.3]])
    objective, episode = objective_of(hierarchy, tasks, SETTINGS)
    u = 0.3 * torch.arange(1.0, dim + 1, dtype=torch.float64) - 0.5
    with quiet_pyro():
        _, grad = objective.value_and_grad(u, episode)
        step = 1e-5 * torch.eye(dim, dtype=torch.float64)
        ahead, behind = (
            torch.stack([objective.value(u + sign * row, episode) for row in step]) for sign in (1.0, -1.0)
        )
    torch.testing.assert_close(grad, (ahead - behind) / 2e-5, rtol=1e-6, atol=1e-8)


def test_a_theta_that_is_not_normal_begins_at_its_mode() -> None:
    """Of log rate, where rate ~ Gamma(a, b), the mode is log(a / b), whose slopes in log a and log b are 1 and -1."""
    tasks = bm.Tasks.from_lists(None, [[0.5], [2.0, 0.1]])
    objective, episode = objective_of(WAITS, tasks, SETTINGS)
    u = torch.tensor([0.7, -0.4], dtype=torch.float64)
    with quiet_pyro():
        begin = objective.beginning(u, episode)
        slopes = torch.func.jacrev(lambda u: objective.beginning(u, episode))(u)

    torch.testing.assert_close(begin, torch.full((2, 1), 1.1, dtype=torch.float64), rtol=0, atol=1e-9)
    expected = torch.tensor([1.0, -1.0], dtype=torch.float64).expand(2, 1, 2)
    torch.testing.assert_close(slopes, expected, rtol=0, atol=1e-6)


def test_reptile_goes_where_steps_on_all_rows_lead() -> None:
    """A level with known noise: K steps leave the share (1 - α/σ²)ᴷ of the way from the mean of a task."""
    algorithm = meta.Reptile(shots=1, inner_steps=3, inner_learning_rate=0.2)
    tasks = lines([4, 2, 7])

    def prior() -> Tensor:
        mu: Tensor = pyro.sample("mu", dist.Normal(0.0, 1.0))
        return mu

    def task(mu: Tensor, x: Tensor, y: Tensor | None = None) -> Any:
        theta = pyro.sample("theta", dist.Normal(mu, 1.0))
        return pyro.sample("y", dist.Normal(theta, 0.8).expand([len(x)]).to_event(1), obs=y)

    objective, episode = objective_of(bm.Hierarchy(prior, task), tasks, algorithm)
    with quiet_pyro():
        _, grad = objective.value_and_grad(torch.tensor([0.3], dtype=torch.float64), episode)
    means = torch.stack([one.y.mean() for one in tasks])
    left = (1 - 0.2 / 0.8**2) ** 3
    expected = ((0.3 - means) * (1 - left)).mean()

    torch.testing.assert_close(grad, expected.unsqueeze(0), rtol=1e-10, atol=1e-12)


def test_the_prior_counts_once_beside_all_rows() -> None:
    """Without steps and without support φ is the mode given all rows: a level with known noise and a narrow prior."""
    tasks = lines([50] * 5)

    def prior() -> Tensor:
        mu: Tensor = pyro.sample("mu", dist.Normal(0.0, 0.1))
        return mu

    def task(mu: Tensor, x: Tensor, y: Tensor | None = None) -> Any:
        theta = pyro.sample("theta", dist.Normal(mu, 1.0))
        return pyro.sample("y", dist.Normal(theta, 1.0).expand([len(x)]).to_event(1), obs=y)

    objective, episode = objective_of(bm.Hierarchy(prior, task), tasks, meta.MAML(shots=0, inner_steps=0), total=5)
    mode = (tasks.y.sum() / (250 + 1 / 0.1**2)).unsqueeze(0)
    with quiet_pyro():
        _, at_mode = objective.value_and_grad(mode, episode)
        _, at_mean = objective.value_and_grad(tasks.y.mean().unsqueeze(0), episode)

    assert float(at_mode.abs()) < 1e-12
    assert float(at_mean.abs()) > 0.01


def test_recorded_steps_are_the_eager_ones() -> None:
    tasks = lines([6, 9, 4, 7, 5])
    objective, episode = objective_of(LINES, tasks, SETTINGS)
    seen = torch.tensor([True, True, True, False, False, True])
    eager, recorded = (Climb(objective, replace(SETTINGS, steps=steps), seen) for steps in (10, 1000))
    other = Feed.of(tasks, shots=3, size=5, steps=1, validation=0.0, seed=4)[0].part(3)

    for part in (episode, other):
        value, grad = eager(COORDINATES.unsqueeze(0), part)
        again, once_more = recorded(COORDINATES.unsqueeze(0), part)
        torch.testing.assert_close(again, value, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(once_more, grad, rtol=1e-9, atol=1e-11)
        assert bool((grad[0, ~seen] == 0).all())
    assert (eager.mode, recorded.mode) == ("eager", "traced")


# --- support and query ------------------------------------------------------------------------------------


def test_support_and_query_part_the_rows_of_a_task() -> None:
    episode = shuffled(RAGGED, 3, 5)
    support, query = episode.support(3), episode.query()

    assert episode.taken.tolist() == [3, 2, 0, 3, 3, 1]
    assert support.mask.sum(1).tolist() == [3, 2, 0, 3, 3, 1]
    assert query.mask.sum(1).tolist() == [2, 1, 1, 5, 1, 1]
    for k, one in enumerate(RAGGED):
        rows = torch.cat([support.y[k][support.mask[k]], query.y[k][query.mask[k]]])
        assert sorted(rows.tolist()) == sorted(one.y.tolist())
    assert not torch.equal(shuffled(RAGGED, 3, 6).rows.y, episode.rows.y)
    assert torch.equal(shuffled(RAGGED, 3, 5).rows.y, episode.rows.y)


def test_an_epoch_has_every_task_once() -> None:
    tasks = lines([4] * 6)
    feed, _ = Feed.of(tasks, shots=1, size=2, steps=9, validation=0.0, seed=0)
    seen = torch.cat([feed.part(step).rows.y.sort(1).values for step in range(3)])

    expected = torch.stack([one.y.sort().values for one in tasks])
    assert sorted(seen.tolist()) == sorted(expected.tolist())
    assert feed.described == "2 of 6 tasks"
    assert Feed.of(tasks, shots=1, size=9, steps=9, validation=0.0, seed=0)[0].described == "all 6 tasks"


# --- the posterior ----------------------------------------------------------------------------------------


TRAINED = lines([8] * 20, seed=3)


def fitted(algorithm: Any = SETTINGS, tasks: bm.Tasks | bm.Stream = TRAINED, **options: Any) -> bm.Posterior:
    return bm.fit(LINES, tasks, algorithm, progress=False, **options)


@pytest.fixture(scope="module")
def posterior() -> bm.Posterior:
    before, on_hierarchy.DRAWS = on_hierarchy.DRAWS, 100
    try:
        return fitted(replace(SETTINGS, steps=80, inner_learning_rate=0.1))
    finally:
        on_hierarchy.DRAWS = before


def test_what_steps_do_not_settle_is_where_the_evidence_is_largest(posterior: bm.Posterior) -> None:
    """Scales have no slope left given the rest; the initialisation, which steps chose, has one."""
    target = Target(posterior.collapsed)
    u = posterior.phi_coordinates[:1]
    _, grad = target.value_and_grad(u)
    scales = grad[0, 3:].abs()

    assert float(scales.max()) < 1e-3
    moved = u.clone()
    moved[0, 3:] += 0.1
    assert float(target.value_and_grad(moved)[1][0, 3:].abs().max()) > 0.1
    assert float(grad[0, :3].abs().max()) > 1e-2


def test_the_point_is_said_to_be_one(posterior: bm.Posterior) -> None:
    assert len(posterior.phi_coordinates.unique(dim=0)) == 1
    assert posterior.verdict.level == "doubtful"
    assert "tau, sigma, set where the exact evidence of all tasks is largest given the rest" in repr(posterior.verdict)
    said = posterior.info.log
    assert said[0].startswith("MAML: φ is a point, found by the query loss after 2 gradient steps of 0.1 on 3 rows")
    assert "80 steps over all 20 tasks" in said[0]
    assert said[1].startswith("query loss in the last tenth of the steps: ")
    assert posterior.info.inference["back_end"] == "maml"
    assert posterior.draws.curves["loss"].shape == (80,)
    assert posterior.draws.curves["loss"][-20:].mean() < posterior.draws.curves["loss"][:20].mean()


def test_its_predictions_are_as_wide_as_they_should_be(posterior: bm.Posterior) -> None:
    support, query = lines([16] * 40, seed=9).split(4)
    predicted = posterior.adapt(support).predict(query)
    table: dict[Any, float] = bm.score(predicted, query).table.value.to_dict()

    exact = bm.fit(LINES, TRAINED, bm.Laplace(draws=300), progress=False).adapt(support).predict(query)
    best: dict[Any, float] = bm.score(exact, query).table.value.to_dict()
    assert table["coverage"] == pytest.approx(best["coverage"], abs=0.03)
    assert table["nll"] < best["nll"] + 0.05
    left = posterior.draws.curves["loss"][-20:].mean()  # by a noise that is the error left after few steps
    assert left > best["nll"] + 0.2


def test_it_answers_as_any_posterior(posterior: bm.Posterior, tmp_path: Path) -> None:
    elpd = posterior.loo()
    posterior.save(tmp_path / "point.nc")
    again = bm.load(tmp_path / "point.nc", LINES)

    evidence: Any = posterior.collapsed
    assert float(log_evidence(evidence, posterior.phi_coordinates[:1]).sum()) > elpd.elpd_loo > -300
    assert torch.equal(again.phi_coordinates, posterior.phi_coordinates)
    assert again.verdict == posterior.verdict


@pytest.mark.long
def test_its_report_says_what_it_is(posterior: bm.Posterior, tmp_path: Path) -> None:
    page = posterior.report(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "from which gradient steps do well" in page
    assert "moved without each task by one Newton step" not in page
    assert "moved without each task by Newton steps" in page


def test_reptile_leaves_to_the_evidence_all_but_the_initialisation() -> None:
    posterior = fitted(meta.Reptile(shots=3, inner_learning_rate=0.1, learning_rate=0.2, steps=30))
    level, slope = posterior.phi["mu"][0].tolist()

    assert posterior.info.log[-1].startswith("no part of the initialisation: shared, tau, sigma, set where")
    ols = torch.stack([torch.linalg.lstsq(_design(one.x), one.y).solution for one in TRAINED]).mean(0)
    assert level == pytest.approx(float(ols[0]), abs=0.4)
    assert slope == pytest.approx(float(ols[1]), abs=0.4)


def _design(x: Tensor) -> Tensor:
    x = x.reshape(len(x))
    return torch.stack([torch.ones_like(x), x, x**2], 1)


@pytest.mark.long
def test_a_theta_that_is_not_gaussian_is_integrated_by_quadrature() -> None:
    tasks = bm.Tasks.from_lists(None, [[0.5, 1.0, 0.2], [2.0, 0.1], [0.7, 0.9, 1.4, 0.3], [0.2]] * 3)
    posterior = bm.fit(WAITS, tasks, replace(SETTINGS, steps=5), progress=False)

    assert posterior.info.evidence == "quadrature"
    assert "3 of 12 tasks have one row, and no support in training" in posterior.info.log
    assert posterior.adapt(tasks[:1].with_names(["new"])).theta["rate"].isfinite().all()


def test_training_goes_on_from_its_checkpoint_to_the_same_point(tmp_path: Path) -> None:
    kept = replace(SETTINGS, steps=6, checkpoint=str(tmp_path / "here.npz"), every=2, schedule="constant")
    whole = fitted(replace(kept, checkpoint=None))
    fitted(replace(kept, steps=4))
    resumed = fitted(kept)

    assert torch.equal(resumed.phi_coordinates, whole.phi_coordinates)
    assert not torch.equal(fitted(replace(kept, checkpoint=None), seed=1).phi_coordinates, whole.phi_coordinates)
    with pytest.raises(FileFormatError, match="belongs to another run: shots was 3 and is 2"):
        fitted(replace(kept, shots=2))


def test_a_stream_and_tasks_that_are_watched() -> None:
    stream = bm.Stream(lambda seed: lines([6] * 5, seed % 1000), validation=lines([6] * 4, 77))
    streamed = fitted(replace(SETTINGS, steps=6, every=2), stream)
    held = fitted(replace(SETTINGS, steps=4, every=2, validation=0.2))

    assert streamed.draws.curves["looks"].tolist() == [2, 4, 6]
    assert len(streamed.tasks) == 5
    assert "6 steps over a batch of the stream" in streamed.info.log[0]
    assert held.draws.curves["validation"].shape == (2,)
    with pytest.raises(OptionError, match=r"validation is 0.5, a share of tasks that are held; a stream has none"):
        fitted(replace(SETTINGS, validation=0.5), stream)


def test_an_interruption_keeps_the_point(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Climb.__call__
    count = 0

    def interrupted(self: Climb, u: Tensor, part: Shuffled) -> tuple[Tensor, Tensor]:
        nonlocal count
        count += 1
        if count == 8:
            raise KeyboardInterrupt
        return calls(self, u, part)

    monkeypatch.setattr(objective.Climb, "__call__", interrupted)
    with pytest.warns(BayesmetaWarning, match="interrupted after 7 of 12 steps: φ is as it was then"):
        posterior = fitted()
    assert posterior.info.interrupted


# --- what makes no sense ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (meta.ANIL(), r"ANIL makes no sense on a hierarchy: of a hierarchy only θ adapts"),
        (meta.IMAML(), r"IMAML makes no sense on a hierarchy: its bowl .* use inference='svi-map'"),
        (meta.ProtoNet(), r"ProtoNet makes no sense on a hierarchy: it needs a network, bm.fit\(net, tasks"),
        (meta.MAML(loss="cross_entropy"), r"loss='cross_entropy' is of networks; of a hierarchy its likelihood is"),
        (meta.MAML(by_class=True), r"by_class=True is of networks"),
        (meta.MAML(adapt_steps=3), r"adapt_steps=3 is of networks; .*posterior.adapt"),
    ],
)
def test_what_is_of_networks_is_refused(algorithm: meta.Algorithm, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        fitted(algorithm)


@pytest.mark.changes_rng
def test_hierarchies_that_steps_cannot_go_through_are_refused() -> None:
    def joint(mu: Tensor, x: Tensor, y: Tensor | None = None) -> Any:
        theta = pyro.sample("theta", dist.Normal(mu, 1.0))
        return pyro.sample("y", dist.MultivariateNormal(theta.expand(len(x)), torch.eye(len(x))), obs=y)

    def branching(mu: Tensor, x: Tensor, y: Tensor | None = None) -> Any:
        theta = pyro.sample("theta", dist.Normal(mu, 1.0))
        mean = theta if float(y.sum() if y is not None else 0.0) > 0 else 0.5 * theta
        return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=y)

    def prior() -> Tensor:
        mu: Tensor = pyro.sample("mu", dist.Normal(0.0, 1.0))
        return mu

    with pytest.raises(HierarchyError, match="one joint distribution"):
        bm.fit(bm.Hierarchy(prior, joint), TRAINED, SETTINGS, progress=False)
    with (
        pytest.warns(BayesmetaWarning, match="cannot be vectorised"),
        pytest.raises(HierarchyError, match="looks at values"),
    ):
        bm.fit(bm.Hierarchy(prior, branching), TRAINED, SETTINGS, progress=False)
    kernel = bm.families.kernels.rbf()
    with pytest.raises(HierarchyError, match="samples no θ: there is nothing that gradient steps could adapt"):
        bm.fit(bm.families.gp(kernel), TRAINED, SETTINGS, progress=False)
    net = nn.Sequential(nn.Linear(1, 60), nn.Tanh(), nn.Linear(60, 1))
    with pytest.raises(HierarchyError, match="θ has 181 coordinates, 100 at most"):
        bm.fit(bm.families.bnn(net), TRAINED, SETTINGS, progress=False)


def test_an_inner_loop_that_runs_away_is_said() -> None:
    with pytest.raises(BayesmetaError, match="finite at none of 16 draws from the prior: the inner loop runs away"):
        fitted(replace(SETTINGS, inner_learning_rate=1e60, inner_steps=9))


# --- networks in bm.fit -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Own(meta.MAML):
    """An algorithm of the user's own."""


@pytest.mark.changes_rng
def test_a_network_gives_a_learner() -> None:
    net = nn.Linear(1, 1)
    settings = meta.MAML(shots=2, inner_steps=1, steps=5)
    learner, other = (
        bm.fit(net, TRAINED, settings, seed=3, progress=False),
        meta.fit(net, TRAINED, settings, seed=3, progress=False),
    )

    assert isinstance(learner, meta.Learner)
    assert all(torch.equal(learner.weights[name], other.weights[name]) for name in learner.weights)
    assert bm.fit(net, TRAINED, Own(shots=2, steps=2), progress=False).steps == 2
    stream = bm.Stream(lambda seed: lines([6] * 5, seed % 1000))
    assert bm.fit(net, stream, settings, progress=False).steps == 5


@pytest.mark.changes_rng
@pytest.mark.parametrize(
    ("inference", "got"), [("auto", "'auto'"), ("nuts", "'nuts'"), (bm.SVI(), "SVI"), (bm.Ensemble(), "Ensemble")]
)
def test_a_network_wants_an_algorithm(inference: Any, got: str) -> None:
    with pytest.raises(OptionError, match=rf"a network is for the algorithms of bayesmeta.meta.*, got {got}; that"):
        bm.fit(nn.Linear(1, 1), TRAINED, inference, progress=False)


@pytest.mark.changes_rng
def test_what_is_wrong_with_the_arguments_of_a_network_is_named() -> None:
    net, wrong = nn.Linear(1, 1), [[1.0]]
    with pytest.raises(OptionError, match="tasks must be a Tasks, got list"):
        bm.fit(net, wrong, "maml", progress=False)  # type: ignore[call-overload]
    with pytest.raises(OptionError, match="seed must be a whole number"):
        bm.fit(net, TRAINED, "maml", seed=-1, progress=False)
    empty = bm.Tasks.without_observations(["none"], like=TRAINED)
    with pytest.raises(DataError, match="have no observations"):
        bm.fit(net, TRAINED + empty, "maml", progress=False)
    with pytest.raises(OptionError, match="Own makes no sense on a hierarchy"):
        fitted(Own())
    with pytest.raises(OptionError, match="MAML finds one point φ and draws nothing"):
        bm.sbc(LINES, TRAINED, meta.MAML(), 2, progress=False)


# --- the implicit prior -----------------------------------------------------------------------------------


def regression(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 3, generator=g, dtype=torch.float64)
    return x, torch.randn(6, generator=g, dtype=torch.float64), torch.randn(3, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 4, 50])
def test_steps_end_at_the_mode_under_the_implicit_prior(steps: int) -> None:
    x, y, start = regression(steps)
    noise, rate = 0.7, 0.05
    w = start
    for _ in range(steps):
        w = w - rate * 2 * x.T @ (x @ w - y) / len(y)  # of the mean squared error
    precision = meta.implicit_prior(2 * x.T @ x / len(y), rate, steps, nats=len(y) / (2 * noise**2))
    mode = torch.linalg.solve(x.T @ x / noise**2 + precision, x.T @ y / noise**2 + precision @ start)

    torch.testing.assert_close(w, mode, rtol=1e-9, atol=1e-9)
    other = torch.linalg.solve(x.T @ x / noise**2 + 1.1 * precision, x.T @ y / noise**2 + 1.1 * precision @ start)
    assert not torch.allclose(w, other, rtol=1e-4, atol=1e-5)
    assert bool((torch.linalg.eigvalsh(precision) > 0).all())


@pytest.mark.changes_rng
def test_a_learner_of_a_linear_network_ends_there_too() -> None:
    net = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        net.weight.fill_(0.4)
    new = bm.Tasks.from_lists([[0.5, 1.5, -1.0]], [[1.0, 2.0, -1.5]], names=["new"])
    settings = meta.MAML(shots=2, inner_steps=7, inner_learning_rate=0.1, steps=3)
    learner = bm.fit(net, TRAINED, settings, progress=False)
    found, start = float(learner.adapt(new).weights["weight"]), float(learner.weights["weight"])
    sxx, sxy = 3.5, float(new.x.flatten() @ new.y)
    prior = float(meta.implicit_prior([[2 * sxx / 3]], 0.1, 7, nats=1.5))

    assert found == pytest.approx((sxy + prior * start) / (sxx + prior), rel=1e-10)


def test_flat_directions_and_many_steps() -> None:
    flat = meta.implicit_prior(torch.zeros(2, 2), 0.1, 20)
    torch.testing.assert_close(flat, 0.5 * torch.eye(2, dtype=torch.float64))
    near = meta.implicit_prior([[1e-8]], 0.1, 20)
    assert float(near) == pytest.approx(0.5, rel=1e-6)
    gone = meta.implicit_prior([[1.0]], 0.5, 200)
    assert 0 <= float(gone) < 1e-50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hessian": [[1.0, 2.0]]}, r"hessian must be a square matrix \(p, p\), got shape \(1, 2\)"),
        ({"hessian": [[math.nan]]}, "hessian must be finite"),
        ({"hessian": [[1.0, 0.5], [0.0, 1.0]]}, "hessian must be symmetric"),
        ({"hessian": [[-1.0]]}, "has the negative eigenvalue -1"),
        ({"hessian": [[20.0]]}, r"learning_rate is 0.1, and the largest curvature 20: .*wanted one below 0.05"),
        ({"steps": 0}, "steps must be"),
        ({"learning_rate": 0.0}, "learning_rate must be a number above 0, got 0.0"),
        ({"nats": -1.0}, "nats must be a number above 0, got -1.0"),
    ],
)
def test_steps_that_no_prior_stands_for_are_refused(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"hessian": [[1.0]], "learning_rate": 0.1, "steps": 3} | arguments
    with pytest.raises(OptionError, match=message):
        meta.implicit_prior(**given)
