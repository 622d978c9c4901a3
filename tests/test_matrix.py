"""Every model of the gallery with every preset, on a few tasks and a tiny budget: it runs from fit to prediction.

The whole matrix is `long`. Of it, every run of the tests has a part that leaves no model and no preset out.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from torch import Tensor

import bayesmeta as bm
from bayesmeta import shelf
from bayesmeta.errors import BayesmetaError, OptionError
from bayesmeta.meta.hierarchy import fit as on_hierarchy
from bayesmeta.presets import ALGORITHMS, BACK_ENDS, back_end_of, read_preset, takes_hierarchies, with_options

MODELS = [name for name in shelf.names("model") if not shelf.is_network(shelf.path_of("model", name))]
NETWORKS = [name for name in shelf.names("model") if name not in MODELS]
PRESETS = [name for name in shelf.names("preset") if takes_hierarchies(read_preset(name))]
ADAPTING = [name for name in shelf.names("preset") if back_end_of(read_preset(name)) in ALGORITHMS]
DRAWS = 20
TASKS = 6
TINY: dict[str, dict[str, Any]] = {
    "nuts": {"draws": DRAWS // 2, "tune": 5, "chains": 2, "compile": False, "max_treedepth": 2},
    "auto": {"draws": DRAWS, "starts": 1, "tune": 5, "chains": 2, "compile": False},
    "laplace": {"draws": DRAWS, "starts": 1},
    "pathfinder": {"draws": DRAWS, "paths": 2, "steps": 50, "elbo_draws": 3},
    "svi": {"draws": DRAWS, "steps": 30, "patience": 10, "particles": 2},
    "hmc": {"draws": DRAWS // 4, "tune": 5, "chains": 4, "compile": False, "max_steps": 4},
    "ensemble": {"members": DRAWS, "steps": 10},
    "maml": {"steps": 5},
    "reptile": {"steps": 5},
}
POINTS = ("svi-map", "maml", "fomaml", "reptile")
"""Presets whose φ is a point, the same in every draw."""

REFUSED = {
    ("epil", "laplace"): "Laplace's approximation takes 300 at most: use evidence='auto'",
    ("epil", "ensemble"): "θ of this hierarchy is not integrated out: use evidence='laplace'",
}
"""What a road cannot do, and what it says then."""

ALWAYS = {(m, p) for i, m in enumerate(MODELS) for j, p in enumerate(PRESETS) if (i + j) % len(MODELS) == 0}

STEPS = {"steps": 2, "batch_size": 4}
WRONG_KIND = {
    ("sines", "cavia"): "mat1 and mat2 shapes cannot be multiplied",
    ("sines", "protonet"): "classes",
    ("sines", "protomaml"): "classes",
    ("sines", "classhead"): "classes",
    ("digits", "cavia"): "CAVIA puts the context behind inputs",
    ("omniglot", "cavia"): "CAVIA puts the context behind inputs",
}
"""What a network or its data are not for, and what is said then."""
QUICK = {
    *(("digits", name) for name in ("maml", "protonet", "protomaml", "classhead")),
    *(("sines", name) for name in ADAPTING),
}


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_hierarchy, "DRAWS", DRAWS)


@cache
def loaded(name: str) -> tuple[bm.Hierarchy, bm.Tasks]:
    model = shelf.load_model(shelf.path_of("model", name))
    return model.hierarchy, model.tasks()


def newcomers(tasks: bm.Tasks) -> bm.Tasks:
    """A task of the fit as it was, a new one with two observations at most, and a new one with none."""
    context = {name: values[[2]] for name, values in tasks.context.items()} or None
    few, _ = tasks[1:2].split(support=2)
    unseen = bm.Tasks.without_observations(["unseen"], like=tasks, context=context)
    return tasks[:1] + few.with_names(["new"]) + unseen


def shapes(values: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in values.items()}


def finite(values: dict[str, Tensor]) -> bool:
    return all(bool(value.isfinite().all()) for value in values.values())


def test_the_part_that_is_always_run_leaves_nothing_out() -> None:
    assert {model for model, _ in ALWAYS} == set(MODELS)
    assert {preset for _, preset in ALWAYS} == set(PRESETS)
    assert {back_end_of(read_preset(preset)) for preset in PRESETS} == {*BACK_ENDS, "maml", "reptile"} == set(TINY)
    assert {*PRESETS, *ADAPTING} == set(shelf.names("preset"))
    assert {name for name, _ in QUICK} == set(NETWORKS) - {"omniglot"}  # which is large
    assert {name for _, name in QUICK} == set(ADAPTING)


@pytest.mark.parametrize(("name", "preset"), REFUSED)
def test_what_a_road_cannot_do_it_says(name: str, preset: str) -> None:
    hierarchy, tasks = loaded(name)
    with pytest.raises(OptionError, match=REFUSED[name, preset]):
        bm.fit(hierarchy, tasks, preset, progress=False)


@pytest.mark.filterwarnings("ignore:the draws are:bayesmeta.errors.BayesmetaWarning")  # there are so few
@pytest.mark.filterwarnings("ignore:k-hat is above:bayesmeta.errors.BayesmetaWarning")
@pytest.mark.parametrize(
    ("name", "preset"),
    [
        pytest.param(name, preset, marks=() if (name, preset) in ALWAYS else pytest.mark.long)
        for name in MODELS
        for preset in PRESETS
        if (name, preset) not in REFUSED
    ],
)
def test_every_model_runs_with_every_preset(name: str, preset: str) -> None:
    hierarchy, tasks = loaded(name)
    tasks, config = tasks[:TASKS], read_preset(preset)
    posterior = bm.fit(hierarchy, tasks, with_options(config, TINY[back_end_of(config)]), progress=False)
    structure = hierarchy.program(tasks).structure
    phi = {site.name: site.shape for site in structure.phi}
    theta = {site.name: site.shape for site in structure.theta}

    assert shapes(posterior.phi) == {name: (DRAWS, *shape) for name, shape in phi.items()}
    assert shapes(posterior.theta) == {name: (DRAWS, len(tasks), *shape) for name, shape in theta.items()}
    assert finite(posterior.phi)
    assert finite(posterior.theta)
    alone = (posterior.info.effective_size or DRAWS) < 1.5  # the weights of so few draws may rest on one of them
    assert (posterior.phi_coordinates.unique(dim=0).shape[0] == 1) == (preset in POINTS) or alone
    assert posterior.info.inference["back_end"] == back_end_of(config)

    members = back_end_of(config) == "ensemble"  # of which θ is drawn more often
    adapted = posterior.adapt(newcomers(tasks), draws=DRAWS if members else None)
    assert shapes(adapted.theta) == {name: (DRAWS, 3, *shape) for name, shape in theta.items()}
    assert finite(adapted.theta)
    predictive = adapted.predict(tasks[0].x)
    for values in (predictive.mean, predictive.sd, *predictive.interval(0.9), predictive.sample(5)):
        assert values.shape[-2:] == (3, tasks[0].n)
        assert values.isfinite().all()
    assert predictive.log_prob(tasks[0].y.expand(3, -1)).isfinite().all()

    found = posterior.to_arviz(posterior_predictive=False)
    assert {"posterior", "log_likelihood", "observed_data", "constant_data"} <= set(found.groups())
    assert set(found.posterior.data_vars) == set(phi) | set(theta)


@pytest.mark.filterwarnings("ignore:training was interrupted:bayesmeta.errors.BayesmetaWarning")
@pytest.mark.parametrize(
    ("name", "preset"),
    [
        pytest.param(name, preset, marks=() if (name, preset) in QUICK else pytest.mark.long)
        for name in NETWORKS
        for preset in ADAPTING
    ],
)
def test_every_network_runs_with_every_algorithm(name: str, preset: str) -> None:
    file, config = shelf.load_model(shelf.path_of("model", name)), read_preset(preset)
    config = with_options(config, STEPS | dict(file.settings))
    net: Any = file.model
    data = file.data()
    if (name, preset) in WRONG_KIND:
        with pytest.raises((BayesmetaError, RuntimeError), match=WRONG_KIND[name, preset]):
            bm.fit(net, data, config, progress=False)
        return
    learner = bm.fit(net, data, config, progress=False)
    few = (data.first(0) if isinstance(data, bm.Stream) else data)[:2]
    predicted = learner.adapt(few).predict(few)

    assert learner.steps == 2
    assert len(learner.curves["loss"]) == 2
    assert predicted.names == few.names
    found = predicted.probabilities if name != "sines" else predicted.sd
    assert found.shape[:2] == (2, int(few.sizes[0]))
    assert found.isfinite().all()


@pytest.mark.parametrize("preset", [name for name in ADAPTING if name not in PRESETS])
def test_what_needs_a_network_says_so_of_a_hierarchy(preset: str) -> None:
    hierarchy, tasks = loaded("radon")
    with pytest.raises(OptionError, match="makes no sense on a hierarchy: "):
        bm.fit(hierarchy, tasks, preset, progress=False)
