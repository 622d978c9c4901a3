"""Optimisation-based meta-learning: an initialisation from which a few gradient steps on a task do well."""

from __future__ import annotations

from bayesmeta.meta.abml import ABML
from bayesmeta.meta.algorithm import Algorithm
from bayesmeta.meta.anil import ANIL, BOIL
from bayesmeta.meta.baselines import FromScratch, Pooled, Pretrained, labelled
from bayesmeta.meta.bmaml import BMAML
from bayesmeta.meta.cavia import CAVIA
from bayesmeta.meta.class_head import ClassHead
from bayesmeta.meta.conv import Conv4
from bayesmeta.meta.early_stopping import implicit_prior
from bayesmeta.meta.files import load
from bayesmeta.meta.imaml import IMAML
from bayesmeta.meta.learner import Adapted, Learner
from bayesmeta.meta.llama import LLAMA
from bayesmeta.meta.maml import MAML
from bayesmeta.meta.maml_plus_plus import MAMLPlusPlus
from bayesmeta.meta.meta_sgd import MetaSGD
from bayesmeta.meta.platipus import PLATIPUS
from bayesmeta.meta.predicting import Outputs
from bayesmeta.meta.proto_maml import ProtoMAML
from bayesmeta.meta.proto_net import ProtoNet
from bayesmeta.meta.reptile import Reptile
from bayesmeta.meta.training.train import fit
from bayesmeta.meta.vampire import VAMPIRE

__all__ = [
    "ABML",
    "ANIL",
    "BMAML",
    "BOIL",
    "CAVIA",
    "IMAML",
    "LLAMA",
    "MAML",
    "PLATIPUS",
    "VAMPIRE",
    "Adapted",
    "Algorithm",
    "ClassHead",
    "Conv4",
    "FromScratch",
    "Learner",
    "MAMLPlusPlus",
    "MetaSGD",
    "Outputs",
    "Pooled",
    "Pretrained",
    "ProtoMAML",
    "ProtoNet",
    "Reptile",
    "fit",
    "implicit_prior",
    "labelled",
    "load",
]
