"""What is measured: each tool with its budget, the form of the model that suits it, and its limits.

The form was chosen for the peers' sake: both were tried on each problem, and the one with more least ESS per
second is theirs. Radon is better decentred; eleven observations a task are informative enough for the
centred form to win on the linear problems, at 85 tasks and at 2,000, for NumPyro and for PyMC. The other
form is measured too, up to 2,000 tasks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.problems import Problem

__all__ = ["EMPTY", "FORMS", "NO_CACHE", "NUMPYRO", "PYMC", "TOOLS", "WARM", "Budget", "Tool", "preset", "quick"]

FORMS = {"radon": "decentred", "linear": "centred"}
OTHER = {"centred": "decentred", "decentred": "centred"}
NO_CACHE, EMPTY, WARM = "none", "empty", "warm"


@dataclass(frozen=True)
class Budget:
    """Chains, and draws and warm-up iterations of each."""

    chains: int = 2
    draws: int = 1000
    tune: int = 1000


@dataclass(frozen=True)
class Tool:
    """A worker, and how it is run.

    Attributes:
        name: for `--only` and the results.
        title: for the table.
        what: "fit" gives draws of phi, "gradient" a time, "adapt" the adaptation of new tasks.
        worker: the module under `benchmarks.workers`.
        peer: whether it runs in the peers' environment.
        caches: which states of the compiler's cache on disk are measured: "empty" is the first
            compilation ever, "warm" the next process, "none" a tool that compiles nothing.
        warm_up_to: the number of tasks beyond which only the first of `caches` is measured.
        up_to: the number of tasks beyond which the tool is left out, for the reason `too_slow`.
        problems: the only problems it is for; all if empty.
        other_form: whether the model is written in the form that suits it less.
    """

    name: str
    title: str
    what: str
    worker: str
    peer: bool = False
    caches: tuple[str, ...] = (EMPTY, WARM)
    budget: Budget = Budget()
    options: tuple[str, ...] = ()
    warm_up_to: int | None = None
    up_to: int | None = None
    too_slow: str = ""
    problems: tuple[str, ...] = ()
    other_form: bool = False

    def form(self, kind: str) -> str:
        """How the peers write the model of problems of this kind: "centred" or "decentred"."""
        form = FORMS.get(kind, "centred")
        return OTHER[form] if self.other_form else form

    def states(self, problem: Problem) -> tuple[str, ...]:
        """The states of the cache that are measured on this problem."""
        large = self.warm_up_to is not None and problem.n_tasks > self.warm_up_to
        return self.caches[:1] if large else self.caches

    def left_out(self, problem: Problem) -> str | None:
        """Why the tool is not run on this problem, or None; "" where there is nothing to say."""
        if self.problems and problem.name not in self.problems:
            return ""
        if self.up_to is not None and problem.n_tasks > self.up_to:
            return self.too_slow
        return None


def _in_the_other_form(tool: Tool) -> Tool:
    problems = ("radon", "linear-20", "linear-85", "linear-2000")
    return replace(tool, name=f"{tool.name}-other-form", caches=(EMPTY,), problems=problems, other_form=True)


NUMPYRO = Tool("numpyro", "NumPyro", "fit", "numpyro_nuts", peer=True, warm_up_to=2_000)
PYMC = Tool("pymc-nutpie", "PyMC + nutpie", "fit", "pymc_nutpie", peer=True, warm_up_to=2_000)

TOOLS = (
    Tool("bayesmeta", "bayesmeta", "fit", "bayesmeta_nuts"),
    Tool(
        "bayesmeta-theta",
        "bayesmeta + θ",
        "fit",
        "bayesmeta_nuts",
        caches=(WARM,),
        options=("--theta",),
    ),
    NUMPYRO,
    PYMC,
    _in_the_other_form(NUMPYRO),
    _in_the_other_form(PYMC),
    Tool(
        "pyro",
        "Pyro NUTS",
        "fit",
        "pyro_nuts",
        caches=(NO_CACHE,),
        budget=Budget(1, 200, 200),
        up_to=85,
        too_slow="some 5 to 15 ms for each gradient and 31 gradients a draw: its potential alone is timed",
    ),
    Tool("pyro-potential", "Pyro's potential", "gradient", "pyro_potential", caches=(NO_CACHE,)),
    Tool(
        "bayesmeta-adapt",
        "bayesmeta, adapting",
        "adapt",
        "bayesmeta_adapt",
        caches=(WARM,),
        budget=Budget(2, 500, 1000),
        problems=("linear-85", "linear-20"),
    ),
)


def preset(name: str, title: str, by: str, caches: tuple[str, ...] = (NO_CACHE,), **options: Any) -> Tool:
    """A fit by a preset with some of its options changed; `name` must begin with "bayesmeta"."""
    words = ("--preset", by, "--set", json.dumps(options))
    return Tool(name, title, "fit", "bayesmeta_fit", caches=caches, options=words)


def quick(tool: Tool) -> Tool:
    """The same tool with a tiny budget, nothing compiled by inductor: to see that all of it runs."""
    budget = replace(tool.budget, draws=30, tune=30) if tool.name == "pyro" else Budget(2, 100, 100)
    ours = not tool.peer and tool.name.startswith("bayesmeta")
    options = (*tool.options, "--no-compile") if ours else tool.options
    return replace(tool, budget=budget, caches=(NO_CACHE,), options=options)
