"""Kidney: how long until a dialysis catheter is infected, and are some patients frailer than others?

38 patients on portable dialysis each had a catheter twice. We know the days until it was infected or, for 18
of the 76, until it was taken out for another reason: then the infection would have come later, who knows when
(the time is censored). Patients differ by more than sex and age explain. What is left is their frailty, a
factor on the daily risk of infection.

    log_risk   ~ Normal(-4, 2)               log infections per day, for a man of 45 of frailty 1
    female     ~ Normal(0, 2)                what being a woman adds to it
    age        ~ Normal(0, 1)                per ten years of age
    variance   ~ HalfNormal(1)               of the frailties
    frailty_t  ~ Gamma(1 / variance, 1 / variance)       mean 1
    risk_ti    = frailty_t exp(log_risk + female female_t + age (age_ti - 45) / 10)
    y_ti       ~ Exponential(risk_ti), known only to be larger where censored

A task is a patient, an observation a catheter; whether its infection was seen and the age are inputs, the sex is
a context. To predict when the next infection comes, give 1 as the first input. theta is positive and its prior
is skewed: it is integrated out in its logarithm, and since a Gamma is conjugate here the answer is known.

McGilchrist, C. A. and Aisbett, C. W. (1991). Regression with frailty in survival analysis. Biometrics 47,
461-466.
Clayton, D. G. (1991). A Monte Carlo method for Bayesian inference in frailty models. Biometrics 47, 467-485.
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import bayesmeta as bm


class CensoredExponential(dist.Exponential):  # type: ignore[misc]  # Pyro has no types for it
    """Waiting times, of which some are only known to be longer than what was observed."""

    def __init__(self, rate: Tensor, seen: Tensor, validate_args: bool | None = None) -> None:
        self.seen = seen
        super().__init__(rate, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """The density where the end was seen, else the probability of waiting longer."""
        density: Tensor = self.seen * torch.log(self.rate) - self.rate * value
        return density

    def expand(self, batch_shape: Any, _instance: Any = None) -> CensoredExponential:
        """The same in a larger batch."""
        shape = torch.Size(batch_shape)
        return CensoredExponential(self.rate.expand(shape), self.seen.expand(shape), validate_args=False)


def hyperprior() -> dict[str, Tensor]:
    return {
        "log_risk": pyro.sample("log_risk", dist.Normal(-4.0, 2.0)),
        "female": pyro.sample("female", dist.Normal(0.0, 2.0)),
        "age": pyro.sample("age", dist.Normal(0.0, 1.0)),
        "variance": pyro.sample("variance", dist.HalfNormal(1.0)),
    }


def task(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None, *, female: Tensor) -> Tensor:
    frailty = pyro.sample("frailty", dist.Gamma(1 / phi["variance"], 1 / phi["variance"]))
    seen, decades = x[:, 0], (x[:, 1] - 45) / 10
    risk = frailty * torch.exp(phi["log_risk"] + phi["female"] * female + phi["age"] * decades)
    return pyro.sample("y", CensoredExponential(risk, seen).to_event(1), obs=y)


hierarchy = bm.Hierarchy(hyperprior, task)


def load() -> bm.Tasks:
    catheters = bm.data.load("kidney")
    catheters["female"] = (catheters["sex"] == "female").astype(float)
    return bm.Tasks.from_frame(catheters, task="patient", x=["infection", "age"], y="days", context="female")
