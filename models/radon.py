"""Radon in Minnesota: 85 counties, some with one house measured, one with 116.

Radon seeps from the soil into houses, more into basements than onto first floors, and causes lung cancer.
The survey measured 919 houses, very unevenly spread over the counties. A county's level is learnt from
its own houses and, where these are few, from the other counties, the more so as the uranium in its soil
is known.

    mu_alpha    ~ Normal(0, 10)           level of a county with log uranium 0
    gamma       ~ Normal(0, 10)           what log uranium adds to it
    beta        ~ Normal(0, 10)           first floor instead of basement
    sigma_alpha ~ HalfNormal(1)           how much counties differ beyond that
    sigma_y     ~ HalfNormal(1)           how much houses of a county differ
    alpha_t     ~ Normal(mu_alpha + gamma log_uranium_t, sigma_alpha)
    y_ti        ~ Normal(alpha_t + beta floor_ti, sigma_y)      log radon of house i in county t

A task is a county, an observation a house; the floor is an input, the county's log uranium a context.

Gelman, A. and Hill, J. (2007). Data Analysis Using Regression and Multilevel/Hierarchical Models, chapter
12.
Price, P. N., Nero, A. V. and Gelman, A. (1996). Bayesian prediction of mean indoor radon concentrations
for Minnesota counties. Health Physics 71, 922-936.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

import bayesmeta as bm


def hyperprior() -> dict[str, Tensor]:
    return {
        "mu_alpha": pyro.sample("mu_alpha", dist.Normal(0.0, 10.0)),
        "gamma": pyro.sample("gamma", dist.Normal(0.0, 10.0)),
        "beta": pyro.sample("beta", dist.Normal(0.0, 10.0)),
        "sigma_alpha": pyro.sample("sigma_alpha", dist.HalfNormal(1.0)),
        "sigma_y": pyro.sample("sigma_y", dist.HalfNormal(1.0)),
    }


def task(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None, *, log_uranium: Tensor) -> Tensor:
    county_mean = phi["mu_alpha"] + phi["gamma"] * log_uranium
    alpha = pyro.sample("alpha", dist.Normal(county_mean, phi["sigma_alpha"]))
    floor = x[:, 0]
    return pyro.sample("y", dist.Normal(alpha + phi["beta"] * floor, phi["sigma_y"]).to_event(1), obs=y)


hierarchy = bm.Hierarchy(hyperprior, task)


def load() -> bm.Tasks:
    houses = bm.data.load("radon")
    return bm.Tasks.from_frame(houses, task="county", x=["floor"], y="log_radon", context="log_uranium")
