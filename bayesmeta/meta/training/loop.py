"""An algorithm's settings in the words of the loop that trains ensembles, and what its progress bar says."""

from __future__ import annotations

import torch

from bayesmeta.infer.ensemble import Ensemble
from bayesmeta.infer.ensemble_train import History
from bayesmeta.meta.algorithm import Algorithm

__all__ = ["plan_of", "words_of"]

RECENT = 50  # steps that the words of the progress bar are averaged over


def plan_of(algorithm: Algorithm) -> Ensemble:
    """The same settings in the words of the loop."""
    return Ensemble(
        members=1,
        steps=algorithm.steps,
        learning_rate=algorithm.learning_rate,
        schedule=algorithm.schedule,
        warmup=0.0,
        clip=algorithm.clip,
        every=algorithm.every,
        patience=algorithm.patience,
    )


def words_of(history: History) -> str:
    """The mean loss of the last steps, and the validation loss where tasks are watched."""
    words = f"loss {-float(torch.stack(history.evidence[-RECENT:]).nanmean()):.4g}"
    return f"{words}, validation {-float(history.validation[-1]):.4g}" if history.validation else words
