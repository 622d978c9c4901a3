"""Hierarchical Bayesian meta-learning on Pyro and PyTorch.

hierarchy = bm.Hierarchy(hyperprior, task)
posterior = bm.fit(hierarchy, tasks)
adapted = posterior.adapt(new_tasks)
adapted.predict(x).interval(0.9)
"""

from __future__ import annotations

from bayesmeta import data, plot
from bayesmeta.adapt import Adapted
from bayesmeta.draws import Draws, Info
from bayesmeta.errors import BayesmetaError, BayesmetaWarning
from bayesmeta.fit import fit
from bayesmeta.hierarchy import Hierarchy
from bayesmeta.infer import NUTS
from bayesmeta.load import load
from bayesmeta.posterior import Posterior
from bayesmeta.predict import Predictive
from bayesmeta.tasks import Task, Tasks

__version__ = "0.1.0"

__all__ = [
    "NUTS",
    "Adapted",
    "BayesmetaError",
    "BayesmetaWarning",
    "Draws",
    "Hierarchy",
    "Info",
    "Posterior",
    "Predictive",
    "Task",
    "Tasks",
    "data",
    "fit",
    "load",
    "plot",
]
