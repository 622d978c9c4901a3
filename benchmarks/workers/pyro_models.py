"""The hierarchies as a Pyro user would write them, with a plate of tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.workers.common import Arrays

__all__ = ["model"]


def model(data: Arrays, form: str) -> Callable[[], None]:
    """A Pyro model of the data, centred or not."""
    return {"radon": _radon, "linear": _linear}[data.kind](data, form == "decentred")


def _radon(data: Arrays, decentred: bool) -> Callable[[], None]:
    import pyro
    import pyro.distributions as dist
    import torch

    x, y, task = torch.as_tensor(data.x), torch.as_tensor(data.y), torch.as_tensor(data.task)

    def radon() -> None:
        sigma_y = pyro.sample("sigma_y", dist.HalfNormal(1.0))
        sigma_alpha = pyro.sample("sigma_alpha", dist.HalfNormal(1.0))
        mu_alpha = pyro.sample("mu_alpha", dist.Normal(0.0, 10.0))
        beta = pyro.sample("beta", dist.Normal(0.0, 10.0))
        with pyro.plate("county", data.n_tasks):
            if decentred:
                alpha = mu_alpha + sigma_alpha * pyro.sample("z", dist.Normal(0.0, 1.0))
            else:
                alpha = pyro.sample("alpha", dist.Normal(mu_alpha, sigma_alpha))
        with pyro.plate("house", len(y)):
            pyro.sample("y", dist.Normal(alpha[task] + beta * x, sigma_y), obs=y)

    return radon


def _linear(data: Arrays, decentred: bool) -> Callable[[], None]:
    import pyro
    import pyro.distributions as dist
    import torch

    x, y = (torch.as_tensor(array) for array in data.by_task)

    def linear() -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 5.0).to_event(1))
        tau = pyro.sample("tau", dist.HalfNormal(torch.ones(2)).to_event(1))
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        with pyro.plate("task", data.n_tasks):
            if decentred:
                theta: Any = mu + tau * pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            else:
                theta = pyro.sample("theta", dist.Normal(mu, tau).to_event(1))
            mean = theta[:, :1] + theta[:, 1:] * x
            pyro.sample("y", dist.Normal(mean, sigma).to_event(1), obs=y)

    return linear
