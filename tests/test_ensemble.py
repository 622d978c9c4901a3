"""Ensembles: the mode, the spread of particles, settings, the verdict, the posterior of thousands of φ."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta import shelf
from bayesmeta.diagnose.verdict import judge
from bayesmeta.draws import Draws
from bayesmeta.errors import OptionError
from bayesmeta.evidence import choose
from bayesmeta.infer.climb import climb
from bayesmeta.infer.ensemble import run
from bayesmeta.infer.ensemble_repulsion import repelled
from bayesmeta.infer.ensemble_start import prior_draws
from bayesmeta.target import Target
from tests.ensembles import ROUGH, network, sines, target_of, waves
from tests.scenarios import normal_normal, quadrature

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


def test_few_tasks_and_a_large_network_are_told_that_nothing_was_held_out() -> None:
    hierarchy, tasks = sines()
    few = tasks[:10]
    target = Target(choose(hierarchy.program(few), few))
    assert target.q > int(few.sizes.sum())

    def checks(draws: Draws) -> set[str]:
        return {finding.check for finding in judge(draws, {}).findings if finding.level == "doubtful"}

    assert "held out" in checks(run(target, ROUGH, progress=False))
    assert "held out" not in checks(run(target, dataclasses.replace(ROUGH, validation=0.2), progress=False))
    assert "held out" not in checks(run(target, ROUGH, progress=False, stream=bm.Stream(waves)))


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
