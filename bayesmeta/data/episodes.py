"""Which classes, and which of their images, make up a task: the same ones however many images are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bayesmeta.errors import DataError, OptionError

__all__ = ["Draw", "Drawn", "drawn"]

BEHIND = 2.0  # above all keys: places that a class does not have


class Draw(NamedTuple):
    """What is asked for."""

    tasks: int  # how many
    ways: int  # classes of each
    shots: int  # support images of each class
    query: int  # query images of each class


class Drawn(NamedTuple):
    """What was drawn."""

    classes: Tensor  # (T, N)
    places: Tensor  # (T, N, query + shots): which images of the class


def drawn(sizes: Tensor, names: Sequence[str], draw: Draw, seed: int) -> Drawn:
    """Classes of each task at random, each once, and images of each class, each once: first the query's.

    Args:
        sizes: Images of each class (classes,).
        names: The classes' names.
        draw: What is asked for.
        seed: Seeds everything.

    Raises:
        OptionError: A number that is too low, or more ways than there are classes.
        DataError: A class has too few images.
    """
    _check(sizes, names, draw)
    one, other = (torch.Generator().manual_seed(int(part)) for part in np.random.SeedSequence(seed).generate_state(2))
    classes = torch.rand(draw.tasks, len(sizes), generator=one, dtype=torch.float32).topk(draw.ways, 1).indices
    keys = torch.rand(draw.tasks, draw.ways, int(sizes.max()), generator=other, dtype=torch.float32)
    there = torch.arange(keys.shape[-1]) < sizes[classes].unsqueeze(-1)
    places = torch.where(there, keys, BEHIND).argsort(-1)[..., : draw.query + draw.shots]
    return Drawn(classes, places)


def _check(sizes: Tensor, names: Sequence[str], draw: Draw) -> None:
    if draw.tasks < 1 or draw.ways < 2 or draw.shots < 0 or draw.query < 0 or draw.shots + draw.query < 1:
        raise OptionError(
            "count must be at least 1, ways at least 2, shots and query at least 0 and one of them above; got "
            f"count={draw.tasks}, ways={draw.ways}, shots={draw.shots}, query={draw.query}"
        )
    if draw.ways > len(sizes):
        raise OptionError(f"ways={draw.ways}: there are {len(sizes)} classes; take no more ways than that")
    few = (sizes < draw.shots + draw.query).nonzero().squeeze(1)
    if len(few):
        first = int(few[0])
        raise DataError(
            f"class {names[first]!r} has {int(sizes[first])} images, and {len(few)} of {len(sizes)} classes have fewer "
            f"than shots={draw.shots} and query={draw.query} ask for together: take fewer, or leave such classes out "
            "with take()"
        )
