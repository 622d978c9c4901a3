"""New tasks of the population, drawn from a posterior: φ from its draws, θ from p(θ | φ), y from the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bayesmeta.adapt import Adapted
from bayesmeta.tasks import Tasks

if TYPE_CHECKING:
    from bayesmeta.posterior import Posterior

__all__ = ["at_most", "fresh_names", "newcomers", "replicated"]


def fresh_names(fit: Tasks, count: int, word: str) -> list[str]:
    """Names that no task of the fit has: ``word 0``, ``word 1``, ..."""
    while any(name.startswith(f"{word} ") for name in fit.names):
        word = f"{word}'"
    return [f"{word} {k}" for k in range(count)]


def newcomers(
    posterior: Posterior, count: int, context: Mapping[str, Any] | None, *, draws: int | None, seed: int
) -> Adapted:
    """So many tasks of which nothing is known: draws of φ, and of θ given each.

    Args:
        posterior: The population.
        count: How many tasks.
        context: Their contexts, each (count, ...).
        draws: How many draws of φ to use, evenly spaced over the posterior's; all by default.
        seed: Seeds the draws of θ.
    """
    names = fresh_names(posterior.tasks, count, "newcomer")
    nothing = Tasks.without_observations(names, like=posterior.tasks, context=context or None)
    return posterior.adapt(nothing, draws=None if draws is None else at_most(posterior, draws), seed=seed)


def at_most(posterior: Posterior, draws: int) -> int:
    """So many draws, or as many as there are; the members of an ensemble come as often as it takes."""
    ensemble = posterior.info.inference.get("back_end") == "ensemble"
    return draws if ensemble else min(draws, len(posterior.phi_coordinates))


def replicated(posterior: Posterior, designs: Tasks, count: int, *, seed: int) -> Tasks:
    """Tasks of the population with the inputs and contexts of given ones, `count` for each, those of one together.

    Each has a θ of its own, and a draw of φ of its own as far as there are so many.
    """
    draws = at_most(posterior, count)
    again = -(-count // draws)  # newcomers of a design, so that θ is another each time that a φ comes again
    context = {name: value.repeat_interleave(again, 0) for name, value in designs.context.items()}
    made = newcomers(posterior, again * len(designs), context, draws=draws, seed=seed)
    y = made.predict([task.x for task in designs for _ in range(again)]).sample(draws, seed=seed)
    sizes = designs.sizes.tolist()
    xs = [task.x.repeat(count, *(1,) * (task.x.dim() - 1)) for task in designs]
    each = [y[:, again * d : again * (d + 1), :n].flatten(0, 1)[:count] for d, n in enumerate(sizes)]
    ys = [one.reshape(count * n, *y.shape[3:]) for one, n in zip(each, sizes, strict=True)]
    return Tasks(
        x=torch.cat(xs),
        y=torch.cat(ys),
        offsets=_offsets(designs.sizes.repeat_interleave(count)),
        names=tuple(fresh_names(posterior.tasks, count * len(designs), "replicate")),
        context={name: value.repeat_interleave(count, 0) for name, value in designs.context.items()},
    )


def _offsets(sizes: Tensor) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=sizes.dtype), sizes.cumsum(0)])
