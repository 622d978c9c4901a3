"""Orthodont: how do children's jaws grow, and do boys and girls differ?

A distance in the jaw of 16 boys and 11 girls was measured on X-rays at 8, 10, 12 and 14 years of age. Each
child has a size of its own and grows at a pace of its own. Size and pace are learnt for boys and for girls
apart, their covariance for all children together: what a context may do and what it need not.

    girls, boys ~ Normal((24, 0.6), (5, 1))    mean distance at 11 years in mm, mean growth in mm per year
    tau         ~ HalfNormal((5, 1))           how much children differ in each
    L           ~ LKJCholesky(2, 2)            factor of their correlation; L[1, 0] is the correlation itself
    sigma       ~ HalfNormal(3)                error of one measurement, in mm
    theta_t     ~ Normal(boys if boy_t else girls, S S')  with S = diag(tau) L
    y_ti        ~ Normal(theta_t[0] + theta_t[1] (age_ti - 11), sigma)

A task is a child, an observation an X-ray; that the child is a boy is a context. Linear and Gaussian: the
evidence is exact, by Gram matrices. Restricted maximum likelihood (nlme) finds 24.97 and .784 for boys, 22.65
and .480 for girls, standard deviations of 1.83 and .180, correlation .21, error 1.31.

Potthoff, R. F. and Roy, S. N. (1964). A generalized multivariate analysis of variance model useful especially
for growth curve problems. Biometrika 51, 313-326.
Pinheiro, J. C. and Bates, D. M. (2000). Mixed-Effects Models in S and S-PLUS. Springer, section 4.2.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import bayesmeta as bm

MIDDLE = 11.0


def hyperprior() -> dict[str, Tensor]:
    centre, width = torch.tensor([24.0, 0.6]), torch.tensor([5.0, 1.0])
    tau = pyro.sample("tau", dist.HalfNormal(torch.tensor([5.0, 1.0])).to_event(1))
    L = pyro.sample("L", dist.LKJCholesky(2, 2.0))
    return {
        "girls": pyro.sample("girls", dist.Normal(centre, width).to_event(1)),
        "boys": pyro.sample("boys", dist.Normal(centre, width).to_event(1)),
        "scale_tril": tau[:, None] * L,
        "sigma": pyro.sample("sigma", dist.HalfNormal(3.0)),
    }


def task(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None, *, boy: Tensor) -> Tensor:
    mean = boy * phi["boys"] + (1 - boy) * phi["girls"]
    theta = pyro.sample("theta", dist.MultivariateNormal(mean, scale_tril=phi["scale_tril"]))
    distance = theta[0] + theta[1] * (x - MIDDLE)
    return pyro.sample("y", dist.Normal(distance, phi["sigma"]).to_event(1), obs=y)


hierarchy = bm.Hierarchy(hyperprior, task)


def load() -> bm.Tasks:
    visits = bm.data.load("orthodont")
    visits["boy"] = (visits["Sex"] == "Male").astype(float)
    return bm.Tasks.from_frame(visits, task="Subject", x="age", y="distance", context="boy")
