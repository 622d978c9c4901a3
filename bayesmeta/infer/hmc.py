"""Vectorised Hamiltonian Monte Carlo: many chains in one tensor, for every density and every device torch has.

All chains take the same number of leapfrog steps at once, so that one evaluation of the density serves them all, and
what a warm-up learns it learns from all of them: see `bayesmeta.infer.hmc_adapt`. Trajectory lengths are spread
about their mean by a Halton sequence, lest a period of the target be met. Transitions are exact: `hmc_kernel`.

NUTS fits each trajectory to its place and is the safer choice for four chains; a hundred chains side by side take
far more effective draws per second, and their agreement is the better check.
"""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bayesmeta.batched import Batch, BatchedDensity, Mapped
from bayesmeta.draws import Draws
from bayesmeta.errors import BayesmetaError, BayesmetaWarning, NotAvailableError, OptionError, unknown
from bayesmeta.evidence import METHODS, Exact, Gram, Joint, Own
from bayesmeta.infer.climb import climb, finite_starts
from bayesmeta.infer.hmc_adapt import Scales, StepSize, TrajectoryLength, first_step, halton, harmonic_mean
from bayesmeta.infer.hmc_kernel import Move, Point, point_at, transition
from bayesmeta.infer.options import check_whole
from bayesmeta.mapping import chunk_size
from bayesmeta.target import Target
from bayesmeta.threads import one_thread
from bayesmeta.track import Step, bar, stage

__all__ = ["HMC", "run", "sample"]

Array = npt.NDArray[Any]
ADAPTATIONS = ("chees", "snaper")
DEVICES = ("auto", "cpu", "cuda")
NUMBERS_PER_CELL = 4  # what one chain keeps alive while the recorded graph runs
WORTH_A_GPU = 1_000_000  # numbers per evaluation of all chains, below which launching kernels costs more
JITTER = 0.6  # trajectory lengths lie within this share of the mean length t
CLIMB, CLIMB_DIM = 100, 30  # steps towards the mode before the warm-up, in so many dimensions at most
SUMMIT = 1000.0  # nats above the height that half of the paths reach, beyond which a summit is not believed
EARLY_STEPS = 10  # leapfrog steps that the first iteration of the warm-up may take


@dataclass(frozen=True)
class HMC:
    """Settings of vectorised Hamiltonian Monte Carlo.

    Args:
        chains: Number of chains, all in one tensor.
        draws: Draws per chain after warm-up.
        tune: Warm-up iterations.
        evidence: What is done about θ: one of ``bayesmeta.evidence.METHODS``; ``"auto"`` takes the first valid.
        adaptation: What trajectory lengths are adapted to: ``"chees"``, squared distances in all coordinates, or
            ``"snaper"``, along the first principal component: for hundreds of dimensions.
        target_accept: Harmonic mean over chains of acceptance probabilities that the step size is adapted to.
        max_steps: The most leapfrog steps of a trajectory.
        compile: Compile the density for this number of chains. Not worth it for tiny budgets.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``: the GPU where there is one and the work is worth it.
    """

    chains: int = 64
    draws: int = 250
    tune: int = 400
    evidence: str = "auto"
    adaptation: Literal["chees", "snaper"] = "chees"
    target_accept: float = 0.75
    max_steps: int = 512
    compile: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        for name, least in (("chains", 1), ("draws", 1), ("tune", 0), ("max_steps", 1)):
            check_whole(name, getattr(self, name), least)
        if not isinstance(self.target_accept, (int, float)) or not 0 < self.target_accept < 1:
            raise OptionError(f"target_accept must lie between 0 and 1, got {self.target_accept!r}")
        for name, valid in (("evidence", METHODS), ("adaptation", ADAPTATIONS), ("device", DEVICES)):
            if getattr(self, name) not in valid:
                raise OptionError(unknown(name, getattr(self, name), valid))


def run(target: Target, config: HMC, *, seed: int = 0, progress: bool = True, start: Tensor | None = None) -> Draws:
    """Draw from a target by vectorised HMC.

    Args:
        target: What to infer.
        config: The settings.
        seed: Seeds chains and their starting points.
        progress: Show a progress bar, in the terminal or the notebook.
        start: Starting points (n, dim), e.g. Pathfinder's draws; taken in turn where there are fewer than chains.
            By default random points of finite density.

    Raises:
        BayesmetaError: No starting points of finite density were found.
        NotAvailableError: ``device="cuda"`` where there is no GPU, or the density cannot be moved to it.
    """
    begin = time.perf_counter()
    with stage("compiling the density" if config.compile else "recording the density", progress):
        density = density_of(target, config)
    return sample(density, config, seed=seed, progress=progress, start=start, begin=begin)


def density_of(target: Target, config: HMC) -> Batch:
    """The target's density for so many points at once, recorded where it can be."""
    recordable = isinstance(target.evidence, (Gram, Exact, Joint, Own)) and target.program.structure.vectorised
    numbers = NUMBERS_PER_CELL * (target.evidence.cells + target.dim)
    device = _device(config, recordable, numbers)
    if recordable:
        try:
            return BatchedDensity(
                target.fn,
                target.dim,
                target.leaves,
                points=config.chains,
                chunk=chunk_size(numbers) if device == "cpu" else None,
                compile=config.compile,
                device=device,
            )
        except NotAvailableError:
            if device != "cpu":
                raise
    return Mapped(target.value_and_grad, target.dim)


def _device(config: HMC, recordable: bool, numbers: int) -> str:
    """The device asked for, or the one that suits."""
    found = torch.cuda.is_available()
    if config.device == "cuda":
        if not found:
            raise NotAvailableError("device='cuda', but torch finds no GPU: use device='cpu' or 'auto'")
        if not recordable:
            raise NotAvailableError(
                "device='cuda', but this evidence is evaluated by a loop that stays on the CPU: use device='cpu', "
                "or evidence='joint' where the hierarchy is vectorised"
            )
    worth_it = found and recordable and numbers * config.chains >= WORTH_A_GPU
    return "cuda" if config.device == "cuda" or (config.device == "auto" and worth_it) else "cpu"


def sample(
    density: Batch,
    config: HMC,
    *,
    seed: int = 0,
    progress: bool = True,
    start: Tensor | None = None,
    begin: float | None = None,
) -> Draws:
    """Draw from a density by vectorised HMC; arguments as those of `run`.

    `begin` is when the work began, by `time.perf_counter`, where recording the density counts too.
    """
    begin = time.perf_counter() if begin is None else begin
    with one_thread(), torch.no_grad():
        u, evaluations = (
            _given(start, density, config.chains)
            if start is not None
            else starting_points(density, config.chains, seed, progress)
        )
        sampler = _Sampler(density, config, u, seed)
        interrupted = sampler.run(progress)
    if interrupted:
        warnings.warn(
            f"sampling was interrupted: {sampler.kept.count} of {config.draws} draws of {config.chains} chains were "
            "kept",
            BayesmetaWarning,
            stacklevel=3,
        )
    return Draws(
        sampler.kept.u(),
        sampler.kept.stats(),
        sampler.warm.stats(),
        interrupted,
        time.perf_counter() - begin,
        evaluations=evaluations + sampler.evaluations,
        density=density.mode,
        compile_seconds=density.seconds,
        log=(sampler.sentence(),),
    )


def starting_points(density: Batch, chains: int, seed: int, progress: bool) -> tuple[Tensor, int]:
    """Where chains begin (chains, dim), and how many gradients that took.

    Random points, each followed up by L-BFGS to where it first comes within dim nats of the height that half of
    the paths reach: the bulk of a posterior lies about dim / 2 below its mode. In the tails, chains that share a
    step size would wait for the slowest. A path that never comes there, or that ends where rounding errors make the
    density look like a summit, begins where another does. In many dimensions the way is long, and points stay where
    they are.
    """

    def gradient(u: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = density.value_and_grad(u.to(density.device))
        return value.cpu(), grad.cpu()

    starts = finite_starts(gradient, chains, density.dim, torch.Generator().manual_seed(seed))
    if density.dim > CLIMB_DIM:
        return starts, chains
    with bar("climbing", CLIMB, progress) as step:
        paths = climb(gradient, starts, steps=CLIMB, watch=lambda k, value: step(1))
    level = paths.height.median()
    high = paths.value >= level - density.dim
    first, each = high.to(torch.int64).argmax(0), torch.arange(chains)
    fine = high.any(0) & (paths.value[first, each] <= level + SUMMIT + 10 * density.dim)
    good = fine.nonzero().squeeze(-1)
    each = torch.where(fine, each, good[each % len(good)])
    return paths.u[first[each], each], paths.evaluations + chains


def _given(start: Tensor, density: Batch, chains: int) -> tuple[Tensor, int]:
    """Starting points that the caller has, taken in turn."""
    if start.dim() != 2 or start.shape[1] != density.dim or not len(start):
        raise OptionError(f"start must have shape (n, {density.dim}) with n of at least 1, got {tuple(start.shape)}")
    u = start.detach().to(torch.float64)[torch.arange(chains) % len(start)]
    value, grad = density.value_and_grad(u.to(density.device))
    bad = int((~(value.isfinite() & grad.isfinite().all(-1))).sum())
    if bad:
        raise BayesmetaError(f"{bad} of {chains} starting points have no finite log density: give others, or none")
    return u, chains


class _Sampler:
    """The chains, what they have learnt, and what they have drawn."""

    def __init__(self, density: Batch, config: HMC, u: Tensor, seed: int) -> None:
        self.config, self.gradient = config, density.value_and_grad
        self.generator = generator = torch.Generator(density.device).manual_seed(seed)
        self.point = point = point_at(self.gradient, u.to(density.device))
        self.scales = Scales(point)
        self.length = TrajectoryLength(1.0, principal=config.adaptation == "snaper")
        self.steps = StepSize(
            first_step(self.gradient, point, self.scales.scale, generator, config.target_accept), config.target_accept
        )
        self.kept = _Record(point.u, config.draws, positions=True)
        self.warm = _Record(point.u, config.tune, positions=False)
        self.moved = torch.zeros(config.chains, dtype=torch.bool, device=density.device)
        self.evaluations = 2 * config.chains

    def run(self, progress: bool) -> bool:
        """Warm up and draw; whether it was interrupted."""
        try:
            with bar("warming up", self.config.tune + self.config.draws, progress) as step:
                for k in range(self.config.tune):
                    self._tune(k)
                    step(1)
                step(0, "sampling")
                self._draw(step)
        except KeyboardInterrupt:
            if not self.kept.count:
                raise KeyboardInterrupt("sampling was interrupted during warm-up; no draws were taken yet") from None
            return True
        return False

    def _tune(self, k: int) -> None:
        step, scale = self.steps.current, self.scales.scale
        count = self._count(k, self.length.current, step, min(self.config.max_steps, EARLY_STEPS + k))
        move = transition(self.gradient, self.point, step, scale, count, self.generator)
        self.warm.add(move, step, count)
        self.steps.update(harmonic_mean(move.accept))
        most = max(step, 0.5 * self.config.max_steps * step)
        self.length.update(self.point, move, self.scales, count * step, most)
        self.moved |= move.point.lp != self.point.lp
        self.point = move.point
        if self.scales.update(self.point) and k < self.config.tune // 2:
            self.steps.restart()
            self.length.restart()
            self._free()

    def _free(self) -> None:
        """Chains that did not move once in a whole window go on from where others are."""
        stuck, free = (~self.moved).nonzero().squeeze(-1), self.moved.nonzero().squeeze(-1)
        if len(stuck) and len(free):
            source = torch.arange(len(self.moved), device=stuck.device)
            source[stuck] = free[torch.arange(len(stuck), device=stuck.device) % len(free)]
            self.point = Point(*(values[source] for values in self.point))
        self.moved[:] = False

    def _draw(self, shown: Step) -> None:
        step, scale, length = self.steps.settled, self.scales.scale, self.length.settled
        for k in range(self.config.draws):
            count = self._count(k, length, step, self.config.max_steps)
            move = transition(self.gradient, self.point, step, scale, count, self.generator)
            self.point = move.point
            self.kept.add(move, step, count)
            shown(1)

    def _count(self, k: int, length: float, step: float, most: int) -> int:
        """How many leapfrog steps iteration k takes: a length about t, rounded up."""
        return max(1, min(most, math.ceil((1 + JITTER * (2 * halton(k + 1) - 1)) * length / step)))

    def sentence(self) -> str:
        """What the warm-up settled on."""
        return (
            f"{self.config.chains} chains in one tensor: step size {self.steps.settled:.3g}, "
            f"mean trajectory length {self.length.settled:.3g} posterior scales ({self.config.adaptation})"
        )


class _Record:
    """What was drawn, on the device until it is asked for.

    Args:
        like: A tensor (chains, dim) on the device.
        size: How many iterations there will be.
        positions: Whether positions are kept.
    """

    def __init__(self, like: Tensor, size: int, *, positions: bool) -> None:
        chains, dim = like.shape
        self.count = 0
        self._u = like.new_empty(size if positions else 0, chains, dim)
        self._columns = {name: like.new_empty(size, chains) for name in ("lp", "energy", "acceptance_rate")}
        self._diverging = torch.empty(size, chains, dtype=torch.bool, device=like.device)
        self._shared = {"step_size": np.empty(size), "n_steps": np.empty(size, dtype=np.int64)}

    def add(self, move: Move, step: float, count: int) -> None:
        """Keep one transition; it counts once all of it is there."""
        k = self.count
        if len(self._u):
            self._u[k] = move.point.u
        for name, values in (("lp", move.point.lp), ("energy", move.energy), ("acceptance_rate", move.accept)):
            self._columns[name][k] = values
        self._diverging[k] = move.diverging
        self._shared["step_size"][k], self._shared["n_steps"][k] = step, count
        self.count = k + 1

    def u(self) -> Tensor:
        """Positions (chains, draws, dim)."""
        return self._u[: self.count].transpose(0, 1).contiguous().cpu()

    def stats(self) -> dict[str, Array]:
        """Statistics (chains, draws)."""
        chains = self._diverging.shape[1]
        columns = {**self._columns, "diverging": self._diverging}
        shown = {name: values[: self.count].T.contiguous().cpu().numpy() for name, values in columns.items()}
        shared = {name: np.tile(values[: self.count], (chains, 1)) for name, values in self._shared.items()}
        return shown | shared
