"""Ensembles: the mode, the spread of particles, batches without bias, early stopping, checkpoints, Ctrl-C."""

from __future__ import annotations

import dataclasses
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import shelf
from bayesmeta.diagnose.verdict import judge
from bayesmeta.draws import Draws
from bayesmeta.errors import BayesmetaError, BayesmetaWarning, FileFormatError, NotAvailableError, OptionError
from bayesmeta.evidence import Exact, choose
from bayesmeta.evidence.conditional import log_evidence
from bayesmeta.infer import ensemble_density
from bayesmeta.infer.climb import climb
from bayesmeta.infer.ensemble import run
from bayesmeta.infer.ensemble_density import MembersDensity
from bayesmeta.infer.ensemble_feed import FromTasks, Part, _length, _longer, held_out
from bayesmeta.infer.ensemble_repulsion import repelled
from bayesmeta.infer.ensemble_start import prior_draws, scales, starts
from bayesmeta.infer.ensemble_train import rate_at
from bayesmeta.target import Target
from tests.scenarios import SCENARIOS, normal_normal, quadrature

ROUGH = bm.Ensemble(members=2, steps=40, batch_size=4, every=10)


def target_of(name: str, method: str = "auto") -> Target:
    scenario = SCENARIOS[name]()
    return Target(choose(scenario.hierarchy.program(scenario.tasks), scenario.tasks, method))


def points(target: Target, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return 0.5 * torch.randn(count, target.q, generator=generator, dtype=torch.float64)


@cache
def sines() -> tuple[bm.Hierarchy, bm.Tasks]:
    """Sine waves and a small network under a Bayesian last layer."""
    return bm.families.last_layer(network(16, 8), scale=2.0), waves(0, 40)


def network(*widths: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # modules draw weights that nobody asked for
        layers = [nn.Linear(one, two) for one, two in pairwise((1, *widths))]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())))


def waves(seed: int, count: int = 12) -> bm.Tasks:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-3, 3, (count, 8, 1))
    y = rng.uniform(0.5, 2, (count, 1)) * np.sin(x[..., 0] + rng.uniform(0, 1, (count, 1)))
    return bm.Tasks.from_arrays(x, y + 0.1 * rng.normal(size=y.shape))


# --- where members come to ----------------------------------------------------------------------------------


def test_every_member_comes_to_the_mode() -> None:
    scenario, target = normal_normal(), target_of("normal_normal")
    mode = climb(target.value_and_grad, torch.zeros(1, 2, dtype=torch.float64)).mode[0]
    sd = torch.tensor([quadrature(scenario).sd["mu"], 0.3], dtype=torch.float64)
    long = run(target, bm.Ensemble(members=4, steps=700, learning_rate=0.05), seed=1, progress=False)
    short = run(target, bm.Ensemble(members=4, steps=20), seed=1, progress=False)

    assert long.u.shape == (1, 4, 2)
    assert bool(((long.u[0] - mode).abs() < 0.02 * sd).all())
    assert bool(((short.u[0] - mode).abs() > 0.2 * sd).any())


def test_batches_lead_there_too() -> None:
    target = target_of("correlated")
    mode = climb(target.value_and_grad, torch.zeros(1, target.q, dtype=torch.float64)).mode
    config = bm.Ensemble(members=3, steps=700, batch_size=5, learning_rate=0.05)
    draws = run(target, config, seed=1, progress=False)
    heights = target.log_prob(torch.cat([mode, draws.u[0]]))

    assert bool((heights[0] - heights[1:] < 0.3).all())
    assert bool((heights[0] - target.log_prob(prior_draws(target.program, 3, 1)[:3]) > 3).all())


def test_particles_that_push_each_other_apart_spread_like_the_posterior() -> None:
    scenario, target = normal_normal(), target_of("normal_normal")
    exact = quadrature(scenario)
    config = bm.Ensemble(members=60, steps=500, repulsion=True, learning_rate=0.05, clip=1e3)
    spread = run(target, config, seed=1, progress=False).u[0]
    alone = run(target, dataclasses.replace(config, repulsion=False), seed=1, progress=False).u[0]

    assert abs(float(spread[:, 0].mean()) - exact.mean["mu"]) < 0.15 * exact.sd["mu"]
    assert abs(float(spread[:, 1].mean()) - exact.mean_log["tau"]) < 0.1
    assert 0.75 < float(spread[:, 0].std()) / exact.sd["mu"] < 1.15
    assert float(alone[:, 0].std()) < 0.05 * exact.sd["mu"]


def test_the_push_is_the_gradient_of_the_kernel() -> None:
    generator = torch.Generator().manual_seed(0)
    w, grad = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    square = torch.cdist(w, w).square()
    width = square[~torch.eye(5, dtype=torch.bool)].median() / np.log(6)

    def pull(moved: Tensor, i: int) -> Tensor:
        return torch.exp(-(moved - w[i]).square().sum(1) / width).sum()

    for i in range(5):
        kernel = torch.exp(-square[:, i] / width)
        push = torch.func.grad(pull)(w, i).sum(0)
        assert torch.allclose(repelled(w, grad, 0.3)[i], ((kernel.unsqueeze(1) * grad).sum(0) + 0.3 * push) / 5)
    assert torch.equal(repelled(w[:1], grad[:1], 0.3), grad[:1])


def test_a_network_learns_and_its_members_differ() -> None:
    hierarchy, _ = sines()
    watched = waves(99, 30)
    stream = bm.Stream(waves, validation=watched)
    config = bm.Ensemble(members=3, steps=250, every=50, learning_rate=0.05)
    posterior = bm.fit(hierarchy, stream, config, progress=False)
    curve = posterior.draws.curves["validation"]

    assert curve.shape == (5, 3)
    assert float(curve[-1].min() - curve[0].mean()) > 1.0
    assert float(posterior.evidence(watched).mean()) == pytest.approx(float(curve.max(0).mean()), abs=1e-9)
    assert posterior.draws.u.shape[:2] == (1, 3)
    assert float(posterior.phi_coordinates.std(0).mean()) > 0.05
    assert posterior.verdict.reasons[0].startswith("φ is 3 point estimates of")
    assert "a batch of the stream, the first of 12 tasks" in posterior.info.log[0]
    support, query = waves(7, 5).split(support=4)
    predicted = posterior.adapt(support).predict(query)
    assert float((predicted.mean.flatten() - query.y).square().mean()) < 0.5 * float(query.y.square().mean())


# --- what a step is taken over ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "method"),
    [("correlated", "auto"), ("log_normal", "auto"), ("normal_normal", "quadrature"), ("normal_normal", "laplace")],
)
def test_batches_are_without_bias(name: str, method: str) -> None:
    target = target_of(name, method)
    evidence: Any = target.evidence
    count = len(evidence.tasks) - len(evidence.tasks) % 2
    feed = FromTasks(evidence, torch.arange(count), count // 2, seed=5)
    whole = FromTasks(evidence, torch.arange(count), count, seed=5)
    density, u = MembersDensity(count, record=name == "correlated"), points(target)
    parts = [density(u, feed.part(step)) for step in (4, 5)]
    all_at_once = density(u, whole.part(0))

    for k in range(2):
        assert torch.allclose((parts[0][k] + parts[1][k]) / 2, all_at_once[k], rtol=1e-6, atol=1e-8)
        assert not torch.allclose(parts[0][k], all_at_once[k], rtol=1e-3)
    only = Target(evidence.on(evidence.tasks[:count]))
    assert torch.allclose(all_at_once[1] * count, only.value_and_grad(u)[1], rtol=1e-6, atol=1e-7)


def test_every_task_comes_once_an_epoch_in_a_new_order() -> None:
    evidence: Any = target_of("correlated").evidence
    count = len(evidence.tasks)
    feed = FromTasks(evidence, torch.arange(count), 2, seed=1)
    steps = count // 2
    epochs = [torch.cat([feed._batch(e * steps + k) for k in range(steps)]).tolist() for e in range(3)]

    assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    again = FromTasks(evidence, torch.arange(count), 2, seed=1)
    assert again._batch(2 * steps + 1).tolist() == epochs[2][2:4]


def test_functions_that_cannot_be_recorded_give_the_same() -> None:
    target = target_of("log_normal")
    evidence: Any = target.evidence
    part = FromTasks(evidence, torch.arange(len(evidence.tasks)), 100, seed=1).part(0)
    recorded, eager = MembersDensity(8), MembersDensity(8, record=False)
    u = points(target)

    for one, two in zip(recorded(u, part), eager(u, part), strict=True):
        assert torch.allclose(one, two, rtol=1e-10)
    assert (recorded.mode, eager.mode) == ("traced", "eager")


def test_shapes_beyond_the_first_few_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble_density, "MOST_RECORDED", 1)
    evidence: Any = target_of("normal_normal").evidence
    density, u = MembersDensity(8), points(target_of("normal_normal"))
    found = {}
    for count in (8, 5, 8, 5):
        part = FromTasks(evidence, torch.arange(count), 8, seed=1).part(0)
        for one, two in zip(density(u, part), MembersDensity(8, record=False)(u, part), strict=True):
            assert torch.allclose(one, two, rtol=1e-10)
        found[count] = density(u, part)[0]

    assert len(density._recorded) == 1
    assert not torch.allclose(found[8], found[5])


def test_few_lengths_of_tasks_and_the_same_evidence() -> None:
    target = target_of("log_normal")
    evidence: Any = target.evidence
    longer = [
        row._replace(
            x=torch.cat([row.x, row.x[:, :1]], 1), y=torch.cat([row.y, row.y[:, :1]], 1), mask=_one_more(row.mask)
        )
        for row in evidence.data
    ]
    density, u = MembersDensity(8, record=False), points(target)
    plain = density(u, Part(evidence, evidence.data, 8))
    padded = density(u, Part(evidence, longer, 8))

    assert [_length(n) for n in (1, 7, 8, 9, 16, 17, 33)] == [1, 7, 8, 10, 16, 20, 40]
    assert len({_length(n) for n in range(1, 1001)}) <= 36
    assert torch.allclose(plain[0], padded[0], rtol=1e-10)
    assert torch.allclose(plain[1], padded[1], rtol=1e-8)
    lengths = [row.mask.shape[1] for row in _longer(evidence.data, evidence)]
    assert lengths == [_length(row.mask.shape[1]) for row in evidence.data]


def _one_more(mask: Tensor) -> Tensor:
    return torch.cat([mask, torch.zeros(len(mask), 1, dtype=torch.bool)], 1)


def test_tasks_of_many_shapes_are_trained_on_all_the_same() -> None:
    target = target_of("correlated", "exact")
    evidence = Exact(target.program, target.evidence.tasks)
    config = bm.Ensemble(members=2, steps=15, batch_size=1)
    draws = run(Target(evidence), config, progress=False)

    assert bool(torch.isfinite(torch.from_numpy(draws.curves["evidence"])).all())


def test_members_start_at_draws_of_the_prior_in_its_units() -> None:
    def hyperprior() -> tuple[Tensor, Tensor]:
        return pyro.sample("a", dist.Normal(250.0, 40.0)), pyro.sample("b", dist.LogNormal(0.0, 0.1))

    def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(phi[0], phi[1]))
        return pyro.sample("y", dist.Normal(theta, 1.0).expand([len(x)]).to_event(1), obs=y)

    tasks = bm.Tasks.from_lists(None, [[240.0, 241.0], [251.0]])
    program = bm.Hierarchy(hyperprior, task).program(tasks)
    state = torch.get_rng_state()
    draws = prior_draws(program, 500, seed=1)

    assert torch.equal(torch.get_rng_state(), state)
    assert draws.shape == (500, 2)
    assert scales(draws).tolist() == pytest.approx([40.0, 0.1], rel=0.25)
    assert float(draws[:, 0].mean()) == pytest.approx(250.0, abs=8)
    evidence: Any = choose(program, tasks)
    part = FromTasks(evidence, torch.arange(2), 2, seed=0).part(0)
    density = MembersDensity(2, record=False)
    assert torch.equal(starts(density, part, draws, 5), draws[:5])
    broken = draws.clone()
    broken[1] = 1e300
    healed = starts(density, part, broken, 5)
    assert torch.equal(healed[[0, 2, 3, 4]], draws[[0, 2, 3, 4]])
    assert bool(torch.isfinite(density(healed, part)[1]).all())
    with pytest.raises(BayesmetaError, match="no starting point of finite evidence was found in 12 draws"):
        starts(density, part, torch.full((64, 2), torch.nan, dtype=torch.float64), 2)


def test_the_learning_rate_rises_and_falls() -> None:
    config = bm.Ensemble(steps=100, learning_rate=0.1, warmup=0.1)
    rates = [rate_at(config, step) for step in range(100)]

    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(0.1, rel=0.05)
    assert rates[-1] < 1e-4
    assert rate_at(dataclasses.replace(config, schedule="constant", warmup=0.0), 99) == 0.1


def test_a_member_that_steps_out_of_the_model_goes_back() -> None:
    """log Z = log(1 - a²) has its top at zero, and is NaN outside of (-1, 1)."""

    def hyperprior() -> Tensor:
        value: Tensor = pyro.sample("a", dist.Normal(0.0, 0.5))
        return value

    def task(a: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        return pyro.sample("y", dist.Normal(a, 1.0).expand([len(x)]).to_event(1), obs=y)

    form = bm.ClosedForm(
        log_z=lambda a, row: torch.log1p(-a * a), predictive=lambda a, row, x: dist.Normal(a, 1.0).expand([len(x)])
    )
    tasks = bm.Tasks.from_lists(None, [[0.0]] * 4)
    target = Target(choose(bm.Hierarchy(hyperprior, task, evidence=form).program(tasks), tasks))
    config = bm.Ensemble(members=8, steps=200, learning_rate=8.0, warmup=0.0)
    draws = run(target, config, seed=1, progress=False)
    evidence = draws.curves["evidence"]

    assert int(np.isnan(evidence).sum()) > 5
    assert bool((draws.u.abs() < 0.3).all())
    assert any("went back" in line for line in draws.log)


# --- early stopping, Ctrl-C, checkpoints --------------------------------------------------------------------


def test_training_ends_when_validation_gains_no_more_and_each_member_is_at_its_best() -> None:
    hierarchy, tasks = sines()
    config = bm.Ensemble(
        members=2, steps=3000, validation=0.5, every=20, patience=3, learning_rate=0.1, schedule="constant"
    )
    draws = run(Target(choose(hierarchy.program(tasks), tasks)), config, seed=2, progress=False)
    curve, looks = draws.curves["validation"], draws.curves["looks"]
    evidence: Any = choose(hierarchy.program(tasks), tasks)
    watched = evidence.on(tasks[held_out(len(tasks), 0.5, 2)[1]])

    assert log_evidence(watched, draws.u[0]).mean(1).tolist() == pytest.approx(curve.max(0).tolist())
    assert looks[-1] < 3000
    assert looks[-1] == len(draws.curves["evidence"])
    assert int(curve.argmax(0).max()) == len(curve) - 1 - 3
    assert "it rose no longer, and training ended" in draws.log[-1]


def test_tasks_that_are_watched_are_not_trained_on() -> None:
    trained, watched = held_out(11, 0.3, seed=4)

    assert sorted([*trained.tolist(), *watched.tolist()]) == list(range(11))
    assert len(watched) == 3
    assert len(held_out(11, 0.0, seed=4)[1]) == 0
    assert len(held_out(11, 0.01, seed=4)[1]) == 1
    assert len(held_out(2, 0.99, seed=4)[0]) == 1


class Interrupted:
    """Batches of a stream, with Ctrl-C pressed as one of them is made."""

    def __init__(self, at: int) -> None:
        self.at, self.made = at, 0

    def __call__(self, seed: int) -> bm.Tasks:
        self.made += 1
        if self.made == self.at:
            raise KeyboardInterrupt
        return waves(seed)


def fit_sines(source: Any, path: Path | None, **options: Any) -> bm.Posterior:
    hierarchy, _ = sines()
    config = dataclasses.replace(ROUGH, checkpoint=None if path is None else str(path), **options)
    return bm.fit(hierarchy, bm.Stream(source, count=500, validation=waves(99)), config, seed=3, progress=False)


@pytest.mark.filterwarnings("ignore:the draws are:bayesmeta.errors.BayesmetaWarning")
@pytest.mark.parametrize("repulsion", [False, True])
def test_training_goes_on_from_a_checkpoint_bit_for_bit(tmp_path: Path, repulsion: bool) -> None:
    path = tmp_path / "run.npz"
    whole = fit_sines(waves, None, repulsion=repulsion)
    with pytest.warns(BayesmetaWarning, match="training was interrupted after 23 of 40 steps"):
        part = fit_sines(Interrupted(at=26), path, repulsion=repulsion)  # two batches were looked at before
    resumed = fit_sines(waves, path, repulsion=repulsion)

    assert part.info.interrupted
    assert len(part.draws.curves["evidence"]) == 23
    assert part.verdict.level == "doubtful"
    assert torch.equal(resumed.draws.u, whole.draws.u)
    for name, curve in whole.draws.curves.items():
        assert np.array_equal(resumed.draws.curves[name], curve), name
    assert resumed.info.log[1] == f"went on from step 23 of {path}"
    assert not torch.equal(part.draws.u, whole.draws.u)
    assert list(tmp_path.iterdir()) == [path]


def test_a_finished_checkpoint_is_read_and_more_steps_go_on_from_it(tmp_path: Path) -> None:
    target, path = target_of("correlated"), tmp_path / "deep" / "run.npz"
    config = dataclasses.replace(ROUGH, checkpoint=str(path))
    first = run(target, config, progress=False)
    again = run(target, config, progress=False)
    longer = run(target, dataclasses.replace(config, steps=60), progress=True)

    assert torch.equal(first.u, again.u)
    assert again.evaluations == 0
    assert len(longer.curves["evidence"]) == 60
    assert np.array_equal(longer.curves["evidence"][:40], first.curves["evidence"])


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    target, path = target_of("correlated"), tmp_path / "run.npz"
    config = dataclasses.replace(ROUGH, checkpoint=str(path), steps=2)
    run(target, config, progress=False)

    with pytest.raises(FileFormatError, match=r"belongs to another run: members was 2 and is 3\. Delete it"):
        run(target, dataclasses.replace(config, members=3), progress=False)
    with pytest.raises(FileFormatError, match="belongs to another run: seed was 0 and is 1"):
        run(target, config, seed=1, progress=False)
    evidence: Any = target.evidence
    with pytest.raises(FileFormatError, match="belongs to another run: the tasks are others"):
        run(Target(evidence.on(evidence.tasks[:3])), config, progress=False)
    path.write_bytes(b"nothing")
    with pytest.raises(FileFormatError, match=r"run.npz' is no checkpoint of an ensemble .*name another file"):
        run(target, config, progress=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotAvailableError, match="checkpoint: cannot write"):
        run(target, dataclasses.replace(config, checkpoint=str(tmp_path / "file" / "run.npz")), progress=False)


# --- settings, verdict, posterior ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": 0}, "members must be a whole number of at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be a number above 0, got 0.0"),
        ({"warmup": 1.0}, "warmup must be a number of at least 0 and below 1, got 1.0"),
        ({"validation": -0.1}, "validation must be a number of at least 0 and below 1, got -0.1"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; .*did you mean 'cosine'"),
        ({"evidence": "exat"}, "unknown evidence 'exat'"),
        ({"repulsion": 1}, "repulsion must be True or False, got 1"),
        ({"checkpoint": 3}, "checkpoint must be the path of a file as text, or None, got 3"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        bm.Ensemble(**options)


def test_what_an_ensemble_cannot_do_it_says() -> None:
    scenario = normal_normal()
    with pytest.raises(OptionError, match="θ of this hierarchy is not integrated out: use evidence='laplace'"):
        run(target_of("normal_normal", "joint"), ROUGH, progress=False)
    with pytest.raises(OptionError, match=r"a stream of tasks is for inference=Ensemble\(\.\.\.\), got NUTS"):
        bm.fit(scenario.hierarchy, bm.Stream(waves), bm.NUTS(), progress=False)
    with pytest.raises(OptionError, match=r"validation is 0\.2, a share of tasks that are held; a stream has none"):
        bm.fit(sines()[0], bm.Stream(waves), dataclasses.replace(ROUGH, validation=0.2), progress=False)
    with pytest.raises(OptionError, match="seed must be a whole number of at least 0, got -1"):
        bm.fit(sines()[0], bm.Stream(waves), ROUGH, seed=-1, progress=False)
    one = choose(scenario.hierarchy.program(scenario.tasks[:1]), scenario.tasks[:1])
    with pytest.raises(OptionError, match="validation needs two tasks at least"):
        run(Target(one), dataclasses.replace(ROUGH, validation=0.5), progress=False)


def trained(size: int, curve: Any, members: int = 4) -> Draws:
    return Draws(torch.zeros(1, members, size, dtype=torch.float64), curves={"evidence": curve}, members=members)


def test_the_verdict_says_what_members_are() -> None:
    noise = np.random.default_rng(0).normal(size=(400, 4))
    rising = np.linspace(0, 40, 400)[:, None] + noise

    assert judge(trained(5000, noise), {}).level == "fine"
    small = judge(trained(3, noise), {})
    assert small.level == "doubtful"
    assert small.remedies == ("inference='auto' or 'nuts' gives the posterior of these 3 coordinates",)
    unfinished = judge(trained(5000, rising), {})
    assert unfinished.level == "doubtful"
    assert "take more steps" in unfinished.remedies[0]
    assert judge(trained(5000, noise, members=1), {}).findings[0].check == "point"


def test_a_posterior_of_thousands_shows_itself_shortly_and_comes_back_from_a_file(tmp_path: Path) -> None:
    hierarchy = bm.families.last_layer(network(40, 40))
    config = bm.Ensemble(members=3, steps=50)
    posterior = bm.fit(hierarchy, waves(1), config, progress=False)
    text = repr(posterior)

    assert posterior.phi_coordinates.shape[1] > 2000
    assert len(text.splitlines()) < 25
    assert "net.2.weight (40×40)" in text
    assert "12 tasks, 3 members of an ensemble" in text
    assert posterior._repr_html_().count("<tr") < 25
    table = posterior.summary()
    assert len(table) == sum(value[0].numel() for value in posterior.phi.values())
    assert set(table["ess_bulk"]) == {3.0}
    posterior.save(tmp_path / "net.nc", log_likelihood=False)
    loaded = bm.load(tmp_path / "net.nc", hierarchy)
    assert torch.equal(loaded.phi_coordinates, posterior.phi_coordinates)
    assert repr(loaded) == text


@pytest.mark.filterwarnings("ignore:the draws are:bayesmeta.errors.BayesmetaWarning")
def test_a_few_members_give_many_draws_of_theta() -> None:
    scenario = normal_normal()
    config = dataclasses.replace(ROUGH, steps=200, learning_rate=0.05, batch_size=64)
    posterior = bm.fit(scenario.hierarchy, scenario.tasks, config, progress=False)
    new = bm.Tasks.from_lists(None, [[2.0]], names=["new"], context={"sigma": [1.0]})
    adapted = posterior.adapt(new)
    few = posterior.adapt(new, draws=5)

    assert adapted.theta["theta"].shape == (1000, 1)
    assert len(adapted.phi_coordinates.unique(dim=0)) == 2
    assert bool(adapted.k_hat.isnan().all())
    assert 1.0 <= float(adapted.effective_size[0]) <= 2.0
    mu, tau = (posterior.phi[name] for name in ("mu", "tau"))
    log_z = dist.Normal(mu, (tau**2 + 1).sqrt()).log_prob(torch.tensor(2.0))
    mean = (torch.softmax(log_z, 0) * (mu + tau**2 * 2) / (tau**2 + 1)).sum()
    assert float(adapted.theta["theta"].mean()) == pytest.approx(float(mean), abs=4 / 1000**0.5)
    assert few.theta["theta"].shape == (5, 1)
    with pytest.raises(OptionError, match="draws must be a whole number of at least 1, got 0"):
        posterior.adapt(new, draws=0)


@pytest.mark.filterwarnings("ignore:the draws are:bayesmeta.errors.BayesmetaWarning")
def test_a_model_of_the_gallery_by_laplace() -> None:
    model = shelf.load_model(shelf.path_of("model", "epil"))
    config = bm.Ensemble(members=1, steps=4, evidence="laplace")
    posterior = bm.fit(model.hierarchy, model.tasks()[:4], config, progress=False)

    assert posterior.info.evidence == "laplace"
    assert bool(torch.isfinite(posterior.phi_coordinates).all())
