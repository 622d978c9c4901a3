"""Training an ensemble: batches without bias, starts, early stopping, checkpoints, Ctrl-C."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta import recordings
from bayesmeta.errors import BayesmetaError, BayesmetaWarning, FileFormatError, NotAvailableError
from bayesmeta.evidence import Exact, choose
from bayesmeta.evidence.conditional import log_evidence
from bayesmeta.infer.ensemble import run
from bayesmeta.infer.ensemble_density import MembersDensity
from bayesmeta.infer.ensemble_feed import FromTasks, Part, _length, _longer, held_out
from bayesmeta.infer.ensemble_start import prior_draws, scales, starts
from bayesmeta.infer.ensemble_train import rate_at
from bayesmeta.target import Target
from tests.ensembles import ROUGH, points, sines, target_of, waves

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
    monkeypatch.setattr(recordings, "MOST", 1)
    evidence: Any = target_of("normal_normal").evidence
    density, u = MembersDensity(8), points(target_of("normal_normal"))
    found = {}
    for count in (8, 5, 8, 5):
        part = FromTasks(evidence, torch.arange(count), 8, seed=1).part(0)
        for one, two in zip(density(u, part), MembersDensity(8, record=False)(u, part), strict=True):
            assert torch.allclose(one, two, rtol=1e-10)
        found[count] = density(u, part)[0]

    assert len(density._recordings) == 1
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
        part = fit_sines(Interrupted(at=25), path, repulsion=repulsion)  # one batch was looked at before
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
    with pytest.raises(FileFormatError, match=r"run.npz' is not a checkpoint of training .*name another file"):
        run(target, config, progress=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotAvailableError, match="checkpoint: cannot write"):
        run(target, dataclasses.replace(config, checkpoint=str(tmp_path / "file" / "run.npz")), progress=False)
