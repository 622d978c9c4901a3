"""Theophylline: how fast do people take up a drug, and how fast do they clear it?

Twelve people swallowed a dose of theophylline, and its concentration in their blood was measured eleven times
over the next day. The dose enters the blood at a rate ka and leaves it with a clearance cl out of a volume v;
a new patient's three numbers decide on the dose, and one or two samples of blood are all there is to tell them.

    mu      ~ Normal((.5, -3, -.7), 1)      mean log of ka (1/h), of cl (L/h/kg), of v (L/kg)
    tau     ~ HalfNormal(.5)                how much people differ in each
    sigma   ~ HalfNormal(.5)                spread of a measurement, of its logarithm: .1 is 10 %
    floor   ~ HalfNormal(.5)                spread that remains at concentration 0, in mg/L
    theta_t ~ Normal(mu, tau)
    f(s)    = dose_t ka / (v ka - cl) (exp(-s cl / v) - exp(-s ka)),  (ka, cl, v) = exp(theta_t)
    y_ti    ~ Normal(f(x_ti), sqrt(floor² + (sigma f(x_ti))²))

A task is a person, an observation a sample of blood, x the hours since the dose, the dose (mg per kg) a context.
The mean is not linear in theta, and theta has three coordinates, the most that quadrature takes.

Boeckmann, A. J., Sheiner, L. B. and Beal, S. L. (1994). NONMEM Users Guide: Part V. NONMEM Project Group,
University of California, San Francisco.
Davidian, M. and Giltinan, D. M. (1995). Nonlinear Models for Repeated Measurement Data. Chapman & Hall.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import bayesmeta as bm


def hyperprior() -> dict[str, Tensor]:
    return {
        "mu": pyro.sample("mu", dist.Normal(torch.tensor([0.5, -3.0, -0.7]), 1.0).to_event(1)),
        "tau": pyro.sample("tau", dist.HalfNormal(0.5 * torch.ones(3)).to_event(1)),
        "sigma": pyro.sample("sigma", dist.HalfNormal(0.5)),
        "floor": pyro.sample("floor", dist.HalfNormal(0.5)),
    }


def task(phi: dict[str, Tensor], x: Tensor, y: Tensor | None = None, *, dose: Tensor) -> Tensor:
    theta = pyro.sample("theta", dist.Normal(phi["mu"], phi["tau"]).to_event(1))
    ka, cl, v = theta.exp()
    concentration = dose * ka / (v * ka - cl) * (torch.exp(-x * cl / v) - torch.exp(-x * ka))
    spread = torch.sqrt(phi["floor"] ** 2 + (phi["sigma"] * concentration) ** 2)
    return pyro.sample("y", dist.Normal(concentration, spread).to_event(1), obs=y)


hierarchy = bm.Hierarchy(hyperprior, task)


def load() -> bm.Tasks:
    samples = bm.data.load("theoph").rename(columns={"Dose": "dose"})
    return bm.Tasks.from_frame(samples, task="Subject", x="Time", y="conc", context="dose")
