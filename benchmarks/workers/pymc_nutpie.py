"""PyMC's model, compiled by numba and sampled by nutpie."""

# mypy: disable-error-code="import-not-found,import-untyped"
from __future__ import annotations

from typing import Any

from benchmarks.workers.common import Arrays, Clock, arguments, finish, load


def model(data: Arrays, form: str) -> Any:
    """The hierarchy as a PyMC user would write it, centred or not."""
    return {"radon": _radon, "linear": _linear}[data.kind](data, form == "decentred")


def _radon(data: Arrays, decentred: bool) -> Any:
    import pymc as pm

    with pm.Model() as radon:
        sigma_y = pm.HalfNormal("sigma_y", 1.0)
        sigma_alpha = pm.HalfNormal("sigma_alpha", 1.0)
        mu_alpha = pm.Normal("mu_alpha", 0.0, 10.0)
        beta = pm.Normal("beta", 0.0, 10.0)
        if decentred:
            z = pm.Normal("z", 0.0, 1.0, shape=data.n_tasks)
            alpha = pm.Deterministic("alpha", mu_alpha + sigma_alpha * z)
        else:
            alpha = pm.Normal("alpha", mu_alpha, sigma_alpha, shape=data.n_tasks)
        pm.Normal("y", alpha[data.task] + beta * data.x, sigma_y, observed=data.y)
    return radon


def _linear(data: Arrays, decentred: bool) -> Any:
    import pymc as pm

    x, y = data.by_task
    with pm.Model() as linear:
        mu = pm.Normal("mu", 0.0, 5.0, shape=2)
        tau = pm.HalfNormal("tau", 1.0, shape=2)
        sigma = pm.HalfNormal("sigma", 1.0)
        if decentred:
            z = pm.Normal("z", 0.0, 1.0, shape=(data.n_tasks, 2))
            theta = pm.Deterministic("theta", mu + tau * z)
        else:
            theta = pm.Normal("theta", mu, tau, shape=(data.n_tasks, 2))
        pm.Normal("y", theta[:, :1] + theta[:, 1:] * x, sigma, observed=y)
    return linear


def main() -> None:
    args = arguments()
    clock = Clock(args.started)
    import nutpie
    import pymc  # noqa: F401  (its import belongs to the imports, not to the compiling)

    data = load(args.data)
    clock.mark("import")
    compiled = nutpie.compile_pymc_model(model(data, args.form), backend="numba")
    clock.mark("compile")
    trace: Any = nutpie.sample(
        compiled,
        draws=args.draws,
        tune=args.tune,
        chains=args.chains,
        cores=args.chains,
        seed=args.seed,
        progress_bar=False,
    )
    clock.mark("sample")
    names = {"radon": ["sigma_y", "sigma_alpha", "mu_alpha", "beta"], "linear": ["mu", "tau", "sigma"]}
    steps, warmup_steps = trace.sample_stats["n_steps"], trace.warmup_sample_stats["n_steps"]
    finish(
        args.out,
        {name: trace.posterior[name].values for name in names[data.kind]},
        clock,
        ["pymc", "nutpie", "numba"],
        divergences=int(trace.sample_stats["diverging"].sum()),
        gradients=int(steps.sum() + warmup_steps.sum()),
        steps_per_draw=float(steps.mean()),
        form=args.form,
    )


if __name__ == "__main__":
    main()
