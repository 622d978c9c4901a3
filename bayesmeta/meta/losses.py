"""What an inner loop goes down and a meta-objective is made of: a loss for each row, and its mean over real rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from bayesmeta.errors import DataError, OptionError, unknown

__all__ = ["LOSSES", "Loss", "loss_of", "masked_mean", "mixture_loss"]

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def squared_error(out: Tensor, y: Tensor) -> Tensor:
    """(out - y)² (n,), the mean over components where there are several; an output (n, 1) is for y (n,)."""
    if out.shape != y.shape:
        if out.numel() != y.numel():
            wanted = f"{(len(y), 1)}" if y.dim() == 1 else f"{tuple(y.shape)}"
            raise DataError(f"the network gives {tuple(out.shape)} for {len(y)} rows; wanted {wanted}, as y has it")
        out = out.reshape(y.shape)
    return (out - y).square().reshape(len(y), math.prod(y.shape[1:])).mean(1)


def cross_entropy(out: Tensor, y: Tensor) -> Tensor:
    """-log of the probability of class y (n,) by logits (n, classes), in nats."""
    if out.dim() != 2 or y.dim() != 1 or len(out) != len(y):
        raise DataError(
            f"the network gives {tuple(out.shape)} for rows whose y is {tuple(y.shape)}; cross entropy wants a logit "
            f"for each class, ({len(y)}, classes), and one class for each row"
        )
    log_p = torch.log_softmax(out, -1)
    return -log_p.gather(-1, y.long().unsqueeze(-1)).squeeze(-1)


LOSSES: dict[str, Loss] = {"mse": squared_error, "cross_entropy": cross_entropy}


def loss_of(loss: str | Loss) -> Loss:
    """The loss by name, or the function itself: ``loss(out, y)`` of n rows gives a number for each, (n,).

    Raises:
        OptionError: Neither one of `LOSSES` nor a function.
    """
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise OptionError(unknown("loss", loss, list(LOSSES)))
    return LOSSES[loss]


def mixture_loss(loss: str | Loss, outs: Tensor, y: Tensor) -> Tensor:
    """The loss of what members (M, n, ...) say together, of each row (n,).

    The squared error is that of their mean, the cross entropy that of their mean probabilities; of any other loss it is
    the members' mean.
    """
    if loss == "mse":
        return squared_error(outs.mean(0), y)
    each = torch.stack([loss_of(loss)(out, y) for out in outs])
    if loss == "cross_entropy":
        return math.log(len(outs)) - torch.logsumexp(-each, 0)
    return each.mean(0)


def masked_mean(rows: Tensor, mask: Tensor) -> Tensor:
    """The mean of real rows (n,), zero where there are none.

    Raises:
        DataError: The loss is not one number for each row.
    """
    if rows.shape != mask.shape:
        raise DataError(f"the loss gave shape {tuple(rows.shape)}; wanted one number for each row, {tuple(mask.shape)}")
    return torch.where(mask, rows, 0.0).sum() / mask.sum().clamp(min=1)
