"""Tasks of several populations: the formulas against their definitions, order, memberships, fits."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, biject_to

import bayesmeta as bm
from bayesmeta.errors import DataError, OptionError
from bayesmeta.evidence import Own, choose
from bayesmeta.families import linear, memberships, mixture
from bayesmeta.families.populations import OrderedRows, Populations, pick
from bayesmeta.program import Row
from bayesmeta.sites import quiet_pyro

QUICK = bm.Laplace(draws=500, starts=2)


def simulated(count: int = 40, seed: int = 0, shots: int = 6) -> tuple[bm.Tasks, Tensor]:
    """Lines of two populations, one rising and one falling, and which task is of which."""
    generator = torch.Generator().manual_seed(seed)
    rising = torch.rand(count, generator=generator) < 0.3
    slope = torch.where(rising, 2.0, -1.0) + 0.3 * torch.randn(count, generator=generator)
    level = 1.0 + 0.5 * torch.randn(count, generator=generator)
    x = torch.randn(count, shots, generator=generator)
    y = level[:, None] + slope[:, None] * x + 0.5 * torch.randn(count, shots, generator=generator)
    return bm.Tasks.from_arrays(x, y, names=[f"{seed}-{k}" for k in range(count)]), rising


@cache
def fitted() -> tuple[bm.Posterior, Tensor]:
    tasks, rising = simulated()
    return bm.fit(mixture(tasks, by=1), tasks, QUICK, progress=False), rising


PHI = {
    "weights": torch.tensor([0.3, 0.7]),
    "mu": torch.tensor([[0.5, -1.0], [-0.2, 1.5]]),
    "tau": torch.tensor([[0.5, 0.8], [1.1, 0.2]]),
    "L": torch.tensor([[[1.0, 0.0], [0.6, 0.8]], [[1.0, 0.0], [-0.8, 0.6]]]),
    "gamma": torch.tensor([0.4]),
    "sigma": torch.tensor(0.7),
}


def ragged() -> bm.Tasks:
    """Tasks of 3, 2 and 1 rows, with a context."""
    xs, ys = [[0.0, 1.0, -1.5], [2.0, 0.3], [1.0]], [[1.0, 0.4, 2.0], [3.0, -1.0], [0.5]]
    return bm.Tasks.from_lists(xs, ys, context={"c": [0.0, 1.0, 3.0]})


def components(task: bm.Task, middle: float, centre: float) -> tuple[Tensor, list[Any], list[Any]]:
    """log w, p(y) and p(θ) of each population, straight from the definition."""
    x = torch.stack([torch.ones(task.n), task.x - centre], 1).double()
    shift = torch.tensor([float(PHI["gamma"][0] * (task.context["c"] - middle)), 0.0], dtype=torch.float64)
    observed, priors = [], []
    for k in range(2):
        root = (PHI["tau"][k][:, None] * PHI["L"][k]).double()
        mean, cov = PHI["mu"][k].double() + shift, root @ root.T
        noise = float(PHI["sigma"]) ** 2 * torch.eye(task.n, dtype=torch.float64)
        observed.append(MultivariateNormal(x @ mean, x @ cov @ x.T + noise))
        priors.append((mean, cov, x))
    return PHI["weights"].double().log(), observed, priors


def own(tasks: bm.Tasks) -> Own:
    found = choose((hierarchy := mixture(tasks, correlated=True)).program(tasks), tasks)
    assert hierarchy.closed_form is not None
    assert isinstance(found, Own)
    return found


def test_the_evidence_is_that_of_the_definition() -> None:
    tasks = ragged()
    evidence = own(tasks)
    middle, centre = float(tasks.context["c"].mean()), float(tasks.x.mean())
    with quiet_pyro():
        phi = evidence.program.phi_at({name: value.double() for name, value in PHI.items()})
        found = evidence.per_task(phi, evidence.data)

    for t, task in enumerate(tasks):
        log_w, observed, _ = components(task, middle, centre)
        each = torch.stack([law.log_prob(task.y) for law in observed])
        torch.testing.assert_close(found[t], torch.logsumexp(log_w + each, 0))


def test_theta_is_drawn_from_the_conditional() -> None:
    """Mean and covariance of θ | φ, y of a task between both populations, against algebra."""
    tasks = ragged()
    evidence, task = own(tasks), tasks[2]
    log_w, observed, priors = components(task, float(tasks.context["c"].mean()), float(tasks.x.mean()))
    share = torch.softmax(log_w + torch.stack([law.log_prob(task.y) for law in observed]), 0)
    means, seconds = [], []
    for (mean, cov, x), law in zip(priors, observed, strict=True):
        gain = cov @ x.T @ torch.linalg.inv(law.covariance_matrix)
        at = mean + gain @ (task.y - x @ mean)
        means.append(at)
        seconds.append(cov - gain @ x @ cov + torch.outer(at, at))
    mean = (share[:, None] * torch.stack(means)).sum(0)
    second = (share[:, None, None] * torch.stack(seconds)).sum(0)

    with quiet_pyro():
        phi = evidence.program.phi_at({name: value.double() for name, value in PHI.items()}).returned
        z = torch.randn(100_000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        row = Row(task.x, task.y, torch.ones(task.n, dtype=torch.bool), dict(task.context))
        assert evidence.form.theta is not None
        theta = torch.func.vmap(lambda z: evidence.form.theta(phi, row, z))(z)  # type: ignore[misc]

    error = theta.std(0) / len(z) ** 0.5
    assert 0.05 < float(share[0]) < 0.95
    assert bool(((theta.mean(0) - mean).abs() < 4 * error).all())
    product = theta[:, :, None] * theta[:, None, :]
    assert bool(((product.mean(0) - second).abs() < 4 * product.std(0) / len(z) ** 0.5).all())


def test_predictions_are_quotients_of_evidences() -> None:
    """p(y* | φ, y) = Z(y, y*) / Z(y), and its marginals have the moments of the joint distribution's draws."""
    tasks = ragged()
    evidence, task = own(tasks), tasks[0]
    form = evidence.form
    with quiet_pyro():
        phi = evidence.program.phi_at({name: value.double() for name, value in PHI.items()}).returned
        some, every = (Row(task.x[:n], task.y[:n], torch.ones(n, dtype=torch.bool), dict(task.context)) for n in (1, 3))
        assert form.predictive is not None
        predicted = form.predictive(phi, some, task.x[1:])
        quotient = form.log_z(phi, every) - form.log_z(phi, some)

    torch.testing.assert_close(predicted.log_prob(task.y[1:]), quotient)
    parts, weights = predicted.parts, predicted.log_weights.exp()
    assert float(weights.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(predicted.mean, (weights[:, None] * parts.mean).sum(0))


def test_the_evidence_agrees_with_the_task_itself() -> None:
    """The integral over θ of what the task says, on a grid: one coefficient, two populations."""
    tasks = bm.Tasks.from_lists(None, [[1.0, 2.5, 0.3], [-2.0]])
    program = mixture(tasks).program(tasks)
    evidence = Own(program, tasks)
    theta = torch.linspace(-40, 40, 40_001, dtype=torch.float64)
    for u in torch.randn(3, program.structure.phi.size, generator=torch.Generator().manual_seed(0)).double():
        with quiet_pyro():
            phi = program.phi(u)
            found = evidence.per_task(phi, evidence.data)
            for t, task in enumerate(tasks):
                row = Row(task.x, task.y, torch.ones(task.n, dtype=torch.bool), {})
                joint = torch.func.vmap(lambda v, row=row, phi=phi: program.log_joint(phi.returned, v, row))(
                    theta[:, None]
                )
                expected = torch.logsumexp(joint, 0) + math.log(80 / 40_000)
                torch.testing.assert_close(found[t], expected, rtol=0, atol=1e-6)


def test_equal_populations_are_one() -> None:
    """With both populations alike the evidence is that of `linear`."""
    tasks = bm.Tasks.from_lists([[0.0, 1.0, 2.0], [1.0, 3.0]], [[1.0, 0.5, 2.0], [0.0, 1.0]])
    shared = {"sigma": torch.tensor(0.6, dtype=torch.float64)}
    mu, tau = torch.tensor([0.3, -0.4], dtype=torch.float64), torch.tensor([0.9, 0.5], dtype=torch.float64)
    weights = torch.tensor([0.2, 0.8], dtype=torch.float64)
    both = {"weights": weights, "mu": mu.expand(2, 2), "tau": tau.expand(2, 2), **shared}
    values = []
    for hierarchy, phi in ((mixture(tasks), both), (linear(tasks), {"mu": mu, "tau": tau, **shared})):
        evidence = choose(program := hierarchy.program(tasks), tasks)
        with quiet_pyro():
            values.append(evidence.per_task(program.phi_at(phi), evidence.data))  # type: ignore[union-attr]

    torch.testing.assert_close(values[0], values[1])


# ---------------------------------------------------------------------------------------------------------
# Rows in an order


def test_the_density_of_ordered_rows_integrates_to_one() -> None:
    rows = OrderedRows(torch.tensor([0.5]).double(), torch.tensor([1.5]).double(), 2, 0)
    grid = torch.linspace(-9, 10, 500, dtype=torch.float64)
    low, high = torch.meshgrid(grid, grid, indexing="ij")
    density = rows.log_prob(torch.stack([low, high], -1).unsqueeze(-1)).exp()
    step = float(grid[1] - grid[0])

    assert float((density * (low < high)).sum() * step**2 + 0.5 * (density * (low == high)).sum() * step**2) == (
        pytest.approx(1.0, abs=1e-6)
    )


def test_coordinates_of_ordered_rows_go_there_and_back() -> None:
    rows = OrderedRows(torch.tensor([1.0, -2.0]).double(), torch.tensor([3.0, 0.1]).double(), 3, 1)
    transform = biject_to(rows.support)
    u = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value = transform(u)
    jacobian = torch.func.jacrev(transform)(u).reshape(6, 6)

    assert bool(rows.support.check(value))
    torch.testing.assert_close(transform.inv(value), u)
    torch.testing.assert_close(transform.log_abs_det_jacobian(u, value), torch.linalg.slogdet(jacobian).logabsdet)


@pytest.mark.changes_rng
def test_draws_are_ordered_and_of_their_populations() -> None:
    torch.manual_seed(0)
    loc, scale = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    drawn = OrderedRows(loc, scale, 3, 1).sample(torch.Size((20_000,)))
    middle = drawn[:, 1, 1]

    assert bool((drawn[:, 1:, 1] > drawn[:, :-1, 1]).all())
    # the median of three normals has mean zero and standard deviation 0.670
    assert abs(float(middle.mean())) < 4 * 0.670 / 20_000**0.5
    assert float(middle.std()) == pytest.approx(0.670, abs=0.02)
    each = MultivariateNormal(torch.tensor([[-5.0], [5.0]]).double(), 0.01 * torch.eye(1).double())
    theta = Populations(torch.tensor([0.2, 0.8]).double(), each).sample(torch.Size((20_000,)))
    assert float((theta > 0).double().mean()) == pytest.approx(0.8, abs=4 * 0.4 / 20_000**0.5)


@pytest.mark.changes_rng
@pytest.mark.parametrize("correlated", [False, True])
def test_it_is_an_ordinary_pyro_model_too(correlated: bool) -> None:
    """Drawn from and evaluated as a model with a plate over tasks."""
    tasks = ragged()
    trace = pyro.poutine.trace(mixture(tasks, correlated=correlated).joint(tasks)).get_trace()
    theta = trace.nodes["theta"]["value"]

    assert isinstance(theta, Tensor)
    assert theta.shape == (3, 2)
    assert bool(torch.isfinite(torch.as_tensor(trace.log_prob_sum())))


def test_one_is_picked_by_its_weight() -> None:
    weights = torch.tensor([0.2, 0.5, 0.3])
    uniform = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 1.0]).unsqueeze(-1)

    assert pick(weights, uniform).argmax(-1).tolist() == [0, 0, 1, 1, 2, 2]


# ---------------------------------------------------------------------------------------------------------
# Fits


def test_two_populations_are_found() -> None:
    posterior, rising = fitted()
    phi = posterior.phi

    assert posterior.info.evidence == "own"
    assert posterior.verdict.level == "fine"
    assert bool((phi["mu"][:, 1, 1] > phi["mu"][:, 0, 1]).all())
    slopes = phi["mu"][:, :, 1]
    assert bool(((slopes.mean(0) - torch.tensor([-1.0, 2.0])).abs() < 4 * slopes.std(0)).all())
    share = memberships(posterior)
    assert np.allclose(share.sum(axis=1), 1.0)
    assert list(share.index) == list(posterior.tasks.names)
    assert float(((share[1].to_numpy() > 0.5) == rising.numpy()).mean()) > 0.95


def test_a_new_task_is_of_a_population_the_more_surely_the_more_is_seen() -> None:
    posterior, _ = fitted()
    tasks, rising = simulated(count=30, seed=5, shots=8)
    right = []
    for shots in (0, 1, 8):
        support = tasks.split(shots)[0]
        share = memberships(posterior, support)
        right.append(
            float(torch.where(rising, torch.tensor(share[1].to_numpy()), torch.tensor(share[0].to_numpy())).mean())
        )

    assert right[0] < right[1] < right[2]
    assert right[2] > 0.95
    unseen = memberships(posterior, tasks.split(0)[0])
    assert float(unseen[1].iloc[0]) == pytest.approx(float(posterior.phi["weights"][:, 1].mean()), abs=1e-9)


def test_shares_are_those_of_the_tasks_of_the_fit() -> None:
    """Handing over the observations of the fit adds nothing."""
    posterior, _ = fitted()

    some = posterior.tasks[:3]
    assert np.allclose(memberships(posterior, some), memberships(posterior).iloc[:3])


def test_a_mixture_predicts_in_two_bunches() -> None:
    """Of a task of which nothing is seen, y at x = 3 is near 1 + 3 · 2 or 1 - 3 · 1: between lies next to nothing."""
    posterior, _ = fitted()
    unseen = bm.Tasks.without_observations(["new"], like=posterior.tasks)
    drawn = posterior.adapt(unseen).predict(torch.tensor([3.0])).sample(4000).flatten()

    high, low = float((drawn > 4.0).double().mean()), float((drawn < 1.0).double().mean())
    assert high > 0.1
    assert low > 0.4
    assert high + low > 0.9


@pytest.mark.filterwarnings("ignore:k-hat is above")  # from children to children of another sex
def test_a_mixture_of_real_tasks_with_everything() -> None:
    """Children's jaws, three populations with correlations: it fits, adapts and says where children come from."""
    frame = bm.data.load("orthodont")
    tasks = bm.Tasks.from_frame(frame, task="Subject", x="age", y="distance")
    some = bm.Laplace(draws=50, starts=1, steps=30)
    posterior = bm.fit(mixture(tasks[:20], populations=3, correlated=True), tasks[:20], some, progress=False)
    support, query = tasks[20:].split(2)

    assert bool(torch.isfinite(posterior.adapt(support).predict(query).log_prob(query)).all())
    assert memberships(posterior, support).shape == (7, 3)


def test_a_mixture_comes_back_from_a_file(tmp_path: Path) -> None:
    posterior, _ = fitted()
    posterior.save(tmp_path / "mixture.nc")
    back = bm.load(tmp_path / "mixture.nc", mixture(posterior.tasks, by=1))

    assert torch.equal(back.phi["mu"], posterior.phi["mu"])
    assert memberships(back).equals(memberships(posterior))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"populations": 1}, "populations must be a whole number of at least 2, got 1; for one, use linear"),
        ({"by": 2}, "by must be an element of θ, from 0 to 1, got 2"),
        ({"slopes": "none", "correlated": True}, "correlated=True needs at least two"),
    ],
)
def test_what_is_wrong_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        mixture(simulated(5)[0], **options)


def test_memberships_are_of_mixtures() -> None:
    posterior, _ = fitted()
    several = bm.Tasks.from_arrays(torch.ones(2, 3, 2), torch.ones(2, 3))
    with pytest.raises(DataError, match=r"x has shape \(2,\) per observation"):
        memberships(posterior, several)
    tasks = posterior.tasks[:3]
    plain = bm.fit(linear(tasks), tasks, bm.Laplace(draws=50, starts=1, steps=20), progress=False)
    with pytest.raises(OptionError, match=r"memberships are of tasks of a mixture: fit .*families\.mixture"):
        memberships(plain)
