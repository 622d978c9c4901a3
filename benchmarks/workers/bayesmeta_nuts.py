"""bayesmeta's own road: θ integrated out, NUTS over φ; with `--theta`, θ of every task is drawn as well."""

from __future__ import annotations

import numpy as np

from benchmarks.workers.common import Clock, arguments, finish, load


def main() -> None:
    args = arguments()
    clock = Clock(args.started)
    import nutpie  # noqa: F401  (imported by the fit when it first samples; with the imports, as for PyMC)

    import bayesmeta as bm
    from benchmarks.workers.bayesmeta_models import hierarchy, tasks

    data = load(args.data)
    clock.mark("import")
    posterior = bm.fit(
        hierarchy(data.kind),
        tasks(data),
        inference=bm.NUTS(chains=args.chains, draws=args.draws, tune=args.tune, compile=not args.no_compile),
        seed=args.seed,
        progress=False,
    )
    phi = posterior.phi
    clock.mark("compile")
    # whatever of the call was not sampling counts as compiling
    info = posterior.info
    clock.seconds["sample"] = info.seconds["sample"]
    clock.seconds["compile"] -= info.seconds["sample"]
    if args.theta:
        _ = {name: draws.sum() for name, draws in posterior.theta.items()}
        clock.mark("theta")
    shape = (args.chains, args.draws)
    finish(
        args.out,
        {name: draws.reshape(*shape, *draws.shape[1:]) for name, draws in phi.items()},
        clock,
        ["bayesmeta", "torch", "nutpie"],
        divergences=info.divergences,
        gradients=info.gradients,
        steps_per_draw=float(np.mean(posterior.draws.stats["n_steps"])),
        density=info.density,
        evidence=info.evidence,
        gram=info.gram,
    )


if __name__ == "__main__":
    main()
