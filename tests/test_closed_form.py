"""A family's own evidence: it agrees with the generic route, and everything downstream takes it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

import bayesmeta as bm
from bayesmeta.evidence import Joint, Own, choose, kind
from bayesmeta.evidence.conditional import log_evidence, theta_coordinates
from bayesmeta.infer.laplace import Laplace
from bayesmeta.program import Row

Phi = tuple[Tensor, Tensor, Tensor]


def tasks_of(sizes: tuple[int, ...] = (1, 4, 7, 3, 3, 5), seed: int = 0) -> bm.Tasks:
    generator = torch.Generator().manual_seed(seed)
    xs = [torch.rand(n, 1, generator=generator, dtype=torch.float64) * 4 - 2 for n in sizes]
    ys = [
        torch.randn((), generator=generator, dtype=torch.float64)
        + 0.5 * x[:, 0]
        + 0.3 * torch.randn(len(x), generator=generator, dtype=torch.float64)
        for x in xs
    ]
    return bm.Tasks.from_lists(xs, ys, allow_empty=True)


def hyperprior() -> Phi:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    return mu, tau, pyro.sample("sigma", dist.HalfNormal(1.0))


# --- a line with random intercept and slope, in closed form by hand ---------------------------------------


def line(phi: Phi, x: Tensor, y: Tensor | None = None) -> Tensor:
    mu, tau, sigma = phi
    theta = pyro.sample("theta", dist.Normal(torch.stack([mu, 0.5 * mu]), torch.stack([tau, 2 * tau])).to_event(1))
    return pyro.sample("y", dist.Normal(theta[0] + theta[1] * x[:, 0], sigma).to_event(1), obs=y)


def conditional(phi: Phi, row: Row) -> tuple[Tensor, Tensor]:
    """Mean and covariance of θ | φ, y."""
    mu, tau, sigma = phi
    design = torch.stack([torch.ones_like(row.x[:, 0]), row.x[:, 0]], -1) * row.mask.unsqueeze(-1)
    inverse = torch.stack([tau, 2 * tau]) ** -2
    covariance = torch.linalg.inv(torch.diag(inverse) + design.mT @ design / sigma**2)
    prior = torch.stack([mu, 0.5 * mu])
    return covariance @ (inverse * prior + design.mT @ row.y / sigma**2), covariance


def line_log_z(phi: Phi, row: Row) -> Tensor:
    mu, tau, sigma = phi
    design = torch.stack([torch.ones_like(row.x[:, 0]), row.x[:, 0]], -1)
    prior = torch.stack([mu, 0.5 * mu]), torch.diag(torch.stack([tau, 2 * tau]) ** 2)
    return masked_log_prob(design @ prior[0], design @ prior[1] @ design.mT, sigma, row)


def line_theta(phi: Phi, row: Row, z: Tensor) -> Tensor:
    mean, covariance = conditional(phi, row)
    drawn: Tensor = mean + torch.linalg.cholesky(covariance) @ z
    return drawn


def line_predictive(phi: Phi, row: Row, x: Tensor) -> Any:
    mean, covariance = conditional(phi, row)
    design = torch.stack([torch.ones_like(x[:, 0]), x[:, 0]], -1)
    noise = phi[2] ** 2 * torch.eye(len(x))
    return dist.MultivariateNormal(design @ mean, design @ covariance @ design.mT + noise)


def masked_log_prob(mean: Tensor, covariance: Tensor, sigma: Tensor, row: Row) -> Tensor:
    """log Normal(y; mean, covariance + σ²) over the real rows: the others are made independent standard ones."""
    both = row.mask.unsqueeze(-1) & row.mask
    full = torch.where(both, covariance + sigma**2 * torch.eye(len(mean)), torch.eye(len(mean)))
    root = torch.linalg.cholesky(full)
    white = torch.linalg.solve_triangular(root, torch.where(row.mask, row.y - mean, 0.0).unsqueeze(-1), upper=False)
    count = row.mask.sum()
    log_det = root.diagonal(dim1=-2, dim2=-1).log().sum()
    log_prob: Tensor = -0.5 * (white.square().sum() + count * math.log(2 * math.pi)) - log_det
    return log_prob


LINE = bm.ClosedForm(log_z=line_log_z, theta=line_theta, predictive=line_predictive, road="own: a line", numbers=2)
DRAWN = bm.ClosedForm(log_z=line_log_z, theta=line_theta)

# --- a Gaussian process: no θ -----------------------------------------------------------------------------


def kernel(phi: Phi, a: Tensor, b: Tensor) -> Tensor:
    return phi[1] ** 2 * torch.exp(-0.5 * (a - b.mT).square())


def process(phi: Phi, x: Tensor, y: Tensor | None = None) -> Tensor:
    covariance = kernel(phi, x, x) + phi[2] ** 2 * torch.eye(len(x))
    return pyro.sample("y", dist.MultivariateNormal(phi[0].expand(len(x)), covariance), obs=y)


def process_log_z(phi: Phi, row: Row) -> Tensor:
    return masked_log_prob(phi[0].expand(len(row.x)), kernel(phi, row.x, row.x), phi[2], row)


def process_predictive(phi: Phi, row: Row, x: Tensor) -> Any:
    both = row.mask.unsqueeze(-1) & row.mask
    noisy = kernel(phi, row.x, row.x) + phi[2] ** 2 * torch.eye(len(row.x))
    inverse = torch.linalg.inv(torch.where(both, noisy, torch.eye(len(row.x))))
    cross = kernel(phi, x, row.x) * row.mask
    mean = phi[0] + cross @ inverse @ (row.y - phi[0])
    noise = phi[2] ** 2 * torch.eye(len(x))
    return dist.MultivariateNormal(mean, kernel(phi, x, x) + noise - cross @ inverse @ cross.mT)


PROCESS = bm.ClosedForm(log_z=process_log_z, predictive=process_predictive, road="own: a process")


def posterior_of(hierarchy: bm.Hierarchy, tasks: bm.Tasks | None = None, draws: int = 200) -> bm.Posterior:
    return bm.fit(hierarchy, tasks or tasks_of(), Laplace(draws=draws), progress=False)


# --- tests ------------------------------------------------------------------------------------------------


def points(count: int = 7) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("sizes", [(1, 4, 7, 3, 3, 5), (2, 0, 3), (2,) * 40 + (90,) * 40])
def test_log_z_is_that_of_the_generic_route(sizes: tuple[int, ...]) -> None:
    tasks = tasks_of(sizes)
    own = choose(bm.Hierarchy(hyperprior, line, evidence=LINE).program(tasks), tasks)
    generic = choose(bm.Hierarchy(hyperprior, line).program(tasks), tasks)

    assert isinstance(own, Own)
    assert (kind(own), kind(generic), own.road) == ("own", "exact", "own: a line")
    assert not isinstance(generic, Joint)
    torch.testing.assert_close(log_evidence(own, points()), log_evidence(generic, points()))


def test_a_wrong_formula_is_seen() -> None:
    tasks = tasks_of()
    wrong = bm.ClosedForm(log_z=lambda phi, row: line_log_z(phi, row) + 0.01 * phi[1], theta=line_theta)
    own = choose(bm.Hierarchy(hyperprior, line, evidence=wrong).program(tasks), tasks, "own")
    generic = choose(bm.Hierarchy(hyperprior, line).program(tasks), tasks)

    assert not torch.allclose(log_evidence(own, points()), log_evidence(generic, points()))  # type: ignore[arg-type]


def test_theta_is_drawn_by_the_formula() -> None:
    tasks = tasks_of()
    program = bm.Hierarchy(hyperprior, line, evidence=DRAWN).program(tasks)
    own = choose(program, tasks)
    assert isinstance(own, Own)
    u = points(2)
    theta = theta_coordinates(own, u.repeat(20_000, 1), seed=0)
    for s, t in ((0, 0), (1, 2)):
        row = Row(tasks[t].x, tasks[t].y, torch.ones(tasks[t].n, dtype=torch.bool), {})
        mean, covariance = conditional(program.phi(u[s]).returned, row)
        drawn = theta[s::2, t]
        z = (drawn.mean(0) - mean) / (covariance.diagonal() / len(drawn)).sqrt()
        assert z.abs().max() < 4
        assert (torch.cov(drawn.mT) / covariance - 1).abs().max() < 0.1


def test_a_row_of_picked_draws_takes_its_own_phi() -> None:
    tasks = tasks_of()
    own = choose(bm.Hierarchy(hyperprior, line, evidence=DRAWN).program(tasks), tasks)
    assert isinstance(own, Own)
    u = points(5)
    pick = torch.tensor([[4, 0, 1, 2, 3, 0]] * 5)
    picked = theta_coordinates(own, u, 3, pick)
    for t in range(len(tasks)):
        assert torch.equal(picked[:, t], theta_coordinates(own, u[pick[:, t]], 3)[:, t])


def test_the_posterior_is_that_of_the_generic_route() -> None:
    own, generic = (
        posterior_of(bm.Hierarchy(hyperprior, line, evidence=LINE)),
        posterior_of(bm.Hierarchy(hyperprior, line)),
    )

    assert (own.info.evidence, own.info.road) == ("own", "own: a line")
    torch.testing.assert_close(own.phi_coordinates, generic.phi_coordinates, rtol=1e-5, atol=1e-6)


def test_predictions_in_closed_form_are_those_of_many_draws_of_theta() -> None:
    tasks, new = tasks_of(), tasks_of((3, 0, 5), seed=5).with_names(["a", "b", "c"])
    x = torch.linspace(-2, 2, 4, dtype=torch.float64).unsqueeze(-1)
    y = [torch.full((4,), 0.4, dtype=torch.float64)] * 3
    closed = posterior_of(bm.Hierarchy(hyperprior, line, evidence=LINE), tasks, 4000)
    drawn = posterior_of(bm.Hierarchy(hyperprior, line, evidence=DRAWN), tasks, 4000)
    one, other = (posterior.adapt(new).predict(x) for posterior in (closed, drawn))

    assert (one.mean - other.mean).abs().max() < 4 * float((other.sd / 4000**0.5).max())
    assert (one.sd / other.sd - 1).abs().max() < 0.05
    assert ((one.quantile(0.9) - other.quantile(0.9)) / other.sd).abs().max() < 0.1
    assert (one.log_prob(y) - other.log_prob(y)).abs().max() < 0.15
    assert (one.log_prob(y, pointwise=True) - other.log_prob(y, pointwise=True)).abs().max() < 0.05
    sampled = one.sample(4000, seed=1)
    assert (sampled.mean(0) - one.mean).abs().max() < 4 * float((one.sd / 4000**0.5).max())
    assert torch.allclose(one["b"].mean[0], one.mean[1])


def test_one_draw_of_phi_gives_the_whole_predictive() -> None:
    tasks = tasks_of()
    posterior = posterior_of(bm.Hierarchy(hyperprior, line, evidence=LINE), tasks)
    new = tasks_of((3,), seed=5).with_names(["a"])
    adapted = posterior.adapt(new, draws=1)
    program = posterior.collapsed.program
    row = Row(new[0].x, new[0].y, torch.ones(3, dtype=torch.bool), {})
    x = torch.tensor([[0.5], [1.0]], dtype=torch.float64)
    expected = line_predictive(program.phi(adapted.phi_coordinates[0, 0]).returned, row, x)
    predicted = adapted.predict(x)

    torch.testing.assert_close(predicted.mean[0], expected.mean)
    torch.testing.assert_close(predicted.sd[0], expected.variance.sqrt())
    y = torch.tensor([0.3, -0.2], dtype=torch.float64)
    torch.testing.assert_close(predicted.log_prob([y])[0], expected.log_prob(y))
    assert float(predicted.quantile(0.975)[0, 0]) == pytest.approx(
        float(stats.norm.ppf(0.975, expected.mean[0], expected.variance[0].sqrt()))
    )


def test_a_hierarchy_without_theta(tmp_path: Path) -> None:
    tasks = tasks_of()
    hierarchy = bm.Hierarchy(hyperprior, process, evidence=PROCESS)
    posterior = posterior_of(hierarchy, tasks)
    program = posterior.collapsed.program
    u = posterior.phi_coordinates[:5]
    expected = torch.stack(
        [
            torch.stack(
                [
                    dist.MultivariateNormal(
                        phi[0].expand(task.n),
                        kernel(phi, task.x, task.x) + phi[2] ** 2 * torch.eye(task.n, dtype=torch.float64),
                    ).log_prob(task.y)
                    for task in tasks
                ]
            )
            for phi in (program.phi(point).returned for point in u)
        ]
    )
    torch.testing.assert_close(posterior.evidence(tasks)[:5], expected)
    assert posterior.theta == {}
    assert posterior.theta_coordinates.shape == (200, 6, 0)
    new = tasks_of((3, 0, 5), seed=5).with_names(["a", "b", "c"])
    predicted = posterior.adapt(new).predict(torch.zeros(2, 1, dtype=torch.float64))
    assert predicted.mean.shape == predicted.sd.shape == (3, 2)
    assert predicted.sd[1, 0] > predicted.sd[2, 0]
    assert "process" in repr(posterior)
    assert len(posterior.summary()) == 3
    assert len(posterior.summary("theta")) == 0

    path = tmp_path / "process.nc"
    posterior.save(path)
    loaded = bm.load(path, hierarchy)
    assert kind(loaded.collapsed) == "own"
    assert torch.equal(loaded.adapt(new).predict(new).mean[0, :3], posterior.adapt(new).predict(new).mean[0, :3])


@pytest.mark.parametrize("method", ["exact", "quadrature", "laplace", "joint"])
def test_what_is_about_theta_needs_one(method: str) -> None:
    tasks = tasks_of()
    program = bm.Hierarchy(hyperprior, process, evidence=PROCESS).program(tasks)

    with pytest.raises(bm.BayesmetaError, match="is about θ, and this task samples none"):
        choose(program, tasks, method)


def test_errors() -> None:
    tasks = tasks_of()
    with pytest.raises(bm.BayesmetaError, match="evidence must be a ClosedForm, got str"):
        bm.Hierarchy(hyperprior, line, evidence="exact")  # type: ignore[arg-type]
    with pytest.raises(bm.BayesmetaError, match="log_z of a ClosedForm must be a function, got NoneType"):
        bm.ClosedForm(log_z=None, theta=line_theta)  # type: ignore[arg-type]
    with pytest.raises(bm.BayesmetaError, match="needs theta"):
        bm.ClosedForm(log_z=line_log_z)
    with pytest.raises(bm.BayesmetaError, match="the task has no θ"):
        bm.Hierarchy(hyperprior, process).program(tasks)
    with pytest.raises(bm.BayesmetaError, match="has no theta"):
        choose(bm.Hierarchy(hyperprior, line, evidence=PROCESS).program(tasks), tasks)
    with pytest.raises(bm.BayesmetaError, match="the task samples no θ"):
        choose(bm.Hierarchy(hyperprior, process, evidence=LINE).program(tasks), tasks)
    with pytest.raises(bm.BayesmetaError, match="no evidence of its own"):
        choose(bm.Hierarchy(hyperprior, line).program(tasks), tasks, "own")
