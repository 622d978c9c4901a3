"""Baseball: from a batter's first 45 at-bats, how will he do over the rest of the season?

In April 1970, 18 batters had been at bat 45 times each. Roberto Clemente had 18 hits, Max Alvis 7. Nobody
ends a season at .400 or at .156: most of the spread is luck. Efron and Morris showed with these numbers
that pulling every batter towards the mean of all predicts the rest of the season with far less error than
the batters' own averages do. The rest of the season was played, so here the truth is known: `rest()`.

    mu      ~ Normal(-1, 1)           mean ability, log odds of a hit (-1.05 is an average of .260)
    tau     ~ HalfNormal(1)           how much batters differ
    theta_t ~ Normal(mu, tau)         the ability of batter t
    y_t     ~ Binomial(x_t, logit = theta_t)      hits in x_t at-bats

A task is a batter; the at-bats are the input, so that the rest of the season is predicted by giving its
at-bats as x. The likelihood is not Gaussian: the abilities are drawn together with mu and tau.

Efron, B. and Morris, C. (1975). Data analysis using Stein's estimator and its generalizations. Journal of
the American Statistical Association 70, 311-319.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

import bayesmeta as bm


def hyperprior() -> tuple[Tensor, Tensor]:
    mu = pyro.sample("mu", dist.Normal(-1.0, 1.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    return mu, tau


def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
    mu, tau = phi
    theta = pyro.sample("theta", dist.Normal(mu, tau))
    return pyro.sample("y", dist.Binomial(total_count=x, logits=theta).to_event(1), obs=y)


hierarchy = bm.Hierarchy(hyperprior, task)


def load() -> bm.Tasks:
    batters = bm.data.load("baseball")
    return bm.Tasks.from_frame(batters, task="player", x="at_bats", y="hits")


def rest() -> bm.Tasks:
    """The rest of the season, to score predictions with: at-bats as x, hits as y."""
    batters = bm.data.load("baseball")
    batters["rest_hits"] = (batters["rest_average"] * batters["rest_at_bats"]).round()
    return bm.Tasks.from_frame(batters, task="player", x="rest_at_bats", y="rest_hits")
