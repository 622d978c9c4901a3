"""Seeds: does a root extract make the seeds of a parasitic plant germinate?

Broomrape lives on the roots of crops. Seeds of two of its strains were put on 21 plates, brushed with an
extract of bean or of cucumber roots, and after a while the germinated ones were counted. Plates treated
alike differ by more than chance allows, so that each plate has a level of its own; the question is what
strain and extract do to it.

    alpha0, alpha1, alpha2, alpha12 ~ Normal(0, 1)
    sigma   ~ HalfCauchy(1)               how much plates treated alike differ
    theta_t ~ Normal(alpha0 + alpha1 strain_t + alpha2 cucumber_t + alpha12 strain_t cucumber_t, sigma)
    y_t     ~ Binomial(x_t, logit = theta_t)      germinated ones of x_t seeds

A task is a plate with a single count; the number of seeds is its input, strain (1 for O. aegyptiaca 73) and
extract (1 for cucumber) are contexts. theta is one number and the likelihood is smooth, so that quadrature
gives the evidence of a plate to many digits. The priors are those of posteriordb. Under flat ones BUGS finds
-.55, .08, 1.35 and -.82 for the alphas and .27 for sigma.

Crowder, M. J. (1978). Beta-binomial Anova for proportions. Applied Statistics 27, 34-37.
Breslow, N. E. and Clayton, D. G. (1993). Approximate inference in generalized linear mixed models. Journal of
the American Statistical Association 88, 9-25.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

import bayesmeta as bm


def hyperprior() -> dict[str, Tensor]:
    return {
        "alpha0": pyro.sample("alpha0", dist.Normal(0.0, 1.0)),
        "alpha1": pyro.sample("alpha1", dist.Normal(0.0, 1.0)),
        "alpha2": pyro.sample("alpha2", dist.Normal(0.0, 1.0)),
        "alpha12": pyro.sample("alpha12", dist.Normal(0.0, 1.0)),
        "sigma": pyro.sample("sigma", dist.HalfCauchy(1.0)),
    }


def task(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None, *, strain: Tensor, cucumber: Tensor) -> Tensor:
    mean = phi["alpha0"] + phi["alpha1"] * strain + phi["alpha2"] * cucumber + phi["alpha12"] * strain * cucumber
    theta = pyro.sample("theta", dist.Normal(mean, phi["sigma"]))
    return pyro.sample("y", dist.Binomial(total_count=x, logits=theta).to_event(1), obs=y)


hierarchy = bm.Hierarchy(hyperprior, task)


def load() -> bm.Tasks:
    plates = bm.data.load("seeds")
    plates["strain"] = plates["seed"].str.endswith("73").astype(float)
    plates["cucumber"] = (plates["extract"] == "cucumber").astype(float)
    return bm.Tasks.from_frame(plates, task="plate", x="seeds", y="germinated", context=["strain", "cucumber"])
