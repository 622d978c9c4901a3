"""Optimisation-based meta-learning: an initialisation from which a few gradient steps on a task do well."""

from __future__ import annotations

from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.anil import ANIL, BOIL
from bayesmeta.meta.learner import Adapted, Learner
from bayesmeta.meta.maml import MAML
from bayesmeta.meta.meta_sgd import MetaSGD
from bayesmeta.meta.predicting import Outputs
from bayesmeta.meta.reptile import Reptile
from bayesmeta.meta.training import fit

__all__ = ["ANIL", "BOIL", "MAML", "Adapted", "Algorithm", "Learner", "MetaSGD", "Outputs", "Reptile", "fit"]
