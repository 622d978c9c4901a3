"""A fit by any preset: seconds, peak memory, the verdict, and means and sds of φ."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np

from benchmarks.workers.common import Arrays, Clock, arguments, finish, load

GALLERY = "gallery:"
TINY: dict[str, dict[str, Any]] = {
    "nuts": {"draws": 50, "tune": 50, "chains": 2, "compile": False},
    "auto": {"compile": False},
    "svi": {"steps": 100, "patience": 50},
    "hmc": {"draws": 20, "tune": 40, "compile": False},
}
"""What `--no-compile`, the sign of a quick run, makes of a back-end's settings."""


def main() -> None:
    args = arguments()
    clock = Clock(args.started)
    import bayesmeta as bm
    from bayesmeta.presets import back_end_of, read_preset, with_options

    data = load(args.data)
    hierarchy, tasks = _problem(data)
    clock.mark("import")
    config = read_preset(args.preset)
    options = json.loads(args.set) | (TINY.get(back_end_of(config), {}) if args.no_compile else {})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the draws are")
        posterior = bm.fit(hierarchy, tasks, with_options(config, options), seed=args.seed, progress=False)
    clock.mark("compile")
    # whatever of the call was not sampling counts as compiling
    info = posterior.info
    clock.seconds["sample"] = info.seconds["sample"]
    clock.seconds["compile"] -= info.seconds["sample"]
    chains, draws = posterior.draws.u.shape[:2]
    phi = {name: values.reshape(chains, draws, -1).numpy() for name, values in posterior.phi.items()}
    finish(
        args.out,
        _moving(phi),
        clock,
        ["bayesmeta", "torch"],
        divergences=info.divergences,
        gradients=info.gradients,
        density=info.density,
        evidence=info.evidence,
        gram=info.gram,
        k_hat=info.k_hat,
        effective_size=info.effective_size,
        log=list(info.log),
        verdict=posterior.verdict.level,
        moments=_moments(phi),
        n_tasks=len(tasks),
        kept=[chains, draws],
    )


def _problem(data: Arrays) -> tuple[Any, Any]:
    """A model of the gallery with its tasks, or one of the benchmark's own with the arrays."""
    if data.kind.startswith(GALLERY):
        from bayesmeta import shelf

        model = shelf.load_model(shelf.path_of("model", data.kind.removeprefix(GALLERY)))
        return model.hierarchy, model.tasks()
    from benchmarks.workers.bayesmeta_models import hierarchy, tasks

    return hierarchy(data.kind), tasks(data)


def _moving(phi: dict[str, Any]) -> dict[str, Any]:
    """The elements of φ that are not constant, such as those on the diagonal of a correlation's factor are."""
    return {name: values[..., values.std((0, 1)) > 0] for name, values in phi.items() if values.std() > 0}


def _moments(phi: dict[str, Any]) -> dict[str, list[float]]:
    """Mean and sd of every element."""
    flat = {f"{name}[{k}]": values[..., k] for name, values in phi.items() for k in range(values.shape[-1])}
    return {name: [float(np.mean(values)), float(np.std(values))] for name, values in flat.items()}


if __name__ == "__main__":
    main()
