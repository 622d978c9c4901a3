"""Plated Pyro models as documentations write them, and beside each the hierarchy written by hand for the same tasks.

The structures are those of the tutorials of Pyro and NumPyro (radon and patients: a plate of groups, θ[index] in a
plate of observations; eight schools: everything in one plate; baseball: Beta and Binomial), in our own words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam
from torch import Tensor

import bayesmeta as bm

__all__ = [
    "PAIRS",
    "Pair",
    "balanced",
    "houses",
    "matrix",
    "population",
    "radon",
    "radon_by_hand",
    "schools",
    "schools_tasks",
]

Optional = Tensor | None


@dataclass(frozen=True)
class Pair:
    """A plated model, its plate over tasks, the hierarchy by hand, the tasks, and what is said of the arguments."""

    model: Callable[..., Any]
    plate: str
    by_hand: bm.Hierarchy
    tasks: bm.Tasks
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plated(self) -> bm.Hierarchy:
        """The hierarchy of the plated model."""
        return bm.Hierarchy.from_plated(self.model, self.plate, arguments=self.arguments)


def houses(sizes: tuple[int, ...] = (3, 1, 6, 4, 2), seed: int = 0, kind: str = "real") -> bm.Tasks:
    """Ragged tasks from a frame with the columns of a radon survey."""
    rng = np.random.default_rng(seed)
    count = np.repeat(np.arange(len(sizes)), sizes)
    binary = rng.integers(0, 2, len(count)).astype(float)
    response = binary if kind == "binary" else rng.normal(size=len(count)) + 0.5 * count
    frame = pd.DataFrame(
        {
            "county": [f"c{k}" for k in count],
            "floor": rng.integers(0, 2, len(count)).astype(float),
            "age": rng.normal(size=len(count)),
            "uranium": rng.normal(size=len(sizes))[count],
            "log_radon": response,
        }
    )
    return bm.Tasks.from_frame(frame, task="county", x=["floor", "age"], y="log_radon", context="uranium")


def population() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        pyro.sample("mu", dist.Normal(0.0, 5.0)),
        pyro.sample("tau", dist.HalfNormal(1.0)),
        pyro.sample("beta", dist.Normal(0.0, 2.0)),
        pyro.sample("sigma", dist.HalfNormal(1.0)),
    )


# ---------------------------------------------------------------------------------------------------------
# θ[index] in a likelihood outside the plate


def radon(county_idx: Tensor, floor: Tensor, log_radon: Optional = None) -> None:
    mu, tau = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfNormal(1.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 2.0))
    with pyro.plate("county", len(np.unique(county_idx))):
        alpha = pyro.sample("alpha", dist.Normal(mu, tau))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("houses", len(county_idx)):
        pyro.sample("y", dist.Normal(alpha[county_idx] + beta * floor, sigma), obs=log_radon)


def radon_by_hand(phi: Any, x: Tensor, y: Optional = None, *, uranium: Tensor) -> Tensor:
    mu, tau, beta, sigma = phi
    alpha = pyro.sample("alpha", dist.Normal(mu, tau))
    return pyro.sample("y", dist.Normal(alpha + beta * x[:, 0], sigma).to_event(1), obs=y)


def _radon() -> Pair:
    return Pair(radon, "county", bm.Hierarchy(population, radon_by_hand), houses())


def _radon_with_uranium() -> Pair:
    """The county's own covariate in the prior, the number of counties as an argument, no plate of houses."""

    def model(county: Tensor, n_counties: int, floor: Tensor, uranium: Tensor, obs: Optional = None) -> None:
        mu, tau, beta, sigma = population()
        with pyro.plate("county", n_counties):
            alpha = pyro.sample("alpha", dist.Normal(mu + 0.7 * uranium, tau))
        pyro.sample("y", dist.Normal(alpha[county] + beta * floor, sigma).to_event(1), obs=obs)

    def task(phi: Any, x: Tensor, y: Optional = None, *, uranium: Tensor) -> Tensor:
        mu, tau, beta, sigma = phi
        alpha = pyro.sample("alpha", dist.Normal(mu + 0.7 * uranium, tau))
        return pyro.sample("y", dist.Normal(alpha + beta * x[:, 0], sigma).to_event(1), obs=y)

    return Pair(model, "county", bm.Hierarchy(population, task), houses())


def _numbers_in_the_model() -> Pair:
    """Five counties and sixteen houses, written as numbers; the sizes from values; an integer column as an index."""

    def model(which: Tensor, floor: Tensor, y: Tensor) -> None:
        mu, tau, beta, sigma = population()
        with pyro.plate("county", 5):
            alpha = pyro.sample("alpha", dist.Normal(mu, tau))
        per_floor = torch.stack([0 * beta, beta])
        with pyro.plate("houses", 16):
            pyro.sample("y", dist.Normal(alpha[which] + per_floor[floor], sigma), obs=y)

    arguments = {"which": "task index", "floor": ("floor", torch.long)}
    return Pair(model, "county", bm.Hierarchy(population, radon_by_hand), houses(), arguments)


def _sizes_from_values() -> Pair:
    def model(county: Tensor, x: Tensor, y: Optional = None) -> None:
        mu, tau, beta, sigma = population()
        with pyro.plate("county", int(county.max()) + 1):
            alpha = pyro.sample("alpha", dist.Normal(mu, tau))
        with pyro.plate("houses", county.shape[0]):
            pyro.sample("y", dist.Normal(alpha[county] + beta * x[:, 0], sigma), obs=y)

    return Pair(model, "county", bm.Hierarchy(population, radon_by_hand), houses())


def _patients() -> Pair:
    """Two coefficients for each patient, named as in the frame."""

    def model(patient_code: Tensor, weeks: Tensor, FVC_obs: Optional = None) -> None:
        locs = [pyro.sample(f"mu_{k}", dist.Normal(0.0, 5.0)) for k in "ab"]
        scales = [pyro.sample(f"tau_{k}", dist.HalfNormal(2.0)) for k in "ab"]
        with pyro.plate("plate_i", len(torch.unique(patient_code))):
            a = pyro.sample("a", dist.Normal(locs[0], scales[0]))
            b = pyro.sample("b", dist.Normal(locs[1], scales[1]))
        sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
        mean = pyro.deterministic("patient.mean", a[patient_code] + b[patient_code] * weeks)
        with pyro.plate("data", len(patient_code)):
            pyro.sample("obs", dist.Normal(mean, sigma), obs=FVC_obs)

    def prior() -> dict[str, Tensor]:
        phi = {f"mu_{k}": pyro.sample(f"mu_{k}", dist.Normal(0.0, 5.0)) for k in "ab"}
        phi |= {f"tau_{k}": pyro.sample(f"tau_{k}", dist.HalfNormal(2.0)) for k in "ab"}
        return phi | {"sigma": pyro.sample("sigma", dist.HalfNormal(2.0))}

    def task(phi: dict[str, Tensor], x: Tensor, y: Optional = None) -> Tensor:
        a = pyro.sample("a", dist.Normal(phi["mu_a"], phi["tau_a"]))
        b = pyro.sample("b", dist.Normal(phi["mu_b"], phi["tau_b"]))
        return pyro.sample("obs", dist.Normal(a + b * x[:, 0], phi["sigma"]).to_event(1), obs=y)

    rng = np.random.default_rng(3)
    patient = np.repeat([7, 11, 13], [4, 2, 5])
    frame = pd.DataFrame({"Patient": patient, "Weeks": rng.normal(size=11), "FVC": rng.normal(size=11)})
    tasks = bm.Tasks.from_frame(frame, task="Patient", x=["Weeks"], y="FVC")
    return Pair(model, "plate_i", bm.Hierarchy(prior, task), tasks)


def _logistic() -> Pair:
    def model(county: Tensor, floor: Tensor, obs: Optional = None) -> None:
        mu, tau = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfNormal(1.0))
        with pyro.plate("county", len(county.unique())):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
        with pyro.plate("houses", len(county)):
            pyro.sample("y", dist.Bernoulli(logits=theta[county] - 0.4 * floor), obs=obs)

    def prior() -> tuple[Tensor, Tensor]:
        return pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfNormal(1.0))

    def task(phi: Any, x: Tensor, y: Optional = None, *, uranium: Tensor) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(*phi))
        return pyro.sample("y", dist.Bernoulli(logits=theta - 0.4 * x[:, 0]).to_event(1), obs=y)

    return Pair(model, "county", bm.Hierarchy(prior, task), houses(kind="binary"))


# ---------------------------------------------------------------------------------------------------------
# θ a vector


def vector_prior() -> tuple[Tensor, Tensor, Tensor]:
    with pyro.plate("coefficient", 2):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        tau = pyro.sample("tau", dist.HalfNormal(1.0))
    return mu, tau, pyro.sample("sigma", dist.HalfNormal(1.0))


def _vector() -> Pair:
    """θ of two elements by `to_event`; all inputs in one argument."""

    def model(group: Tensor, X: Tensor, y: Optional = None) -> None:
        mu, tau, sigma = vector_prior()
        with pyro.plate("group", len(group.unique())):
            w = pyro.sample("w", dist.Normal(mu, tau).to_event(1))
        with pyro.plate("data", len(X)):
            pyro.sample("y", dist.Normal((w[group] * X).sum(-1), sigma), obs=y)

    def task(phi: Any, x: Tensor, y: Optional = None, *, uranium: Tensor) -> Tensor:
        mu, tau, sigma = phi
        w = pyro.sample("w", dist.Normal(mu, tau).to_event(1))
        return pyro.sample("y", dist.Normal(x @ w, sigma).to_event(1), obs=y)

    return Pair(model, "group", bm.Hierarchy(vector_prior, task), houses())


def _plate_of_coefficients() -> Pair:
    """The same with a plate of coefficients crossed with the one of tasks, which does not stand at dim -1."""

    def model(group: Tensor, X: Tensor, y: Optional = None) -> None:
        mu, tau, sigma = vector_prior()
        with pyro.plate("group", len(group.unique()), dim=-2), pyro.plate("coefficient", 2, dim=-1):
            w = pyro.sample("w", dist.Normal(mu, tau))
        with pyro.plate("data", len(X)):
            pyro.sample("y", dist.Normal((w[group] * X).sum(-1), sigma), obs=y)

    def task(phi: Any, x: Tensor, y: Optional = None, *, uranium: Tensor) -> Tensor:
        mu, tau, sigma = phi
        with pyro.plate("coefficient", 2):
            w = pyro.sample("w", dist.Normal(mu, tau))
        return pyro.sample("y", dist.Normal(x @ w, sigma).to_event(1), obs=y)

    return Pair(model, "group", bm.Hierarchy(vector_prior, task), houses())


def correlated_prior() -> tuple[Tensor, ...]:
    mu = pyro.sample("mu", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    tau = pyro.sample("tau", dist.HalfNormal(1.0).expand([2]).to_event(1))
    L = pyro.sample("L", dist.LKJCholesky(2, 2.0))
    return mu, tau, L, pyro.sample("sigma", dist.HalfNormal(1.0))


def _correlated() -> Pair:
    """Correlated intercepts and slopes."""

    def model(county: Tensor, age: Tensor, y: Optional = None) -> None:
        mu, tau, L, sigma = correlated_prior()
        with pyro.plate("county", len(county.unique())):
            theta = pyro.sample("theta", dist.MultivariateNormal(mu, scale_tril=tau.unsqueeze(-1) * L))
        with pyro.plate("data", len(county)):
            mean = theta[county, 0] + theta[county, 1] * age
            pyro.sample("y", dist.Normal(mean, sigma), obs=y)

    def task(phi: Any, x: Tensor, y: Optional = None, *, uranium: Tensor) -> Tensor:
        mu, tau, L, sigma = phi
        theta = pyro.sample("theta", dist.MultivariateNormal(mu, scale_tril=tau.unsqueeze(-1) * L))
        return pyro.sample("y", dist.Normal(theta[0] + theta[1] * x[:, 1], sigma).to_event(1), obs=y)

    return Pair(model, "county", bm.Hierarchy(correlated_prior, task), houses())


# ---------------------------------------------------------------------------------------------------------
# Everything in the plate


def schools(J: int, sigma: Tensor, y: Optional = None) -> None:
    mu, tau = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("J", J):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("obs", dist.Normal(theta, sigma), obs=y)


def schools_prior() -> tuple[Tensor, Tensor]:
    return pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfCauchy(5.0))


def schools_by_hand(phi: Any, x: Tensor, y: Optional = None, *, sigma: Tensor) -> Tensor:
    theta = pyro.sample("theta", dist.Normal(*phi))
    return pyro.sample("obs", dist.Normal(theta, sigma).expand([len(x)]).to_event(1), obs=y)


def schools_tasks() -> bm.Tasks:
    effects = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
    errors = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]
    return bm.Tasks.from_lists(None, [[y] for y in effects], names=list("ABCDEFGH"), context={"sigma": errors})


def _schools() -> Pair:
    return Pair(schools, "J", bm.Hierarchy(schools_prior, schools_by_hand), schools_tasks())


def _standardised_by_hand(name: str) -> bm.Hierarchy:
    def task(phi: Any, x: Tensor, y: Optional = None, *, sigma: Tensor) -> Tensor:
        mu, tau = phi
        eta = pyro.sample(name, dist.Normal(0.0, 1.0))
        return pyro.sample("obs", dist.Normal(mu + tau * eta, sigma).expand([len(x)]).to_event(1), obs=y)

    return bm.Hierarchy(schools_prior, task)


def _schools_non_centred() -> Pair:
    def model(J: int, sigma: Tensor, y: Optional = None) -> None:
        mu, tau = schools_prior()
        with pyro.plate("J", J):
            eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
            theta = pyro.deterministic("theta", mu + tau * eta)
            pyro.sample("obs", dist.Normal(theta, sigma), obs=y)

    return Pair(model, "J", _standardised_by_hand("eta"), schools_tasks())


def _schools_reparametrised() -> Pair:
    """Made non-centred by a handler around the model."""
    model = poutine.reparam(schools, config={"theta": LocScaleReparam(0.0)})
    return Pair(model, "J", _standardised_by_hand("theta_decentered"), schools_tasks())


def _schools_outside() -> Pair:
    """The observations outside the plate, in the order of its members."""

    def model(J: int, sigma: Tensor, y: Optional = None) -> None:
        mu, tau = schools_prior()
        with pyro.plate("J", J):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("obs", dist.Normal(theta, sigma).to_event(1), obs=y)

    return Pair(model, "J", bm.Hierarchy(schools_prior, schools_by_hand), schools_tasks())


def _baseball() -> Pair:
    """Players with their hits out of so many at bats; the observations are an argument without a default."""

    def model(at_bats: Tensor, hits: Tensor) -> None:
        m, kappa = pyro.sample("m", dist.Uniform(0.0, 1.0)), pyro.sample("kappa", dist.Gamma(2.0, 0.1))
        with pyro.plate("num_players", len(at_bats)):
            rate = pyro.sample("rate", dist.Beta(m * kappa, (1 - m) * kappa))
            pyro.sample("obs", dist.Binomial(at_bats, rate), obs=hits)

    def prior() -> tuple[Tensor, Tensor]:
        return pyro.sample("m", dist.Uniform(0.0, 1.0)), pyro.sample("kappa", dist.Gamma(2.0, 0.1))

    def task(phi: Any, x: Tensor, y: Optional = None) -> Tensor:
        m, kappa = phi
        rate = pyro.sample("rate", dist.Beta(m * kappa, (1 - m) * kappa))
        return pyro.sample("obs", dist.Binomial(x[:, 0], rate).to_event(1), obs=y)

    frame = pd.DataFrame({"player": list("abcd"), "at_bats": [45, 40, 12, 30], "hits": [18, 10, 3, 6]})
    tasks = bm.Tasks.from_frame(frame, task="player", x=["at_bats"], y="hits")
    return Pair(model, "num_players", bm.Hierarchy(prior, task), tasks)


# ---------------------------------------------------------------------------------------------------------
# Tasks x observations


def balanced(tasks: int = 4, rows: int = 3) -> bm.Tasks:
    rng = np.random.default_rng(5)
    return bm.Tasks.from_arrays(rng.normal(size=(tasks, rows)), rng.normal(size=(tasks, rows)))


def line_by_hand(phi: Any, x: Tensor, y: Optional = None) -> Tensor:
    mu, tau, beta, sigma = phi
    theta = pyro.sample("theta", dist.Normal(mu, tau))
    return pyro.sample("y", dist.Normal(theta + beta * x, sigma).to_event(1), obs=y)


def _tasks_by_rows() -> Pair:
    """Observations (T, n) in a plate of tasks at dim -2 and one of time at dim -1."""

    def model(x: Tensor, y: Optional = None) -> None:
        mu, tau, beta, sigma = population()
        with pyro.plate("subject", x.shape[0], dim=-2):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            with pyro.plate("time", x.shape[1], dim=-1):
                pyro.sample("y", dist.Normal(theta + beta * x, sigma), obs=y)

    return Pair(model, "subject", bm.Hierarchy(population, line_by_hand), balanced())


def _rows_by_tasks() -> Pair:
    """Observations (n, T): the plate of tasks at dim -1, that of time at dim -2."""

    def model(x: Tensor, y: Optional = None) -> None:
        mu, tau, beta, sigma = population()
        subjects = pyro.plate("subject", x.shape[1], dim=-1)
        with subjects:
            theta = pyro.sample("theta", dist.Normal(mu, tau))
        with pyro.plate("time", x.shape[0], dim=-2), subjects:
            pyro.sample("y", dist.Normal(theta + beta * x, sigma), obs=y)

    return Pair(model, "subject", bm.Hierarchy(population, line_by_hand), balanced())


def _matrix_of_events() -> Pair:
    """Observations (T, n) as events of the plate of tasks, as many tasks as observations each."""

    def model(x: Tensor, y: Optional = None) -> None:
        mu, tau, beta, sigma = population()
        with pyro.plate("subject", len(x)):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta.unsqueeze(-1) + beta * x, sigma).to_event(1), obs=y)

    return Pair(model, "subject", bm.Hierarchy(population, line_by_hand), balanced(3, 3))


def _no_plate_of_observations() -> Pair:
    """Observations (T, n) in no plate at all."""

    def model(x: Tensor, y: Optional = None) -> None:
        mu, tau, beta, sigma = population()
        with pyro.plate("subject", len(x)):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta.unsqueeze(-1) + beta * x, sigma).to_event(2), obs=y)

    return Pair(model, "subject", bm.Hierarchy(population, line_by_hand), balanced())


def _factors() -> Pair:
    """Factors: one that belongs to φ, one of each task."""

    def model(county: Tensor, floor: Tensor, y: Optional = None) -> None:
        mu, tau, beta, sigma = population()
        pyro.factor("shrink", -beta.abs())
        with pyro.plate("county", len(county.unique())):
            alpha = pyro.sample("alpha", dist.Normal(mu, tau))
            pyro.factor("soft", -0.1 * alpha.square())
        with pyro.plate("houses", len(county)):
            pyro.sample("y", dist.Normal(alpha[county] + beta * floor, sigma), obs=y)

    def prior() -> tuple[Tensor, ...]:
        phi = population()
        pyro.factor("shrink", -phi[2].abs())
        return phi

    def task(phi: Any, x: Tensor, y: Optional = None, *, uranium: Tensor) -> Tensor:
        mu, tau, beta, sigma = phi
        alpha = pyro.sample("alpha", dist.Normal(mu, tau))
        result = pyro.sample("y", dist.Normal(alpha + beta * x[:, 0], sigma).to_event(1), obs=y)
        pyro.factor("soft", -0.1 * alpha.square())
        return result

    return Pair(model, "county", bm.Hierarchy(prior, task), houses())


def matrix() -> Callable[..., None]:
    """A model whose inputs are a matrix (n, 1)."""

    def model(group: Tensor, x: Tensor, y: Optional = None) -> None:
        mu, tau = schools_prior()
        with pyro.plate("group", len(group.unique())):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(theta[group] + x @ torch.ones(1), 1.0), obs=y)

    return model


PAIRS: dict[str, Callable[[], Pair]] = {
    name: cache(make)
    for name, make in {
        "radon": _radon,
        "radon-with-uranium": _radon_with_uranium,
        "numbers-in-the-model": _numbers_in_the_model,
        "sizes-from-values": _sizes_from_values,
        "patients": _patients,
        "logistic": _logistic,
        "vector": _vector,
        "plate-of-coefficients": _plate_of_coefficients,
        "correlated": _correlated,
        "schools": _schools,
        "schools-non-centred": _schools_non_centred,
        "schools-reparametrised": _schools_reparametrised,
        "schools-outside": _schools_outside,
        "baseball": _baseball,
        "tasks-by-rows": _tasks_by_rows,
        "rows-by-tasks": _rows_by_tasks,
        "matrix-of-events": _matrix_of_events,
        "no-plate-of-observations": _no_plate_of_observations,
        "factors": _factors,
    }.items()
}
