"""Every model of the gallery with every preset, on a tiny budget: it runs from the fit to the prediction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta import shelf
from bayesmeta.presets import read_preset, with_options

TINY = {"draws": 10, "tune": 10, "chains": 1, "compile": False, "max_treedepth": 3}


@pytest.fixture(scope="module", params=shelf.names("model"))
def model(request: pytest.FixtureRequest) -> shelf.ModelFile:
    return shelf.load_model(shelf.path_of("model", request.param))


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


@pytest.mark.parametrize("preset", shelf.names("preset"))
def test_every_model_runs_with_every_preset(model: shelf.ModelFile, preset: str) -> None:
    tasks = model.tasks()
    posterior = bm.fit(model.hierarchy, tasks, with_options(read_preset(preset), TINY), progress=False)
    program = model.hierarchy.program(tasks)
    phi = {site.name: site.shape for site in program.structure.phi}
    theta = {site.name: site.shape for site in program.structure.theta}

    assert shapes(posterior.phi) == {name: (10, *shape) for name, shape in phi.items()}
    assert shapes(posterior.theta) == {name: (10, len(tasks), *shape) for name, shape in theta.items()}
    assert finite(posterior.phi)
    assert finite(posterior.theta)
    assert posterior.phi_coordinates.unique(dim=0).shape[0] > 1, "the chain never moved"
    assert posterior.info.inference["back_end"] == "nuts"

    adapted = posterior.adapt(newcomers(tasks))
    assert shapes(adapted.theta) == {name: (10, 3, *shape) for name, shape in theta.items()}
    assert finite(adapted.theta)
    predictive = adapted.predict(tasks[0].x)
    for values in (predictive.mean, predictive.sd, *predictive.interval(0.9), predictive.sample(5)):
        assert values.shape[-2:] == (3, tasks[0].n)
        assert values.isfinite().all()
    assert predictive.log_prob(tasks[0].y.expand(3, -1)).isfinite().all()

    found = posterior.to_arviz()
    assert set(found.groups()) == {
        "posterior",
        "sample_stats",
        "log_likelihood",
        "observed_data",
        "constant_data",
    }
    assert set(found.posterior.data_vars) == set(phi) | set(theta)
    assert torch.tensor(found.log_likelihood[program.structure.observed[0]].values).isfinite().all()
