"""Hierarchical Bayesian meta-learning on Pyro and PyTorch.

hierarchy = bm.Hierarchy(hyperprior, task)
posterior = bm.fit(hierarchy, tasks)
adapted = posterior.adapt(new_tasks)
adapted.predict(x).interval(0.9)
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayesmeta import adapt, data, families, meta, plot
    from bayesmeta.adapt import Adapted
    from bayesmeta.calibrate import sbc
    from bayesmeta.closed_form import ClosedForm
    from bayesmeta.compare import compare
    from bayesmeta.diagnose.classes import ClassScore
    from bayesmeta.diagnose.comparison import Comparison
    from bayesmeta.diagnose.loo import loo_compare
    from bayesmeta.diagnose.metrics import Score, score, score_table
    from bayesmeta.diagnose.novelty import Novelty
    from bayesmeta.diagnose.sbc import Calibration
    from bayesmeta.diagnose.shots import Shots
    from bayesmeta.diagnose.verdict import Verdict
    from bayesmeta.draws import Draws, Info
    from bayesmeta.errors import BayesmetaError, BayesmetaWarning
    from bayesmeta.fit import fit
    from bayesmeta.hierarchy import Hierarchy
    from bayesmeta.infer.auto import Auto
    from bayesmeta.infer.ensemble import Ensemble
    from bayesmeta.infer.hmc import HMC
    from bayesmeta.infer.laplace import Laplace
    from bayesmeta.infer.nuts import NUTS
    from bayesmeta.infer.pathfinder import Pathfinder
    from bayesmeta.infer.svi import SVI
    from bayesmeta.load import load
    from bayesmeta.posterior import Posterior
    from bayesmeta.predict import Predictive
    from bayesmeta.prior import Prior, prior
    from bayesmeta.streams import Stream
    from bayesmeta.tasks import Task, Tasks

__version__ = "0.1.0"

__all__ = [
    "HMC",
    "NUTS",
    "SVI",
    "Adapted",
    "Auto",
    "BayesmetaError",
    "BayesmetaWarning",
    "Calibration",
    "ClassScore",
    "ClosedForm",
    "Comparison",
    "Draws",
    "Ensemble",
    "Hierarchy",
    "Info",
    "Laplace",
    "Novelty",
    "Pathfinder",
    "Posterior",
    "Predictive",
    "Prior",
    "Score",
    "Shots",
    "Stream",
    "Task",
    "Tasks",
    "Verdict",
    "adapt",
    "compare",
    "data",
    "families",
    "fit",
    "load",
    "loo_compare",
    "meta",
    "plot",
    "prior",
    "sbc",
    "score",
    "score_table",
]

_WHERE = {
    "HMC": "infer.hmc",
    "NUTS": "infer.nuts",
    "SVI": "infer.svi",
    "Adapted": "adapt",
    "Auto": "infer.auto",
    "BayesmetaError": "errors",
    "BayesmetaWarning": "errors",
    "Calibration": "diagnose.sbc",
    "ClassScore": "diagnose.classes",
    "ClosedForm": "closed_form",
    "Comparison": "diagnose.comparison",
    "Draws": "draws",
    "Ensemble": "infer.ensemble",
    "Hierarchy": "hierarchy",
    "Info": "draws",
    "Laplace": "infer.laplace",
    "Novelty": "diagnose.novelty",
    "Pathfinder": "infer.pathfinder",
    "Posterior": "posterior",
    "Predictive": "predict",
    "Prior": "prior",
    "Score": "diagnose.metrics",
    "Shots": "diagnose.shots",
    "Stream": "streams",
    "Task": "tasks",
    "Tasks": "tasks",
    "Verdict": "diagnose.verdict",
    "compare": "compare",
    "fit": "fit",
    "load": "load",
    "loo_compare": "diagnose.loo",
    "prior": "prior",
    "sbc": "calibrate",
    "score": "diagnose.metrics",
    "score_table": "diagnose.metrics",
}
"""The module of each public name: loaded when the name is first used, so that importing costs next to nothing."""


class _Package(ModuleType):
    """This package: `bayesmeta.fit` is the function, also after the module of that name was imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _WHERE and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
        globals()[name] = value
        return value
    if name in ("adapt", "data", "families", "meta", "plot"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
