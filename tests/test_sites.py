"""Sites, their coordinates and their Jacobians, against Pyro's own potential and automatic differentiation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor
from torch.distributions import biject_to

from bayesmeta.drawing import draw
from bayesmeta.errors import HierarchyError
from bayesmeta.sites import Site, Sites, Values, describe_support, element_labels, quiet_pyro

Make = Callable[[], Any]

REAL: dict[str, Make] = {
    "normal": lambda: dist.Normal(1.0, 2.0),
    "student-t": lambda: dist.StudentT(3.0, 1.0, 2.0),
    "laplace": lambda: dist.Laplace(1.0, 2.0),
    "normal-vector": lambda: dist.Normal(torch.arange(3.0), 2.0).to_event(1),
    "multivariate": lambda: dist.MultivariateNormal(torch.arange(2.0), torch.tensor([[2.0, 0.5], [0.5, 1.0]])),
}
BOUNDED: dict[str, Make] = {
    "log-normal": lambda: dist.LogNormal(0.5, 0.7),
    "half-normal": lambda: dist.HalfNormal(2.0),
    "half-cauchy": lambda: dist.HalfCauchy(2.0),
    "exponential": lambda: dist.Exponential(2.0),
    "gamma": lambda: dist.Gamma(2.0, 3.0),
    "inverse-gamma": lambda: dist.InverseGamma(2.0, 3.0),
    "beta": lambda: dist.Beta(2.0, 3.0),
    "uniform": lambda: dist.Uniform(-1.0, 4.0),
    "gamma-vector": lambda: dist.Gamma(torch.arange(1.0, 4.0), 3.0).to_event(1),
    "gamma-matrix": lambda: dist.Gamma(torch.ones(2, 3), 3.0).to_event(2),
    "half-normal-expanded": lambda: dist.HalfNormal(2.0).expand([3]).to_event(1),
    "dirichlet": lambda: dist.Dirichlet(torch.arange(1.0, 4.0)),
    "lkj": lambda: dist.LKJCholesky(3, 2.0),
    "log-normal-vector": lambda: dist.LogNormal(torch.arange(3.0), 0.7).to_event(1),
}
ALL = REAL | BOUNDED


@pytest.fixture(autouse=True)
def double() -> Any:
    with quiet_pyro(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def coordinates(fn: Any) -> Tensor:
    """Random unconstrained coordinates of a site."""
    return torch.randn(biject_to(fn.support).inverse_shape(torch.Size(fn.shape())))


def met(model: Callable[[], Any], values: dict[str, Tensor], **options: Any) -> dict[str, Any]:
    handler = Values(values, **options)
    with handler:
        model()
    return handler.met


def potential(model: Callable[[], Any], values: dict[str, Tensor]) -> Tensor:
    """Pyro's own: minus the log density in its unconstrained coordinates."""
    energy = initialize_model(model)[1](values)
    assert isinstance(energy, Tensor)
    return energy


# ---------------------------------------------------------------------------------------------------------
# One site: value, log density, Jacobian


@pytest.mark.parametrize("name", ALL)
def test_the_density_in_unconstrained_coordinates_is_pyros(name: str) -> None:
    def model() -> Tensor:
        return pyro.sample("site", ALL[name]())

    for _ in range(5):
        u = coordinates(ALL[name]())
        ours = met(model, {"site": u})["site"]
        torch.testing.assert_close(ours.log_prob(), -potential(model, {"site": u}), rtol=1e-12, atol=1e-12)
        assert ours.value.shape == torch.Size(ALL[name]().shape())
        # the check can fail: without its Jacobian, a bounded site has another density
        if name in BOUNDED:
            assert abs(float(ours.log_prob() - ALL[name]().log_prob(ours.value).sum())) > 1e-6


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_scaling_a_site_leaves_its_jacobian_alone(scale: float) -> None:
    def model() -> None:
        with pyro.poutine.scale(scale=scale):
            pyro.sample("rate", dist.Gamma(2.0, 3.0))
            pyro.sample("level", dist.Normal(1.0, 2.0))

    values = {"rate": torch.tensor(0.7), "level": torch.tensor(-0.4)}
    for centring in (1.0, 0.0, 0.4):
        ours = sum(meeting.log_prob() for meeting in met(model, values, centring=centring).values())
        torch.testing.assert_close(ours, -potential(model, values), rtol=1e-12, atol=1e-12)


def test_masking_a_site_leaves_its_jacobian_alone() -> None:
    def model() -> None:
        with pyro.poutine.mask(mask=False):
            pyro.sample("rate", dist.Gamma(2.0, 3.0))

    values = {"rate": torch.tensor(0.7)}
    torch.testing.assert_close(met(model, values)["rate"].log_prob(), -potential(model, values))


def test_a_support_may_depend_on_another_site() -> None:
    def model() -> None:
        top = pyro.sample("top", dist.LogNormal(0.0, 1.0))
        pyro.sample("below", dist.Uniform(0.0, top))

    values = {"top": torch.tensor(0.3), "below": torch.tensor(-0.8)}
    found = met(model, values)

    assert 0 < float(found["below"].value) < float(found["top"].value)
    # Pyro's potential takes the bound of its own first run; the Jacobian by hand follows `top`
    top, share = float(found["top"].value), 1 / (1 + math.exp(0.8))
    expected = float(dist.LogNormal(0.0, 1.0).log_prob(torch.tensor(top))) + 0.3
    expected += -math.log(top) + math.log(top * share * (1 - share))
    assert float(sum(meeting.log_prob() for meeting in found.values())) == pytest.approx(expected)


# ---------------------------------------------------------------------------------------------------------
# The handler


def test_values_are_put_in_constrained_or_not() -> None:
    def model() -> Tensor:
        return pyro.sample("rate", dist.Gamma(2.0, 3.0))

    given = met(model, {"rate": torch.tensor(0.7)}, constrained=True)["rate"]
    assert float(given.value) == 0.7
    assert float(given.log_prob()) == pytest.approx(float(dist.Gamma(2.0, 3.0).log_prob(torch.tensor(0.7))))
    mapped = met(model, {"rate": torch.tensor(0.7)})["rate"]
    assert float(mapped.value) == pytest.approx(math.exp(0.7))


def test_sites_without_a_value_are_drawn_or_handed_to_the_fallback() -> None:
    def model() -> None:
        pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("b", dist.Normal(0.0, 1.0))

    drawn = met(model, {"a": torch.tensor(3.0)})
    assert float(drawn["a"].value) == 3.0
    assert float(drawn["b"].value) != 0.0
    asked = met(model, {}, fallback=lambda name, fn: fn.mean + len(name))
    assert [float(asked[name].value) for name in "ab"] == [1.0, 1.0]


def test_observed_sites_plates_and_factors_are_met_and_deterministic_ones_are_not() -> None:
    def model() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.deterministic("twice", 2 * mu)
        pyro.factor("penalty", -mu.square())
        with pyro.plate("schools", 3), pyro.plate("years", 2):
            pyro.sample("effect", dist.Normal(mu, 1.0))
        with pyro.plate("rows", 4):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=torch.zeros(4))

    found = met(model, {"mu": torch.tensor(2.0)})
    assert list(found) == ["mu", "penalty", "effect", "y"]
    assert [meeting.observed for meeting in found.values()] == [False, True, False, True]
    assert float(found["penalty"].log_prob()) == -4.0
    assert dict(found["effect"].plates) == {"schools": -1, "years": -2}
    assert found["y"].rows_log_prob().shape == (4,)
    assert float(found["y"].log_prob()) == pytest.approx(4 * float(dist.Normal(2.0, 1.0).log_prob(torch.zeros(()))))


def test_rows_are_seen_through_independent() -> None:
    def model() -> None:
        pyro.sample("y", dist.Normal(torch.zeros(4, 2), 1.0).to_event(2), obs=torch.ones(4, 2))

    (y,) = met(model, {}).values()
    assert y.rows_log_prob().shape == (4, 2)
    torch.testing.assert_close(y.rows_log_prob().sum(), y.log_prob())


@pytest.mark.parametrize(
    "call", [lambda: pyro.param("w", torch.zeros(2)), lambda: pyro.module("net", torch.nn.Linear(1, 1))]
)
def test_free_parameters_are_refused(call: Callable[[], Any]) -> None:
    with pytest.raises(HierarchyError, match=r"pyro\.param\('(w|net\$\$\$weight)'\).*give it a prior"):
        met(call, {})


# ---------------------------------------------------------------------------------------------------------
# Many sites in one vector


def site(name: str, fn: Any) -> Site:
    shape = torch.Size(fn.shape())
    inner = tuple(biject_to(fn.support).inverse_shape(shape))
    return Site(name, type(fn).__name__, tuple(shape), fn.support, inner)


def test_a_flat_vector_is_cut_into_sites_and_put_together_again() -> None:
    sites = Sites((site("mu", REAL["normal-vector"]()), site("L", BOUNDED["lkj"]()), site("tau", BOUNDED["gamma"]())))
    u = torch.arange(7.0)
    parts = sites.split(u)

    assert (sites.names, sites.size, len(sites)) == (("mu", "L", "tau"), 7, 3)
    assert {name: tuple(part.shape) for name, part in parts.items()} == {"mu": (3,), "L": (3,), "tau": ()}
    assert torch.equal(torch.cat([part.reshape(-1) for part in parts.values()]), u)
    values = {"mu": torch.ones(3), "L": torch.eye(3), "tau": torch.tensor(2.0)}
    assert sites.flatten(values).tolist() == [1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 2]
    assert sites.labels() == ["mu[0]", "mu[1]", "mu[2]", *[f"L[{i},{j}]" for i in range(3) for j in range(3)], "tau"]


def test_labels_of_elements() -> None:
    assert element_labels("mu", ()) == ["mu"]
    assert element_labels("b", (2,)) == ["b[0]", "b[1]"]
    assert element_labels("b", (1, 2)) == ["b[0,0]", "b[0,1]"]


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("normal", "real"),
        ("normal-vector", "real"),
        ("multivariate", "real"),
        ("half-normal", "positive"),
        ("gamma", "positive"),
        ("gamma-matrix", "positive"),
        ("log-normal", "positive"),
        ("uniform", "interval"),
        ("beta", "interval"),
        ("dirichlet", "simplex"),
        ("lkj", "corr_cholesky"),
    ],
)
def test_a_support_in_a_word(name: str, word: str) -> None:
    assert site("s", ALL[name]()).describe_support() == word


@pytest.mark.parametrize("name", ALL)
def test_only_sites_whose_coordinates_are_their_values_are_real(name: str) -> None:
    assert site("s", ALL[name]()).is_real == (name in REAL)
    assert describe_support(constraints.real_vector) == "real"


# ---------------------------------------------------------------------------------------------------------
# Draws that can be mapped


@pytest.mark.parametrize(
    "name", ["normal", "student-t", "laplace", "log-normal", "half-normal", "uniform", "multivariate"]
)
def test_draws_under_vmap_have_the_moments_of_their_distribution(name: str) -> None:
    fn = ALL[name]()
    draws = torch.func.vmap(lambda _: draw(ALL[name]()), randomness="different")(torch.zeros(20_000))
    error = fn.variance.sqrt() / math.sqrt(20_000)

    assert draws.shape == (20_000, *fn.shape())
    assert bool(((draws.mean(0) - fn.mean).abs() < 4 * error).all())
    if name != "student-t":  # its fourth moment is infinite
        assert bool((draws.var(0) / fn.variance - 1).abs().max() < 0.1)


@pytest.mark.parametrize("name", ["gamma", "beta", "dirichlet", "lkj", "exponential", "gamma-vector"])
def test_other_distributions_are_drawn_by_their_own_sampler(name: str) -> None:
    fn = ALL[name]()
    draws = torch.stack([draw(fn) for _ in range(500)])

    assert draws.shape == (500, *fn.shape())
    assert bool(fn.support.check(draws).all())


# ---------------------------------------------------------------------------------------------------------
# Global state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("validate", [True, False])
def test_double_precision_without_validation_and_back(dtype: torch.dtype, validate: bool) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with pyro.validation_enabled(validate):
            checks = torch.distributions.Distribution._validate_args
            with quiet_pyro():
                assert torch.get_default_dtype() == torch.float64
                assert not torch.distributions.Distribution._validate_args
                dist.Normal(0.0, -1.0)  # not looked at
            assert torch.get_default_dtype() == dtype
            assert torch.distributions.Distribution._validate_args == checks
            with pytest.raises(ZeroDivisionError, match="division"), quiet_pyro():
                1 / 0  # noqa: B018
            assert torch.get_default_dtype() == dtype
            assert torch.distributions.Distribution._validate_args == checks
    finally:
        torch.set_default_dtype(before)
