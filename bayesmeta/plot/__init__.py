"""Pictures of a posterior: one plot a file, matplotlib loaded when the first is drawn."""

from __future__ import annotations

from bayesmeta.plot.adaptation import adaptation
from bayesmeta.plot.adaptation_path import adaptation_path
from bayesmeta.plot.calibration import calibration
from bayesmeta.plot.compare import compare
from bayesmeta.plot.elbo import elbo
from bayesmeta.plot.loo import loo
from bayesmeta.plot.novelty import novelty
from bayesmeta.plot.phi import phi
from bayesmeta.plot.population import population
from bayesmeta.plot.rank import rank
from bayesmeta.plot.sbc import sbc
from bayesmeta.plot.shots import shots
from bayesmeta.plot.shrinkage import shrinkage
from bayesmeta.plot.tasks import tasks
from bayesmeta.plot.trace import trace

__all__ = [
    "adaptation",
    "adaptation_path",
    "calibration",
    "compare",
    "elbo",
    "loo",
    "novelty",
    "phi",
    "population",
    "rank",
    "sbc",
    "shots",
    "shrinkage",
    "tasks",
    "trace",
]
