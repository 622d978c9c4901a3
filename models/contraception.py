"""Contraception in Bangladesh: 1,934 women in 60 districts, some with 2 interviewed, one with 118.

The fertility survey of 1988 asked women whether they used contraception. Districts differ in how common it
is, and in how much more common it is in their towns than in their villages; a third of the districts have no
woman from a town in the survey. So a district's parameter is a pair, and the covariance of the pair over
districts says how far the villages of a district tell something about its towns.

    mu      ~ Normal(0, 2)                 mean log odds in villages, and mean difference to towns
    tau     ~ HalfNormal(1)                how much districts differ in each
    L       ~ LKJCholesky(2, 2)            factor of their correlation; L[1, 0] is the correlation itself
    age     ~ Normal(0, 1)                 per ten years beyond the mean
    child   ~ Normal(0, 2)                 1, 2, 3 or more living children rather than none
    theta_t ~ Normal(mu, S S')  with S = diag(tau) L
    y_ti    ~ Bernoulli(logit = theta_t[0] + theta_t[1] town_ti + age age_ti + child[children_ti])

A task is a district, an observation a woman. Maximum likelihood, integrating over a fine grid, finds a mean of
-1.71 and a difference of .82, variances of .39 and .67 with a covariance of -.41, an age effect of -.27 per ten
years, and effects of 1.13, 1.37 and 1.36 for one, two, and three or more children.

Huq, N. M. and Cleland, J. (1990). Bangladesh Fertility Survey 1989 (main report). National Institute of
Population Research and Training, Dhaka.
Ng, E. S. W., Carpenter, J. R., Goldstein, H. and Rasbash, J. (2006). Estimation in generalised linear mixed
models with binary outcomes by simulated maximum likelihood. Statistical Modelling 6, 23-42.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import bayesmeta as bm


def hyperprior() -> dict[str, Tensor]:
    tau = pyro.sample("tau", dist.HalfNormal(torch.ones(2)).to_event(1))
    L = pyro.sample("L", dist.LKJCholesky(2, 2.0))
    return {
        "mu": pyro.sample("mu", dist.Normal(torch.zeros(2), 2.0).to_event(1)),
        "scale_tril": tau[:, None] * L,
        "age": pyro.sample("age", dist.Normal(0.0, 1.0)),
        "child": pyro.sample("child", dist.Normal(torch.zeros(3), 2.0).to_event(1)),
    }


def task(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
    theta = pyro.sample("theta", dist.MultivariateNormal(phi["mu"], scale_tril=phi["scale_tril"]))
    town, decades, children = x[:, 0], x[:, 1], x[:, 2:]
    logits = theta[0] + theta[1] * town + phi["age"] * decades + (phi["child"] * children).sum(-1)
    return pyro.sample("y", dist.Bernoulli(logits=logits).to_event(1), obs=y)


hierarchy = bm.Hierarchy(hyperprior, task)


def load() -> bm.Tasks:
    women = bm.data.load("contraception")
    women["uses"] = (women["use"] == "Y").astype(float)
    women["town"] = (women["urban"] == "Y").astype(float)
    women["decades"] = women["age"] / 10
    for children in ("1", "2", "3+"):
        women[children] = (women["livch"] == children).astype(float)
    return bm.Tasks.from_frame(women, task="district", x=["town", "decades", "1", "2", "3+"], y="uses")
