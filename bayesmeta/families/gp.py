"""Gaussian processes over tasks: every task is a function of its own, drawn from one process that all share.

    f_t ~ GP(m_φ, k_φ)            y_ti = f_t(x_ti) + Normal(0, σ)
    log Z_t(φ) = log N(y_t; m(x_t), K(x_t, x_t) + σ²I)
    y* | y_t, φ ~ N(m* + C'K⁻¹(y_t - m(x_t)),  K* - C'K⁻¹C + σ²I)

φ are the kernel's hyperparameters, the noise, and the mean. What differs between tasks is a function, not a vector:
it is integrated out exactly, there is no θ, and adapting to a task is conditioning on its observations, under every
draw of φ. Where tasks differ in hyperparameters, too (`varying`), these are θ, and log Z is had as in any hierarchy,
by quadrature over up to three of them. After Patacchiola et al. 2020, "Bayesian Meta-Learning for the Few-Shot Setting
via Deep Kernels", where φ is a point; here it has a prior and a posterior.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn

from bayesmeta.closed_form import ClosedForm
from bayesmeta.errors import DataError, OptionError, unknown
from bayesmeta.families.common import NAME, Common, spread_points
from bayesmeta.families.design import is_flat
from bayesmeta.families.gp_normal import JointNormal, Observed, log_normal_first_order, masked
from bayesmeta.families.kernels import Kernel, Prior, as_network, rbf
from bayesmeta.families.network import Network
from bayesmeta.hierarchy import Hierarchy
from bayesmeta.program import Row
from bayesmeta.tasks import Tasks

__all__ = ["Process", "Units", "gp"]

Mean: TypeAlias = Literal["zero", "constant"] | Network | Common
JITTER = 1e-8
MEAN_SCALE = 2.0
NUMBERS = 32  # that a row of the data keeps alive: as many as its task has rows, which is a few dozen
NOISE = (0.1, 1.5)  # median and sd of the log of the noise, in standard deviations of y


def gp(
    kernel: Kernel | None = None,
    *,
    mean: Literal["zero", "constant"] | nn.Module | Network | Kernel = "constant",
    noise: Prior | None = None,
    varying: Sequence[str] = (),
    standardise: Tasks | None = None,
    points: int = 100,
    jitter: float = JITTER,
) -> Hierarchy:
    """A Gaussian process whose kernel, mean and noise all tasks share.

    Args:
        kernel: The covariance of a task's function, `kernels.rbf()` by default; see `bayesmeta.families.kernels`.
            Kernels add and multiply, and ``deep(network, kernel)`` looks at x through a network.
        mean: What the functions have in common: ``"zero"``, ``"constant"``, a level with a Normal(0, 1) prior, or a
            network from x (n, d) to (n,) or (n, 1), whose weights are part of φ. Their priors have twice the usual
            scale, with which networks hardly bend over inputs of unit size; ``Network(net, name="mean", scale=...)``
            has another. Or a kernel, under another name than that of the tasks' own part: the common function is then
            a Gaussian process, too, which suits few tasks best. It needs `standardise`.
        noise: Prior of the standard deviation of the observations about the function, or a number; by default
            log-normal with median 0.1.
        varying: Hyperparameters of which each task has its own, by name: ``("rbf_lengthscale", "noise")``. Over
            tasks they are log-normal; in φ stand ``<name>_median``, which takes the prior of the hyperparameter, and
            ``<name>_spread``, the standard deviation of the logarithm, HalfNormal(1).
        standardise: Tasks whose x and y, over all observations, give the units that kernel, mean and noise are
            meant in: each input and y less its mean, over its standard deviation. The priors that kernels have by
            default are made for such units. By default x and y are taken as they are.
        points: Where the mean is a kernel, at how many points the common function is known at most; they are spread
            as the inputs of `standardise` are.
        jitter: This share of the prior variance is added to the noise variance, which keeps matrices definite.

    Returns:
        The hierarchy: fit it by any preset, and ask `adapt` and `predict` for the function. It has an evidence of its
        own and no θ, unless hyperparameters vary. y is one number per observation.

    Raises:
        OptionError: A kernel, mean, noise or jitter that is none of these, or a varying hyperparameter that is not
            there or is a known number; or a mean by a kernel whose names are taken, or that has no tasks to place
            points by.
        DataError: `standardise` has no observations.

    Example:
        >>> import bayesmeta as bm
        >>> from bayesmeta.families.kernels import linear, periodic
        >>> print(bm.families.gp(periodic() + linear()))
        Hierarchy(hyperprior, task)
          phi  periodic_period       LogNormal  positive  scalar
          phi  periodic_lengthscale  LogNormal  positive  scalar
          phi  periodic_amplitude    LogNormal  positive  scalar
          phi  linear_amplitude      LogNormal  positive  scalar
          phi  noise                 LogNormal  positive  scalar
          phi  mean                  Normal     real      scalar
          theta  found when the hierarchy first meets tasks
    """
    kernel = rbf() if kernel is None else kernel
    if not isinstance(kernel, Kernel):
        raise OptionError(f"kernel must be a Kernel such as kernels.rbf(), got {type(kernel).__name__}")
    if not isinstance(mean, nn.Module | Network | Kernel) and mean not in ("zero", "constant"):
        raise OptionError(f"mean must be 'zero', 'constant', a network (a torch.nn.Module) or a kernel, got {mean!r}")
    if not isinstance(jitter, int | float) or not 0 <= jitter < 1:
        raise OptionError(f"jitter must be a share of the variance, at least 0 and below 1, got {jitter!r}")
    if noise is not None and not hasattr(noise, "log_prob") and not (isinstance(noise, int | float) and noise > 0):
        raise OptionError(f"noise must be a prior or a number above 0, got {noise!r}")
    noise = dist.LogNormal(math.log(NOISE[0]), NOISE[1]) if noise is None else noise
    units = Units.of(standardise)
    common = _mean(mean, kernel, standardise, units, points)
    process = Process(kernel, common, noise, (varying,) if isinstance(varying, str) else tuple(varying), units, jitter)
    process.check()
    return Hierarchy(process.hyperprior, process.task, evidence=None if varying else process.closed_form())


def _mean(mean: Any, kernel: Kernel, tasks: Tasks | None, units: Units, points: int) -> Mean:
    """The mean as a process has it."""
    if isinstance(mean, str):
        return "zero" if mean == "zero" else "constant"
    if not isinstance(mean, Kernel):
        return as_network(mean, "mean", MEAN_SCALE)
    if tasks is None:
        raise OptionError("a mean by a kernel needs standardise=tasks: its points are placed where these have inputs")
    if not isinstance(points, int) or isinstance(points, bool) or points < 1:
        raise OptionError(f"points must be a whole number of at least 1, got {points!r}")
    taken = sorted({*mean.sites, *mean.networks} & {*kernel.sites, *kernel.networks, "noise", NAME})
    if taken:
        raise OptionError(
            f"the kernel of the mean has the site(s) {taken}, which are taken: give it another name, as in "
            "rbf(name='mean')"
        )
    return Common(mean, spread_points(units.x(tasks.x), points))


@dataclass(frozen=True, eq=False)
class Units:
    """Where x and y are counted from, and in what: x (d,) each, y a number each."""

    x_centre: Tensor
    x_scale: Tensor
    y_centre: float
    y_scale: float

    @staticmethod
    def of(tasks: Tasks | None) -> Units:
        """Means and standard deviations over all observations; zero and one without tasks."""
        if tasks is None:
            return Units(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64), 0.0, 1.0)
        if tasks.n_observations < 2:
            raise DataError("standardise: these tasks have fewer than two observations to take units from")
        x = tasks.x.reshape(tasks.n_observations, -1)
        spread, y_spread = x.std(0), tasks.y.std()
        scale = torch.where(is_flat(spread, x), 1.0, spread)
        y_scale = 1.0 if bool(is_flat(y_spread, tasks.y)) else float(y_spread)
        return Units(x.mean(0), scale, float(tasks.y.mean()), y_scale)

    def x(self, x: Tensor) -> Tensor:
        """Inputs (n, d) in these units, of inputs (n,) or (n, d)."""
        return ((x.unsqueeze(-1) if x.dim() == 1 else x) - self.x_centre) / self.x_scale


@dataclass(frozen=True, eq=False)
class Process:
    """The functions of a Gaussian process: hyperprior, task, and its closed forms."""

    kernel: Kernel
    mean: Mean
    noise: Prior
    varying: tuple[str, ...]
    units: Units
    jitter: float

    def check(self) -> None:
        """Raise an OptionError where a varying hyperparameter is none."""
        sites = {**self.kernel.sites, "noise": self.noise}
        for name in self.varying:
            if name not in sites:
                raise OptionError(unknown("varying hyperparameter", name, sorted(sites)))
            if not _is_distribution(sites[name]):
                raise OptionError(f"varying={name!r} is a known number, {sites[name]!r}: give it a prior instead")

    def hyperprior(self) -> dict[str, Any]:
        """φ by name: hyperparameters, and the weights of networks."""
        phi: dict[str, Any] = {}
        for name, prior in self._sites().items():
            if name in self.varying:
                phi[f"{name}_median"] = pyro.sample(f"{name}_median", prior)
                phi[f"{name}_spread"] = pyro.sample(f"{name}_spread", dist.HalfNormal(1.0))
            elif _is_distribution(prior):
                phi[name] = pyro.sample(name, prior)
            else:
                phi[name] = torch.as_tensor(prior, dtype=torch.float64)
        phi |= {name: network.sample() for name, network in self._networks().items()}
        return phi | self.mean.sample(phi) if isinstance(self.mean, Common) else phi

    def task(self, phi: Mapping[str, Any], x: Tensor, y: Tensor | None = None, support: Row | None = None) -> Any:
        """The observations of one task (n,), all together; given its support, where there is one."""
        values = {**phi, **{name: self._own(phi, name) for name in self.varying}}
        if support is None:
            inputs = self.units.x(x)
            function, noise = self._variances(values, inputs)
            loc = self._mean(values, inputs)
            fn = JointNormal(loc, function + noise, lambda: self._covariance(values, inputs))
        else:
            fn = self.predictive(values, support, x)
        return pyro.sample("y", fn, obs=y)

    def closed_form(self) -> ClosedForm:
        """log Z, and the prediction given what was observed."""
        road = (
            "own: the function of each task is integrated out in closed form, by a Cholesky factor of the covariance "
            f"of its observations; {self.jitter:g} of the prior variance is added to its diagonal"
        )
        return ClosedForm(self.log_z, predictive=self.predictive, road=road, numbers=NUMBERS)

    def log_z(self, phi: Mapping[str, Any], row: Row) -> Tensor:
        """log N(y; m(x), K + σ²I) of one task, ()."""
        covariance, residual = self._observations(phi, self.units.x(row.x), row)
        return log_normal_first_order(covariance, residual, row.mask)

    def predictive(self, phi: Mapping[str, Any], row: Row, x: Tensor) -> JointNormal:
        """Observations at x (m, ...) given those of one task."""
        seen, x = self.units.x(row.x), self.units.x(x)
        known = Observed(*self._observations(phi, seen, row))
        cross = self.units.y_scale**2 * self.kernel.matrix(phi, seen, x)
        white = known.whitened(torch.where(row.mask.unsqueeze(-1), cross, 0.0))
        function, noise = self._variances(phi, x)
        left = (function - white.square().sum(-2)).clamp(min=0.0)
        loc = self._mean(phi, x) + known.shift(white)
        return JointNormal(loc, left + noise, lambda: self._covariance(phi, x) - white.mT @ white)

    def _own(self, phi: Mapping[str, Any], name: str) -> Any:
        """A hyperparameter of one task."""
        median = phi[f"{name}_median"]
        population = dist.LogNormal(median.log(), phi[f"{name}_spread"])
        return pyro.sample(name, population.to_event(median.dim()))

    def _sites(self) -> dict[str, Prior]:
        mean = {"mean": dist.Normal(0.0, 1.0)} if self.mean == "constant" else {}
        return {**self.kernel.sites, "noise": self.noise, **mean}

    def _networks(self) -> dict[str, Network]:
        mean = {self.mean.name: self.mean} if isinstance(self.mean, Network) else {}
        common = self.mean.kernel.networks if isinstance(self.mean, Common) else {}
        groups = (self.kernel.networks, mean, common)
        twice = [name for name, count in Counter(name for group in groups for name in group).items() if count > 1]
        if twice:
            raise OptionError(f"kernel and mean have networks of the same name {twice}: give one another name")
        return {**self.kernel.networks, **mean, **common}

    def _mean(self, phi: Mapping[str, Any], x: Tensor) -> Tensor:
        """The mean of the function (n,), in units of y."""
        if isinstance(self.mean, Network):
            mean = self.mean(phi[self.mean.name], x).reshape(len(x))
        elif isinstance(self.mean, Common):
            mean = self.mean(phi, x)
        else:
            mean = phi["mean"].expand(len(x)) if self.mean == "constant" else torch.zeros(len(x))
        result: Tensor = self.units.y_centre + self.units.y_scale * mean
        return result

    def _variances(self, phi: Mapping[str, Any], x: Tensor) -> tuple[Tensor, Tensor]:
        """The variances (n,) of the function, and of the noise with the jitter."""
        function = self.units.y_scale**2 * self.kernel.variance(phi, x)
        noise = self.units.y_scale * phi["noise"]
        return function, noise * noise + self.jitter * function

    def _covariance(self, phi: Mapping[str, Any], x: Tensor) -> Tensor:
        """The covariance of observations (n, n)."""
        function, noise = self._variances(phi, x)
        matrix = self.units.y_scale**2 * self.kernel.matrix(phi, x, x)
        return torch.where(torch.eye(len(x), dtype=torch.bool), (function + noise).unsqueeze(-1), matrix)

    def _observations(self, phi: Mapping[str, Any], x: Tensor, row: Row) -> tuple[Tensor, Tensor]:
        """Covariance (n, n) and residual (n,) of what was observed of a task, masked."""
        residual = torch.where(row.mask, row.y - self._mean(phi, x), 0.0)
        return masked(self._covariance(phi, x), row.mask), residual


def _is_distribution(prior: Prior) -> bool:
    return hasattr(prior, "log_prob")
