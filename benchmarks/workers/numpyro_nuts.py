"""NumPyro's NUTS in float64: chains side by side, each on a device of its own."""

# mypy: disable-error-code="import-not-found,import-untyped"
from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.workers.common import Arrays, Clock, arguments, finish, load


def model(data: Arrays, form: str) -> Any:
    """The hierarchy as a NumPyro user would write it, centred or not."""
    return {"radon": _radon, "linear": _linear}[data.kind](data, form == "decentred")


def _radon(data: Arrays, decentred: bool) -> Any:
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer.reparam import LocScaleReparam

    def radon() -> None:
        sigma_y = numpyro.sample("sigma_y", dist.HalfNormal(1.0))
        sigma_alpha = numpyro.sample("sigma_alpha", dist.HalfNormal(1.0))
        mu_alpha = numpyro.sample("mu_alpha", dist.Normal(0.0, 10.0))
        beta = numpyro.sample("beta", dist.Normal(0.0, 10.0))
        with numpyro.plate("county", data.n_tasks):
            alpha = numpyro.sample("alpha", dist.Normal(mu_alpha, sigma_alpha))
        mean = alpha[data.task] + beta * data.x
        with numpyro.plate("house", len(data.y)):
            numpyro.sample("y", dist.Normal(mean, sigma_y), obs=data.y)

    return numpyro.handlers.reparam(radon, {"alpha": LocScaleReparam(0)}) if decentred else radon


def _linear(data: Arrays, decentred: bool) -> Any:
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer.reparam import LocScaleReparam

    x, y = data.by_task

    def linear() -> None:
        mu = numpyro.sample("mu", dist.Normal(np.zeros(2), 5.0).to_event(1))
        tau = numpyro.sample("tau", dist.HalfNormal(np.ones(2)).to_event(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        with numpyro.plate("task", data.n_tasks):
            theta = numpyro.sample("theta", dist.Normal(mu, tau).to_event(1))
            mean = theta[:, :1] + theta[:, 1:] * x
            numpyro.sample("y", dist.Normal(mean, sigma).to_event(1), obs=y)

    return numpyro.handlers.reparam(linear, {"theta": LocScaleReparam(0)}) if decentred else linear


def main() -> None:
    args = arguments()
    clock = Clock(args.started)
    import jax
    import numpyro

    numpyro.set_host_device_count(args.chains)
    numpyro.enable_x64()
    compiling: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiling.append(seconds) if "/compile/" in event else None
    )
    data = load(args.data)
    clock.mark("import")
    mcmc = numpyro.infer.MCMC(
        numpyro.infer.NUTS(model(data, args.form)),
        num_warmup=args.tune,
        num_samples=args.draws,
        num_chains=args.chains,
        chain_method="parallel",
        progress_bar=False,
    )
    mcmc.run(jax.random.PRNGKey(args.seed), extra_fields=("num_steps", "diverging"))
    draws = jax.device_get(mcmc.get_samples(group_by_chain=True))
    extra = jax.device_get(mcmc.get_extra_fields())
    clock.mark("sample")
    # one call compiles and samples: JAX itself tells how long its compiling took
    clock.seconds["compile"] = sum(compiling)
    clock.seconds["sample"] -= sum(compiling)
    names = {"radon": ["sigma_y", "sigma_alpha", "mu_alpha", "beta"], "linear": ["mu", "tau", "sigma"]}
    finish(
        args.out,
        {name: draws[name] for name in names[data.kind]},
        clock,
        ["numpyro", "jax"],
        divergences=int(extra["diverging"].sum()),
        steps_per_draw=float(extra["num_steps"].mean()),
        form=args.form,
    )


if __name__ == "__main__":
    main()
