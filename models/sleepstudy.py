"""Sleep study: how fast do people slow down on three hours of sleep a night?

The reaction times of 18 people were measured on each of ten days. Each person has a level of their own
when rested and slows down at a pace of their own, and the two may go together. So a person's parameter is
a pair, and its covariance over people is learnt along with its mean.

    mu      ~ Normal((250, 10), (100, 20))     mean level in ms, mean slowing in ms per day
    tau     ~ HalfNormal((50, 20))             how much people differ in each
    L       ~ LKJCholesky(2, 2)                factor of their correlation; L[1, 0] is the correlation itself
    sigma   ~ HalfNormal(50)                   noise of one measurement, in ms
    theta_t ~ Normal(mu, S S')  with S = diag(tau) L
    y_ti    ~ Normal(theta_t[0] + theta_t[1] day_ti, sigma)

A task is a person, an observation a day. Restricted maximum likelihood (lme4) finds a mean level of 251.4
and a slowing of 10.5 ms per day, standard deviations of 24.7 and 5.9, correlation .07, noise 25.6.

Belenky, G. et al. (2003). Patterns of performance degradation and restoration during sleep restriction
and subsequent recovery: a sleep dose-response study. Journal of Sleep Research 12, 1-12.
Bates, D., Mächler, M., Bolker, B. and Walker, S. (2015). Fitting linear mixed-effects models using lme4.
Journal of Statistical Software 67(1).
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import bayesmeta as bm


def hyperprior() -> tuple[Tensor, Tensor, Tensor]:
    mu = pyro.sample("mu", dist.Normal(torch.tensor([250.0, 10.0]), torch.tensor([100.0, 20.0])).to_event(1))
    tau = pyro.sample("tau", dist.HalfNormal(torch.tensor([50.0, 20.0])).to_event(1))
    L = pyro.sample("L", dist.LKJCholesky(2, 2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(50.0))
    return mu, tau[:, None] * L, sigma


def task(phi: tuple[Tensor, Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
    mu, scale_tril, sigma = phi
    theta = pyro.sample("theta", dist.MultivariateNormal(mu, scale_tril=scale_tril))
    mean = theta[0] + theta[1] * x
    return pyro.sample("y", dist.Normal(mean, sigma).to_event(1), obs=y)


hierarchy = bm.Hierarchy(hyperprior, task)


def load() -> bm.Tasks:
    days = bm.data.load("sleepstudy")
    return bm.Tasks.from_frame(days, task="Subject", x="Days", y="Reaction")
