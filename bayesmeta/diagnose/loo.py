"""Leave one task out: how well the population predicts each of its tasks from all the others, without T refits.

With θ integrated out a task is one observation, whose likelihood is log Z_t(φ). Its predictive density given all
other tasks is an average over draws of φ weighted by 1 / Z_t(φ_s), Pareto-smoothed (Vehtari, Gelman, Gabry 2017,
"Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC"):

    elpd = Σ_t log Σ_s w_st Z_t(φ_s),      w_st ∝ 1 / Z_t(φ_s)

Where k-hat says that the draws cannot tell what the population is without a task, they are moved to the posterior
without it (`bayesmeta.infer.move`), and its density is p(D) over p(D without it), both of which come of importance
sampling: no average over draws would do for a task far out, whose Z_t lies in the tail of p(φ | D without it).

What comes out is ArviZ's own `ELPDData`, of ArviZ 0.x or 1.x, so that its tables and plots work on it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from bayesmeta.diagnose.loo_point import left_of_point
from bayesmeta.errors import BayesmetaWarning, DataError, NotAvailableError, OptionError
from bayesmeta.evidence import Collapsed, Joint
from bayesmeta.evidence.conditional import log_evidence
from bayesmeta.evidence.sampled import sampled_evidence
from bayesmeta.export.elpd import arviz_elpd
from bayesmeta.infer.move import MOST_DIMENSIONS, Moved, move
from bayesmeta.mapping import flatten_draws
from bayesmeta.psis import K_HAT, psis
from bayesmeta.target import Target
from bayesmeta.track import bar

if TYPE_CHECKING:
    from bayesmeta.posterior import Posterior

__all__ = ["Left", "elpd_data", "leave_out", "loo", "loo_compare", "pointwise"]

NUMBERS = 20_000_000  # of log Z at once
JOINT_DRAWS = 500
LEAST_DRAWS = 25  # fewer have no tail for k-hat to be fitted to
EM_STEPS = 2000
Array = npt.NDArray[np.float64]


class Left(NamedTuple):
    """Of each task, left out in turn.

    Attributes:
        elpd: log p(D_t | all other tasks) in nats (T,).
        lpd: log p(D_t | all tasks, itself among them) (T,).
        k_hat: Pareto k-hat of the weights (T,).
    """

    elpd: Tensor
    lpd: Tensor
    k_hat: Tensor


def loo(posterior: Posterior, *, refit: bool = True, seed: int = 0, progress: bool = False) -> Any:
    """Expected log predictive density of whole tasks, each predicted from all others, as ArviZ's `ELPDData`.

    Args:
        posterior: The posterior.
        refit: Where k-hat fails for a task, move the draws to the posterior without it, which is exact, or fit that
            anew; with False such tasks are only warned of. A joint posterior is never refitted.
        seed: Seeds what is random in refits, and the sampled evidence of joint posteriors.
        progress: Show a bar while refits are made.

    Returns:
        With ``elpd_loo`` and its standard error ``se`` in nats, ``p_loo``, and by task ``loo_i`` and ``pareto_k``
        (ArviZ 1.x: ``elpd``, ``p``, ``elpd_i``). Tasks that were refitted have the k-hat of the draws without them,
        and are named in ``pareto_k.attrs["refitted"]``. Where φ is a point it is moved by Newton steps for each task
        that is left out, and k-hat is -inf: see `bayesmeta.diagnose.loo_point`.

    Raises:
        NotAvailableError: There are too few draws, φ is a single point of very many coordinates, or a joint fit has a
            task without a mode.
    """
    evidence = posterior.collapsed
    if len(posterior.phi_coordinates) >= LEAST_DRAWS and is_point(posterior):
        elpd, lpd = left_of_point(posterior)
        alone = Left(elpd, lpd, torch.full_like(elpd, -math.inf))
        return elpd_data(alone, posterior.tasks.names, _draws_of(posterior), [])
    left = leave_out(posterior, seed)
    good_k = _good_k(_draws_of(posterior))
    bad = (left.k_hat > good_k).nonzero().squeeze(-1).tolist()
    refitted: list[str] = []
    if bad and refit and not isinstance(evidence, Joint):
        if len(posterior.tasks) == 1:
            raise NotAvailableError(
                "loo of one task: its weights do not do, and without it nothing is left to fit; fit two tasks or more"
            )
        whole = _whole(posterior, evidence, seed)
        with bar("refitting without a task", len(bad), progress) as step:
            for t in bad:
                left.elpd[t], left.k_hat[t] = _refitted(posterior, evidence, whole, t, seed)
                refitted.append(posterior.tasks.names[t])
                step(1)
        bad = (left.k_hat > good_k).nonzero().squeeze(-1).tolist()
    if bad:
        _warn([posterior.tasks.names[t] for t in bad], len(left.elpd), good_k)
    return elpd_data(left, posterior.tasks.names, _draws_of(posterior), refitted)


def is_point(posterior: Posterior) -> bool:
    """Whether all draws of φ are the same."""
    phi = posterior.phi_coordinates
    return bool((phi == phi[0]).all())


def leave_out(posterior: Posterior, seed: int = 0) -> Left:
    """Every task left out in turn, by importance weights alone."""
    evidence, phi = posterior.collapsed, posterior.phi_coordinates
    if len(phi) < LEAST_DRAWS:
        raise NotAvailableError(f"loo needs at least {LEAST_DRAWS} draws of φ, this posterior has {len(phi)}")
    if is_point(posterior):
        raise NotAvailableError(
            "φ is a single point in this posterior, which shows nothing of what it would be without a task: fit by a "
            "back-end that draws φ"
        )
    if isinstance(evidence, Joint):
        some = phi[torch.linspace(0, len(phi) - 1, min(len(phi), JOINT_DRAWS)).round().long()]
        return _weighted(sampled_evidence(evidence.program, evidence.tasks, some, seed=seed)[0])
    chunk = max(1, NUMBERS // len(phi))
    if len(posterior.tasks) <= chunk:
        return _weighted(log_evidence(evidence, phi))
    pieces = [slice(start, start + chunk) for start in range(0, len(posterior.tasks), chunk)]
    parts = [_weighted(log_evidence(evidence.on(posterior.tasks[piece]), phi)) for piece in pieces]
    return Left(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _weighted(log_z: Tensor) -> Left:
    """From log Z_t(φ_s) (S, T)."""
    weights, k_hat = psis(-log_z)
    elpd = torch.logsumexp(weights + log_z, 0)
    return Left(elpd, torch.logsumexp(log_z, 0) - math.log(len(log_z)), k_hat)


def _whole(posterior: Posterior, evidence: Collapsed, seed: int) -> Moved | None:
    """The posterior of all tasks by importance sampling; None where φ has too many dimensions, or it fails."""
    phi = posterior.phi_coordinates
    if phi.shape[1] > MOST_DIMENSIONS:
        return None
    same = torch.zeros(len(phi), dtype=torch.float64)
    found = move(Target(evidence), phi, same, draws=len(phi), seed=seed)
    return found if found.good else None


def _refitted(posterior: Posterior, evidence: Collapsed, whole: Moved | None, t: int, seed: int) -> tuple[float, float]:
    """log p(D_t | all others) and the k-hat of what it rests on."""
    task, others = posterior.tasks[[t]], posterior.tasks.without(posterior.tasks.names[t])
    target, own, phi = Target(evidence.on(others)), evidence.on(task), posterior.phi_coordinates
    if whole is not None:
        part = move(target, phi, -log_evidence(own, phi)[:, 0], draws=len(phi), seed=seed)
        if part.good:
            return whole.log_mass - part.log_mass, max(whole.k_hat, part.k_hat)
    from bayesmeta.infer import auto

    draws = auto.run(target, auto.Auto(draws=len(phi)), seed=seed, progress=False)
    log_z = log_evidence(own, flatten_draws(draws.u)[:, : phi.shape[1]])[:, 0]
    # the mean of Z over draws rests on its largest terms, as a mean of weights does
    return float(torch.logsumexp(log_z, 0)) - math.log(len(log_z)), float(psis(log_z)[1])


def _draws_of(posterior: Posterior) -> int:
    count = len(posterior.phi_coordinates)
    return min(count, JOINT_DRAWS) if isinstance(posterior.collapsed, Joint) else count


def _good_k(draws: int) -> float:
    """The largest k-hat that so many draws bear (Vehtari, Simpson, Gelman, Yao, Gabry 2024)."""
    return min(1 - 1 / math.log10(draws), K_HAT)


def _warn(names: list[str], count: int, good_k: float) -> None:
    warnings.warn(
        f"k-hat is above {good_k:.2f} for {len(names)} of {count} tasks ({names[:5]}) left out: what the population "
        "is without them is more than the draws can tell; loo(refit=True) or a fit that integrates θ out can",
        BayesmetaWarning,
        stacklevel=4,
    )


# ---------------------------------------------------------------------------------------------------------
# ArviZ's object, and tables


def elpd_data(left: Left, names: tuple[str, ...], draws: int, refitted: list[str]) -> Any:
    """ArviZ's `ELPDData`: a pandas series in ArviZ 0.x, a data class in 1.x."""
    p_loo = float(left.lpd.sum()) - float(left.elpd.sum())
    good_k = _good_k(draws)
    elpd, k_hat = left.elpd.numpy(), left.k_hat.numpy()
    return arviz_elpd(elpd, k_hat, p_loo=p_loo, names=names, draws=draws, good_k=good_k, refitted=refitted)


def pointwise(elpd: Any) -> xr.DataArray:
    """log p(D_t | all other tasks) by task (T,), of an `ELPDData` of either ArviZ."""
    each = elpd.get("loo_i") if isinstance(elpd, pd.Series) else elpd.elpd_i
    if not isinstance(each, xr.DataArray):
        raise DataError("this ELPDData has no values by task: make it by posterior.loo()")
    return each


def loo_compare(posteriors: Mapping[str, Any], *, refit: bool = True, seed: int = 0) -> pd.DataFrame:
    """Hierarchies ranked by how well they predict whole tasks that they have not seen, the best first.

    Args:
        posteriors: By name, posteriors of the same tasks, or what their `loo` returned.
        refit: As in `loo`.
        seed: As in `loo`.

    Returns:
        One row per posterior: ``rank``, ``elpd_loo`` and ``se``, ``p_loo``, ``elpd_diff`` to the best with its
        standard error ``dse`` (of the differences task by task), the stacking ``weight`` (Yao, Vehtari, Simpson,
        Gelman 2018, "Using stacking to average Bayesian predictive distributions"), and ``warning``. A difference
        of less than about two ``dse``, or of less than 4 nats, decides nothing.

    Raises:
        OptionError: Fewer than two posteriors.
        DataError: They are not of the same tasks.
    """
    if not isinstance(posteriors, Mapping):
        raise OptionError(f"posteriors: got a {type(posteriors).__name__}; wanted a dict of them by name")
    if len(posteriors) < 2:
        raise OptionError(f"loo_compare compares two posteriors or more, got {len(posteriors)}")
    found = {name: one.loo(refit=refit, seed=seed) if hasattr(one, "loo") else one for name, one in posteriors.items()}
    each = {name: pointwise(one) for name, one in found.items()}
    _check_same(each, posteriors)
    columns = np.stack([np.asarray(one, dtype=np.float64) for one in each.values()], 1)
    weights = _stacking(columns)
    totals = columns.sum(0)
    best = int(totals.argmax())
    away = columns[:, [best]] - columns
    table = pd.DataFrame(
        {
            "elpd_loo": totals,
            "se": np.sqrt(len(columns) * columns.var(0)),
            "p_loo": [_entry(one, "p_loo", "p") for one in found.values()],
            "elpd_diff": away.sum(0),
            "dse": np.sqrt(len(columns) * away.var(0)),
            "weight": weights,
            "warning": [bool(_entry(one, "warning", "warning")) for one in found.values()],
        },
        index=pd.Index(list(found), name="hierarchy"),
    ).sort_values("elpd_loo", ascending=False)
    table.insert(0, "rank", np.arange(len(table)))
    return table


def _entry(elpd: Any, old: str, new: str) -> Any:
    return elpd[old] if isinstance(elpd, pd.Series) else getattr(elpd, new)


def _check_same(each: Mapping[str, xr.DataArray], posteriors: Mapping[str, Any]) -> None:
    names = {name: list(one.coords["task"].values) for name, one in each.items()}
    first = next(iter(names))
    for name, tasks in names.items():
        if tasks != names[first]:
            raise DataError(
                f"{name!r} and {first!r} are not of the same tasks in the same order: elpd is comparable on the same "
                "data only"
            )
    ys = [one.tasks.y for one in posteriors.values() if hasattr(one, "tasks")]
    if any(not torch.equal(y, ys[0]) for y in ys):
        raise DataError("the posteriors are of different observations: elpd is comparable on the same y only")


def _stacking(columns: Array) -> Array:
    """Weights of the mixture of predictive distributions whose log score is best, by EM from equal ones."""
    density = np.exp(columns - columns.max(1, keepdims=True))
    weights = np.full(columns.shape[1], 1 / columns.shape[1])
    for _ in range(EM_STEPS):
        duty = density * weights
        weights = (duty / duty.sum(1, keepdims=True)).mean(0)
    return np.asarray(weights)
