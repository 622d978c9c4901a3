"""Pyro's own NUTS, one chain, as it comes."""

from __future__ import annotations

from benchmarks.workers.common import Clock, arguments, finish, load


def main() -> None:
    args = arguments()
    clock = Clock(args.started)
    import pyro
    import torch
    from pyro.infer.mcmc import MCMC, NUTS

    from benchmarks.workers.pyro_models import model

    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(args.seed)
    data = load(args.data)
    clock.mark("import")
    clock.seconds["compile"] = 0.0
    runs = 0
    hierarchy = model(data, args.form)

    def counted() -> None:
        nonlocal runs
        runs += 1
        hierarchy()

    # every gradient runs the model once, so the runs count the gradients
    mcmc = MCMC(NUTS(counted), num_samples=args.draws, warmup_steps=args.tune, disable_progbar=True)
    mcmc.run()
    draws = mcmc.get_samples(group_by_chain=True)
    clock.mark("sample")
    names = {"radon": ["sigma_y", "sigma_alpha", "mu_alpha", "beta"], "linear": ["mu", "tau", "sigma"]}
    finish(
        args.out,
        {name: draws[name].numpy() for name in names[data.kind]},
        clock,
        ["pyro-ppl", "torch"],
        divergences=sum(len(found) for found in mcmc.diagnostics()["divergences"].values()),
        gradients=runs,
        form=args.form,
    )


if __name__ == "__main__":
    main()
