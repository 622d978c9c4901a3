"""Eight schools: is coaching for a test worth more in one school than in another?

Eight schools each tried a coaching programme for the SAT. Of each we know one number, the estimated
effect in points, and its standard error, which is large: 9 to 18 points. School A's coaching looks worth
28 points. The other seven schools say how far to believe it.

    mu      ~ Normal(0, 5)                the mean effect of such programmes
    tau     ~ HalfCauchy(5)               how much the schools differ
    theta_t ~ Normal(mu, tau)             the effect in school t
    y_t     ~ Normal(theta_t, sigma_t)    its estimate; sigma_t is known

A task is a school with a single observation and no inputs; its standard error is a context. The priors
are those of posteriordb, so that the result can be compared with its reference draws.

Rubin, D. B. (1981). Estimation in parallel randomized experiments. Journal of Educational Statistics 6,
377-401.
Gelman, A. et al. (2013). Bayesian Data Analysis, 3rd edition, section 5.5.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

import bayesmeta as bm


def hyperprior() -> tuple[Tensor, Tensor]:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    return mu, tau


def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None, *, sigma: Tensor) -> Tensor:
    mu, tau = phi
    theta = pyro.sample("theta", dist.Normal(mu, tau))
    return pyro.sample("y", dist.Normal(theta, sigma).expand([len(x)]).to_event(1), obs=y)


hierarchy = bm.Hierarchy(hyperprior, task)


def load() -> bm.Tasks:
    schools = bm.data.load("eight_schools")
    return bm.Tasks.from_frame(schools, task="school", y="y", context="sigma")
