"""Ready hierarchies, one family a file: in use a line, and read as examples of how a hierarchy is written.

| family | tasks | what is learnt of the population |
|---|---|---|
| `linear` | linear regressions | means, spreads and correlations of levels and slopes |
| `logistic` | logistic regressions: yes or no, or so many out of m | the same, in log odds |
| `poisson` | regressions of counts, overdispersed or not | the same, in log rates |
| `mixture` | linear regressions of tasks that come from K populations | each population, and how common it is |
| `last_layer` | linear or logistic regressions on features of a network | the network, and how the last layer varies |
| `gp` | functions of a Gaussian process; kernels add, multiply, look through networks | kernel, mean and noise |
| `bnn` | small networks whose weights are a task's own | the mean and the spread of every weight |
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from bayesmeta.families import kernels
from bayesmeta.families.bnn import bnn
from bayesmeta.families.gp import gp
from bayesmeta.families.last_layer import last_layer
from bayesmeta.families.linear import linear
from bayesmeta.families.logistic import logistic
from bayesmeta.families.mixture import memberships, mixture
from bayesmeta.families.network import Network
from bayesmeta.families.periodic import Periodic
from bayesmeta.families.poisson import poisson

__all__ = [
    "Network",
    "Periodic",
    "bnn",
    "gp",
    "kernels",
    "last_layer",
    "linear",
    "logistic",
    "memberships",
    "mixture",
    "poisson",
]


class _Package(ModuleType):
    """This package: `families.linear` is the function, also after the module of that name was imported once more."""

    def __setattr__(self, name: str, value: Any) -> None:
        known = self.__dict__.get(name)
        if not (isinstance(value, ModuleType) and known is not None and not isinstance(known, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
