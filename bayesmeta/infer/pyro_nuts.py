"""Pyro's own NUTS on the density of a hierarchy: the slow reference, its chains one after another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyro.infer
import torch
from torch import Tensor
from torch.random import fork_rng

if TYPE_CHECKING:
    from bayesmeta.infer.nuts import NUTS, LogDensity

__all__ = ["run"]

Array = npt.NDArray[Any]
Stats = dict[str, Array]


class _Potential(torch.autograd.Function):
    """-log p(u), differentiable for Pyro through the density's own gradient."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, density: LogDensity) -> Tensor:
        value, grad = density.value_and_grad(u.detach())
        ctx.save_for_backward(grad)
        return -value

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        (grad,) = ctx.saved_tensors
        return -outer[0] * grad, None


def run(
    density: LogDensity, config: NUTS, seed: int, progress: bool, start: Callable[[int], Array]
) -> tuple[Tensor, Stats, Stats, bool]:
    """Draws (chains, draws, dim), statistics of draws and of warm-up, and whether it was interrupted.

    Interrupted, all chains that were finished are kept; if none was, the draws of the first so far.
    """
    chains: list[tuple[Tensor, Stats, Stats]] = []
    interrupted = False
    with fork_rng(devices=[]):
        for chain in range(config.chains):
            torch.manual_seed(seed + 7919 * chain)
            made = _chain(density, config, progress, start(seed + chain))
            interrupted = len(made[0]) < config.draws
            if not interrupted or not chains:
                chains.append(made)
            if interrupted:
                break
    if len(chains[0][0]) == 0:
        raise KeyboardInterrupt("sampling was interrupted during warm-up; no draws were taken yet")
    u, stats, warm = zip(*chains, strict=True)
    return torch.stack(u), _stacked(stats), _stacked(warm), interrupted


def _stacked(stats: tuple[Stats, ...]) -> Stats:
    return {name: np.stack([chain[name] for chain in stats]) for name in stats[0]}


def _chain(density: LogDensity, config: NUTS, progress: bool, start: Array) -> tuple[Tensor, Stats, Stats]:
    """Draws (draws, dim), fewer if interrupted, and statistics of draws and of warm-up."""
    calls = 0

    def potential(at: dict[str, Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        value: Tensor = _Potential.apply(at["u"], density)  # type: ignore[no-untyped-call]
        return value

    rows: list[tuple[int, float, int]] = []
    drawn: list[Tensor] = []

    def note(kernel: Any, at: dict[str, Tensor], stage: str, _: int) -> None:
        rows.append((calls, float(kernel.step_size), len(kernel._divergences)))
        if stage.startswith("Sample"):
            drawn.append(at["u"].detach().clone())

    kernel = pyro.infer.NUTS(
        potential_fn=potential,
        target_accept_prob=config.target_accept,
        max_tree_depth=config.max_treedepth,
    )
    mcmc = pyro.infer.MCMC(
        kernel,
        num_samples=config.draws,
        warmup_steps=config.tune,
        initial_params={"u": torch.from_numpy(start)},
        disable_progbar=not progress,
        hook_fn=note,
    )
    with contextlib.suppress(KeyboardInterrupt):
        mcmc.run()
    stats = _stats(rows)
    count = len(drawn)
    u = torch.stack(drawn) if drawn else torch.empty(0, density.dim, dtype=torch.float64)
    warm = {name: value[: len(rows) - count] for name, value in stats.items()}
    return u, {name: value[len(rows) - count :] for name, value in stats.items()}, warm


def _stats(rows: list[tuple[int, float, int]]) -> Stats:
    """Per iteration, from running counts of gradients and divergences."""
    calls, step_size, divergences = (np.array([row[k] for row in rows]) for k in range(3))
    return {
        "n_steps": np.diff(calls, prepend=0),
        "step_size": step_size,
        "diverging": np.diff(divergences, prepend=0) > 0,
    }
