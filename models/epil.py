"""Epilepsy: does progabide reduce seizures?

59 people counted their seizures for eight weeks, were then given progabide or a placebo, and counted on for
four periods of two weeks. Some have many seizures and some few, and one person's periods differ by more than
Poisson counts do. So each person has a level, and each period of a person a deviation from it.

    level       ~ Normal(0, 5)          log seizures per period, at mean log baseline and mean log age
    base        ~ Normal(0, 2)          per unit of the log of the seizures counted before
    treated     ~ Normal(0, 2)          progabide rather than placebo
    interaction ~ Normal(0, 2)          more of it per unit of that log
    age         ~ Normal(0, 2)          per unit of log age
    fourth      ~ Normal(0, 2)          the fourth period rather than another
    tau, sigma  ~ HalfNormal(1)         how much people differ, how much one person's periods differ
    person_t    ~ Normal(level + base b_t + treated p_t + interaction p_t b_t + age a_t, tau)
    period_tk   ~ Normal(0, sigma),  k = 1..4
    y_tk        ~ Poisson(exp(person_t + period_tk + fourth [k = 4]))

A task is a person with the number of the period as input; log baseline b, log age a (both centred) and
treatment p are contexts. theta has five coordinates, too many for quadrature: NUTS draws it together with phi,
and Laplace's approximation, good here, is one line away. It is model III of Breslow and Clayton. Under vague
priors, and with 21 in place of 23 seizures of one person, BUGS finds .875 for base, .355 for the interaction, .47
for age, -.10 for the fourth period, .497 for tau and .364 for sigma.

Thall, P. F. and Vail, S. C. (1990). Some covariance models for longitudinal count data with overdispersion.
Biometrics 46, 657-671.
Breslow, N. E. and Clayton, D. G. (1993). Approximate inference in generalized linear mixed models. Journal of
the American Statistical Association 88, 9-25.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import bayesmeta as bm

PERIODS = 4


def hyperprior() -> dict[str, Tensor]:
    phi = {"level": pyro.sample("level", dist.Normal(0.0, 5.0))}
    for name in ("base", "treated", "interaction", "age", "fourth"):
        phi[name] = pyro.sample(name, dist.Normal(0.0, 2.0))
    for name in ("tau", "sigma"):
        phi[name] = pyro.sample(name, dist.HalfNormal(1.0))
    return phi


def task(
    phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None, *, lbase: Tensor, lage: Tensor, progabide: Tensor
) -> Tensor:
    drug = (phi["treated"] + phi["interaction"] * lbase) * progabide
    mean = phi["level"] + phi["base"] * lbase + drug + phi["age"] * lage
    person = pyro.sample("person", dist.Normal(mean, phi["tau"]))
    period = pyro.sample("period", dist.Normal(torch.zeros(PERIODS), phi["sigma"]).to_event(1))
    deviation = (period * (x[:, None] == torch.arange(1, PERIODS + 1))).sum(-1)
    log_rate = person + deviation + phi["fourth"] * (x == PERIODS)
    return pyro.sample("y", dist.Poisson(log_rate.exp()).to_event(1), obs=y)


hierarchy = bm.Hierarchy(hyperprior, task)


def load() -> bm.Tasks:
    counts = bm.data.load("epil")
    counts["progabide"] = (counts["trt"] == "progabide").astype(float)
    return bm.Tasks.from_frame(counts, task="subject", x="period", y="y", context=["lbase", "lage", "progabide"])
