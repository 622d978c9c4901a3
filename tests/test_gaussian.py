"""Gaussians by elements against `torch.linalg`, unrolled and by LAPACK."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bayesmeta.evidence.gaussian import LOG_2PI, UNROLL, Gaussian, Unrolled, dot, log_integral
from tests.evidences import differences

SIZES = (1, 2, 3, UNROLL, UNROLL + 1, 8)


def problem(p: int, *batch: int, condition: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Positive definite matrices (*batch, p, p) and vectors (*batch, p)."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(*batch, p, p, generator=generator, dtype=torch.float64)
    scale = torch.logspace(0, math.log10(condition), p, dtype=torch.float64).sqrt()
    precision = (root @ root.mT + torch.eye(p, dtype=torch.float64)) * scale * scale.unsqueeze(-1)
    return precision, torch.randn(*batch, p, generator=generator, dtype=torch.float64)


def equal(a: Tensor, b: Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def matrix(elements: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(torch.broadcast_tensors(*row), -1) for row in elements], -2)


@pytest.mark.parametrize("p", SIZES)
@pytest.mark.parametrize("batch", [(), (4,), (3, 2)], ids=str)
def test_what_a_gaussian_knows_is_what_linalg_says(p: int, batch: tuple[int, ...]) -> None:
    precision, b = problem(p, *batch)
    gaussian = Gaussian.of(precision, b)
    covariance = torch.linalg.inv(precision)
    mean = torch.linalg.solve(precision, b)

    equal(gaussian.log_det(), torch.linalg.slogdet(precision).logabsdet)
    equal(torch.stack(gaussian.mean(), -1), mean)
    equal(gaussian.half_quadratic(), 0.5 * (b * mean).sum(-1))
    equal(matrix(gaussian.covariance()), covariance)


@pytest.mark.parametrize("p", SIZES)
def test_the_columns_are_a_root_of_the_covariance(p: int) -> None:
    precision, b = problem(p, 4)
    columns = torch.stack([torch.stack(torch.broadcast_tensors(*c), -1) for c in Gaussian.of(precision, b).columns()])

    equal(torch.einsum("kti,ktj->tij", columns, columns), torch.linalg.inv(precision))


@pytest.mark.parametrize("p", SIZES)
def test_a_sample_is_the_mean_plus_a_root_of_the_covariance_times_noise(p: int) -> None:
    precision, b = problem(p, 3)
    gaussian = Gaussian.of(precision, b)
    mean = torch.linalg.solve(precision, b)
    root = torch.stack([gaussian.sample(unit.expand(3, p)) - mean for unit in torch.eye(p, dtype=torch.float64)], -1)

    equal(gaussian.sample(torch.zeros(3, p, dtype=torch.float64)), mean)
    equal(root @ root.mT, torch.linalg.inv(precision))


@pytest.mark.parametrize("p", SIZES)
def test_badly_conditioned_matrices_keep_their_digits(p: int) -> None:
    precision, b = problem(p, 5, condition=1e10)
    gaussian = Gaussian.of(precision, b)

    equal(gaussian.log_det(), torch.linalg.slogdet(precision).logabsdet, 1e-10)
    residual = (precision @ torch.stack(gaussian.mean(), -1).unsqueeze(-1)).squeeze(-1) - b
    assert float((residual.abs() / b.abs()).max()) < 1e-8


def test_the_unrolled_factor_is_that_of_lapack() -> None:
    precision, b = problem(UNROLL, 4)
    lower = torch.linalg.cholesky(precision)
    factor = Unrolled.factored([list(row.unbind(-1)) for row in precision.unbind(-2)], list(b.unbind(-1))).factor

    for i in range(UNROLL):
        for j in range(i + 1):
            equal(factor[i][j], lower[:, i, j])


def test_only_the_lower_triangle_is_read() -> None:
    precision, b = problem(3, 2)
    spoiled = precision.clone()
    spoiled[:, 0, 2] = torch.nan

    equal(Gaussian.of(spoiled, b).log_det(), Gaussian.of(precision, b).log_det())


def test_elements_that_all_tasks_share_are_broadcast() -> None:
    """Off-diagonal elements () beside a diagonal (T,): as where the prior is shared and the data are not."""
    diagonal = torch.tensor([3.0, 4.0, 5.0], dtype=torch.float64)
    shared = torch.tensor(0.5, dtype=torch.float64)
    b = [torch.tensor(1.0, dtype=torch.float64), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)]
    gaussian = Gaussian.from_elements([[diagonal, shared], [shared, diagonal]], b)
    full = torch.tensor([[[d, 0.5], [0.5, d]] for d in (3.0, 4.0, 5.0)], dtype=torch.float64)
    right = torch.tensor([[1.0, k] for k in (1.0, 2.0, 3.0)], dtype=torch.float64)

    equal(torch.stack(gaussian.mean(), -1), torch.linalg.solve(full, right))
    equal(gaussian.log_det(), torch.linalg.slogdet(full).logabsdet)


@pytest.mark.parametrize("p", [UNROLL + 1, 8])
def test_shared_elements_are_broadcast_for_lapack_too(p: int) -> None:
    precision, b = problem(p)
    extra = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    elements = [list(row.unbind(-1)) for row in precision.unbind(-2)]
    for i in range(p):
        elements[i][i] = elements[i][i] + extra
    full = precision + torch.diag_embed(extra.unsqueeze(-1).expand(3, p))
    gaussian = Gaussian.from_elements(elements, list(b))

    equal(torch.stack(torch.broadcast_tensors(*gaussian.mean()), -1), torch.linalg.solve(full, b.expand(3, p)))


def test_the_integral_is_the_integral() -> None:
    """In one dimension against a sum over a fine grid; the integrand of another linear term gives another one."""
    precision, b, peak = (torch.tensor(v, dtype=torch.float64) for v in ([[2.5]], [0.7], -1.3))
    theta = torch.linspace(-15, 15, 20_001, dtype=torch.float64)

    def by_grid(slope: float) -> float:
        integrand = peak + slope * theta - 1.25 * theta**2
        return float(torch.logsumexp(integrand, 0) + math.log(theta[1] - theta[0]))

    closed = float(log_integral(peak, Gaussian.of(precision, b)))
    assert closed == pytest.approx(by_grid(0.7), abs=1e-10)
    assert closed != pytest.approx(by_grid(0.8), abs=1e-2)
    assert pytest.approx(math.log(2 * math.pi)) == LOG_2PI


@pytest.mark.parametrize("p", SIZES)
@pytest.mark.parametrize(
    "what",
    [
        lambda g: log_integral(torch.zeros(()), g),
        lambda g: torch.stack(g.mean()).sin().sum(),
        lambda g: sum((k + 1) * e.sum() for k, row in enumerate(g.covariance()) for e in row),
    ],
    ids=["integral", "mean", "covariance"],
)
def test_gradients_are_those_of_finite_differences(p: int, what: Callable[[Gaussian], Tensor]) -> None:
    precision, b = problem(p)
    lower = torch.linalg.cholesky(precision)
    start = torch.cat([lower[torch.tril_indices(p, p).unbind()], b])

    def fn(parameters: Tensor) -> Tensor:
        root = torch.zeros(p, p, dtype=torch.float64)
        root = root.index_put(torch.tril_indices(p, p).unbind(), parameters[:-p])
        return what(Gaussian.of(root @ root.mT, parameters[-p:]))

    expected = differences(lambda u: float(fn(u)), start, step=2e-3)
    torch.testing.assert_close(torch.func.grad(fn)(start), expected, rtol=1e-7, atol=1e-7)


def test_gaussians_are_mapped_over_draws() -> None:
    precision, b = problem(3, 6, 4)
    mapped = torch.func.vmap(lambda p, b: log_integral(torch.zeros(()), Gaussian.of(p, b)))(precision, b)

    equal(mapped, log_integral(torch.zeros(()), Gaussian.of(precision, b)))


def test_dot_is_the_inner_product() -> None:
    a, b = problem(4, 3)[1], problem(4, 3, seed=1)[1]

    equal(dot(list(a.unbind(-1)), list(b.unbind(-1))), (a * b).sum(-1))
